//! Random nodes, pods, volumes and claims: few keys, values and sizes, so that each predicate says yes about as often
//! as no, and pods often meet on purpose.

use serde_json::{Map, Value, json};

use crate::random::Random;

/// The namespaces; they carry the label `team`, but for the last one.
pub(crate) const NAMESPACES: [(&str, Option<&str>); 3] =
    [("default", Some("a")), ("red", Some("b")), ("blue", None)];
/// Claims of each namespace are `claim-0` to `claim-4`; pods ask for one more, which never exists.
pub(crate) const CLAIMS: usize = 5;
/// The driver that provisions volumes and whose volumes nodes take only some of.
pub(crate) const DRIVER: &str = "csi.example.com";
/// Keeps objects that are being deleted.
pub(crate) const FINALIZER: &str = "tests.tensile.dev/keep";

const CLASSES: [&str; 4] = ["late", "late-zoned", "local", "at-once"];
const TOPOLOGIES: [&str; 3] = ["kubernetes.io/hostname", "zone", "region"];
const ZONE: &str = "topology.kubernetes.io/zone";
const EXTENDED: &str = "example.com/x";

// === classes ===

/// The storage classes that claims name.
pub(crate) fn classes() -> Vec<Value> {
    let class = |name: &str, mode: &str, provisioner: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    let mut zoned = class("late-zoned", "WaitForFirstConsumer", DRIVER);
    zoned["allowedTopologies"] = json!([
        {"matchLabelExpressions": [{"key": ZONE, "values": ["a"]}]},
        {"matchLabelExpressions": [{"key": "zone", "values": ["b", "3"]}, {"key": ZONE, "values": ["b"]}]},
    ]);
    vec![
        class("late", "WaitForFirstConsumer", DRIVER),
        zoned,
        class("local", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"),
        class("at-once", "Immediate", DRIVER),
    ]
}

// === nodes ===

/// A node; some are cordoned, some have few resources.
pub(crate) fn node(random: &mut Random, index: usize) -> Value {
    let mut node = random.node("lower");
    node.name = format!("lower-{index}");
    node.labels
        .insert("kubernetes.io/hostname".to_owned(), node.name.clone());
    if random.chance(80) {
        let zone = *random.pick(&["a", "b", "c"]);
        node.labels.insert(ZONE.to_owned(), zone.to_owned());
    }
    // The API server allows one taint for each key and effect.
    let mut seen = std::collections::BTreeSet::new();
    node.taints
        .retain(|taint| seen.insert((taint["key"].to_string(), taint["effect"].to_string())));
    let mut resources = json!({
        "cpu": random.pick(&["1", "2", "4", "8"]), "memory": random.pick(&["1Gi", "4Gi", "8Gi"]),
        "ephemeral-storage": random.pick(&["1Gi", "10Gi"]), "pods": random.pick(&["3", "6", "20"]),
    });
    if random.chance(50) {
        resources[EXTENDED] = json!(random.pick(&["0", "1", "3"]));
    }
    json!({
        "metadata": {"name": node.name, "labels": node.labels},
        "spec": {"taints": node.taints, "unschedulable": random.chance(10)},
        "status": {"capacity": resources, "allocatable": resources},
    })
}

/// The drivers on a node; one in three nodes knows of none.
pub(crate) fn csi_node(random: &mut Random, index: usize) -> Option<Value> {
    let limit = random.chance(80).then(|| json!({"count": random.below(3)}));
    random.chance(67).then(|| {
        json!({
            "metadata": {"name": format!("lower-{index}")},
            "spec": {"drivers": [
                {"name": DRIVER, "nodeID": format!("id-{index}"), "topologyKeys": [], "allocatable": limit}
            ]},
        })
    })
}

// === storage ===

/// A volume; whether it is bound is up to the claims.
pub(crate) fn volume(random: &mut Random, index: usize) -> Value {
    let mut volume = json!({
        "metadata": {"name": format!("volume-{index}"), "labels": {"disk": random.pick(&["fast", "slow"])}},
        "spec": {
            "capacity": {"storage": random.pick(&["1Gi", "2Gi", "3Gi"])},
            "accessModes": [random.pick(&["ReadWriteOnce", "ReadWriteMany"])],
            "storageClassName": random.pick(&["late", "local"]),
        },
    });
    if random.chance(60) {
        volume["spec"]["csi"] = json!({"driver": DRIVER, "volumeHandle": format!("handle-{}", index / 2)});
    } else {
        volume["spec"]["hostPath"] = json!({"path": "/data"});
    }
    if random.chance(50) {
        volume["metadata"]["labels"][ZONE] = json!(random.pick(&["a", "b", "a__c"]));
    }
    if random.chance(60) {
        let expression = match random.below(3) {
            0 => json!({"key": "kubernetes.io/hostname", "operator": "In",
                        "values": [format!("lower-{}", random.below(6)), format!("lower-{}", random.below(12))]}),
            1 => json!({"key": ZONE, "operator": "NotIn", "values": [random.pick(&["a", "b"])]}),
            _ => json!({"key": "zone", "operator": "Exists"}),
        };
        volume["spec"]["nodeAffinity"] =
            json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}});
    }
    volume
}

