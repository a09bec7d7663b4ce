//! Virtual nodes that stop and start again, and several at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{TestResult, support};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{DEADLINE, NODE, Site, is_running, mk_pod, on_site};

/// Time for an orderly end.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Stops a virtual node in an orderly way, which gives its lease back.
async fn stop(node: &VirtualNode) -> Result<()> {
    node.component.terminate().await?;
    let status = node.component.wait_exit(STOP_DEADLINE).await?;
    ensure!(status.success(), "{status}\n{}", node.component.log_tail());
    Ok(())
}

/// A ReplicaSet of two pods, bound to `node`.
fn mk_set(node: &str) -> Value {
    let mut template = mk_pod("set", node, None);
    template["metadata"] = json!({"labels": {"app": "set"}});
    json!({
        "metadata": {"name": "set"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "set"}}, "template": template},
    })
}

/// The names of the running pods of the ReplicaSet, once there are two.
async fn await_set(site: &Site) -> Result<[String; 2]> {
    support::await_condition("two pods of the set", DEADLINE, || async {
        let pods = site.pods(&site.upper).await?;
        let of_set = |pod: &&Value| pod["metadata"]["labels"]["app"] == "set" && is_running(pod);
        let mut names: Vec<_> = pods
            .iter()
            .filter(of_set)
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names.try_into().ok())
    })
    .await
}

/// Changes things on both sides while nobody looks after them; `lost` is a pod of the set.
async fn change_everything(site: &Site, node: &str, lost: &str) -> Result<()> {
    let (above, below): (Api<Pod>, Api<Pod>) = (site.api(&site.upper), site.api(&site.second));
    above.delete("deleted", &DeleteParams::default()).await?;
    for forced in ["forced", "again"] {
        above
            .delete(forced, &DeleteParams::default().grace_period(0))
            .await?;
    }
    site.create(mk_pod("again", node, None)).await?;
    site.create(mk_pod("fresh", node, Some("config"))).await?;
    site.set_config(&site.upper, "config", "after").await?;
    for lost in [lost, "once"] {
        below.delete(lost, &DeleteParams::default()).await?;
        support::pod_gone(&site.second, &site.namespace, lost, DEADLINE).await?;
    }
    let end = json!({"status": {"phase": "Succeeded", "containerStatuses": [{
        "name": "main", "image": "ours", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": "done"}},
    }]}});
    below
        .patch_status("ended", &PatchParams::default(), &Patch::Merge(end))
        .await?;
    Ok(())
}

/// Waits until both sides agree again.
async fn await_agreement(site: &Site) -> Result<()> {
    for name in ["deleted", "forced"] {
        support::pod_gone(&site.upper, &site.namespace, name, DEADLINE).await?;
        support::pod_gone(&site.second, &site.namespace, name, DEADLINE).await?;
    }
    for name in ["again", "fresh"] {
        site.await_both(&site.second, name).await?;
    }
    let ended = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        pod["status"]["phase"] == "Succeeded" && container["state"]["terminated"]["message"] == "done"
    };
    site.await_pod(&site.upper, "ended", "Succeeded", ended).await?;
    support::await_condition("the copy to be renewed", DEADLINE, || async {
        let copy = site.get::<ConfigMap>(&site.second, "config").await?;
        Ok((copy["data"]["a"] == "after").then_some(()))
    })
    .await
}

