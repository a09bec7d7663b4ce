//! Which virtual nodes a pod may go to by the split of its owner's pods (`tensile.dev/split`).
//!
//! The scheduler names the nodes that its own filters let pass. A share whose nodes are not among them is not handed
//! over for that: a virtual node tells of new room up to a second after the model knows it, and the scheduler hears of
//! it later still. As long as the model says that the pod fits there, and the node itself lets it in, the share is
//! waited for, with some patience.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;
use tensile_core::affinity::RequiredNodeAffinity;
use tensile_core::split::Split;
use tensile_core::taints::{Effect, Toleration, untolerated};
use tensile_placement::Shares;

use super::{Answer, VirtualNode, World};
use crate::lowering::Lowering;
use crate::splits::{owner, split_of};

/// What a split says to a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing<'a> {
    /// Of the nodes that would take the pod, those that shall.
    pub nodes: Vec<&'a str>,
    /// Whether the share belongs to nodes that have room, but were not named: they will be soon.
    pub awaited: bool,
    /// What decided, for people.
    pub why: String,
}

/// Values of the split's label.
type Values = BTreeSet<Box<str>>;

// === impl World ===

impl World {
    /// Which of `takers`, the named virtual nodes that would take the pod, shall take it by its split; `None` without
    /// a split. Counts the pod there before it is bound, since the next one may be asked about first.
    ///
    /// # Errors
    /// What is wrong with the pod's annotation.
    pub fn share<'a>(
        &mut self,
        lowering: &mut Lowering<'_>,
        takers: &[&'a str],
        now: Instant,
    ) -> Option<Result<Sharing<'a>, String>> {
        let pod = lowering.upper();
        let split = match split_of(pod)? {
            Ok(split) => split,
            Err(error) => return Some(Err(error)),
        };
        let owner = owner(pod)?;
        let named = self.values(&split, takers);
        let silent = &self.values(&split, &self.ready_for(lowering)) - &named;
        self.patience.heard(owner, &named);
        self.patience.missed(owner, &silent, now);
        let mut waiting = silent;
        waiting.retain(|value| !self.patience.is_over(owner, value, now));
        let sharing = self.decide(pod, &split, takers, &waiting, now);
        // Where several values are left to the scheduler, all shares are met or out of reach.
        if let Some(node) = sharing.nodes.first()
            && self.values(&split, &sharing.nodes).len() == 1
        {
            self.splits.put(pod, node, Some(now));
        }
        Some(Ok(sharing))
    }

    /// As [`World::share`] for victims of preemption, which changes nothing.
    #[must_use]
    pub fn share_after<'a>(
        &self,
        pod: &Value,
        takers: &[&'a str],
        now: Instant,
    ) -> Option<Result<Sharing<'a>, String>> {
        let decide = |split| self.decide(pod, &split, takers, &Values::new(), now);
        Some(split_of(pod)?.map(decide))
    }

    /// Whether the pod still belongs to `node` by its split, which other pods may have changed since it was asked
    /// about; counts it there.
    ///
    /// # Errors
    /// Why it does not, for people.
    pub fn claim_share(
        &mut self,
        lowering: &mut Lowering<'_>,
        node: &str,
        now: Instant,
    ) -> Result<(), String> {
        let pod = lowering.upper();
        let Some(split) = split_of(pod) else {
            return Ok(());
        };
        let sharing = self.decide(
            pod,
            &split?,
            &self.open_for(lowering, Some(node), now),
            &Values::new(),
            now,
        );
        if !sharing.nodes.contains(&node) {
            return Err(sharing.why);
        }
        self.splits.put(pod, node, Some(now));
        Ok(())
    }

    /// What the split of the pod says, if all virtual nodes that have room are named.
    #[must_use]
    pub fn explain_split(&self, lowering: &mut Lowering<'_>, now: Instant) -> Option<String> {
        let open = self.open_for(lowering, None, now);
        match self.share_after(lowering.upper(), &open, now)? {
            Ok(Sharing { why, .. }) | Err(why) => Some(why),
        }
    }

    fn decide<'a>(
        &self,
        pod: &Value,
        split: &Split,
        takers: &[&'a str],
        waiting: &Values,
        now: Instant,
    ) -> Sharing<'a> {
        let value_of = |node: &str| self.value_of(split, node);
        let open: Vec<Box<str>> = (&self.values(split, takers) | waiting).into_iter().collect();
        let shares = Shares::next(split, &self.splits.counts(pod, now, value_of), &open);
        let is_next = |node: &&&str| value_of(node).is_some_and(|value| shares.next.contains(&value));
        let nodes: Vec<&str> = takers.iter().filter(is_next).copied().collect();
        Sharing {
            awaited: nodes.is_empty() && !shares.next.is_empty(),
            nodes,
            why: shares.why,
        }
    }

    /// The nodes that can take a share: those that have room and for which patience is not over, and `also`.
    fn open_for<'a>(
        &'a self,
        lowering: &mut Lowering<'_>,
        also: Option<&'a str>,
        now: Instant,
    ) -> Vec<&'a str> {
        let pod = lowering.upper();
        let (owner, split) = (owner(pod), split_of(pod).and_then(Result::ok));
        let is_over = |node: &str| {
            let value = split.as_ref().and_then(|split| self.value_of(split, node));
            owner
                .zip(value)
                .is_some_and(|(owner, value)| self.patience.is_over(owner, &value, now))
        };
        let ready = self.ready_for(lowering).into_iter();
        ready
            .filter(|node| Some(*node) != also && !is_over(node))
            .chain(also)
            .collect()
    }

    /// The virtual nodes that let the pod in and behind which it fits, or may once the cluster is listed.
    fn ready_for(&self, lowering: &mut Lowering<'_>) -> Vec<&str> {
        let spec = &lowering.upper()["spec"];
        let (Ok(affinity), Ok(tolerations)) = (
            RequiredNodeAffinity::of_spec(spec),
            Toleration::parse_list(spec.get("tolerations")),
        ) else {
            return Vec::new();
        };
        let lets_in = |name: &str, node: &VirtualNode| {
            affinity.matches(name, &node.labels)
                && untolerated(&node.taints, &tolerations, Effect::keeps_out).is_none()
        };
        let nodes = self
            .virtual_nodes
            .iter()
            .filter(|(name, node)| lets_in(name, node));
        let mut fits = |name: &str| matches!(self.answer(lowering, name), Some(Answer::Fits(_)));
        let ready = nodes.filter(|(name, _)| self.is_starting(name) || fits(name));
        ready.map(|(name, _)| name.as_str()).collect()
    }

    fn values(&self, split: &Split, nodes: &[&str]) -> Values {
        nodes
            .iter()
            .filter_map(|node| self.value_of(split, node))
            .collect()
    }

    fn value_of(&self, split: &Split, node: &str) -> Option<Box<str>> {
        let labels = &self.virtual_nodes.get(node)?.labels;
        labels.get(&*split.key).map(|value| value.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tensile_core::view::NodeView;

    use super::*;
    use crate::testing::{apply_lower_pod, mk_member, mk_pod, mk_world};

    const FILL: &str =
        r#"{"key":"clusterID","strategy":"Fill","shares":{"a":{"replicas":1},"b":{"replicas":1}}}"#;

    /// What the scheduler hears that names these nodes, all of which would take the pod.
    fn share(world: &mut World, pod: &Value, named: &[&str], now: Instant) -> String {
        let sharing = world.share(&mut Lowering::new(pod), named, now).unwrap().unwrap();
        if sharing.awaited {
            "later".to_owned()
        } else {
            sharing.nodes.join(",")
        }
    }

    // mk_world: of cluster a at most 2 CPUs are free on a node, of b 8.
    #[test]
    fn a_share_is_handed_over_only_when_its_cluster_cannot_take_it() {
        let cordoned = json!({"metadata": {"name": "va", "labels": {"type": "virtual-kubelet", "clusterID": "a"}},
            "spec": {"unschedulable": true}});
        let cordoned: NodeView = serde_json::from_value(cordoned).unwrap();
        let now = Instant::now();
        for (what, cpu, named, selected, expected) in [
            ("named", "1", vec!["va", "vb"], None, "va"),
            ("not named, though it fits", "1", vec!["vb"], None, "later"),
            ("full below", "3", vec!["vb"], None, "vb"),
            ("not selected", "1", vec!["vb"], Some("b"), "vb"),
        ] {
            let mut pod = mk_member("p", cpu, FILL);
            if let Some(cluster) = selected {
                pod["spec"]["nodeSelector"] = json!({"clusterID": cluster});
            }
            assert_eq!(share(&mut mk_world(), &pod, &named, now), expected, "{what}");
        }
        let pod = mk_member("p", "1", FILL);
        let mut world = mk_world();
        world.apply_view(&cordoned);
        assert_eq!(share(&mut world, &pod, &["vb"], now), "vb", "cordoned above");
        let mut world = mk_world();
        world.cluster_mut("a").doubt = Some("unreachable".into());
        assert_eq!(share(&mut world, &pod, &["vb"], now), "vb", "in doubt");
        world.cluster_mut("a").starting = true;
        assert_eq!(share(&mut world, &pod, &["vb"], now), "later", "it joins");
    }

    #[test]
    fn patience_with_a_cluster_that_is_not_named_ends() {
        let (mut world, start) = (mk_world(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let pod = mk_member("p", "1", FILL);
        for (seconds, named, expected) in [
            (0, vec!["vb"], "later"),
            (4, vec!["vb"], "later"),
            (5, vec!["vb"], "vb"),
            (6, vec!["va", "vb"], "va"),
            (12, vec!["vb"], "later"),
        ] {
            assert_eq!(
                share(&mut world, &pod, &named, after(seconds)),
                expected,
                "{seconds} s"
            );
        }
    }

    #[test]
    fn a_share_can_be_claimed_once() {
        let strict = FILL.replacen('{', r#"{"strict":true,"#, 1);
        for split in [FILL, &*strict] {
            let (mut world, now) = (mk_world(), Instant::now());
            let mut claim = |name: &str, node: &str| {
                world.claim_share(&mut Lowering::new(&mk_member(name, "1", split)), node, now)
            };
            assert_eq!(claim("p", "va"), Ok(()));
            assert_eq!(claim("p", "va"), Ok(()), "its own claim is no obstacle");
            let lost = "split: goes to b, the next share: a 1/1, b 0/1";
            assert_eq!(claim("q", "va"), Err(lost.to_owned()));
            assert_eq!(claim("q", "vb"), Ok(()));
            assert_eq!(claim("r", "va").is_ok(), split == FILL, "all shares are met");
        }
    }

    #[test]
    fn a_share_that_was_given_up_is_not_waited_for_by_bind() {
        let (mut world, start) = (mk_world(), Instant::now());
        let later = start + Duration::from_secs(5);
        let pod = mk_member("p", "1", FILL);
        share(&mut world, &pod, &["vb"], start);
        assert!(world.claim_share(&mut Lowering::new(&pod), "vb", start).is_err());
        assert_eq!(share(&mut world, &pod, &["vb"], later), "vb");
        assert_eq!(world.claim_share(&mut Lowering::new(&pod), "vb", later), Ok(()));
    }

    #[test]
    fn pods_count_for_a_value_whose_nodes_leave_the_choice_to_the_scheduler() {
        let (mut world, now) = (mk_world(), Instant::now());
        let labels = world.virtual_node("va").unwrap().labels.clone();
        world.apply_node("va2", &labels, None);
        assert_eq!(
            share(&mut world, &mk_member("p", "1", FILL), &["va", "va2", "vb"], now),
            "va,va2"
        );
        assert_eq!(
            share(&mut world, &mk_member("q", "1", FILL), &["va", "va2", "vb"], now),
            "vb"
        );
    }

    #[test]
    fn the_explanation_names_what_cannot_take_its_share() {
        let mut world = mk_world();
        apply_lower_pod(&mut world, "b", &mk_pod("large", "8"), "b1");
        let why = |world: &World, pod: &Value| {
            world
                .explain_split(&mut Lowering::new(pod), Instant::now())
                .unwrap()
        };
        let pod = mk_member("p", "1", FILL);
        assert_eq!(
            why(&world, &pod),
            "split: goes to a, the next share: a 0/1, b 0/1 unavailable"
        );
        let wrong = mk_member("p", "1", "{");
        assert!(why(&world, &wrong).starts_with("annotation tensile.dev/split: "));
        let pod = mk_pod("p", "1");
        assert_eq!(
            world.explain_split(&mut Lowering::new(&pod), Instant::now()),
            None
        );
    }
}
