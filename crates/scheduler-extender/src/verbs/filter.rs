//! Which of these nodes can run the pod now.

use std::collections::BTreeMap;
use std::time::Instant;

use tensile_runtime::clock;

use crate::wire::{ExtenderArgs, ExtenderFilterResult};
use tensile_world::Lowering;
use tensile_world::{Answer, Sharing, World};

/// The virtual nodes that refuse the pod, with their reasons.
#[derive(Default)]
struct Refusals {
    now: BTreeMap<String, String>,
    never: BTreeMap<String, String>,
}

/// Answers a filter request. Ordinary nodes pass. An error is tried again soon, while a pod that was refused waits for
/// an event: so it is an error what only time must mend.
pub fn filter(world: &mut World, args: &ExtenderArgs) -> ExtenderFilterResult {
    if let Some(wait) = world.waits_for() {
        return ExtenderFilterResult::error(&wait);
    }
    let mut lowering = world.consider(&args.pod, clock::now());
    let names = args.nodes.names();
    let (ours, ordinary): (Vec<&str>, Vec<&str>) = names
        .into_iter()
        .partition(|node| world.virtual_node(node).is_some());
    let (takers, mut refusals) = ask(world, &mut lowering, &ours);
    let shared = world.share(&mut lowering, &takers, Instant::now());
    let (takers, wait) = match shared {
        None => (takers, None),
        Some(Ok(Sharing { nodes, awaited, why })) => {
            refusals.refuse(&takers, &nodes, &why);
            let wait = awaited.then(|| format!("{why}; the scheduler does not see its room yet"));
            (nodes, wait)
        }
        Some(Err(wrong)) => {
            refusals.refuse(&takers, &[], &wrong);
            (Vec::new(), None)
        }
    };
    if takers.is_empty() && ordinary.is_empty() {
        let mut starting = ours.iter().filter(|node| world.is_starting(node));
        let wait = wait.or_else(|| Some(format!("the cluster behind {} is being listed", starting.next()?)));
        if let Some(wait) = wait {
            return ExtenderFilterResult::error(&wait);
        }
    }
    refusals.answer(args)
}

/// Asks these virtual nodes; gives those that take the pod.
fn ask<'a>(world: &World, lowering: &mut Lowering<'_>, nodes: &[&'a str]) -> (Vec<&'a str>, Refusals) {
    let (mut takers, mut refusals) = (Vec::new(), Refusals::default());
    for (node, answer) in nodes.iter().copied().zip(world.answers(lowering, nodes)) {
        match answer {
            None | Some(Answer::Fits(_) | Answer::Trusted) => takers.push(node),
            Some(Answer::Now(reason)) => drop(refusals.now.insert(node.to_owned(), reason)),
            Some(Answer::Never(reason)) => drop(refusals.never.insert(node.to_owned(), reason)),
        }
    }
    (takers, refusals)
}

// === impl Refusals ===

impl Refusals {
    /// Refuses those of `takers` that are not `chosen`.
    fn refuse(&mut self, takers: &[&str], chosen: &[&str], why: &str) {
        let others = takers.iter().filter(|node| !chosen.contains(node));
        self.now
            .extend(others.map(|node| ((*node).to_owned(), why.to_owned())));
    }

    /// All nodes pass but these.
    fn answer(self, args: &ExtenderArgs) -> ExtenderFilterResult {
        let Self { now, never } = self;
        let answer = args
            .nodes
            .answer(|name| !now.contains_key(name) && !never.contains_key(name));
        ExtenderFilterResult {
            failed_nodes: now,
            failed_and_unresolvable_nodes: never,
            ..answer
        }
    }
}

