//! Decisions only. A workflow is replayed from its history, so nothing here may depend on anything but its input, its
//! events and its context: no clock, no randomness, no I/O, no environment.
//!
//! `copy_table` is the workflow, `pass` its loop over a stretch of keys; what those two decide by is pure and tested
//! without an SDK: `scheduler` (what may begin), `witnesses` (what the target must still have), `state`, `pace`.

mod copy_table;
mod pace;
mod pass;
mod progress;
mod scheduler;
mod state;
mod witnesses;

pub use copy_table::CopyTable;
pub use progress::{Phase, Progress};
pub use state::{JobInput, Round, TableState};
pub use witnesses::Witnesses;
