//! Downward API: what a program reads about its pod is what it would read without Tensile.
//!
//! The lower kubelet would answer with the lower pod's fields. Where those differ, the reference is changed:
//!
//! | field | in `env` | in a volume |
//! |---|---|---|
//! | name, and namespace if it is the same below | left alone | left alone |
//! | namespace otherwise | the value | annotation of ours |
//! | uid | the value | our label with the upper UID |
//! | one label or annotation | left alone if it is copied (a change reaches the next start, as on one cluster), else the value | left alone if it is copied, else an annotation of ours |
//! | all labels or annotations | – | annotation of ours with the text that a kubelet writes |
//! | node name, service account name | the value | – |
//! | host and pod addresses, resources | left alone: those of the lower node are the true ones | left alone |

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::json::{Object, containers_mut, objects_mut, text};
use super::metadata;
use crate::names;

/// The upper pod, and what its labels and annotations are called below.
pub(super) struct Upper<'a> {
    pub metadata: &'a Object,
    pub spec: &'a Object,
    pub lower_namespace: &'a str,
    pub ignore_labels: &'a [String],
}

// === impl Upper ===

impl Upper<'_> {
    /// Makes every downward API reference of the lower pod mean the upper pod.
    pub(super) fn resolve(&self, lower_metadata: &mut Object, spec: &mut Object) {
        for container in containers_mut(spec) {
            objects_mut(container, "env").for_each(|env| self.resolve_env(env));
        }
        for volume in objects_mut(spec, "volumes") {
            if let Some(source) = volume.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                self.resolve_items(source, lower_metadata);
            }
            if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
                for source in objects_mut(projected, "sources") {
                    if let Some(source) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                        self.resolve_items(source, lower_metadata);
                    }
                }
            }
        }
    }

    fn resolve_env(&self, env: &mut Object) {
        let Some(path) = env
            .get("valueFrom")
            .and_then(|from| from["fieldRef"]["fieldPath"].as_str())
        else {
            return;
        };
        if self.means_the_same_below(path) {
            return;
        }
        if let Some(value) = self.value(path) {
            env.remove("valueFrom");
            // A kubelet expands `$(VAR)` in literals but not in field values; `$$` stands for `$`.
            env.insert("value".to_owned(), Value::String(value.replace('$', "$$")));
        }
    }

    fn resolve_items(&self, source: &mut Object, lower_metadata: &mut Object) {
        for item in objects_mut(source, "items") {
            let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) else {
                continue;
            };
            let path = text(field, "fieldPath").to_owned();
            if self.means_the_same_below(&path) {
                continue;
            }
            let replacement = if path == "metadata.uid" {
                format!("metadata.labels['{}']", names::ORIGIN_UID)
            } else if let Some(value) = self.value(&path) {
                let key = annotation_key(&path);
                metadata::annotate(lower_metadata, &key, value);
                format!("metadata.annotations['{key}']")
            } else {
                continue;
            };
            field.insert("fieldPath".to_owned(), json!(replacement));
        }
    }

    /// Whether the lower kubelet finds the same under `path`, now and after a change above.
    fn means_the_same_below(&self, path: &str) -> bool {
        if let Some(key) = subscript(path, "metadata.labels") {
            return !self.ignore_labels.iter().any(|ignored| ignored == key)
                && !key.starts_with(metadata::OURS);
        }
        if let Some(key) = subscript(path, "metadata.annotations") {
            return metadata::is_copied(key);
        }
        path == "metadata.namespace" && text(self.metadata, "namespace") == self.lower_namespace
    }

    /// What a kubelet of the upper cluster would answer; `None` for fields whose lower value is the true one.
    fn value(&self, path: &str) -> Option<String> {
        let map = |key: &str| self.metadata.get(key).and_then(Value::as_object);
        let one =
            |map: Option<&Object>, key: &str| map.map(|map| text(map, key)).unwrap_or_default().to_owned();
        match path {
            "metadata.namespace" => Some(text(self.metadata, "namespace").to_owned()),
            "metadata.uid" => Some(text(self.metadata, "uid").to_owned()),
            "metadata.labels" => Some(kubelet_text(map("labels"))),
            "metadata.annotations" => Some(kubelet_text(map("annotations"))),
            "spec.nodeName" => Some(text(self.spec, "nodeName").to_owned()),
            "spec.serviceAccountName" => Some(text(self.spec, "serviceAccountName").to_owned()),
            _ => subscript(path, "metadata.labels")
                .map(|key| one(map("labels"), key))
                .or_else(|| subscript(path, "metadata.annotations").map(|key| one(map("annotations"), key))),
        }
    }
}

