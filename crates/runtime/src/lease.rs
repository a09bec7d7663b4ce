//! Leadership by a Lease object, after client-go's leader election.
//!
//! Every write carries the resourceVersion that was read, so that two candidates cannot both win. Another's
//! lease counts as expired when *we* have seen no change of it for its duration, measured by our own
//! monotonic clock; clocks of other machines are never compared. The holder stops by itself at a deadline
//! that lies before others may take over.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use tensile_core::hash::Fnv;

use crate::shutdown::Shutdown;

/// Durations of client-go's users (kube-controller-manager, kube-scheduler): 15 s, 10 s, 2 s.
const DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Longest time for which a hesitant candidate leaves a free lease to others: with it, a dead holder is replaced after
/// 18 s at the latest.
const HESITATION: Duration = Duration::from_secs(1);

/// An identity for a candidate that no other running process has. Where `POD_UID` tells the pod, it is that of the
/// process that ran in the container before: kubelets start a container again only after it has ended, so that a
/// process that was killed need not wait until its own lease runs out.
#[must_use]
pub fn process_identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    let pod = std::env::var("POD_UID").ok().filter(|uid| !uid.is_empty());
    let process = || {
        format!(
            "{}_{}",
            std::process::id(),
            jiff::Timestamp::now().as_nanosecond()
        )
    };
    format!("{host}_{}", pod.unwrap_or_else(process))
}

/// Whether we lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Not known yet: the lease has not been read.
    Unknown,
    /// Ours until this instant, unless it is renewed before.
    Held {
        /// When we must stop by ourselves.
        until: Instant,
    },
    /// Held by this other one.
    Other {
        /// Its identity.
        holder: String,
    },
}

/// Reads and writes one Lease object. The seam for tests.
pub trait Store: Send + Sync + 'static {
    /// The lease, `None` if it does not exist.
    fn get(&self) -> impl Future<Output = kube::Result<Option<Lease>>> + Send;
    /// Creates it; a conflict is an error.
    fn create(&self, lease: &Lease) -> impl Future<Output = kube::Result<Lease>> + Send;
    /// Replaces it if its resourceVersion is still the one given.
    fn replace(&self, lease: &Lease) -> impl Future<Output = kube::Result<Lease>> + Send;
}

/// A Lease in a cluster.
#[derive(Clone)]
pub struct ApiStore {
    api: Api<Lease>,
    name: String,
    owner: Option<OwnerReference>,
}

/// Takes part in an election.
#[derive(Debug)]
pub struct Candidate<S> {
    store: S,
    name: String,
    identity: String,
    /// The last state of the lease that we saw, and when it last changed.
    seen: Option<(Lease, Instant)>,
    /// How long a free lease is left to others.
    hesitation: Duration,
}

// === impl ApiStore ===

impl Debug for ApiStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiStore")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ApiStore {
    /// The lease `namespace/name`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            owner: None,
        }
    }

    /// Where the lease does not exist yet, it will go with this object of its namespace.
    #[must_use]
    pub fn owned_by(mut self, owner: Option<OwnerReference>) -> Self {
        self.owner = owner;
        self
    }
}

impl Store for ApiStore {
    async fn get(&self) -> kube::Result<Option<Lease>> {
        self.api.get_opt(&self.name).await
    }

    async fn create(&self, lease: &Lease) -> kube::Result<Lease> {
        let mut lease = lease.clone();
        lease.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
        self.api.create(&PostParams::default(), &lease).await
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.api.replace(&self.name, &PostParams::default(), lease).await
    }
}

// === impl Leadership ===

impl Leadership {
    /// Whether we may write now.
    #[must_use]
    pub fn held(&self) -> bool {
        matches!(self, Self::Held { until } if Instant::now() < *until)
    }
}

/// Runs `work` as long as the lease is ours, and drops it the moment it is not: at the latest at the deadline of the
/// last renewal by our own clock, whatever request it waits for. `None` when the lease was lost first.
pub async fn while_held<T>(
    leadership: &mut watch::Receiver<Leadership>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! { biased; () = until_lost(leadership) => None, done = work => Some(done) }
}

