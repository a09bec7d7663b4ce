//! Who may ask the kubelet port of a virtual node directly.

use std::path::Path;

use anyhow::{Result, ensure};
use e2e::TestResult;
use http::Request;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::{Ground, IDLE, mk_simple, on_site};

/// A client of the kubelet port with the certificate of a kubeconfig.
async fn client(ground: &Ground, kubeconfig: Option<&Path>) -> Result<Client> {
    let url = format!("https://{}", ground.node.kubelet()).parse()?;
    let mut config = match kubeconfig {
        None => Config::new(url),
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            config.cluster_url = url;
            config.root_cert = None;
            config
        }
    };
    // The certificate is self-made, as a kubelet's may be.
    config.accept_invalid_certs = true;
    Ok(Client::try_from(config)?)
}

async fn ask(client: &Client, path: &str) -> Result<(u16, String)> {
    use http_body_util::BodyExt;
    let response = client.send(Request::get(path).body(Body::empty())?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn mk_rights(user: &str) -> [Value; 2] {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user},
        "rules": [{"apiGroups": [""], "resources": ["nodes/pods", "nodes/healthz"], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    [role, binding]
}

#[test]
fn the_kubelet_port_answers_those_who_may_ask() -> TestResult {
    on_site(async |site| {
        let ground = site.ground;
        site.run(&[mk_simple("shown", IDLE)]).await?;
        site.apply(&mk_rights("inspector")).await?;
        let upper = |user| ground.upper.kubeconfig_for(user, &["people"]);
        let callers = [
            ("nobody", None, 401),
            (
                "somebody of the lower cluster",
                Some(ground.lower.kubeconfig_for("stranger", &["people"])?),
                401,
            ),
            ("a user without rights", Some(upper("visitor")?), 403),
            ("a user with rights", Some(upper("inspector")?), 200),
        ];
        for (who, kubeconfig, expected) in &callers {
            let client = client(ground, kubeconfig.as_deref()).await?;
            for path in ["/pods", "/healthz"] {
                let (status, body) = ask(&client, path).await?;
                ensure!(status == *expected, "{who} on {path}: {status} {body}");
            }
        }
        let client = client(ground, callers[3].1.as_deref()).await?;
        let pods: Value = serde_json::from_str(&ask(&client, "/pods").await?.1)?;
        let mut names = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| &pod["metadata"]);
        ensure!(
            names.any(|pod| pod["name"] == "shown" && pod["namespace"] == *site.namespace),
            "{pods}"
        );
        let exec = format!("/exec/{}/shown/main?command=id&output=1", site.namespace);
        let (status, body) = ask(&client, &exec).await?;
        ensure!(status == 403, "exec without the right to it: {status} {body}");
        Ok(())
    })
}
