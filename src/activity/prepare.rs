//! `prepare`: looks at both tables, takes the ledger over, and says where to go on. A source that has gone back in time is
//! refused.
//!
//! Timeouts: a day, with heartbeats (rows may have to be counted). Retried without limit while the error can pass. Idempotent: a repeat takes the ledger over once more,
//! with a higher epoch, and finds the same batches lost.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Looked, NoteWritersOutput, OneJob, failure, step};
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
    /// How far the second look of this run has come; `None` where there is none to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<Looked>,
    /// The batches that must be in the ledger if it has all that this run was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<u64>,
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
    /// Where the second look that was going on goes on; `None`: it begins anew, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<Looked>,
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
        self.must_trust_sql(&input.table)?;
        let (source, target) = self.sessions().await?;
        let ask = Ask {
            sync: input.sync,
            lookback: input.lookback,
            restart: false,
        };
        let table = &self.trusting(&input.table);
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
            position.settled.clone_from(&stamped.unsettled);
            let settled = position.settled.as_ref();
            ledger::set_settled(&target, table, &plan, position.epoch, settled, None).await?;
        }
        let (epoch, done) = (position.epoch, position.tally);
        step("looking which transactions are open on the source");
        note_still(&source, &target, table, &plan, epoch, &done).await?;
        let begun = self.snapshot(&target, table, &plan, &mut position).await?;
        let lost = lost.filter(|_| !begun.is_new);
        let looked = go_on(&source, &target, &plan, &input, &mut position).await?;
        // Before the highest key is read: it is then not below the one that was noted.
        let again = match input.sync || looked.is_some() {
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
            looked,
            clock: stamped.clock,
            snapshot: begun.name,
        })
    }
}

/// Where the second look of this run goes on, by what the ledger still has of what the run was told; `None` where it begins
/// anew: too little is left to go by, or what was settled is not any more.
async fn go_on(
    source: &Session,
    target: &Session,
    plan: &Plan,
    input: &PrepareInput,
    position: &mut Position,
) -> Result<Option<Looked>, Error> {
    let (Some(looked), Some(known)) = (&input.looked, &input.known) else {
        return Ok(None);
    };
    let proofs = looked.proofs.iter().map(|proof| proof.batch);
    let batches: Vec<_> = proofs.chain(input.witnesses.iter().copied()).collect();
    let told = ledger::told(target, &input.table, plan, known.epoch, &batches).await?;
    let is_lost = position.settled.is_none() && looked.frontier.is_none();
    if told.is_unsettled || (position.settled != known.settled && !is_lost) {
        return Ok(None);
    }
    let has = |batch| told.batches.contains(&batch);
    let has_all = match input.witnesses.as_slice() {
        [] => told.epoch,
        witnesses => witnesses.iter().all(|batch| has(*batch)),
    };
    let Some(kept) = looked.clone().kept(has_all, has) else {
        return Ok(None);
    };
    position.settled.clone_from(&known.settled);
    cut(source, plan, kept, position.end()).await.map(Some)
}

/// A look goes no farther than the ledger's account: what lies beyond is lost, and copied again.
async fn cut(source: &Session, plan: &Plan, looked: Looked, end: Option<&Key>) -> Result<Looked, Error> {
    let (Some(frontier), Some(end)) = (&looked.frontier, end) else {
        return Ok(looked.cut(None, true));
    };
    let is_above = async |key: &Key, other: &Key| {
        let sorted = cursor::sort_keys(source, plan, vec![key.clone(), other.clone()]).await?;
        Ok::<_, Error>(key != other && sorted.last() == Some(key))
    };
    if !is_above(frontier, end).await? {
        return Ok(looked);
    }
    let is_past = match &looked.looked_to {
        Some(to) => !is_above(end, to).await?,
        None => false,
    };
    Ok(looked.cut(Some(end.clone()), is_past))
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
