//! `join`: adds a lower cluster, and says yes only when the link works both ways.

pub(crate) mod credentials;
pub(crate) mod role;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Patch, PatchParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};
use tensile_core::names;
use tokio::time::Instant;

use crate::connect::{self, Identity, Upper};
use crate::error::{CliError, unless_forbidden};
use crate::lower::{self, KUBECONFIG};
use crate::nodes::{self, VirtualNode};
use crate::output::{Outcome, Report};

/// Between two looks at the virtual node.
const INTERVAL: Duration = Duration::from_millis(500);

/// Flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct JoinArgs {
    /// Id of the new cluster: the value of the node label clusterID.
    pub id: String,
    /// Kubeconfig of an administrator of the lower cluster.
    #[arg(long)]
    pub lower_kubeconfig: PathBuf,
    /// Context of that kubeconfig; the current one if not given.
    #[arg(long)]
    pub lower_context: Option<String>,
    /// URL of the lower API server as Tensile's pods reach it, if not that of the kubeconfig.
    #[arg(long)]
    pub server: Option<String>,
    /// Life of the token, in seconds; the lower API server may shorten it.
    #[arg(long, default_value = "31536000")]
    pub token_seconds: i64,
    /// A file for the key nodes.yaml of the Secret: names and pools of the virtual nodes.
    #[arg(long)]
    pub nodes_file: Option<PathBuf>,
    /// How long to wait until the virtual node is ready, in seconds; 0 does not wait.
    #[arg(long, default_value = "120")]
    pub timeout: u64,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Joined {
    cluster: String,
    secret: String,
    version: String,
    virtual_nodes: Vec<VirtualNode>,
    /// What does not work yet.
    problem: Option<String>,
}

/// Does it, step by step; every step can be repeated.
pub(crate) async fn run(upper: &Upper, args: &JoinArgs) -> Result<Joined, CliError> {
    check_id(&args.id)?;
    let admin = connect::read(Some(&args.lower_kubeconfig))?;
    let client = connect::client(admin.clone(), args.lower_context.as_deref()).await?;
    let identity = identify(&client, "the lower cluster").await?;
    let upper_identity = identify(&upper.client, "the upper cluster").await?;
    refuse_known(upper, args, &identity, &upper_identity).await?;
    role::apply(&client).await?;
    let token = credentials::token(&client, args.token_seconds).await?;
    let server = args.server.as_deref();
    let kubeconfig =
        credentials::kubeconfig(&admin, args.lower_context.as_deref(), server, &args.id, &token)?;
    if server.is_none() {
        check_rights(&kubeconfig).await?;
    }
    let secret = publish(upper, args, &kubeconfig).await?;
    let (virtual_nodes, problem) = await_nodes(upper, args).await?;
    Ok(Joined {
        cluster: args.id.clone(),
        secret,
        version: identity.version,
        virtual_nodes,
        problem,
    })
}

/// The id is a label value and part of names.
fn check_id(id: &str) -> Result<(), CliError> {
    let within = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = id.starts_with('-') || id.ends_with('-');
    if id.is_empty() || id.len() > 40 || edges || !id.chars().all(within) {
        let message =
            format!("{id:?} cannot be an id: give at most 40 of a-z, 0-9 and -, without - at the ends");
        return Err(CliError::Refused(message));
    }
    Ok(())
}

async fn identify(client: &Client, what: &str) -> Result<Identity, CliError> {
    connect::identify(client).await.map_err(|reason| CliError::Api {
        what: format!("cannot ask {what} who it is"),
        reason,
    })
}

/// One cluster under two ids would be counted twice.
async fn refuse_known(
    upper: &Upper,
    args: &JoinArgs,
    new: &Identity,
    own: &Identity,
) -> Result<(), CliError> {
    if new.uid == own.uid {
        let message = "--lower-kubeconfig opens the upper cluster itself; give that of another cluster";
        return Err(CliError::Refused(message.to_owned()));
    }
    for known in lower::list(upper).await? {
        let Ok(client) = known.open().await else { continue };
        let Ok(identity) = connect::identify(&client).await else {
            continue;
        };
        if identity.uid == new.uid && known.id != args.id {
            let message = format!("this cluster is there already, as {}; leave it first", known.id);
            return Err(CliError::Refused(message));
        }
        if identity.uid != new.uid && known.id == args.id {
            return Err(CliError::Refused(format!(
                "the id {} belongs to another cluster; give another",
                args.id
            )));
        }
    }
    Ok(())
}

/// Tries what was just made, as Tensile will use it.
async fn check_rights(kubeconfig: &Value) -> Result<(), CliError> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).map_err(CliError::Json)?;
    let client = connect::client(kubeconfig, None).await?;
    let lacking = role::lacking(&client, role::rights()?).await;
    let lacking = lacking.map_err(|reason| CliError::Api {
        what: "the new kubeconfig does not work below".to_owned(),
        reason,
    })?;
    if lacking.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the service account lacks rights below, although they were granted: {}",
        lacking.join(", ")
    );
    Err(CliError::Refused(message))
}

