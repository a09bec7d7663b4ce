//! Numbers that one process of this machine has at a time: ports, and octets of addresses.
//!
//! A lease is a locked file. The kernel releases it with the process, however that ends, so several runs side by
//! side never choose the same number.

use std::{
    fs::{self, File},
    net::TcpListener,
    ops::RangeInclusive,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::run;

/// Ports below Linux' default range for outgoing connections (from 32768), so that none of those takes a leased one.
const PORTS: RangeInclusive<u32> = 20_000..=29_999;

/// Where the search begins: spread by process, then moving on, so that a port just released is not taken at once.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One number of a range, ours until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    number: u32,
    _file: File,
}

/// A free TCP port, ours until dropped.
#[derive(Debug)]
pub struct PortLease(Lease);

// === impl Lease ===

impl Lease {
    /// Takes the first number of `range` that no process holds and that `is_usable`, searching from a varying start.
    pub(crate) fn take(
        kind: &str,
        range: &RangeInclusive<u32>,
        is_usable: impl Fn(u32) -> bool,
    ) -> Result<Self> {
        let folder = run::base().join("leases").join(kind);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let length = range.end() - range.start() + 1;
        let offset = std::process::id()
            .wrapping_mul(61)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        for step in 0..length {
            let number = range.start() + offset.wrapping_add(step) % length;
            let file = File::create(folder.join(number.to_string()))?;
            if file.try_lock().is_ok() && is_usable(number) {
                return Ok(Self { number, _file: file });
            }
        }
        bail!(
            "no free {kind} between {} and {}: end other runs of the harness",
            range.start(),
            range.end()
        )
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

// === impl PortLease ===

impl PortLease {
    /// Takes a TCP port on which nothing listens.
    ///
    /// # Errors
    /// No port of the harness' range is free, or the lease files cannot be written.
    pub fn take() -> Result<Self> {
        let is_free =
            |port| u16::try_from(port).is_ok_and(|port| TcpListener::bind(("0.0.0.0", port)).is_ok());
        Lease::take("port", &PORTS, is_free).map(Self)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        // The range of ports lies within u16.
        u16::try_from(self.0.number()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::time::Duration;

    use super::*;
    use crate::support::await_condition;

    #[tokio::test]
    async fn no_number_is_leased_twice_and_a_dropped_one_is_free_again() {
        let take = || Lease::take("test", &(1..=2), |_| true);
        let (first, second) = (take().unwrap(), take().unwrap());
        assert_ne!(first.number(), second.number());
        assert!(take().is_err());
        let freed = first.number();
        drop(first);
        // A process that another test starts just now has the file, and its lock, from its fork to its exec.
        let again = await_condition("the number to be free", Duration::from_secs(10), || {
            ready(take().map(Some))
        });
        assert_eq!(again.await.unwrap().number(), freed);
    }

    #[test]
    fn a_port_on_which_something_listens_is_not_leased() {
        let lease = PortLease::take().unwrap();
        let port = u32::from(lease.port());
        drop(lease);
        let _listener = TcpListener::bind(("0.0.0.0", u16::try_from(port).unwrap())).unwrap();
        let is_free = |port| TcpListener::bind(("0.0.0.0", u16::try_from(port).unwrap())).is_ok();
        assert!(Lease::take("port", &(port..=port), is_free).is_err());
    }
}
