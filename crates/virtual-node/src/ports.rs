//! Ports of the kubelet API: one per virtual node, from that of `--listen` upwards.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use parking_lot::Mutex;

/// Ports that are in use here; clones share them.
#[derive(Clone, Debug)]
pub struct Ports {
    from: SocketAddr,
    taken: Arc<Mutex<BTreeSet<u16>>>,
}

/// A port, ours until dropped.
#[derive(Debug)]
pub struct Port {
    /// The port.
    pub number: u16,
    ports: Ports,
}

/// All ports are taken.
#[derive(Debug, thiserror::Error)]
#[error("no port is free from --listen {0} upwards; choose a lower one")]
pub struct NoPort(SocketAddr);

// === impl Ports ===

impl Ports {
    /// Ports from that of `from` upwards.
    #[must_use]
    pub fn new(from: SocketAddr) -> Self {
        Self {
            from,
            taken: Arc::default(),
        }
    }

    /// The lowest port on which nobody listens, so that a process with few virtual nodes needs few.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self) -> Result<Port, NoPort> {
        let mut taken = self.taken.lock();
        let is_free = |number: &u16| {
            !taken.contains(number) && TcpListener::bind(SocketAddr::new(self.from.ip(), *number)).is_ok()
        };
        let number = (self.from.port()..=u16::MAX)
            .find(is_free)
            .ok_or(NoPort(self.from))?;
        taken.insert(number);
        Ok(Port {
            number,
            ports: self.clone(),
        })
    }
}

// === impl Port ===

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.taken.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_port_is_taken_and_given_back() {
        let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = Ports::new(occupied.local_addr().unwrap());
        let (first, second) = (ports.take().unwrap(), ports.take().unwrap());
        assert!(occupied.local_addr().unwrap().port() < first.number && first.number < second.number);
        let number = first.number;
        drop(first);
        assert_eq!(ports.take().unwrap().number, number);
    }
}
