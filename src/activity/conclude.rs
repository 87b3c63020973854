//! `conclude`: asks the target, before a migrate says that it is complete, whether all of it is there.
//!
//! The ledger's totals are the position's, its ranges join up from the start to where the position says, both tables are as
//! planned, the source has not gone back in time, and its key is still one. Then it keeps the key that is settled. Timeouts: a
//! day (of a table without a key all rows are counted). Retried without limit while the error can pass. Idempotent.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{OneJob, failure, step};
use crate::postgres::{Error, check_key_again, check_still, ledger, rewind};
use crate::table::{Fence, Position, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcludeInput {
    /// The table.
    pub table: TableSpec,
    /// What the target must still know.
    pub fence: Fence,
    /// What the workflow holds to be on the target.
    pub position: Position,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(24 * 3600))
}

impl OneJob {
    pub(super) async fn do_conclude(&self, input: ConcludeInput) -> Result<(), Error> {
        let ConcludeInput {
            table,
            fence,
            position,
        } = input;
        let table = self.trusting(&table);
        let plan = self.plan(&table, &fence.digest).await?;
        let (source, target) = self.sessions().await?;
        step("asking the target whether it has all of it");
        rewind::check(&source, &target, &table, &plan).await?;
        ledger::conclude(&target, &source, &table, &plan, &fence, &position).await?;
        step("looking whether the source's rows are those that were copied");
        check_still(&source, &target, &table, &plan, &fence, &position.tally).await?;
        check_key_again(&source, &target, &table, &plan).await?;
        self.end_snapshot(&target, &table, &plan, fence.epoch).await?;
        if let Some(key) = &position.settled {
            ledger::set_settled(&target, &table, &plan, fence.epoch, Some(key), None).await?;
        }
        self.has_concluded.store(true, Ordering::SeqCst);
        Ok(())
    }
}
