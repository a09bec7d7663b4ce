//! What live tests share: waiting for conditions, namespaces that end with a test, questions about pods.

use std::{
    fmt::{Debug, Formatter},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::json;
use tokio::{net::TcpStream, runtime::Runtime, sync::OnceCell};
use tokio_rustls::client::TlsStream;

use crate::run;

/// How often a condition is looked at: short against what is waited for, long against the cost of looking.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a live test returns: with it, `?` keeps the logs of the clusters that it drops on the way out. A panic does
/// so by itself.
pub type TestResult = Result<(), TestFailure>;

/// Why a live test failed; making one says that logs are wanted.
pub struct TestFailure(anyhow::Error);

/// Something costly that the tests of one file share, such as clusters: made by the test that comes first, and ended
/// with the process. It has a runtime of its own, since what a runtime made does not outlive it.
pub struct Shared<T> {
    runtime: OnceLock<Runtime>,
    value: OnceCell<Result<T, String>>,
}

// === impl TestFailure ===

impl<E> From<E> for TestFailure
where
    anyhow::Error: From<E>,
{
    fn from(error: E) -> Self {
        run::note_failure();
        Self(error.into())
    }
}

impl Debug for TestFailure {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        Debug::fmt(&self.0, formatter)
    }
}

// === impl Shared ===

impl<T> Shared<T> {
    /// Nothing yet.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it is for statics, which need a const fn"
    )]
    pub const fn new() -> Self {
        Self {
            runtime: OnceLock::new(),
            value: OnceCell::const_new(),
        }
    }

    /// Runs `test` with the value, which `make` makes if it is not there. A `make` that failed is not tried again.
    ///
    /// # Errors
    /// As `make` or `test` says.
    pub fn run(
        &'static self,
        make: impl AsyncFnOnce() -> Result<T>,
        test: impl AsyncFnOnce(&'static T) -> Result<()>,
    ) -> TestResult {
        let runtime = match self.runtime.get() {
            Some(runtime) => runtime,
            None => {
                let made = Runtime::new()?;
                self.runtime.get_or_init(|| made)
            }
        };
        runtime.block_on(async {
            let make = async || make().await.map_err(|error| format!("{error:#}"));
            let value = self.value.get_or_init(make).await;
            let value = value
                .as_ref()
                .map_err(|error| anyhow!("nothing to test on: {error}"))?;
            Ok(test(value).await?)
        })
    }
}

/// Asks until the answer is `Ok(Some(value))`, at most for `deadline`.
///
/// An `Err` counts as "not yet": the error is quoted when the deadline passes.
///
/// # Errors
/// The deadline passed. The logs of all clusters of this process are then kept.
pub async fn await_condition<T, F>(what: &str, deadline: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let mut last_error: Option<anyhow::Error> = None;
    let until_met = async {
        loop {
            match ask().await {
                Ok(Some(value)) => return value,
                Ok(None) => last_error = None,
                Err(error) => last_error = Some(error),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    if let Ok(value) = tokio::time::timeout(deadline, until_met).await {
        return Ok(value);
    }
    run::note_failure();
    let late = format!("{what}: not within {deadline:?}");
    Err(last_error
        .unwrap_or_else(|| anyhow!("the condition was not met"))
        .context(late))
}

/// Creates a namespace with a generated name and returns the name. It is not deleted: it ends with its cluster.
///
/// # Errors
/// The API server refuses it.
pub async fn temp_namespace(client: &Client) -> Result<String> {
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("test-".to_owned());
    let created = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    created
        .metadata
        .name
        .context("the API server gave the namespace no name")
}

/// As [`temp_namespace`], and waits until pods can be created in it.
///
/// # Errors
/// The API server refuses it, or there is no controller-manager that makes the service account.
pub async fn namespace_for_pods(client: &Client) -> Result<String> {
    let name = temp_namespace(client).await?;
    service_account(client, &name).await?;
    Ok(name)
}

/// Waits for the service account of a namespace, without which its pods are refused.
///
/// # Errors
/// There is no controller-manager that makes it.
pub async fn service_account(client: &Client, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let what = format!("the service account of namespace {namespace}");
    await_condition(&what, Duration::from_secs(30), || async {
        Ok(accounts.get_opt("default").await?.map(drop))
    })
    .await
}

/// Deletes a namespace, without waiting until it is gone.
///
/// # Errors
/// The API server refuses it.
pub async fn delete_namespace(client: &Client, name: &str) -> Result<()> {
    Api::<Namespace>::all(client.clone())
        .delete(name, &DeleteParams::background())
        .await?;
    Ok(())
}

/// Creates an object from JSON or any other serialisable form.
///
/// # Errors
/// The JSON is not such an object, or the API server refuses it.
pub async fn create<K>(api: &Api<K>, object: serde_json::Value) -> Result<K>
where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    Ok(api
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?)
}

/// What the API server would make of a new object, webhooks included; nothing is stored.
///
/// # Errors
/// The API server refuses it.
pub async fn dry_run<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(api.create(&dry_run, object).await?)
}

/// Lets the API server know a namespaced kind that Kubernetes does not have: `widgets.tensile.test`, version `v1`.
///
/// # Errors
/// The API server refuses it.
pub async fn custom_kind(client: &Client) -> Result<()> {
    let kind = json!({
        "metadata": {"name": "widgets.tensile.test"},
        "spec": {
            "group": "tensile.test", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
            }],
        },
    });
    create(&Api::<CustomResourceDefinition>::all(client.clone()), kind)
        .await
        .map(drop)
}

