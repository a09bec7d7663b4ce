//! `nodes.yaml`: the virtual nodes of a lower cluster.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use tensile_core::labels::Selector;
use tensile_core::names;
use tensile_core::quantity::Quantity;
use tensile_core::taints::Taint;

use super::Override;

/// Labels of the Node that are ours to say.
const RESERVED: [&str; 3] = [names::NODE_TYPE, names::CLUSTER_ID, names::HOSTNAME];
/// Longest label value, and longest name of a node: a DNS subdomain.
const LONGEST_VALUE: usize = 63;
const LONGEST_NAME: usize = 253;

/// One virtual node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Labels of the lower nodes that it stands for; all if empty.
    pub selector: Selector,
    /// Further labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// Labels of the lower nodes that the Node does not show.
    pub exclude_labels: Vec<Pattern>,
    /// All taints of the Node; without it, the provider's.
    pub taints: Option<Vec<Value>>,
    /// Capacity and allocatable that are not computed.
    pub resources: BTreeMap<String, Quantity>,
    /// Changes on lower pods.
    pub overrides: Vec<Override>,
}

/// A label key with `*` for any number of characters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    nodes: Vec<Value>,
    #[serde(default)]
    overrides: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    name: String,
    #[serde(default)]
    selector: Selector,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    exclude_labels: Vec<Pattern>,
    taints: Option<Vec<Value>>,
    #[serde(default)]
    resources: BTreeMap<String, Quantity>,
    #[serde(default)]
    overrides: Vec<Value>,
}

// === impl NodeConfig ===

impl NodeConfig {
    /// The one virtual node of a cluster that says nothing about nodes.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            selector: Selector::default(),
            labels: BTreeMap::new(),
            exclude_labels: Vec::new(),
            taints: None,
            resources: BTreeMap::new(),
            overrides: Vec::new(),
        }
    }

    /// Reads `nodes.yaml` of the cluster `id`. Without nodes, there is one with the cluster's id as its name.
    ///
    /// # Errors
    /// The field that cannot be read, and why.
    pub fn read_file(id: &str, text: &str) -> Result<Vec<Self>, String> {
        let file: Value = yaml(text)?;
        let file = if file.is_null() {
            serde_json::json!({})
        } else {
            file
        };
        let file: RawFile = serde_json::from_value(file).map_err(|error| error.to_string())?;
        let common = overrides("overrides", file.overrides)?;
        let mut nodes: Vec<Self> = Vec::new();
        for (index, raw) in file.nodes.into_iter().enumerate() {
            let node = Self::read(raw).map_err(|error| format!("nodes[{index}]: {error}"))?;
            if nodes.iter().any(|other| other.name == node.name) {
                return Err(format!(
                    "nodes[{index}].name: {:?} is there twice; choose another",
                    node.name
                ));
            }
            nodes.push(node);
        }
        if nodes.is_empty() {
            nodes.push(Self::new(id));
        }
        for node in &mut nodes {
            node.overrides = common
                .iter()
                .cloned()
                .chain(std::mem::take(&mut node.overrides))
                .collect();
        }
        Ok(nodes)
    }

    fn read(raw: Value) -> Result<Self, String> {
        let raw: RawNode = serde_json::from_value(raw).map_err(|error| error.to_string())?;
        check_name(&raw.name).map_err(|error| format!("name: {error}"))?;
        for (key, value) in &raw.labels {
            check_label(key, value).map_err(|error| format!("labels.{key}: {error}"))?;
        }
        let taints = raw.taints.map(Value::Array);
        Taint::parse_list(taints.as_ref()).map_err(|error| error.to_string())?;
        let negative = raw.resources.iter().find(|(_, quantity)| quantity.nanos() < 0);
        if let Some((name, _)) = negative {
            return Err(format!("resources.{name}: is negative; give 0 or more"));
        }
        Ok(Self {
            name: raw.name,
            selector: raw.selector,
            labels: raw.labels,
            exclude_labels: raw.exclude_labels,
            taints: taints.and_then(|taints| taints.as_array().cloned()),
            resources: raw.resources,
            overrides: overrides("overrides", raw.overrides)?,
        })
    }
}

/// YAML in which only `true` and `false` are no text: a label may well say `y` or `on`.
fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("no YAML: {error}"))
}

fn overrides(field: &str, raw: Vec<Value>) -> Result<Vec<Override>, String> {
    let read = |(index, raw): (usize, Value)| {
        let one: Override =
            serde_json::from_value(raw).map_err(|error| format!("{field}[{index}]: {error}"))?;
        one.check()
            .map_err(|error| format!("{field}[{index}].patch: {error}"))?;
        Ok(one)
    };
    raw.into_iter().enumerate().map(read).collect()
}

