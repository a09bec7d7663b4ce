//! What a round looks at, and the places that it has promised so far.
//!
//! A plan of many moves must not give one place twice. So each planned move is promised its place in the models, as if
//! it had happened; when the scene is dropped the models are as they were.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tensile_core::avoidance::Avoidance;
use tensile_core::resources::Resources;
use tensile_placement::{Candidate, Cluster, Pod as PlacedPod, PodKey, Uid};
use tensile_world::{Answer, Lowering, VirtualNode, World};

use crate::avoid::{self, Moved};
use crate::limits::{Limit, Spent};
use crate::pod::{Mark, Pod};
use crate::policy::Policy;

/// Reasons that are told of one pod that fits nowhere; there may be hundreds of virtual nodes.
const MAX_REASONS: usize = 5;

/// What a round looks at.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Now, in seconds since the Unix epoch.
    pub now: u64,
    /// What is allowed.
    pub policy: &'a Policy,
    /// Virtual nodes and the models of the lower clusters.
    pub world: &'a mut World,
    /// The model of the upper cluster.
    pub upper: &'a mut Cluster,
    /// Which moves were made lately.
    pub avoidance: &'a Avoidance,
    spent: Spent,
    promised: Vec<Promise>,
    /// Pods of the upper cluster that count as gone until the scene ends.
    gone: Vec<PlacedPod>,
    /// Pods that fit nowhere else, and why. Promises only take room, so that this stays true in the round.
    hopeless: HashMap<Like, Vec<String>>,
}

/// A place that was promised.
#[derive(Debug)]
struct Promise {
    /// Stands for the successor of a moved pod, or for a pod that waits.
    uid: Uid,
    /// The move that it is for, if it is for one.
    journey: Option<Journey>,
}

/// A planned move of a pod of this owner: from now on all new pods of the owner avoid where it comes from, and one of
/// them must be able to go where it goes.
#[derive(Debug)]
struct Journey {
    owner: Box<str>,
    from: Arc<str>,
    to: Box<str>,
}

/// What pods have in common that fit at the same places: template, virtual node, and what their avoidance is under.
type Like = (Arc<str>, Arc<str>, Box<str>);

/// Why a pod is not moved.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Obstacle {
    /// Pods like it are never moved.
    #[error("{}", .0.reason())]
    Protected(Mark),
    /// Its priority is above the policy's threshold.
    #[error("its priority is not below the policy's priorityThreshold")]
    Priority,
    /// It was moved lately.
    #[error(transparent)]
    Moved(#[from] Moved),
    /// Nobody knows what its cluster is like now.
    #[error("its lower cluster cannot be judged now: {0}")]
    Doubt(String),
    /// No other virtual node fits it now.
    #[error("no other virtual node fits it now: {}", .0.join("; "))]
    Nowhere(Vec<String>),
    /// Enough pods are moved in this round.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// There is no room for it, and none that could be made.
    #[error("no node fits it, nor would one if a few pods were moved that fit elsewhere")]
    NoRoom,
}

/// Where a pod fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The virtual node.
    pub node: String,
    /// The node of the lower cluster.
    pub lower: String,
}

// === impl Obstacle ===

impl Obstacle {
    /// A word for reports and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Protected(_) | Self::Priority => "Protected",
            Self::Moved(_) => "MovedBefore",
            Self::Doubt(_) => "Unknown",
            Self::Nowhere(_) => "FitsNowhere",
            Self::Limit(_) => "Limit",
            Self::NoRoom => "NoRoom",
        }
    }
}

// === impl Scene ===

impl<'a> Scene<'a> {
    /// A scene with nothing planned yet.
    pub fn new(
        now: u64,
        policy: &'a Policy,
        world: &'a mut World,
        upper: &'a mut Cluster,
        avoidance: &'a Avoidance,
    ) -> Self {
        Self {
            now,
            policy,
            world,
            upper,
            avoidance,
            spent: Spent::default(),
            promised: Vec::new(),
            gone: Vec::new(),
            hopeless: HashMap::new(),
        }
    }

    /// Whether the pod may be moved at all, wherever to.
    ///
    /// # Errors
    /// Why not.
    pub fn may_move(&self, pod: &Pod) -> Result<(), Obstacle> {
        if let Some(mark) = pod.marks.iter().find(|mark| self.policy.protected.contains(mark)) {
            return Err(Obstacle::Protected(*mark));
        }
        let threshold = self.policy.priority_threshold;
        if threshold.is_some_and(|threshold| pod.priority >= threshold) {
            return Err(Obstacle::Priority);
        }
        Ok(avoid::may_move(
            self.avoidance,
            pod,
            self.policy.avoid_for,
            self.now,
        )?)
    }