/// Waits until a pod is Running and Ready; returns it.
///
/// # Errors
/// It is not within `deadline`.
pub async fn pod_running(client: &Client, namespace: &str, name: &str, deadline: Duration) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    await_condition(
        &format!("pod {namespace}/{name} Running and Ready"),
        deadline,
        || async {
            let pod = pods.get(name).await?;
            if is_ready(&pod) {
                return Ok(Some(pod));
            }
            Err(anyhow!("its status is {}", serde_json::to_string(&pod.status)?))
        },
    )
    .await
}

/// Waits until a pod is gone.
///
/// # Errors
/// It still exists after `deadline`.
pub async fn pod_gone(client: &Client, namespace: &str, name: &str, deadline: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    await_condition(&format!("pod {namespace}/{name} gone"), deadline, || async {
        Ok(pods.get_opt(name).await?.is_none().then_some(()))
    })
    .await
}

/// Waits until there are no pods of a selection.
///
/// # Errors
/// Some still exist after `deadline`.
pub async fn pods_gone(pods: &Api<Pod>, selection: &ListParams, deadline: Duration) -> Result<()> {
    await_condition("all pods to be gone", deadline, || async {
        let left = pods.list_metadata(selection).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(Some(()))
    })
    .await
}

/// Whether a pod is Running and has the condition Ready.
pub fn is_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && status.phase.as_deref() == Some("Running")
}

/// Asks a plain HTTP server for a page: status and body.
///
/// # Errors
/// When it does not answer as HTTP.
pub async fn http_get(address: std::net::SocketAddr, path: &str) -> Result<(u16, String)> {
    http_send(address, "GET", path, "", "").await
}

/// Sends a request to a plain HTTP server, with further header lines that each end in CRLF: status and body.
///
/// # Errors
/// When it does not answer as HTTP.
pub async fn http_send(
    address: std::net::SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status line")?.parse()?;
    Ok((status, body.to_owned()))
}

/// A TLS connection to a server, made by somebody who trusts `ca` (PEM) and looks for `host`.
///
/// # Errors
/// When the handshake fails.
pub async fn tls_connect(
    address: std::net::SocketAddr,
    ca: &str,
    host: &str,
) -> Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(ca?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(connector
        .connect(ServerName::try_from(host.to_owned())?, stream)
        .await?)
}

/// The certificate, DER, that a server shows now; as [`tls_connect`].
///
/// # Errors
/// When the handshake fails.
pub async fn served_certificate(address: std::net::SocketAddr, ca: &str, host: &str) -> Result<Vec<u8>> {
    let stream = tls_connect(address, ca, host).await?;
    let certificates = stream.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(certificates[0].to_vec())
}
