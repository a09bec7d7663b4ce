//! Services and their endpoints, and what the environment says of them.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{NODE, Site, create, delete, get, list, merge, mk_pod, on_site, until, until_gone};

fn mk_service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": spec});
    if service["spec"]["type"] != "ExternalName" {
        service["spec"]["ports"] = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    }
    service
}

fn slices(site: &Site) -> String {
    format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
        site.namespace
    )
}

/// Addresses of the endpoints of a Service.
async fn addresses(site: &Site, client: &kube::Client, service: &str) -> Result<Vec<Value>> {
    let all = list(client, &slices(site)).await?;
    let of_it = all
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = of_it.filter_map(|slice| slice["endpoints"].as_array()).flatten();
    Ok(endpoints
        .map(|endpoint| endpoint["addresses"][0].clone())
        .collect())
}

async fn await_addresses(site: &Site, service: &str, expected: &[Value]) -> Result<()> {
    support::await_condition(&format!("endpoints of {service}"), crate::DEADLINE, || async {
        let found = addresses(site, &site.first, service).await?;
        ensure!(found == expected, "they are {found:?}");
        Ok(Some(()))
    })
    .await
}

fn env<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let mut env = pod["spec"]["containers"][0]["env"]
        .as_array()
        .into_iter()
        .flatten();
    env.find(|env| env["name"] == name)
        .map_or(&Value::Null, |env| &env["value"])
}

#[test]
fn services_come_with_the_pods_of_their_namespace_and_go_with_them() -> TestResult {
    on_site(async |site| {
        let all = site.all("services");
        let selector = json!({"app": "web"});
        for service in [
            mk_service("web", &json!({"selector": selector})),
            mk_service("headless", &json!({"selector": selector, "clusterIP": "None"})),
            mk_service("open", &json!({"selector": selector, "type": "LoadBalancer"})),
            mk_service(
                "alias",
                &json!({"type": "ExternalName", "externalName": "example.org"}),
            ),
        ] {
            create(&site.upper, &all, &service).await?;
        }
        let pod = site.run(&mk_pod("web", NODE, &json!({})), &site.first).await?;
        // There are no pods of this namespace in the second cluster, so not even the namespace.
        let namespaces = "/api/v1/namespaces";
        ensure!(get(&site.second, namespaces, &site.namespace).await?.is_null());
        // For a moment there is one; what it leaves behind may hold widgets, which our credentials may not list.
        support::custom_kind(&site.second).await?;
        site.run(&mk_pod("elsewhere", "vn-b", &json!({})), &site.second)
            .await?;
        site.end("elsewhere", &site.second).await?;

        let web = get(&site.first, &all, "web").await?;
        let address = &web["spec"]["clusterIP"];
        ensure!(
            *env(&pod, "WEB_SERVICE_HOST") == *address && address.is_string(),
            "{pod}"
        );
        ensure!(*env(&pod, "WEB_SERVICE_PORT_HTTP") == "80", "{pod}");
        ensure!(env(&pod, "HEADLESS_SERVICE_HOST").is_null(), "{pod}");
        ensure!(web["spec"].get("selector").is_none(), "{web}");
        let headless = get(&site.first, &all, "headless").await?;
        ensure!(headless["spec"]["clusterIP"] == "None", "{headless}");
        let open = get(&site.first, &all, "open").await?;
        ensure!(open["spec"]["type"] == "ClusterIP" && open["spec"]["ports"][0].get("nodePort").is_none());
        let alias = get(&site.first, &all, "alias").await?;
        ensure!(alias["spec"]["externalName"] == "example.org", "{alias}");
        let ip = get(&site.upper, &site.all("pods"), "web").await?["status"]["podIP"].clone();
        for service in ["web", "headless"] {
            await_addresses(site, service, std::slice::from_ref(&ip)).await?;
        }
        until_gone(&site.second, &all, "web").await?;
        let of_cluster = get(&site.first, "/api/v1/namespaces/default/services", "kubernetes").await?;
        ensure!(
            of_cluster["metadata"]["labels"]
                .get("tensile.dev/origin-cluster")
                .is_none()
        );

        let ports = json!({"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 8080}]}});
        merge(&site.upper, &all, "web", &ports).await?;
        let changed = |service: &Value| service["spec"]["ports"][0]["port"] == 81;
        let web = until(&site.first, &all, "web", "to change", changed).await?;
        ensure!(web["spec"]["clusterIP"] == *address, "the address stays: {web}");
        delete(&site.upper, &all, "headless").await?;
        until_gone(&site.first, &all, "headless").await?;
        await_addresses(site, "headless", &[]).await?;

        site.end("web", &site.first).await?;
        for service in ["web", "open", "alias"] {
            until_gone(&site.first, &all, service).await?;
        }
        await_addresses(site, "web", &[]).await?;
        // It was ours, and nothing is in it any more.
        until_gone(&site.first, namespaces, &site.namespace).await?;
        support::await_condition(
            "the second node to say why it keeps it",
            crate::DEADLINE,
            || async {
                let log = std::fs::read_to_string(site.ground.nodes[1].component.log())?;
                Ok(log
                    .contains("since widgets.tensile.test may be in them")
                    .then_some(()))
            },
        )
        .await?;
        let kept = get(&site.second, namespaces, &site.namespace).await?;
        ensure!(kept["status"]["phase"] == "Active", "{kept}");
        Ok(())
    })
}

#[test]
fn a_foreign_service_of_the_same_name_gets_no_endpoints_of_ours() -> TestResult {
    on_site(async |site| {
        let all = site.all("services");
        let namespace = json!({"metadata": {"name": site.namespace}});
        create(&site.first, "/api/v1/namespaces", &namespace).await?;
        let theirs = create(&site.first, &all, &mk_service("web", &json!({}))).await?;
        create(
            &site.upper,
            &all,
            &mk_service("web", &json!({"selector": {"app": "web"}})),
        )
        .await?;
        create(
            &site.upper,
            &all,
            &mk_service("next", &json!({"selector": {"app": "web"}})),
        )
        .await?;
        let pod = site.run(&mk_pod("web", NODE, &json!({})), &site.first).await?;
        ensure!(env(&pod, "WEB_SERVICE_HOST").is_null(), "{pod}");
        let ip = get(&site.upper, &site.all("pods"), "web").await?["status"]["podIP"].clone();
        support::await_condition("an event on the pod", crate::DEADLINE, || async {
            let events = list(&site.upper, &site.all("events")).await?;
            let told = |event: &Value| {
                event["reason"] == "ServiceNotMirrored" && event["involvedObject"]["name"] == "web"
            };
            Ok(events.iter().any(told).then_some(()))
        })
        .await?;
        // When those of the other Service are there, those of this one would be too.
        await_addresses(site, "next", &[ip]).await?;
        await_addresses(site, "web", &[]).await?;
        site.end("web", &site.first).await?;
        until_gone(&site.first, &all, "next").await?;
        let found = get(&site.first, &all, "web").await?;
        ensure!(found == theirs, "{found} instead of {theirs}");
        ensure!(
            !get(&site.first, "/api/v1/namespaces", &site.namespace)
                .await?
                .is_null()
        );
        Ok(())
    })
}
