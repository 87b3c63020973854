//! `copy_batch`: copies one key range, rows and ledger row in one transaction of the target.
//!
//! Timeouts: a day, with heartbeats. Retried without limit while the error can pass. Exactly once: a repeat finds the
//! ledger row and returns its receipt. Canceled: rolls back, unless the commit is on its way.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Activities, BatchMeter, TableJob, failure};
use crate::postgres::{CopyMode, CopyRequest, Error, copy_range};
use crate::table::{KeyRange, Receipt};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyBatchInput {
    /// The job's tables.
    pub table: TableJob,
    /// The epoch that `prepare` gave.
    pub epoch: u64,
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

impl Activities {
    pub(super) async fn do_copy_batch(
        &self,
        input: CopyBatchInput,
        attempt: u32,
    ) -> Result<CopyBatchOutput, Error> {
        let plan = self.plan(&input.table).await?;
        self.gauge
            .throttle
            .set(input.max_rate_bytes_per_second.and_then(NonZeroU64::new));
        let (source, target) = self.sessions().await?;
        let mode = if input.pass > 0 {
            CopyMode::Missing
        } else {
            CopyMode::from(plan.on_conflict)
        };
        let request = CopyRequest {
            job: input.table.job.to_string(),
            epoch: input.epoch,
            batch: input.batch,
            pass: input.pass,
            range: input.range,
            mode,
            repeat: attempt > 1,
        };
        let meter = BatchMeter::new(&self.gauge);
        copy_range(&source, &target, &plan, &request, &meter).await
    }
}
