//! Tokens of the upper cluster in the lower pod.
//!
//! One Secret per pod holds every token that its volumes ask for, each made by a TokenRequest for the pod's own service
//! account and bound to the upper pod, so that it dies with the pod. The volumes keep their names, paths and mounts;
//! only their sources change. [`Wanted::of`] says what is asked for, [`secret`] builds the Secret, and
//! [`refresh_after`] says when to ask again.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::json::{Object, edit, objects_mut, set};
use super::super::{TranslateError, member, metadata};
use crate::names;

/// ConfigMap with the cluster's CA, which every cluster keeps in every namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// Its key, and that of our Secret.
const CA_KEY: &str = "ca.crt";

/// What a projected volume asks for when it does not say; the API server's default for the member.
const DEFAULT_SECONDS: i64 = 3600;
/// A kubelet replaces a token at this part of its life (pkg/kubelet/token/token_manager.go).
const REFRESH_AT: f64 = 0.8;
/// And at this age at the latest (the same).
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// And up to this much earlier, so that not all come at once (the same).
const MAX_JITTER: Duration = Duration::from_secs(10);

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// For whom it is; `None` for the API server.
    pub audience: Option<String>,
    /// Seconds that it should live.
    pub expiration_seconds: i64,
}

/// What the volumes of a pod ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The tokens, each once, in the order of their keys.
    pub tokens: Vec<Token>,
    /// Whether the CA of the API server is asked for.
    pub ca: bool,
}

// === impl Token ===

impl Token {
    fn of(source: &Value) -> Self {
        Self {
            audience: source["audience"]
                .as_str()
                .filter(|audience| !audience.is_empty())
                .map(str::to_owned),
            expiration_seconds: source["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS),
        }
    }

    /// The TokenRequest, for the subresource `token` of the pod's service account.
    #[must_use]
    pub fn request(&self, pod_name: &str, pod_uid: &str) -> Value {
        let audiences: Vec<_> = self.audience.iter().collect();
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": self.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": pod_uid},
            },
        })
    }
}

// === impl Wanted ===

impl Wanted {
    /// What the upper pod `spec` asks for. Nothing means that the pod needs no Secret.
    #[must_use]
    pub fn of(spec: &Value) -> Self {
        let mut wanted = Self::default();
        for volume in spec["volumes"].as_array().into_iter().flatten() {
            wanted.ca |= volume["configMap"]["name"] == ROOT_CA;
            for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
                wanted.ca |= source["configMap"]["name"] == ROOT_CA;
                if let Some(token) = source.get("serviceAccountToken").map(Token::of)
                    && !wanted.tokens.contains(&token)
                {
                    wanted.tokens.push(token);
                }
            }
        }
        wanted
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.tokens.is_empty() && !self.ca
    }

    fn key(&self, token: &Token) -> String {
        key(self
            .tokens
            .iter()
            .position(|known| known == token)
            .unwrap_or_default())
    }
}

fn key(index: usize) -> String {
    format!("token-{index}")
}

/// Name of the Secret for the upper pod with `uid`.
#[must_use]
pub fn secret_name(uid: &str) -> String {
    format!("tensile-token-{uid}")
}

/// What a Secret holds.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The tokens, in the order of [`Wanted::tokens`].
    pub tokens: &'a [String],
    /// The upper CA, if it is wanted.
    pub ca: Option<&'a str>,
    /// When they are to be replaced, as RFC 3339.
    pub refresh_at: &'a str,
}

/// For whom a Secret is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// UID of the upper cluster's kube-system namespace.
    pub origin_cluster: &'a str,
    /// Name of the virtual node.
    pub node_name: &'a str,
    /// Namespace of the lower pod.
    pub lower_namespace: &'a str,
    /// UID of the lower pod: its end takes the Secret with it, also when nobody of us is there.
    pub lower_uid: &'a str,
}

// === impl Content ===

impl Content<'_> {
    fn data(&self) -> Map<String, Value> {
        let mut data: Map<_, _> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(index, token)| (key(index), json!(token)))
            .collect();
        set(&mut data, CA_KEY, self.ca.map(|ca| json!(ca)));
        data
    }

    /// The merge patch that refreshes the Secret with this UID.
    #[must_use]
    pub fn refresh(&self, uid: &str) -> Value {
        let metadata = json!({"uid": uid, "annotations": {names::REFRESH_AT: self.refresh_at}});
        json!({"metadata": metadata, "stringData": self.data()})
    }
}

