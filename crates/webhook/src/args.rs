//! Command line of `tensile-webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tensile_core::names;
use tensile_runtime::args::{CommonArgs, entries};

use crate::mutate::Rules;
use crate::tolerations::WhenUnreachable;

/// Mutating admission webhook: makes scheduling constraints act where pods run.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "tensile-webhook", version)]
pub struct Args {
    /// Flags that all components share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address to serve POST /mutate on, with TLS.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:9443")]
    pub listen: SocketAddr,
    /// Where the certificate comes from.
    #[command(flatten)]
    pub certificate: CertificateArgs,
    /// Label keys that only virtual nodes have, separated by commas: constraints on them act above.
    #[arg(long, env = "IGNORE_SELECTOR_KEYS", value_delimiter = ',', default_value = names::CLUSTER_ID)]
    pub ignore_selector_keys: Vec<String>,
    /// What happens to pods of an unreachable lower cluster, where neither pod nor namespace says.
    #[arg(long, env = "WHEN_UNREACHABLE", value_enum, default_value = "evict")]
    pub when_unreachable: WhenUnreachable,
    /// Scheduler of the pods that take part and name none, such as the bundled one; without it theirs stays.
    #[arg(long, env = "SCHEDULER_NAME")]
    pub scheduler_name: Option<String>,
}

/// Either files, followed as they change, or certificates of our own.
#[derive(Clone, Debug, clap::Args)]
pub struct CertificateArgs {
    /// Certificate chain, PEM, leaf first.
    #[arg(
        long,
        env = "TLS_CERT_FILE",
        requires = "tls_private_key_file",
        required_unless_present = "self_signed"
    )]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "TLS_PRIVATE_KEY_FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Make a CA and a certificate, share them in a Secret, and publish the CA.
    #[arg(
        long,
        env = "SELF_SIGNED",
        requires = "webhook_configuration",
        conflicts_with = "tls_cert_file"
    )]
    pub self_signed: bool,
    /// MutatingWebhookConfiguration whose entries get the CA.
    #[arg(long, env = "WEBHOOK_CONFIGURATION")]
    pub webhook_configuration: Option<String>,
    /// Life of a self-signed certificate in seconds; renewed after two thirds of it. The CA lives four times as
    /// long. 90 days by default, as Let's Encrypt's.
    #[arg(long, env = "CERTIFICATE_LIFETIME", default_value = "7776000", value_parser = lifetime)]
    pub certificate_lifetime: Duration,
}

/// Shorter than this, clocks that differ by a second or two would matter.
const SHORTEST_LIFE: u64 = 5;

// === impl Args ===

impl Args {
    /// The decisions among the flags.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            ignored_keys: entries(&self.ignore_selector_keys),
            when_unreachable: self.when_unreachable,
            system_namespace: self.common.system_namespace.clone(),
            scheduler_name: self.scheduler_name.clone(),
        }
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds >= SHORTEST_LIFE => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("must be a number of seconds, at least {SHORTEST_LIFE}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    fn parse(flags: &str) -> Result<Args, String> {
        let flags = std::iter::once("tensile-webhook").chain(flags.split_whitespace());
        Args::try_parse_from(flags).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_comes_from_files_or_is_made() {
        assert!(parse("--tls-cert-file a --tls-private-key-file b").is_ok());
        assert!(parse("--self-signed --webhook-configuration c").is_ok());
        for (flags, named) in [
            ("", "--tls-cert-file"),
            ("--tls-cert-file a", "--tls-private-key-file"),
            ("--self-signed", "--webhook-configuration"),
            (
                "--self-signed --webhook-configuration c --tls-cert-file a --tls-private-key-file b",
                "--tls-cert-file",
            ),
            (
                "--self-signed --webhook-configuration c --certificate-lifetime 1",
                "at least 5",
            ),
        ] {
            let error = parse(flags).expect_err(flags);
            assert!(error.contains(named), "{flags}: {error}");
        }
    }

    #[test]
    fn keys_are_separated_by_commas_and_trimmed() {
        let files = "--tls-cert-file a --tls-private-key-file b";
        let keys = |flags: &str| parse(&format!("{files} {flags}")).unwrap().rules().ignored_keys;
        assert_eq!(keys(""), BTreeSet::from(["clusterID".to_owned()]));
        assert_eq!(keys("--ignore-selector-keys clusterID,,type"), {
            BTreeSet::from(["clusterID".to_owned(), "type".to_owned()])
        });
    }
}