/// What was lost below while nobody looked on is made again and counts as restarted; what must run once has failed.
async fn goes_on(site: &Site, lost: &str, before: &Value) -> Result<()> {
    let again = |pod: &Value| is_running(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let above = site.await_pod(&site.upper, lost, "made again", again).await?;
    let below = site.await_both(&site.second, lost).await?;
    ensure!(below["metadata"]["uid"] != before["metadata"]["uid"], "{below}");
    ensure!(
        below["status"]["containerStatuses"][0]["restartCount"] == 0,
        "{below}"
    );
    ensure!(
        above["status"].get("reason").is_none() && above["status"]["podIP"] == below["status"]["podIP"],
        "{above}"
    );
    let failed = |pod: &Value| pod["status"]["phase"] == "Failed";
    let once = site.await_pod(&site.upper, "once", "Failed", failed).await?;
    let ended = &once["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(
        once["status"]["reason"] == "LowerPodVanished" && ended["exitCode"] == 137,
        "{once}"
    );
    ensure!(
        site.get::<Pod>(&site.second, "once").await?.is_null(),
        "it runs again"
    );
    Ok(())
}

async fn restart(site: &Site, name: &str, stop: impl AsyncFnOnce(&VirtualNode) -> Result<()>) -> Result<()> {
    let _turn = site.turn().await;
    let (spec, ground) = (VirtualNodeSpec::new(name), site.ground);
    let node = spec.start(&ground.upper, &ground.second).await?;
    site.set_config(&site.upper, "config", "before").await?;
    for pod in ["kept", "deleted", "forced", "again", "ended"] {
        site.create(mk_pod(pod, name, Some("config"))).await?;
    }
    let mut once = mk_pod("once", name, None);
    once["spec"]["restartPolicy"] = json!("Never");
    site.create(once).await?;
    support::create(&site.api::<ReplicaSet>(&site.upper), mk_set(name)).await?;
    let [survivor, lost] = await_set(site).await?;
    let mut kept = Vec::new();
    for pod in ["kept", survivor.as_str()] {
        kept.push(site.await_both(&site.second, pod).await?);
    }
    for pod in ["deleted", "forced", "again", "ended", "once"] {
        site.await_both(&site.second, pod).await?;
    }
    let before = site.await_both(&site.second, &lost).await?;

    stop(&node).await?;
    change_everything(site, name, &lost).await?;
    let node = spec.start(&ground.upper, &ground.second).await?;
    await_agreement(site).await?;
    goes_on(site, &lost, &before).await?;
    let set = await_set(site).await?;
    ensure!(set.contains(&survivor) && set.contains(&lost), "{set:?}");
    for before in kept {
        let pod = before["metadata"]["name"].as_str().context("no name")?;
        let after = site.await_both(&site.second, pod).await?;
        ensure!(
            after["metadata"]["uid"] == before["metadata"]["uid"],
            "{pod} was made again: {after}"
        );
        ensure!(after["status"] == before["status"], "{pod} changed: {after}");
    }
    self::stop(&node).await
}

#[test]
fn after_an_orderly_stop_nothing_restarts_and_everything_converges() -> TestResult {
    on_site(async |site| restart(site, "vn-stopped", stop).await)
}

#[test]
fn after_a_kill_nothing_restarts_and_everything_converges() -> TestResult {
    on_site(async |site| restart(site, "vn-killed", async |node| node.component.kill().await).await)
}

#[test]
fn pods_bound_before_the_first_start_run() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        site.create(mk_pod("early", "vn-late", None)).await?;
        let node = VirtualNodeSpec::new("vn-late")
            .start(&site.ground.upper, &site.ground.second)
            .await?;
        site.await_both(&site.second, "early").await?;
        stop(&node).await
    })
}

#[test]
fn two_virtual_nodes_run_their_own_pods() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        let node = VirtualNodeSpec::new("vn-b")
            .start(&site.ground.upper, &site.ground.second)
            .await?;
        for (pod, cluster) in [("one", NODE), ("two", "vn-b")] {
            let mut pod = mk_pod(pod, "", None);
            pod["spec"]["nodeSelector"] = json!({"clusterID": cluster});
            pod["spec"]["tolerations"] =
                json!([{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]);
            site.create(pod).await?;
        }
        site.await_both(&site.first, "one").await?;
        site.await_both(&site.second, "two").await?;
        ensure!(site.pods(&site.first).await?.len() == 1 && site.pods(&site.second).await?.len() == 1);
        stop(&node).await
    })
}

#[test]
fn a_second_process_waits_until_the_first_ends() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        let (spec, ground) = (VirtualNodeSpec::new("vn-twice"), site.ground);
        let first = spec.start(&ground.upper, &ground.second).await?;
        site.create(mk_pod("pod", "vn-twice", None)).await?;
        let before = site.await_both(&site.second, "pod").await?;
        let second = spec.spawn(&ground.upper, &ground.second).await?;
        let leases: Api<Lease> = Api::namespaced(site.upper.clone(), "tensile-system");
        let holder = leases
            .get("tensile-vn-twice")
            .await?
            .spec
            .and_then(|spec| spec.holder_identity);
        let holder = holder.context("nobody holds the lease")?;
        support::await_condition(
            "the second process to say who holds the lease",
            DEADLINE,
            || async {
                let log = std::fs::read_to_string(second.component.log())?;
                Ok((log.contains("held by another process") && log.contains(&holder)).then_some(()))
            },
        )
        .await?;
        let (status, body) = second.page("/readyz").await?;
        ensure!(status == 503 && body.contains("lease"), "{status} {body}");

        stop(&first).await?;
        second.ready(&ground.upper).await?;
        site.create(mk_pod("next", "vn-twice", None)).await?;
        site.await_both(&site.second, "next").await?;
        let after = site.await_both(&site.second, "pod").await?;
        ensure!(
            after["metadata"]["uid"] == before["metadata"]["uid"],
            "the pod was made again"
        );
        stop(&second).await
    })
}
