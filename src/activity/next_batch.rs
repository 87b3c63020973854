//! `next_batch`: finds, by the index of the key, the key that ends the next batch.
//!
//! Timeouts: an hour (an index full of dead entries is slow). Retried without limit while the error can pass. Reads only.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::TableJob;
use super::failure;
use crate::table::Key;

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextBatchInput {
    /// The job's tables.
    pub table: TableJob,
    /// The key that ends the batch before; `None` at the start.
    pub low: Option<Key>,
    /// The batch ends here at the latest, and does end here where fewer rows are left.
    pub stop: Option<Key>,
    /// The most rows that the batch may have.
    pub rows: u64,
}

/// The key that ends the batch; `None` where no row is left.
pub type NextBatchOutput = Option<Key>;

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}
