//! The next step for a claim, from all that is there of it.

use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::translate::claim::{self, Expansion};
use tensile_core::translate::volume::{self, Reclaim};

/// What is there of a claim; null where there is nothing.
#[derive(Clone, Debug, Default)]
pub struct Situation<'a> {
    /// UID of the upper cluster's kube-system namespace.
    pub origin_cluster: &'a str,
    /// Name of the virtual node.
    pub node_name: &'a str,
    /// Whether a pod of ours uses the claim.
    pub used: bool,
    /// The upper claim.
    pub upper: Value,
    /// The lower claim of that name, whose ever it is.
    pub lower: Value,
    /// Our upper volumes for the claim, also for earlier claims of that name.
    pub volumes: Vec<Value>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing to do until something changes.
    Wait,
    /// Make the upper volume.
    Provide,
    /// Make the lower claim.
    Create,
    /// Leave the lower claim alone, for this reason.
    Refuse(&'static str),
    /// Merge this into the lower claim.
    PatchLower(Value),
    /// Merge this into the upper volume with this name.
    PatchVolume(String, Value),
    /// Merge this into the status of the upper claim.
    PatchStatus(Value),
    /// Delete the lower claim with this UID.
    DeleteLower(String),
    /// Delete the upper volume with this name and UID.
    DeleteVolume(String, String),
}

/// What should happen next.
#[must_use]
pub fn decide(situation: &Situation<'_>) -> Step {
    let steps = [given_up, provide, lower, grow, expansion];
    let mut steps = steps.into_iter().filter_map(|step| step(situation));
    steps.next().unwrap_or(Step::Wait)
}

/// A volume whose claim is gone, and whose class says Delete: first the lower claim, then the volume.
fn given_up(situation: &Situation<'_>) -> Option<Step> {
    let upper_uid = &situation.upper["metadata"]["uid"];
    let lower = &situation.lower["metadata"];
    let mut given_up = situation.volumes.iter().filter(|volume| {
        let claim = &volume["spec"]["claimRef"]["uid"];
        let released =
            volume["status"]["phase"] == "Released" && volume["metadata"]["deletionTimestamp"].is_null();
        released && claim != upper_uid && volume::reclaim(volume) == Reclaim::Delete
    });
    let volume = given_up.next()?;
    if is_ours(situation) && lower["labels"][names::ORIGIN_UID] == volume["spec"]["claimRef"]["uid"] {
        return Some(if lower["deletionTimestamp"].is_null() {
            Step::DeleteLower(text(&lower["uid"]))
        } else {
            Step::Wait
        });
    }
    let metadata = &volume["metadata"];
    Some(Step::DeleteVolume(
        text(&metadata["name"]),
        text(&metadata["uid"]),
    ))
}

/// The upper claim waits for a volume.
fn provide(situation: &Situation<'_>) -> Option<Step> {
    let wanted = volume::is_wanted(&situation.upper, situation.node_name);
    (wanted && own_volume(situation).is_none()).then_some(Step::Provide)
}

/// A pod uses the claim: there must be a lower one that stands for it.
fn lower(situation: &Situation<'_>) -> Option<Step> {
    let (upper, lower) = (&situation.upper["metadata"], &situation.lower["metadata"]);
    if upper.is_null() || !situation.used || !upper["deletionTimestamp"].is_null() {
        return None;
    }
    if lower.is_null() {
        return Some(Step::Create);
    }
    if !is_ours(situation) {
        return Some(Step::Refuse("it is not ours; delete or rename one of them"));
    }
    if lower["labels"][names::ORIGIN_UID] == upper["uid"] {
        return None;
    }
    if !lower["deletionTimestamp"].is_null() {
        return Some(Step::Wait);
    }
    // A claim that is bound to a volume made for an earlier claim, or by hand, is bound to its data on purpose.
    let volume = situation.upper["spec"]["volumeName"].as_str().unwrap_or_default();
    if !volume.is_empty() && volume != volume::name(&situation.upper) {
        let labels = json!({names::ORIGIN_UID: upper["uid"], names::ORIGIN_NODE: situation.node_name});
        return Some(Step::PatchLower(
            json!({"metadata": {"uid": lower["uid"], "labels": labels}}),
        ));
    }
    Some(Step::Refuse(
        "it holds the data of an earlier claim of that name; delete it, or bind the new claim to the old volume",
    ))
}

