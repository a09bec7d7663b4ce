//! PodDisruptionBudgets of lower clusters.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tensile_core::labels::{Labels, Selector};

/// A budget of the pod's own cluster that allows no disruption now, for people. Pods that are not ready, and so protect
/// nobody, count as well: better one eviction too few.
pub(crate) async fn exhausted(cluster: Option<&Client>, pod: &Pod) -> kube::Result<Option<String>> {
    let (Some(cluster), Some(namespace)) = (cluster, pod.namespace()) else {
        return Ok(None);
    };
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(cluster.clone(), &namespace);
    let list = budgets.list(&ListParams::default()).await?;
    let labels: Labels = pod.labels().clone().into_iter().collect();
    Ok(list.iter().find(|budget| holds(budget, &labels)).map(|budget| {
        format!(
            "the lower cluster's PodDisruptionBudget {namespace}/{}",
            budget.name_any()
        )
    }))
}

/// Whether the budget is about such pods and allows no disruption. One that cannot be read holds.
fn holds(budget: &PodDisruptionBudget, labels: &Labels) -> bool {
    let Some(spec) = &budget.spec else { return false };
    let Some(selector) = &spec.selector else {
        return false;
    };
    let selector = serde_json::to_value(selector).and_then(serde_json::from_value::<Selector>);
    let allowed = budget
        .status
        .as_ref()
        .and_then(|status| status.disruptions_allowed);
    selector.map_or(true, |selector| selector.matches(labels)) && allowed.unwrap_or(0) < 1
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_holds_for_the_pods_that_it_is_about_until_it_allows_a_disruption() {
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into_iter().collect();
        for (app, allowed, wanted) in [("web", 0, true), ("web", 1, false), ("db", 0, false)] {
            let budget = json!({
                "spec": {"selector": {"matchLabels": {"app": app}}},
                "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
            });
            let budget = serde_json::from_value(budget).unwrap();
            assert_eq!(holds(&budget, &labels), wanted, "{app} {allowed}");
        }
        let nobody = serde_json::from_value(json!({"spec": {}})).unwrap();
        assert!(!holds(&nobody, &labels));
    }
}
