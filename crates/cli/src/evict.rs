//! Evictions through the Eviction API, for one pod and no namesake of it.

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::error::reason;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// The pod is on its way out, or gone.
    Accepted,
    /// A PodDisruptionBudget does not allow it now; the message is the API server's.
    Later(String),
    /// It will not be allowed.
    Refused(String),
}

/// Asks for a pod's eviction.
pub(crate) async fn evict(client: &Client, namespace: &str, name: &str, uid: &str) -> Eviction {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let body = eviction(namespace, name, uid);
    let answer = pods
        .create_subresource::<_, Value>("eviction", name, &PostParams::default(), &body)
        .await;
    judge(answer.map(drop))
}

fn eviction(namespace: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": {"preconditions": {"uid": uid}},
    })
}

/// 404 and 409 mean that the pod which was meant is no longer there.
fn judge(answer: kube::Result<()>) -> Eviction {
    match answer {
        Ok(()) => Eviction::Accepted,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Eviction::Accepted,
        Err(error) => match &error {
            kube::Error::Api(status) if status.code != 429 => Eviction::Refused(reason(&error)),
            _ => Eviction::Later(reason(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_budget_is_waited_for_and_a_pod_that_is_gone_is_evicted() {
        let answer = |code| {
            judge(Err(kube::Error::Api(Box::new(
                Status::failure("no", "").with_code(code),
            ))))
        };
        assert_eq!(judge(Ok(())), Eviction::Accepted);
        assert_eq!(answer(404), Eviction::Accepted);
        assert_eq!(answer(409), Eviction::Accepted);
        assert_eq!(answer(429), Eviction::Later("no".to_owned()));
        assert_eq!(answer(403), Eviction::Refused("no".to_owned()));
    }
}
