//! How many connections each address has, so that no address takes all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The connections of each address that has any.
#[derive(Debug)]
pub(super) struct Crowd {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; it is free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

// === impl Crowd ===

impl Crowd {
    /// Nobody yet; at most `limit` connections of one address.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            counts: Mutex::default(),
        })
    }

    /// A place for one more connection of `address`, if it has not too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place {
            crowd: Arc::clone(self),
            address,
        })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_nothing_behind() {
        let crowd = Crowd::new(2);
        let [one, two] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<_> = (0..2).map(|_| crowd.enter(one).unwrap()).collect();
        assert!(crowd.enter(one).is_none());
        held.push(crowd.enter(two).unwrap());
        drop(held.remove(0));
        held.push(crowd.enter(one).unwrap());
        drop(held);
        assert!(crowd.counts.lock().is_empty());
    }
}