/// What to answer instead of `answer` when no node takes the pod, but one will as soon as what is being deleted is
/// gone below: an error, after which the scheduler tries again soon. It hears of the end of an upper pod, a victim
/// perhaps, some milliseconds before we hear of the lower one's; refused then, a pod would wait for an event that does
/// not come.
#[must_use]
pub fn retry(
    world: &mut World,
    args: &ExtenderArgs,
    answer: &ExtenderFilterResult,
) -> Option<ExtenderFilterResult> {
    let refused = |node: &str| {
        answer.failed_nodes.contains_key(node) || answer.failed_and_unresolvable_nodes.contains_key(node)
    };
    let leaving = world.leaving();
    if leaving.is_empty() || !args.nodes.names().into_iter().all(refused) {
        return None;
    }
    let mut lowering = world.consider(&args.pod, clock::now());
    let mut nodes = answer.failed_nodes.keys();
    let node = nodes.find(|node| {
        let answer = world.answer_without(&mut lowering, node, &leaving);
        matches!(answer, Some(Answer::Fits(_)))
    })?;
    Some(ExtenderFilterResult::error(&format!(
        "{node} is about to have room for the pod"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{apply_lower_pod, mk_args, mk_member, mk_pod, mk_stashed, mk_world};
    use tensile_world::UnknownPolicy;
    use tensile_world::uid;

    /// The names that pass and those that fail, now and for ever.
    fn filtered(world: &mut World, pod: &Value) -> Value {
        let answer = filter(world, &mk_args(pod, &["va", "vb", "ordinary"]));
        json!([
            answer.node_names,
            answer.failed_nodes,
            answer.failed_and_unresolvable_nodes
        ])
    }

    // mk_world: va stands for cluster a with nodes of 2 and 4 CPUs, vb for b with one of 8; of the first two half is in use.
    #[test]
    fn a_node_passes_when_some_lower_node_fits() {
        let mut world = mk_world();
        for (cpu, wanted) in [
            ("1", json!([["va", "vb", "ordinary"], {}, {}])),
            (
                "3",
                json!([["vb", "ordinary"], {"va": "a: 0/2 nodes fit: 2 Insufficient cpu"}, {}]),
            ),
            (
                "5",
                json!([["vb", "ordinary"], {}, {"va": "a: 0/2 nodes fit: 2 Insufficient cpu"}]),
            ),
            (
                "9",
                json!([["ordinary"], {}, {
                    "va": "a: 0/2 nodes fit: 2 Insufficient cpu",
                    "vb": "b: 0/1 nodes fit: 1 Insufficient cpu"
                }]),
            ),
        ] {
            assert_eq!(filtered(&mut world, &mk_pod("p", cpu)), wanted, "{cpu} CPUs");
        }
    }

    #[test]
    fn a_pod_that_waits_for_others_to_go_is_tried_again_soon() {
        let mut world = mk_world();
        let victim = mk_pod("victim", "4");
        apply_lower_pod(&mut world, "b", &victim, "b1");
        let pod = mk_pod("p", "8");
        let args = mk_args(&pod, &["va", "vb"]);
        let answer = filter(&mut world, &args);
        assert_eq!(
            answer.failed_nodes.len() + answer.failed_and_unresolvable_nodes.len(),
            2
        );
        assert_eq!(retry(&mut world, &args, &answer), None, "nobody is leaving");
        world.release(uid(&victim));
        let error = retry(&mut world, &args, &answer).unwrap().error;
        assert_eq!(error, "vb is about to have room for the pod");
        let ordinary = mk_args(&pod, &["va", "vb", "ordinary"]);
        let answer = filter(&mut world, &ordinary);
        assert_eq!(retry(&mut world, &ordinary, &answer), None, "another node passes");
    }

    #[test]
    fn nothing_passes_before_it_is_known_which_nodes_are_virtual() {
        let answer = filter(&mut World::default(), &mk_args(&mk_pod("p", "1"), &["va"]));
        assert_eq!(
            answer.error,
            "the upper cluster's nodes, pods and lower clusters have not been listed yet"
        );
        assert_eq!(answer.node_names, None);
    }

    #[test]
    fn the_stash_decides_about_lower_nodes() {
        let wanted = json!([["vb", "ordinary"], {}, {
            "va": "a: 0/2 nodes fit: 2 node(s) didn't match Pod's node affinity/selector"
        }]);
        assert_eq!(
            filtered(
                &mut mk_world(),
                &mk_stashed(&json!({"nodeSelector": {"disk": "ssd"}}))
            ),
            wanted
        );
    }

    #[test]
    fn a_stash_that_cannot_be_read_fits_nowhere() {
        let mut pod = mk_pod("p", "1");
        pod["metadata"]["annotations"] = json!({"clusterSelector": "{"});
        let answer = filtered(&mut mk_world(), &pod);
        assert_eq!(answer[0], json!(["ordinary"]));
        let reason = answer[2]["va"].as_str().unwrap();
        assert!(
            reason.starts_with("a: ") && reason.contains("clusterSelector"),
            "{reason}"
        );
    }

    #[test]
    fn the_policy_decides_about_clusters_in_doubt_and_pods_that_cannot_be_judged() {
        let mut world = mk_world();
        world.cluster_mut("a").doubt = Some("not listed yet".into());
        world.delete_cluster("b");
        let excluded = json!([["ordinary"], {
            "va": "a: not listed yet", "vb": "b: no such cluster is configured"
        }, {}]);
        assert_eq!(filtered(&mut world, &mk_pod("p", "1")), excluded);
        world.settings.unknown = UnknownPolicy::TrustNodeStatus;
        assert_eq!(
            filtered(&mut world, &mk_pod("p", "1")),
            json!([["va", "vb", "ordinary"], {}, {}])
        );
    }

    #[test]
    fn only_nodes_of_the_virtual_nodes_pool_count() {
        let mut world = mk_world();
        let labels = world.virtual_node("va").unwrap().labels.clone();
        world.apply_node("va", &labels, Some("name=a2".parse().unwrap()));
        let answer = filtered(&mut world, &mk_pod("p", "3"));
        assert_eq!(answer[1], json!({"va": "a: 0/1 nodes fit: 1 Insufficient cpu"}));
    }

    #[test]
    fn nodes_that_are_virtual_no_more_pass() {
        let mut world = mk_world();
        world.apply_node("va", &BTreeMap::new(), None);
        assert_eq!(
            filtered(&mut world, &mk_pod("p", "9"))[0],
            json!(["va", "ordinary"])
        );
    }

    #[test]
    fn pods_with_a_split_go_where_their_share_is_next() {
        let mut world = mk_world();
        let split =
            r#"{"key":"clusterID","strategy":"Fill","shares":{"a":{"replicas":1},"b":{"replicas":1}}}"#;
        let mut passing = |name: &str| {
            let args = mk_args(&mk_member(name, "1", split), &["va", "vb"]);
            let answer = filter(&mut world, &args);
            json!([answer.node_names, answer.failed_nodes])
        };
        let why = "split: goes to a, the next share: a 0/1, b 0/1";
        assert_eq!(passing("p"), json!([["va"], {"vb": why}]));
        assert_eq!(
            passing("p"),
            json!([["va"], {"vb": why}]),
            "asked again, it does not count itself"
        );
        let why = "split: goes to b, the next share: a 1/1, b 0/1";
        assert_eq!(
            passing("q"),
            json!([["vb"], {"va": why}]),
            "the first one counts before it is bound"
        );
        assert_eq!(passing("r"), json!([["va", "vb"], {}]), "all shares are met");
    }

    #[test]
    fn a_pod_whose_share_is_not_named_yet_is_tried_again_soon() {
        let mut world = mk_world();
        let split =
            r#"{"key":"clusterID","strategy":"Fill","shares":{"a":{"replicas":1},"b":{"replicas":1}}}"#;
        let pod = mk_member("p", "1", split);
        let why = "split: goes to a, the next share: a 0/1, b 0/1";
        let answer = filter(&mut world, &mk_args(&pod, &["vb"]));
        assert_eq!(
            answer.error,
            format!("{why}; the scheduler does not see its room yet")
        );
        let answer = filter(&mut world, &mk_args(&pod, &["vb", "ordinary"]));
        assert_eq!(answer.node_names, Some(vec!["ordinary".to_owned()]));
        assert_eq!(answer.failed_nodes["vb"], why);
    }

    #[test]
    fn nothing_is_answered_until_all_models_have_been_listed_once() {
        let (mut world, small, large) = (mk_world(), mk_pod("p", "1"), mk_pod("p", "9"));
        world.cluster_mut("a").starting = true;
        let asked = |world: &mut World, pod: &Value| filter(world, &mk_args(pod, &["va", "vb"]));
        assert_eq!(asked(&mut world, &small).error, "cluster a is being listed");
        world.cluster_mut("a").starting = false;
        assert_eq!(asked(&mut world, &small).error, "");
        let joining = world.cluster_mut("a");
        (joining.starting, joining.doubt) = (true, Some("not listed yet".into()));
        let answer = asked(&mut world, &small);
        assert_eq!(
            answer.node_names,
            Some(vec!["vb".to_owned()]),
            "a cluster that joins disturbs no other"
        );
        let error = asked(&mut world, &large).error;
        assert_eq!(
            error, "the cluster behind va is being listed",
            "it may be the only one that fits"
        );
    }
}