fn grow(situation: &Situation<'_>) -> Option<Step> {
    if !is_pair(situation) {
        return None;
    }
    claim::grow(&situation.upper, &situation.lower).map(Step::PatchLower)
}

/// What the lower cluster made of the claim, shown above; the volume first, since no claim is larger than its volume.
fn expansion(situation: &Situation<'_>) -> Option<Step> {
    let volume = own_volume(situation).filter(|_| is_pair(situation))?;
    if volume["metadata"]["name"] != situation.upper["spec"]["volumeName"] {
        return None;
    }
    let Expansion {
        volume: of_volume,
        claim,
    } = claim::expansion(&situation.upper, volume, &situation.lower);
    let of_volume = of_volume.map(|patch| Step::PatchVolume(text(&volume["metadata"]["name"]), patch));
    of_volume.or(claim.map(Step::PatchStatus))
}

/// Whether the lower claim is there for the upper one.
fn is_pair(situation: &Situation<'_>) -> bool {
    let (upper, lower) = (&situation.upper["metadata"], &situation.lower["metadata"]);
    !upper.is_null() && is_ours(situation) && lower["labels"][names::ORIGIN_UID] == upper["uid"]
}

fn is_ours(situation: &Situation<'_>) -> bool {
    situation.lower["metadata"]["labels"][names::ORIGIN_CLUSTER] == situation.origin_cluster
}

