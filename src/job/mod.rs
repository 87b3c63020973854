//! What the user asked for, and what can be said of it: the validated job, its tuning and its status.
//!
//! Pure data: no I/O, no clock, no terminal; of ours only `table` is imported. A [`JobSpec`] is a workflow's input and so
//! is journaled: integers have a fixed width, later fields get `#[serde(default)]`, and no password has a place in it.

mod error;
mod name;
mod rate;
mod spec;
pub mod status;
mod tuning;

pub use crate::table::{Against, OnConflict, is_obeyed, shown};
pub use error::{Difference, JobError, Mismatch};
pub use name::{ConnectionName, JobName};
pub use rate::{RateLimit, parse_size};
pub use spec::{End, Ends, GiveUpAfter, JobSpec, Kind, VerifySpec, parse_interval, parse_lookback};
pub use tuning::{BatchRows, Tuning, TuningChange, parse_concurrency};
