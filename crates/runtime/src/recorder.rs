//! Events on objects, sent beside the work that they tell of.
//!
//! kube's recorder groups repeats into a series; here it gets a task of its own behind a bounded channel, so
//! that nobody waits for an event and a storm of them is dropped, not queued.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder as KubeRecorder, Reporter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::key::Key;

/// Events that wait to be sent; further ones are dropped.
const CAPACITY: usize = 1024;
/// The same event on the same object is sent again only after this time; client-go groups within 10 minutes.
const REPEAT_AFTER: Duration = Duration::from_secs(300);
/// Entries of the memory of what was sent, before old ones are looked for.
const MEMORY: usize = 4096;

/// Longest wait for events that are still to be sent when a process ends: as long as kubectl waits for a small request.
const FLUSH: Duration = Duration::from_secs(5);

/// Sends events; clones share the task.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<Order>);

/// What the task is told.
#[derive(Debug)]
enum Order {
    Send(Note),
    /// All before this was sent.
    Answer(oneshot::Sender<()>),
}

/// An event about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// Namespace and name of the pod.
    pub pod: Key,
    /// UID of the pod.
    pub uid: String,
    /// Whether something is wrong.
    pub warning: bool,
    /// Why, in CamelCase.
    pub reason: &'static str,
    /// What was done, in CamelCase.
    pub action: &'static str,
    /// What happened and what can be done about it.
    pub message: String,
}

// === impl Recorder ===

impl Recorder {
    /// Starts the task; it ends when the last recorder is dropped.
    #[must_use]
    pub fn spawn(client: Client, controller: &str, instance: &str) -> Self {
        let (send, receive) = mpsc::channel(CAPACITY);
        let reporter = Reporter {
            controller: controller.to_owned(),
            instance: Some(instance.to_owned()),
        };
        tokio::spawn(deliver(receive, KubeRecorder::new(client, reporter)));
        Self(send)
    }

    /// Sends `note` unless the same was sent just before or too many wait.
    pub fn note(&self, note: Note) {
        if self.0.try_send(Order::Send(note)).is_err() {
            tracing::debug!("event dropped: too many wait");
        }
    }

    /// Waits until all events so far are sent, but not for ever: for a process that ends.
    pub async fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        let all = async {
            if self.0.send(Order::Answer(answer)).await.is_ok() {
                // An error means that the task has ended, and with it every event.
                let _ended = answered.await;
            }
        };
        if tokio::time::timeout(FLUSH, all).await.is_err() {
            tracing::warn!("events are lost: the API server does not take them");
        }
    }
}

async fn deliver(mut receive: mpsc::Receiver<Order>, recorder: KubeRecorder) {
    let mut sent: HashMap<Note, Instant> = HashMap::new();
    while let Some(order) = receive.recv().await {
        let note = match order {
            Order::Send(note) => note,
            Order::Answer(answer) => {
                // Whoever asked may have lost patience.
                let _gone = answer.send(());
                continue;
            }
        };
        if !first(&mut sent, &note, Instant::now()) {
            continue;
        }
        let (event, pod) = event(note);
        if let Err(error) = recorder.publish(&event, &pod).await {
            tracing::debug!(%error, "event not sent");
        }
    }
}

/// Whether `note` was not sent lately; remembers it.
fn first(sent: &mut HashMap<Note, Instant>, note: &Note, now: Instant) -> bool {
    if sent
        .get(note)
        .is_some_and(|at| now.duration_since(*at) < REPEAT_AFTER)
    {
        return false;
    }
    if sent.len() >= MEMORY {
        sent.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
    }
    sent.insert(note.clone(), now);
    true
}

fn event(note: Note) -> (Event, ObjectReference) {
    let pod = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(note.pod.namespace.to_string()),
        name: Some(note.pod.name.to_string()),
        uid: Some(note.uid),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: if note.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: note.reason.to_owned(),
        note: Some(note.message),
        action: note.action.to_owned(),
        secondary: None,
    };
    (event, pod)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Response;
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flush_waits_for_what_was_noted_before() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let count = count.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, Ordering::SeqCst);
                Response::builder().body(Body::from(
                    br#"{"metadata":{"name":"e","namespace":"n"}}"#.to_vec(),
                ))
            }
        });
        let recorder = Recorder::spawn(Client::new(service, "n"), "test", "test-0");
        for message in ["one", "two"] {
            recorder.note(Note {
                pod: Key::new("n", "p"),
                uid: "u".into(),
                warning: false,
                reason: "Told",
                action: "Tell",
                message: message.into(),
            });
        }
        recorder.flush().await;
        assert_eq!(sent.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_is_sent_again_only_after_a_while() {
        let note = Note {
            pod: Key::new("n", "p"),
            uid: "u".into(),
            warning: true,
            reason: "Failed",
            action: "Create",
            message: "m".into(),
        };
        let other = Note {
            message: "other".into(),
            ..note.clone()
        };
        let mut sent = HashMap::new();
        let now = Instant::now();
        assert!(first(&mut sent, &note, now));
        assert!(!first(&mut sent, &note, now + REPEAT_AFTER / 2));
        assert!(first(&mut sent, &other, now + REPEAT_AFTER / 2));
        assert!(first(&mut sent, &note, now + REPEAT_AFTER));
    }
}