async fn until_lost(leadership: &mut watch::Receiver<Leadership>) {
    loop {
        let Leadership::Held { until } = *leadership.borrow_and_update() else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

// === impl Candidate ===

impl<S: Store> Candidate<S> {
    /// A candidate for the lease `name`; `identity` must differ between processes that run, see [`process_identity`].
    pub fn new(store: S, name: &str, identity: &str) -> Self {
        Self {
            store,
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            hesitation: Duration::ZERO,
        }
    }

    /// Leaves a free lease to others for a moment that differs by candidate and lease: of several processes that
    /// campaign for many leases, each takes about as many.
    #[must_use]
    pub fn hesitant(mut self) -> Self {
        let hash = Fnv::of(format!("{} {}", self.identity, self.name).as_bytes());
        let longest = u64::try_from(HESITATION.as_millis()).unwrap_or(u64::MAX);
        self.hesitation = Duration::from_millis(hash % longest);
        self
    }

    /// Starts to campaign; the lease is given back on shutdown.
    pub fn spawn(mut self, shutdown: Shutdown) -> (watch::Receiver<Leadership>, tokio::task::JoinHandle<()>) {
        let (state, receiver) = watch::channel(Leadership::Unknown);
        let task = tokio::spawn(async move {
            tokio::select! { () = self.campaign(&state) => {}, () = shutdown.wait() => {} }
            state.send_replace(Leadership::Unknown);
            self.release().await;
        });
        (receiver, task)
    }

    async fn campaign(&mut self, state: &watch::Sender<Leadership>) {
        let mut failing = false;
        loop {
            let started = Instant::now();
            let attempt = tokio::time::timeout(RENEW_DEADLINE, self.attempt()).await;
            match attempt {
                Ok(Ok(leadership)) => {
                    failing = false;
                    self.announce(state, leadership);
                }
                failed => {
                    if !std::mem::replace(&mut failing, true) {
                        let reason = match failed {
                            Ok(Err(error)) => error.to_string(),
                            _ => "no answer".to_owned(),
                        };
                        tracing::warn!(
                            lease = self.name,
                            reason,
                            "cannot take or renew the lease, trying on"
                        );
                    }
                }
            }
            tokio::time::sleep_until(started + RETRY_PERIOD).await;
        }
    }

    fn announce(&self, state: &watch::Sender<Leadership>, new: Leadership) {
        let before = state.borrow().clone();
        match &new {
            Leadership::Held { .. } if !before.held() => tracing::info!(lease = self.name, "lease taken"),
            Leadership::Other { holder } if before != new => tracing::info!(
                lease = self.name,
                holder,
                "lease held by another process, waiting"
            ),
            _ => {}
        }
        if before != new {
            state.send_replace(new);
        }
    }

    /// One round: reads the lease, and takes or renews it if that is allowed.
    async fn attempt(&mut self) -> kube::Result<Leadership> {
        let mut started = Instant::now();
        let mut found = self.store.get().await?;
        if !self.hesitation.is_zero() && self.is_free(found.as_ref()) {
            tokio::time::sleep(self.hesitation).await;
            started = Instant::now();
            found = self.store.get().await?;
        }
        let Some(lease) = found else {
            let lease = self.store.create(&self.claim(None)).await?;
            return Ok(self.won(lease, started));
        };
        self.observe(&lease);
        match self.other_holder(&lease) {
            Some(holder) => Ok(Leadership::Other { holder }),
            None => {
                let lease = self.store.replace(&self.claim(Some(&lease))).await?;
                Ok(self.won(lease, started))
            }
        }
    }

    fn won(&mut self, lease: Lease, started: Instant) -> Leadership {
        self.seen = Some((lease, started));
        Leadership::Held {
            until: started + RENEW_DEADLINE,
        }
    }

    /// Whether anybody may take the lease, and it is not ours already.
    fn is_free(&mut self, lease: Option<&Lease>) -> bool {
        let Some(lease) = lease else { return true };
        self.observe(lease);
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref());
        holder != Some(&self.identity) && self.other_holder(lease).is_none()
    }

    fn observe(&mut self, lease: &Lease) {
        let changed = self.seen.as_ref().is_none_or(|(seen, _)| seen.spec != lease.spec);
        if changed {
            self.seen = Some((lease.clone(), Instant::now()));
        }
    }

    /// Who holds the lease, if that is somebody else whose time is not over.
    fn other_holder(&self, lease: &Lease) -> Option<String> {
        let spec = lease.spec.as_ref()?;
        let holder = spec
            .holder_identity
            .as_deref()
            .filter(|holder| !holder.is_empty() && *holder != self.identity)?;
        let seconds = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(DURATION.as_secs());
        let since = self.seen.as_ref().map_or_else(Instant::now, |(_, at)| *at);
        (since.elapsed() < Duration::from_secs(seconds)).then(|| holder.to_owned())
    }

    /// The lease as it is when it is ours.
    fn claim(&self, current: Option<&Lease>) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let before = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours {
                before.acquire_time.clone()
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if ours || current.is_none() {
                transitions
            } else {
                transitions + 1
            }),
            ..before
        };
        let metadata = current.map_or_else(
            || ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    /// Gives the lease back if it is ours, so that the next one need not wait.
    async fn release(&mut self) {
        let Some((lease, _)) = self.seen.take() else {
            return;
        };
        let ours = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref())
            == Some(&self.identity);
        if !ours {
            return;
        }
        let mut released = lease;
        if let Some(spec) = &mut released.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match tokio::time::timeout(RETRY_PERIOD, self.store.replace(&released)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "lease given back"),
            // It expires by itself.
            _ => tracing::warn!(lease = self.name, "the lease could not be given back"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::core::Status;
    use parking_lot::Mutex;

    use super::*;

    /// One lease in memory, with the API server's resourceVersion rule.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<(Option<Lease>, u64, bool)>>);

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(
            Status {
                code,
                ..Status::failure("refused", "refused")
            }
            .boxed(),
        )
    }

    impl Memory {
        fn write(&self, lease: &Lease) -> kube::Result<Lease> {
            let mut state = self.0.lock();
            let version = state
                .0
                .as_ref()
                .and_then(|lease| lease.metadata.resource_version.clone());
            if state.2 {
                return Err(refused(500));
            }
            if lease.metadata.resource_version != version {
                return Err(refused(409));
            }
            state.1 += 1;
            let mut stored = lease.clone();
            stored.metadata.resource_version = Some(state.1.to_string());
            state.0 = Some(stored.clone());
            Ok(stored)
        }

        fn holder(&self) -> String {
            self.0
                .lock()
                .0
                .clone()
                .and_then(|lease| lease.spec?.holder_identity)
                .unwrap_or_default()
        }

        fn fail(&self, fail: bool) {
            self.0.lock().2 = fail;
        }
    }

    impl Store for Memory {
        async fn get(&self) -> kube::Result<Option<Lease>> {
            let state = self.0.lock();
            if state.2 {
                Err(refused(500))
            } else {
                Ok(state.0.clone())
            }
        }
        async fn create(&self, lease: &Lease) -> kube::Result<Lease> {
            self.write(lease)
        }
        async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
            self.write(lease)
        }
    }

    async fn wait_for(receiver: &mut watch::Receiver<Leadership>, wanted: impl FnMut(&Leadership) -> bool) {
        tokio::time::timeout(Duration::from_secs(120), receiver.wait_for(wanted))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_leads_and_the_other_takes_over_after_a_release() {
        let store = Memory::default();
        let (stop_a, stop_b) = (Shutdown::default(), Shutdown::default());
        let (mut a, task) = Candidate::new(store.clone(), "lease", "a").spawn(stop_a.clone());
        wait_for(&mut a, Leadership::held).await;
        let (mut b, _) = Candidate::new(store.clone(), "lease", "b").spawn(stop_b.clone());
        wait_for(&mut b, |state| *state == Leadership::Other { holder: "a".into() }).await;
        let before = Instant::now();
        stop_a.trigger();
        task.await.unwrap();
        wait_for(&mut b, Leadership::held).await;
        assert!(before.elapsed() <= RETRY_PERIOD, "{:?}", before.elapsed());
        assert_eq!(store.holder(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_holder_is_replaced_when_its_time_is_over_by_our_clock() {
        let store = Memory::default();
        let mut dead = Candidate::new(store.clone(), "lease", "dead");
        assert!(dead.attempt().await.unwrap().held());
        let (mut b, _) = Candidate::new(store.clone(), "lease", "b").spawn(Shutdown::default());
        let before = Instant::now();
        wait_for(&mut b, Leadership::held).await;
        let waited = before.elapsed();
        assert!(
            waited >= DURATION && waited <= DURATION + RETRY_PERIOD,
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_starts_again_in_its_pod_has_its_lease_at_once() {
        let store = Memory::default();
        let mut killed = Candidate::new(store.clone(), "lease", "pod");
        assert!(killed.attempt().await.unwrap().held());
        let mut again = Candidate::new(store.clone(), "lease", "pod").hesitant();
        let before = Instant::now();
        assert!(again.attempt().await.unwrap().held());
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(store.replace(&killed.claim(None)).await.is_err(), "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_stops_by_itself_before_others_may_start() {
        let store = Memory::default();
        let (mut a, _) = Candidate::new(store.clone(), "lease", "a").spawn(Shutdown::default());
        wait_for(&mut a, Leadership::held).await;
        store.fail(true);
        tokio::time::sleep(RENEW_DEADLINE + Duration::from_millis(1)).await;
        assert!(!a.borrow().held());
        const { assert!(RENEW_DEADLINE.as_secs() < DURATION.as_secs()) };
        store.fail(false);
        wait_for(&mut a, Leadership::held).await;
    }

    #[tokio::test(start_paused = true)]
    async fn hesitant_candidates_share_many_leases() {
        let shutdown = Shutdown::default();
        let mut held = [0, 0];
        for number in 0..40 {
            let (store, name) = (Memory::default(), format!("lease-{number}"));
            let [mut a, mut b] = ["a", "b"].map(|who| {
                Candidate::new(store.clone(), &name, who)
                    .hesitant()
                    .spawn(shutdown.clone())
                    .0
            });
            wait_for(&mut a, |state| *state != Leadership::Unknown).await;
            wait_for(&mut b, |state| *state != Leadership::Unknown).await;
            held[usize::from(store.holder() == "b")] += 1;
        }
        assert!(held.iter().all(|count| *count >= 10), "{held:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_see_an_expired_lease_only_one_wins() {
        let store = Memory::default();
        let mut a = Candidate::new(store.clone(), "lease", "a");
        let mut b = Candidate::new(store.clone(), "lease", "b");
        assert!(a.attempt().await.unwrap().held());
        assert!(!b.attempt().await.unwrap().held());
        tokio::time::sleep(DURATION).await;
        // Both act on the same state that they have read.
        let read = store.get().await.unwrap().unwrap();
        assert!(store.replace(&b.claim(Some(&read))).await.is_ok());
        assert!(store.replace(&a.claim(Some(&read))).await.is_err());
    }

    /// The way of one candidate to the lease, which can be cut.
    #[derive(Clone, Default)]
    struct Link {
        lease: Memory,
        cut: Arc<Mutex<bool>>,
    }

    impl Link {
        fn check(&self) -> kube::Result<()> {
            if *self.cut.lock() {
                Err(refused(500))
            } else {
                Ok(())
            }
        }
    }

    impl Store for Link {
        async fn get(&self) -> kube::Result<Option<Lease>> {
            self.check()?;
            self.lease.get().await
        }
        async fn create(&self, lease: &Lease) -> kube::Result<Lease> {
            self.check()?;
            self.lease.create(lease).await
        }
        async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
            self.check()?;
            self.lease.replace(lease).await
        }
    }

    /// A request whose answer never comes; notes when it is given up.
    struct UnderWay<'a>(&'a Mutex<Option<Instant>>);

    impl Drop for UnderWay<'_> {
        fn drop(&mut self) {
            *self.0.lock() = Some(Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_is_given_up_before_anybody_else_may_write() {
        let link = Link::default();
        let (mut a, _task) = Candidate::new(link.clone(), "lease", "a").spawn(Shutdown::default());
        wait_for(&mut a, Leadership::held).await;
        let (mut b, _other) = Candidate::new(link.lease.clone(), "lease", "b").spawn(Shutdown::default());
        wait_for(&mut b, |state| *state == Leadership::Other { holder: "a".into() }).await;
        let given_up = Mutex::new(None);
        let request = async {
            let _under_way = UnderWay(&given_up);
            std::future::pending::<()>().await;
        };
        *link.cut.lock() = true;
        let cut = Instant::now();
        assert_eq!(while_held(&mut a, request).await, None);
        assert_eq!(link.lease.holder(), "a", "nobody may have taken it yet");
        assert!(cut.elapsed() <= RENEW_DEADLINE, "{:?}", cut.elapsed());
        wait_for(&mut b, Leadership::held).await;
        assert!(given_up.lock().is_some_and(|at| at < Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_while_the_lease_is_held_has_its_result() {
        let (mut a, _task) = Candidate::new(Memory::default(), "lease", "a").spawn(Shutdown::default());
        wait_for(&mut a, Leadership::held).await;
        let work = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            7
        };
        assert_eq!(while_held(&mut a, work).await, Some(7));
    }
}
