//! The pod's claims must be bound to volumes that the node reaches, or be bindable or provisionable there.
//!
//! The rules are those of kube-scheduler's volumebinding plugin and of the access mode ReadWriteOncePod in
//! volumerestrictions. Whether a driver that tracks capacity has enough of it is not known here.

use super::refuse;
use crate::candidate::{Candidate, Unknown};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};
use crate::storage::{Claim, Class, Storage, Volume, claim_key};

/// Access mode of claims that one pod at a time may use.
const ONE_POD: &str = "ReadWriteOncePod";

/// The pod's claims: those with a volume, and those that wait for the pod's place.
#[derive(Debug)]
pub(super) struct VolumeBinding<'a> {
    bound: Vec<&'a Volume>,
    /// The smallest first, each with the volumes that it could be bound to and its class.
    waiting: Vec<Waiting<'a>>,
}

#[derive(Debug)]
struct Waiting<'a> {
    claim: &'a Claim,
    /// The smallest first; one that is promised to the claim alone.
    volumes: Vec<&'a Volume>,
    class: &'a Class,
}

// === impl VolumeBinding ===

impl<'a> VolumeBinding<'a> {
    /// # Errors
    /// The reason why the claims keep the pod off every node.
    pub(super) fn prepare(cluster: &'a Cluster, candidate: &Candidate) -> Result<Self, (Reason, Refusal)> {
        let storage = cluster.storage();
        let mut binding = Self {
            bound: Vec::new(),
            waiting: Vec::new(),
        };
        for name in &candidate.pod.claims {
            let key = claim_key(&candidate.pod.namespace, name);
            // Claims come later than their pods at times, and are bound later still.
            let missing = || (Reason::ClaimMissing(key.clone()), Refusal::Now);
            let claim = storage.claims.get(&key).ok_or_else(missing)?;
            if claim.lost {
                return Err((Reason::ClaimLost(key), Refusal::Never));
            }
            if claim.deleting {
                return Err((Reason::ClaimDeleting(key), Refusal::Now));
            }
            if claim.access_modes.iter().any(|mode| **mode == *ONE_POD) && is_used(cluster, candidate, name) {
                return Err((Reason::ClaimInUse, Refusal::Now));
            }
            match (&claim.volume, storage.classes.get(&claim.class)) {
                (Some(volume), _) if claim.bound => {
                    let missing = (Reason::VolumeMissing, Refusal::Never);
                    binding.bound.push(storage.volumes.get(volume).ok_or(missing)?);
                }
                (None, Some(class)) if class.delayed => {
                    binding.waiting.push(Waiting::new(claim, class, storage));
                }
                _ => return Err((Reason::ClaimUnbound, Refusal::Now)),
            }
        }
        binding.waiting.sort_by_key(|waiting| waiting.claim.request);
        Ok(binding)
    }

    /// Volumes that claims of the pod are bound to.
    pub(super) fn bound(&self) -> &[&'a Volume] {
        &self.bound
    }

    /// Claims whose driver tracks capacity: whether there is enough of it is not known here.
    pub(super) fn unknown(&self, storage: &Storage) -> impl Iterator<Item = Unknown> {
        let tracked = |waiting: &&Waiting<'_>| {
            let driver = waiting
                .class
                .provisioner
                .as_ref()
                .and_then(|name| storage.drivers.get(name));
            driver.is_some_and(|driver| driver.tracks_capacity)
        };
        let unknown =
            |waiting: &Waiting<'_>| Unknown(format!("free capacity for claim {}", waiting.claim.key));
        self.waiting.iter().filter(tracked).map(unknown)
    }

    pub(super) fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        if !self.bound.iter().all(|volume| volume.reaches(&node.facts.labels)) {
            return refuse(Reason::VolumeNodeAffinity, Refusal::Never, tally);
        }
        let mut chosen: Vec<&str> = Vec::new();
        for waiting in &self.waiting {
            match waiting.volume_on(node, &chosen) {
                Some(volume) => chosen.push(&volume.name),
                None if waiting.is_provisionable_on(node) => {}
                None => return refuse(Reason::VolumeBinding, Refusal::Never, tally),
            }
        }
        None
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn new(claim: &'a Claim, class: &'a Class, storage: &'a Storage) -> Self {
        let mut volumes: Vec<&Volume> = storage
            .volumes
            .iter()
            .filter(|volume| volume.suits(claim))
            .collect();
        volumes.sort_by(|left, right| (left.capacity, &left.name).cmp(&(right.capacity, &right.name)));
        if let Some(promised) = volumes.iter().find(|volume| volume.is_for(claim)) {
            volumes = vec![promised];
        }
        Self {
            claim,
            volumes,
            class,
        }
    }

    /// The smallest volume that the node reaches and that no other claim of the pod takes.
    fn volume_on(&self, node: &Node<'_>, chosen: &[&str]) -> Option<&'a Volume> {
        let labels = &node.facts.labels;
        let free = |volume: &&&Volume| !chosen.contains(&&*volume.name) && volume.reaches(labels);
        let undecided = self.claim.selected_node.is_none();
        undecided
            .then(|| self.volumes.iter().find(free).copied())
            .flatten()
    }

    fn is_provisionable_on(&self, node: &Node<'_>) -> bool {
        let elsewhere = self
            .claim
            .selected_node
            .as_ref()
            .is_some_and(|selected| **selected != **node.name);
        !elsewhere && self.class.provisioner.is_some() && self.class.allows(&node.facts.labels)
    }
}

