//! Moves of pods that nobody makes again: the descheduler does, from a record that it writes before.
//!
//! ```text
//! read the pod ─▶ write the record ─▶ evict exactly what was read ─▶ (it goes) ─▶ create from the record ─▶ forget
//! ```
//!
//! Whoever has the lease takes up every record that it finds, so that it does not matter where the one before it ended:
//! - The pod is gone: it is made again. Its name is taken once only, so that it cannot be made twice.
//! - Its successor is there, or somebody else has taken its name: the record is forgotten.
//! - It is as it was read: an eviction may still be on its way to the API server, so the record is kept for longer than
//!   a request can take.
//! - It has changed since: no such eviction can come any more, since it would name the version that was read.
//!
//! So at any time the pod is there and nobody is about to remove it, or there is a record of it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::evict::Outcome;
use crate::plan::PodRef;

mod record;
mod server;
mod step;
#[cfg(test)]
mod sweep;

pub(crate) use record::Record;
pub(crate) use server::ApiServer;
use step::{Step, next};

/// How long a request can be on its way: the API server gives up after a minute (`--request-timeout`).
const IN_FLIGHT: Duration = Duration::from_secs(120);

/// What the API server does for pods without an owner.
pub(crate) trait Server {
    /// The pod of this name as it is now.
    fn pod(&self, namespace: &str, name: &str) -> impl Future<Output = kube::Result<Option<Value>>> + Send;
    /// All records.
    fn records(&self) -> impl Future<Output = kube::Result<Vec<Record>>> + Send;
    /// Writes a record, in place of an older one of the same pod.
    fn write(&self, record: &Record) -> impl Future<Output = kube::Result<Written>> + Send;
    /// Removes a record, unless it has been written anew.
    fn forget(&self, record: &Record) -> impl Future<Output = kube::Result<()>> + Send;
    /// Evicts the pod if it is still as it was recorded.
    fn evict(&self, record: &Record) -> impl Future<Output = Outcome> + Send;
    /// Makes the recorded pod again.
    fn create(&self, record: &Record) -> impl Future<Output = kube::Result<()>> + Send;
}

/// How a record was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The version under which it is stored.
    version: Option<String>,
    /// Whether there was none before. Else an eviction by whoever wrote that one may still be on its way.
    is_first: bool,
}

/// Pods on their way, by UID, each with the time until which requests about it may be, too.
#[derive(Debug, Default)]
pub(crate) struct Moving(HashMap<String, Instant>);

/// Evicts a pod that nobody makes again, once it is recorded.
pub(crate) async fn evict(server: &impl Server, pod: &PodRef) -> Outcome {
    let found = match server.pod(&pod.namespace, &pod.name).await {
        Ok(found) => found,
        Err(error) => return Outcome::Failed(error),
    };
    let Some(mut record) = found.and_then(|found| Record::of(found, &pod.uid)) else {
        return Outcome::Gone;
    };
    let written = match server.write(&record).await {
        Ok(written) => written,
        Err(error) => return Outcome::Failed(error),
    };
    record.stored = written.version;
    let outcome = server.evict(&record).await;
    if outcome.is_refusal() && written.is_first {
        forget(server, &record).await;
    }
    outcome
}

/// Takes up what is recorded; says how many pods are still on their way, and which have been made again.
///
/// # Errors
/// When the records cannot be listed.
pub(crate) async fn settle(server: &impl Server, moving: &mut Moving) -> kube::Result<(usize, Vec<PodRef>)> {
    let records = server.records().await?;
    moving.note(&records);
    let (mut open, mut restored) = (0, Vec::new());
    for record in records {
        let is_done = match server.pod(&record.namespace, &record.name).await {
            Ok(pod) => match next(&record, pod.as_ref(), moving.is_old(&record)) {
                Step::Wait => false,
                Step::Forget => forget(server, &record).await,
                Step::Restore => restore(server, &record, &mut restored).await,
            },
            Err(error) => {
                tracing::warn!(pod = %record.key(), %error, "cannot look for a pod that is being moved");
                false
            }
        };
        open += usize::from(!is_done);
    }
    Ok((open, restored))
}

async fn restore(server: &impl Server, record: &Record, restored: &mut Vec<PodRef>) -> bool {
    match server.create(record).await {
        Ok(()) => {
            restored.push(PodRef {
                namespace: record.namespace.clone(),
                name: record.name.clone(),
                uid: record.uid.clone(),
            });
            forget(server, record).await
        }
        Err(error) => {
            // Whoever has the name now is looked at in the next round.
            tracing::warn!(pod = %record.key(), %error, "cannot make a moved pod again yet; its record is kept");
            false
        }
    }
}

/// Says whether the record is gone.
async fn forget(server: &impl Server, record: &Record) -> bool {
    let forgotten = server.forget(record).await;
    if let Err(error) = &forgotten {
        tracing::warn!(pod = %record.key(), %error, "cannot remove the record of a moved pod yet");
    }
    forgotten.is_ok()
}

// === impl Moving ===

impl Moving {
    fn note(&mut self, records: &[Record]) {
        self.0
            .retain(|uid, _| records.iter().any(|record| record.uid == *uid));
        for record in records {
            let until = self.0.entry(record.uid.clone());
            until.or_insert_with(|| Instant::now() + IN_FLIGHT);
        }
    }

    /// Whether no request of whoever wrote the record can be on its way any more.
    fn is_old(&self, record: &Record) -> bool {
        let until = self.0.get(&record.uid);
        until.is_some_and(|until| *until <= Instant::now())
    }
}
