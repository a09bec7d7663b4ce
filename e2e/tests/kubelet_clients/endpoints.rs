//! The same requests to the virtual node and to the kubelet below: both give the same answer, word for word.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use e2e::{BUSYBOX_IMAGE, Cluster, TestResult, support};
use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, Site, mk_container, mk_pod, on_site};

/// Where a kubelet listens unless it is told otherwise.
const KUBELET_PORT: u16 = 10250;

/// How a request asks to be upgraded.
#[derive(Clone, Copy, Debug)]
enum Upgrade {
    No,
    Spdy,
    WebSocket,
}

/// Status, content type and text of an answer.
type Answer = (u16, String, String);

/// What a kubelet port answers its cluster's administrator. (The API server's proxy would leave out the query of what
/// is to be upgraded.)
async fn ask(
    cluster: &Cluster,
    port: SocketAddr,
    method: &str,
    path: &str,
    upgrade: Upgrade,
) -> Result<Answer> {
    let file = Kubeconfig::read_from(cluster.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.cluster_url = format!("https://{port}").parse()?;
    // That certificates are right is shown elsewhere.
    config.accept_invalid_certs = true;
    let mut request = Request::builder().method(method).uri(path);
    match upgrade {
        Upgrade::No => {}
        Upgrade::Spdy => {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "SPDY/3.1")
                .header("x-stream-protocol-version", "v4.channel.k8s.io");
        }
        Upgrade::WebSocket => {
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGVuc2lsZSBzYW1wbGUhIQ==")
                .header("sec-websocket-protocol", "v4.channel.k8s.io");
        }
    }
    let response = Client::try_from(config)?
        .send(request.body(Body::empty())?)
        .await?;
    let (head, body) = response.into_parts();
    let kind = head
        .headers
        .get("content-type")
        .map_or(Ok(""), |value| value.to_str())?;
    let body = body.collect().await?.to_bytes();
    Ok((
        head.status.as_u16(),
        kind.to_owned(),
        String::from_utf8_lossy(&body).into_owned(),
    ))
}

/// The ports of the virtual node and of the kubelet below.
fn ports(site: &Site) -> [SocketAddr; 2] {
    let below = SocketAddr::new(site.ground.lower.address(), KUBELET_PORT);
    [site.ground.node.kubelet(), below]
}

/// A pod with a container of every kind, whose log has one line, and one that waits for ever.
fn mk_pods() -> [Value; 2] {
    let main = mk_container("main", &format!("echo from main; {IDLE}"), &json!({}));
    let init = mk_container("init", "echo from init", &json!({}));
    let never = mk_container("never", IDLE, &json!({}));
    [
        mk_pod("web", &json!({"containers": [main], "initContainers": [init]})),
        mk_pod(
            "starting",
            &json!({"containers": [mk_container("main", IDLE, &json!({}))], "initContainers": [never]}),
        ),
    ]
}

async fn mk_site(site: &Site) -> Result<()> {
    let [web, starting] = mk_pods();
    site.apply(&[starting]).await?;
    site.run(&[web]).await?;
    let image = format!("--image={BUSYBOX_IMAGE}");
    let debugger = [
        "debug",
        "web",
        &image,
        "--container=debugger",
        "--image-pull-policy=Never",
    ];
    let script = ["--", "sh", "-c", "echo from debugger"];
    site.kubectl_ok(&[&debugger[..], &script[..]].concat()).await?;
    for (container, text) in [
        ("main", "from main\n"),
        ("init", "from init\n"),
        ("debugger", "from debugger\n"),
    ] {
        support::await_condition(&format!("the log of {container}"), DEADLINE, || async {
            let log = site.kubectl_ok(&["logs", "web", "-c", container]).await?;
            ensure!(log == text, "{log:?}");
            Ok(Some(()))
        })
        .await?;
    }
    support::await_condition("a pod that waits", DEADLINE, || async {
        let phase = "jsonpath={.status.initContainerStatuses[0].state.running.startedAt}";
        let since = site.kubectl_ok(&["get", "pod", "starting", "-o", phase]).await?;
        Ok((!since.is_empty()).then_some(()))
    })
    .await
}

