//! Resource vectors and a pod's effective request.
//!
//! A [`Resources`] counts what the scheduler counts, in the scheduler's units: thousandths of a CPU, bytes,
//! pods, and whole units of anything else. The four resources that every node has are fixed lanes; extended
//! resources and huge pages sit in a short list. What is absent is zero.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::quantity::{Format, Quantity};

mod pod;

pub use pod::{
    ContainerRequests, PodCondition, PodLevelRequests, PodRequests, Requirements, RunningContainer,
    RunningRequests, pod_request,
};

/// CPU time.
pub const CPU: &str = "cpu";
/// Main memory.
pub const MEMORY: &str = "memory";
/// Local scratch disk.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Number of pods.
pub const PODS: &str = "pods";
/// Prefix of huge page resources, counted in bytes.
pub const HUGE_PAGES_PREFIX: &str = "hugepages-";
/// Prefix of the old per-driver volume limits.
const ATTACHABLE_VOLUMES_PREFIX: &str = "attachable-volumes-";

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Pods.
    pub pods: i64,
    /// Every other resource, sorted by name, never zero.
    extended: Vec<(Arc<str>, i64)>,
}

/// One resource of a vector by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Thousandths of a CPU.
    MilliCpu,
    /// Bytes of memory.
    Memory,
    /// Bytes of local disk.
    EphemeralStorage,
    /// Pods.
    Pods,
    /// Whole units of an extended resource, or bytes of huge pages.
    Extended(Arc<str>),
}

// === impl Lane ===