/// The volume that we made for the claim as it is now.
fn own_volume<'a>(situation: &'a Situation<'_>) -> Option<&'a Value> {
    let uid = situation.upper["metadata"].get("uid")?;
    let mut volumes = situation.volumes.iter();
    volumes.find(|volume| volume["spec"]["claimRef"]["uid"] == *uid)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_upper(volume: Option<&str>) -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "u", "annotations": {
                "volume.kubernetes.io/selected-node": "vn",
                "volume.kubernetes.io/storage-provisioner": "tensile.dev",
            }},
            "spec": {"volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
        })
    }

    fn mk_lower(uid: &str) -> Value {
        let labels = json!({"tensile.dev/origin-cluster": "up", "tensile.dev/origin-uid": uid});
        json!({
            "metadata": {"name": "data", "uid": "l", "labels": labels},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}},
        })
    }

    fn mk_volume(claim: &str, policy: &str, phase: &str) -> Value {
        json!({
            "metadata": {
                "name": format!("pvc-{claim}"), "uid": "v",
                "annotations": {"pv.kubernetes.io/provisioned-by": "tensile.dev"},
            },
            "spec": {
                "claimRef": {"uid": claim}, "persistentVolumeReclaimPolicy": policy, "capacity": {"storage": "1Gi"},
            },
            "status": {"phase": phase},
        })
    }

    fn step(used: bool, upper: Value, lower: Value, volumes: &[Value]) -> Step {
        decide(&Situation {
            origin_cluster: "up",
            node_name: "vn",
            used,
            upper,
            lower,
            volumes: volumes.to_vec(),
        })
    }

    const NONE: Value = Value::Null;

    #[test]
    fn a_claim_gets_its_volume_before_its_pod_and_its_lower_claim_with_it() {
        let bound = || mk_upper(Some("pvc-u"));
        let volume = mk_volume("u", "Delete", "Bound");
        let volumes = std::slice::from_ref(&volume);
        assert_eq!(step(false, mk_upper(None), NONE, &[]), Step::Provide);
        assert_eq!(step(false, mk_upper(None), NONE, volumes), Step::Wait);
        assert_eq!(step(true, bound(), NONE, volumes), Step::Create);
        assert_eq!(step(true, bound(), mk_lower("u"), volumes), Step::Wait);
        assert_eq!(step(true, NONE, NONE, &[]), Step::Wait);
    }

    #[test]
    fn a_lower_claim_of_another_is_never_used_unless_that_was_meant() {
        let mut foreign = mk_lower("u");
        foreign["metadata"]["labels"]["tensile.dev/origin-cluster"] = json!("other");
        let refused = |step: Step| matches!(step, Step::Refuse(_));
        assert!(refused(step(true, mk_upper(Some("by-hand")), foreign, &[])));
        assert!(refused(step(
            true,
            mk_upper(Some("pvc-u")),
            mk_lower("earlier"),
            &[]
        )));
        let labels = json!({"tensile.dev/origin-uid": "u", "tensile.dev/origin-node": "vn"});
        let adopt = Step::PatchLower(json!({"metadata": {"uid": "l", "labels": labels}}));
        for volume in ["by-hand", "pvc-earlier"] {
            assert_eq!(
                step(true, mk_upper(Some(volume)), mk_lower("earlier"), &[]),
                adopt,
                "{volume}"
            );
        }
    }

    #[test]
    fn nothing_is_deleted_but_what_a_released_volume_of_ours_gives_up() {
        let volume = |policy: &str, phase: &str| [mk_volume("old", policy, phase)];
        let mut ends = mk_lower("old");
        ends["metadata"]["deletionTimestamp"] = json!("t");
        let mut foreign = mk_lower("old");
        foreign["metadata"]["labels"]["tensile.dev/origin-cluster"] = json!("other");
        let delete_volume = Step::DeleteVolume("pvc-old".into(), "v".into());
        for (lower, volumes, expected) in [
            (
                mk_lower("old"),
                &volume("Delete", "Released")[..],
                Step::DeleteLower("l".into()),
            ),
            (ends, &volume("Delete", "Released"), Step::Wait),
            (NONE, &volume("Delete", "Released"), delete_volume.clone()),
            (foreign, &volume("Delete", "Released"), delete_volume.clone()),
            (mk_lower("other"), &volume("Delete", "Released"), delete_volume),
            (mk_lower("old"), &volume("Retain", "Released"), Step::Wait),
            (mk_lower("old"), &volume("Delete", "Bound"), Step::Wait),
            (mk_lower("old"), &[], Step::Wait),
        ] {
            assert_eq!(step(false, NONE, lower.clone(), volumes), expected, "{lower}");
        }
    }

    #[test]
    fn growth_goes_down_and_what_came_of_it_comes_up_volume_first() {
        let volume = mk_volume("u", "Delete", "Bound");
        let mut upper = mk_upper(Some("pvc-u"));
        upper["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        let mut lower = mk_lower("u");
        let grow = step(true, upper.clone(), lower.clone(), std::slice::from_ref(&volume));
        assert!(
            matches!(grow, Step::PatchLower(patch) if patch["spec"]["resources"]["requests"]["storage"] == "2Gi")
        );
        lower["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        lower["status"]["capacity"]["storage"] = json!("2Gi");
        let shown = step(true, upper.clone(), lower.clone(), std::slice::from_ref(&volume));
        assert!(matches!(shown, Step::PatchVolume(name, _) if name == "pvc-u"));
        let mut grown = volume;
        grown["spec"]["capacity"]["storage"] = json!("2Gi");
        let shown = step(true, upper.clone(), lower.clone(), std::slice::from_ref(&grown));
        assert!(matches!(shown, Step::PatchStatus(_)));
        upper["status"]["capacity"]["storage"] = json!("2Gi");
        assert_eq!(step(true, upper, lower, &[grown]), Step::Wait);
    }
}
