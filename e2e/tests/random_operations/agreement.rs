//! What both sides must look like after quiet.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use e2e::support;
use serde_json::Value;

use crate::world::{World, collection, get, list, text};

/// Longest time until both sides agree: a failed attempt waits for up to a minute.
const DEADLINE: Duration = Duration::from_secs(150);
/// What every cluster puts into each namespace.
const ROOT_CA: &str = "kube-root-ca.crt";
const TOKEN: &str = "tensile-token-";

/// A namespace on both sides.
struct Sides {
    namespace: String,
    pods: [Vec<Value>; 2],
    maps: [Vec<Value>; 2],
    secrets: [Vec<Value>; 2],
    services: [Vec<Value>; 2],
}

/// Waits until both sides agree.
pub(crate) async fn reached(world: &World) -> Result<()> {
    support::await_condition("both sides to agree", DEADLINE, || async {
        let mut running = 0;
        for namespace in &world.namespaces {
            let sides = Sides::new(world, namespace).await?;
            sides.agree()?;
            running += sides.pods[1].iter().filter(|pod| is_ours(pod)).count();
        }
        ensure!(running > 0, "no pod runs, so that nothing is shown");
        foreign_is_unchanged(world).await?;
        Ok(Some(()))
    })
    .await
}

/// Waits until nothing of ours is left, after all pods were deleted.
pub(crate) async fn nothing_left(world: &World) -> Result<()> {
    support::await_condition("nothing of ours to be left", DEADLINE, || async {
        for namespace in &world.namespaces {
            let sides = Sides::new(world, namespace).await?;
            ensure!(sides.pods[0].is_empty(), "pods above: {}", names(&sides.pods[0]));
            for kind in [&sides.pods, &sides.maps, &sides.secrets, &sides.services] {
                let ours: Vec<_> = kind[1].iter().filter(|object| is_ours(object)).cloned().collect();
                ensure!(ours.is_empty(), "left in {namespace}: {}", names(&ours));
            }
        }
        let ours = get(&world.lower, "/api/v1/namespaces", &world.namespaces[1]).await?;
        ensure!(ours.is_null(), "the namespace that we made is left: {ours}");
        let kept = format!("namespace=\"{}\" kind=\"widgets.tensile.test\"", world.kept);
        ensure!(
            world.log()?.contains(&kept),
            "not kept for their widget: {}",
            world.kept
        );
        for theirs in [&world.namespaces[0], &world.kept] {
            let theirs = get(&world.lower, "/api/v1/namespaces", theirs).await?;
            ensure!(
                theirs["status"]["phase"] == "Active",
                "their namespace ends: {theirs}"
            );
        }
        foreign_is_unchanged(world).await?;
        Ok(Some(()))
    })
    .await
}

async fn foreign_is_unchanged(world: &World) -> Result<()> {
    for ((all, name), made) in &world.foreign {
        let found = get(&world.lower, all, name).await?;
        // A pod gets a node and a status from its own cluster.
        let content = |object: &Value| {
            let spec = if all.ends_with("/pods") {
                &object["spec"]["containers"][0]["image"]
            } else {
                &object["spec"]
            };
            let metadata = &object["metadata"];
            (
                metadata["uid"].clone(),
                metadata["labels"].clone(),
                metadata["annotations"].clone(),
                metadata["deletionTimestamp"].clone(),
                object["data"].clone(),
                spec.clone(),
            )
        };
        if content(&found) != content(made) {
            bail!("{all}/{name} was {made} and is {found}");
        }
    }
    Ok(())
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"]["tensile.dev/origin-cluster"].is_string()
}

fn names(objects: &[Value]) -> String {
    let names: Vec<_> = objects
        .iter()
        .map(|object| text(&object["metadata"]["name"]))
        .collect();
    names.join(", ")
}

fn named<'a>(objects: &'a [Value], name: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["metadata"]["name"] == name)
}

/// The ConfigMap and the Secret that a pod names, and whether each is optional.
fn references(pod: &Value) -> [(&str, bool); 2] {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let map = volumes
        .filter_map(|volume| volume.get("configMap"))
        .next()
        .unwrap_or(&Value::Null);
    let secret = &pod["spec"]["containers"][0]["envFrom"][0]["secretRef"];
    [map, secret].map(|reference| (text(&reference["name"]), reference["optional"] == true))
}

// === impl Sides ===

