//! Service accounts: what programs in pods may do in the upper cluster, and with whose name.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, Site, mk_container, mk_pod, on_site};

/// Where programs look for their token.
const FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A service account that may list pods, and nothing else.
fn mk_reader(namespace: &str) -> [Value; 3] {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}});
    [account, role, binding]
}

/// A pod with kubectl in `/tools`, which finds the API server as any program does.
fn mk_client(site: &Site, name: &str, account: Option<&str>) -> Result<Value> {
    let path = site.ground.upper.kubectl_path();
    let tools = path.parent().context("kubectl lies in no folder")?;
    let volumes = json!([{"name": "tools", "hostPath": {"path": tools}}]);
    let mounts = json!({"volumeMounts": [{"name": "tools", "mountPath": "/tools"}]});
    let mut pod = mk_pod(
        name,
        &json!({"volumes": volumes, "containers": [mk_container("main", IDLE, &mounts)]}),
    );
    if let Some(account) = account {
        pod["metadata"]["annotations"] = json!({"tensile.dev/service-account": account});
    }
    Ok(pod)
}

/// What a token says of itself.
fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("not a token")?;
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload)?)?)
}

async fn token_secret(site: &Site, pod: &str) -> Result<(Api<Secret>, String)> {
    let uid = site.pod(pod).await?["metadata"]["uid"].clone();
    let name = format!("tensile-token-{}", uid.as_str().context("no uid")?);
    Ok((
        Api::namespaced(site.ground.lower.client().await?, &site.namespace),
        name,
    ))
}

#[test]
fn a_program_acts_above_with_the_rights_of_its_own_service_account() -> TestResult {
    on_site(async |site| {
        site.apply(&mk_reader(&site.namespace)).await?;
        let mut client = mk_client(&site, "client", None)?;
        client["spec"]["serviceAccountName"] = json!("reader");
        let mut unbound = mk_pod(
            "only-above",
            &json!({"containers": [mk_container("main", IDLE, &json!({}))]}),
        );
        unbound["spec"]["nodeSelector"] = json!({"no": "such-node"});
        site.apply(&[unbound]).await?;
        site.run(&[client]).await?;

        let listed = site.exec("client", "/tools/kubectl get pods -o name").await?;
        ensure!(listed == "pod/client\npod/only-above\n", "{listed}");
        let refused = site
            .exec("client", "/tools/kubectl get secrets 2>&1; true")
            .await?;
        let user = format!("system:serviceaccount:{}:reader", site.namespace);
        ensure!(
            refused.contains("forbidden") && refused.contains(&user),
            "{refused}"
        );
        let found = site.exec("client", &format!("cat {FILES}/namespace")).await?;
        ensure!(found == site.namespace, "{found}");

        let (secrets, name) = token_secret(&site, "client").await?;
        let labels = secrets.get(&name).await?.metadata.labels.unwrap_or_default();
        ensure!(labels["tensile.dev/origin-node"] == crate::NODE, "{labels:?}");
        site.kubectl_ok(&["delete", "pod", "client"]).await?;
        support::await_condition("the Secret to go with its pod", DEADLINE, || async {
            Ok(secrets.get_opt(&name).await?.is_none().then_some(()))
        })
        .await
    })
}

#[test]
fn tokens_are_bound_to_the_upper_pod_and_replaced_in_time() -> TestResult {
    on_site(async |site| {
        let source =
            json!({"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}});
        let mounts = json!({"volumeMounts": [{"name": "vault", "mountPath": "/vault"}]});
        let spec = json!({
            "volumes": [{"name": "vault", "projected": {"sources": [source]}}],
            "containers": [mk_container("main", IDLE, &mounts)],
        });
        site.run(&[mk_pod("app", &spec)]).await?;
        let uid = site.pod("app").await?["metadata"]["uid"].clone();
        let first = site.exec("app", "cat /vault/vault").await?;
        let said = claims(&first)?;
        ensure!(said["aud"] == json!(["vault"]), "{said}");
        ensure!(
            said["kubernetes.io"]["pod"] == json!({"name": "app", "uid": uid}),
            "{said}"
        );
        let life = said["exp"].as_i64().zip(said["iat"].as_i64());
        ensure!(life.is_some_and(|(exp, iat)| exp - iat == 600), "{said}");
        let own = claims(&site.exec("app", &format!("cat {FILES}/token")).await?)?;
        ensure!(own["kubernetes.io"]["pod"]["uid"] == uid, "{own}");

        let (secrets, name) = token_secret(&site, "app").await?;
        let due = json!({"metadata": {"annotations": {"tensile.dev/refresh-at": "2000-01-01T00:00:00Z"}}});
        secrets
            .patch(&name, &PatchParams::default(), &Patch::Merge(due))
            .await?;
        support::await_condition("new tokens in the pod", DEADLINE, || async {
            // A kubelet looks at its volumes when the pod changes.
            site.kubectl_ok(&[
                "annotate",
                "--overwrite",
                "pod",
                "app",
                &format!("look={}", rand()),
            ])
            .await?;
            let second = site.exec("app", "cat /vault/vault").await?;
            Ok((second != first && claims(&second)?["aud"] == json!(["vault"])).then_some(()))
        })
        .await?;
        let metadata = secrets.get(&name).await?.metadata;
        let refresh = metadata.annotations.unwrap_or_default();
        ensure!(refresh["tensile.dev/refresh-at"].as_str() > "2001", "{refresh:?}");
        secrets.delete(&name, &kube::api::DeleteParams::default()).await?;
        support::await_condition("the Secret to be made again", DEADLINE, || async {
            Ok(secrets.get_opt(&name).await?.map(drop))
        })
        .await
    })
}

/// Something new each time.
fn rand() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|now| now.as_nanos()).unwrap_or_default()
}

#[test]
fn a_pod_may_have_a_lower_service_account_or_none() -> TestResult {
    on_site(async |site| {
        let pods = [
            mk_client(&site, "upper", None)?,
            mk_client(&site, "lower", Some("lower"))?,
            mk_client(&site, "none", Some("none"))?,
        ];
        site.run(&pods).await?;
        let server = site.ground.upper.api_server();
        let host = "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT";
        let (upper, lower) = (format!("{server}\n"), "10.96.0.1:443\n");
        for (pod, expected) in [("upper", upper.as_str()), ("lower", lower), ("none", lower)] {
            let found = site.exec(pod, host).await?;
            ensure!(found == expected, "{pod}: {found}");
        }
        let token = claims(&site.exec("lower", &format!("cat {FILES}/token")).await?)?;
        let below = site.lower_pod("lower").await?;
        ensure!(
            token["kubernetes.io"]["pod"]["uid"] == below["metadata"]["uid"],
            "{token}"
        );
        let refused = site.exec("lower", "/tools/kubectl get pods 2>&1; true").await?;
        ensure!(refused.contains("forbidden"), "{refused}");
        let files = site.exec("none", &format!("ls {FILES} 2>&1; true")).await?;
        ensure!(files.contains("No such file"), "{files}");

        let mut wrong = mk_client(&site, "wrong", Some("mine"))?;
        wrong["spec"]["volumes"] = json!([]);
        wrong["spec"]["containers"][0]["volumeMounts"] = json!([]);
        site.apply(&[wrong]).await?;
        let refused = |pod: &Value| pod["status"]["reason"] == "ProviderFailed";
        let wrong = site.await_pod("wrong", "to say why it waits", refused).await?;
        let message = wrong["status"]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("tensile.dev/service-account is mine"),
            "{message}"
        );
        Ok(())
    })
}
