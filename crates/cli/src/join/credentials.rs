//! The kubeconfig that Tensile gets: the way of the administrator's, with the rights of the service account.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{Kubeconfig, NamedCluster};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::role::{NAMESPACE, SERVICE_ACCOUNT};
use crate::error::CliError;

/// Asks for a token of the service account.
pub(crate) async fn token(client: &Client, seconds: i64) -> Result<String, CliError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let spec = TokenRequestSpec {
        expiration_seconds: Some(seconds),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest {
        spec: Some(spec),
        ..TokenRequest::default()
    };
    let what = format!("cannot get a token of service account {NAMESPACE}/{SERVICE_ACCOUNT} below");
    let answer = accounts
        .create_token_request(SERVICE_ACCOUNT, &PostParams::default(), &request)
        .await
        .map_err(CliError::api(what))?;
    Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
}

/// A kubeconfig for `token`, at the cluster of the given context or at another address of it.
pub(crate) fn kubeconfig(
    admin: &Kubeconfig,
    context: Option<&str>,
    server: Option<&str>,
    id: &str,
    token: &str,
) -> Result<Value, CliError> {
    let mut cluster = cluster_of(admin, context)?;
    inline_authority(&mut cluster)?;
    if let Some(server) = server {
        cluster["server"] = server.into();
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": id, "cluster": cluster}],
        "users": [{"name": SERVICE_ACCOUNT, "user": {"token": token}}],
        "contexts": [{"name": id, "context": {"cluster": id, "user": SERVICE_ACCOUNT}}],
        "current-context": id,
    }))
}

fn cluster_of(admin: &Kubeconfig, context: Option<&str>) -> Result<Value, CliError> {
    let missing = |what: &str, name: &str| {
        CliError::Kubeconfig(format!("of the lower cluster: it has no {what} {name:?}"))
    };
    let context = context.or(admin.current_context.as_deref()).unwrap_or_default();
    let named = admin.contexts.iter().find(|named| named.name == context);
    let named = named
        .and_then(|named| named.context.as_ref())
        .ok_or_else(|| missing("context", context))?;
    let cluster = |cluster: &&NamedCluster| cluster.name == named.cluster;
    let cluster = admin
        .clusters
        .iter()
        .find(cluster)
        .and_then(|named| named.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| missing("cluster", &named.cluster))?;
    serde_json::to_value(cluster).map_err(CliError::Json)
}

/// A file of the administrator's machine does not exist where Tensile runs.
fn inline_authority(cluster: &mut Value) -> Result<(), CliError> {
    let Some(path) = cluster["certificate-authority"]
        .as_str()
        .map(std::path::PathBuf::from)
    else {
        return Ok(());
    };
    let pem = std::fs::read(&path).map_err(|source| CliError::File { path, source })?;
    cluster["certificate-authority-data"] = BASE64_STANDARD.encode(pem).into();
    if let Some(members) = cluster.as_object_mut() {
        members.remove("certificate-authority");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_admin(authority: &str) -> Kubeconfig {
        serde_json::from_value(json!({
            "current-context": "one",
            "contexts": [
                {"name": "one", "context": {"cluster": "c1", "user": "admin"}},
                {"name": "two", "context": {"cluster": "c2", "user": "admin"}},
            ],
            "clusters": [
                {"name": "c1", "cluster": {"server": "https://one", "certificate-authority": authority}},
                {"name": "c2", "cluster": {"server": "https://two", "insecure-skip-tls-verify": true}},
            ],
            "users": [{"name": "admin", "user": {"token": "admin-token"}}],
        }))
        .unwrap()
    }

    #[test]
    fn the_way_is_the_administrators_and_the_rights_are_not() {
        let folder = std::env::temp_dir();
        let authority = folder.join(format!("tensile-cli-ca-{}", std::process::id()));
        std::fs::write(&authority, "PEM").unwrap();
        let made = kubeconfig(&mk_admin(authority.to_str().unwrap()), None, None, "a", "t").unwrap();
        std::fs::remove_file(&authority).unwrap();
        let cluster = &made["clusters"][0]["cluster"];
        assert_eq!(
            (&cluster["server"], &cluster["certificate-authority-data"]),
            (&json!("https://one"), &json!("UEVN"))
        );
        assert!(cluster["certificate-authority"].is_null());
        assert!(!made.to_string().contains("admin"), "{made}");
        assert_eq!(made["users"][0]["user"]["token"], "t");
    }

    #[test]
    fn another_context_and_another_address_can_be_named() {
        let made = kubeconfig(&mk_admin(""), Some("two"), Some("https://inside"), "a", "t").unwrap();
        let cluster = &made["clusters"][0]["cluster"];
        assert_eq!(
            (&cluster["server"], &cluster["insecure-skip-tls-verify"]),
            (&json!("https://inside"), &json!(true))
        );
        let error = kubeconfig(&mk_admin(""), Some("three"), None, "a", "t")
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"three\""), "{error}");
    }
}
