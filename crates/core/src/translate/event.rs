//! Events of lower pods → events of the upper pods.
//!
//! A copy has the name of its original, so that a repeat is a patch of the same object, here as there. Routine is
//! left out: a running pod needs no event. What comes too often is limited as client-go limits it.

use std::time::Duration;

use serde_json::{Value, json};

use super::json::{Object, edit, set};
use super::{TranslateError, member, metadata};

/// Normal events of every pod that does well.
const ROUTINE: [&str; 6] = ["Created", "Killing", "Pulled", "Pulling", "Scheduled", "Started"];
/// Members that count repeats.
const REPEATS: [&str; 4] = ["count", "lastTimestamp", "message", "series"];

/// Writes that one pod's events may cost at once; client-go's defaultSpamBurst (tools/record/events_cache.go).
const BURST: u32 = 25;
/// After which one more is allowed; client-go's defaultSpamQPS is one in 300 s.
const REFILL: Duration = Duration::from_secs(300);

/// The upper pod that the event is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `metadata.namespace`.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// The virtual node, which stands for the lower node that the event came from.
    pub node_name: &'a str,
}

/// How many more event writes one pod may cost: a token bucket that stores only when it was last full. Times are
/// those since any fixed moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The time at which all tokens are back.
    full_at: Duration,
}

// === impl Budget ===

impl Budget {
    /// Takes one write at `now`; false when the pod has had its share.
    #[must_use]
    pub fn take(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + REFILL;
        let allowed = full_at - now <= REFILL * BURST;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Whether nothing of it is in use at `now`.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

/// Whether the `event` was sent before: it counts more than once.
#[must_use]
pub fn is_repeat(event: &Value) -> bool {
    let count = |value: &Value| value.as_i64().unwrap_or_default();
    count(&event["count"]) > 1 || count(&event["series"]["count"]) > 1
}

/// Whether a user should see the lower `event` above.
#[must_use]
pub fn is_told(event: &Value) -> bool {
    let routine = event["reason"]
        .as_str()
        .is_some_and(|reason| ROUTINE.contains(&reason));
    event["involvedObject"]["kind"] == "Pod" && (event["type"] == "Warning" || !routine)
}

/// The upper event for the lower `event`.
///
/// # Errors
/// When `event` has no metadata.
pub fn to_upper(event: &Value, subject: &Subject<'_>) -> Result<Value, TranslateError> {
    let mut metadata = member(event, "metadata")?.clone();
    metadata::strip(&mut metadata);
    metadata.insert("namespace".to_owned(), json!(subject.namespace));
    let mut upper: Object = event.as_object().cloned().unwrap_or_default();
    upper.insert("apiVersion".to_owned(), json!("v1"));
    upper.insert("kind".to_owned(), json!("Event"));
    upper.insert("metadata".to_owned(), Value::Object(metadata));
    upper.remove("related");
    edit(&mut upper, "involvedObject", |object| {
        object.remove("resourceVersion");
        set(object, "namespace", Some(json!(subject.namespace)));
        set(object, "name", Some(json!(subject.name)));
        set(object, "uid", Some(json!(subject.uid)));
    });
    edit(&mut upper, "source", |source| {
        if source.contains_key("host") {
            set(source, "host", Some(json!(subject.node_name)));
        }
    });
    Ok(Value::Object(upper))
}

/// The merge patch for the upper event when the lower `event` was repeated.
#[must_use]
pub fn repeat(event: &Value) -> Value {
    let repeats = REPEATS
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), event.get(key)?.clone())));
    Value::Object(repeats.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_event() -> Value {
        json!({
            "metadata": {
                "name": "web-0.17f", "namespace": "lower-shop", "uid": "e-1", "resourceVersion": "9",
                "creationTimestamp": "t", "managedFields": [],
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "lower-shop", "name": "web-0", "uid": "l-1",
                "resourceVersion": "7", "fieldPath": "spec.containers{c}",
            },
            "reason": "BackOff", "message": "Back-off pulling image", "type": "Warning", "count": 3,
            "firstTimestamp": "t1", "lastTimestamp": "t3", "source": {"component": "kubelet", "host": "lower-1"},
            "reportingComponent": "kubelet", "reportingInstance": "lower-1", "related": {"kind": "Node"},
        })
    }

    #[test]
    fn an_event_is_about_the_upper_pod_on_the_virtual_node() {
        let subject = Subject {
            namespace: "shop",
            name: "web-0",
            uid: "u-1",
            node_name: "vnode",
        };
        assert_eq!(
            to_upper(&mk_event(), &subject).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": "web-0.17f", "namespace": "shop"},
                "involvedObject": {
                    "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "u-1",
                    "fieldPath": "spec.containers{c}",
                },
                "reason": "BackOff", "message": "Back-off pulling image", "type": "Warning", "count": 3,
                "firstTimestamp": "t1", "lastTimestamp": "t3", "source": {"component": "kubelet", "host": "vnode"},
                "reportingComponent": "kubelet", "reportingInstance": "lower-1",
            })
        );
    }

    #[test]
    fn a_repeat_changes_only_what_counts() {
        let expected = json!({"count": 3, "lastTimestamp": "t3", "message": "Back-off pulling image"});
        assert_eq!(repeat(&mk_event()), expected);
        let series = json!({"series": {"count": 2, "lastObservedTime": "t"}});
        assert_eq!(repeat(&series), series);
        assert!(is_repeat(&mk_event()) && is_repeat(&series) && !is_repeat(&json!({"count": 1})));
    }

    #[test]
    fn trouble_is_told_and_routine_is_not() {
        for (kind, event_type, reason, told) in [
            ("Pod", "Warning", "FailedScheduling", true),
            ("Pod", "Warning", "Killing", true),
            ("Pod", "Normal", "BackOff", true),
            ("Pod", "Normal", "Started", false),
            ("Pod", "Normal", "Scheduled", false),
            ("Node", "Warning", "NodeNotReady", false),
        ] {
            let event = json!({"involvedObject": {"kind": kind}, "type": event_type, "reason": reason});
            assert_eq!(is_told(&event), told, "{event}");
        }
    }

    #[test]
    fn a_pod_has_a_burst_and_then_one_write_in_five_minutes() {
        let mut budget = Budget::default();
        let start = Duration::from_secs(1_000_000);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 25);
        let each_minute = (1..=60).filter(|minute| budget.take(start + Duration::from_secs(60) * *minute));
        assert_eq!(each_minute.count(), 12);
        assert!(!budget.is_full(start + Duration::from_secs(3600)));
        let rested = start + Duration::from_secs(3600) + REFILL * BURST;
        assert!(budget.is_full(rested));
        assert_eq!((0..100).filter(|_| budget.take(rested)).count(), 25);
    }
}
