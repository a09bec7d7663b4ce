//! Upper Services and EndpointSlices → the copies that make them reachable below.
//!
//! A copy has no selector: its endpoints are those of the upper cluster, wherever they run. It gets a cluster IP of
//! its own (or none, if headless), and never opens a node port or a load balancer.

use serde_json::{Value, json};

use super::json::{Object, edit, objects_mut, set, text};
use super::{TranslateError, member, metadata};
use crate::names;

/// Members of a Service spec that belong to the upper cluster: what selects its pods, the addresses it allocated,
/// what it opens to the outside, and traffic policies that speak of upper nodes and zones.
const UPPER_SERVICE: [&str; 15] = [
    "selector",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "type",
    "externalIPs",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "trafficDistribution",
    "healthCheckNodePort",
    "loadBalancerIP",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
    "allocateLoadBalancerNodePorts",
];
/// Members of an endpoint that name upper nodes and pods, or route by upper zones.
const UPPER_ENDPOINT: [&str; 4] = ["nodeName", "targetRef", "hints", "deprecatedTopology"];
/// Label of the controller that writes a slice; another controller must not take the copy for its own.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The service of the API server; every cluster has its own.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// Whether the Service `namespace/name`, and its slices, are mirrored at all.
#[must_use]
pub fn is_mirrored(namespace: &str, name: &str) -> bool {
    namespace != names::KUBE_SYSTEM && (namespace, name) != API_SERVER
}

/// The copy of a Service in `lower_namespace`. It can be PUT over an older copy: the API server keeps the cluster IP
/// that it gave.
///
/// # Errors
/// When `upper` has no metadata or spec.
pub fn to_lower(upper: &Value, origin_cluster: &str, lower_namespace: &str) -> Result<Value, TranslateError> {
    let upper_spec = member(upper, "spec")?;
    let mut spec = upper_spec.clone();
    for key in UPPER_SERVICE {
        spec.remove(key);
    }
    if text(upper_spec, "type") == "ExternalName" {
        spec.insert("type".to_owned(), json!("ExternalName"));
    } else {
        spec.insert("type".to_owned(), json!("ClusterIP"));
        set(
            &mut spec,
            "clusterIP",
            (text(upper_spec, "clusterIP") == "None").then(|| json!("None")),
        );
    }
    for port in objects_mut(&mut spec, "ports") {
        port.remove("nodePort");
    }
    let metadata = metadata::copy(member(upper, "metadata")?, origin_cluster, lower_namespace);
    Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

/// The copy of an EndpointSlice in `lower_namespace`: the same addresses, ports, conditions and host names.
///
/// # Errors
/// When `upper` has no metadata.
pub fn slice_to_lower(
    upper: &Value,
    origin_cluster: &str,
    lower_namespace: &str,
) -> Result<Value, TranslateError> {
    let mut metadata = metadata::copy(member(upper, "metadata")?, origin_cluster, lower_namespace);
    edit(&mut metadata, "labels", |labels| {
        set(labels, MANAGED_BY, Some(json!(names::MANAGER)));
    });
    let mut lower: Object = upper.as_object().cloned().unwrap_or_default();
    lower.insert("apiVersion".to_owned(), json!("discovery.k8s.io/v1"));
    lower.insert("kind".to_owned(), json!("EndpointSlice"));
    lower.insert("metadata".to_owned(), Value::Object(metadata));
    for endpoint in objects_mut(&mut lower, "endpoints") {
        for key in UPPER_ENDPOINT {
            endpoint.remove(key);
        }
    }
    Ok(Value::Object(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_upper(rest: &Value) -> Value {
        let mut upper = json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "42",
                "ownerReferences": [{}], "generateName": "web-",
                "labels": {"kubernetes.io/service-name": "web", MANAGED_BY: "endpointslice-controller.k8s.io"},
            },
        });
        upper
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        upper
    }

    fn lower_spec(spec: &Value) -> Value {
        to_lower(&mk_upper(&json!({"spec": spec})), "upper-uid", "shop").unwrap()["spec"].take()
    }

    #[test]
    fn a_service_loses_what_belongs_to_the_upper_cluster() {
        let upper = json!({
            "type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "externalIPs": ["192.0.2.1"],
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
            "healthCheckNodePort": 30001, "loadBalancerIP": "192.0.2.2", "loadBalancerClass": "c",
            "loadBalancerSourceRanges": ["0.0.0.0/0"], "allocateLoadBalancerNodePorts": true,
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30000, "appProtocol": "h2c"}],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}},
            "publishNotReadyAddresses": true, "ofTomorrow": 1,
        });
        assert_eq!(
            lower_spec(&upper),
            json!({
                "type": "ClusterIP",
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "h2c"}],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}},
                "publishNotReadyAddresses": true, "ofTomorrow": 1,
            })
        );
    }

    #[test]
    fn headless_stays_headless_and_an_alias_an_alias() {
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "web"}});
        assert_eq!(
            lower_spec(&headless),
            json!({"type": "ClusterIP", "clusterIP": "None"})
        );
        let alias = json!({"type": "ExternalName", "externalName": "example.org"});
        assert_eq!(lower_spec(&alias), alias);
    }

    #[test]
    fn a_slice_keeps_addresses_and_forgets_upper_nodes() {
        let upper = mk_upper(&json!({
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{
                "addresses": ["10.1.0.7"], "conditions": {"ready": true}, "hostname": "web-0", "zone": "z",
                "nodeName": "vnode", "targetRef": {"kind": "Pod"}, "hints": {}, "deprecatedTopology": {}, "ofTomorrow": 1,
            }],
        }));
        assert_eq!(
            slice_to_lower(&upper, "upper-uid", "lower-shop").unwrap(),
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "web", "namespace": "lower-shop",
                    "labels": {
                        "kubernetes.io/service-name": "web", MANAGED_BY: "tensile.dev",
                        "tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-uid": "u-1",
                    },
                    "annotations": {"tensile.dev/origin": "shop/web", "tensile.dev/intent": "42"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{
                    "addresses": ["10.1.0.7"], "conditions": {"ready": true}, "hostname": "web-0", "zone": "z",
                    "ofTomorrow": 1,
                }],
            })
        );
    }

    #[test]
    fn what_every_cluster_has_itself_is_not_mirrored() {
        for (namespace, name, mirrored) in [
            ("default", "kubernetes", false),
            ("kube-system", "kube-dns", false),
            ("default", "web", true),
            ("shop", "kubernetes", true),
        ] {
            assert_eq!(is_mirrored(namespace, name), mirrored, "{namespace}/{name}");
        }
    }
}
