//! The last round as JSON, on the admin port at `/report`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Serialize;

use crate::plan::{Move, Plan, Stay};
use crate::strategies::make_room;

/// A round: what was planned, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When it was, in seconds since the Unix epoch; 0 before the first.
    pub time: u64,
    /// Whether nothing was to be touched.
    pub dry_run: bool,
    /// Why nothing could be planned.
    pub doubt: Option<String>,
    /// Planned moves, each with what became of it.
    pub moves: Vec<Moved>,
    /// Pods that stay, and why.
    pub stays: Vec<Stay>,
    /// How many pods are on their way that nobody makes again but us.
    pub moving: usize,
}

/// A planned move, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// What was planned.
    #[serde(flatten)]
    pub planned: Move,
    /// In a word; `Planned` if it was not to be carried out.
    pub result: &'static str,
    /// What the API server said, if it refused.
    pub message: Option<String>,
}

/// The last report. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Last(Arc<Mutex<Arc<Report>>>);

// === impl Report ===

impl Report {
    /// Of a plan that is not carried out.
    #[must_use]
    pub fn of_plan(time: u64, dry_run: bool, plan: Plan) -> Self {
        let planned = |planned| Moved {
            planned,
            result: "Planned",
            message: None,
        };
        Self {
            time,
            dry_run,
            doubt: None,
            moves: plan.moves.into_iter().map(planned).collect(),
            stays: plan.stays,
            moving: 0,
        }
    }

    /// Whether the next round should not wait for long: room is being made, one pod in a round, or a pod is gone that
    /// we must make again.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        let mut makes_room = self
            .moves
            .iter()
            .filter(|moved| moved.planned.strategy == make_room::NAME);
        self.moving > 0 || makes_room.any(|moved| moved.result == "Evicted")
    }
}

// === impl Last ===

impl Last {
    /// Replaces the report.
    pub fn set(&self, report: Arc<Report>) {
        *self.0.lock() = report;
    }

    /// The report.
    #[must_use]
    pub fn get(&self) -> Arc<Report> {
        self.0.lock().clone()
    }

    /// The page.
    pub fn router(self) -> Router {
        Router::new()
            .route(
                "/report",
                get(|State(last): State<Self>| async move { Json(last.get().as_ref().clone()) }),
            )
            .with_state(self)
    }
}
