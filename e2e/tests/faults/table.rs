//! Which faults there are: what breaks, where, for how long. Nothing here does anything.

use std::time::Duration;

use e2e::Fault;

use crate::gateway::Storm;

/// Which cluster the virtual node cannot work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The one where pods are created.
    Upper,
    /// The one where they run.
    Lower,
}

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The connection, for bytes.
    Network(Fault),
    /// The API server answers, but not as it should.
    Answers(Storm),
    /// The API server is gone.
    ApiServer,
    /// The cluster's store is set back to what it was before some pods were made and others deleted.
    OlderState,
    /// The network namespace in which the cluster runs, a real kubelet with it, has no link.
    Namespace,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// For the table.
    pub(crate) name: &'static str,
    /// Where.
    pub(crate) link: Link,
    /// What breaks.
    pub(crate) what: What,
    /// How long, once after another.
    pub(crate) lasts: &'static [Duration],
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Seconds of each: what fits into a run of all tests.
    Short,
    /// All that the documentation speaks of; forty minutes.
    Full,
    /// Of the full form the killed process alone; a quarter of an hour.
    Kills,
}

/// Numbers of a form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Faults of links that happen at a time.
    pub(crate) lanes: usize,
    /// Longest time for which a fault lasts.
    pub(crate) longest: Duration,
    /// Pods that run before a fault.
    pub(crate) before: usize,
    /// Pods that are made while it lasts.
    pub(crate) during: usize,
    /// Rounds in which the process is killed.
    pub(crate) rounds: usize,
    /// Pods that are made in each of them.
    pub(crate) burst: usize,
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

const BRIEF: &[Duration] = &[seconds(4)];
const CUTS: &[Duration] = &[seconds(30), seconds(300)];
const STORM: &[Duration] = &[seconds(60)];
/// An API server that comes back after this time has been gone long enough for every connection to end.
const RESTART: &[Duration] = &[seconds(20)];
/// The time says nothing: the store is set back at one moment.
const ONCE: &[Duration] = &[Duration::ZERO];

/// Faults of a link, by name, with how long the full form lets them last.
const OF_A_LINK: [(&str, What, &[Duration]); 7] = [
    ("connections end and are refused", What::Network(Fault::Cut), CUTS),
    (
        "silent both ways (half-open)",
        What::Network(Fault::HalfOpen),
        CUTS,
    ),
    ("requests are lost, one way", What::Network(Fault::Unheard), CUTS),
    (
        "answers are lost, one way",
        What::Network(Fault::Unanswered),
        CUTS,
    ),
    ("storm of 429", What::Answers(Storm::TooMany), STORM),
    (
        "storm of 504, half of them done",
        What::Answers(Storm::TimedOut),
        STORM,
    ),
    ("watches expire (410)", What::Answers(Storm::Expired), STORM),
];

/// Faults of a whole cluster, which everything that uses it notices.
const OF_A_CLUSTER: [(&str, Link, What, &[Duration]); 3] = [
    (
        "API server killed and started again",
        Link::Lower,
        What::ApiServer,
        RESTART,
    ),
    (
        "API server killed and started again",
        Link::Upper,
        What::ApiServer,
        RESTART,
    ),
    (
        "etcd restored to an older state",
        Link::Lower,
        What::OlderState,
        ONCE,
    ),
];

/// The one that needs a real node.
pub(crate) const NAMESPACE: Row = Row {
    name: "network namespace of a real node cut off",
    link: Link::Lower,
    what: What::Namespace,
    lasts: CUTS,
};

/// How long a fault lasts when it may not last longer than `longest`.
pub(crate) fn limited(lasts: &[Duration], longest: Duration) -> Vec<Duration> {
    let mut lasts: Vec<Duration> = lasts.iter().map(|lasts| *lasts.min(&longest)).collect();
    lasts.dedup();
    lasts
}

/// Faults of one link each, which do not disturb each other.
pub(crate) fn links(form: Form) -> Vec<Row> {
    let row = |link, &(name, what, lasts): &(&'static str, What, &'static [Duration])| Row {
        name,
        link,
        what,
        lasts: if form == Form::Full { lasts } else { BRIEF },
    };
    let of = |link| OF_A_LINK.iter().map(move |fault| row(link, fault));
    of(Link::Lower).chain(of(Link::Upper)).collect()
}

/// Faults that come one after the other.
pub(crate) fn clusters(form: Form) -> Vec<Row> {
    let rows = OF_A_CLUSTER.map(|(name, link, what, lasts)| Row {
        name,
        link,
        what,
        lasts: if form == Form::Full || what == What::OlderState {
            lasts
        } else {
            BRIEF
        },
    });
    rows.to_vec()
}

// === impl Form ===

impl Form {
    /// Its numbers.
    pub(crate) fn sizes(self) -> Sizes {
        match self {
            Self::Short => Sizes {
                lanes: usize::MAX,
                longest: Duration::MAX,
                before: 6,
                during: 4,
                rounds: 2,
                burst: 40,
            },
            // More at a time would measure what two cores are able to, and not how soon things are noticed.
            Self::Full | Self::Kills => Sizes {
                lanes: 4,
                longest: Duration::MAX,
                before: 30,
                during: 30,
                rounds: 20,
                burst: 1000,
            },
        }
    }
}

// === impl Link ===

impl Link {
    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_links_have_all_faults_and_both_forms_the_same() {
        for form in [Form::Short, Form::Full] {
            let rows = links(form);
            let of = |link| -> Vec<_> {
                let rows = rows.iter().filter(move |row| row.link == link);
                rows.map(|row| row.what).collect()
            };
            assert_eq!(of(Link::Upper), of(Link::Lower));
            assert_eq!(rows.len(), 2 * OF_A_LINK.len());
            assert_eq!(clusters(form).len(), OF_A_CLUSTER.len());
        }
    }

    #[test]
    fn a_limit_shortens_what_is_longer_and_repeats_nothing() {
        assert_eq!(limited(CUTS, seconds(30)), [seconds(30)]);
        assert_eq!(limited(CUTS, seconds(60)), [seconds(30), seconds(60)]);
        assert_eq!(limited(ONCE, seconds(30)), ONCE);
    }

    #[test]
    fn the_full_form_lasts_as_long_as_documented_and_the_short_one_only_seconds() {
        let cut = |form| {
            links(form)
                .into_iter()
                .find(|row| row.what == What::Network(Fault::Cut))
        };
        assert_eq!(cut(Form::Full).unwrap().lasts, [seconds(30), seconds(300)]);
        let short = links(Form::Short).into_iter().chain(clusters(Form::Short));
        assert!(short.flat_map(|row| row.lasts).all(|lasts| *lasts <= seconds(4)));
    }
}
