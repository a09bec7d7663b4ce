//! The CA of kubelet clients, as the API server publishes it: followed from its ConfigMap.
//!
//! The ConfigMap also holds `requestheader-client-ca-file`. That CA vouches for aggregating proxies, which name their
//! users in headers; it is no CA of clients and is not read here.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::watcher;
use tensile_runtime::admin::Condition;
use tensile_runtime::tls::ClientCas;
use tensile_runtime::watch::{self, Change, Watch};

/// Where every API server publishes how extensions can authenticate its requests (Kubernetes'
/// `extension-apiserver-authentication`; the Role `extension-apiserver-authentication-reader` lets one read it).
pub const NAMESPACE: &str = "kube-system";
/// Name of the ConfigMap.
pub const NAME: &str = "extension-apiserver-authentication";
/// The key with the PEM bundle.
pub const KEY: &str = "client-ca-file";

/// Keeps `cas` at what the ConfigMap says, until dropped. `ready` is met after the first read, also when nothing is
/// published: tokens work without. A bundle that is withdrawn or broken leaves the last good one in place, so that a
/// slip does not lock the API server out.
pub async fn follow(client: kube::Client, cas: Arc<ClientCas>, ready: Condition, metrics: watch::Metrics) {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let watch = Watch {
        api,
        config,
        name: "client-ca",
        ready,
        metrics,
    };
    watch.run(|change| take(&change, &cas)).await;
}

fn take(change: &Change<ConfigMap>, cas: &ClientCas) {
    match change {
        Change::Apply(map) => {
            let bundle = map
                .data
                .as_ref()
                .and_then(|data| data.get(KEY))
                .map_or("", String::as_str);
            match cas.set_pem(bundle.as_bytes()) {
                Ok(()) => tracing::info!("client CA taken from ConfigMap {NAMESPACE}/{NAME}"),
                Err(error) => tracing::warn!(%error, "key {KEY} of ConfigMap {NAMESPACE}/{NAME} is not used"),
            }
        }
        Change::Reset(exists) if exists.is_empty() && !cas.is_set() => {
            tracing::warn!("there is no ConfigMap {NAMESPACE}/{NAME}; only bearer tokens are accepted");
        }
        Change::Reset(_) | Change::Delete(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_ca, mk_client_cert, mk_watched};
    use serde_json::{Value, json};
    use std::time::Duration;
    use tensile_runtime::admin::Readiness;

    fn mk_map(version: u32, data: &Value) -> Value {
        json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"namespace": NAMESPACE, "name": NAME, "resourceVersion": version.to_string()},
            "data": data,
        })
    }

    fn mk_event(kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": object})
    }

    async fn until(what: &str, met: impl Fn() -> bool) {
        let met = async {
            while !met() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), met)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn the_bundle_follows_the_config_map_and_survives_its_faults() {
        let (first, second, proxies) = (mk_ca("first"), mk_ca("second"), mk_ca("front-proxy"));
        let map = |version, ca: &str| {
            mk_map(
                version,
                &json!({KEY: ca, "requestheader-client-ca-file": proxies.pem}),
            )
        };
        let (client, events) = mk_watched(vec![map(1, &first.pem)]);
        let (cas, readiness) = (Arc::new(ClientCas::default()), Readiness::default());
        let ready = readiness.condition("client-ca");
        let metrics = watch::Metrics::new(&prometheus::Registry::new()).unwrap();
        let task = tokio::spawn(follow(client, Arc::clone(&cas), ready, metrics));
        let accepts = |ca| cas.verify(&mk_client_cert(ca, "apiserver").chain).is_some();

        until("the first bundle is read", || accepts(&first)).await;
        until("ready", || readiness.unmet().is_empty()).await;
        assert!(!accepts(&proxies), "the CA of proxies is no client CA");
        events.send(mk_event("MODIFIED", &map(2, &second.pem))).unwrap();
        until("the second bundle is read", || {
            accepts(&second) && !accepts(&first)
        })
        .await;
        events.send(mk_event("MODIFIED", &map(3, "broken"))).unwrap();
        events.send(mk_event("DELETED", &map(4, ""))).unwrap();
        // Comes after both faults, so they have been seen when it counts.
        events
            .send(mk_event(
                "ADDED",
                &map(5, &format!("{}{}", first.pem, second.pem)),
            ))
            .unwrap();
        until("both bundles are read", || accepts(&first) && accepts(&second)).await;
        task.abort();
    }

    #[test]
    fn faults_leave_the_last_good_bundle() {
        let ca = mk_ca("ca");
        let cas = ClientCas::default();
        let apply = |data: Value| Change::Apply(serde_json::from_value(mk_map(1, &data)).unwrap());
        take(&apply(json!({KEY: ca.pem})), &cas);
        for change in [
            apply(json!({KEY: "broken"})),
            apply(json!({})),
            Change::Delete(ConfigMap::default()),
            Change::Reset(std::collections::HashSet::new()),
        ] {
            take(&change, &cas);
            assert!(
                cas.verify(&mk_client_cert(&ca, "u").chain).is_some(),
                "{change:?}"
            );
        }
    }
}
