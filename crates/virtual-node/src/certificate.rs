//! The serving certificate of the kubelet API: from files, signed by the upper cluster, or made here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use tensile_kubelet_api::serving::{self, ServingRequest};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::tls::{POLL_INTERVAL, ServingCert, follow_files, read_files};

use crate::args::Args;

/// Who makes the certificate when no files are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ServingCertificate {
    /// We do. Clients can use it only if they verify nothing.
    #[default]
    SelfSigned,
    /// The upper cluster, by a `CertificateSigningRequest`; self-signed until that is approved and signed.
    Csr,
}

/// A certificate that serves already, and how it is renewed.
pub struct Certificate {
    /// What handshakes read.
    pub serving: Arc<ServingCert>,
    node: String,
    names: Vec<String>,
    source: Source,
}

enum Source {
    Files(Vec<PathBuf>, Vec<Vec<u8>>),
    Csr(ServingRequest),
    SelfSigned,
}

// === impl Certificate ===

impl Certificate {
    /// The first certificate: that of the files, else one made here for the published addresses and the node's name.
    ///
    /// # Errors
    /// When a file cannot be used, or a name cannot be in a certificate.
    pub async fn load(args: &Args, node_ip: &str) -> anyhow::Result<Self> {
        let serving = Arc::new(ServingCert::default());
        let names = names(args, node_ip);
        let source = if let (Some(cert), Some(key)) = (&args.tls_cert_file, &args.tls_private_key_file) {
            let paths = vec![cert.clone(), key.clone()];
            let files = read_files(&paths).await?;
            serving.set_pem(&files[0], &files[1])?;
            Source::Files(paths, files)
        } else {
            serving::self_sign(&args.nodename, &names, &serving)?;
            match args.serving_certificate {
                ServingCertificate::SelfSigned => Source::SelfSigned,
                ServingCertificate::Csr => Source::Csr(request(args)),
            }
        };
        Ok(Self {
            serving,
            node: args.nodename.clone(),
            names,
            source,
        })
    }

    /// Renews the certificate until shutdown. Connections keep the one that they began with.
    pub async fn keep(self, upper: Client, shutdown: Shutdown) {
        let (_fixed, addresses) = watch::channel(self.names);
        let serving = self.serving;
        let renewed = async {
            match self.source {
                Source::Csr(request) => serving::keep(upper, request, addresses, serving).await,
                Source::SelfSigned => {
                    tracing::warn!(
                        "the kubelet API has a self-signed certificate: its clients cannot verify it"
                    );
                    serving::keep_self_signed(&self.node, addresses, &serving).await;
                }
                Source::Files(paths, seen) => {
                    let token = shutdown.token();
                    follow_files(paths, seen, POLL_INTERVAL, token, move |files| {
                        serving.set_pem(&files[0], &files[1])
                    })
                    .await;
                }
            }
        };
        shutdown.token().run_until_cancelled(renewed).await;
    }
}

fn request(args: &Args) -> ServingRequest {
    ServingRequest {
        node: args.nodename.clone(),
        signer: args.serving_signer.clone(),
        approve: args.approve_serving_certificate,
    }
}

/// Whom callers mean: every published address, and the node's name.
fn names(args: &Args, node_ip: &str) -> Vec<String> {
    let external = args.external_ip.map(|ip: IpAddr| ip.to_string());
    let mut names = vec![node_ip.to_owned(), args.nodename.clone()];
    names.extend(external.filter(|external| external != node_ip));
    names
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_names_are_those_that_the_node_publishes() {
        let base = ["x", "--nodename", "vn", "--client-kubeconfig", "f"];
        for (more, wanted) in [
            (&[][..], &["10.0.0.1", "vn"][..]),
            (&["--external-ip", "10.0.0.1"], &["10.0.0.1", "vn"]),
            (&["--external-ip", "192.0.2.1"], &["10.0.0.1", "vn", "192.0.2.1"]),
        ] {
            let args = Args::try_parse_from(base.iter().chain(more)).unwrap();
            assert_eq!(names(&args, "10.0.0.1"), wanted, "{more:?}");
        }
    }
}
