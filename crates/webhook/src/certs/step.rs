//! The next thing to do for the certificates: one pure function, asked again after every change.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tensile_runtime::tls::PemPair;

use super::bundle::Bundle;
use super::issue::{CertificateError, facts, issue, mk_ca};

/// A CA lives as long as this many serving certificates. With renewal at two thirds of either life, a
/// certificate ends well before the CA that signed it.
const CA_LIVES: u32 = 4;
/// How long a new CA is published before a certificate of its is served. API servers see a changed
/// configuration within a second; the rest is for those whose watch is being re-established.
const PUBLISHED: Duration = Duration::from_secs(60);
/// The same as a share of the certificate's life, for short lives.
const PUBLISHED_SHARE: u32 = 10;

/// How things are.
#[derive(Clone, Debug)]
pub struct Situation {
    /// What was last seen in the Secret; kept when the Secret is deleted.
    pub bundle: Option<Bundle>,
    /// Whether the Secret exists and holds that.
    pub stored: bool,
    /// Names that API servers call us by.
    pub names: BTreeSet<String>,
    /// How long every entry of the configuration has had [`Bundle::trusted`] as its `caBundle`; `None` if
    /// one has not.
    pub published: Option<Duration>,
    /// The time.
    pub now: SystemTime,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Write this to the Secret.
    Store(Box<Bundle>),
    /// Write this to the `caBundle` of every entry.
    Publish(String),
    /// Nothing, for this long at most.
    Wait(Duration),
}

/// Decides the next step. `life` is that of a serving certificate.
///
/// # Errors
/// When a certificate cannot be made or read.
pub fn next(situation: &Situation, life: Duration) -> Result<Step, CertificateError> {
    let now = situation.now;
    let issued_by = |ca: &PemPair| issue(ca, &situation.names, now, life);
    let Some(bundle) = &situation.bundle else {
        return fresh(situation, life);
    };
    let (leaf, ca) = (facts(&bundle.leaf.cert)?, facts(&bundle.ca.cert)?);
    // Nobody was there to renew: what has ended is no use to anyone, so there is nothing to wait for.
    if now >= ca.end {
        return fresh(situation, life);
    }
    if now >= leaf.end {
        return Ok(store(Bundle {
            leaf: issued_by(&bundle.ca)?,
            ..bundle.clone()
        }));
    }
    if !situation.stored {
        return Ok(store(bundle.clone()));
    }
    let Some(published) = situation.published else {
        return Ok(Step::Publish(bundle.trusted()));
    };
    let settle = PUBLISHED.min(life / PUBLISHED_SHARE);
    if let Some(next) = &bundle.next_ca {
        if published < settle {
            return Ok(Step::Wait(settle - published));
        }
        let old_ca = Some(bundle.ca.cert.clone());
        return Ok(store(Bundle {
            leaf: issued_by(next)?,
            ca: next.clone(),
            next_ca: None,
            old_ca,
        }));
    }
    if now >= ca.renewal() {
        let next_ca = Some(mk_ca(now, life * CA_LIVES)?);
        return Ok(store(Bundle {
            next_ca,
            ..bundle.clone()
        }));
    }
    if now >= leaf.renewal() || !situation.names.is_subset(&leaf.names) {
        return Ok(store(Bundle {
            leaf: issued_by(&bundle.ca)?,
            ..bundle.clone()
        }));
    }
    let due = leaf.renewal().min(ca.renewal());
    Ok(Step::Wait(due.duration_since(now).unwrap_or_default()))
}

fn fresh(situation: &Situation, life: Duration) -> Result<Step, CertificateError> {
    let ca = mk_ca(situation.now, life * CA_LIVES)?;
    let leaf = issue(&ca, &situation.names, situation.now, life)?;
    Ok(store(Bundle {
        leaf,
        ca,
        next_ca: None,
        old_ca: None,
    }))
}

