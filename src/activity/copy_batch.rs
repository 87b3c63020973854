//! `copy_batch`: copies one key range, rows and ledger row in one transaction of the target.
//!
//! Timeouts: a day, with heartbeats. Retried without limit while the error can pass. Exactly once: a repeat finds the
//! ledger row and returns its receipt. Canceled: rolls back, unless the commit is on its way.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::TableJob;
use super::failure;
use crate::table::{KeyRange, Receipt};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyBatchInput {
    /// The job's tables.
    pub table: TableJob,
    /// The epoch that `prepare` gave.
    pub epoch: i64,
    /// The number of the batch.
    pub batch: u64,
    /// 0 copies the range; later looks at a range add the rows that the target lacks.
    pub pass: u16,
    /// Which rows.
    pub range: KeyRange,
    /// The job's speed limit as of now, for all its batches together.
    pub max_rate_bytes_per_second: Option<u64>,
}

/// What it did.
pub type CopyBatchOutput = Receipt;

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(24 * 3600))
}
