//! `next_batch`: finds, by the index of the key, the key that ends the next batch.
//!
//! Timeouts: an hour (an index full of dead entries is slow). Retried without limit while the error can pass. Reads only.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Activities, failure, lend, step};
use crate::postgres::{Error, cursor};
use crate::table::{Key, PlanDigest, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextBatchInput {
    /// The table.
    pub table: TableSpec,
    /// How both tables were when the plan was made.
    pub digest: PlanDigest,
    /// The key that ends the batch before; `None` at the start.
    #[serde(default)]
    pub low: Option<Key>,
    /// The batch ends here at the latest, and does end here where fewer rows are left.
    #[serde(default)]
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

impl Activities {
    pub(super) async fn do_next_batch(&self, input: NextBatchInput) -> Result<NextBatchOutput, Error> {
        let plan = self.plan(&input.table, &input.digest).await?;
        step("connecting to the source");
        let source = lend(&self.source).await?;
        step("finding where the next batch ends");
        let (low, stop) = (input.low.as_ref(), input.stop.as_ref());
        cursor::next_range_end(&source, &plan, low, stop, input.rows).await
    }
}
