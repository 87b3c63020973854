//! `prepare`: looks at both tables, takes the ledger over, and says where to go on. A source that has gone back in time is
//! refused.
//!
//! Timeouts: a day, with heartbeats (rows may have to be counted). Retried without limit while the error can pass. Idempotent: a repeat takes the ledger over once more,
//! with a higher epoch, and finds the same batches lost.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{NoteWritersOutput, OneJob, failure, step};
use crate::postgres::{
    Ask, Error, Kind, Session, check_growth, cursor, ledger, look, note_still, rewind, source_clock, writers,
};
use crate::table::{Growth, Key, Lost, Noted, Plan, Position, SourceClock, TableSpec};

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
    /// Who was writing when a migrate was begun on top of what the ledger has, and from where it looks again for rows that have
    /// committed below the last key since; `None` where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<NoteWritersOutput>,
    /// What the source's clock shows, where it fills the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<SourceClock>,
    /// The snapshot of the source in which all of it is read, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
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
        let mut position = ledger::take_over(&target, &source, table, &plan).await?;
        let lost = match &input.known {
            Some(known) => ledger::lost(&target, table, &plan, known, &position).await?,
            None => None,
        };
        let seen = ledger::source_clock(&target, table, &plan).await?;
        let settled = position.settled.as_ref();
        let stamped = source_clock::look(&source, table, &plan, seen.as_ref(), settled).await?;
        if stamped.unsettled.is_some() {
            position.settled = stamped.unsettled;
            let settled = position.settled.as_ref();
            ledger::set_settled(&target, table, &plan, position.epoch, settled, None).await?;
        }
        let (epoch, done) = (position.epoch, position.tally);
        note_still(&source, &target, table, &plan, epoch, &done).await?;
        let begun = self.snapshot(&target, table, &plan, &mut position).await?;
        let lost = lost.filter(|_| !begun.is_new);
        // Before the highest key is read: it is then not below the one that was noted.
        let again = match input.sync {
            true => None,
            false => settle(&source, &target, table, &plan, &mut position).await?,
        };
        step("finding the highest key on the source");
        let highest = match begun.is_over {
            true => position.end().cloned(),
            false => cursor::highest_key(&source, &plan).await?,
        };
        let (epoch, end) = (position.epoch, position.end());
        rewind::note(&source, &target, table, &plan, epoch, highest.as_ref(), end).await?;
        *self.plan.lock().await = Some(Arc::new(plan.clone()));
        Ok(PrepareOutput {
            plan,
            position,
            highest,
            lost,
            again,
            clock: stamped.clock,
            snapshot: begun.name,
        })
    }
}

/// What a migrate needs so that rows that commit below its cursor are found when it is begun again: the key below which there
/// can be none. Where the ledger has nothing yet, all that is copied from now on is settled up to the key that is noted now.
async fn settle(
    source: &Session,
    target: &Session,
    table: &TableSpec,
    plan: &Plan,
    position: &mut Position,
) -> Result<Option<NoteWritersOutput>, Error> {
    step("asking who writes to the source");
    let now = note(source, table, plan).await?;
    if position.end().is_some() {
        // A sync that looks back has left a settled key, though nobody knows how its keys grow: it stays as it is. So does the
        // word that all of it must be looked at again.
        let has_mark = position.settled.is_some() || ledger::is_unsettled(target, table, plan).await?;
        let now = now.or_else(|| has_mark.then(nothing_noted));
        return Ok(now.map(|now| NoteWritersOutput {
            now,
            before: None,
            look_from: position.settled.clone(),
            clock: None,
            unsettled: None,
        }));
    }
    if let Some(key) = now.filter(|now| now.holders.is_empty()).and_then(|now| now.key) {
        ledger::set_settled(target, table, plan, position.epoch, Some(&key), None).await?;
        position.settled = Some(key);
    }
    Ok(None)
}

/// Who may still add rows below the highest key; `None` where rows may come there at any time.
async fn note(source: &Session, table: &TableSpec, plan: &Plan) -> Result<Option<Noted>, Error> {
    if plan.source_is_standby || plan.growth != Growth::Grows {
        return Ok(None);
    }
    let now = writers::note_the_long(source, plan).await?;
    match check_growth(source, plan, now.key.as_ref()).await {
        Err(error) if error.kind() == Kind::Unsupported => return Ok(None),
        checked => checked?,
    }
    if !now.holders.is_empty() {
        let shown: Vec<_> = now.holders.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "transactions are open on the source that may yet add rows to {} below its last key: {}; those that commit after \
             job {} has come by are found when it is run again",
            plan.source,
            shown.join("; "),
            table.job
        );
    }
    Ok(Some(now))
}

fn nothing_noted() -> Noted {
    Noted {
        key: None,
        holders: Vec::new(),
        server_started_at: String::new(),
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
