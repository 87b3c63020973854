//! The workflow `MigrateTable`: next batch, copy it, until nothing is left; a sync then sleeps and looks again.
//!
//! It decides, and remembers what it must to decide again after a crash; everything else is in activities. Signals `pause`
//! and `resume`, the query `progress`, the update `tune`. Cancellation lets the batches in flight finish or roll back.
//! What survives continue-as-new is in `Resumption`, and nothing is in flight then.

#![expect(
    missing_docs,
    reason = "the macro makes constants of the methods, which carry the documentation"
)]

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ContinueAsNewOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
    WorkflowTermination,
};

use super::pace::Pace;
use super::progress::{Phase, Progress};
use crate::activity::{
    Activities, NoteWritersInput, NoteWritersOutput, PrepareInput, Prepared, note_writers_options,
    prepare_options,
};
use crate::job::{JobSpec, Kind, Tuning, TuningChange};
use crate::table::{Key, KeyRange, Noted, Receipt, TableName};

/// What the workflow is started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrateInput {
    /// What was asked for.
    pub spec: JobSpec,
    /// Begins paused.
    #[serde(default)]
    pub paused: bool,
    /// Where an earlier run of the same job has come to; `None` for the first.
    #[serde(default)]
    pub resumption: Option<Resumption>,
}

/// Where a run has come to, as the next one needs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resumption {
    /// The epoch that `prepare` gave.
    pub epoch: u64,
    /// The tables' full names.
    pub source_table: TableName,
    /// The target's.
    pub target_table: TableName,
    /// Everything up to this key has been copied.
    pub cursor: Option<Key>,
    /// Ranges beyond the cursor that are on the target already, in the order of keys.
    pub done: Vec<KeyRange>,
    /// The number of the next batch.
    pub next_batch: u64,
    /// Rows on the target.
    pub rows_done: u64,
    /// Wire bytes copied.
    pub bytes_done: u64,
    /// Batches committed.
    pub batches_done: u64,
    /// Batches that `prepare` found in the ledger.
    pub batches_found: u64,
    /// Sum of the receipts' checksums.
    pub checksum: u64,
    /// Rows on the source, by the catalog's statistics.
    pub rows_estimate: Option<u64>,
    /// Wire bytes of a row, by the catalog's statistics.
    pub row_bytes_estimate: Option<u64>,
    /// The key up to which no row can appear any more.
    pub settled: Option<Key>,
    /// What was noted, and waits for its writers to end.
    pub noted: Option<Noted>,
    /// Rounds of a sync that are over.
    pub rounds: u64,
    /// The round that is going on.
    #[serde(default)]
    pub round: Option<Round>,
    /// When the round that comes next begins, in milliseconds of Unix time, if the run before ended asleep.
    #[serde(default)]
    pub sleep_until_ms: Option<u64>,
}

/// One round of a sync.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Who was writing when it began, and where its second look begins.
    pub found: NoteWritersOutput,
    /// Up to where the second look has come.
    pub looked_to: Option<Key>,
    /// Where the second look ends: what lies beyond was not copied before.
    pub frontier: Option<Key>,
}

/// What a finished job has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows on the target.
    pub rows: u64,
    /// Wire bytes copied.
    pub bytes: u64,
    /// Batches committed.
    pub batches: u64,
    /// Sum of the receipts' checksums.
    pub checksum: u64,
}

/// The workflow's state; all of it follows from its history.
#[workflow]
pub struct MigrateTable {
    pub(super) spec: JobSpec,
    pub(super) paused: bool,
    /// Goes up with every signal and update, so that the loop looks again.
    pub(super) pokes: u64,
    pub(super) phase: Phase,
    pub(super) in_flight: u32,
    pub(super) pace: Pace,
    pub(super) next_run_ms: Option<u64>,
    /// `None` until the job is prepared.
    pub(super) at: Option<Resumption>,
}

#[workflow_methods]
impl MigrateTable {
    #[init]
    fn new(_: &WorkflowContextView, input: MigrateInput) -> Self {
        Self {
            spec: input.spec,
            paused: input.paused,
            pokes: 0,
            phase: Phase::Preparing,
            in_flight: 0,
            pace: Pace::default(),
            next_run_ms: None,
            at: input.resumption,
        }
    }

