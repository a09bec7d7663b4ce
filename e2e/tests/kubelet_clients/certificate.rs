//! The serving certificate that the upper cluster signs: approved, verified by callers, renewed under open streams.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, TestResult, support};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::ListParams;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{BY_HAND, DEADLINE, mk_node, on_site};

/// Waits until as many requests of the upper cluster were signed.
pub(crate) async fn await_signed(upper: &Cluster, node: &str, count: usize) -> Result<()> {
    let requests: Api<CertificateSigningRequest> = Api::all(upper.client().await?);
    support::await_condition(&format!("{count} certificates for {node}"), DEADLINE, || async {
        let requests = requests.list(&ListParams::default()).await?;
        let signed = requests.iter().filter(|request| {
            request
                .status
                .as_ref()
                .is_some_and(|status| status.certificate.is_some())
        });
        Ok((signed.count() >= count).then_some(()))
    })
    .await
}

/// A connection that trusts the cluster's CA and wants the address in the certificate.
pub(crate) async fn connect(upper: &Cluster, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
    support::tls_connect(address, upper.client_ca_pem(), &address.ip().to_string()).await
}

/// The certificate that is served now, if callers trust it.
async fn served(upper: &Cluster, address: SocketAddr) -> Result<Vec<u8>> {
    let stream = connect(upper, address).await?;
    let certificates = stream.get_ref().1.peer_certificates().context("no certificate")?;
    Ok(certificates[0].to_vec())
}

#[test]
fn a_request_waits_for_approval_by_hand() -> TestResult {
    on_site(async |site| {
        let (upper, lower) = (&site.ground.upper, &site.ground.lower);
        let node = mk_node(BY_HAND, &site.ground.rights)
            // A taint of its own keeps the pods of other tests away.
            .args(["--serving-certificate", "csr", "--taint-key", "by-hand"])
            .start(upper, lower)
            .await?;
        let before = served(upper, node.kubelet()).await;
        ensure!(before.is_err(), "a certificate that nobody signed is trusted");
        let requests: Api<CertificateSigningRequest> = Api::all(site.client.clone());
        support::await_condition("a certificate that callers trust", DEADLINE, || async {
            let requests = requests.list(&ListParams::default()).await?;
            let pending = requests.iter().filter(|request| {
                request
                    .status
                    .as_ref()
                    .is_none_or(|status| status.conditions.is_none())
            });
            for name in pending.filter_map(|request| request.metadata.name.as_deref()) {
                upper.kubectl(&["certificate", "approve", name]).await?.ok()?;
            }
            served(upper, node.kubelet()).await.map(Some)
        })
        .await?;
        Ok(())
    })
}

#[test]
fn a_renewed_certificate_leaves_streams_alone() -> TestResult {
    on_site(async |site| {
        let (upper, node) = (&site.ground.upper, &site.ground.node);
        site.run(&[crate::mk_simple("echo", crate::IDLE)]).await?;
        let args = ["--namespace", &site.namespace, "exec", "-i", "echo", "--", "cat"];
        let mut cat = upper
            .kubectl_command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = cat.stdin.take().context("no input")?;
        let mut output = BufReader::new(cat.stdout.take().context("no output")?);
        let mut echo = async |text: &str| -> Result<()> {
            input.write_all(text.as_bytes()).await?;
            let mut line = String::new();
            tokio::time::timeout(DEADLINE, output.read_line(&mut line)).await??;
            ensure!(line == text, "{line:?}");
            Ok(())
        };
        echo("before\n").await?;
        let first = served(upper, node.kubelet()).await?;
        support::await_condition("another certificate", 2 * DEADLINE, || async {
            let now = served(upper, node.kubelet()).await?;
            Ok((now != first).then_some(()))
        })
        .await?;
        echo("after\n").await
    })
}
