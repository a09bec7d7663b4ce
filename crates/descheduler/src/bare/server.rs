//! The API server of the upper cluster, as far as pods without an owner need it.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tensile_core::names;

use super::{Record, Server, Written};
use crate::evict::{Evictor, Outcome};
use crate::plan::Move;

/// Start of a record's name; the pod's UID follows.
const PREFIX: &str = "tensile-moving-";
/// The record's one entry.
const ENTRY: &str = "record";

/// Keeps records as ConfigMaps of the system namespace.
pub(crate) struct ApiServer<'a> {
    evictor: &'a Evictor,
    /// The move that an eviction is part of; none while old ones are taken up.
    planned: Option<&'a Move>,
}

// === impl ApiServer ===

impl<'a> ApiServer<'a> {
    pub(crate) fn new(evictor: &'a Evictor, planned: Option<&'a Move>) -> Self {
        Self { evictor, planned }
    }

    fn upper(&self) -> Client {
        self.evictor.upper.clone()
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.upper(), &self.evictor.system_namespace)
    }

    /// Pods as they are: unknown members survive.
    fn pods(&self, namespace: &str) -> Api<DynamicObject> {
        let pods = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        Api::namespaced_with(self.upper(), namespace, &pods)
    }
}

impl Server for ApiServer<'_> {
    async fn pod(&self, namespace: &str, name: &str) -> kube::Result<Option<Value>> {
        let pod = self.pods(namespace).get_opt(name).await?;
        pod.map(|pod| serde_json::to_value(pod).map_err(kube::Error::SerdeError))
            .transpose()
    }

    async fn records(&self) -> kube::Result<Vec<Record>> {
        let ours = ListParams::default().labels(names::MOVING_POD);
        let maps = self.maps().list(&ours).await?;
        Ok(maps.iter().filter_map(read).collect())
    }

    async fn write(&self, record: &Record) -> kube::Result<Written> {
        let (maps, map, params) = (self.maps(), written(record)?, PostParams::default());
        let (stored, is_first) = match maps.create(&params, &map).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                (maps.replace(&name(record), &params, &map).await?, false)
            }
            made => (made?, true),
        };
        Ok(Written {
            version: stored.resource_version(),
            is_first,
        })
    }

    async fn forget(&self, record: &Record) -> kube::Result<()> {
        let only_this = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: record.stored.clone(),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        match self.maps().delete(&name(record), &only_this).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn evict(&self, record: &Record) -> Outcome {
        match self.planned {
            Some(planned) => self.evictor.post(planned, Some(&record.resource_version)).await,
            None => Outcome::Gone,
        }
    }

    async fn create(&self, record: &Record) -> kube::Result<()> {
        let pod: DynamicObject =
            serde_json::from_value(record.pod.clone()).map_err(kube::Error::SerdeError)?;
        self.pods(&record.namespace)
            .create(&PostParams::default(), &pod)
            .await
            .map(drop)
    }
}

fn name(record: &Record) -> String {
    format!("{PREFIX}{}", record.uid)
}

fn written(record: &Record) -> kube::Result<ConfigMap> {
    let text = serde_json::to_string(record).map_err(kube::Error::SerdeError)?;
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(name(record)),
            labels: Some([(names::MOVING_POD.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(ENTRY.to_owned(), text)].into()),
        ..ConfigMap::default()
    })
}

/// A record that cannot be read is told and kept: it may be all that is left of a pod.
fn read(map: &ConfigMap) -> Option<Record> {
    let text = map.data.as_ref().and_then(|data| data.get(ENTRY));
    let read = text.map(|text| serde_json::from_str(text));
    match read {
        Some(Ok(record)) => Some(Record {
            stored: map.resource_version(),
            ..record
        }),
        Some(Err(error)) => {
            tracing::error!(config_map = map.name_any(), %error, "a record of a moved pod cannot be read");
            None
        }
        None => {
            tracing::error!(
                config_map = map.name_any(),
                "a record of a moved pod has no entry {ENTRY}"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let pod = json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u", "resourceVersion": "7"}, "spec": {}
        });
        let record = Record::of(pod, "u").unwrap();
        let mut map = written(&record).unwrap();
        assert_eq!(map.name_any(), "tensile-moving-u");
        assert_eq!(read(&map), Some(record));
        map.data = Some([(ENTRY.to_owned(), "{}".to_owned())].into());
        assert_eq!(read(&map), None);
        map.data = None;
        assert_eq!(read(&map), None);
    }
}
