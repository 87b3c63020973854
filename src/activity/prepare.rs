//! `prepare`: looks at both tables, takes the ledger over, and says where to go on.
//!
//! Timeouts: an hour. Retried without limit while the error can pass. Idempotent: a repeat takes the ledger over once more,
//! with a higher epoch.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::failure;
use crate::job::JobSpec;
use crate::table::{Key, KeyRange, TableName};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareInput {
    /// The job.
    pub spec: JobSpec,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Fences off every earlier run of this job: batches of another epoch are refused by the target.
    pub epoch: i64,
    /// The tables' full names.
    pub source_table: TableName,
    /// The target's.
    pub target_table: TableName,
    /// Ranges that are on the target already, in the order of keys.
    pub done: Vec<KeyRange>,
    /// Rows in those ranges.
    pub rows_done: u64,
    /// Wire bytes of those ranges.
    pub bytes_done: u64,
    /// Batches that copied those ranges.
    pub batches_done: u64,
    /// The number of the next batch.
    pub next_batch: u64,
    /// The key up to which an earlier sync has settled.
    pub settled: Option<Key>,
    /// Rows on the source, by the catalog's statistics.
    pub rows_estimate: Option<u64>,
    /// Wire bytes of a row, by the catalog's statistics.
    pub row_bytes_estimate: Option<u64>,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}
