//! Random pods and nodes, by a generator that is fast and the same everywhere.
//!
//! Few keys and values, so that constraints hold about as often as not.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub(crate) const KEYS: [&str; 4] = ["clusterID", "region", "zone", "size"];
const VALUES: [&str; 4] = ["a", "b", "3", "7"];
const EFFECTS: [&str; 3] = ["NoSchedule", "NoExecute", "PreferNoSchedule"];

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub u64);

/// A node as the rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Value>,
}

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("below end")
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn list<T>(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| item(self)).collect()
    }

    /// A node named `prefix-0` to `prefix-2` with random labels and taints.
    pub(crate) fn node(&mut self, prefix: &str) -> Node {
        let mut labels = BTreeMap::new();
        for key in KEYS {
            if self.chance(75) {
                labels.insert(key.to_owned(), (*self.pick(&VALUES)).to_owned());
            }
        }
        let name = format!("{prefix}-{}", self.below(3));
        labels.insert("kubernetes.io/hostname".to_owned(), name.clone());
        let taints = if self.chance(70) {
            Vec::new()
        } else {
            self.list(2, Self::taint)
        };
        Node { name, labels, taints }
    }

    fn taint(&mut self) -> Value {
        json!({"key": self.pick(&["t", "u"]), "value": self.pick(&["", "x"]), "effect": self.pick(&EFFECTS)})
    }

    /// The scheduling members of a pod spec, each there about half of the time.
    pub(crate) fn spec(&mut self) -> Value {
        let mut spec = Map::new();
        if self.chance(40) {
            let selector: Map<String, Value> = self
                .list(2, |random| {
                    ((*random.pick(&KEYS)).to_owned(), json!(random.pick(&VALUES)))
                })
                .into_iter()
                .collect();
            spec.insert("nodeSelector".to_owned(), selector.into());
        }
        let mut affinity = Map::new();
        if self.chance(70) {
            let terms = self.list(3, Self::term);
            affinity.insert("requiredDuringSchedulingIgnoredDuringExecution".to_owned(), {
                json!({"nodeSelectorTerms": terms})
            });
        }
        if self.chance(50) {
            let preferences = self.list(
                3,
                |random| json!({"weight": 1 + random.below(9), "preference": random.term()}),
            );
            affinity.insert(
                "preferredDuringSchedulingIgnoredDuringExecution".to_owned(),
                preferences.into(),
            );
        }
        if !affinity.is_empty() {
            spec.insert("affinity".to_owned(), json!({"nodeAffinity": affinity}));
        }
        if self.chance(60) {
            spec.insert("tolerations".to_owned(), self.list(3, Self::toleration).into());
        }
        spec.into()
    }

    fn term(&mut self) -> Value {
        let mut term = Map::new();
        let expressions = self.list(3, Self::expression);
        if !expressions.is_empty() || self.chance(50) {
            term.insert("matchExpressions".to_owned(), expressions.into());
        }
        if self.chance(20) {
            let name = format!("{}-{}", self.pick(&["lower", "virtual"]), self.below(3));
            let field =
                json!({"key": "metadata.name", "operator": self.pick(&["In", "NotIn"]), "values": [name]});
            term.insert("matchFields".to_owned(), json!([field]));
        }
        term.into()
    }

    fn expression(&mut self) -> Value {
        let key = if self.chance(40) {
            KEYS[0]
        } else {
            *self.pick(&KEYS)
        };
        match *self.pick(&["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]) {
            operator @ ("In" | "NotIn") => {
                let mut values = self.list(2, |random| *random.pick(&VALUES));
                values.push(*self.pick(&VALUES));
                json!({"key": key, "operator": operator, "values": values})
            }
            operator @ ("Gt" | "Lt") => {
                json!({"key": key, "operator": operator, "values": [self.pick(&["2", "5", "x"])]})
            }
            operator => json!({"key": key, "operator": operator}),
        }
    }

    fn toleration(&mut self) -> Value {
        let mut toleration = Map::new();
        if self.chance(80) {
            toleration.insert(
                "key".to_owned(),
                json!(self.pick(&["t", "u", "virtual-kubelet.io/provider"])),
            );
        }
        match self.below(3) {
            0 => drop(toleration.insert("operator".to_owned(), json!("Exists"))),
            1 => drop(toleration.insert("value".to_owned(), json!(self.pick(&["", "x", "tensile"])))),
            _ => {}
        }
        if self.chance(50) {
            toleration.insert("effect".to_owned(), json!(self.pick(&EFFECTS)));
        }
        toleration.into()
    }
}
