//! The I/O shell that all Tensile binaries share.
//!
//! One engine everywhere: a [`watch`] feeds a synchronous index, which names the keys that changed to a
//! [`queue`]; a few workers take them one at a time per key and send what a pure function decided, as long
//! as the [`lease`] is held.
//!
//! ```text
//! API server ── watch ──▶ index (plain data) ──▶ queue ──▶ worker ── request ──▶ API server
//!                                                             ▲
//!                                                lease: held until …
//! ```

pub mod admin;
pub mod args;
pub mod clock;
pub mod cluster;
pub mod clusters;
pub mod exit;
pub mod health;
pub mod key;
pub mod lease;
pub mod object;
pub mod queue;
pub mod recorder;
pub mod requests;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod watch;