    /// Whether the policy lets pods be moved from this virtual node, and its cluster can be judged.
    ///
    /// # Errors
    /// The doubt about its cluster.
    pub fn is_source(&self, node: &str) -> Result<bool, Obstacle> {
        let Some(virtual_node) = self.world.virtual_node(node) else {
            return Ok(false);
        };
        let selector = self.policy.node_selector.as_ref();
        if selector.is_some_and(|selector| !selector.matches(&virtual_node.labels)) {
            return Ok(false);
        }
        let cluster = self.world.clusters().find(|(id, _)| *id == virtual_node.cluster);
        match cluster.map(|(_, cluster)| &cluster.doubt) {
            Some(None) => Ok(true),
            Some(Some(doubt)) => Err(Obstacle::Doubt(doubt.clone())),
            None => Err(Obstacle::Doubt(format!(
                "cluster {} is not configured",
                virtual_node.cluster
            ))),
        }
    }

    /// Where else the pod fits now, in the upper cluster and below; the place is promised to it. A pod that does not
    /// is not asked about again, nor are its like.
    ///
    /// # Errors
    /// What the other virtual nodes said.
    pub fn move_elsewhere(&mut self, pod: &Pod) -> Result<Place, Obstacle> {
        let like = (pod.template.clone(), pod.node.clone(), avoid::key(pod).into());
        if let Some(reasons) = self.hopeless.get(&like) {
            return Err(Obstacle::Nowhere(reasons.clone()));
        }
        match self.find(pod, |_| true) {
            Ok(place) => Ok(place),
            Err(reasons) => {
                self.hopeless.insert(like, reasons.clone());
                Err(Obstacle::Nowhere(reasons))
            }
        }
    }

    /// As [`Scene::move_elsewhere`], but only the virtual nodes that `admits` names are asked.
    ///
    /// # Errors
    /// What they said.
    pub fn move_among(
        &mut self,
        pod: &Pod,
        admits: impl Fn(&VirtualNode) -> bool,
    ) -> Result<Place, Obstacle> {
        self.find(pod, admits).map_err(Obstacle::Nowhere)
    }

    /// Whether the pod breaks one of its topology spread constraints where it is: whether it could not go there again.
    pub fn breaks_spread(&mut self, pod: &Pod, above: &Candidate) -> bool {
        self.without(pod, |upper| upper.breaks_spread(above, &pod.node))
    }

    /// Lets the upper cluster look as if the pod were gone already, until the scene ends: for decisions that count pods.
    pub fn leave(&mut self, pod: &Pod) {
        if self
            .upper
            .delete_pod(PodKey::new(&pod.key.namespace, &pod.key.name))
        {
            self.gone.push(placed(pod));
        }
    }