/// Requests whose answers do not depend on the moment. A kubelet does not look at the UID of an exec, and takes any
/// method for its figures; we refuse both.
fn requests(ns: &str) -> Vec<(&'static str, String, Upgrade)> {
    use Upgrade::{No, Spdy, WebSocket};
    let logs = |rest: &str| ("GET", format!("/containerLogs/{ns}/{rest}"), No);
    let mut all = vec![
        ("GET", "/healthz".to_owned(), No),
        ("GET", "/healthz/ping".to_owned(), No),
        ("GET", "/healthz/log".to_owned(), No),
        ("GET", "/healthz/syncloop".to_owned(), No),
        ("GET", "/nothing".to_owned(), No),
        ("GET", "/pods/nothing".to_owned(), No),
        ("GET", "/runningpods/nothing".to_owned(), No),
        ("GET", "/stats/nothing".to_owned(), No),
        ("GET", "/metrics/nothing".to_owned(), No),
        ("GET", "/configz/nothing".to_owned(), No),
        ("GET", "/healthz/nothing".to_owned(), No),
        ("GET", format!("/containerLogs/{ns}/web"), No),
        ("GET", format!("/exec/{ns}/web"), No),
        ("POST", "/pods".to_owned(), No),
        ("DELETE", format!("/containerLogs/{ns}/web/main"), No),
        logs("web/main"),
        logs("web/init"),
        logs("web/debugger"),
        logs("web/main?tailLines=0"),
        logs("web/main?limitBytes=4"),
        logs("web/main?tailLines=x"),
        logs("web/main?tailLines=-1"),
        logs("web/main?limitBytes=0"),
        logs("web/main?sinceSeconds=0"),
        logs("web/main?sinceTime=yesterday"),
        logs("web/main?sinceSeconds=5&sinceTime=2026-11-23T18:00:00Z"),
        logs("web/main?tail=all"),
        logs("web/main?tail=x"),
        logs("web/main?previous=true"),
        logs("gone/main"),
        logs("web/gone"),
        logs("starting/main"),
        ("GET", format!("/run/{ns}/web/main?cmd=id"), No),
        ("POST", format!("/run/{ns}/gone/main?cmd=id"), No),
        ("POST", format!("/run/{ns}/web/gone?cmd=id"), No),
        ("POST", format!("/run/{ns}/web/main?cmd=echo%20run"), No),
        ("POST", format!("/run/{ns}/web/main?cmd=ls%20/no-such-file"), No),
        ("POST", format!("/portForward/{ns}/gone"), Spdy),
        ("POST", format!("/portForward/{ns}/web/no-such-uid"), Spdy),
        ("POST", format!("/portForward/{ns}/web"), No),
        ("GET", format!("/portForward/{ns}/web"), WebSocket),
        ("GET", format!("/portForward/{ns}/web?port=x"), WebSocket),
        ("GET", format!("/portForward/{ns}/web?port=0"), WebSocket),
    ];
    for kind in ["exec", "attach"] {
        for (method, upgrade) in [("POST", Spdy), ("GET", WebSocket)] {
            for rest in [
                "gone/main?output=1&command=id",
                "web/gone?output=1&command=id",
                "web/main?command=id",
                "starting/main?output=1&command=id",
            ] {
                all.push((method, format!("/{kind}/{ns}/{rest}"), upgrade));
            }
        }
        all.push(("POST", format!("/{kind}/{ns}/web/main?output=1&command=id"), No));
        all.push(("PUT", format!("/{kind}/{ns}/web/main?output=1&command=id"), No));
    }
    all
}