/// A node's name is a DNS subdomain (RFC 1123).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() <= LONGEST_NAME && name.split('.').all(part) {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is no name of a node; use lower-case letters, digits, - and ."
        ))
    }
}

fn check_label(key: &str, value: &str) -> Result<(), String> {
    if RESERVED.contains(&key) {
        return Err("is set by Tensile; leave it out".to_owned());
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let valid = value.is_empty() || (value.len() <= LONGEST_VALUE && value.chars().all(inner) && ends(value));
    if valid {
        Ok(())
    } else {
        Err(format!(
            "{value:?} is no label value; use at most {LONGEST_VALUE} letters, digits, -, _ and ."
        ))
    }
}

// === impl Pattern ===

impl Pattern {
    /// Whether the pattern means this key.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| key.strip_prefix(first)) else {
            return false;
        };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else {
            return rest.is_empty();
        };
        for part in middle {
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        NodeConfig::read_file("a", text).unwrap_err()
    }

    #[test]
    fn without_nodes_there_is_one_named_like_the_cluster() {
        for text in ["", "nodes: []", "# nothing\n", "overrides: []"] {
            let nodes = NodeConfig::read_file("a", text).unwrap();
            assert_eq!(nodes, [NodeConfig::new("a")], "{text:?}");
        }
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let text = "
nodes:
  - name: a-gpu
    selector: {matchLabels: {gpu: 'true'}}
    labels: {team: ml}
    excludeLabels: ['topology.*']
    taints: [{key: gpu, value: 'yes', effect: NoSchedule}]
    resources: {cpu: '10', nvidia.com/gpu: 4}
    overrides:
      - selector: {matchLabels: {app: x}}
        patch: [{op: add, path: /spec/runtimeClassName, value: nvidia}]
  - name: a-rest
    selector: {matchExpressions: [{key: gpu, operator: DoesNotExist}]}
overrides:
  - patch: [{op: add, path: /metadata/annotations/from, value: above}]
";
        let nodes = NodeConfig::read_file("a", text).unwrap();
        assert_eq!(
            (nodes[0].name.as_str(), nodes[1].name.as_str()),
            ("a-gpu", "a-rest")
        );
        assert_eq!(nodes[0].selector.to_string(), "gpu=true");
        assert_eq!(nodes[0].resources["nvidia.com/gpu"].value(), 4);
        assert_eq!(nodes[0].taints.as_ref().map(Vec::len), Some(1));
        assert_eq!((nodes[0].overrides.len(), nodes[1].overrides.len()), (2, 1));
        assert!(nodes[0].exclude_labels[0].matches("topology.kubernetes.io/zone"));
    }

    #[test]
    fn what_is_wrong_is_named_by_field() {
        for (text, expected) in [
            ("nodes: [", "no YAML"),
            ("nodes: 3", "expected a sequence"),
            ("node: []", "unknown field `node`"),
            ("nodes: [{}]", "nodes[0]: missing field `name`"),
            ("nodes: [{name: A}]", "nodes[0]: name: \"A\" is no name"),
            (
                "nodes: [{name: a}, {name: a}]",
                "nodes[1].name: \"a\" is there twice",
            ),
            ("nodes: [{name: a, label: {}}]", "nodes[0]: unknown field `label`"),
            (
                "nodes: [{name: a, labels: {type: x}}]",
                "nodes[0]: labels.type: is set by Tensile",
            ),
            (
                "nodes: [{name: a, labels: {x: 'a b'}}]",
                "nodes[0]: labels.x: \"a b\" is no label value",
            ),
            (
                "nodes: [{name: a, resources: {cpu: -1}}]",
                "nodes[0]: resources.cpu: is negative",
            ),
            ("nodes: [{name: a, resources: {cpu: much}}]", "nodes[0]: "),
            ("nodes: [{name: a, taints: [{key: x}]}]", "nodes[0]: taints[0]"),
            (
                "nodes: [{name: a, overrides: [{patch: [{op: jump, path: /spec}]}]}]",
                "nodes[0]: overrides[0]: ",
            ),
            (
                "overrides: [{patch: [{op: remove, path: /metadata/name}]}]",
                "overrides[0].patch: path \"/metadata/name\"",
            ),
            ("overrides: [{}]", "overrides[0]: missing field `patch`"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_pattern_matches_with_stars() {
        for (pattern, key, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*.io/*", "x.io/zone", true),
            ("*.io/*", "x.com/zone", false),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c", false),
            ("*", "", true),
        ] {
            assert_eq!(
                Pattern(pattern.to_owned()).matches(key),
                matches,
                "{pattern} {key}"
            );
        }
    }
}