    /// Whether so many more evictions of pods like this one are within the limits.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn check_limits(&self, pod: &Pod, count: u32) -> Result<(), Limit> {
        let (node, namespace) = (&pod.node, &pod.key.namespace);
        self.spent.check(&self.policy.limits, node, namespace, count)
    }

    /// Counts an eviction.
    pub fn spend(&mut self, pod: &Pod) {
        self.spent.add(&pod.node, &pod.key.namespace);
    }

    fn find(&mut self, pod: &Pod, admits: impl Fn(&VirtualNode) -> bool) -> Result<Place, Vec<String>> {
        if self.journeys(pod).any(|journey| *journey.to == *pod.node) {
            return Err(vec!["another pod of its owner is to come here".to_owned()]);
        }
        let unplaced = pod.unplaced();
        let above = Candidate::new(&unplaced).map_err(|error| vec![error.to_string()])?;
        let passing = self.passing_above(pod, &above);
        let mut lowering = Lowering::new(&unplaced);
        let mut reasons = Vec::new();
        for node in self.others(pod, admits) {
            if !passing.contains(&*node) {
                reasons.push(format!("{node}: the upper cluster keeps it away"));
                continue;
            }
            let answer = self
                .world
                .answer_without(&mut lowering, &node, &[Uid::from(&*pod.uid)]);
            match answer {
                Some(Answer::Fits(fit)) => {
                    let best = fit.best.map(|best| best.node.to_string()).unwrap_or_default();
                    self.promise(pod, &mut lowering, &node, &best);
                    self.set_out(pod, &node);
                    return Ok(Place { node, lower: best });
                }
                Some(Answer::Now(reason) | Answer::Never(reason)) => {
                    reasons.push(format!("{node}: {reason}"));
                }
                Some(Answer::Trusted) | None => {}
            }
        }
        Err(shortened(reasons))
    }

    /// The virtual nodes that the pod's successor can go to.
    fn others(&self, pod: &Pod, admits: impl Fn(&VirtualNode) -> bool) -> Vec<String> {
        let avoided: HashSet<&str> = self.avoidance.nodes(avoid::key(pod), self.now).collect();
        let admitted = self.world.virtual_nodes().filter(|(_, node)| admits(node));
        let names = admitted.map(|(name, _)| name);
        names
            .filter(|name| *name != &*pod.node && !avoided.contains(name))
            .filter(|name| self.journeys(pod).all(|journey| *journey.from != **name))
            .map(str::to_owned)
            .collect()
    }

    /// The nodes of the upper cluster that let the pod pass once it is gone from its own.
    fn passing_above(&mut self, pod: &Pod, above: &Candidate) -> HashSet<Arc<str>> {
        self.without(pod, |upper| upper.passing(above).into_iter().collect())
    }

    /// Asks the upper cluster as if the pod were not there.
    fn without<T>(&mut self, pod: &Pod, ask: impl FnOnce(&Cluster) -> T) -> T {
        let removed = self
            .upper
            .delete_pod(PodKey::new(&pod.key.namespace, &pod.key.name));
        let answer = ask(self.upper);
        if removed {
            self.upper.apply_pod(&placed(pod));
        }
        answer
    }

    /// Promises the pod's successor a place, or the pod itself if it waits; says what it will ask for there.
    pub fn promise(
        &mut self,
        pod: &Pod,
        lowering: &mut Lowering<'_>,
        node: &str,
        lower: &str,
    ) -> Option<Resources> {
        let successor = successor(pod);
        let mut requests = None;
        if let Some(virtual_node) = self.world.virtual_node(node).cloned() {
            let keys = self.world.settings.ignored_keys.clone();
            if let Ok(candidate) = lowering.candidate(node, &virtual_node, &keys) {
                self.world.reserve(node, &candidate, successor, Some(lower));
                requests = Some(candidate.pod.request.clone());
            }
        }
        if let Ok(above) = Candidate::new(&pod.unplaced()) {
            self.upper.reserve(successor, &above, node);
        }
        self.promised.push(Promise {
            uid: successor,
            journey: None,
        });
        requests
    }

    /// Notes which move the last promise is for.
    fn set_out(&mut self, pod: &Pod, to: &str) {
        if let Some(promise) = self.promised.last_mut() {
            promise.journey = Some(Journey {
                owner: avoid::key(pod).into(),
                from: pod.node.clone(),
                to: to.into(),
            });
        }
    }

    /// The moves of pods of the same owner that are planned so far.
    fn journeys(&self, pod: &Pod) -> impl Iterator<Item = &Journey> {
        let owner: Box<str> = avoid::key(pod).into();
        let journeys = self
            .promised
            .iter()
            .filter_map(|promise| promise.journey.as_ref());
        journeys.filter(move |journey| journey.owner == owner)
    }

    /// Takes back what was promised to the pod in an earlier round.
    pub fn take_promise(&mut self, pod: &Pod) {
        self.world.release(successor(pod));
        self.upper.release(successor(pod));
    }

    /// Ends the scene and leaves its promises in the models: whoever gets them takes them back.
    #[must_use]
    pub fn into_promises(mut self) -> Vec<Uid> {
        let promised = std::mem::take(&mut self.promised);
        promised.into_iter().map(|promise| promise.uid).collect()
    }

    /// How many promises were made; see [`Scene::take_back`].
    #[must_use]
    pub fn promises(&self) -> usize {
        self.promised.len()
    }

    /// Takes back the promises but the first so many.
    pub fn take_back(&mut self, keep: usize) {
        for promise in self.promised.split_off(keep.min(self.promised.len())) {
            self.world.release(promise.uid);
            self.upper.release(promise.uid);
        }
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.take_back(0);
        for pod in &self.gone {
            self.upper.apply_pod(pod);
        }
    }
}

