//! The next step for a pod, from nothing but its entry.

use std::sync::Arc;

use tensile_core::refs::Reference;
use tensile_core::status::{self, Patch, Problem, Upper};

use super::{Body, Entry, LowerSide, UpperSide};

/// One request, after which the entry is looked at again.
#[derive(Debug)]
pub enum Step {
    /// Nothing to do until something changes.
    Wait,
    /// Say why the pod is not run.
    Refuse(Problem),
    /// Make the lower pod, once what it refers to is there.
    Create {
        /// UID of the upper pod.
        uid: Box<str>,
        /// What to translate.
        body: Arc<Body>,
        /// Hash of the body.
        body_hash: u64,
        /// What must be there before.
        references: Arc<[Reference]>,
        /// Whether it ran below already, before we looked on.
        again: bool,
    },
    /// Bring the lower pod up to a changed upper pod.
    Update {
        /// UID of the upper pod.
        uid: Box<str>,
        /// What to translate.
        body: Arc<Body>,
        /// Hash of the body.
        body_hash: u64,
        /// Intent that the lower pod carries out now.
        intent: Box<str>,
        /// UID of the lower pod.
        lower_uid: Box<str>,
    },
    /// Write the upper status.
    PatchStatus {
        /// UID of the upper pod.
        uid: Box<str>,
        /// What to write.
        patch: Patch,
    },
    /// Delete the lower pod.
    DeleteLower {
        /// Its UID.
        uid: Box<str>,
        /// Grace period in seconds; `None` leaves it to the pod's own.
        grace: Option<i64>,
        /// Delete only if a live read finds no upper pod with this UID that wants to run; `None` when the upper
        /// pod itself is known to be ending, which cannot be undone.
        unless_upper: Option<Box<str>>,
    },
    /// Delete the upper pod, since nothing of it runs any more or will soon.
    DeleteUpper {
        /// Its UID.
        uid: Box<str>,
        /// Grace period in seconds; 0 when nothing runs any more.
        grace: i64,
        /// Delete only if a live read finds no lower pod of it.
        confirm: bool,
    },
}

/// What should happen next with `entry` on a virtual node with the address `host_ip`.
#[must_use]
pub fn decide(entry: &Entry, host_ip: &str) -> Step {
    match (&entry.upper, &entry.lower) {
        (None, None) => Step::Wait,
        (None, Some(lower)) => orphan(lower, entry.last_grace),
        (Some(upper), Some(lower)) if upper.uid != lower.origin_uid => orphan(lower, entry.last_grace),
        (Some(upper), Some(lower)) => pair(upper, lower, host_ip, entry.silent_since.as_deref()),
        (Some(upper), None) => alone(upper, entry.placed.as_deref() == Some(&*upper.uid)),
    }
}

/// A lower pod whose upper pod is gone.
fn orphan(lower: &LowerSide, last_grace: Option<i64>) -> Step {
    if lower.deletion.is_some() {
        return Step::Wait;
    }
    // A grace of 0 would take the object away before the lower kubelet has stopped the containers.
    let grace = last_grace.map(|grace| grace.max(1));
    Step::DeleteLower {
        uid: lower.uid.clone(),
        grace,
        unless_upper: Some(lower.origin_uid.clone()),
    }
}

/// An upper pod without a lower one.
fn alone(upper: &UpperSide, placed: bool) -> Step {
    if let Some(deletion) = upper.deletion {
        return finish(upper, deletion.grace);
    }
    if upper.is_terminal() {
        return Step::Wait;
    }
    if let Some(what) = upper.not_offloaded {
        return Step::Refuse(Problem::NotOffloaded {
            what: what.to_owned(),
        });
    }
    if placed {
        // Somebody else deleted it below while we looked on: what is gone does not come back, its owner replaces it.
        return Step::DeleteUpper {
            uid: upper.uid.clone(),
            grace: 0,
            confirm: true,
        };
    }
    match &upper.body {
        None => Step::Wait,
        Some(body) => Step::Create {
            uid: upper.uid.clone(),
            body: body.clone(),
            body_hash: upper.body_hash,
            references: upper.references.clone(),
            again: upper.was_placed,
        },
    }
}

/// An upper pod and the lower pod that was made for it.
fn pair(upper: &UpperSide, lower: &LowerSide, host_ip: &str, silent_since: Option<&str>) -> Step {
    if let Some(below) = lower.deletion
        && upper.deletion.is_none()
        && !upper.is_terminal()
    {
        // Somebody else deletes it below, which cannot be undone. Before the last status is shown: an upper pod that
        // is terminal but not deleted would stay for ever.
        return Step::DeleteUpper {
            uid: upper.uid.clone(),
            grace: below.grace.max(1),
            confirm: false,
        };
    }
    let lower_status = lower.status();
    if let Some(patch) = status_patch(upper, lower, &lower_status, host_ip, silent_since) {
        return Step::PatchStatus {
            uid: upper.uid.clone(),
            patch,
        };
    }
    if let Some(deletion) = upper.deletion {
        return end(upper, lower, deletion.grace, &lower_status);
    }
    match &upper.body {
        Some(body) if lower.deletion.is_none() => Step::Update {
            uid: upper.uid.clone(),
            body: body.clone(),
            body_hash: upper.body_hash,
            intent: lower.intent.clone(),
            lower_uid: lower.uid.clone(),
        },
        _ => Step::Wait,
    }
}

/// The upper pod is being deleted: the lower one first, unless it has ended already.
fn end(upper: &UpperSide, lower: &LowerSide, grace: i64, lower_status: &serde_json::Value) -> Step {
    let sooner = lower.deletion.is_some_and(|below| grace.max(1) < below.grace);
    if lower.deletion.is_none() || sooner {
        return Step::DeleteLower {
            uid: lower.uid.clone(),
            grace: Some(grace.max(1)),
            unless_upper: None,
        };
    }
    if status::terminal(lower_status) {
        finish(upper, grace)
    } else {
        Step::Wait
    }
}

/// Nothing of a pod that is being deleted runs any more.
fn finish(upper: &UpperSide, grace: i64) -> Step {
    // With a grace of 0 it would be gone already, if finalizers of others did not hold it; or if the API server had not
    // lost whoever asked, between the two writes that this takes it: then nobody else asks again.
    if grace == 0 && (upper.held || upper.deleted) {
        Step::Wait
    } else {
        Step::DeleteUpper {
            uid: upper.uid.clone(),
            grace: 0,
            confirm: false,
        }
    }
}

fn status_patch(
    upper: &UpperSide,
    lower: &LowerSide,
    lower_status: &serde_json::Value,
    host_ip: &str,
    silent_since: Option<&str>,
) -> Option<Patch> {
    if lower_status.is_null() {
        return None;
    }
    let view = Upper {
        uid: &upper.uid,
        generation: upper.generation,
        phase: &upper.phase,
        gates: &upper.gates,
        restarts: &lower.restarts,
    };
    let mut desired = status::desired(&view, lower_status, host_ip)?;
    if let Some(since) = silent_since {
        super::silence::doubt(&mut desired, since);
    }
    status::patch(&upper.uid, &desired, upper.sent.as_ref(), &upper.shown)
}
