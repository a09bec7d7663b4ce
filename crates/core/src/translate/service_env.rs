//! The environment variables that describe services to a container, as a kubelet makes them.

use std::collections::BTreeMap;

use serde_json::Value;

/// The service of the API server. Every container learns of it, also without `enableServiceLinks`.
const API_SERVER: &str = "kubernetes";
/// Where [`API_SERVER`] is.
const API_SERVER_NAMESPACE: &str = "default";

/// What the environment says of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// The address at which the pods reach it: in the lower cluster, that of the mirrored service.
    pub address: Box<str>,
    /// Its ports, in order.
    pub ports: Box<[Port]>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty for the port of a service that has only one.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The port number.
    pub port: u16,
}

// === impl Service ===

impl Service {
    /// The service `object`, at its cluster IP; `None` for one that the environment does not mention: without a
    /// cluster IP (headless, or of type ExternalName), or without ports.
    #[must_use]
    pub fn of(object: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(Box::from);
        let address = object["spec"]["clusterIP"]
            .as_str()
            .filter(|ip| !ip.is_empty() && *ip != "None")?;
        let ports: Box<[Port]> = object["spec"]["ports"]
            .as_array()?
            .iter()
            .filter_map(Port::of)
            .collect();
        (!ports.is_empty()).then_some(Self {
            namespace: text(&object["metadata"]["namespace"])?,
            name: text(&object["metadata"]["name"])?,
            address: address.into(),
            ports,
        })
    }

    /// The service of the API server, reached at `host` and `port`.
    #[must_use]
    pub fn api_server(host: &str, port: u16) -> Self {
        let https = Port {
            name: "https".into(),
            protocol: "TCP".into(),
            port,
        };
        Self {
            namespace: API_SERVER_NAMESPACE.into(),
            name: API_SERVER.into(),
            address: host.into(),
            ports: Box::new([https]),
        }
    }

    fn is_api_server(&self) -> bool {
        *self.namespace == *API_SERVER_NAMESPACE && *self.name == *API_SERVER
    }

    fn variables(&self, env: &mut Vec<(String, String)>) {
        let Some(first) = self.ports.first() else { return };
        let prefix = variable(&self.name);
        let mut add = |suffix: &str, value: String| env.push((format!("{prefix}_{suffix}"), value));
        add("SERVICE_HOST", self.address.to_string());
        add("SERVICE_PORT", first.port.to_string());
        for port in self.ports.iter().filter(|port| !port.name.is_empty()) {
            add(
                &format!("SERVICE_PORT_{}", variable(&port.name)),
                port.port.to_string(),
            );
        }
        add("PORT", first.url(&self.address));
        for port in &self.ports {
            let stem = format!("PORT_{}_{}", port.port, port.protocol.to_uppercase());
            add(&stem, port.url(&self.address));
            add(&format!("{stem}_PROTO"), port.protocol.to_lowercase());
            add(&format!("{stem}_PORT"), port.port.to_string());
            add(&format!("{stem}_ADDR"), self.address.to_string());
        }
    }
}

// === impl Port ===

impl Port {
    fn of(port: &Value) -> Option<Self> {
        Some(Self {
            name: port["name"].as_str().unwrap_or_default().into(),
            protocol: port["protocol"].as_str().unwrap_or("TCP").into(),
            port: port["port"].as_u64().and_then(|port| u16::try_from(port).ok())?,
        })
    }

    fn url(&self, address: &str) -> String {
        let protocol = self.protocol.to_lowercase();
        if address.contains(':') {
            format!("{protocol}://[{address}]:{}", self.port)
        } else {
            format!("{protocol}://{address}:{}", self.port)
        }
    }
}

