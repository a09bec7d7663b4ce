//! Tells those who wrote a Secret what is wrong with it: an annotation for its state now, and an event.

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as KubeReporter};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use k8s_openapi::api::core::v1::Secret;
use tensile_core::names;

use super::Problem;

/// Reason of the events.
const REASON: &str = "InvalidCluster";

/// Writes annotations and events.
#[derive(Clone)]
pub struct Reporter {
    client: Client,
    events: Recorder,
}

// === impl Reporter ===

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// Reports in the name of `controller`.
    #[must_use]
    pub fn new(client: Client, controller: &str) -> Self {
        let reporter = KubeReporter {
            controller: controller.to_owned(),
            instance: None,
        };
        Self {
            events: Recorder::new(client.clone(), reporter),
            client,
        }
    }

    async fn report(&self, problem: &Problem) -> kube::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &problem.secret.key.namespace);
        let patch = json!({
            "metadata": {
                "uid": problem.secret.uid,
                "annotations": {names::CLUSTER_PROBLEM: problem.message},
            },
        });
        let secret = secrets
            .patch(
                &problem.secret.key.name,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        let Some(message) = &problem.message else {
            return Ok(());
        };
        let event = Event {
            type_: EventType::Warning,
            reason: REASON.to_owned(),
            note: Some(message.clone()),
            action: "Read".to_owned(),
            secondary: None,
        };
        self.events.publish(&event, &secret.object_ref(&())).await
    }
}

/// Logs problems and reports them, if there is somebody who does, until the sender is gone. A problem that cannot
/// be reported stays in the log: the next change of the Secret reports again.
pub(super) async fn deliver(mut problems: UnboundedReceiver<Problem>, reporter: Option<Reporter>) {
    while let Some(problem) = problems.recv().await {
        match &problem.message {
            Some(message) => {
                tracing::warn!(secret = %problem.secret.key, message, "lower cluster cannot be used");
            }
            None => tracing::info!(secret = %problem.secret.key, "lower cluster can be used again"),
        }
        let Some(reporter) = &reporter else { continue };
        if let Err(error) = reporter.report(&problem).await {
            tracing::warn!(secret = %problem.secret.key, %error, "the Secret cannot be told what is wrong with it");
        }
    }
}
