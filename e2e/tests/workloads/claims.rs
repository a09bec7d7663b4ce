//! PersistentVolumeClaims: prepared by hand, provisioned below, of a StatefulSet, growing, and given up.

use anyhow::{Result, ensure};
use e2e::TestResult;
use kube::Client;
use serde_json::{Value, json};

use crate::{NODE, Site, create, delete, get, list, merge, mk_pod, on_site, until, until_gone};

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

fn mk_claim(name: &str, class: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": mk_claim_spec(class)})
}

fn mk_claim_spec(class: &str) -> Value {
    json!({
        "storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    })
}

/// A volume that somebody prepared: on one node, or on any.
fn mk_volume(name: &str, class: &str, node: Option<&str>) -> Value {
    let key = "kubernetes.io/hostname";
    let expression = match node {
        Some(node) => json!({"key": key, "operator": "In", "values": [node]}),
        None => json!({"key": key, "operator": "Exists"}),
    };
    json!({
        "metadata": {"name": name},
        "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    })
}

/// A class above that the virtual nodes provide, and the class below that it stands for.
async fn mk_classes(site: &Site, name: &str, policy: &str) -> Result<()> {
    let above = json!({
        "metadata": {"name": name}, "provisioner": "tensile.dev", "reclaimPolicy": policy,
        "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
        "parameters": {"storageClassName": format!("{name}-below")},
    });
    create(&site.upper, CLASSES, &above).await?;
    let below = json!({
        "metadata": {"name": format!("{name}-below")}, "provisioner": "kubernetes.io/no-provisioner",
        "allowVolumeExpansion": true,
    });
    for lower in [&site.first, &site.second] {
        create(lower, CLASSES, &below).await?;
        // What a provisioner would make.
        let volume = mk_volume(&format!("{name}-volume"), &format!("{name}-below"), None);
        create(lower, VOLUMES, &volume).await?;
    }
    Ok(())
}

fn mk_user(name: &str, claim: &str) -> Value {
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": claim}});
    mk_pod(name, NODE, &json!({"volumes": [volume]}))
}

fn is_bound(object: &Value) -> bool {
    object["status"]["phase"] == "Bound"
}

async fn lower_claim(site: &Site, lower: &Client, name: &str) -> Result<Value> {
    until(
        lower,
        &site.all("persistentvolumeclaims"),
        name,
        "Bound",
        is_bound,
    )
    .await
}

#[test]
fn volumes_that_were_prepared_on_both_sides_meet() -> TestResult {
    on_site(async |site| {
        let claims = site.all("persistentvolumeclaims");
        let name = site.namespace.as_str();
        create(&site.upper, VOLUMES, &mk_volume(name, "", Some(NODE))).await?;
        create(&site.first, VOLUMES, &mk_volume(name, "", None)).await?;
        let mut claim = mk_claim("data", "");
        claim["spec"]["volumeName"] = json!(name);
        create(&site.upper, &claims, &claim).await?;
        site.run(&mk_user("user", "data"), &site.first).await?;
        let below = lower_claim(site, &site.first, "data").await?;
        ensure!(below["spec"]["volumeName"] == name, "{below}");

        // The data outlives the pod, and the claim above.
        site.end("user", &site.first).await?;
        delete(&site.upper, &claims, "data").await?;
        until_gone(&site.upper, &claims, "data").await?;
        let released = |volume: &Value| volume["status"]["phase"] == "Released";
        until(&site.upper, VOLUMES, name, "Released", released).await?;
        ensure!(get(&site.first, &claims, "data").await?["metadata"]["uid"] == below["metadata"]["uid"]);

        // Somebody gives the volume free again: the new claim has its data.
        merge(&site.upper, VOLUMES, name, &json!({"spec": {"claimRef": null}})).await?;
        create(&site.upper, &claims, &claim).await?;
        site.run(&mk_user("user", "data"), &site.first).await?;
        let again = lower_claim(site, &site.first, "data").await?;
        let uid = get(&site.upper, &claims, "data").await?["metadata"]["uid"].clone();
        ensure!(again["metadata"]["uid"] == below["metadata"]["uid"], "{again}");
        ensure!(
            again["metadata"]["labels"]["tensile.dev/origin-uid"] == uid,
            "{again}"
        );
        Ok(())
    })
}

#[test]
fn the_lower_cluster_provisions_grows_and_gives_up_what_a_pod_claims() -> TestResult {
    on_site(async |site| {
        let claims = site.all("persistentvolumeclaims");
        let class = format!("delete-{}", site.namespace);
        mk_classes(site, &class, "Delete").await?;
        create(&site.upper, &claims, &mk_claim("data", &class)).await?;
        site.run(&mk_user("user", "data"), &site.first).await?;
        let upper = until(&site.upper, &claims, "data", "Bound", is_bound).await?;
        let volume = upper["spec"]["volumeName"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let stands = get(&site.upper, VOLUMES, &volume).await?;
        let affinity =
            &stands["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
        ensure!(affinity["values"] == json!([NODE]), "{stands}");
        let below = lower_claim(site, &site.first, "data").await?;
        ensure!(
            below["spec"]["storageClassName"] == format!("{class}-below"),
            "{below}"
        );
        ensure!(get(&site.second, &claims, "data").await?.is_null());

        let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        merge(&site.upper, &claims, "data", &more).await?;
        let asked = |claim: &Value| claim["spec"]["resources"]["requests"]["storage"] == "2Gi";
        until(&site.first, &claims, "data", "to grow", asked).await?;
        // What a resizer would say.
        merge(
            &site.first,
            &claims,
            "data/status",
            &json!({"status": {"capacity": {"storage": "2Gi"}}}),
        )
        .await?;
        let grown = |claim: &Value| claim["status"]["capacity"]["storage"] == "2Gi";
        until(&site.upper, &claims, "data", "to be larger", grown).await?;
        ensure!(get(&site.upper, VOLUMES, &volume).await?["spec"]["capacity"]["storage"] == "2Gi");

        // The data goes when the claim goes, and not with the pod.
        site.end("user", &site.first).await?;
        ensure!(!get(&site.first, &claims, "data").await?.is_null());
        delete(&site.upper, &claims, "data").await?;
        until_gone(&site.first, &claims, "data").await?;
        until_gone(&site.upper, VOLUMES, &volume).await
    })
}

#[test]
fn what_is_retained_or_foreign_is_neither_deleted_nor_used() -> TestResult {
    on_site(async |site| {
        let claims = site.all("persistentvolumeclaims");
        let class = format!("retain-{}", site.namespace);
        mk_classes(site, &class, "Retain").await?;
        create(&site.upper, &claims, &mk_claim("data", &class)).await?;
        site.run(&mk_user("user", "data"), &site.first).await?;
        let below = lower_claim(site, &site.first, "data").await?;
        let volume = get(&site.upper, &claims, "data").await?["spec"]["volumeName"].clone();
        let volume = volume.as_str().unwrap_or_default();
        site.end("user", &site.first).await?;
        delete(&site.upper, &claims, "data").await?;
        let released = |volume: &Value| volume["status"]["phase"] == "Released";
        until(&site.upper, VOLUMES, volume, "Released", released).await?;

        // A fresh claim of that name does not get the old data.
        create(&site.upper, &claims, &mk_claim("data", &class)).await?;
        create(&site.upper, &site.all("pods"), &mk_user("user", "data")).await?;
        let message = site.refusal("user", "DependencyFailed").await?;
        ensure!(message.contains("data of an earlier claim"), "{message}");
        let kept = get(&site.first, &claims, "data").await?;
        ensure!(kept["metadata"]["uid"] == below["metadata"]["uid"], "{kept}");
        ensure!(kept["metadata"].get("deletionTimestamp").is_none(), "{kept}");

        let theirs = create(
            &site.first,
            &claims,
            &mk_claim("taken", &format!("{class}-below")),
        )
        .await?;
        create(&site.upper, &claims, &mk_claim("taken", &class)).await?;
        create(&site.upper, &site.all("pods"), &mk_user("next", "taken")).await?;
        let message = site.refusal("next", "DependencyFailed").await?;
        ensure!(message.contains("not ours"), "{message}");
        delete(&site.upper, &site.all("pods"), "next").await?;
        delete(&site.upper, &claims, "taken").await?;
        until_gone(&site.upper, &claims, "taken").await?;
        let found = get(&site.first, &claims, "taken").await?;
        ensure!(found["metadata"]["uid"] == theirs["metadata"]["uid"], "{found}");
        ensure!(found["metadata"].get("deletionTimestamp").is_none(), "{found}");
        Ok(())
    })
}

#[test]
fn a_generic_ephemeral_volume_comes_and_goes_with_its_pod() -> TestResult {
    on_site(async |site| {
        let claims = site.all("persistentvolumeclaims");
        let class = format!("scratch-{}", site.namespace);
        let above = json!({
            "metadata": {"name": class}, "provisioner": "tensile.dev", "volumeBindingMode": "WaitForFirstConsumer",
            "parameters": {"storageClassName": class},
        });
        create(&site.upper, CLASSES, &above).await?;
        let below = json!({"metadata": {"name": class}, "provisioner": "kubernetes.io/no-provisioner"});
        create(&site.first, CLASSES, &below).await?;
        create(&site.first, VOLUMES, &mk_volume(&class, &class, None)).await?;
        let template = json!({"spec": mk_claim_spec(&class)});
        let volume = json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}});
        let pod = site
            .run(&mk_pod("user", NODE, &json!({"volumes": [volume]})), &site.first)
            .await?;
        let below = lower_claim(site, &site.first, "user-scratch").await?;
        ensure!(
            below["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"],
            "{below}"
        );
        let upper = until(&site.upper, &claims, "user-scratch", "Bound", is_bound).await?;
        site.end("user", &site.first).await?;
        for side in [&site.upper, &site.first] {
            until_gone(side, &claims, "user-scratch").await?;
        }
        let volume = upper["spec"]["volumeName"].as_str().unwrap_or_default();
        until_gone(&site.upper, VOLUMES, volume).await
    })
}

#[test]
fn a_stateful_set_has_its_claims_in_two_clusters() -> TestResult {
    on_site(async |site| {
        let class = format!("set-{}", site.namespace);
        mk_classes(site, &class, "Delete").await?;
        let labels = json!({"app": "set"});
        let apart =
            json!([{"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}]);
        // One virtual node of each lower cluster.
        let nodes = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE, "vn-b"]});
        let set = json!({
            "metadata": {"name": "set"},
            "spec": {
                "replicas": 2, "serviceName": "set", "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "volumeClaimTemplates": [mk_claim("data", &class)],
                "template": {"metadata": {"labels": labels}, "spec": {
                    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
                    "affinity": {
                        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart},
                        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": [nodes]}],
                        }},
                    },
                    "containers": [{
                        "name": "main", "image": "ours",
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                }},
            },
        });
        let sets = format!("/apis/apps/v1/namespaces/{}/statefulsets", site.namespace);
        create(&site.upper, &sets, &set).await?;
        let is_whole = |set: &Value| set["status"]["readyReplicas"] == 2;
        until(&site.upper, &sets, "set", "to be whole", is_whole).await?;
        let claims = site.all("persistentvolumeclaims");
        for lower in [&site.first, &site.second] {
            let found = list(lower, &claims).await?;
            ensure!(found.len() == 1, "one claim in each cluster: {found:?}");
            lower_claim(
                site,
                lower,
                found[0]["metadata"]["name"].as_str().unwrap_or_default(),
            )
            .await?;
        }
        Ok(())
    })
}
