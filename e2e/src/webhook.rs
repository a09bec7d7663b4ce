//! A webhook under test: the real component as a process of its own, called by a real API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tensile_core::names;

use crate::component::Component;
use crate::leases::PortLease;
use crate::{Cluster, support};

/// Name of the MutatingWebhookConfiguration.
pub const CONFIGURATION: &str = "tensile";

/// Longest time until a webhook is ready.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running replica of the webhook.
pub struct Webhook {
    /// The process.
    pub component: Component,
    admin: PortLease,
    listen: PortLease,
}

// === impl Webhook ===

impl Webhook {
    /// Starts a replica for `upper` with a certificate of that cluster's CA, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(upper: &Cluster, args: &[&str]) -> Result<Self> {
        let (cert, key) = upper.serving_certificate("webhook", &["127.0.0.1"])?;
        let files = [("--tls-cert-file", cert), ("--tls-private-key-file", key)];
        let files = files.map(|(flag, path)| format!("{flag}={}", path.display()));
        let all: Vec<&str> = files
            .iter()
            .map(String::as_str)
            .chain(args.iter().copied())
            .collect();
        let webhook = Self::spawn(upper, &all).await?;
        webhook.ready().await?;
        Ok(webhook)
    }

    /// Starts a replica for `upper` that makes its own certificates, each valid for `life`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_self_signed(upper: &Cluster, life: Duration) -> Result<Self> {
        let life = format!("--certificate-lifetime={}", life.as_secs());
        let configuration = format!("--webhook-configuration={CONFIGURATION}");
        Self::spawn(upper, &["--self-signed", &configuration, &life]).await
    }

    /// Starts a replica and returns at once.
    ///
    /// # Errors
    /// When the system namespace cannot be made, or the process cannot be started.
    pub async fn spawn(upper: &Cluster, args: &[&str]) -> Result<Self> {
        system_namespace(upper).await?;
        let (admin, listen) = (PortLease::take()?, PortLease::take()?);
        let own = [
            format!("--kubeconfig={}", upper.kubeconfig().display()),
            format!("--admin-listen={}", SocketAddr::new(LOOPBACK, admin.port())),
            format!("--listen={}", SocketAddr::new(LOOPBACK, listen.port())),
        ];
        let args: Vec<String> = own
            .into_iter()
            .chain(args.iter().map(|arg| (*arg).to_owned()))
            .collect();
        let component = Component::start("webhook", &args, &[])?;
        Ok(Self {
            component,
            admin,
            listen,
        })
    }

    /// Where it answers reviews.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.listen.port())
    }

    /// Address of its admin server.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.admin.port())
    }

    /// Waits until /readyz says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn ready(&self) -> Result<()> {
        support::await_condition("webhook to be ready", DEADLINE, || async {
            self.component.check_running()?;
            let (status, text) = support::http_get(self.admin(), "/readyz").await?;
            anyhow::ensure!(status == 200, text);
            Ok(Some(()))
        })
        .await
    }

    /// Value of a line of /metrics, such as `tensile_webhook_reviews_total{outcome="patched"}`.
    ///
    /// # Errors
    /// When there is no such line.
    pub async fn metric(&self, line: &str) -> Result<f64> {
        let (_, text) = support::http_get(self.admin(), "/metrics").await?;
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        Ok(value
            .with_context(|| format!("no metric {line} in\n{text}"))?
            .parse()?)
    }
}

/// Registers the webhook at `address`: one entry for labelled pods, one for the pods of labelled namespaces, as the
/// chart does. `ca` is the `caBundle` in PEM, `None` if the webhook publishes its own.
///
/// # Errors
/// The API server refuses it.
pub async fn register(upper: &Cluster, address: SocketAddr, policy: &str, ca: Option<&str>) -> Result<()> {
    use base64::Engine;
    let label = json!({"matchLabels": {names::VIRTUAL_POD: "true"}});
    let entry = |name: &str, selector: &str| -> Value {
        let mut client = json!({"url": format!("https://{address}/mutate")});
        if let Some(ca) = ca {
            client["caBundle"] = base64::prelude::BASE64_STANDARD.encode(ca).into();
        }
        let mut entry = json!({
            "name": name, "clientConfig": client, "failurePolicy": policy, "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "reinvocationPolicy": "IfNeeded", "timeoutSeconds": 10,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        });
        entry[selector] = label.clone();
        entry
    };
    let configuration = serde_json::from_value(json!({"metadata": {"name": CONFIGURATION}, "webhooks": [
        entry("pods.tensile.dev", "objectSelector"),
        entry("namespaces.tensile.dev", "namespaceSelector"),
    ]}))?;
    let api: Api<MutatingWebhookConfiguration> = Api::all(upper.client().await?);
    if api.get_opt(CONFIGURATION).await?.is_some() {
        api.delete(CONFIGURATION, &DeleteParams::default()).await?;
    }
    api.create(&PostParams::default(), &configuration).await?;
    Ok(())
}

async fn system_namespace(upper: &Cluster) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(upper.client().await?);
    let namespace = serde_json::from_value(json!({"metadata": {"name": names::SYSTEM_NAMESPACE}}))?;
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(|_| ()).context("cannot make the system namespace"),
    }
}