/// The variables for a pod in `namespace` with `enable_service_links`, sorted by service: those of its namespace, and
/// of the API server, unless a service of the namespace has the same name.
#[must_use]
pub fn service_env<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    enable_service_links: bool,
) -> Vec<(String, String)> {
    let mut by_name = BTreeMap::new();
    for service in services {
        if enable_service_links && *service.namespace == *namespace {
            by_name.insert(&*service.name, service);
        } else if service.is_api_server() {
            by_name.entry(&*service.name).or_insert(service);
        }
    }
    let mut env = Vec::new();
    by_name.values().for_each(|service| service.variables(&mut env));
    env
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_service(namespace: &str, name: &str, address: &str) -> Service {
        let port = Port {
            name: "".into(),
            protocol: "TCP".into(),
            port: 80,
        };
        let (namespace, name, address) = (namespace.into(), name.into(), address.into());
        Service {
            namespace,
            name,
            address,
            ports: Box::new([port]),
        }
    }

    fn env_of(object: &Value) -> Vec<(String, String)> {
        service_env(Service::of(object).as_ref(), "shop", true)
    }

    #[test]
    fn a_service_is_described_as_a_kubelet_describes_it() {
        // What FromServices of Kubernetes 1.36 (pkg/kubelet/envvars) gives for this service.
        let object = json!({
            "metadata": {"namespace": "shop", "name": "my-db"},
            "spec": {"clusterIP": "10.0.0.9", "ports": [
                {"name": "sql-main", "port": 5432},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ]},
        });
        let expected = [
            ("MY_DB_SERVICE_HOST", "10.0.0.9"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL_MAIN", "5432"),
            ("MY_DB_SERVICE_PORT_DNS", "53"),
            ("MY_DB_PORT", "tcp://10.0.0.9:5432"),
            ("MY_DB_PORT_5432_TCP", "tcp://10.0.0.9:5432"),
            ("MY_DB_PORT_5432_TCP_PROTO", "tcp"),
            ("MY_DB_PORT_5432_TCP_PORT", "5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.0.0.9"),
            ("MY_DB_PORT_53_UDP", "udp://10.0.0.9:53"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_53_UDP_PORT", "53"),
            ("MY_DB_PORT_53_UDP_ADDR", "10.0.0.9"),
        ];
        assert_eq!(
            env_of(&object),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn services_without_address_or_ports_are_not_mentioned() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "ports": [{"port": 80}]}),
            json!({"clusterIP": "10.0.0.9"}),
            json!({"clusterIP": "10.0.0.9", "ports": []}),
            json!({"clusterIP": "10.0.0.9", "ports": [{"port": 70000}]}),
        ] {
            let object = json!({"metadata": {"namespace": "shop", "name": "x"}, "spec": spec});
            assert_eq!(env_of(&object), [], "{spec}");
        }
    }

    #[test]
    fn an_ipv6_address_is_bracketed_in_urls_only() {
        let service = mk_service("shop", "web", "fd00::9");
        let env = service_env([&service], "shop", true);
        let value = |name: &str| {
            env.iter()
                .find(|(variable, _)| variable == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(value("WEB_PORT"), Some("tcp://[fd00::9]:80"));
        assert_eq!(value("WEB_SERVICE_HOST"), Some("fd00::9"));
    }

    #[test]
    fn a_pod_learns_of_its_namespace_and_of_the_api_server() {
        let services = [
            mk_service("shop", "web", "1"),
            mk_service("shop", "app", "2"),
            mk_service("other", "db", "3"),
            mk_service("default", "web", "4"),
            Service::api_server("upper.example", 6443),
        ];
        let hosts = |services: &[Service], namespace: &str, links: bool| -> Vec<(String, String)> {
            let env = service_env(services, namespace, links);
            env.into_iter()
                .filter(|(name, _)| name.ends_with("_SERVICE_HOST"))
                .collect()
        };
        let host = |name: &str, value: &str| (format!("{name}_SERVICE_HOST"), value.to_owned());
        let api = host("KUBERNETES", "upper.example");
        assert_eq!(
            hosts(&services, "shop", true),
            [host("APP", "2"), api.clone(), host("WEB", "1")]
        );
        assert_eq!(hosts(&services, "default", true), [api.clone(), host("WEB", "4")]);
        assert_eq!(hosts(&services, "shop", false), [api]);

        let own = [
            mk_service("shop", "kubernetes", "9"),
            Service::api_server("upper.example", 6443),
        ];
        let reversed: Vec<_> = own.iter().rev().cloned().collect();
        for services in [&own[..], &reversed] {
            assert_eq!(hosts(services, "shop", true), [host("KUBERNETES", "9")]);
        }
    }
}
