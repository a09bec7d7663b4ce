//! One random operation.

use std::time::Duration;

use anyhow::Result;
use e2e::Fault;
use serde_json::{Value, json};

use crate::random::Random;
use crate::world::{World, collection, create, delete, get, merge, text};

/// Names of each kind; few, so that operations meet.
const PODS: usize = 8;
const OBJECTS: usize = 4;
/// Longest pause between two operations: what the virtual node needs for a few requests, so that operations meet it
/// at work, and idle.
const PAUSE: usize = 60;

/// Does one of all that can happen.
pub(crate) async fn one(world: &mut World, random: &mut Random) -> Result<()> {
    let namespace = world.namespaces[random.below(2)].clone();
    match random.below(100) {
        0..30 => create_pod(world, random, &namespace).await?,
        30..44 => {
            let grace = random.chance(30).then_some(0);
            delete(
                &world.upper,
                &collection(&namespace, "pods"),
                &pod_name(random),
                grace,
            )
            .await?;
        }
        44..54 => update_pod(world, random, &namespace).await?,
        54..68 => write_object(world, random, &namespace).await?,
        68..75 => {
            let (plural, name) = (
                random.pick(&["configmaps", "secrets", "services"]),
                object_name(random),
            );
            delete(&world.upper, &collection(&namespace, plural), &name, None).await?;
        }
        75..87 => delete_below(world, random, &namespace).await?,
        87..91 => make_foreign(world, random).await?,
        91..94 => delete_foreign(world, random).await?,
        94..98 => {
            let delay = Fault::Delay(Duration::from_millis(100));
            let fault = random.pick(&[Fault::Cut, Fault::HalfOpen, delay]);
            world.break_link(random.below(2), fault, 5 + random.below(20));
        }
        _ => {
            let gently = random.chance(70);
            world.restart(gently).await?;
        }
    }
    world.tick();
    let pause = u64::try_from(random.below(PAUSE)).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(pause)).await;
    Ok(())
}

fn pod_name(random: &mut Random) -> String {
    format!("pod-{}", random.below(PODS))
}

fn object_name(random: &mut Random) -> String {
    format!("object-{}", random.below(OBJECTS))
}

/// A pod bound to the virtual node, with some of all objects.
async fn create_pod(world: &World, random: &mut Random, namespace: &str) -> Result<()> {
    let mut volumes = Vec::new();
    let mut env_from = Vec::new();
    if random.chance(60) {
        let optional = random.chance(40);
        volumes
            .push(json!({"name": "map", "configMap": {"name": object_name(random), "optional": optional}}));
    }
    if random.chance(60) {
        let optional = random.chance(40);
        env_from.push(json!({"secretRef": {"name": object_name(random), "optional": optional}}));
    }
    let account = random.pick(&["upper", "upper", "none"]);
    let pod = json!({
        "metadata": {"name": pod_name(random), "annotations": {"tensile.dev/service-account": account}},
        "spec": {
            "nodeName": world.node, "terminationGracePeriodSeconds": random.below(3), "volumes": volumes,
            "containers": [{"name": "main", "image": "ours", "envFrom": env_from}],
        },
    });
    create(&world.upper, &collection(namespace, "pods"), &pod)
        .await
        .map(drop)
}

async fn update_pod(world: &World, random: &mut Random, namespace: &str) -> Result<()> {
    let value = random.below(1000).to_string();
    let patch = match random.below(3) {
        0 => json!({"metadata": {"labels": {"changed": value}}}),
        1 => json!({"metadata": {"annotations": {"changed": value}}}),
        _ => json!({"spec": {"activeDeadlineSeconds": 100_000 - random.below(1000)}}),
    };
    let pods = collection(namespace, "pods");
    merge(&world.upper, &pods, &pod_name(random), &patch)
        .await
        .map(drop)
}

fn mk_object(plural: &str, name: &str, value: &str) -> Value {
    match plural {
        "configmaps" => json!({"metadata": {"name": name}, "data": {"a": value}}),
        "secrets" => json!({"metadata": {"name": name}, "stringData": {"a": value}}),
        _ => json!({
            "metadata": {"name": name, "annotations": {"a": value}},
            "spec": {"ports": [{"port": 80}], "clusterIP": if value.ends_with('0') { "None" } else { "" }},
        }),
    }
}

/// Creates an object above, or changes it.
async fn write_object(world: &World, random: &mut Random, namespace: &str) -> Result<()> {
    let (plural, name) = (
        random.pick(&["configmaps", "secrets", "services"]),
        object_name(random),
    );
    let value = random.below(1000).to_string();
    let (all, mut object) = (collection(namespace, plural), mk_object(plural, &name, &value));
    if create(&world.upper, &all, &object).await?.is_none() {
        if plural == "services" {
            object["spec"] = json!({});
        }
        merge(&world.upper, &all, &name, &object).await?;
    }
    Ok(())
}

/// Somebody deletes something of ours below.
async fn delete_below(world: &World, random: &mut Random, namespace: &str) -> Result<()> {
    let plural = random.pick(&["pods", "pods", "configmaps", "secrets", "services", "token"]);
    let (plural, name) = match plural {
        "pods" => (plural, pod_name(random)),
        "token" => {
            let pod = get(&world.upper, &collection(namespace, "pods"), &pod_name(random)).await?;
            (
                "secrets",
                format!("tensile-token-{}", text(&pod["metadata"]["uid"])),
            )
        }
        _ => (plural, object_name(random)),
    };
    let all = collection(namespace, plural);
    if world.foreign.contains_key(&(all.clone(), name.clone())) {
        return Ok(());
    }
    let grace = random.chance(30).then_some(0);
    delete(&world.lower, &all, &name, grace).await
}

/// Somebody makes something below under a name that we use too.
async fn make_foreign(world: &mut World, random: &mut Random) -> Result<()> {
    let plural = random.pick(&["pods", "configmaps", "secrets", "services"]);
    let (name, object) = if plural == "pods" {
        let name = pod_name(random);
        let spec = json!({"containers": [{"name": "main", "image": "theirs"}]});
        (name.clone(), json!({"metadata": {"name": name}, "spec": spec}))
    } else {
        let name = object_name(random);
        (name.clone(), mk_object(plural, &name, "theirs"))
    };
    let all = collection(&world.namespaces[0], plural);
    if let Some(made) = create(&world.lower, &all, &object).await? {
        world.foreign.insert((all, name), made);
    }
    Ok(())
}

/// Somebody deletes what is theirs.
async fn delete_foreign(world: &mut World, random: &mut Random) -> Result<()> {
    let number = random.below(world.foreign.len());
    let Some(key) = world.foreign.keys().nth(number).cloned() else {
        return Ok(());
    };
    world.foreign.remove(&key);
    delete(&world.lower, &key.0, &key.1, Some(0)).await
}
