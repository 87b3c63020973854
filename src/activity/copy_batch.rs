//! `copy_batch`: copies one key range, rows and ledger entry in one transaction of the target.
//!
//! Timeouts: a day, with heartbeats. Retried without limit while the error can pass. Exactly once: a repeat finds the
//! ledger entry and returns its tally. Canceled: rolls back, unless the commit is on its way.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{BatchMeter, OneJob, Timed, failure, step};
use crate::postgres::{Error, copy_batch};
use crate::table::{Batch, Fence, Pass, TableSpec, Tally};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyBatchInput {
    /// The table.
    pub table: TableSpec,
    /// What the target must still know.
    pub fence: Fence,
    /// What is to do.
    pub batch: Batch,
}

/// What it did: one batch, or none where a look found nothing missing and wrote no ledger entry.
pub type CopyBatchOutput = Timed<Tally>;

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(24 * 3600))
}

impl OneJob {
    pub(super) async fn do_copy_batch(&self, input: CopyBatchInput, attempt: u32) -> Result<Tally, Error> {
        let CopyBatchInput { table, fence, batch } = input;
        let table = self.trusting(&table);
        let plan = self.plan(&table, &fence.digest).await?;
        let (source, target) = self.sessions().await?;
        let meter = BatchMeter::new(&self.throttle);
        let repeat = attempt > 1;
        let (number, began) = (batch.number, Instant::now());
        let doing = match batch.pass {
            Pass::Copy => "copying",
            Pass::Look => "looking again at",
        };
        step(format!("{doing} batch {number}"));
        let tally = copy_batch(&source, &target, &plan, &table, &fence, &batch, repeat, &meter).await?;
        tracing::info!(
            "batch {number} is on the target: {} rows, {} bytes, {} ms",
            tally.rows,
            tally.bytes,
            began.elapsed().as_millis()
        );
        Ok(tally)
    }
}
