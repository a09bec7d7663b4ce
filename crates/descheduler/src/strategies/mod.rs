//! Strategies, each a folder: arguments with defaults and checks, and a pure decision.

pub mod make_room;
pub mod spread_violation;
pub mod unschedulable_below;
