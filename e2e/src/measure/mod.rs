//! What benchmarks share: pods followed by a watch, requests counted from audit logs, figures with goals.
//!
//! ```text
//! PodWatch   when was each pod bound, Running, gone: one watch, one monotonic clock
//! AuditLog   who asked an API server for what
//! CpuTimes   which process used the processor
//! Traffic    how many bytes a process sent and received
//!    │
//! Report     a line per figure with its goal and verdict, as text and as Markdown
//! ```

mod audit;
mod cpu;
mod machine;
mod pods;
mod report;
mod samples;
mod traffic;

pub use audit::{AuditLog, Request, Requests};
pub use cpu::{CpuTimes, peak_rss};
pub use machine::describe_machine;
pub use pods::{PodWatch, Progress, Seen};
pub use report::{Line, Report, Table};
pub use samples::Samples;
pub use traffic::{Bytes, Traffic};
