//! One random state of the cluster: made in the API server, read back into our model, and removed again.

use std::fmt::Debug;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tensile_core::labels::Labels;
use tensile_placement::Cluster as Model;

use crate::objects::{self, CLAIMS, FINALIZER, NAMESPACES};
use crate::random::Random;

const NODES: usize = 12;
const VOLUMES: usize = 10;
/// Pods on the nodes.
const PODS: usize = 40;
/// Requests at a time.
const PARALLEL: usize = 8;

// === making ===

/// What stays the same in all states: namespaces and storage classes.
pub(crate) async fn make_frame(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for (name, team) in NAMESPACES {
        let labels = team.map(|team| json!({"team": team}));
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let apply = PatchParams::apply("tests").force();
        namespaces.patch(name, &apply, &Patch::Apply(namespace)).await?;
    }
    let classes: Api<StorageClass> = Api::all(client.clone());
    create_all(objects::classes(), |class| create(&classes, class)).await?;
    Ok(())
}

/// Makes a random state.
pub(crate) async fn make(client: &Client, random: &mut Random) -> Result<()> {
    let nodes: Vec<Value> = (0..NODES).map(|index| objects::node(random, index)).collect();
    let drivers: Vec<Value> = (0..NODES)
        .filter_map(|index| objects::csi_node(random, index))
        .collect();
    let api: Api<Node> = Api::all(client.clone());
    create_all(nodes, |node| create(&api, node)).await?;
    let api: Api<CSINode> = Api::all(client.clone());
    create_all(drivers, |driver| create(&api, driver)).await?;
    make_storage(client, random).await?;
    make_pods(client, random).await
}

/// Volumes and claims; a volume belongs to the claim that names it first.
async fn make_storage(client: &Client, random: &mut Random) -> Result<()> {
    let mut volumes: Vec<Value> = (0..VOLUMES).map(|index| objects::volume(random, index)).collect();
    // The last volume does not exist, though claims may name it.
    volumes.pop();
    for (namespace, _) in NAMESPACES {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        for index in 0..CLAIMS {
            let mut claim = objects::claim(random, index);
            let named = claim["spec"]["volumeName"].clone();
            let taken = |volume: &&mut Value| volume["metadata"]["name"] == named;
            let volume = volumes.iter_mut().find(taken);
            if let Some(volume) = &volume {
                claim["spec"]["storageClassName"] = volume["spec"]["storageClassName"].clone();
            }
            let lost = !named.is_null() && volume.is_none() && random.chance(50);
            let claim = make_claim(&claims, claim, lost).await?;
            if let Some(volume) = volume.filter(|volume| volume["spec"]["claimRef"].is_null()) {
                let uid = random.chance(80).then_some(claim.metadata.uid);
                volume["spec"]["claimRef"] =
                    json!({"namespace": namespace, "name": claim.metadata.name, "uid": uid});
            }
        }
    }
    let api: Api<PersistentVolume> = Api::all(client.clone());
    for volume in volumes {
        let bound = !volume["spec"]["claimRef"].is_null();
        let phase = match random.below(8) {
            0 => "Released",
            _ if bound => "Bound",
            _ => "Available",
        };
        let name = create(&api, volume).await?.metadata.name.unwrap_or_default();
        set_phase(&api, &name, phase).await?;
    }
    Ok(())
}

async fn make_claim(
    claims: &Api<PersistentVolumeClaim>,
    claim: Value,
    lost: bool,
) -> Result<PersistentVolumeClaim> {
    let bound = claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"].is_string();
    let deleted = claim["metadata"]["finalizers"].is_array();
    let made = create(claims, claim).await?;
    let name = made.metadata.name.clone().unwrap_or_default();
    let phase = match (lost, bound) {
        (true, _) => "Lost",
        (_, true) => "Bound",
        _ => "Pending",
    };
    set_phase(claims, &name, phase).await?;
    if deleted {
        claims.delete(&name, &DeleteParams::default()).await?;
    }
    Ok(made)
}

