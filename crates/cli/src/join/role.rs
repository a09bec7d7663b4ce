//! The rights that Tensile needs below: the chart's manifest, which is built in.

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tensile_core::names;

use crate::error::{CliError, reason};

/// The same file that users apply by hand.
const MANIFEST: &str = include_str!("../../../../charts/tensile/files/lower-role.yaml");
/// Questions to an API server at a time.
const CONCURRENCY: usize = 8;

/// Namespace and name of the service account in [`MANIFEST`].
pub(crate) const NAMESPACE: &str = "tensile-system";
pub(crate) const SERVICE_ACCOUNT: &str = "tensile";

/// One thing that may be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    group: String,
    resource: String,
    subresource: String,
    verb: String,
}

/// The objects of the manifest.
fn objects() -> Result<Vec<Value>, CliError> {
    serde_saphyr::from_multiple(MANIFEST)
        .map_err(|error| CliError::Refused(format!("the built-in manifest cannot be read: {error}")))
}

/// Applies the manifest with the rights of an administrator of the lower cluster.
pub(crate) async fn apply(client: &Client) -> Result<(), CliError> {
    for object in objects()? {
        let text = |member: &str| object[member].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion")
            .split_once('/')
            .unwrap_or(("", text("apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("kind")));
        let metadata = &object["metadata"];
        let api: Api<DynamicObject> = match metadata["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = metadata["name"].as_str().unwrap_or_default();
        let params = PatchParams::apply(names::MANAGER).force();
        api.patch(name, &params, &Patch::Apply(&object))
            .await
            .map_err(CliError::api(format!(
                "cannot apply {} {name} in the lower cluster",
                text("kind")
            )))?;
    }
    Ok(())
}

/// Every right that the manifest grants.
pub(crate) fn rights() -> Result<Vec<Right>, CliError> {
    let objects = objects()?;
    let rules = objects
        .iter()
        .flat_map(|object| object["rules"].as_array().into_iter().flatten());
    Ok(rules.flat_map(Right::of_rule).collect())
}

/// Which of the rights the client lacks; the error is what a person reads.
pub(crate) async fn lacking(client: &Client, rights: Vec<Right>) -> Result<Vec<String>, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let ask = |right: Right| {
        let reviews = reviews.clone();
        async move {
            let review = serde_json::from_value(right.review()).map_err(|error| error.to_string())?;
            let answer = reviews.create(&PostParams::default(), &review).await;
            let allowed = answer
                .map_err(|error| reason(&error))?
                .status
                .is_some_and(|status| status.allowed);
            Ok::<_, String>((!allowed).then(|| right.to_string()))
        }
    };
    let answers = stream::iter(rights).map(ask).buffered(CONCURRENCY);
    let answers: Vec<Option<String>> = answers.try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}

// === impl Right ===

impl Right {
    fn of_rule(rule: &Value) -> Vec<Self> {
        let words = |member: &str| {
            let words = rule[member].as_array().into_iter().flatten();
            words
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut rights = Vec::new();
        for group in words("apiGroups") {
            for resource in words("resources") {
                let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
                rights.extend(words("verbs").into_iter().map(|verb| Self {
                    group: group.clone(),
                    resource: resource.to_owned(),
                    subresource: subresource.to_owned(),
                    verb,
                }));
            }
        }
        rights
    }

    fn review(&self) -> Value {
        json!({"metadata": {}, "spec": {"resourceAttributes": {
            "group": self.group, "resource": self.resource, "subresource": self.subresource, "verb": self.verb,
        }}})
    }
}

/// `create pods/exec`
impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.group.is_empty() {
            write!(f, " ({})", self.group)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_holds_the_account_and_the_rights() {
        let objects = objects().unwrap();
        let account = objects
            .iter()
            .find(|object| object["kind"] == "ServiceAccount")
            .unwrap();
        assert_eq!(
            (&account["metadata"]["namespace"], &account["metadata"]["name"]),
            (&json!(NAMESPACE), &json!(SERVICE_ACCOUNT))
        );
        let rights: Vec<String> = rights().unwrap().iter().map(ToString::to_string).collect();
        assert!(
            rights.contains(&"create pods".to_owned()) && rights.contains(&"get pods/log".to_owned()),
            "{rights:?}"
        );
    }

    #[test]
    fn a_rule_is_every_combination_of_its_words() {
        let rule = json!({"apiGroups": ["g"], "resources": ["a", "b/c"], "verbs": ["get", "list"]});
        let rights: Vec<String> = Right::of_rule(&rule).iter().map(ToString::to_string).collect();
        assert_eq!(rights, ["get a (g)", "list a (g)", "get b/c (g)", "list b/c (g)"]);
    }
}
