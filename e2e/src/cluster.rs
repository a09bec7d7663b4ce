//! One cluster: its control plane, its users, and its end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::{
    binaries::Binaries,
    control_plane::{self, Endpoint, Plan},
    kubeconfig,
    kwok::Kwok,
    pki::{MASTERS, Pki},
    process::{Invocation, Process},
    real::{Attachment, RealNode},
    run::{self, Folder},
    spec::ClusterSpec,
    support::await_condition,
};

/// How long a component may take to become ready. A quiet machine needs three seconds; a busy one with two cores,
/// on which several clusters start while something compiles, has been seen to need thirty.
const READY_DEADLINE: Duration = Duration::from_secs(120);

/// How long a component may take to end after SIGTERM before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Attempts to start a control plane, when something else took one of its ports in the meantime.
const ATTEMPTS: u32 = 3;

/// A running cluster. Dropping it ends and removes everything that belongs to it.
pub struct Cluster {
    spec: ClusterSpec,
    pub(crate) binaries: Binaries,
    pub(crate) pki: Pki,
    pub(crate) kubeconfig: PathBuf,
    components: Mutex<BTreeMap<String, Part>>,
    pub(crate) kwok: tokio::sync::Mutex<Option<Kwok>>,
    // Dropping it clears what the fields above have left.
    folder: Folder,
    // Last: ports and addresses are given back when nothing uses them any more.
    pub(crate) endpoint: Endpoint,
}

/// A component's command line, and its process while it runs.
struct Part {
    invocation: Invocation,
    process: Option<Arc<Process>>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts a cluster and waits until its API server is ready and pods can be created.
    ///
    /// # Errors
    /// The binaries cannot be obtained, or a component does not become ready; its logs are kept.
    pub async fn start(spec: ClusterSpec) -> Result<Self> {
        let mut binaries = Binaries::obtain().await?;
        if spec.is_older() {
            binaries = binaries.older().await?;
        }
        let mut attempt = 1;
        loop {
            let cluster = Self::prepare(spec.clone(), binaries.clone()).await?;
            match cluster.start_all().await {
                Ok(()) => return Ok(cluster),
                Err(_) if attempt < ATTEMPTS && cluster.lost_a_port() => attempt += 1,
                Err(error) => {
                    run::note_failure();
                    return Err(error.context(format!("cluster {} did not start", cluster.spec.name)));
                }
            }
        }
    }

    /// Makes the folder, the keys and the admin's kubeconfig; starts nothing.
    async fn prepare(spec: ClusterSpec, binaries: Binaries) -> Result<Self> {
        let folder = Folder::create(&spec.name)?;
        let endpoint = Endpoint::create(spec.place, &folder).await?;
        let pki = Pki::create(&folder.path().join("pki"), endpoint.address)?;
        let kubeconfig = folder.path().join("admin.kubeconfig");
        let admin = pki.client("tensile-e2e-admin", &[MASTERS])?;
        kubeconfig::write(
            &kubeconfig,
            &spec.name,
            &endpoint.api_server_url(),
            pki.ca(),
            &admin,
        )?;
        let (components, kwok) = Default::default();
        Ok(Self {
            spec,
            binaries,
            endpoint,
            pki,
            kubeconfig,
            components,
            kwok,
            folder,
        })
    }

    async fn start_all(&self) -> Result<()> {
        let Some(attachment) = &self.endpoint.attachment else {
            return self.start_control_plane().await;
        };
        let node = RealNode::new(self, attachment);
        tokio::try_join!(self.start_control_plane(), node.start_runtime())?;
        node.start_kubelet().await
    }

    async fn start_control_plane(&self) -> Result<()> {
        let plan = Plan {
            spec: &self.spec,
            binaries: &self.binaries,
            endpoint: &self.endpoint,
            pki: &self.pki,
            folder: self.folder.path(),
            kubeconfig: &self.kubeconfig,
        };
        self.launch(plan.etcd())?;
        let etcd = SocketAddr::new(self.endpoint.address, self.endpoint.etcd_client);
        self.await_component(
            "etcd",
            || async move { Ok(TcpStream::connect(etcd).await.map(drop)?) },
        )
        .await?;
        self.launch(plan.api_server()?)?;
        self.await_api_server().await?;
        if self.spec.scheduler {
            self.launch(plan.scheduler()?)?;
        }
        if self.spec.controller_manager {
            self.launch(plan.controller_manager())?;
            self.await_service_accounts().await?;
        }
        Ok(())
    }

    /// Starts a component, and remembers how, so that it can be started again.
    pub(crate) fn launch(&self, invocation: Invocation) -> Result<()> {
        let process = Some(Arc::new(invocation.start(&self.folder)?));
        self.components
            .lock()
            .insert(invocation.name.clone(), Part { invocation, process });
        Ok(())
    }

    /// Waits for an answer while the component runs.
    pub(crate) async fn await_component<F>(&self, name: &str, ask: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let process = self.process(name)?;
        let (ask, process) = (&ask, &process);
        let what = format!("{name} of cluster {} ready", self.spec.name);
        await_condition(&what, READY_DEADLINE, || async move {
            // The outer result ends the waiting, the inner one is only "not yet".
            match process.check_running() {
                Err(ended) => Ok(Some(Err(ended))),
                Ok(()) => ask().await.map(|()| Some(Ok(()))),
            }
        })
        .await?
    }

