//! Failures of things that try on by themselves, said once: a line when the first fails, one when all work again, and
//! a reminder now and then in between.
//!
//! A cluster that dies takes a dozen watches with it, and each is tried every few seconds: a line for every attempt
//! would hide the one that matters.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Time between two lines about a failure that goes on, long enough to leave a log readable over a night.
const REMIND_AFTER: Duration = Duration::from_secs(300);
/// Least time between "works again" and the next "fails": what comes and goes costs two lines a minute.
const SETTLE: Duration = Duration::from_secs(60);

/// Things that fail and recover together, such as all watches of one cluster; clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    of: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    failing: BTreeSet<&'static str>,
    said: bool,
    last: Option<Instant>,
}

/// What is worth a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Fails,
    StillFails,
    WorksAgain,
}

// === impl Health ===

impl Health {
    /// For things of `of`, which the lines name.
    #[must_use]
    pub fn new(of: &str) -> Self {
        Self {
            of: of.into(),
            state: Arc::default(),
        }
    }

    /// `what` failed and will be tried again.
    pub fn bad(&self, what: &'static str, error: &dyn Display) {
        let of = &*self.of;
        let (news, failing) = {
            let mut state = self.state.lock();
            (state.bad(what, Instant::now()), state.failing.len())
        };
        match news {
            Some(News::Fails) => tracing::warn!(of, what, %error, "fails, trying on"),
            Some(_) => tracing::warn!(of, what, failing, %error, "still fails, trying on"),
            None => tracing::debug!(of, what, %error, "fails, trying on"),
        }
    }

    /// `what` works.
    pub fn good(&self, what: &'static str) {
        let news = self.state.lock().good(what, Instant::now());
        if news.is_some() {
            tracing::info!(of = &*self.of, "works again");
        }
    }
}

// === impl State ===

impl State {
    fn bad(&mut self, what: &'static str, now: Instant) -> Option<News> {
        self.failing.insert(what);
        let (least, news) = if self.said {
            (REMIND_AFTER, News::StillFails)
        } else {
            (SETTLE, News::Fails)
        };
        let is_due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= least);
        is_due.then(|| {
            (self.said, self.last) = (true, Some(now));
            news
        })
    }

    fn good(&mut self, what: &'static str, now: Instant) -> Option<News> {
        self.failing.remove(what);
        (self.failing.is_empty() && std::mem::take(&mut self.said)).then(|| {
            self.last = Some(now);
            News::WorksAgain
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_of_one_cluster_are_one_line_and_a_reminder() {
        let (start, mut state) = (Instant::now(), State::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.bad("pods", at(0)), Some(News::Fails));
        for seconds in 1..300 {
            assert_eq!(state.bad("pods", at(seconds)), None);
            assert_eq!(state.bad("nodes", at(seconds)), None);
        }
        assert_eq!(state.bad("nodes", at(300)), Some(News::StillFails));
        assert_eq!(state.good("pods", at(301)), None, "the nodes still fail");
        assert_eq!(state.good("nodes", at(302)), Some(News::WorksAgain));
        assert_eq!(state.good("nodes", at(303)), None);
    }

    #[test]
    fn what_comes_and_goes_costs_two_lines_a_minute() {
        let (start, mut state) = (Instant::now(), State::default());
        let mut lines = 0;
        for second in 0..600 {
            let at = start + Duration::from_secs(second);
            lines += usize::from(state.bad("pods", at).is_some());
            lines += usize::from(state.good("pods", at).is_some());
        }
        assert_eq!(lines, 20);
    }

    #[test]
    fn a_second_outage_that_lasts_is_said_too() {
        let (start, mut state) = (Instant::now(), State::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        state.bad("pods", at(0));
        state.good("pods", at(1));
        assert_eq!(state.bad("pods", at(2)), None);
        assert_eq!(state.bad("pods", at(61)), Some(News::Fails));
    }
}
