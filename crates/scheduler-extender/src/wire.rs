//! What kube-scheduler and an extender say to each other (k8s.io/kube-scheduler/extender/v1).
//!
//! The Go types have no JSON tags: field names are Go names, and Go reads them in any case. So do we; what we
//! write is in Go's case.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The highest score that an extender gives (`MaxExtenderPriority`).
pub const MAX_SCORE: i64 = 10;

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The body is no JSON.
    #[error("body: {0}")]
    Json(#[from] serde_json::Error),
    /// A member is missing or of another type.
    #[error("body: {member} must be {expected}")]
    Member {
        /// Its name.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

/// Request of filter and prioritize (`ExtenderArgs`).
#[derive(Clone, Debug, PartialEq)]
pub struct ExtenderArgs {
    /// The pod that asks for a place.
    pub pod: Value,
    /// The nodes that it may go to.
    pub nodes: Nodes,
}

/// Nodes as the scheduler sends them. With `nodeCacheCapable` that is by name; kubernetes#126425 shows names
/// without it, too, so what counts is which member is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Nodes {
    /// `NodeNames`.
    Names(Vec<String>),
    /// `Nodes`: a whole NodeList.
    List(Map<String, Value>),
}

/// Answer of filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderFilterResult {
    /// The nodes that passed, if the request had a list.
    pub nodes: Option<Value>,
    /// Names of the nodes that passed, if the request had names.
    pub node_names: Option<Vec<String>>,
    /// Nodes that other pods are in the way on, with the reason: preemption may help.
    pub failed_nodes: BTreeMap<String, String>,
    /// Nodes that will not do whatever goes, with the reason.
    pub failed_and_unresolvable_nodes: BTreeMap<String, String>,
    /// Why there is no answer; empty if there is one.
    pub error: String,
}

/// One entry of the answer of prioritize.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPriority {
    /// The node.
    pub host: String,
    /// From 0 to [`MAX_SCORE`].
    pub score: i64,
}

/// Request of bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtenderBindingArgs {
    /// `PodName`.
    pub name: String,
    /// `PodNamespace`.
    pub namespace: String,
    /// `PodUID`.
    pub uid: String,
    /// `Node`.
    pub node: String,
}

/// Answer of bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderBindingResult {
    /// Why the pod is not bound; empty if it is.
    pub error: String,
}

/// Request of preempt.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtenderPreemptionArgs {
    /// The pod that asks for a place.
    pub pod: Value,
    /// Per node the pods that would have to go.
    pub victims: BTreeMap<String, MetaVictims>,
}

/// Answer of preempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtenderPreemptionResult {
    /// The nodes on which preemption helps, with their victims.
    pub node_name_to_meta_victims: BTreeMap<String, MetaVictims>,
}

/// Pods that would have to go from a node, by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetaVictims {
    /// The pods.
    pub pods: Vec<MetaPod>,
    /// How many PodDisruptionBudgets that violates.
    #[serde(rename = "NumPDBViolations")]
    pub num_pdb_violations: i64,
}

/// A pod by its UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MetaPod {
    /// Its UID.
    #[serde(rename = "UID")]
    pub uid: String,
}

// === impl ExtenderArgs ===

impl ExtenderArgs {
    /// Reads a request.
    ///
    /// # Errors
    /// When the body is not one. Without nodes at all there are none that could pass.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut body = members(body)?;
        let pod = pod(&mut body)?;
        let nodes = match (take(&mut body, "NodeNames"), take(&mut body, "Nodes")) {
            (Value::Array(names), _) => Nodes::Names(names.iter().map(text).collect()),
            (Value::Null, Value::Object(list)) => Nodes::List(list),
            (Value::Null, Value::Null) => Nodes::Names(Vec::new()),
            (Value::Null, _) => {
                return Err(WireError::Member {
                    member: "Nodes",
                    expected: "a NodeList or null",
                });
            }
            _ => {
                return Err(WireError::Member {
                    member: "NodeNames",
                    expected: "a list of names or null",
                });
            }
        };
        Ok(Self { pod, nodes })
    }
}

// === impl Nodes ===

impl Nodes {
    /// Names of the nodes, in the request's order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Names(names) => names.iter().map(String::as_str).collect(),
            Self::List(list) => items(list).iter().map(node_name).collect(),
        }
    }

    /// An answer of the request's form with the nodes that `passes` names.
    #[must_use]
    pub fn answer(&self, passes: impl Fn(&str) -> bool) -> ExtenderFilterResult {
        match self {
            Self::Names(names) => ExtenderFilterResult {
                node_names: Some(names.iter().filter(|name| passes(name)).cloned().collect()),
                ..ExtenderFilterResult::default()
            },
            Self::List(list) => {
                let passed = items(list)
                    .iter()
                    .filter(|node| passes(node_name(node)))
                    .cloned()
                    .collect();
                let mut answer = list.clone();
                answer.retain(|key, _| !key.eq_ignore_ascii_case("items"));
                answer.insert("items".to_owned(), Value::Array(passed));
                ExtenderFilterResult {
                    nodes: Some(answer.into()),
                    ..ExtenderFilterResult::default()
                }
            }
        }
    }
}