    /// Copies the table; a sync goes on for ever.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Summary> {
        let ctx = &*ctx;
        if ctx.state(|state| state.at.is_none()) {
            let spec = ctx.state(|state| state.spec.clone());
            let prepared = ctx
                .execute_activity(Activities::prepare, PrepareInput { spec }, prepare_options())
                .await?;
            ctx.state_mut(|state| state.at = Some(Resumption::from(prepared)));
        }
        match ctx.state(|state| state.spec.kind) {
            Kind::Migrate => Self::migrate(ctx).await,
            Kind::Sync { interval_ms } => loop {
                Self::sleep_out(ctx).await?;
                Self::round(ctx).await?;
                Self::fall_asleep(ctx, interval_ms)?;
            },
        }
    }

    /// Starts no further batch until `resume`; those in flight finish.
    #[signal]
    pub fn pause(&mut self, _: &mut SyncWorkflowContext<Self>) {
        self.paused = true;
        self.pokes += 1;
    }

    /// Goes on after `pause`.
    #[signal]
    pub fn resume(&mut self, _: &mut SyncWorkflowContext<Self>) {
        self.paused = false;
        self.pokes += 1;
    }

    /// How far it is.
    #[query]
    pub fn progress(&self, _: &WorkflowContextView) -> Progress {
        self.to_progress()
    }

    #[update_validator(tune)]
    fn validate_tune(
        &self,
        _: &WorkflowContextView,
        change: &TuningChange,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(change.validate()?)
    }

    /// Changes concurrency, batch size or speed limit, from the next batch on. Gives the tuning that holds then.
    #[update]
    pub fn tune(&mut self, _: &mut SyncWorkflowContext<Self>, change: TuningChange) -> Tuning {
        change.apply(&mut self.spec.tuning);
        self.pokes += 1;
        self.spec.tuning
    }
}

impl MigrateTable {
    async fn migrate(ctx: &WorkflowContext<Self>) -> WorkflowResult<Summary> {
        Self::copy_new(ctx, None).await?;
        ctx.state_mut(|state| state.phase = Phase::Done);
        Ok(ctx.state(Self::summary))
    }

    /// One round of a sync: who writes, a second look at what is not settled, then what is new.
    async fn round(ctx: &WorkflowContext<Self>) -> Result<(), WorkflowTermination> {
        if ctx.state(|state| state.at.as_ref().is_some_and(|at| at.round.is_none())) {
            let input = ctx.state(Self::note_writers_input);
            let found = ctx
                .execute_activity(Activities::note_writers, input, note_writers_options())
                .await?;
            ctx.state_mut(|state| state.begin_round(found));
        }
        let Some(round) = ctx.state(|state| state.at.as_ref().and_then(|at| at.round.clone())) else {
            return Ok(());
        };
        if let Some(frontier) = round.frontier {
            Self::look_again(ctx, round.looked_to, frontier).await?;
        }
        if let Some(highest) = round.found.now.key.clone() {
            Self::copy_new(ctx, Some(highest)).await?;
        }
        ctx.state_mut(|state| state.settle(round.found));
        Ok(())
    }

