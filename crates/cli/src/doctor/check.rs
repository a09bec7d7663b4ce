//! What the facts mean: a pure function from answers to findings.

use jiff::{SignedDuration, Timestamp};

use super::Finding;
use super::facts::{ClusterAnswer, ClusterFacts, Facts, NodeFacts, WebhookFacts, Workload};

/// The oldest minor version that the chart installs on (its `kubeVersion`).
const OLDEST_MINOR: u32 = 29;
/// Credentials that end sooner are worth a warning.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Clocks further apart make tokens invalid before they are used, and leases look old. HTTP dates have whole
/// seconds, and the two were asked one after the other.
const MAX_SKEW: SignedDuration = SignedDuration::from_secs(10);
/// A heartbeat older than the grace period of the node lifecycle controller, in seconds.
const OLD_HEARTBEAT: i64 = 40;

/// Judges everything.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version("upper cluster", &facts.upper.version)];
    findings.extend(facts.clusters.is_empty().then(no_clusters));
    for cluster in &facts.clusters {
        findings.extend(check_cluster(cluster, facts));
    }
    findings.extend(facts.nodes.iter().map(check_node));
    findings.push(check_webhook(facts.webhook.as_ref(), facts.now));
    findings.extend(facts.workloads.iter().map(check_workload));
    findings
}

fn no_clusters() -> Finding {
    Finding::warning(
        "clusters",
        "no Secret names a lower cluster",
        "kubectl tensile join ID --lower-kubeconfig FILE",
    )
}

fn version(subject: &str, version: &str) -> Finding {
    let minor = minor(version);
    if minor.is_some_and(|minor| minor >= OLDEST_MINOR) {
        return Finding::ok(subject, format!("version {version}"));
    }
    Finding::warning(
        subject,
        format!("version {version} is older than what is supported, 1.{OLDEST_MINOR}"),
        "upgrade it",
    )
}

