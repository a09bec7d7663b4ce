//! Ports of the node that the pod takes must be free there.

use super::refuse;
use crate::candidate::Candidate;
use crate::node::Node;
use crate::pod::HostPort;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    let wanted = &candidate.pod.host_ports;
    if wanted.is_empty() {
        return None;
    }
    let mut taken = node.pods().flat_map(|(shape, _)| &shape.host_ports);
    if taken.any(|taken| wanted.iter().any(|wanted| conflict(wanted, taken))) {
        return refuse(Reason::HostPorts, Refusal::Now, tally);
    }
    None
}

/// Whether two listeners cannot both be had. Every address conflicts with each single one.
fn conflict(left: &HostPort, right: &HostPort) -> bool {
    left.port == right.port
        && left.protocol == right.protocol
        && (left.ip == right.ip || left.ip.is_empty() || right.ip.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Verdict, check, mk_pod};

    fn mk_spec(port: &Value) -> Value {
        json!({"containers": [{"name": "c", "ports": [port]}]})
    }

    #[test]
    fn a_taken_port_refuses() {
        let refused = Verdict::Now("node(s) didn't have free ports for the requested pod ports");
        for (wanted, taken, verdict) in [
            (
                json!({"containerPort": 80}),
                json!({"containerPort": 80}),
                Verdict::Fits,
            ),
            (
                json!({"hostPort": 80}),
                json!({"containerPort": 80}),
                Verdict::Fits,
            ),
            (json!({"hostPort": 80}), json!({"hostPort": 81}), Verdict::Fits),
            (json!({"hostPort": 80}), json!({"hostPort": 80}), refused.clone()),
            (
                json!({"hostPort": 80, "protocol": "UDP"}),
                json!({"hostPort": 80}),
                Verdict::Fits,
            ),
            (
                json!({"hostPort": 80, "protocol": "TCP"}),
                json!({"hostPort": 80}),
                refused.clone(),
            ),
            (
                json!({"hostPort": 80, "hostIP": "10.0.0.1"}),
                json!({"hostPort": 80, "hostIP": "10.0.0.2"}),
                Verdict::Fits,
            ),
            (
                json!({"hostPort": 80, "hostIP": "10.0.0.1"}),
                json!({"hostPort": 80, "hostIP": "0.0.0.0"}),
                refused.clone(),
            ),
            (
                json!({"hostPort": 80}),
                json!({"hostPort": 80, "hostIP": "10.0.0.2"}),
                refused,
            ),
        ] {
            let pod = mk_pod("taker", mk_spec(&taken));
            assert_eq!(
                check(super::check, &mk_spec(&wanted), &json!({}), &[pod]),
                verdict,
                "{wanted} {taken}"
            );
        }
    }

    #[test]
    fn a_pod_on_the_hosts_network_takes_its_container_ports() {
        let mut spec = mk_spec(&json!({"containerPort": 80}));
        spec["hostNetwork"] = json!(true);
        let pod = mk_pod("taker", spec.clone());
        let refused = Verdict::Now("node(s) didn't have free ports for the requested pod ports");
        assert_eq!(check(super::check, &spec, &json!({}), &[pod]), refused);
    }
}