/// A claim, and whether it shall be bound to a volume, promised one, or be Lost.
pub(crate) fn claim(random: &mut Random, index: usize) -> Value {
    let mut claim = json!({
        "metadata": {"name": format!("claim-{index}"), "annotations": {}},
        "spec": {
            "accessModes": [random.pick(&["ReadWriteOnce", "ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"])],
            "resources": {"requests": {"storage": random.pick(&["1Gi", "2Gi"])}},
            "storageClassName": random.pick(&CLASSES),
        },
    });
    if random.chance(20) {
        claim["spec"]["selector"] = json!({"matchLabels": {"disk": random.pick(&["fast", "slow"])}});
    }
    match random.below(10) {
        0..4 => {
            claim["spec"]["volumeName"] = json!(format!("volume-{}", random.below(10)));
            if random.chance(85) {
                claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
            }
        }
        4 => {
            let node = format!("lower-{}", random.below(12));
            claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!(node);
        }
        _ => {}
    }
    if random.chance(5) {
        claim["metadata"]["finalizers"] = json!([FINALIZER]);
    }
    claim
}

// === pods ===

/// A pod with the namespace that it is for. The API server may refuse it: random parts may break its rules.
pub(crate) fn pod(random: &mut Random, name: &str) -> Value {
    let mut spec = if random.chance(30) {
        random.spec()
    } else {
        json!({})
    };
    resources(random, &mut spec);
    if random.chance(15) {
        ports(random, &mut spec);
    }
    if random.chance(20) {
        spec["topologySpreadConstraints"] = (0..=random.below(2)).map(|_| spread(random)).collect();
    }
    for (member, percent) in [("podAffinity", 12), ("podAntiAffinity", 18)] {
        if random.chance(percent) {
            let terms: Vec<Value> = (0..=random.below(2)).map(|_| affinity_term(random)).collect();
            spec["affinity"][member] = json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
        }
    }
    if random.chance(25) {
        let volume = |index| {
            let claim = format!("claim-{}", random.below(CLAIMS + 1));
            json!({"name": format!("v{index}"), "persistentVolumeClaim": {"claimName": claim}})
        };
        spec["volumes"] = (0..2).map(volume).collect();
    }
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({
        "metadata": {"name": name, "namespace": random.pick(&NAMESPACES).0, "labels": labels(random)},
        "spec": spec,
    })
}

fn labels(random: &mut Random) -> Value {
    let mut labels = json!({"app": random.pick(&["a", "b", "c"])});
    if random.chance(50) {
        labels["tier"] = json!(random.pick(&["x", "y"]));
    }
    labels
}