/// `key` of `prefix['key']`; kubelets accept double quotes, too.
fn subscript<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let inner = path.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']')?;
    [r"'", "\""]
        .iter()
        .find_map(|quote| inner.strip_prefix(quote)?.strip_suffix(quote))
}

/// The annotation below that holds the upper value of `path`: its last word, or a hash where a key is part of it.
fn annotation_key(path: &str) -> String {
    let field = path.strip_prefix("metadata.").unwrap_or(path);
    let name = if field.contains('[') {
        format!("{:016x}", crate::hash::Fnv::of(field.as_bytes()))
    } else {
        field.to_owned()
    };
    format!("{}{name}", names::UPPER_FIELD_PREFIX)
}

/// A map as a kubelet writes it into a file: sorted lines `key="value"`, the value quoted as Go quotes.
fn kubelet_text(map: Option<&Object>) -> String {
    let mut lines: Vec<_> = map.into_iter().flatten().collect();
    lines.sort_unstable_by_key(|(key, _)| key.as_str());
    let lines: Vec<_> = lines
        .into_iter()
        .map(|(key, value)| format!("{key}={}", go_quote(value.as_str().unwrap_or_default())))
        .collect();
    lines.join("\n")
}

/// `text` in double quotes, escaped as Go's `strconv.Quote` does for what occurs in annotations.
fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            // A String takes every write.
            c if c.is_ascii_control() => drop(write!(quoted, "\\x{:02x}", u32::from(c))),
            c if c.is_control() => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata and spec of the lower pod for one with this `spec`, in the lower namespace `shop`, with the label
    /// `team` ignored.
    fn resolved(mut spec: Value, lower_namespace: &str) -> (Value, Value) {
        let metadata = json!({
            "name": "web-0", "namespace": "shop", "uid": "u-1",
            "labels": {"app": "web", "team": "a"},
            "annotations": {"note": "say \"$(X)\"\n", "tensile.dev/split": "{}"},
        });
        spec["nodeName"] = json!("vnode");
        spec["serviceAccountName"] = json!("builder");
        let upper_spec = spec.clone();
        let upper = Upper {
            metadata: metadata.as_object().unwrap(),
            spec: upper_spec.as_object().unwrap(),
            lower_namespace,
            ignore_labels: &["team".to_owned()],
        };
        let mut lower_metadata = Object::new();
        upper.resolve(&mut lower_metadata, spec.as_object_mut().unwrap());
        (Value::Object(lower_metadata), spec)
    }

    fn mk_env(path: &str) -> Value {
        json!({"name": "V", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
    }

    #[test]
    fn environment_has_upper_meaning() {
        let table = [
            ("metadata.uid", "u-1"),
            ("spec.nodeName", "vnode"),
            ("spec.serviceAccountName", "builder"),
            ("metadata.labels['team']", "a"),
            ("metadata.labels['tensile.dev/origin-uid']", ""),
            ("metadata.annotations['tensile.dev/split']", "{}"),
        ];
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for (path, value) in table {
                let (_, lower) = resolved(json!({list: [{"name": "c", "env": [mk_env(path)]}]}), "shop");
                assert_eq!(
                    lower[list][0]["env"],
                    json!([{"name": "V", "value": value}]),
                    "{path}"
                );
            }
        }
    }

    #[test]
    fn what_means_the_same_below_stays_a_reference() {
        for path in [
            "metadata.name",
            "metadata.namespace",
            "metadata.labels['app']",
            "metadata.annotations['note']",
            "status.hostIP",
            "status.hostIPs",
            "status.podIP",
            "status.podIPs",
            "a.field.of.tomorrow",
        ] {
            let spec = json!({
                "containers": [{"name": "c", "env": [mk_env(path)]}],
                "volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": path}}]}}],
            });
            let (metadata, lower) = resolved(spec.clone(), "shop");
            assert_eq!(lower["containers"], spec["containers"], "{path}");
            assert_eq!(lower["volumes"], spec["volumes"], "{path}");
            assert_eq!(metadata, json!({}));
        }
        let resource = json!([{"name": "V", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]);
        let (_, lower) = resolved(json!({"containers": [{"name": "c", "env": resource}]}), "shop");
        assert_eq!(lower["containers"][0]["env"], resource);
    }

    #[test]
    fn a_mapped_namespace_keeps_its_upper_name() {
        let volume = json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.namespace"}}]}});
        let spec = json!({"containers": [{"env": [mk_env("metadata.namespace")]}], "volumes": [volume]});
        let (metadata, lower) = resolved(spec, "upper-shop");
        assert_eq!(
            lower["containers"][0]["env"],
            json!([{"name": "V", "value": "shop"}])
        );
        assert_eq!(
            metadata["annotations"],
            json!({"tensile.dev/upper-namespace": "shop"})
        );
        let field = &lower["volumes"][0]["downwardAPI"]["items"][0]["fieldRef"];
        assert_eq!(
            *field,
            json!({"fieldPath": "metadata.annotations['tensile.dev/upper-namespace']"})
        );
    }

    #[test]
    fn a_literal_is_not_expanded_by_the_lower_kubelet() {
        let upper = json!({"annotations": {"tensile.dev/x": "$(X) $$ $"}});
        let upper = Upper {
            metadata: upper.as_object().unwrap(),
            spec: &Object::new(),
            lower_namespace: "",
            ignore_labels: &[],
        };
        let mut env = mk_env("metadata.annotations['tensile.dev/x']")
            .as_object()
            .unwrap()
            .clone();
        upper.resolve_env(&mut env);
        assert_eq!(env["value"], "$$(X) $$$$ $$");
    }

    #[test]
    fn volumes_read_upper_values_from_the_lower_pod() {
        let items = |paths: &[&str]| {
            let items = paths
                .iter()
                .map(|path| json!({"path": "p", "mode": 256, "fieldRef": {"fieldPath": path}}));
            json!({"items": items.collect::<Vec<_>>()})
        };
        let upper = [
            "metadata.uid",
            "metadata.labels",
            "metadata.annotations",
            "metadata.labels['team']",
        ];
        let spec = json!({"volumes": [
            {"name": "v", "downwardAPI": items(&upper)},
            {"name": "p", "projected": {"sources": [{"secret": {}}, {"downwardAPI": items(&upper[..1])}]}},
        ]});
        let (metadata, lower) = resolved(spec, "shop");
        let team = annotation_key("metadata.labels['team']");
        let below = [
            "metadata.labels['tensile.dev/origin-uid']".to_owned(),
            "metadata.annotations['tensile.dev/upper-labels']".to_owned(),
            "metadata.annotations['tensile.dev/upper-annotations']".to_owned(),
            format!("metadata.annotations['{team}']"),
        ];
        let below: Vec<_> = below.iter().map(String::as_str).collect();
        assert_eq!(
            lower["volumes"],
            json!([
                {"name": "v", "downwardAPI": items(&below)},
                {"name": "p", "projected": {"sources": [{"secret": {}}, {"downwardAPI": items(&below[..1])}]}},
            ])
        );
        assert_eq!(
            metadata["annotations"],
            json!({
                "tensile.dev/upper-labels": "app=\"web\"\nteam=\"a\"",
                "tensile.dev/upper-annotations": "note=\"say \\\"$(X)\\\"\\n\"\ntensile.dev/split=\"{}\"",
                team: "a",
            })
        );
    }

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        for (text, quoted) in [
            ("", r#""""#),
            ("päd", r#""päd""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\u{7}\u{8}\u{c}\n\r\t\u{b}", r#""\a\b\f\n\r\t\v""#),
            ("\u{1}\u{7f}\u{85}", r#""\x01\x7f\u0085""#),
        ] {
            assert_eq!(go_quote(text), quoted);
        }
    }
}
