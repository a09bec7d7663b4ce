//! How many reviews a CPU-second of the server answers, and how fast, over kept-alive TLS connections on loopback: for
//! replicas of one template and for pods of which each is the first of its template; beside it, in the same run, the
//! same server with a handler that does nothing.
//!
//! `cargo bench -p tensile-webhook`. The server runs as a process of its own, so that its CPU time can be told from
//! the load generator's. Both share the machine: rates are per CPU-second of the server, never per second.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::post;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tensile_core::names;
use tensile_runtime::serve::{self, Server};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::tls::{Alpn, ServingCert, Tls, self_signed};
use tensile_webhook::http::Service;
use tensile_webhook::known::Known;
use tensile_webhook::memo::Memo;
use tensile_webhook::metrics::Metrics;
use tensile_webhook::mutate::Rules;
use tensile_webhook::review::Review;
use tensile_webhook::tolerations::WhenUnreachable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// That of the binary, for the load generator and the server that does nothing too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Set for the server process: what it serves.
const SERVE: &str = "TENSILE_BENCH_SERVE";
/// Connections of the load generator; an API server keeps up to 25 idle ones to a webhook (client-go).
const CONNECTIONS: usize = 8;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
/// Clock ticks of /proc in a second; the same on every Linux architecture that Rust supports.
const TICKS: f64 = 100.0;

/// The template's hash as a label in a review, and nowhere else in it; written over where pods are strangers.
const HASH: &str = "9753102468";
/// Counts the strangers.
static MADE: AtomicU64 = AtomicU64::new(0);

/// How the pods of a run are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pods {
    /// All of one template.
    Replicas,
    /// Each of a template of its own.
    Strangers,
}

/// A review, or the request with it, as bytes.
#[derive(Clone)]
struct Message {
    bytes: Vec<u8>,
    /// Where the hash of the pod's template begins, if every pod has its own.
    hash: Option<usize>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Ok(what) = std::env::var(SERVE) {
        return runtime.block_on(serve(what == "webhook"));
    }
    let body = mk_body();
    println!("review of {} bytes", body.len());
    for pods in [Pods::Replicas, Pods::Strangers] {
        let body = Message::new(body.clone(), pods);
        println!("decode + mutate + encode, {pods:?}: {:.1} µs", in_process(&body));
    }
    let nothing = runtime.block_on(measure("nothing", Pods::Replicas, &body))?;
    for pods in [Pods::Replicas, Pods::Strangers] {
        let webhook = runtime.block_on(measure("webhook", pods, &body))?;
        println!(
            "webhook / nothing, {pods:?}: {:.2} reviews per CPU-second",
            webhook / nothing
        );
    }
    Ok(())
}

fn mk_rules() -> Rules {
    Rules {
        ignored_keys: BTreeSet::from([names::CLUSTER_ID.to_owned()]),
        when_unreachable: WhenUnreachable::Evict,
        system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
        scheduler_name: None,
    }
}

/// A review as an API server sends it, of about 6 KB: a Deployment's pod with two containers.
fn mk_body() -> Vec<u8> {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example/team/image@sha256:0123456789abcdef", "imagePullPolicy": "IfNotPresent",
            "env": (0..16).map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "some value of a variable"})).collect::<Vec<_>>(),
            "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10},
            "volumeMounts": [{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "kube-api-access", "readOnly": true}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    let expression = |key: &str, values: &[&str]| json!({"key": key, "operator": "In", "values": values});
    let user = json!({"username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "0a1b2c3d-0000-4000-8000-000000000001",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-5d9c7b8f6d-", "creationTimestamp": null,
            "labels": {"app": "web", "pod-template-hash": HASH, names::VIRTUAL_POD: "true", "team": "shop"},
            "annotations": {"checksum/config": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7b8f6d", "blockOwnerDeletion": true,
                "uid": "0a1b2c3d-0000-4000-8000-000000000002", "controller": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}, "f:team": {}}}}}],
        },
        "spec": {
            "containers": [container("web"), container("sidecar")],
            "nodeSelector": {"kubernetes.io/os": "linux", "clusterID": "a"},
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [expression("disk", &["ssd", "nvme"]), expression("clusterID", &["a", "b"])]}]}},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": names::HOSTNAME, "labelSelector": {"matchLabels": {"app": "web"}}}]},
            },
            "tolerations": [
                {"key": names::TAINT_NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": names::TAINT_UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}}]}}],
            "serviceAccountName": "default", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        },
        "status": {},
    });
    let pods = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
        "uid": "0a1b2c3d-0000-4000-8000-000000000003", "kind": kind, "resource": pods, "requestKind": kind,
        "requestResource": pods, "namespace": "shop", "operation": "CREATE", "userInfo": user, "object": pod,
        "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}}})
    .to_string()
    .into_bytes()
}

/// Microseconds for one review, without any I/O: the best of several rounds.
fn in_process(body: &Message) -> f64 {
    const ROUND: u32 = 2_000;
    let (memo, known) = (Memo::new(mk_rules()), Known::default());
    let mut body = body.clone();
    let mut round = || {
        let start = Instant::now();
        for _ in 0..ROUND {
            let review = Review::parse(black_box(body.next())).expect("a review");
            let request = review.request().expect("a request");
            let decided = memo.decide(request, &known).expect("a decision");
            black_box(review.answer(&decided.answer).expect("an answer"));
        }
        start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUND)
    };
    (0..10).map(|_| round()).fold(f64::INFINITY, f64::min)
}