/// Whether a pod that runs uses the claim of this name.
fn is_used(cluster: &Cluster, candidate: &Candidate, name: &str) -> bool {
    let mut shapes = cluster.pods_in(&candidate.pod.namespace).map(|(shape, _)| shape);
    shapes.any(|shape| shape.claims.iter().any(|claim| **claim == *name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fit::{Fit, Verdict};
    use crate::testing::{
        mk_candidate, mk_claim, mk_claimant, mk_class, mk_cluster, mk_node, mk_volume, store,
    };

    /// Nodes a and b in the zones a and b, beside `objects`.
    fn mk_zones(objects: &[Value]) -> Cluster {
        let mut cluster = mk_cluster(
            &[
                mk_node("a", &json!({"zone": "a"})),
                mk_node("b", &json!({"zone": "b"})),
            ],
            &[],
        );
        store(&mut cluster, objects);
        cluster
    }

    fn with(mut object: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    }

    /// Asserts that exactly `nodes` will do for a pod with the claim `c`.
    #[track_caller]
    fn assert_nodes(what: &str, objects: &[Value], nodes: &[&str], reasons: &str) {
        let cluster = mk_zones(objects);
        let candidate = mk_claimant(&["c"]);
        let filter = VolumeBinding::prepare(&cluster, &candidate).unwrap();
        let mut tally = Tally::default();
        let accepted = |node: &&str| filter.check(&cluster.node(node).unwrap(), &mut tally).is_none();
        assert_eq!(
            ["a", "b"].into_iter().filter(accepted).collect::<Vec<_>>(),
            nodes,
            "{what}"
        );
        assert_eq!(tally.to_string(), reasons, "{what}");
    }

    const BINDING: &str = "1 node(s) didn't find available persistent volumes to bind";

    #[test]
    fn a_bound_volume_or_the_class_decides_which_nodes_will_do() {
        let dynamic = mk_class("csi");
        let only_b = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}]);
        let chosen_b = json!({"volume.kubernetes.io/selected-node": "b"});
        let affinity = "1 node(s) didn't match PersistentVolume's node affinity";
        assert_nodes(
            "bound",
            &[mk_claim("c", "v"), mk_volume("v", "a")],
            &["a"],
            affinity,
        );
        assert_nodes(
            "to be provisioned",
            &[mk_claim("c", ""), dynamic.clone()],
            &["a", "b"],
            "",
        );
        let in_b = with(dynamic.clone(), "/allowedTopologies", only_b);
        assert_nodes(
            "to be provisioned in b",
            &[mk_claim("c", ""), in_b],
            &["b"],
            BINDING,
        );
        let claim = with(mk_claim("c", ""), "/metadata/annotations", chosen_b);
        assert_nodes("being provisioned for b", &[claim, dynamic], &["b"], BINDING);
    }

    #[test]
    fn a_free_volume_that_suits_the_claim_is_as_good_as_a_bound_one() {
        let fixed = mk_class("kubernetes.io/no-provisioner");
        let promised = json!({"namespace": "ns", "name": "c", "uid": "uid-c"});
        let foreign = json!({"namespace": "ns", "name": "other"});
        let claim = mk_claim("c", "");
        assert_nodes(
            "in a",
            &[claim.clone(), fixed.clone(), mk_volume("v", "a")],
            &["a"],
            BINDING,
        );
        let or_provisioned = [claim.clone(), mk_class("csi"), mk_volume("v", "a")];
        assert_nodes("in a, or provisioning", &or_provisioned, &["a", "b"], "");
        let promised = with(mk_volume("v", "a"), "/spec/claimRef", promised);
        let objects = [claim.clone(), fixed.clone(), promised, mk_volume("w", "b")];
        assert_nodes(
            "one is promised to the claim, another would do",
            &objects,
            &["a"],
            BINDING,
        );
        for (pointer, value) in [
            ("/spec/claimRef", foreign),
            ("/spec/capacity/storage", json!("1Mi")),
            ("/spec/storageClassName", json!("slow")),
            ("/spec/accessModes", json!(["ReadOnlyMany"])),
            ("/spec/volumeMode", json!("Block")),
            ("/status/phase", json!("Pending")),
        ] {
            let unsuited = with(mk_volume("w", "a"), pointer, value);
            let objects = [claim.clone(), fixed.clone(), mk_volume("v", "b"), unsuited];
            assert_nodes(pointer, &objects, &["b"], BINDING);
        }
    }

    #[test]
    fn two_claims_need_two_volumes() {
        let fixed = mk_class("kubernetes.io/no-provisioner");
        let claims = [
            mk_claim("c", ""),
            mk_claim("d", ""),
            fixed,
            mk_volume("v", "a"),
            mk_volume("w", "b"),
        ];
        let mut cluster = mk_zones(&claims);
        assert_eq!(
            Fit::of(&cluster, &mk_claimant(&["c", "d"]), None).verdict(),
            Verdict::Never
        );
        assert_eq!(
            Fit::of(&cluster, &mk_claimant(&["c", "c"]), None).verdict(),
            Verdict::Never,
            "a claim that is mounted twice is looked for twice"
        );
        store(&mut cluster, &[mk_volume("x", "a")]);
        let fit = Fit::of(&cluster, &mk_claimant(&["c", "d"]), None);
        assert_eq!(fit.best.map(|best| best.node.to_string()), Some("a".to_owned()));
    }

    #[test]
    fn some_claims_keep_the_pod_off_every_node() {
        let immediate = with(mk_class("csi"), "/volumeBindingMode", json!("Immediate"));
        let deleted = with(mk_claim("c", "v"), "/metadata/deletionTimestamp", json!("now"));
        let lost = with(mk_claim("c", "v"), "/status", json!({"phase": "Lost"}));
        for (objects, reason, verdict) in [
            (
                vec![],
                "2 persistentvolumeclaim \"ns/c\" not found",
                Verdict::FullNow,
            ),
            (
                vec![mk_claim("c", "")],
                "2 pod has unbound immediate PersistentVolumeClaims",
                Verdict::FullNow,
            ),
            (
                vec![mk_claim("c", ""), immediate],
                "2 pod has unbound immediate PersistentVolumeClaims",
                Verdict::FullNow,
            ),
            (
                vec![deleted, mk_volume("v", "a")],
                "2 persistentvolumeclaim \"ns/c\" is being deleted",
                Verdict::FullNow,
            ),
            (
                vec![mk_claim("c", "v")],
                "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                Verdict::Never,
            ),
            (
                vec![lost],
                "2 persistentvolumeclaim \"ns/c\" bound to non-existent persistentvolume",
                Verdict::Never,
            ),
        ] {
            let fit = Fit::of(&mk_zones(&objects), &mk_claimant(&["c"]), None);
            assert_eq!(
                (fit.tally.to_string().as_str(), fit.verdict()),
                (reason, verdict),
                "{objects:?}"
            );
        }
    }

    #[test]
    fn a_claim_for_one_pod_waits_for_that_pod_to_go() {
        let one_pod = with(
            mk_claim("c", "v"),
            "/spec/accessModes",
            json!(["ReadWriteOncePod"]),
        );
        let mut cluster = mk_zones(&[one_pod, mk_volume("v", "a")]);
        assert_eq!(
            Fit::of(&cluster, &mk_claimant(&["c"]), None).verdict(),
            Verdict::Fits
        );
        cluster.reserve("user".into(), &mk_claimant(&["c"]), "a");
        assert_eq!(
            Fit::of(&cluster, &mk_claimant(&["c"]), None).verdict(),
            Verdict::FullNow
        );
    }

    #[test]
    fn tracked_capacity_is_unknown() {
        let driver =
            json!({"kind": "CSIDriver", "metadata": {"name": "csi"}, "spec": {"storageCapacity": true}});
        let mut cluster = mk_zones(&[mk_claim("c", ""), mk_class("csi")]);
        assert_eq!(
            Fit::of(&cluster, &mk_claimant(&["c"]), None).verdict(),
            Verdict::Fits
        );
        store(&mut cluster, &[driver]);
        let fit = Fit::of(&cluster, &mk_claimant(&["c"]), None);
        assert_eq!(fit.verdict(), Verdict::Unknown);
        assert_eq!(
            fit.summary(),
            "2/2 nodes fit; unknown: free capacity for claim ns/c"
        );
    }

    #[test]
    fn an_ephemeral_volume_has_a_claim_named_after_pod_and_volume() {
        let spec = json!({"volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}]});
        let candidate = mk_candidate(&json!({"namespace": "ns", "name": "p"}), &spec);
        let cluster = mk_zones(&[mk_claim("p-scratch", "v"), mk_volume("v", "b")]);
        assert_eq!(
            Fit::of(&cluster, &candidate, None)
                .best
                .map(|best| best.node.to_string()),
            Some("b".to_owned())
        );
    }
}
