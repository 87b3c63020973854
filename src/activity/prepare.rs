//! `prepare`: looks at both tables, takes the ledger over, and says where to go on. A source that has gone back in time is
//! refused.
//!
//! Timeouts: a day, with heartbeats (rows may have to be counted). Retried without limit while the error can pass. Idempotent: a repeat takes the ledger over once more,
//! with a higher epoch, and finds the same batches lost.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{OneJob, failure, step};
use crate::postgres::{Ask, Error, cursor, ledger, look, rewind};
use crate::table::{Key, Lost, Plan, Position, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareInput {
    /// The table.
    pub table: TableSpec,
    /// Whether the job goes on for ever, along keys that grow.
    #[serde(default)]
    pub sync: bool,
    /// Whether the operator lets a sync look back a number of keys.
    #[serde(default)]
    pub lookback: bool,
    /// What this run believed before; `None` when it begins.
    #[serde(default)]
    pub known: Option<Position>,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareOutput {
    /// How the table is copied.
    pub plan: Plan,
    /// How far it is by the ledger, under an epoch that fences off every earlier run.
    pub position: Position,
    /// The highest key on the source; `None` where the table is empty.
    #[serde(default)]
    pub highest: Option<Key>,
    /// What the target had confirmed and does not have any more.
    #[serde(default)]
    pub lost: Option<Lost>,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(24 * 3600))
}

impl OneJob {
    pub(super) async fn do_prepare(&self, input: PrepareInput) -> Result<PrepareOutput, Error> {
        let (source, target) = self.sessions().await?;
        let ask = Ask {
            sync: input.sync,
            lookback: input.lookback,
            restart: false,
        };
        let table = &input.table;
        step("looking at both tables");
        let plan = look(&source, &target, table, &ask).await?.plan;
        tracing::info!("plan: {}", in_words(&plan));
        ledger::check_rewritten(&target, &source, table, &plan).await?;
        step("taking the job over on the target");
        let position = ledger::take_over(&target, &source, table, &plan).await?;
        let lost = match &input.known {
            Some(known) => ledger::lost(&target, table, &plan, known, &position).await?,
            None => None,
        };
        step("finding the highest key on the source");
        let highest = cursor::highest_key(&source, &plan).await?;
        let (epoch, end) = (position.epoch, position.end());
        rewind::note(&source, &target, table, &plan, epoch, highest.as_ref(), end).await?;
        *self.plan.lock().await = Some(Arc::new(plan.clone()));
        Ok(PrepareOutput {
            plan,
            position,
            highest,
            lost,
        })
    }
}

/// How a table is copied, without a value of it.
fn in_words(plan: &Plan) -> String {
    let columns: Vec<_> = plan.key.iter().map(|column| column.name.as_str()).collect();
    let rows = plan
        .rows_estimate
        .map_or("an unknown number of rows".to_owned(), |rows| {
            format!("about {rows} rows")
        });
    format!(
        "{} to {} along ({}), {} columns, {:?} format, {rows}",
        plan.source,
        plan.target,
        columns.join(", "),
        plan.columns.len(),
        plan.format
    )
}