// === impl ExtenderFilterResult ===

impl ExtenderFilterResult {
    /// The answer that there is none.
    #[must_use]
    pub fn error(error: &impl ToString) -> Self {
        Self {
            error: error.to_string(),
            ..Self::default()
        }
    }
}

// === impl ExtenderBindingArgs ===

impl ExtenderBindingArgs {
    /// Reads a request.
    ///
    /// # Errors
    /// When the body is not one or a member is missing.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut body = members(body)?;
        let mut member = |member| match take(&mut body, member) {
            Value::String(text) if !text.is_empty() => Ok(text),
            _ => Err(WireError::Member {
                member,
                expected: "a text that is not empty",
            }),
        };
        Ok(Self {
            name: member("PodName")?,
            namespace: member("PodNamespace")?,
            uid: member("PodUID")?,
            node: member("Node")?,
        })
    }
}

// === impl ExtenderPreemptionArgs ===

impl ExtenderPreemptionArgs {
    /// Reads a request with victims by UID or with whole pods.
    ///
    /// # Errors
    /// When the body is not one.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        const EXPECTED: &str = "an object of victims by node, or null";
        let mut body = members(body)?;
        let pod = pod(&mut body)?;
        let mut victims = BTreeMap::new();
        for member in ["NodeNameToMetaVictims", "NodeNameToVictims"] {
            match take(&mut body, member) {
                Value::Null => {}
                Value::Object(nodes) => {
                    victims.extend(
                        nodes
                            .into_iter()
                            .map(|(node, victims)| (node, MetaVictims::of(victims))),
                    );
                }
                _ => {
                    return Err(WireError::Member {
                        member,
                        expected: EXPECTED,
                    });
                }
            }
        }
        Ok(Self { pod, victims })
    }
}

impl MetaVictims {
    /// Of an entry of either form. A pod tells its UID in its metadata.
    fn of(mut entry: Value) -> Self {
        let Some(entry) = entry.as_object_mut() else {
            return Self::default();
        };
        let num_pdb_violations = take(entry, "NumPDBViolations").as_i64().unwrap_or_default();
        let pods = take(entry, "Pods");
        let uid = |pod: &Value| {
            let meta = pod
                .as_object()?
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case("UID"));
            let uid = meta.map_or(&pod["metadata"]["uid"], |(_, uid)| uid);
            Some(MetaPod { uid: text(uid) })
        };
        let pods = pods.as_array().into_iter().flatten().filter_map(uid).collect();
        Self {
            pods,
            num_pdb_violations,
        }
    }
}

fn members(body: &[u8]) -> Result<Map<String, Value>, WireError> {
    match serde_json::from_slice(body)? {
        Value::Object(members) => Ok(members),
        _ => Err(WireError::Member {
            member: "the whole",
            expected: "an object",
        }),
    }
}

fn pod(body: &mut Map<String, Value>) -> Result<Value, WireError> {
    match take(body, "Pod") {
        pod @ Value::Object(_) => Ok(pod),
        _ => Err(WireError::Member {
            member: "Pod",
            expected: "a pod",
        }),
    }
}

/// Takes a member out, whatever the case of its name; `null` if it is not there.
fn take(object: &mut Map<String, Value>, name: &str) -> Value {
    let key = object.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
    key.and_then(|key| object.remove(&key)).unwrap_or_default()
}

