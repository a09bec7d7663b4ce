//! Names of upper Services and of their pods, as a program resolves them by the DNS of the lower cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::{BUSYBOX_IMAGE, Cluster, TestResult, binaries, support};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{DEADLINE, IDLE, Site, mk_container, mk_pod, on_site};

/// Where kubelets of real nodes tell pods to ask.
const DNS: &str = "10.96.0.10";
const COREFILE: &str = ".:53 {\n    errors\n    kubernetes cluster.local\n}\n";

/// The lower cluster has one DNS, for all tests.
static RUNNING: OnceCell<()> = OnceCell::const_new();

/// CoreDNS as any cluster has it, but that its program lies on the machine.
fn mk_dns(program: &Path) -> Value {
    let system = |kind: &str, name: &str, mut rest: Value| {
        rest["apiVersion"] = json!("v1");
        rest["kind"] = json!(kind);
        rest["metadata"] =
            json!({"name": name, "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}});
        rest
    };
    let rules = json!([
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    let rbac = |kind: &str, mut rest: Value| {
        rest["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
        rest["kind"] = json!(kind);
        rest["metadata"] = json!({"name": "coredns"});
        rest
    };
    let pod = json!({
        "serviceAccountName": "coredns", "dnsPolicy": "Default",
        "volumes": [
            {"name": "program", "hostPath": {"path": program}},
            {"name": "config", "configMap": {"name": "coredns"}},
        ],
        "containers": [{
            "name": "coredns", "image": BUSYBOX_IMAGE, "command": ["/coredns", "-conf", "/config/Corefile"],
            "volumeMounts": [
                {"name": "program", "mountPath": "/coredns"}, {"name": "config", "mountPath": "/config"},
            ],
        }],
    });
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
    let service = json!({"spec": {"clusterIP": DNS, "selector": {"k8s-app": "kube-dns"}, "ports": ports}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        system("ServiceAccount", "coredns", json!({})),
        system("ConfigMap", "coredns", json!({"data": {"Corefile": COREFILE}})),
        rbac("ClusterRole", json!({"rules": rules})),
        rbac("ClusterRoleBinding", json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
        })),
        system("Service", "kube-dns", service),
        system("Pod", "coredns", json!({"spec": pod})),
    ]})
}

async fn start_dns(lower: &Cluster) -> Result<()> {
    let program = binaries::extra("coredns").await?;
    let objects = mk_dns(&program).to_string();
    // A moment later than the namespace there is its service account.
    support::await_condition("the DNS to be taken", DEADLINE, || async {
        lower.apply(&objects).await.map(Some)
    })
    .await?;
    support::pod_running(&lower.client().await?, "kube-system", "coredns", DEADLINE)
        .await
        .map(drop)
}

/// Waits until a name leads to these addresses.
async fn await_name(site: &Site, name: &str, addresses: &[&str]) -> Result<()> {
    support::await_condition(&format!("the address of {name}"), DEADLINE, || async {
        let answer = site
            .exec("client", &format!("nslookup {name} 2>&1; true"))
            .await?;
        // The first address is the server's.
        let found = answer.split("Name:").skip(1).collect::<String>();
        let is_so = addresses.iter().all(|address| found.contains(address));
        ensure!(is_so, "{answer}");
        Ok(Some(()))
    })
    .await
}

#[test]
fn names_of_upper_services_and_of_their_pods_resolve() -> TestResult {
    on_site(async |site| {
        let lower = &site.ground.lower;
        RUNNING.get_or_try_init(|| start_dns(lower)).await?;
        let service = |name: &str, more: Value| {
            let mut service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"app": "db"}, "ports": [{"port": 80}]},
            });
            for (key, value) in more.as_object().into_iter().flatten() {
                service["spec"][key] = value.clone();
            }
            service
        };
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "serviceName": "headless", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": crate::mk_spec(&json!({
                    "containers": [mk_container("main", IDLE, &json!({}))],
                }))},
            },
        });
        let headless = service("headless", json!({"clusterIP": "None"}));
        site.apply(&[service("web", json!({})), headless, set]).await?;
        let client = json!({"containers": [mk_container("main", IDLE, &json!({}))]});
        site.run(&[mk_pod("client", &client)]).await?;
        support::pod_running(&site.client, &site.namespace, "db-0", DEADLINE).await?;

        let ip = site.pod("db-0").await?["status"]["podIP"].clone();
        let ip = ip.as_str().context("no address")?;
        let web = lower
            .kubectl(&[
                "-n",
                &site.namespace,
                "get",
                "service",
                "web",
                "-o",
                "jsonpath={.spec.clusterIP}",
            ])
            .await?
            .ok()?;
        let suffix = format!("{}.svc.cluster.local", site.namespace);
        await_name(&site, &format!("web.{suffix}"), &[&web]).await?;
        await_name(&site, &format!("headless.{suffix}"), &[ip]).await?;
        await_name(&site, &format!("db-0.headless.{suffix}"), &[ip]).await
    })
}
