//! Pods that the scheduler has just asked about, so that bind need not read them again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

/// Pods that are kept. Between filter and bind of one pod the scheduler asks about as many others as it binds in the time
/// of some API requests; what is not here any more is read from the API server.
const KEPT: usize = 512;

/// The pods of the last filter requests, by UID. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<Pods>>);

#[derive(Debug, Default)]
struct Pods {
    by_uid: HashMap<String, Value>,
    /// The oldest first; may name pods that were taken.
    order: VecDeque<String>,
}

// === impl Asked ===

impl Asked {
    /// Keeps a pod; the oldest one makes room for it.
    pub fn put(&self, pod: Value) {
        let Some(uid) = pod["metadata"]["uid"].as_str().map(str::to_owned) else {
            return;
        };
        let mut pods = self.0.lock();
        if pods.by_uid.insert(uid.clone(), pod).is_none() {
            pods.order.push_back(uid);
        }
        while pods.order.len() > KEPT {
            let oldest = pods.order.pop_front();
            oldest.and_then(|oldest| pods.by_uid.remove(&oldest));
        }
    }

    /// The pod, which is not kept any longer.
    #[must_use]
    pub fn take(&self, uid: &str) -> Option<Value> {
        let mut pods = self.0.lock();
        let pod = pods.by_uid.remove(uid)?;
        pods.order.retain(|known| known != uid);
        Some(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_pod;

    #[test]
    fn the_last_pods_are_kept_until_they_are_taken() {
        let asked = Asked::default();
        for index in 0..=KEPT {
            asked.put(mk_pod(&format!("p{index}"), "1"));
            asked.put(mk_pod(&format!("p{index}"), "2"));
        }
        assert_eq!(asked.take("p0"), None, "the oldest one made room");
        assert_eq!(asked.take("p1"), Some(mk_pod("p1", "2")), "as it was seen last");
        assert_eq!(asked.take("p1"), None);
        assert_eq!(asked.0.lock().order.len(), KEPT - 1);
    }
}