/// Stands for the pod that will replace this one.
#[must_use]
pub fn successor(pod: &Pod) -> Uid {
    Uid::from(format!("successor of {}", pod.uid).as_str())
}

/// The pod as the model of the upper cluster has it.
fn placed(pod: &Pod) -> PlacedPod {
    let mut object = pod.unplaced();
    object["spec"]["nodeName"] = json!(&*pod.node);
    PlacedPod::deserialize(&object).unwrap_or_default()
}

fn shortened(mut reasons: Vec<String>) -> Vec<String> {
    let more = reasons.len().saturating_sub(MAX_REASONS);
    reasons.truncate(MAX_REASONS);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    if reasons.is_empty() {
        reasons.push("there is no other".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ground, mk_replica};

    #[test]
    fn a_place_is_promised_once_and_the_models_are_as_before_in_the_end() {
        let mut ground = Ground::new();
        let (p, q) = (ground.stuck("p", "5", "va"), ground.stuck("q", "5", "va"));
        let mut scene = ground.scene();
        let place = Place {
            node: "vb".into(),
            lower: "b1".into(),
        };
        assert_eq!(scene.move_elsewhere(&p), Ok(place.clone()));
        let nowhere = scene.move_elsewhere(&q).unwrap_err();
        assert_eq!(
            nowhere.to_string(),
            "no other virtual node fits it now: vb: the upper cluster keeps it away"
        );
        drop(scene);
        assert_eq!(ground.scene().move_elsewhere(&q), Ok(place));
        let promises =
            |(_, cluster): (&str, &tensile_world::LowerCluster)| cluster.model.reservations().len();
        assert_eq!(ground.world.clusters().map(promises).sum::<usize>(), 0);
        assert_eq!(ground.upper.reservations().len(), 0);
    }

    /// Its owner would avoid both nodes from then on, and there would be no place for its new pods.
    #[test]
    fn pods_of_one_owner_do_not_change_places() {
        let mut ground = Ground::new();
        let (there, back) = (ground.stuck("p", "1", "va"), ground.stuck("q", "1", "vb"));
        let mut scene = ground.scene();
        assert!(scene.move_elsewhere(&there).is_ok());
        let obstacle = scene.move_elsewhere(&back).unwrap_err().to_string();
        assert!(
            obstacle.ends_with("another pod of its owner is to come here"),
            "{obstacle}"
        );
        drop(scene);
        let mut scene = ground.scene();
        let promises = scene.promises();
        assert!(scene.move_elsewhere(&there).is_ok());
        scene.take_back(promises);
        assert!(
            scene.move_elsewhere(&back).is_ok(),
            "what is not planned any more counts no more"
        );
    }

    #[test]
    fn what_the_upper_cluster_or_the_avoidance_rules_out_is_no_place() {
        let mut ground = Ground::new();
        let pod = ground.stuck("p", "1", "va");
        ground.avoidance.avoid("owner", "vb", u64::MAX);
        assert_eq!(
            ground.scene().move_elsewhere(&pod).unwrap_err().to_string(),
            "no other virtual node fits it now: there is no other"
        );
        ground.avoidance = Avoidance::default();
        let mut picky = mk_replica("q", "1", "va");
        picky["spec"]["nodeSelector"] = json!({"clusterID": "a"});
        let picky = ground.pod(&picky);
        assert_eq!(
            ground.scene().move_elsewhere(&picky).unwrap_err().to_string(),
            "no other virtual node fits it now: vb: the upper cluster keeps it away"
        );
        assert!(ground.scene().move_elsewhere(&pod).is_ok());
    }

    #[test]
    fn a_pods_own_constraints_do_not_hold_it_where_it_is() {
        let mut ground = Ground::new();
        let spread = json!([{
            "maxSkew": 1, "topologyKey": "disk", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}
        }]);
        let mk = |name: &str, node: &str| {
            let mut pod = mk_replica(name, "1", node);
            pod["spec"]["topologySpreadConstraints"] = spread.clone();
            pod
        };
        let first = ground.pod(&mk("p", "va"));
        let place = ground.scene().move_elsewhere(&first);
        assert!(place.is_ok(), "0 and 1 is balanced: {place:?}");
        ground.pod(&mk("q", "vb"));
        let alone = ground.scene().move_elsewhere(&first).unwrap_err();
        assert_eq!(alone.kind(), "FitsNowhere", "0 and 2 is not: {alone}");
    }
}