// === impl Message ===

impl Message {
    fn new(bytes: Vec<u8>, pods: Pods) -> Self {
        let hash = bytes
            .windows(HASH.len())
            .position(|text| text == HASH.as_bytes())
            .filter(|_| pods == Pods::Strangers);
        Self { bytes, hash }
    }

    /// The message about the next pod.
    fn next(&mut self) -> &[u8] {
        if let Some(at) = self.hash {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            self.bytes[at..at + HASH.len()].copy_from_slice(format!("{number:010}").as_bytes());
        }
        &self.bytes
    }
}

// === The server process ===

async fn serve(webhook: bool) -> Result<(), Box<dyn std::error::Error>> {
    let pair = self_signed("bench", &["localhost".to_owned()], Duration::from_secs(3600))?;
    let serving = Arc::new(ServingCert::default());
    serving.set_pem(pair.cert.as_bytes(), pair.key.as_bytes())?;
    let registry = prometheus::Registry::new();
    let router = if webhook {
        Service {
            memo: Arc::new(Memo::new(mk_rules())),
            known: Arc::default(),
            metrics: Metrics::new(&registry)?,
            upper: None,
        }
        .router()
    } else {
        let answer = Bytes::from(vec![b' '; 1500]);
        let handler = move |_: Bytes| async move { ([(header::CONTENT_TYPE, "application/json")], answer) };
        Router::new().route("/mutate", post(handler))
    };
    let tls = Tls::new(serving, None, Alpn::Http2AndHttp1)?;
    let metrics = serve::Metrics::register(&registry, "bench")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}\n{}", listener.local_addr()?, pair.cert.trim());
    let server = Server::new(Some(Arc::new(tls)), serve::Config::default(), metrics);
    server.run(listener, router, Shutdown::default().token()).await;
    Ok(())
}

/// A running server process; ends with this value.
struct Process {
    child: Child,
    address: SocketAddr,
    connector: TlsConnector,
}

// === impl Process ===

impl Process {
    fn start(what: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVE, what)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let address = lines.next().ok_or("the server has ended")??.parse()?;
        let mut pem = String::new();
        for line in lines {
            pem = pem + &line? + "\n";
            if pem.contains("END CERTIFICATE") {
                break;
            }
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            child,
            address,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        self.connector.connect(name, stream).await
    }

    /// CPU seconds so far: user and system time, fields 14 and 15 of /proc/PID/stat.
    fn cpu(&self) -> Result<f64, Box<dyn std::error::Error>> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit(") ").next().ok_or("no stat")?.split(' ');
        let ticks: Vec<f64> = fields
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

// === The load ===

/// Prints figures of one server; gives back its requests per CPU-second under full load.
async fn measure(what: &str, pods: Pods, body: &[u8]) -> Result<f64, Box<dyn std::error::Error>> {
    let process = Arc::new(Process::start(what)?);
    let head = format!(
        "POST /mutate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request = Message::new([head.as_bytes(), body].concat(), pods);
    load(&process, &request, WARM_UP, None).await?;
    let (before, start) = (process.cpu()?, Instant::now());
    let full = load(&process, &request, MEASURED, None).await?;
    let (cpu, seconds) = (process.cpu()? - before, start.elapsed().as_secs_f64());
    let count = full.len() as f64;
    let per_connection = Duration::from_secs_f64(2.0 * seconds * CONNECTIONS as f64 / count);
    let half = load(&process, &request, MEASURED, Some(per_connection)).await?;
    println!(
        "{what}, {pods:?}: {:.0} per CPU-second of the server ({:.1} µs each; {:.0}/s); at half load p50 {:.2} ms, p99 {:.2} ms",
        count / cpu,
        cpu / count * 1e6,
        count / seconds,
        percentile(&half, 0.50) * 1e3,
        percentile(&half, 0.99) * 1e3,
    );
    Ok(count / cpu)
}

/// Sends requests for some time, each connection one by one, at most one in `pace`; gives back sorted latencies in
/// seconds. With a pace, a request that was due while another was under way counts its waiting, too.
async fn load(
    process: &Arc<Process>,
    request: &Message,
    time: Duration,
    pace: Option<Duration>,
) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..CONNECTIONS {
        let mut stream = process.connect().await?;
        let mut request = request.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            let mut latencies = Vec::new();
            let start = tokio::time::Instant::now();
            // Connections take turns instead of sending all at once.
            let mut due = start
                + pace
                    .unwrap_or_default()
                    .mul_f64(index as f64 / CONNECTIONS as f64);
            while start.elapsed() < time {
                match pace {
                    None => due = tokio::time::Instant::now(),
                    Some(pace) => {
                        due += pace;
                        tokio::time::sleep_until(due).await;
                    }
                }
                exchange(&mut stream, request.next(), &mut buffer).await?;
                latencies.push(due.elapsed().as_secs_f64());
            }
            Ok::<_, std::io::Error>(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    request: &[u8],
    buffer: &mut [u8],
) -> std::io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
        if complete(&buffer[..read]).map_err(std::io::Error::other)? {
            return Ok(());
        }
    }
}

/// Whether a whole answer has arrived.
fn complete(answer: &[u8]) -> Result<bool, String> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(head);
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    Ok(answer.len() >= end + 4 + length.ok_or("no content-length")?)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