/// Names and UIDs of the namespace's pods in a list.
fn pods_of(answer: &Answer, namespace: &str) -> Result<BTreeSet<(String, String)>> {
    let list: Value = serde_json::from_str(&answer.2).with_context(|| format!("{answer:?}"))?;
    ensure!(list["kind"] == "PodList" && list["apiVersion"] == "v1", "{list}");
    let items = list["items"].as_array().context("no items")?.iter();
    let ours = items
        .map(|pod| &pod["metadata"])
        .filter(|pod| pod["namespace"] == namespace);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ours.map(|pod| (text(&pod["name"]), text(&pod["uid"]))).collect())
}

/// Where a kubelet names no type, we do: nobody shall guess that a log is a page.
fn alike(ours: &Answer, kubelets: &Answer) -> bool {
    let typed = kubelets.1.is_empty() || ours.1 == kubelets.1;
    typed && (ours.0, &ours.2) == (kubelets.0, &kubelets.2)
}

#[test]
fn answers_are_those_of_the_kubelet_below() -> TestResult {
    on_site(async |site| {
        mk_site(&site).await?;
        let (upper, lower) = (&site.ground.upper, &site.ground.lower);
        let [ours, below] = ports(&site);
        let mut differences = Vec::new();
        for (method, path, upgrade) in requests(&site.namespace) {
            let ours = ask(upper, ours, method, &path, upgrade).await?;
            let kubelets = ask(lower, below, method, &path, upgrade).await?;
            if !alike(&ours, &kubelets) {
                differences.push(format!(
                    "{method} {path} ({upgrade:?}): {ours:?}, not {kubelets:?}"
                ));
            }
        }
        ensure!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    })
}

#[test]
fn pods_are_shown_with_their_upper_identities() -> TestResult {
    on_site(async |site| {
        let [web, starting] = mk_pods();
        site.apply(&[starting]).await?;
        site.run(&[web]).await?;
        let (upper, [ours, _]) = (&site.ground.upper, ports(&site));
        let above = site.kubectl_ok(&["get", "pods", "-o", "json"]).await?;
        let above: Value = serde_json::from_str(&above)?;
        let mut wanted = BTreeSet::new();
        for pod in above["items"].as_array().context("no items")? {
            let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
            wanted.insert((text("name"), text("uid")));
        }
        for path in ["/pods", "/pods/"] {
            let answer = ask(upper, ours, "GET", path, Upgrade::No).await?;
            ensure!(pods_of(&answer, &site.namespace)? == wanted, "{path}: {answer:?}");
        }
        let answer = ask(upper, ours, "GET", "/runningpods/", Upgrade::No).await?;
        wanted.retain(|(name, _)| name == "web");
        ensure!(pods_of(&answer, &site.namespace)? == wanted, "{answer:?}");
        Ok(())
    })
}

#[test]
fn configuration_probes_and_figures_have_a_kubelets_form() -> TestResult {
    on_site(async |site| {
        let (upper, lower) = (&site.ground.upper, &site.ground.lower);
        let [ours, below] = ports(&site);
        for path in [
            "/configz",
            "/stats/summary",
            "/metrics",
            "/metrics/resource",
            "/metrics/probes",
            "/metrics/cadvisor",
        ] {
            let ours = ask(upper, ours, "GET", path, Upgrade::No).await?;
            let kubelets = ask(lower, below, "GET", path, Upgrade::No).await?;
            let form = |answer: &Answer| {
                let kind = answer.1.split(';').next().unwrap_or_default().to_owned();
                (answer.0, kind)
            };
            ensure!(
                form(&ours) == form(&kubelets),
                "{path}: {ours:?}, not {kubelets:?}"
            );
        }
        let config = ask(upper, ours, "GET", "/configz", Upgrade::No).await?;
        let config: Value = serde_json::from_str(&config.2)?;
        let config = &config["kubeletconfig"];
        ensure!(
            config["authentication"]["anonymous"]["enabled"] == false
                && config["authorization"]["mode"] == "Webhook",
            "{config}"
        );
        Ok(())
    })
}