    async fn await_api_server(&self) -> Result<()> {
        let client = self.client().await?;
        let ask = || async {
            let request = http_get("/readyz")?;
            client
                .request_text(request)
                .await
                .map(drop)
                .map_err(anyhow::Error::from)
        };
        self.await_component("kube-apiserver", ask).await
    }

    /// Pods are refused until the controller-manager has made the service account that they run as.
    async fn await_service_accounts(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        self.await_component("kube-controller-manager", || async {
            Ok(accounts.get("default").await.map(drop)?)
        })
        .await
    }

    fn lost_a_port(&self) -> bool {
        let components = self.components.lock();
        let mut processes = components
            .values()
            .filter_map(|component| component.process.as_ref());
        processes.any(|process| process.log_tail().contains("address already in use"))
    }

    /// The network namespace of the cluster's processes, when it is not the caller's.
    pub(crate) fn netns(&self) -> Option<String> {
        self.endpoint.netns()
    }

    /// Adds something that outlives this process to what is cleared with the cluster.
    pub(crate) fn register(&self, line: &str) -> Result<()> {
        self.folder.register(line)
    }

    /// Cuts a cluster with a real node off from everything outside of it, which goes on running.
    ///
    /// # Errors
    /// The cluster has no network namespace of its own.
    pub async fn partition(&self) -> Result<()> {
        self.attachment()?.set_connected(false).await
    }

    /// Ends [`Cluster::partition`].
    ///
    /// # Errors
    /// The cluster has no network namespace of its own.
    pub async fn heal(&self) -> Result<()> {
        self.attachment()?.set_connected(true).await
    }

    fn attachment(&self) -> Result<&Attachment> {
        let attachment = self.endpoint.attachment.as_ref();
        attachment.with_context(|| {
            format!(
                "only clusters with a real node can be cut off; {} is none",
                self.spec.name
            )
        })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The certificate, as PEM, of the authority that signs for users and kubelets.
    pub fn client_ca_pem(&self) -> &str {
        self.pki.ca()
    }

    /// The file of the authority that signs for users and kubelets.
    pub fn client_ca_file(&self) -> PathBuf {
        self.pki.path("ca.crt")
    }

    /// Makes a serving certificate for DNS names and addresses, signed by the cluster's CA; returns the files of the
    /// certificate and of the key.
    ///
    /// # Errors
    /// A host is not a name, or the files cannot be written.
    pub fn serving_certificate(&self, name: &str, hosts: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        self.pki.write(name, &self.pki.serving(&hosts)?)
    }

    /// Where the API server listens.
    pub fn api_server(&self) -> SocketAddr {
        SocketAddr::new(self.endpoint.address, self.endpoint.api_server)
    }

    /// The address at which this cluster's nodes and API server are reached.
    pub fn address(&self) -> IpAddr {
        self.endpoint.address
    }

    /// The audit log, JSON lines; written only with [`ClusterSpec::with_audit_log`].
    pub fn audit_log(&self) -> PathBuf {
        control_plane::audit_log(self.folder.path())
    }

    /// The kubectl that tests run: a static program, which a pod of a real node can run too.
    pub fn kubectl_path(&self) -> PathBuf {
        self.binaries.path("kubectl")
    }

    /// The folder of the components' logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.folder.logs()
    }

    /// A folder for the caller's files; it is removed with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A running component, such as `kube-apiserver` or `kwok`.
    ///
    /// # Errors
    /// There is no such component, or it was stopped.
    pub fn process(&self, component: &str) -> Result<Arc<Process>> {
        let components = self.components.lock();
        let known = components.get(component).with_context(|| {
            let names = components
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            anyhow!(
                "cluster {} has no component {component:?}, only {names}",
                self.spec.name
            )
        })?;
        known
            .process
            .clone()
            .with_context(|| format!("{component} of cluster {} is stopped", self.spec.name))
    }

    /// The names and process ids of all running components.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let components = self.components.lock();
        let running = components
            .iter()
            .filter_map(|(name, component)| Some((name, component.process.as_ref()?)));
        running
            .map(|(name, process)| (name.clone(), process.pid()))
            .collect()
    }

    /// Stops a component as an orderly shutdown would.
    ///
    /// # Errors
    /// It does not run, or does not end even when killed.
    pub async fn stop_component(&self, component: &str) -> Result<()> {
        let process = self.process(component)?;
        process.terminate().await?;
        if process.wait_exit(STOP_DEADLINE).await.is_err() {
            process.kill().await?;
        }
        self.forget_process(component);
        Ok(())
    }

    /// Kills a component, as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill_component(&self, component: &str) -> Result<()> {
        self.process(component)?.kill().await?;
        self.forget_process(component);
        Ok(())
    }

    fn forget_process(&self, component: &str) {
        if let Some(known) = self.components.lock().get_mut(component) {
            known.process = None;
        }
    }

    /// Starts a stopped component as it was started first; an API server is waited for.
    ///
    /// # Errors
    /// There is no such component, or it does not become ready.
    pub async fn start_component(&self, component: &str) -> Result<()> {
        let invocation = self
            .components
            .lock()
            .get(component)
            .map(|known| known.invocation.clone());
        let invocation = invocation.with_context(|| format!("{} has no {component:?}", self.spec.name))?;
        self.launch(invocation)?;
        if component == "kube-apiserver" {
            self.await_api_server().await?;
        }
        Ok(())
    }
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}
