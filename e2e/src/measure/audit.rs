//! Requests that an API server answered, counted from its audit log.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::Cluster;

/// The audit log of a cluster from one moment on.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
    from: u64,
}

/// What was asked, by whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The user's name.
    pub user: String,
    /// The program, which is the user agent up to the first slash.
    pub agent: String,
    /// As the audit log calls it: `get list watch create update patch delete deletecollection`.
    pub verb: String,
    /// The plural, with the subresource: `pods/status`; the path where it is no resource.
    pub resource: String,
    /// Whether the server answered with an error (status 400 and above).
    pub failed: bool,
}

/// How often each request was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<Request, usize>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    stage: &'a str,
    verb: &'a str,
    #[serde(borrow, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(borrow, default)]
    user_agent: Cow<'a, str>,
    #[serde(borrow)]
    object_ref: Option<ObjectRef<'a>>,
    response_status: Option<ResponseStatus>,
    #[serde(borrow, default)]
    request_received_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ObjectRef<'a> {
    #[serde(borrow, default)]
    resource: Cow<'a, str>,
    #[serde(borrow, default)]
    subresource: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

// === impl AuditLog ===

impl AuditLog {
    /// The audit log of `cluster`, which must have been started with one, from now on.
    ///
    /// # Errors
    /// There is no audit log.
    pub fn from_now(cluster: &Cluster) -> Result<Self> {
        let path = cluster.audit_log();
        let length = std::fs::metadata(&path)
            .with_context(|| format!("no audit log at {}: use with_audit_log", path.display()))?;
        Ok(Self {
            path,
            from: length.len(),
        })
    }

    /// All requests that were answered since.
    ///
    /// # Errors
    /// The log cannot be read, or a line of it is no audit event.
    pub fn requests(&self) -> Result<Requests> {
        Requests::parse(self.open()?)
    }

    /// How often pods were made since in a namespace, by their names.
    ///
    /// # Errors
    /// As [`AuditLog::requests`].
    pub fn pods_made(&self, namespace: &str) -> Result<BTreeMap<String, usize>> {
        let mut made = BTreeMap::new();
        each_finished(self.open()?, |event| {
            let pod = event.object_ref.as_ref().filter(|object| {
                object.resource == "pods" && object.subresource.is_empty() && object.namespace == namespace
            });
            let done = event
                .response_status
                .as_ref()
                .is_some_and(|status| status.code < 400);
            if let Some(pod) = pod.filter(|_| done && event.verb == "create") {
                *made.entry(pod.name.to_string()).or_default() += 1;
            }
        })?;
        Ok(made)
    }

    /// When each pod's status was first patched since by a user, in a namespace, by the names of the pods. It is the time
    /// at which the API server got the request.
    ///
    /// # Errors
    /// As [`AuditLog::requests`].
    pub fn status_patches(&self, user: &str, namespace: &str) -> Result<BTreeMap<String, Timestamp>> {
        let mut patches = BTreeMap::new();
        each_finished(self.open()?, |event| {
            let pod = event.object_ref.as_ref().filter(|object| {
                object.resource == "pods" && object.subresource == "status" && object.namespace == namespace
            });
            if let Some(pod) = pod.filter(|_| event.verb == "patch" && event.user.username == user) {
                // Every event has one; what cannot be read was never received.
                if let Ok(received) = event.request_received_timestamp.parse() {
                    patches.entry(pod.name.to_string()).or_insert(received);
                }
            }
        })?;
        Ok(patches)
    }

    fn open(&self) -> Result<BufReader<File>> {
        let mut file =
            File::open(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.from))?;
        Ok(BufReader::with_capacity(1 << 16, file))
    }
}

/// Reads the events of requests that were answered.
fn each_finished(mut log: impl BufRead, mut on: impl FnMut(&Event<'_>)) -> Result<()> {
    let mut line = String::new();
    // A last line without an end is still being written.
    while log.read_line(&mut line)? > 0 && line.ends_with('\n') {
        let event: Event<'_> =
            serde_json::from_str(&line).with_context(|| format!("not an audit event: {line}"))?;
        // Watches have a stage of their own for the start of the answer.
        if event.stage == "ResponseComplete" {
            on(&event);
        }
        line.clear();
    }
    Ok(())
}

// === impl Requests ===

impl Requests {
    fn parse(log: impl BufRead) -> Result<Self> {
        let mut requests = Self::default();
        each_finished(log, |event| {
            *requests.0.entry(Request::from(event)).or_default() += 1;
        })?;
        Ok(requests)
    }

    /// The requests for which `wanted` holds.
    #[must_use]
    pub fn filter(&self, wanted: impl Fn(&Request) -> bool) -> Self {
        let kept = self.0.iter().filter(|(request, _)| wanted(request));
        Self(kept.map(|(request, &count)| (request.clone(), count)).collect())
    }

    /// These and others.
    #[must_use]
    pub fn plus(&self, others: &Self) -> Self {
        let mut sum = self.clone();
        for (request, count) in &others.0 {
            *sum.0.entry(request.clone()).or_default() += count;
        }
        sum
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Each request with its count, the most frequent first.
    #[must_use]
    pub fn ranked(&self) -> Vec<(&Request, usize)> {
        let mut ranked: Vec<_> = self.0.iter().map(|(request, &count)| (request, count)).collect();
        ranked.sort_by_key(|&(request, count)| (std::cmp::Reverse(count), request));
        ranked
    }
}

impl std::fmt::Display for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, (request, count)) in self.ranked().into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {request}")?;
        }
        Ok(())
    }
}