    /// Notes when the next round begins, and continues as new if the history has grown enough.
    fn fall_asleep(ctx: &WorkflowContext<Self>, interval_ms: u64) -> Result<(), WorkflowTermination> {
        let now = ctx
            .workflow_time()
            .and_then(|now| now.duration_since(UNIX_EPOCH).ok())
            .unwrap_or_default();
        let until_ms = u64::try_from(now.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(interval_ms);
        ctx.state_mut(|state| {
            if let Some(at) = &mut state.at {
                at.sleep_until_ms = Some(until_ms);
            }
        });
        if ctx.continue_as_new_suggested() {
            Self::go_on_as_new(ctx)?;
        }
        Ok(())
    }

    /// Sleeps until the next round begins: the rest of the interval, however often the process was restarted meanwhile.
    async fn sleep_out(ctx: &WorkflowContext<Self>) -> Result<(), WorkflowTermination> {
        let until_ms = ctx.state_mut(|state| state.at.as_mut().and_then(|at| at.sleep_until_ms.take()));
        if let Some(until_ms) = until_ms {
            ctx.state_mut(|state| (state.phase, state.next_run_ms) = (Phase::Sleeping, Some(until_ms)));
            let now = ctx
                .workflow_time()
                .and_then(|now| now.duration_since(UNIX_EPOCH).ok())
                .unwrap_or_default();
            let rest = Duration::from_millis(until_ms).saturating_sub(now);
            if rest > Duration::ZERO {
                ctx.timer(rest).await;
            }
        }
        // An error is the workflow's cancellation.
        ctx.wait_condition(|state| !state.paused)
            .await
            .map_err(|_| WorkflowTermination::cancelled())?;
        if ctx.cancellation_token().is_cancelled() {
            return Err(WorkflowTermination::cancelled());
        }
        ctx.state_mut(|state| (state.phase, state.next_run_ms) = (Phase::Copying, None));
        Ok(())
    }

    /// The same job in a new run with an empty history. Nothing is in flight.
    pub(super) fn go_on_as_new(
        ctx: &WorkflowContext<Self>,
    ) -> Result<std::convert::Infallible, WorkflowTermination> {
        let input = ctx.state(|state| MigrateInput {
            spec: state.spec.clone(),
            paused: state.paused,
            resumption: state.at.clone(),
        });
        ctx.continue_as_new(input, ContinueAsNewOptions::default())
    }

    fn note_writers_input(&self) -> NoteWritersInput {
        let at = self.at.as_ref();
        NoteWritersInput {
            table: self.table_job(),
            epoch: at.map_or(0, |at| at.epoch),
            settled: at.and_then(|at| at.settled.clone()),
            noted: at.and_then(|at| at.noted.clone()),
            lookback_keys: self.spec.lookback_keys,
        }
    }

    fn begin_round(&mut self, found: NoteWritersOutput) {
        if let Some(at) = &mut self.at {
            let (looked_to, frontier) = (found.look_from.clone(), at.cursor.clone());
            at.round = Some(Round {
                found,
                looked_to,
                frontier,
            });
        }
    }

    /// A round is over: what was noted before it is settled if its writers had ended, and so is what was noted in it if
    /// nobody was writing.
    fn settle(&mut self, found: NoteWritersOutput) {
        let Some(at) = &mut self.at else { return };
        at.rounds += 1;
        at.round = None;
        if found.now.holders.is_empty() {
            // Whatever is at most this key was visible when this round copied.
            (at.settled, at.noted) = (found.now.key.or(at.settled.take()), None);
            return;
        }
        match found.before {
            Some(before) if !before.holders.is_empty() => at.noted = Some(before),
            before => {
                at.settled = before.and_then(|before| before.key).or(at.settled.take());
                at.noted = Some(found.now);
            }
        }
    }

    /// A batch of pass 0 or a later look came back.
    pub(super) fn count(&mut self, receipt: &Receipt, pass: u16) {
        let Some(at) = &mut self.at else { return };
        let rows = if pass == 0 {
            receipt.rows
        } else {
            receipt.rows_written
        };
        at.rows_done += rows;
        if rows > 0 || pass == 0 {
            at.bytes_done += receipt.bytes;
            at.batches_done += 1;
            at.checksum = at.checksum.wrapping_add(receipt.checksum);
        }
    }

    fn summary(&self) -> Summary {
        let at = self.at.as_ref();
        Summary {
            rows: at.map_or(0, |at| at.rows_done),
            bytes: at.map_or(0, |at| at.bytes_done),
            batches: at.map_or(0, |at| at.batches_done),
            checksum: at.map_or(0, |at| at.checksum),
        }
    }

    fn to_progress(&self) -> Progress {
        let at = self.at.as_ref();
        let moving = matches!(self.phase, Phase::Copying | Phase::Looking) && self.in_flight > 0;
        let speed = self.pace.speed().filter(|_| moving);
        let Summary {
            rows,
            bytes,
            batches,
            checksum,
        } = self.summary();
        Progress {
            spec: self.spec.clone(),
            phase: self.phase,
            paused: self.paused,
            in_flight: self.in_flight,
            source_table: at.map_or_else(|| self.spec.source_table.clone(), |at| at.source_table.clone()),
            target_table: at.map_or_else(|| self.spec.target_table.clone(), |at| at.target_table.clone()),
            rows_done: rows,
            bytes_done: bytes,
            batches_done: batches,
            rows_estimate: at.and_then(|at| at.rows_estimate),
            cursor: at.and_then(|at| at.cursor.clone()),
            checksum,
            rows_per_second: speed.map(|(rows, _)| rows),
            bytes_per_second: speed.map(|(_, bytes)| bytes),
            next_run_ms: self.next_run_ms,
            rounds: at.map_or(0, |at| at.rounds),
            held_back_by: at
                .and_then(|at| at.noted.as_ref())
                .map_or_else(Vec::new, |noted| {
                    noted.holders.iter().map(ToString::to_string).collect()
                }),
            batches_found: at.map_or(0, |at| at.batches_found),
        }
    }
}

impl From<Prepared> for Resumption {
    fn from(prepared: Prepared) -> Self {
        Self {
            epoch: prepared.epoch,
            source_table: prepared.source_table,
            target_table: prepared.target_table,
            cursor: None,
            done: prepared.done,
            next_batch: prepared.next_batch,
            rows_done: prepared.rows_done,
            bytes_done: prepared.bytes_done,
            batches_done: prepared.batches_done,
            batches_found: prepared.batches_done,
            checksum: 0,
            rows_estimate: prepared.rows_estimate,
            row_bytes_estimate: prepared.row_bytes_estimate,
            settled: prepared.settled,
            noted: None,
            rounds: 0,
            round: None,
            sleep_until_ms: None,
        }
    }
}