/// Writes the Secret, and the namespace if it is not there.
async fn publish(upper: &Upper, args: &JoinArgs, kubeconfig: &Value) -> Result<String, CliError> {
    let mut data = json!({KUBECONFIG: kubeconfig.to_string()});
    if let Some(path) = &args.nodes_file {
        let text = std::fs::read_to_string(path);
        data["nodes.yaml"] = text
            .map_err(|source| CliError::File {
                path: path.clone(),
                source,
            })?
            .into();
    }
    let name = format!("tensile-cluster-{}", args.id);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": upper.namespace}});
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": upper.namespace, "labels": {names::CLUSTER: args.id}},
        "stringData": data,
    });
    let namespaces: Api<Namespace> = Api::all(upper.client.clone());
    let secrets: Api<Secret> = Api::namespaced(upper.client.clone(), &upper.namespace);
    let params = PatchParams::apply(names::MANAGER).force();
    if namespaces
        .get_metadata_opt(&upper.namespace)
        .await
        .ok()
        .flatten()
        .is_none()
    {
        namespaces
            .patch(&upper.namespace, &params, &Patch::Apply(&namespace))
            .await
            .map_err(CliError::api(format!(
                "cannot make namespace {}",
                upper.namespace
            )))?;
    }
    secrets
        .patch(&name, &params, &Patch::Apply(&secret))
        .await
        .map_err(CliError::api(format!("cannot write Secret {name}")))?;
    Ok(name)
}

/// Waits until the cluster's virtual nodes are ready, and their kubelet API answers the upper API server.
async fn await_nodes(upper: &Upper, args: &JoinArgs) -> Result<(Vec<VirtualNode>, Option<String>), CliError> {
    if args.timeout == 0 {
        return Ok((Vec::new(), None));
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let mut own = nodes::list(upper).await?;
        own.retain(|node| node.cluster == args.id);
        let problem = match own.iter().find(|node| !node.ready) {
            _ if own.is_empty() => Some(
                "no virtual node appeared; does tensile-virtual-node run with --clusters-from-secrets?"
                    .to_owned(),
            ),
            Some(node) => Some(format!(
                "virtual node {} is not ready: {}",
                node.name, node.reason
            )),
            None => unreachable_kubelet(&upper.client, &own).await,
        };
        if problem.is_none() || Instant::now() >= deadline {
            return Ok((own, problem));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The way back: `kubectl logs` and `exec` go from the upper API server to the virtual node.
async fn unreachable_kubelet(client: &Client, nodes: &[VirtualNode]) -> Option<String> {
    for node in nodes {
        if let Some(Err(reason)) = kubelet_answers(client, &node.name).await {
            return Some(format!(
                "the upper API server does not reach virtual node {}: {reason}",
                node.name
            ));
        }
    }
    None
}

/// Asks a node's kubelet API for its health, through the API server; `None` if we may not.
pub(crate) async fn kubelet_answers(client: &Client, node: &str) -> Option<Result<(), String>> {
    let path = format!("/api/v1/nodes/{node}/proxy/healthz");
    match http::Request::get(path).body(Vec::new()) {
        Ok(request) => judge(client.request_text(request).await.map(drop)),
        Err(error) => Some(Err(error.to_string())),
    }
}

/// No API server proxies to a node on loopback, as on a single machine, although logs and exec work there.
fn judge(answer: kube::Result<()>) -> Option<Result<(), String>> {
    unless_forbidden(answer).filter(|answer| {
        answer
            .as_ref()
            .err()
            .is_none_or(|reason| reason != "address not allowed")
    })
}

impl Report for Joined {
    fn text(&self) -> String {
        let head = format!(
            "cluster {} ({}) is written to Secret {}\n",
            self.cluster, self.version, self.secret
        );
        let nodes = self.virtual_nodes.iter().map(|node| {
            let state = if node.ready { "ready" } else { "not ready" };
            format!("virtual node {} is {state}\n", node.name)
        });
        let problem = self.problem.iter().map(|problem| format!("not yet: {problem}\n"));
        std::iter::once(head).chain(nodes).chain(problem).collect()
    }

    fn outcome(&self) -> Outcome {
        Outcome::good_if(self.problem.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_label_value_and_part_of_a_name() {
        for (id, good) in [
            ("a", true),
            ("west-1", true),
            ("", false),
            ("A", false),
            ("-a", false),
            ("a.b", false),
        ] {
            assert_eq!(check_id(id).is_ok(), good, "{id}");
        }
    }

    #[test]
    fn what_no_api_server_does_is_no_answer() {
        let answer = |code, reason: &str, message: &str| {
            let status = kube::core::Status::failure(message, reason).with_code(code);
            judge(Err(kube::Error::Api(Box::new(status))))
        };
        assert_eq!(judge(Ok(())), Some(Ok(())));
        assert_eq!(answer(403, "Forbidden", "nodes is forbidden"), None);
        assert_eq!(answer(400, "BadRequest", "address not allowed"), None);
        assert_eq!(answer(502, "", "dial tcp"), Some(Err("dial tcp".to_owned())));
    }

    #[test]
    fn a_problem_is_told_and_makes_the_answer_bad() {
        let joined = Joined {
            cluster: "a".to_owned(),
            secret: "s".to_owned(),
            version: "v1.36.3".to_owned(),
            virtual_nodes: vec![],
            problem: Some("no virtual node".to_owned()),
        };
        assert_eq!(
            joined.text(),
            "cluster a (v1.36.3) is written to Secret s\nnot yet: no virtual node\n"
        );
        assert_eq!(joined.outcome(), Outcome::Bad);
    }
}