impl Sides {
    async fn new(world: &World, namespace: &str) -> Result<Self> {
        let both = async |plural: &str| -> Result<[Vec<Value>; 2]> {
            let all = collection(namespace, plural);
            let mut sides = [list(&world.upper, &all).await?, list(&world.lower, &all).await?];
            for side in &mut sides {
                side.retain(|object| object["metadata"]["name"] != ROOT_CA);
            }
            Ok(sides)
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            pods: both("pods").await?,
            maps: both("configmaps").await?,
            secrets: both("secrets").await?,
            services: both("services").await?,
        })
    }

    fn agree(&self) -> Result<()> {
        self.pods[0].iter().try_for_each(|pod| self.upper_pod(pod))?;
        for pod in self.pods[1].iter().filter(|pod| is_ours(pod)) {
            let name = text(&pod["metadata"]["name"]);
            let origin = &pod["metadata"]["labels"]["tensile.dev/origin-uid"];
            let upper = named(&self.pods[0], name);
            ensure!(
                upper.is_some_and(|upper| upper["metadata"]["uid"] == *origin),
                "{}/{name} is left below",
                self.namespace
            );
        }
        self.copies(&self.maps, 0)?;
        self.copies(&self.secrets, 1)?;
        self.tokens()?;
        self.services()
    }

    /// An upper pod runs below, or says truly why not.
    fn upper_pod(&self, pod: &Value) -> Result<()> {
        let name = text(&pod["metadata"]["name"]);
        let lower = named(&self.pods[1], name);
        let status = &pod["status"];
        let refs = references(pod);
        let objects = [&self.maps, &self.secrets];
        let of_refs = || refs.iter().zip(objects).filter(|((name, _), _)| !name.is_empty());
        let is_missing =
            of_refs().any(|((name, optional), sides)| !optional && named(&sides[0], name).is_none());
        let is_taken = of_refs().any(|((name, _), sides)| {
            named(&sides[0], name).is_some() && named(&sides[1], name).is_some_and(|found| !is_ours(found))
        });
        let is_so = match text(&status["reason"]) {
            "MandatoryConfigMapNotFound" | "MandatorySecretNotFound" => is_missing,
            "DependencyFailed" => is_taken,
            "ForeignNamesake" => lower.is_some_and(|lower| !is_ours(lower)),
            "" => lower.is_some_and(|lower| {
                lower["metadata"]["labels"]["tensile.dev/origin-uid"] == pod["metadata"]["uid"]
                    && status["phase"] == "Running"
                    && lower["status"]["phase"] == "Running"
                    && lower["status"]["podIP"] == status["podIP"]
                    && lower["metadata"]["labels"]["changed"] == pod["metadata"]["labels"]["changed"]
                    && lower["metadata"]["annotations"]["changed"]
                        == pod["metadata"]["annotations"]["changed"]
            }),
            _ => false,
        };
        let ends = pod["metadata"].get("deletionTimestamp").is_some();
        ensure!(
            is_so && !ends,
            "{}/{name} above: {pod}\nbelow: {}",
            self.namespace,
            lower.unwrap_or(&Value::Null)
        );
        Ok(())
    }

    /// Copies are those that pods name, as the originals are.
    fn copies(&self, sides: &[Vec<Value>; 2], reference: usize) -> Result<()> {
        let used: BTreeSet<_> = self.pods[0]
            .iter()
            .map(|pod| references(pod)[reference].0)
            .collect();
        let of_pods = |object: &&Value| !text(&object["metadata"]["name"]).starts_with(TOKEN);
        for copy in sides[1].iter().filter(|copy| is_ours(copy)).filter(of_pods) {
            let name = text(&copy["metadata"]["name"]);
            let original = named(&sides[0], name);
            ensure!(
                used.contains(name) && original.is_some_and(|original| original["data"] == copy["data"]),
                "{}/{name} is left below, or old: {copy}",
                self.namespace
            );
        }
        for original in &sides[0] {
            let name = text(&original["metadata"]["name"]);
            ensure!(
                !used.contains(name) || named(&sides[1], name).is_some(),
                "{}/{name} is missing below",
                self.namespace
            );
        }
        Ok(())
    }

    /// Each pod that runs with its upper service account has a Secret, and no other.
    fn tokens(&self) -> Result<()> {
        let is_upper = |pod: &&Value| {
            pod["metadata"]["annotations"]["tensile.dev/service-account"] == "upper"
                && pod["status"]["phase"] == "Running"
        };
        let name = |pod: &Value| format!("{TOKEN}{}", text(&pod["metadata"]["uid"]));
        let wanted: BTreeSet<_> = self.pods[0].iter().filter(is_upper).map(name).collect();
        let secrets = self.secrets[1]
            .iter()
            .map(|secret| text(&secret["metadata"]["name"]));
        let found: BTreeSet<_> = secrets
            .filter(|name| name.starts_with(TOKEN))
            .map(str::to_owned)
            .collect();
        ensure!(
            wanted == found,
            "{}: tokens {found:?} for {wanted:?}",
            self.namespace
        );
        Ok(())
    }

    /// Services are there while pods are.
    fn services(&self) -> Result<()> {
        let [upper, lower] = &self.services;
        let is_used = !self.pods[0].is_empty();
        for copy in lower.iter().filter(|copy| is_ours(copy)) {
            let name = text(&copy["metadata"]["name"]);
            let annotation = |service: &Value| service["metadata"]["annotations"]["a"].clone();
            let original = named(upper, name);
            ensure!(
                is_used && original.is_some_and(|original| annotation(original) == annotation(copy)),
                "Service {}/{name} is left below, or old: {copy}",
                self.namespace
            );
        }
        let missing = upper
            .iter()
            .find(|original| named(lower, text(&original["metadata"]["name"])).is_none());
        if let Some(missing) = missing.filter(|_| is_used) {
            bail!("{}: a Service is missing below: {missing}", self.namespace);
        }
        Ok(())
    }
}