/// Pods on the nodes; some are over, some are being deleted.
async fn make_pods(client: &Client, random: &mut Random) -> Result<()> {
    let mut made = 0;
    for index in 0.. {
        if made == PODS {
            break;
        }
        let mut pod = objects::pod(random, &format!("there-{index}"));
        pod["spec"]["nodeName"] = json!(format!("lower-{}", random.below(NODES)));
        let (over, deleted) = (random.chance(8), random.chance(8));
        if deleted {
            pod["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        let api = pods(client, &pod);
        let Some(pod) = create_if_valid(&api, pod).await? else {
            continue;
        };
        let name = pod.metadata.name.unwrap_or_default();
        if over {
            set_phase(&api, &name, "Succeeded").await?;
        }
        if deleted {
            api.delete(&name, &DeleteParams::default()).await?;
        }
        made += 1;
    }
    Ok(())
}

// === reading back ===

/// Our model of what the API server shows.
pub(crate) async fn model(client: &Client) -> Result<Model> {
    let mut model = Model::default();
    for namespace in list::<Namespace>(client).await? {
        let labels: Labels = serde_json::from_value(namespace["metadata"]["labels"].clone())?;
        model.apply_namespace(
            namespace["metadata"]["name"].as_str().unwrap_or_default(),
            &labels,
        );
    }
    for node in list::<Node>(client).await? {
        model.apply_node(&serde_json::from_value(node)?);
    }
    for pod in list::<Pod>(client).await? {
        model.apply_pod(&serde_json::from_value(pod)?);
    }
    let storage = model.storage_mut();
    for volume in list::<PersistentVolume>(client).await? {
        storage.volumes.apply(serde_json::from_value(volume)?);
    }
    for claim in list::<PersistentVolumeClaim>(client).await? {
        storage.claims.apply(serde_json::from_value(claim)?);
    }
    for class in list::<StorageClass>(client).await? {
        storage.classes.apply(serde_json::from_value(class)?);
    }
    for node in list::<CSINode>(client).await? {
        storage.csi_nodes.apply(serde_json::from_value(node)?);
    }
    Ok(model)
}

// === removing ===

/// Removes the state, and every pod.
pub(crate) async fn remove(client: &Client) -> Result<()> {
    for (namespace, _) in NAMESPACES {
        remove_all(&Api::<Pod>::namespaced(client.clone(), namespace)).await?;
        remove_all(&Api::<PersistentVolumeClaim>::namespaced(
            client.clone(),
            namespace,
        ))
        .await?;
    }
    remove_all(&Api::<PersistentVolume>::all(client.clone())).await?;
    remove_all(&Api::<CSINode>::all(client.clone())).await?;
    remove_all(&Api::<Node>::all(client.clone())).await
}

async fn remove_all<K>(api: &Api<K>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    api.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
        .await?;
    for object in api.list(&ListParams::default()).await? {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        api.patch(name, &PatchParams::default(), &released).await?;
    }
    Ok(())
}

// === requests ===

/// The API of the pod's namespace.
pub(crate) fn pods(client: &Client, pod: &Value) -> Api<Pod> {
    Api::namespaced(
        client.clone(),
        pod["metadata"]["namespace"].as_str().unwrap_or_default(),
    )
}

/// Creates an object; `None` if it breaks a rule of the API.
pub(crate) async fn create_if_valid<K>(api: &Api<K>, object: Value) -> Result<Option<K>>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object)?;
    match api.create(&PostParams::default(), &object).await {
        Ok(made) => Ok(Some(made)),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + serde::Serialize,
{
    let text = object.to_string();
    e2e::support::create(api, object).await.context(text)
}

async fn create_all<T, F>(objects: Vec<Value>, create: impl Fn(Value) -> F) -> Result<()>
where
    F: Future<Output = Result<T>>,
{
    let made = stream::iter(objects).map(create).buffer_unordered(PARALLEL);
    made.try_for_each(async |_| Ok(())).await
}

async fn set_phase<K>(api: &Api<K>, name: &str, phase: &str) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let patch = Patch::Merge(json!({"status": {"phase": phase}}));
    api.patch_status(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// All objects of a kind as they are on the wire.
async fn list<K: Resource<DynamicType = ()>>(client: &Client) -> Result<Vec<Value>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let objects = api.list(&ListParams::default()).await?;
    Ok(objects
        .items
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()?)
}
