//! What a request asks to do, in the API server's terms: a verb on `nodes/<subresource>`. Pure.
//!
//! Routing and this table look at the same raw path. Whatever is not listed needs `nodes/proxy`, the strongest right,
//! so a path that only one of the two understands is never easier to reach.

use http::Method;

/// The right that a request needs: `verb` on one of `subresources` of the node, tried in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// `create`, `get`, `update`, `patch`, `delete`, or empty for other methods.
    pub verb: &'static str,
    /// Fine-grained first, then the coarse one that older roles grant.
    pub subresources: &'static [&'static str],
}

/// Paths and the subresources that they belong to; see the SAR column of the kubelet's endpoints (Kubernetes 1.36,
/// fine-grained kubelet authorization is locked on there).
const SUBRESOURCES: [(&str, &[&str]); 9] = [
    ("/healthz", &["healthz", "proxy"]),
    ("/pods", &["pods", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
    ("/configz", &["configz", "proxy"]),
    ("/statusz", &["statusz", "proxy"]),
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/checkpoint", &["checkpoint"]),
];
const OTHERS: &[&str] = &["proxy"];
/// Paths that run or reach something inside a pod. A kubelet asks for `get` when such a stream comes as a WebSocket
/// (a GET), so that readers of `nodes/proxy` can execute commands; here they need `create` whatever the method.
const STREAMS: [&str; 4] = ["/exec", "/attach", "/portForward", "/run"];

// === impl Access ===

impl Access {
    /// The right that `method` on `path` needs.
    #[must_use]
    pub fn of(method: &Method, path: &str) -> Self {
        let subresources = SUBRESOURCES
            .iter()
            .find(|(prefix, _)| is_under(path, prefix))
            .map_or(OTHERS, |(_, subresources)| subresources);
        let verb = if STREAMS.iter().any(|prefix| is_under(path, prefix)) {
            "create"
        } else {
            verb(method)
        };
        Self { verb, subresources }
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Whether `path` is `prefix` or lies under it.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_endpoint_has_its_subresources_and_verb() {
        let cases: [(&str, &str, &str, &[&str]); 26] = [
            ("GET", "/healthz", "get", &["healthz", "proxy"]),
            ("GET", "/healthz/syncloop", "get", &["healthz", "proxy"]),
            ("GET", "/healthzz", "get", &["proxy"]),
            ("GET", "/pods", "get", &["pods", "proxy"]),
            ("GET", "/pods/", "get", &["pods", "proxy"]),
            ("GET", "/podsx", "get", &["proxy"]),
            ("GET", "/runningpods/", "get", &["pods", "proxy"]),
            ("GET", "/configz", "get", &["configz", "proxy"]),
            ("GET", "/statusz", "get", &["statusz", "proxy"]),
            ("GET", "/flagz", "get", &["proxy"]),
            ("GET", "/stats/summary", "get", &["stats"]),
            ("GET", "/metrics", "get", &["metrics"]),
            ("GET", "/metrics/resource", "get", &["metrics"]),
            ("GET", "/logs/syslog", "get", &["log"]),
            ("GET", "/containerLogs/ns/p/c", "get", &["proxy"]),
            ("POST", "/checkpoint/ns/p/c", "create", &["checkpoint"]),
            ("POST", "/exec/ns/p/c", "create", &["proxy"]),
            ("GET", "/exec/ns/p/c", "create", &["proxy"]),
            ("GET", "/attach/ns/p/c", "create", &["proxy"]),
            ("GET", "/portForward/ns/p", "create", &["proxy"]),
            ("PUT", "/run/ns/p/c", "create", &["proxy"]),
            ("PUT", "/pods", "update", &["pods", "proxy"]),
            ("PATCH", "/pods", "patch", &["pods", "proxy"]),
            ("DELETE", "/pods", "delete", &["pods", "proxy"]),
            ("OPTIONS", "/pods", "", &["pods", "proxy"]),
            ("GET", "", "get", &["proxy"]),
        ];
        for (method, path, verb, subresources) in cases {
            let access = Access::of(&method.parse().unwrap(), path);
            assert_eq!(access, Access { verb, subresources }, "{method} {path}");
        }
    }

    proptest! {
        #[test]
        fn only_listed_paths_are_easier_to_reach_than_proxy(path in "/?[a-zA-Z/%.]{0,24}") {
            let access = Access::of(&Method::GET, &path);
            let first = path.strip_prefix('/').unwrap_or(&path).split('/').next().unwrap();
            let listed = ["healthz", "pods", "runningpods", "configz", "statusz", "stats", "metrics", "logs", "checkpoint"];
            if !(path.starts_with('/') && listed.contains(&first)) {
                prop_assert_eq!(access.subresources, OTHERS);
            }
        }
    }
}