fn resources(random: &mut Random, spec: &mut Value) {
    spec["containers"] = (0..=random.below(2))
        .map(|index| container(random, &format!("c{index}")))
        .collect();
    if random.chance(25) {
        let mut init = |index| {
            let mut container = container(random, &format!("i{index}"));
            if random.chance(50) {
                container["restartPolicy"] = json!("Always");
            }
            container
        };
        spec["initContainers"] = (0..2).map(&mut init).collect();
    }
    if random.chance(10) {
        spec["overhead"] = json!({"cpu": "500m", "memory": "512Mi"});
    }
    if random.chance(10) {
        spec["resources"] = json!({"requests": {"cpu": "3", "memory": "3Gi"}});
    }
}

fn container(random: &mut Random, name: &str) -> Value {
    let mut requests = Map::new();
    for (resource, amounts) in [
        ("cpu", ["100m", "500m", "1", "1500m"]),
        ("memory", ["64Mi", "256Mi", "512Mi", "1Gi"]),
        ("ephemeral-storage", ["1Mi", "100Mi", "600Mi", "2Gi"]),
    ] {
        if random.chance(50) {
            requests.insert(resource.to_owned(), json!(random.pick(&amounts)));
        }
    }
    let mut container = json!({"name": name, "image": "i"});
    if random.chance(10) {
        requests.insert(EXTENDED.to_owned(), json!("1"));
        container["resources"]["limits"] = json!({EXTENDED: "1"});
    }
    container["resources"]["requests"] = requests.into();
    container
}

fn ports(random: &mut Random, spec: &mut Value) {
    let port = 8080 + random.below(2);
    let host_network = random.chance(30);
    spec["hostNetwork"] = json!(host_network);
    let host_port = if random.chance(85) || host_network {
        port
    } else {
        0
    };
    let ports = json!([{
        "containerPort": port, "hostPort": host_port, "protocol": random.pick(&["TCP", "TCP", "UDP"]),
        "hostIP": random.pick(&["", "0.0.0.0", "10.0.0.1", "10.0.0.2"]),
    }]);
    let place = if random.chance(20) {
        "initContainers"
    } else {
        "containers"
    };
    if spec[place].is_array() {
        spec[place][0]["ports"] = ports;
    }
}

fn selector(random: &mut Random) -> Value {
    match random.below(8) {
        0 => json!({}),
        1 => json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
        2 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["b"]}]}),
        _ => json!({"matchLabels": {"app": random.pick(&["a", "b", "c"])}}),
    }
}

fn spread(random: &mut Random) -> Value {
    let policy = |random: &mut Random| *random.pick(&["Honor", "Ignore"]);
    let mut constraint = json!({
        "maxSkew": 1 + random.below(3), "topologyKey": random.pick(&TOPOLOGIES),
        "whenUnsatisfiable": random.pick(&["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"]),
        "nodeAffinityPolicy": policy(random), "nodeTaintsPolicy": policy(random),
    });
    if random.chance(90) {
        constraint["labelSelector"] = selector(random);
        if random.chance(30) {
            constraint["matchLabelKeys"] = json!(["tier"]);
        }
    }
    if random.chance(30) && constraint["whenUnsatisfiable"] == "DoNotSchedule" {
        constraint["minDomains"] = json!(1 + random.below(5));
    }
    constraint
}

fn affinity_term(random: &mut Random) -> Value {
    let mut term = json!({"topologyKey": random.pick(&TOPOLOGIES), "labelSelector": selector(random)});
    match random.below(6) {
        0 => term["namespaces"] = json!([random.pick(&NAMESPACES).0]),
        1 => term["namespaceSelector"] = json!({"matchLabels": {"team": random.pick(&["a", "b"])}}),
        2 => term["namespaceSelector"] = json!({}),
        _ => {}
    }
    match random.below(6) {
        0 => term["matchLabelKeys"] = json!(["tier"]),
        1 => term["mismatchLabelKeys"] = json!(["tier"]),
        _ => {}
    }
    term
}
