//! The Node of a virtual node: what others write on it, its lease, and its rest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::virtual_node::VirtualNodeSpec;
use e2e::{Cluster, TestResult, support};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{DEADLINE, Site, mk_pod, on_site};

/// How long a virtual node with nothing to do is watched; three of its heartbeats fall into it.
const REST: Duration = Duration::from_secs(30);

async fn node(site: &Site, name: &str) -> Result<Value> {
    let nodes: Api<Node> = Api::all(site.upper.clone());
    Ok(serde_json::to_value(nodes.get_opt(name).await?)?)
}

fn condition<'a>(node: &'a Value, kind: &str) -> &'a Value {
    let conditions = node["status"]["conditions"].as_array();
    let found = conditions.and_then(|conditions| conditions.iter().find(|c| c["type"] == kind));
    found.unwrap_or(&Value::Null)
}

fn has_taint(node: &Value, key: &str) -> bool {
    let taints = node["spec"]["taints"].as_array();
    taints.is_some_and(|taints| taints.iter().any(|taint| taint["key"] == key))
}

#[test]
fn what_others_write_on_the_node_stays_and_what_they_take_comes_back() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        let _node = VirtualNodeSpec::new("vn-node")
            .start(&site.ground.upper, &site.ground.second)
            .await?;
        let nodes: Api<Node> = Api::all(site.upper.clone());
        let params = PatchParams::default();
        let taints = json!([{"key": "theirs", "value": "x", "effect": "NoSchedule"}]);
        let theirs = json!({
            "metadata": {"labels": {"theirs": "x", "type": null, "clusterID": "wrong"}},
            "spec": {"taints": taints, "unschedulable": true},
        });
        nodes.patch("vn-node", &params, &Patch::Merge(theirs)).await?;
        let status = json!({"status": {"conditions": [
            {"type": "Theirs", "status": "True", "reason": "Theirs"},
            {"type": "MemoryPressure", "status": "True", "reason": "Theirs"},
        ]}});
        nodes
            .patch_status("vn-node", &params, &Patch::Strategic(status))
            .await?;
        support::await_condition("the node to be whole again", DEADLINE, || async {
            let node = node(site, "vn-node").await?;
            let labels = &node["metadata"]["labels"];
            let ours = labels["type"] == "virtual-kubelet"
                && labels["clusterID"] == "vn-node"
                && has_taint(&node, "virtual-kubelet.io/provider")
                && condition(&node, "MemoryPressure")["status"] == "False";
            ensure!(ours, "{node}");
            Ok(Some(()))
        })
        .await?;
        let node = node(site, "vn-node").await?;
        ensure!(node["metadata"]["labels"]["theirs"] == "x", "{node}");
        ensure!(
            has_taint(&node, "theirs") && node["spec"]["unschedulable"] == true,
            "{node}"
        );
        ensure!(condition(&node, "Theirs")["status"] == "True", "{node}");
        Ok(())
    })
}

#[test]
fn a_deleted_node_is_made_again_and_owns_its_lease() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        let process = VirtualNodeSpec::new("vn-deleted")
            .start(&site.ground.upper, &site.ground.second)
            .await?;
        site.create(mk_pod("pod", "vn-deleted", None)).await?;
        let before = site.await_both(&site.second, "pod").await?;
        let nodes: Api<Node> = Api::all(site.upper.clone());
        let old = node(site, "vn-deleted").await?["metadata"]["uid"].clone();
        nodes.delete("vn-deleted", &DeleteParams::default()).await?;
        let new = support::await_condition("the node to be made again", DEADLINE, || async {
            let uid = node(site, "vn-deleted").await?["metadata"]["uid"].clone();
            Ok((uid.is_string() && uid != old).then_some(uid))
        })
        .await?;
        process.ready(&site.ground.upper).await?;
        let leases: Api<Lease> = Api::namespaced(site.upper.clone(), "kube-node-lease");
        let renewed = async |than: &Value| {
            support::await_condition("the lease to be renewed", DEADLINE, || async {
                let lease = serde_json::to_value(leases.get_opt("vn-deleted").await?)?;
                let owned = lease["metadata"]["ownerReferences"][0]["uid"] == new;
                let time = &lease["spec"]["renewTime"];
                Ok((owned && time.is_string() && time != than).then(|| time.clone()))
            })
            .await
        };
        let first = renewed(&Value::Null).await?;
        renewed(&first).await?;
        let after = site.await_both(&site.second, "pod").await?;
        ensure!(
            after["metadata"]["uid"] == before["metadata"]["uid"],
            "the pod was made again"
        );
        Ok(())
    })
}

/// Writes of a user, from an audit log: `<verb> <resource> <namespace>`.
fn writes(cluster: &Cluster, user: &str) -> Result<Vec<String>> {
    let log = std::fs::read_to_string(cluster.audit_log())?;
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let by_user = events.filter(|event| event["user"]["username"] == user);
    let writes = by_user.filter(|event| {
        ["create", "update", "patch", "delete", "deletecollection"]
            .iter()
            .any(|verb| event["verb"] == *verb)
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(writes
        .map(|event| {
            let object = &event["objectRef"];
            format!(
                "{} {} {}",
                text(&event["verb"]),
                text(&object["resource"]),
                text(&object["namespace"])
            )
        })
        .collect())
}

#[test]
fn a_virtual_node_at_rest_writes_nothing_but_heartbeats() -> TestResult {
    on_site(async |site| {
        let _turn = site.turn().await;
        let (upper, lower) = (&site.ground.upper, &site.ground.second);
        let user = "resting-node";
        let rights = ["system:masters"];
        let _node = VirtualNodeSpec::new("vn-rest")
            .upper_kubeconfig(upper.kubeconfig_for(user, &rights)?)
            .lower_kubeconfig(lower.kubeconfig_for(user, &rights)?)
            .start(upper, lower)
            .await?;
        site.set_config(&site.upper, "config", "here").await?;
        for name in ["one", "two", "three"] {
            site.create(mk_pod(name, "vn-rest", Some("config"))).await?;
            site.await_both(&site.second, name).await?;
        }
        let is_heartbeat = |write: &&String| write.starts_with("update leases ");
        // The last figures of the node and statuses of the pods are still on their way.
        let all = || writes(upper, user).map(|writes| writes.iter().filter(|w| !is_heartbeat(w)).count());
        let mut settled = all()?;
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let now = all()?;
            if std::mem::replace(&mut settled, now) == now {
                break;
            }
        }
        let (above, below) = (writes(upper, user)?.len(), writes(lower, user)?.len());
        ensure!(
            above > 0 && below >= 3,
            "the audit logs miss {user}: {above} above, {below} below"
        );

        // Not to wait for something: what happens meanwhile is what is tested.
        tokio::time::sleep(REST).await;
        let new = writes(upper, user)?.split_off(above);
        ensure!(new.iter().all(|write| is_heartbeat(&write)), "{new:?}");
        let beats = new
            .iter()
            .filter(|write| write.ends_with("kube-node-lease"))
            .count();
        ensure!(beats >= 2, "{new:?}");
        let new = writes(lower, user)?.split_off(below);
        ensure!(new.is_empty(), "{new:?}");
        site.pods(&site.second)
            .await?
            .first()
            .context("nothing ran")
            .map(drop)
    })
}