/// `36` of `v1.36.3-gke.1`.
fn minor(version: &str) -> Option<u32> {
    let minor = version.trim_start_matches('v').split('.').nth(1)?;
    minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

fn check_cluster(cluster: &ClusterFacts, facts: &Facts) -> Vec<Finding> {
    let subject = format!("cluster {}", cluster.id);
    if cluster.leaving {
        let remedy = format!(
            "wait; if it is dead: kubectl tensile leave {} --abandon",
            cluster.id
        );
        return vec![Finding::warning(subject, "is leaving", remedy)];
    }
    let answer = match &cluster.answer {
        Ok(answer) => answer,
        Err(reason) => {
            let remedy = format!(
                "correct the kubeconfig or the way to it; kubectl tensile join {} makes a new one",
                cluster.id
            );
            return vec![Finding::error(
                subject,
                format!("cannot be used: {reason}"),
                remedy,
            )];
        }
    };
    let again = format!("kubectl tensile join {} --lower-kubeconfig FILE", cluster.id);
    let mut findings = vec![version(&subject, &answer.identity.version)];
    findings.extend(check_identity(&subject, cluster, answer, facts));
    findings.push(check_rights(&subject, &answer.lacking, &again));
    findings.extend(
        cluster
            .expires
            .map(|end| check_end(&subject, "credentials", end, facts.now, &again)),
    );
    findings.extend(check_clock(&subject, answer.clock, facts.upper_clock));
    if !facts.nodes.iter().any(|found| found.node.cluster == cluster.id) {
        let remedy = "run tensile-virtual-node with --clusters-from-secrets, and look at its log";
        findings.push(Finding::error(subject, "no virtual node stands for it", remedy));
    }
    findings
}

fn check_identity(
    subject: &str,
    cluster: &ClusterFacts,
    answer: &ClusterAnswer,
    facts: &Facts,
) -> Option<Finding> {
    if answer.identity.uid == facts.upper.uid {
        let message = "its kubeconfig opens the upper cluster itself";
        return Some(Finding::error(
            subject,
            message,
            format!("kubectl tensile leave {} --abandon", cluster.id),
        ));
    }
    let same = |other: &&ClusterFacts| {
        let uid = other.answer.as_ref().map(|answer| &answer.identity.uid);
        other.id != cluster.id && uid == Ok(&answer.identity.uid)
    };
    let other = facts.clusters.iter().find(same)?;
    let message = format!(
        "is the same cluster as {}, so that its room counts twice",
        other.id
    );
    Some(Finding::error(
        subject,
        message,
        "let one of them leave with --abandon",
    ))
}

fn check_rights(subject: &str, lacking: &Result<Vec<String>, String>, again: &str) -> Finding {
    match lacking {
        Ok(lacking) if lacking.is_empty() => Finding::ok(subject, "all rights are there"),
        Ok(lacking) => Finding::error(subject, format!("lacks rights: {}", lacking.join(", ")), again),
        Err(reason) => Finding::warning(
            subject,
            format!("cannot tell which rights are there: {reason}"),
            again,
        ),
    }
}

fn check_end(subject: &str, what: &str, end: Timestamp, now: Timestamp, remedy: &str) -> Finding {
    let left = end.duration_since(now);
    if left <= SignedDuration::ZERO {
        return Finding::error(subject, format!("{what} ended at {end}"), remedy);
    }
    if left < SOON {
        return Finding::warning(subject, format!("{what} end at {end}"), remedy);
    }
    Finding::ok(subject, format!("{what} end at {end}"))
}

fn check_clock(subject: &str, lower: Option<Timestamp>, upper: Option<Timestamp>) -> Option<Finding> {
    let apart = lower?.duration_since(upper?).abs();
    Some(if apart > MAX_SKEW {
        let message = format!(
            "its clock is {} s away from that of the upper cluster",
            apart.as_secs()
        );
        Finding::warning(subject, message, "synchronise both with NTP")
    } else {
        Finding::ok(subject, "clocks agree")
    })
}

fn check_node(facts: &NodeFacts) -> Finding {
    let node = &facts.node;
    let subject = format!("virtual node {}", node.name);
    let age = node.heartbeat_age.unwrap_or(i64::MAX);
    if !node.ready {
        let message = format!("is not ready: {}", node.reason);
        return Finding::error(
            subject,
            message,
            "look at the conditions of the Node and the log of tensile-virtual-node",
        );
    }
    if age > OLD_HEARTBEAT {
        return Finding::error(
            subject,
            "its heartbeats have stopped",
            "look whether tensile-virtual-node runs",
        );
    }
    if let Some(Err(reason)) = &facts.kubelet {
        let remedy = "let the API server reach the port of the kubelet API (--node-ip, --listen, NetworkPolicies); \
                      until then logs and exec fail";
        return Finding::error(
            subject,
            format!("the API server does not reach it: {reason}"),
            remedy,
        );
    }
    if node.unschedulable {
        return Finding::warning(&subject, "is cordoned", format!("kubectl uncordon {}", node.name));
    }
    let reached = if facts.kubelet.is_some() {
        ", and the API server reaches it"
    } else {
        ""
    };
    Finding::ok(subject, format!("ready{reached}"))
}

fn check_webhook(webhook: Option<&WebhookFacts>, now: Timestamp) -> Finding {
    let Some(webhook) = webhook else {
        return Finding::warning(
            "webhook",
            "is not registered: constraints of pods act on virtual nodes only, not below",
            "install the chart with webhook.enabled=true",
        );
    };
    let subject = format!("webhook {}", webhook.name);
    if !webhook.has_ca {
        let remedy = "look at the log of tensile-webhook, which publishes its CA, or at cert-manager";
        return Finding::error(subject, "has no CA, so that no API server can call it", remedy);
    }
    let ended = webhook.ca_expires.filter(|end| *end <= now);
    if let Some(end) = ended {
        return Finding::error(
            subject,
            format!("its CA ended at {end}"),
            "look at the log of tensile-webhook",
        );
    }
    match &webhook.changes_pods {
        None => Finding::ok(subject, "is registered"),
        Some(Ok(true)) => Finding::ok(subject, "changes pods that take part"),
        Some(Ok(false)) => Finding::error(
            subject,
            "did not change a pod that takes part (dry run)",
            "look at failurePolicy, the log of tensile-webhook and the endpoints of its Service",
        ),
        Some(Err(reason)) => Finding::error(
            subject,
            format!("a dry run failed: {reason}"),
            "let the API server reach the webhook's Service (NetworkPolicies, endpoints)",
        ),
    }
}

fn check_workload(workload: &Workload) -> Finding {
    let subject = format!("deployment {}", workload.name);
    let message = format!("{} of {} pods are ready", workload.ready, workload.wanted);
    if workload.ready >= workload.wanted {
        return Finding::ok(subject, message);
    }
    Finding::error(
        subject,
        message,
        "look at its pods: kubectl describe, kubectl logs",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::connect::Identity;
    use crate::nodes::VirtualNode;

    const NOW: i64 = 1_700_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }

    fn mk_identity(uid: &str, version: &str) -> Identity {
        Identity {
            uid: uid.to_owned(),
            version: version.to_owned(),
        }
    }

    /// Nothing is wrong with these.
    fn mk_facts() -> Facts {
        Facts {
            now: at(0),
            upper: mk_identity("upper", "v1.36.3"),
            upper_clock: Some(at(0)),
            clusters: vec![ClusterFacts {
                id: "a".to_owned(),
                leaving: false,
                expires: Some(at(30 * 24 * 3600)),
                answer: Ok(ClusterAnswer {
                    identity: mk_identity("lower", "v1.31.0+k3s1"),
                    clock: Some(at(3)),
                    lacking: Ok(vec![]),
                }),
            }],
            nodes: vec![NodeFacts {
                node: VirtualNode {
                    name: "vn-a".to_owned(),
                    cluster: "a".to_owned(),
                    ready: true,
                    heartbeat_age: Some(9),
                    ..VirtualNode::default()
                },
                kubelet: Some(Ok(())),
            }],
            webhook: Some(WebhookFacts {
                name: "tensile".to_owned(),
                has_ca: true,
                ca_expires: Some(at(3600)),
                changes_pods: Some(Ok(true)),
            }),
            workloads: vec![Workload {
                name: "webhook".to_owned(),
                ready: 2,
                wanted: 2,
            }],
        }
    }

    /// Level and message of what is found wrong after a change.
    fn wrong(change: impl FnOnce(&mut Facts)) -> Vec<(Level, String)> {
        let mut facts = mk_facts();
        change(&mut facts);
        let findings = check(&facts)
            .into_iter()
            .filter(|finding| finding.level != Level::Ok);
        findings
            .inspect(|finding| assert!(!finding.remedy.is_empty(), "{finding:?}"))
            .map(|finding| (finding.level, format!("{}: {}", finding.subject, finding.message)))
            .collect()
    }

    fn answer(facts: &mut Facts) -> &mut ClusterAnswer {
        facts.clusters[0].answer.as_mut().unwrap()
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(wrong(|_| {}), []);
        assert!(check(&mk_facts()).len() >= 8);
        let unasked = |facts: &mut Facts| {
            facts.nodes[0].kubelet = None;
            facts.webhook.as_mut().unwrap().changes_pods = None;
        };
        assert_eq!(wrong(unasked), []);
    }

    #[test]
    fn clusters_are_found_wrong_one_by_one() {
        type Change = fn(&mut Facts);
        let cases: [(Change, Level, &str); 11] = [
            (
                |f| f.upper.version = "v1.27.1".into(),
                Level::Warning,
                "upper cluster: version v1.27.1 is older",
            ),
            (
                |f| answer(f).identity.version = "what".into(),
                Level::Warning,
                "cluster a: version what is older",
            ),
            (
                |f| f.clusters[0].leaving = true,
                Level::Warning,
                "cluster a: is leaving",
            ),
            (
                |f| f.clusters[0].answer = Err("refused".into()),
                Level::Error,
                "cluster a: cannot be used: refused",
            ),
            (
                |f| answer(f).identity.uid = "upper".into(),
                Level::Error,
                "cluster a: its kubeconfig opens the upper",
            ),
            (
                |f| answer(f).lacking = Ok(vec!["get pods".into()]),
                Level::Error,
                "cluster a: lacks rights: get pods",
            ),
            (
                |f| answer(f).lacking = Err("no".into()),
                Level::Warning,
                "cluster a: cannot tell which rights",
            ),
            (
                |f| f.clusters[0].expires = Some(at(-1)),
                Level::Error,
                "cluster a: credentials ended at",
            ),
            (
                |f| f.clusters[0].expires = Some(at(3600)),
                Level::Warning,
                "cluster a: credentials end at",
            ),
            (
                |f| answer(f).clock = Some(at(-11)),
                Level::Warning,
                "cluster a: its clock is 11 s away",
            ),
            (
                |f| f.nodes.clear(),
                Level::Error,
                "cluster a: no virtual node stands for it",
            ),
        ];
        for (change, level, message) in cases {
            let found = wrong(change);
            assert!(
                matches!(&found[..], [(found_level, text)] if *found_level == level && text.starts_with(message)),
                "{message}: {found:?}"
            );
        }
    }

    #[test]
    fn a_cluster_with_two_ids_is_found_on_both() {
        let found = wrong(|facts| {
            let mut twin = facts.clusters[0].clone();
            twin.id = "b".to_owned();
            facts.clusters.push(twin);
            facts.nodes[0].node.cluster = "a".to_owned();
        });
        assert_eq!(
            found
                .iter()
                .filter(|(_, text)| text.contains("is the same cluster as"))
                .count(),
            2
        );
    }

    #[test]
    fn nodes_webhook_and_workloads_are_found_wrong_one_by_one() {
        type Change = fn(&mut Facts);
        let cases: [(Change, Level, &str); 11] = [
            (
                |f| f.nodes[0].node.ready = false,
                Level::Error,
                "virtual node vn-a: is not ready",
            ),
            (
                |f| f.nodes[0].node.heartbeat_age = Some(41),
                Level::Error,
                "virtual node vn-a: its heartbeats",
            ),
            (
                |f| f.nodes[0].node.heartbeat_age = None,
                Level::Error,
                "virtual node vn-a: its heartbeats",
            ),
            (
                |f| f.nodes[0].kubelet = Some(Err("x".into())),
                Level::Error,
                "virtual node vn-a: the API server does not",
            ),
            (
                |f| f.nodes[0].node.unschedulable = true,
                Level::Warning,
                "virtual node vn-a: is cordoned",
            ),
            (|f| f.webhook = None, Level::Warning, "webhook: is not registered"),
            (
                |f| f.webhook.as_mut().unwrap().has_ca = false,
                Level::Error,
                "webhook tensile: has no CA",
            ),
            (
                |f| f.webhook.as_mut().unwrap().ca_expires = Some(at(0)),
                Level::Error,
                "webhook tensile: its CA ended",
            ),
            (
                |f| f.webhook.as_mut().unwrap().changes_pods = Some(Ok(false)),
                Level::Error,
                "webhook tensile: did not change a pod",
            ),
            (
                |f| f.webhook.as_mut().unwrap().changes_pods = Some(Err("x".into())),
                Level::Error,
                "webhook tensile: a dry run failed: x",
            ),
            (
                |f| f.workloads[0].ready = 1,
                Level::Error,
                "deployment webhook: 1 of 2 pods are ready",
            ),
        ];
        for (change, level, message) in cases {
            let found = wrong(change);
            assert!(
                matches!(&found[..], [(found_level, text)] if *found_level == level && text.starts_with(message)),
                "{message}: {found:?}"
            );
        }
        assert!(
            wrong(|facts| facts.clusters.clear())[0]
                .1
                .starts_with("clusters: no Secret")
        );
    }
}
