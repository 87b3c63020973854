//! What the operator sees while a job runs: the progress and the logs, drawn on one terminal without tearing each other.
//!
//! Takes typed facts (a [`JobStatus`](crate::job::status::JobStatus), counters) and knows no other room's insides.

pub mod figures;
pub mod logs;
pub mod progress;
mod terminal;

pub use terminal::Terminal;
