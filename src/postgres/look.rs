//! The look before a job starts, and once more when it does: everything that can be found wrong before a row moves.
//!
//! Reads both catalogs, sees to it that the ledger is there, and compares what it says with what the target holds. Moves
//! nothing; the one thing it may write is the empty ledger.

use super::catalog::{ExamineRequest, examine, target_is_empty};
use super::connect::Session;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use crate::table::{OnConflict, TablePlan};

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookRequest {
    /// The job's name in the ledger.
    pub job: String,
    /// The tables, and what happens to rows that are there.
    pub tables: ExamineRequest,
    /// Whether the job goes on for ever, along keys that grow.
    pub sync: bool,
    /// Whether the operator lets a sync look back a number of keys.
    pub lookback: bool,
    /// Whether the ledger's account of this job will be forgotten before it starts.
    pub restart: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How the table is copied.
    pub plan: TablePlan,
    /// Batches that the ledger has of this job.
    pub batches: u64,
    /// Rows that those batches brought.
    pub rows: u64,
}

/// Looks at both sides.
///
/// # Errors
/// Each thing that stands in the way, named, with its hint.
pub async fn look(source: &Session, target: &Session, request: &LookRequest) -> Result<Look> {
    let plan = examine(source, target, &request.tables).await?;
    if request.sync && !request.lookback {
        refuse_sync(&plan)?;
    }
    ledger::ensure(target).await?;
    let (batches, rows) = if request.restart {
        (0, 0)
    } else {
        ledger::totals(target, &request.job, &plan).await?
    };
    if batches == 0 && plan.on_conflict == OnConflict::Error && !target_is_empty(target, &plan).await? {
        let words = format!(
            "target table {} is not empty, and the ledger has no batch of job {}",
            plan.target, request.job
        );
        return Err(Error::new(Side::Target, Kind::NotEmpty, words));
    }
    Ok(Look { plan, batches, rows })
}

fn refuse_sync(plan: &TablePlan) -> Result<()> {
    let key: Vec<_> = plan.key.iter().map(|column| column.name.as_str()).collect();
    if plan.source_is_standby {
        return Err(Error::new(
            Side::Source,
            Kind::Unsupported,
            "the source is a standby, which does not know who is writing",
        )
        .hinted("connect to its primary, or let the sync look back a number of keys: --lookback KEYS"));
    }
    if !plan.key_ascends {
        let words = format!(
            "a sync finds new rows by their key, and the key ({}) of {} need not grow",
            key.join(", "),
            plan.source
        );
        return Err(Error::new(Side::Source, Kind::Unsupported, words).hinted(
            "if new keys are never more than a number of keys below the highest one, say so: --lookback KEYS",
        ));
    }
    Ok(())
}