fn items(list: &Map<String, Value>) -> &[Value] {
    let items = list.iter().find(|(key, _)| key.eq_ignore_ascii_case("items"));
    items
        .and_then(|(_, items)| items.as_array())
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn node_name(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_victims() -> BTreeMap<String, MetaVictims> {
        let victims = MetaVictims {
            pods: vec![MetaPod { uid: "myuid".into() }],
            num_pdb_violations: 1,
        };
        [("foo".to_owned(), victims)].into()
    }

    // The wanted texts are those of the protocol's own compatibility test (extender/v1/types_test.go).
    #[test]
    fn answers_are_written_in_gos_case() {
        let preemption = ExtenderPreemptionResult {
            node_name_to_meta_victims: mk_victims(),
        };
        let wanted = r#"{"NodeNameToMetaVictims":{"foo":{"Pods":[{"UID":"myuid"}],"NumPDBViolations":1}}}"#;
        assert_eq!(serde_json::to_string(&preemption).unwrap(), wanted);
        let filter = ExtenderFilterResult {
            nodes: Some(json!({"items": [{"metadata": {"name": "nodename"}}]})),
            node_names: Some(vec!["node1".into()]),
            failed_nodes: [("foo".into(), "bar".into())].into(),
            failed_and_unresolvable_nodes: [("baz".into(), "qux".into())].into(),
            error: "myerror".into(),
        };
        let wanted = r#"{"Nodes":{"items":[{"metadata":{"name":"nodename"}}]},"NodeNames":["node1"],"FailedNodes":{"foo":"bar"},"FailedAndUnresolvableNodes":{"baz":"qux"},"Error":"myerror"}"#;
        assert_eq!(serde_json::to_string(&filter).unwrap(), wanted);
        let binding = ExtenderBindingResult {
            error: "myerror".into(),
        };
        assert_eq!(serde_json::to_string(&binding).unwrap(), r#"{"Error":"myerror"}"#);
        let priority = HostPriority {
            host: "myhost".into(),
            score: 1,
        };
        assert_eq!(
            serde_json::to_string(&priority).unwrap(),
            r#"{"Host":"myhost","Score":1}"#
        );
    }

    #[test]
    fn requests_are_read_in_any_case() {
        let args = r#"{"Pod":{"metadata":{"name":"podname"}},"Nodes":null,"NodeNames":["node1"]}"#;
        let preemption = r#"{"Pod":{"metadata":{"name":"podname"}},"NodeNameToVictims":null,"NodeNameToMetaVictims":{"foo":{"Pods":[{"UID":"myuid"}],"NumPDBViolations":1}}}"#;
        let binding =
            r#"{"PodName":"mypodname","PodNamespace":"mypodnamespace","PodUID":"mypoduid","Node":"mynode"}"#;
        for (args, preemption, binding) in [
            (args.to_owned(), preemption.to_owned(), binding.to_owned()),
            (
                args.to_lowercase(),
                preemption.to_lowercase(),
                binding.to_lowercase(),
            ),
        ] {
            let pod = json!({"metadata": {"name": "podname"}});
            let nodes = Nodes::Names(vec!["node1".into()]);
            let wanted = ExtenderArgs {
                pod: pod.clone(),
                nodes,
            };
            assert_eq!(ExtenderArgs::parse(args.as_bytes()).unwrap(), wanted);
            let wanted = ExtenderPreemptionArgs {
                pod,
                victims: mk_victims(),
            };
            assert_eq!(
                ExtenderPreemptionArgs::parse(preemption.as_bytes()).unwrap(),
                wanted
            );
            let wanted = ExtenderBindingArgs {
                name: "mypodname".into(),
                namespace: "mypodnamespace".into(),
                uid: "mypoduid".into(),
                node: "mynode".into(),
            };
            assert_eq!(ExtenderBindingArgs::parse(binding.as_bytes()).unwrap(), wanted);
        }
    }

    #[test]
    fn victims_may_be_whole_pods() {
        let body = json!({
            "Pod": {},
            "NodeNameToVictims": {"foo": {"Pods": [{"metadata": {"uid": "myuid"}}], "NumPDBViolations": 1}}
        });
        let args = ExtenderPreemptionArgs::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(args.victims, mk_victims());
    }

    #[test]
    fn nodes_are_answered_in_the_form_in_which_they_came() {
        let passes = |name: &str| name != "b";
        for (body, nodes, names) in [
            (
                json!({"Pod": {}, "NodeNames": ["a", "b"]}),
                json!(null),
                json!(["a"]),
            ),
            (
                json!({"Pod": {}, "NodeNames": ["a", "b"], "Nodes": {"items": []}}),
                json!(null),
                json!(["a"]),
            ),
            (
                json!({"Pod": {}, "NodeNames": null, "Nodes": null}),
                json!(null),
                json!([]),
            ),
            (
                json!({"Pod": {}, "Nodes": {"metadata": {}, "Items": [
                    {"metadata": {"name": "a", "x": 1}}, {"metadata": {"name": "b"}}
                ]}}),
                json!({"metadata": {}, "items": [{"metadata": {"name": "a", "x": 1}}]}),
                json!(null),
            ),
        ] {
            let args = ExtenderArgs::parse(body.to_string().as_bytes()).unwrap();
            let answer = serde_json::to_value(args.nodes.answer(passes)).unwrap();
            assert_eq!(
                (&answer["Nodes"], &answer["NodeNames"]),
                (&nodes, &names),
                "{body}"
            );
        }
    }

    #[test]
    fn broken_bodies_are_refused_with_the_member_that_is_wrong() {
        for (body, message) in [
            ("", "body: EOF"),
            ("{", "body: EOF"),
            ("[]", "body: the whole must be an object"),
            ("{}", "body: Pod must be a pod"),
            (r#"{"Pod":1}"#, "body: Pod must be a pod"),
            (
                r#"{"Pod":{},"NodeNames":{}}"#,
                "body: NodeNames must be a list of names or null",
            ),
            (
                r#"{"Pod":{},"Nodes":[]}"#,
                "body: Nodes must be a NodeList or null",
            ),
        ] {
            let error = ExtenderArgs::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{body}: {error}");
        }
        let error = ExtenderBindingArgs::parse(br#"{"PodName":"a"}"#)
            .unwrap_err()
            .to_string();
        assert_eq!(error, "body: PodNamespace must be a text that is not empty");
        let error = ExtenderPreemptionArgs::parse(br#"{"Pod":{},"NodeNameToVictims":1}"#)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "body: NodeNameToVictims must be an object of victims by node, or null"
        );
    }
}