fn store(bundle: Bundle) -> Step {
    Step::Store(Box::new(bundle))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    const LIFE: Duration = Duration::from_secs(3_000);

    /// Plays the shell: stores and publishes at once, and lets time pass.
    struct World {
        situation: Situation,
        published: String,
        since: SystemTime,
    }

    impl World {
        fn new() -> Self {
            let situation = Situation {
                bundle: None,
                stored: false,
                names: BTreeSet::from(["web.ns.svc".to_owned()]),
                published: None,
                now: UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            };
            Self {
                since: situation.now,
                situation,
                published: String::new(),
            }
        }

        /// Does one step and says which.
        fn step(&mut self) -> &'static str {
            let trusted = self.situation.bundle.as_ref().map(Bundle::trusted);
            let known = trusted.is_some_and(|trusted| trusted == self.published);
            self.situation.published = known.then(|| self.situation.now.duration_since(self.since).unwrap());
            match next(&self.situation, LIFE).unwrap() {
                Step::Store(bundle) => {
                    // As the Secret gives it back.
                    self.situation.bundle = Some(Bundle::decode(&bundle.encode()).unwrap());
                    self.situation.stored = true;
                    "store"
                }
                Step::Publish(trusted) => {
                    self.published = trusted;
                    self.since = self.situation.now;
                    "publish"
                }
                Step::Wait(time) => {
                    assert!(time > Duration::ZERO, "waits for nothing");
                    self.situation.now += time;
                    "wait"
                }
            }
        }

        fn bundle(&self) -> &Bundle {
            self.situation.bundle.as_ref().unwrap()
        }

        /// Whether an API server that trusts what is published accepts what is served.
        fn is_trusted(&self) -> bool {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut roots = RootCertStore::empty();
            for ca in CertificateDer::pem_slice_iter(self.published.as_bytes()) {
                roots.add(ca.unwrap()).unwrap();
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            let leaf = CertificateDer::from_pem_slice(self.bundle().leaf.cert.as_bytes()).unwrap();
            let name = ServerName::try_from("web.ns.svc").unwrap();
            let now = UnixTime::since_unix_epoch(self.situation.now.duration_since(UNIX_EPOCH).unwrap());
            verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
        }
    }

    #[test]
    fn starts_with_a_certificate_that_it_then_publishes() {
        let mut world = World::new();
        assert_eq!(
            [world.step(), world.step(), world.step()],
            ["store", "publish", "wait"]
        );
    }

    #[test]
    fn what_is_served_is_trusted_and_valid_over_many_renewals() {
        let mut world = World::new();
        let start = world.situation.now;
        world.step();
        world.step();
        let (mut leaves, mut cas) = (BTreeSet::new(), BTreeSet::new());
        while world.situation.now < start + LIFE * 40 {
            world.step();
            assert!(world.is_trusted());
            let leaf = facts(&world.bundle().leaf.cert).unwrap();
            assert!(leaf.end >= world.situation.now + LIFE / 4, "renewed early enough");
            leaves.insert(world.bundle().leaf.cert.clone());
            cas.insert(world.bundle().ca.cert.clone());
            assert!(world.bundle().trusted().matches("BEGIN").count() <= 3);
        }
        assert!(
            leaves.len() >= 50 && cas.len() >= 12,
            "{} certificates of {} CAs",
            leaves.len(),
            cas.len()
        );
    }

    #[test]
    fn a_new_ca_signs_only_after_it_was_published_for_a_while() {
        let mut world = World::new();
        while world
            .situation
            .bundle
            .as_ref()
            .is_none_or(|bundle| bundle.next_ca.is_none())
        {
            world.step();
        }
        let before = world.situation.now;
        assert_eq!(
            [world.step(), world.step(), world.step()],
            ["publish", "wait", "store"]
        );
        assert_eq!(world.situation.now, before + PUBLISHED);
        assert!(world.bundle().next_ca.is_none() && world.bundle().old_ca.is_some());
    }

    #[test]
    fn a_deleted_secret_is_written_again_and_an_overwritten_ca_bundle_too() {
        let mut world = World::new();
        world.step();
        world.step();
        let served = world.bundle().leaf.cert.clone();
        world.situation.stored = false;
        assert_eq!(world.step(), "store");
        assert_eq!(world.bundle().leaf.cert, served);
        world.published.clear();
        assert_eq!(world.step(), "publish");
        assert!(world.is_trusted());
    }

    #[test]
    fn after_a_long_sleep_there_is_no_waiting_with_an_ended_certificate() {
        for sleep in [LIFE * 2, LIFE * 3, LIFE * 100] {
            let mut world = World::new();
            world.step();
            world.step();
            world.situation.now += sleep;
            assert_eq!(world.step(), "store");
            assert!(
                facts(&world.bundle().leaf.cert).unwrap().end > world.situation.now,
                "{sleep:?}"
            );
        }
    }

    #[test]
    fn a_new_name_needs_a_new_certificate() {
        let mut world = World::new();
        world.step();
        world.step();
        world.situation.names.insert("10.0.0.1".to_owned());
        assert_eq!(world.step(), "store");
        assert_eq!(
            facts(&world.bundle().leaf.cert).unwrap().names,
            world.situation.names
        );
        world.situation.names.remove("10.0.0.1");
        assert_eq!(world.step(), "wait", "a name too many does no harm");
    }
}
