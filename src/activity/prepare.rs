//! `prepare`: looks at both tables, takes the ledger over, and says where to go on.
//!
//! Timeouts: an hour. Retried without limit while the error can pass. Idempotent: a repeat takes the ledger over once more,
//! with a higher epoch.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Activities, TableJob, failure};
use crate::job::{JobSpec, Kind};
use crate::postgres::{Error, LookRequest, ledger, look};
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
    pub epoch: u64,
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

impl Activities {
    pub(super) async fn do_prepare(&self, input: PrepareInput) -> Result<Prepared, Error> {
        let spec = input.spec;
        let (source, target) = self.sessions().await?;
        let job = spec.name.to_string();
        let request = LookRequest {
            job: job.clone(),
            tables: TableJob::of(&spec).examine_request(),
            sync: matches!(spec.kind, Kind::Sync { .. }),
            lookback: spec.lookback_keys.is_some(),
            restart: false,
        };
        let plan = look(&source, &target, &request).await?.plan;
        let state = ledger::open(&target, &source, &job, &plan).await?;
        let prepared = Prepared {
            epoch: state.epoch,
            source_table: plan.source.clone(),
            target_table: plan.target.clone(),
            done: state.segments,
            rows_done: state.rows,
            bytes_done: state.bytes,
            batches_done: state.batches,
            next_batch: state.next_batch,
            settled: state.settled,
            rows_estimate: plan.rows_estimate,
            row_bytes_estimate: plan
                .bytes_estimate
                .zip(plan.rows_estimate)
                .and_then(|(bytes, rows)| bytes.checked_div(rows)),
        };
        *self.plan.lock().await = Some(Arc::new(plan));
        Ok(prepared)
    }
}