impl Lane {
    /// The lane of the resource `name`; `None` for names that no scheduler counts.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            CPU => Some(Self::MilliCpu),
            MEMORY => Some(Self::Memory),
            EPHEMERAL_STORAGE => Some(Self::EphemeralStorage),
            PODS => Some(Self::Pods),
            _ if is_extended(name) => Some(Self::Extended(name.into())),
            _ => None,
        }
    }

    /// The resource's name in the API.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::MilliCpu => CPU,
            Self::Memory => MEMORY,
            Self::EphemeralStorage => EPHEMERAL_STORAGE,
            Self::Pods => PODS,
            Self::Extended(name) => name,
        }
    }

    /// `quantity` in this lane's unit, rounded up.
    fn units(&self, quantity: Quantity) -> i64 {
        if *self == Self::MilliCpu {
            quantity.milli()
        } else {
            quantity.value()
        }
    }

    /// `units` of this lane as the API writes them: bytes with binary suffixes, the rest with decimal ones.
    fn quantity(&self, units: i64) -> Quantity {
        match self {
            Self::MilliCpu => Quantity::from_milli(units),
            Self::Memory | Self::EphemeralStorage => Quantity::from_units(units, Format::BinarySi),
            Self::Extended(name) if name.starts_with(HUGE_PAGES_PREFIX) => {
                Quantity::from_units(units, Format::BinarySi)
            }
            Self::Pods | Self::Extended(_) => Quantity::from_units(units, Format::DecimalSi),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which names kube-scheduler counts beside the fixed lanes (`IsScalarResourceName` in pkg/scheduler/util):
/// names with a domain, huge pages and attachable volumes; quota names are not resources.
fn is_extended(name: &str) -> bool {
    name.starts_with(HUGE_PAGES_PREFIX)
        || name.starts_with(ATTACHABLE_VOLUMES_PREFIX)
        || (name.contains('/') && !name.starts_with("requests."))
}

// === impl Resources ===

impl Resources {
    /// The vector of a resource list of quantities.
    pub fn from_quantities<'a>(quantities: impl IntoIterator<Item = (&'a str, Quantity)>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities {
            if let Some(lane) = Lane::of(name) {
                resources.set(&lane, lane.units(quantity));
            }
        }
        resources
    }

    /// The API's resource list, with canonical quantities: the four fixed resources always, the others
    /// when they are not zero.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let entry = |(lane, units): (Lane, i64)| {
            (
                lane.name().to_owned(),
                Value::String(lane.quantity(units).to_string()),
            )
        };
        self.iter().map(entry).collect()
    }

    /// Every lane with its amount: the fixed ones first, then the extended ones by name.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, i64)> + '_ {
        let fixed = [
            (Lane::MilliCpu, self.milli_cpu),
            (Lane::Memory, self.memory),
            (Lane::EphemeralStorage, self.ephemeral_storage),
            (Lane::Pods, self.pods),
        ];
        fixed.into_iter().chain(
            self.extended()
                .map(|(name, units)| (Lane::Extended(name.clone()), units)),
        )
    }

    /// The extended resources, sorted by name; none of them is zero.
    pub fn extended(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, i64)> + '_ {
        self.extended.iter().map(|(name, units)| (name, *units))
    }

    /// The amount in `lane`.
    #[must_use]
    pub fn get(&self, lane: &Lane) -> i64 {
        match lane {
            Lane::MilliCpu => self.milli_cpu,
            Lane::Memory => self.memory,
            Lane::EphemeralStorage => self.ephemeral_storage,
            Lane::Pods => self.pods,
            Lane::Extended(name) => self.extended_units(name),
        }
    }

    /// Puts `units` into `lane`.
    pub fn set(&mut self, lane: &Lane, units: i64) {
        match lane {
            Lane::MilliCpu => self.milli_cpu = units,
            Lane::Memory => self.memory = units,
            Lane::EphemeralStorage => self.ephemeral_storage = units,
            Lane::Pods => self.pods = units,
            Lane::Extended(name) => self.update(name, |_| units),
        }
    }

    /// Adds `other`; a lane that would overflow stays at its limit.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes `other` away; lanes may become negative, one that would overflow stays at its limit.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each lane to that of `other` where that is more.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    /// Raises negative lanes to zero.
    pub fn clamp_to_zero(&mut self) {
        for lane in [
            &mut self.milli_cpu,
            &mut self.memory,
            &mut self.ephemeral_storage,
            &mut self.pods,
        ] {
            *lane = (*lane).max(0);
        }
        self.extended.retain(|(_, units)| *units > 0);
    }

    /// Whether a request of `self` fits into `free`. What is not asked for may be overdrawn, as in
    /// kube-scheduler.
    #[must_use]
    pub fn fits(&self, free: &Self) -> bool {
        self.fits_beside(&Self::default(), free)
    }

    /// Whether no lane is [lacking](Self::lacking); faster than to name those that are.
    #[must_use]
    pub fn fits_beside(&self, used: &Self, total: &Self) -> bool {
        !(lacks(self.pods, used.pods, total.pods)
            || lacks(self.milli_cpu, used.milli_cpu, total.milli_cpu)
            || lacks(self.memory, used.memory, total.memory)
            || lacks(
                self.ephemeral_storage,
                used.ephemeral_storage,
                total.ephemeral_storage,
            )
            || self
                .extended()
                .any(|(name, asked)| lacks(asked, used.extended_units(name), total.extended_units(name))))
    }

    /// The lanes in which `self` asks for more than is left of `total` beside `used`.
    pub fn lacking<'a>(&'a self, used: &'a Self, total: &'a Self) -> impl Iterator<Item = Lane> + 'a {
        let fixed = [
            (Lane::Pods, lacks(self.pods, used.pods, total.pods)),
            (
                Lane::MilliCpu,
                lacks(self.milli_cpu, used.milli_cpu, total.milli_cpu),
            ),
            (Lane::Memory, lacks(self.memory, used.memory, total.memory)),
            (
                Lane::EphemeralStorage,
                lacks(
                    self.ephemeral_storage,
                    used.ephemeral_storage,
                    total.ephemeral_storage,
                ),
            ),
        ];
        let lacks_extended = move |(name, asked): &(&Arc<str>, i64)| {
            lacks(*asked, used.extended_units(name), total.extended_units(name))
        };
        let extended = self
            .extended()
            .filter(lacks_extended)
            .map(|(name, _)| Lane::Extended(name.clone()));
        fixed
            .into_iter()
            .filter_map(|(lane, lacks)| lacks.then_some(lane))
            .chain(extended)
    }

    fn combine(&mut self, other: &Self, operation: fn(i64, i64) -> i64) {
        self.milli_cpu = operation(self.milli_cpu, other.milli_cpu);
        self.memory = operation(self.memory, other.memory);
        self.ephemeral_storage = operation(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = operation(self.pods, other.pods);
        for (name, units) in &other.extended {
            self.update(name, |mine| operation(mine, *units));
        }
    }

    /// Changes an extended resource; it is listed only while it is not zero.
    fn update(&mut self, name: &Arc<str>, change: impl FnOnce(i64) -> i64) {
        match self.find(name) {
            Ok(index) => match change(self.extended[index].1) {
                0 => drop(self.extended.remove(index)),
                units => self.extended[index].1 = units,
            },
            Err(index) => match change(0) {
                0 => {}
                units => self.extended.insert(index, (name.clone(), units)),
            },
        }
    }

    fn extended_units(&self, name: &str) -> i64 {
        self.find(name).map_or(0, |index| self.extended[index].1)
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.extended
            .binary_search_by(|(candidate, _)| candidate.as_ref().cmp(name))
    }
}

/// What is not asked for is not lacking, even where more is used than there is.
fn lacks(asked: i64, used: i64, total: i64) -> bool {
    asked > 0 && asked > total.saturating_sub(used)
}

/// Reads the API's resource list.
impl<'de> Deserialize<'de> for Resources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantities =
            Option::<BTreeMap<Box<str>, Quantity>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self::from_quantities(
            quantities
                .iter()
                .map(|(name, quantity)| (name.as_ref(), *quantity)),
        ))
    }
}

