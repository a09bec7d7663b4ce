//! Objects that pods name, or that come with their service account.

use anyhow::ensure;
use e2e::TestResult;
use serde_json::{Value, json};

use crate::{NODE, create, delete, get, mk_pod, on_site, until, until_gone};

#[test]
fn pull_secrets_of_the_service_account_come_with_the_pod() -> TestResult {
    on_site(async |site| {
        let registry = json!({"auths": {"registry.example": {"auth": "dXNlcjpwYXNz"}}}).to_string();
        let secret = json!({
            "metadata": {"name": "pull"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": registry},
        });
        create(&site.upper, &site.all("secrets"), &secret).await?;
        let account = json!({"metadata": {"name": "builder"}, "imagePullSecrets": [{"name": "pull"}]});
        create(&site.upper, &site.all("serviceaccounts"), &account).await?;
        let pod = mk_pod("web", NODE, &json!({"serviceAccountName": "builder"}));
        let below = site.run(&pod, &site.first).await?;
        ensure!(
            below["spec"]["imagePullSecrets"] == json!([{"name": "pull"}]),
            "{below}"
        );
        // The account is the upper one: the lower cluster does not know it.
        ensure!(below["spec"]["serviceAccountName"] == "default", "{below}");
        let [above, copy] = [
            get(&site.upper, &site.all("secrets"), "pull").await?,
            get(&site.first, &site.all("secrets"), "pull").await?,
        ];
        ensure!(
            copy["data"] == above["data"] && copy["type"] == above["type"],
            "{copy}"
        );
        Ok(())
    })
}

#[test]
fn what_is_optional_arrives_when_it_is_made_and_goes_when_it_is_deleted() -> TestResult {
    on_site(async |site| {
        let mut pod = mk_pod(
            "web",
            NODE,
            &json!({"volumes": [{"name": "c", "configMap": {"name": "later", "optional": true}}]}),
        );
        pod["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "later", "optional": true}}]);
        let below = site.run(&pod, &site.first).await?;
        for plural in ["configmaps", "secrets"] {
            let all = site.all(plural);
            ensure!(get(&site.first, &all, "later").await?.is_null());
            let object = json!({"metadata": {"name": "later"}, "immutable": true});
            create(&site.upper, &all, &object).await?;
            let there = |copy: &Value| copy["immutable"] == true;
            until(&site.first, &all, "later", "to arrive", there).await?;
            delete(&site.upper, &all, "later").await?;
            until_gone(&site.first, &all, "later").await?;
        }
        let after = get(&site.first, &site.all("pods"), "web").await?;
        ensure!(after["metadata"]["uid"] == below["metadata"]["uid"], "{after}");
        Ok(())
    })
}
