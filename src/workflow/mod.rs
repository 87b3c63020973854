//! Decisions only. A workflow is replayed from its history, so nothing here may depend on anything but its input, its
//! events and its context: no clock, no randomness, no I/O, no environment.

mod copy_range;
mod migrate_table;
mod pace;
mod progress;

pub use migrate_table::{MigrateInput, MigrateTable, Resumption, Round, Summary};
pub use progress::{Phase, Progress};