/// The lower Secret for `pod`, the upper pod.
///
/// # Errors
/// When `pod` has no metadata.
pub fn secret(pod: &Value, owner: &Owner<'_>, content: &Content<'_>) -> Result<Value, TranslateError> {
    let upper = member(pod, "metadata")?;
    let mut own = Object::new();
    metadata::mark(&mut own, upper, owner.origin_cluster);
    edit(&mut own, "labels", |labels| {
        labels.insert(names::ORIGIN_NODE.to_owned(), json!(owner.node_name));
    });
    metadata::annotate(&mut own, names::REFRESH_AT, content.refresh_at.to_owned());
    set(&mut own, "namespace", Some(json!(owner.lower_namespace)));
    set(
        &mut own,
        "name",
        Some(json!(secret_name(super::text(upper, "uid")))),
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": super::text(upper, "name"), "uid": owner.lower_uid});
    set(&mut own, "ownerReferences", Some(json!([pod])));
    let data = content.data();
    Ok(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": own, "stringData": data}))
}

/// How long after it was made a token that lives for `life` is replaced. `jitter`, from 0 to 1, spreads them.
#[must_use]
pub fn refresh_after(life: Duration, jitter: f64) -> Duration {
    let latest = life.mul_f64(REFRESH_AT).min(MAX_AGE);
    latest.saturating_sub(MAX_JITTER.mul_f64(jitter.clamp(0.0, 1.0)))
}

/// Lets every volume that shows a token or the CA read the Secret `name` instead.
pub(super) fn redirect(spec: &mut Object, name: &str) {
    let wanted = Wanted::of(&Value::Object(spec.clone()));
    for volume in objects_mut(spec, "volumes") {
        if volume
            .get("configMap")
            .is_some_and(|source| source["name"] == ROOT_CA)
        {
            redirect_volume(volume, name);
        }
        if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
            objects_mut(projected, "sources").for_each(|source| redirect_source(source, name, &wanted));
        }
    }
}

fn redirect_source(source: &mut Object, name: &str, wanted: &Wanted) {
    if let Some(token) = source.remove("serviceAccountToken") {
        let item = json!({"key": wanted.key(&Token::of(&token)), "path": token["path"]});
        set(source, "secret", Some(json!({"name": name, "items": [item]})));
    } else if source
        .get("configMap")
        .is_some_and(|source| source["name"] == ROOT_CA)
        && let Some(mut ca) = source.remove("configMap")
    {
        ca["name"] = json!(name);
        only_ca(&mut ca);
        set(source, "secret", Some(ca));
    }
}

/// A ConfigMap volume becomes a Secret volume, whose member for the name is another one.
fn redirect_volume(volume: &mut Object, name: &str) {
    let Some(Value::Object(mut ca)) = volume.remove("configMap") else {
        return;
    };
    ca.remove("name");
    set(&mut ca, "secretName", Some(json!(name)));
    let mut ca = Value::Object(ca);
    only_ca(&mut ca);
    set(volume, "secret", Some(ca));
}

/// Without items a volume shows every key; the tokens are not for this one.
fn only_ca(source: &mut Value) {
    if source["items"].as_array().is_none_or(Vec::is_empty) {
        source["items"] = json!([{"key": CA_KEY, "path": CA_KEY}]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_spec() -> Value {
        let token = |audience: Value, seconds: Value, path: &str| json!({"serviceAccountToken": {"audience": audience, "expirationSeconds": seconds, "path": path}});
        let (none, ca) = (Value::Null, json!({"key": "ca.crt", "path": "root.pem"}));
        json!({"volumes": [
            {"name": "a", "projected": {"defaultMode": 420, "sources": [
                token(none.clone(), json!(3607), "token"),
                {"configMap": {"name": ROOT_CA, "items": [ca], "optional": true}},
                {"downwardAPI": {}},
            ]}},
            {"name": "b", "projected": {"sources": [
                token(json!("vault"), none, "vault"),
                token(json!(""), json!(3607), "again"),
                {"configMap": {"name": ROOT_CA}},
                {"configMap": {"name": "settings"}},
            ]}},
            {"name": "c", "configMap": {"name": ROOT_CA, "defaultMode": 256}},
            {"name": "d", "configMap": {"name": "settings"}},
        ]})
    }

    #[test]
    fn each_token_is_asked_for_once() {
        let token = |audience: Option<&str>, expiration_seconds| Token {
            audience: audience.map(str::to_owned),
            expiration_seconds,
        };
        let tokens = vec![token(None, 3607), token(Some("vault"), 3600)];
        assert_eq!(Wanted::of(&mk_spec()), Wanted { tokens, ca: true });
        let other = json!({"volumes": [mk_spec()["volumes"][3]]});
        assert!(Wanted::of(&other).is_nothing());
        let ca = json!({"volumes": [mk_spec()["volumes"][2]]});
        assert!(!Wanted::of(&ca).is_nothing());
    }

    #[test]
    fn a_request_is_bound_to_the_upper_pod() {
        let request = |audience: Option<&str>| {
            let token = Token {
                audience: audience.map(str::to_owned),
                expiration_seconds: 600,
            };
            token.request("web-0", "u-1")["spec"].take()
        };
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "u-1"});
        let expected = |audiences: &[&str]| json!({"audiences": audiences, "expirationSeconds": 600, "boundObjectRef": bound});
        assert_eq!(request(Some("vault")), expected(&["vault"]));
        assert_eq!(request(None), expected(&[]));
    }

    #[test]
    fn volumes_read_the_secret_where_the_program_expects_the_files() {
        let Value::Object(mut spec) = mk_spec() else {
            panic!("a spec is an object")
        };
        redirect(&mut spec, "s");
        let item =
            |key: &str, path: &str| json!({"secret": {"name": "s", "items": [{"key": key, "path": path}]}});
        let ca = |path: &str| json!([{"key": "ca.crt", "path": path}]);
        assert_eq!(
            Value::Object(spec),
            json!({"volumes": [
                {"name": "a", "projected": {"defaultMode": 420, "sources": [
                    item("token-0", "token"),
                    {"secret": {"name": "s", "items": ca("root.pem"), "optional": true}},
                    {"downwardAPI": {}},
                ]}},
                {"name": "b", "projected": {"sources": [
                    item("token-1", "vault"), item("token-0", "again"), item("ca.crt", "ca.crt"),
                    {"configMap": {"name": "settings"}},
                ]}},
                {"name": "c", "secret": {"secretName": "s", "items": ca("ca.crt"), "defaultMode": 256}},
                {"name": "d", "configMap": {"name": "settings"}},
            ]})
        );
    }

    #[test]
    fn the_secret_holds_what_the_volumes_read_and_ends_with_the_lower_pod() {
        let pod = json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}}});
        let tokens = ["one".to_owned(), "two".to_owned()];
        let owner = Owner {
            origin_cluster: "upper-uid",
            node_name: "vnode",
            lower_namespace: "lower-shop",
            lower_uid: "l-1",
        };
        let content = Content {
            tokens: &tokens,
            ca: Some("PEM"),
            refresh_at: "t",
        };
        let data = json!({"token-0": "one", "token-1": "two", "ca.crt": "PEM"});
        assert_eq!(
            secret(&pod, &owner, &content).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {
                    "name": "tensile-token-u-1", "namespace": "lower-shop",
                    "labels": {
                        "tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-uid": "u-1",
                        "tensile.dev/origin-node": "vnode",
                    },
                    "annotations": {"tensile.dev/origin": "shop/web-0", "tensile.dev/refresh-at": "t"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "l-1"}],
                },
                "stringData": data,
            })
        );
        let refresh = json!({
            "metadata": {"uid": "s-1", "annotations": {"tensile.dev/refresh-at": "t"}}, "stringData": data,
        });
        assert_eq!(content.refresh("s-1"), refresh);
        let without_ca = Content {
            tokens: &tokens[..1],
            ca: None,
            refresh_at: "t",
        };
        assert_eq!(without_ca.refresh("s-1")["stringData"], json!({"token-0": "one"}));
    }

    #[test]
    fn a_token_is_replaced_at_four_fifths_of_its_life_or_after_a_day() {
        let seconds = Duration::from_secs;
        for (life, jitter, after) in [
            (3600, 0.0, 2880),
            (3600, 1.0, 2870),
            (3600, 7.0, 2870),
            (7 * 24 * 3600, 0.0, 24 * 3600),
            (5, 1.0, 0),
        ] {
            assert_eq!(
                refresh_after(seconds(life), jitter),
                seconds(after),
                "{life} s, jitter {jitter}"
            );
        }
    }
}
