//! `next_range`: finds the key that ends the next range of a verification.
//!
//! Timeouts: an hour. Retried without limit while the error can pass. Reads only.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{OneJob, Walk, failure, lend};
use crate::postgres::{Error, cursor, verify};
use crate::table::{Against, Key, PlanDigest, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRangeInput {
    /// The table.
    pub table: TableSpec,
    /// How both tables were when the plan was made.
    pub digest: PlanDigest,
    /// What the target is held against.
    pub against: Against,
    /// Which rows are walked.
    pub walk: Walk,
    /// The key that ends the range before; `None` at the start.
    #[serde(default)]
    pub low: Option<Key>,
    /// The walk ends here.
    pub stop: Key,
    /// About so many rows are to be in the range.
    pub rows: u64,
}

/// The key that ends the range; `None` where there is nothing left.
pub type NextRangeOutput = Option<Key>;

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}

impl OneJob {
    pub(super) async fn do_next_range(&self, input: NextRangeInput) -> Result<NextRangeOutput, Error> {
        let (low, stop) = (input.low.as_ref(), &input.stop);
        match input.walk {
            Walk::Ledger => {
                self.must_trust_ledger(&input.table).await?;
                let plan = match input.against {
                    Against::Receipts => self.plan_of_ledger(&input.table, &input.digest).await?,
                    Against::Source => self.plan_to_read(&input.table, &input.digest).await?,
                };
                let target = lend(&self.target).await?;
                if input.against == Against::Receipts && !plan.same_order {
                    // The source's ranges mean nothing there: all of it, or none.
                    return Ok(Some(stop.clone()));
                }
                verify::next_unit(&target, &plan, &input.table, low, input.rows).await
            }
            Walk::Beyond => Ok(Some(stop.clone())),
            Walk::Source => {
                let plan = self.plan_to_read(&input.table, &input.digest).await?;
                if plan.key_basis.is_places() {
                    // Where its rows lie on the target nobody knows: all of it, or none.
                    return Ok(Some(stop.clone()));
                }
                let source = lend(&self.source).await?;
                cursor::next_range_end(&source, &plan, low, Some(stop), input.rows).await
            }
            Walk::Target => {
                let plan = self.plan_to_read(&input.table, &input.digest).await?;
                let target = lend(&self.target).await?;
                cursor::next_range_end(&target, &plan, low, Some(stop), input.rows).await
            }
        }
    }
}
