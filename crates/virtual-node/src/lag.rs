//! How far a watch is behind: the time from the answer to a write of ours until the watch shows it. One write at a time
//! is followed, so that measuring costs nothing however many there are.

use std::time::{Duration, Instant};

use tensile_runtime::key::Key;

/// Follows one write of a watch; the version is the object's resourceVersion as a number.
#[derive(Debug, Default)]
pub struct Lag {
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    key: Key,
    version: u64,
    answered: Instant,
}

// === impl Lag ===

impl Lag {
    /// A write was answered with `version`, which the watch has not shown.
    pub fn written(&mut self, key: &Key, version: u64, now: Instant) {
        self.probe.get_or_insert_with(|| Probe {
            key: key.clone(),
            version,
            answered: now,
        });
    }

    /// The watch shows `version`, or none when the object is gone. Returns the lag if this is what was followed.
    pub fn shown(&mut self, key: &Key, version: Option<u64>, now: Instant) -> Option<Duration> {
        let followed =
            |probe: &mut Probe| probe.key == *key && version.is_none_or(|version| version >= probe.version);
        let probe = self.probe.take_if(followed)?;
        version.map(|_| now.saturating_duration_since(probe.answered))
    }

    /// The watch listed anew, so that nothing is known of what was followed.
    pub fn forget(&mut self) {
        self.probe = None;
    }

    /// How long the watch has not shown what was written.
    #[must_use]
    pub fn pending(&self, now: Instant) -> Option<Duration> {
        let probe = self.probe.as_ref()?;
        Some(now.saturating_duration_since(probe.answered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_ends_with_the_version_that_was_written_or_a_newer_one() {
        let (start, key, other) = (Instant::now(), Key::new("n", "a"), Key::new("n", "b"));
        let at = |ms| start + Duration::from_millis(ms);
        let mut lag = Lag::default();
        lag.written(&key, 7, at(0));
        lag.written(&other, 8, at(1));
        assert_eq!(
            lag.shown(&other, Some(8), at(2)),
            None,
            "one at a time is followed"
        );
        assert_eq!(lag.shown(&key, Some(6), at(3)), None, "an older one");
        assert_eq!(lag.pending(at(4)), Some(Duration::from_millis(4)));
        assert_eq!(lag.shown(&key, Some(9), at(5)), Some(Duration::from_millis(5)));
        assert_eq!(lag.pending(at(6)), None);
        lag.written(&key, 10, at(7));
        assert_eq!(lag.shown(&key, None, at(8)), None, "gone");
        assert_eq!(lag.pending(at(9)), None);
    }
}