/// Writes the API's resource list.
impl Serialize for Resources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn mk(list: Value) -> Resources {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn a_resource_list_becomes_lanes_in_the_schedulers_units() {
        let resources = mk(json!({
            "cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "10G", "pods": "110",
            "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi", "attachable-volumes-csi-x": "25", "example.com/none": "0",
            "storage": "7", "requests.cpu": "1", "requests.nvidia.com/gpu": "1"
        }));
        let lanes: Vec<(String, i64)> = resources
            .iter()
            .map(|(lane, units)| (lane.to_string(), units))
            .collect();
        let expected = [
            ("cpu", 1500),
            ("memory", 1 << 30),
            ("ephemeral-storage", 10_000_000_000),
            ("pods", 110),
            ("attachable-volumes-csi-x", 25),
            ("hugepages-2Mi", 4 << 20),
            ("nvidia.com/gpu", 2),
        ];
        assert_eq!(lanes, expected.map(|(name, units)| (name.to_owned(), units)));
        assert_eq!(resources.get(&Lane::of("nvidia.com/gpu").unwrap()), 2);
        assert_eq!(Lane::of("storage"), None);
    }

    #[test]
    fn lanes_round_up_to_their_unit() {
        let resources = mk(json!({"cpu": "100u", "memory": "100m", "example.com/x": "1500m"}));
        assert_eq!((resources.milli_cpu, resources.memory), (1, 1));
        assert_eq!(
            resources.extended().map(|(_, units)| units).collect::<Vec<_>>(),
            [2]
        );
    }

    #[test]
    fn writes_canonical_quantities() {
        let list = json!({
            "cpu": "2000m", "memory": "1048576Ki", "ephemeral-storage": "2000", "pods": "1000",
            "hugepages-1Gi": "1024Mi", "example.com/x": "3000"
        });
        let canonical = json!({
            "cpu": "2", "memory": "1Gi", "ephemeral-storage": "2000", "pods": "1k",
            "hugepages-1Gi": "1Gi", "example.com/x": "3k"
        });
        assert_eq!(Value::Object(mk(list).to_json()), canonical);
        assert_eq!(serde_json::to_value(mk(canonical.clone())).unwrap(), canonical);
    }

    #[test]
    fn says_what_is_lacking_and_ignores_what_was_not_asked_for() {
        let free = mk(json!({"cpu": "1", "memory": "1Gi", "pods": "1", "example.com/x": "1"}));
        for (request, lacking) in [
            (json!({}), vec![]),
            (
                json!({"cpu": "1", "memory": "1Gi", "pods": "1", "example.com/x": "1"}),
                vec![],
            ),
            (json!({"cpu": "1001m"}), vec!["cpu"]),
            (
                json!({"memory": "1025Mi", "ephemeral-storage": "1"}),
                vec!["memory", "ephemeral-storage"],
            ),
            (
                json!({"example.com/x": "2", "pods": "2"}),
                vec!["pods", "example.com/x"],
            ),
            (json!({"example.com/y": "1"}), vec!["example.com/y"]),
        ] {
            let names: Vec<String> = mk(request.clone())
                .lacking(&Resources::default(), &free)
                .map(|lane| lane.to_string())
                .collect();
            assert_eq!(names, lacking, "{request}");
            assert_eq!(mk(request.clone()).fits(&free), lacking.is_empty(), "{request}");
        }
        let mut overdrawn = free;
        overdrawn.sub(&mk(json!({"cpu": "2"})));
        assert!(
            mk(json!({"memory": "1Gi"})).fits(&overdrawn),
            "overdrawn CPU does not matter to memory"
        );
    }

    #[test]
    fn figures_saturate_and_are_never_shown_below_zero() {
        let mut resources = mk(json!({"memory": "9223372036854775807", "example.com/x": "1"}));
        resources.add(&mk(json!({"memory": "1"})));
        assert_eq!(resources.memory, i64::MAX);
        resources.sub(&mk(
            json!({"cpu": "1", "example.com/x": "2", "example.com/y": "1"}),
        ));
        assert_eq!(resources.milli_cpu, -1000);
        resources.clamp_to_zero();
        assert_eq!(resources, mk(json!({"memory": "9223372036854775807"})));
    }

    #[test]
    fn a_bad_quantity_is_named() {
        let error = serde_json::from_value::<Resources>(json!({"cpu": "much"}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("quantity \"much\": expected a decimal number"),
            "{error}"
        );
    }

    fn any_resources() -> impl Strategy<Value = Resources> {
        (
            any::<[u32; 4]>(),
            proptest::collection::vec((0usize..4, 0i64..5), 0..4),
        )
            .prop_map(|(lanes, extended)| {
                let [cpu, memory, disk, pods] = lanes.map(i64::from);
                let mut resources = Resources {
                    milli_cpu: cpu,
                    memory,
                    ephemeral_storage: disk,
                    pods,
                    ..Resources::default()
                };
                for (index, units) in extended {
                    resources.set(&Lane::Extended(format!("example.com/{index}").into()), units);
                }
                resources
            })
    }

    proptest! {
        #[test]
        fn adding_and_subtracting_in_any_order_comes_back_to_the_start(a in any_resources(), b in any_resources()) {
            let mut sum = a.clone();
            sum.add(&b);
            let mut reversed = b.clone();
            reversed.add(&a);
            prop_assert_eq!(&sum, &reversed);
            prop_assert!(b.fits(&sum));
            sum.sub(&a);
            prop_assert_eq!(sum, b);
        }

        #[test]
        fn json_keeps_every_lane(resources in any_resources()) {
            prop_assert_eq!(mk(Value::Object(resources.to_json())), resources);
        }
    }
}