// === impl Request ===

impl Request {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }

    /// Whether it reads once, other than a watch.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list")
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed = if self.failed { " (failed)" } else { "" };
        write!(f, "{} {}{failed}", self.verb, self.resource)
    }
}

impl From<&Event<'_>> for Request {
    fn from(event: &Event<'_>) -> Self {
        let path = || event.request_uri.split('?').next().unwrap_or_default().to_owned();
        let resource =
            event
                .object_ref
                .as_ref()
                .map_or_else(path, |object| match object.subresource.is_empty() {
                    true => object.resource.to_string(),
                    false => format!("{}/{}", object.resource, object.subresource),
                });
        let code = event.response_status.as_ref().map_or(0, |status| status.code);
        Self {
            user: event.user.username.to_string(),
            agent: event.user_agent.split('/').next().unwrap_or_default().to_owned(),
            verb: event.verb.to_owned(),
            resource,
            failed: code >= 400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_event(stage: &str, verb: &str, object: &str, code: u16) -> String {
        format!(
            r#"{{"kind":"Event","stage":"{stage}","requestURI":"/api/v1/pods?watch=1","verb":"{verb}","user":{{"username":"vn","groups":["g"]}},"userAgent":"kube/1 (\"x\")","objectRef":{object},"responseStatus":{{"code":{code}}}}}"#
        )
    }

    #[test]
    fn finished_requests_are_counted_by_verb_and_subresource() {
        let status = r#"{"resource":"pods","subresource":"status","name":"a"}"#;
        let lines = [
            mk_event("ResponseComplete", "patch", status, 200),
            mk_event("ResponseComplete", "patch", status, 200),
            mk_event("ResponseComplete", "patch", status, 409),
            mk_event("ResponseStarted", "watch", r#"{"resource":"pods"}"#, 200),
            mk_event("ResponseComplete", "get", "null", 200),
        ];
        let log = lines.join("\n") + "\nhalf a li";
        let requests = Requests::parse(log.as_bytes()).unwrap();
        assert_eq!(requests.total(), 4);
        assert_eq!(
            requests.to_string(),
            "2 patch pods/status, 1 get /api/v1/pods, 1 patch pods/status (failed)"
        );
        assert_eq!(requests.filter(Request::is_write).total(), 3);
        assert!(
            requests
                .ranked()
                .iter()
                .all(|(request, _)| request.user == "vn" && request.agent == "kube")
        );
    }

    #[test]
    fn pods_are_counted_by_name_and_status_patches_dated() {
        let path = std::env::temp_dir().join(format!("tensile-audit-{}", std::process::id()));
        let pod = r#"{"resource":"pods","namespace":"n","name":"a"}"#;
        let status = r#"{"resource":"pods","namespace":"n","name":"a","subresource":"status"}"#;
        let received = r#""requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","stage""#;
        let lines = [
            mk_event("ResponseComplete", "create", pod, 201),
            mk_event("ResponseComplete", "create", pod, 409),
            mk_event(
                "ResponseComplete",
                "create",
                &pod.replace(r#""n""#, r#""m""#),
                201,
            ),
            mk_event("ResponseComplete", "patch", status, 200).replacen(r#""stage""#, received, 1),
            mk_event("ResponseComplete", "patch", status, 200),
        ];
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let log = AuditLog {
            path: path.clone(),
            from: 0,
        };
        let (made, patched) = (log.pods_made("n"), log.status_patches("vn", "n"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(made.unwrap(), BTreeMap::from([("a".to_owned(), 1)]));
        assert_eq!(patched.unwrap()["a"].as_microsecond() % 1_000_000, 1);
    }

    #[test]
    fn a_line_that_is_no_event_is_an_error() {
        assert!(Requests::parse("nonsense\n".as_bytes()).is_err());
    }
}
