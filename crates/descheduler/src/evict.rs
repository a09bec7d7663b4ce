//! Evictions.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions, Status};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tensile_core::names;

use crate::bare::{self, ApiServer};
use crate::budgets;
use crate::plan::{Move, PodRef};

/// What became of a planned eviction.
#[derive(Debug)]
pub enum Outcome {
    /// The pod goes.
    Evicted,
    /// It was gone already, or another pod has its name.
    Gone,
    /// Since the plan was made, its lower cluster has found a node for it.
    Placed,
    /// A PodDisruptionBudget does not allow it now.
    Budget(String),
    /// It has changed since it was recorded, so that nothing was done; the next round looks at it again.
    Changed,
    /// The API server refused, or could not be asked.
    Failed(kube::Error),
}

/// Evicts pods of the upper cluster.
#[derive(Clone)]
pub struct Evictor {
    /// The upper cluster.
    pub upper: Client,
    /// Where the avoidance and the promises are kept.
    pub system_namespace: String,
    /// Grace period of evicted pods in seconds; `None` for their own.
    pub grace_period: Option<u32>,
    /// Name of the policy's profile.
    pub profile: String,
}

// === impl Outcome ===

impl Outcome {
    /// In a word, for reports and metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Evicted => "Evicted",
            Self::Gone => "Gone",
            Self::Placed => "Placed",
            Self::Budget(_) => "Budget",
            Self::Changed => "Changed",
            Self::Failed(_) => "Failed",
        }
    }

    /// What the API server said, if it refused.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Budget(budget) => Some(budget.clone()),
            Self::Failed(error) => Some(error.to_string()),
            Self::Evicted | Self::Gone | Self::Placed | Self::Changed => None,
        }
    }

    /// Whether it is certain that the API server has not evicted the pod, and will not.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Gone | Self::Placed | Self::Budget(_) | Self::Changed => true,
            // What ended in a timeout may still be done.
            Self::Failed(kube::Error::Api(status)) => (400..500).contains(&status.code) && status.code != 408,
            Self::Evicted | Self::Failed(_) => false,
        }
    }
}

// === impl Evictor ===

impl Evictor {
    /// Evicts the pod, if its lower cluster still gives reason to and its budgets allow it: the virtual node will delete
    /// the lower pod, and a deletion asks no budget.
    pub async fn evict(&self, lower: Option<&Client>, planned: &Move) -> Outcome {
        let placed = match placed(lower, &planned.pod.uid).await {
            Ok(placed) => placed,
            Err(error) => return Outcome::Failed(error),
        };
        if planned.unplaced && !placed.is_empty() {
            return Outcome::Placed;
        }
        for pod in placed {
            match budgets::exhausted(lower, &pod).await {
                Ok(None) => {}
                Ok(Some(budget)) => return Outcome::Budget(budget),
                Err(error) => return Outcome::Failed(error),
            }
        }
        if planned.bare {
            return bare::evict(&ApiServer::new(self, Some(planned)), &planned.pod).await;
        }
        self.post(planned, None).await
    }

    /// Posts the eviction, of this version of the pod if one is given.
    pub(crate) async fn post(&self, planned: &Move, version: Option<&str>) -> Outcome {
        let pods: Api<Pod> = Api::namespaced(self.upper.clone(), &planned.pod.namespace);
        let eviction = eviction(planned, &self.profile, self.grace_period, version);
        let params = PostParams::default();
        let posted = pods
            .create_subresource::<_, Status>("eviction", &planned.pod.name, &params, &eviction)
            .await;
        match posted {
            Ok(_) => Outcome::Evicted,
            Err(kube::Error::Api(status)) if status.code == 409 && version.is_some() => Outcome::Changed,
            Err(error) => refused(error),
        }
    }

    /// Takes up the moves of pods without an owner that are not done; see [`bare`].
    ///
    /// # Errors
    /// When their records cannot be listed.
    pub(crate) async fn settle(&self, moving: &mut bare::Moving) -> kube::Result<(usize, Vec<PodRef>)> {
        bare::settle(&ApiServer::new(self, None), moving).await
    }

    /// Where notes are kept.
    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.upper.clone(), &self.system_namespace)
    }
}

/// What is posted: the UID is a precondition, so that a namesake is never evicted in its place.
fn eviction(planned: &Move, profile: &str, grace_period: Option<u32>, version: Option<&str>) -> Eviction {
    let reason = format!("triggered by {profile}/{}: {}", planned.strategy, planned.why);
    let annotations = [
        ("reason".to_owned(), reason),
        ("requested-by".to_owned(), names::MANAGER.to_owned()),
    ];
    Eviction {
        metadata: ObjectMeta {
            name: Some(planned.pod.name.clone()),
            namespace: Some(planned.pod.namespace.clone()),
            annotations: Some(annotations.into()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            grace_period_seconds: grace_period.map(i64::from),
            preconditions: Some(Preconditions {
                uid: Some(planned.pod.uid.clone()),
                resource_version: version.map(str::to_owned),
            }),
            ..DeleteOptions::default()
        }),
    }
}

/// The lower pods that have a node by now. A cluster that cannot be asked is an error: nothing is evicted on hearsay.
async fn placed(lower: Option<&Client>, origin: &str) -> kube::Result<Vec<Pod>> {
    let Some(lower) = lower else {
        return Err(kube::Error::Service("the lower cluster has left".into()));
    };
    let pods: Api<Pod> = Api::all(lower.clone());
    let ours = ListParams::default().labels(&format!("{}={origin}", names::ORIGIN_UID));
    let found = pods.list(&ours).await?.items.into_iter();
    let placed = found.filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
    Ok(placed.collect())
}

/// 409 is the UID precondition; 500 is what the API server says where several budgets match one pod.
fn refused(error: kube::Error) -> Outcome {
    match &error {
        kube::Error::Api(status) if [404, 409].contains(&status.code) => Outcome::Gone,
        kube::Error::Api(status) if status.code == 429 => Outcome::Budget(error.to_string()),
        _ => Outcome::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status as ApiStatus;
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_of_the_eviction_api_are_told_apart() {
        for (code, word) in [
            (404, "Gone"),
            (409, "Gone"),
            (429, "Budget"),
            (500, "Failed"),
            (403, "Failed"),
        ] {
            let status = ApiStatus {
                code,
                ..ApiStatus::failure("no", "reason")
            };
            let outcome = refused(kube::Error::Api(status.boxed()));
            assert_eq!(outcome.word(), word);
            assert_eq!(outcome.message().is_none(), word == "Gone");
        }
    }

    #[test]
    fn a_refusal_is_what_the_server_has_certainly_not_done() {
        let api = |code| {
            let status = ApiStatus {
                code,
                ..ApiStatus::failure("no", "reason")
            };
            Outcome::Failed(kube::Error::Api(status.boxed()))
        };
        for (outcome, wanted) in [
            (Outcome::Changed, true),
            (Outcome::Budget(String::new()), true),
            (api(403), true),
            (api(408), false),
            (api(504), false),
            (Outcome::Evicted, false),
            (Outcome::Failed(kube::Error::Service("cut".into())), false),
        ] {
            assert_eq!(outcome.is_refusal(), wanted, "{outcome:?}");
        }
    }

    #[test]
    fn an_eviction_names_uid_grace_and_reason() {
        let planned = Move {
            pod: PodRef {
                namespace: "ns".into(),
                name: "p".into(),
                uid: "u".into(),
            },
            strategy: "UnschedulableBelow",
            from: "va".into(),
            to: "vb".into(),
            lower_node: "b1".into(),
            why: "it cannot run".into(),
            unplaced: true,
            bare: false,
            promises: Vec::new(),
        };
        let posted = |version| serde_json::to_value(eviction(&planned, "default", Some(5), version)).unwrap();
        let options = &posted(Some("7"))["deleteOptions"];
        assert_eq!(
            options["preconditions"],
            json!({"uid": "u", "resourceVersion": "7"})
        );
        let posted = posted(None);
        let options = &posted["deleteOptions"];
        assert_eq!(options["preconditions"], json!({"uid": "u"}));
        assert_eq!(options["gracePeriodSeconds"], 5);
        let reason = &posted["metadata"]["annotations"]["reason"];
        assert_eq!(reason, "triggered by default/UnschedulableBelow: it cannot run");
        assert_eq!(posted["metadata"]["name"], "p");
    }
}
