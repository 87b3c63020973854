//! The workflow `CopyTable`: next batch, copy it, until all is there; a sync then sleeps and looks again.
//!
//! It decides, and remembers what it must to decide again after a crash; everything else is in activities. Signals `pause`,
//! `resume` and `move_to`, the query `progress`, the update `tune`. Cancellation lets the batches in flight finish or roll back.
//! What survives continue-as-new is in `TableState`, and nothing is in flight then.

#![expect(
    missing_docs,
    reason = "the macro makes constants of the methods, which carry the documentation"
)]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ContinueAsNewOptions, SyncWorkflowContext, TimerOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowContextView, WorkflowResult, WorkflowTermination,
};

use super::pace::Pace;
use super::pass::Stop;
use super::progress::{Phase, Progress};
use super::state::{JobInput, TableState, pause_before_preparing};
use super::verifying::VerifyState;
use crate::activity::{
    Activities, ConcludeInput, Looked, NoteWritersInput, PrepareInput, conclude_options,
    note_writers_options, prepare_options,
};
use crate::job::{Ends, JobSpec, Kind, Tuning, TuningChange};
use crate::table::{Fence, Position, TableSpec, Tally};

/// The workflow's state; all of it follows from its history.
#[workflow]
pub struct CopyTable {
    pub(super) spec: JobSpec,
    pub(super) paused: bool,
    /// Goes up with every signal and update, so that the loop looks again.
    pub(super) pokes: u64,
    pub(super) phase: Phase,
    pub(super) in_flight: u32,
    pub(super) pace: Pace,
    pub(super) next_run_ms: Option<u64>,
    /// How often in a row the table was prepared again, with neither a batch confirmed nor a round over in between.
    pub(super) prepared_in_vain: u32,
    /// `None` until the table is prepared.
    pub(super) at: Option<TableState>,
    /// `None` until something is verified.
    pub(super) verifying: Option<VerifyState>,
    /// What an earlier run, which has ended, was told is on the target; until the table is prepared.
    pub(super) known: Option<Position>,
    /// What the ledger had when the job was begun: what is shown until the table is prepared.
    pub(super) found: Option<Tally>,
}

#[workflow_methods]
impl CopyTable {
    #[init]
    fn new(_: &WorkflowContextView, input: JobInput) -> Self {
        Self {
            spec: input.spec,
            paused: input.paused,
            pokes: 0,
            phase: Phase::Preparing,
            in_flight: 0,
            pace: Pace::default(),
            next_run_ms: None,
            prepared_in_vain: 0,
            at: input.state,
            verifying: input.verifying,
            known: input.known,
            found: input.found,
        }
    }

    /// Copies the table; a sync goes on for ever. Gives what all batches in the ledger did.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Tally> {
        let ctx = &*ctx;
        let mut is_prepared = ctx.state(|state| state.at.is_some() || state.verifying.is_some());
        loop {
            match Self::go_on(ctx, is_prepared).await {
                Ok(tally) => return Ok(tally),
                Err(Stop::Ended(termination)) => return Err(termination),
                Err(Stop::PrepareAgain) => is_prepared = false,
            }
            Self::wait_to_prepare(ctx).await?;
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

    /// The servers have moved, or it is known by now which databases they are. What it does is the same.
    #[signal]
    pub fn move_to(&mut self, _: &mut SyncWorkflowContext<Self>, ends: Ends) {
        self.spec.move_to(ends);
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
        Ok(change.validate_for(self.spec.kind)?)
    }

    /// Changes concurrency or batch size from the next batch on, a speed limit at once, the interval of a sync in its sleep.
    /// Gives the tuning that holds then.
    #[update]
    pub fn tune(&mut self, _: &mut SyncWorkflowContext<Self>, change: TuningChange) -> Tuning {
        change.apply_to(&mut self.spec);
        self.pokes += 1;
        self.spec.tuning
    }
}

impl CopyTable {
    async fn go_on(ctx: &WorkflowContext<Self>, is_prepared: bool) -> Result<Tally, Stop> {
        if !is_prepared {
            ctx.state_mut(|state| state.verifying = None);
        }
        let (kind, verify) = ctx.state(|state| (state.spec.kind, state.spec.verify.clone()));
        if kind == Kind::Verify {
            return Self::verify(ctx, verify.unwrap_or_default()).await;
        }
        if !is_prepared {
            Self::prepare(ctx).await?;
        }
        match kind {
            Kind::Verify | Kind::Migrate => {
                if ctx.state(|state| state.verifying.is_none()) {
                    Self::migrate(ctx).await?;
                }
                if let Some(verify) = verify {
                    Self::verify_at_the_end(ctx, verify).await?;
                }
                ctx.state_mut(|state| state.phase = Phase::Done);
                let at = |state: &Self| state.at.as_ref().map(|at| at.position.tally).unwrap_or_default();
                Ok(ctx.state(at))
            }
            Kind::Sync { .. } => loop {
                Self::sleep_out(ctx).await?;
                Self::round(ctx).await?;
                Self::fall_asleep(ctx)?;
            },
        }
    }

    /// Takes the ledger over, whether for the first time or again, and goes on from what it says.
    async fn prepare(ctx: &WorkflowContext<Self>) -> Result<(), Stop> {
        ctx.state_mut(|state| state.phase = Phase::Preparing);
        let input = ctx.state(Self::prepare_input);
        let is_sync = input.sync;
        let prepared = ctx
            .execute_activity(Activities::prepare, input, prepare_options())
            .await?;
        let is_again = ctx.state_mut(|state| match &mut state.at {
            Some(at) => {
                at.begin_again(prepared);
                true
            }
            None => {
                state.at = Some(TableState::begin(prepared, is_sync));
                false
            }
        });
        // However often it comes to this, a history stays short.
        if is_again && ctx.continue_as_new_suggested() {
            return Err(Self::go_on_as_new(ctx));
        }
        Ok(())
    }

    /// What asks for it again and again is not asked at once.
    async fn wait_to_prepare(ctx: &WorkflowContext<Self>) -> Result<(), WorkflowTermination> {
        let pause = ctx.state_mut(|state| {
            let pause = pause_before_preparing(state.prepared_in_vain);
            state.prepared_in_vain = state.prepared_in_vain.saturating_add(1);
            state.phase = Phase::Preparing;
            pause
        });
        if pause > Duration::ZERO {
            let until_ms = now_ms(ctx).saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            ctx.state_mut(|state| state.next_run_ms = Some(until_ms));
            Self::rest(ctx, pause, |_| false).await;
            ctx.state_mut(|state| state.next_run_ms = None);
        }
        if ctx.cancellation_token().is_cancelled() {
            return Err(WorkflowTermination::cancelled());
        }
        Ok(())
    }

    /// Looks again at what the ledger had, copies what was there when the job began, and asks the target whether it has it.
    async fn migrate(ctx: &WorkflowContext<Self>) -> Result<(), Stop> {
        let again = ctx.state(|state| state.at.as_ref().and_then(TableState::look_to_do));
        if let Some(again) = again {
            // Gaps first, as in a round: what a look has added, no copy may bring once more.
            let gap_stop = ctx.state(|state| state.at.as_ref().and_then(TableState::gap_stop));
            if let Some(stop) = gap_stop {
                Self::copy(ctx, stop).await?;
            }
            if let Some(frontier) = again.frontier {
                Self::look(ctx, again.looked_to, frontier).await?;
            }
            ctx.state_mut(|state| state.at.as_mut().map(TableState::end_look));
        }
        let stop = ctx.state(|state| state.at.as_ref().and_then(TableState::migrate_stop));
        if let Some(stop) = stop {
            Self::copy(ctx, stop).await?;
        }
        ctx.state_mut(|state| state.phase = Phase::Concluding);
        let input = ctx.state(|state| {
            let (table, fence) = state.table_and_fence();
            let at = state.at.as_ref();
            ConcludeInput {
                table,
                fence,
                position: at.map(TableState::concluded).unwrap_or_default(),
            }
        });
        ctx.execute_activity(Activities::conclude, input, conclude_options())
            .await?;
        Ok(())
    }

    /// One round of a sync: who writes, then gaps, a second look at what is not settled, and what is new.
    async fn round(ctx: &WorkflowContext<Self>) -> Result<(), Stop> {
        // Before both passes: what they see is then at least what was visible when the writers were noted.
        if ctx.state(|state| state.at.as_ref().is_some_and(|at| at.round.is_none())) {
            let input = ctx.state(Self::note_writers_input);
            let found = ctx
                .execute_activity(Activities::note_writers, input, note_writers_options())
                .await?;
            ctx.state_mut(|state| state.at.as_mut().map(|at| at.begin_round(found)));
        }
        let Some(round) = ctx.state(|state| state.at.as_ref().and_then(|at| at.round.clone())) else {
            return Ok(());
        };
        let gap_stop = ctx.state(|state| state.at.as_ref().and_then(TableState::gap_stop));
        if let Some(stop) = gap_stop {
            Self::copy(ctx, stop).await?;
        }
        let Looked {
            looked_to, frontier, ..
        } = round.looked;
        if let Some(frontier) = frontier {
            Self::look(ctx, looked_to, frontier).await?;
        }
        if let Some(highest) = round.found.now.key.clone() {
            Self::copy(ctx, highest).await?;
        }
        ctx.state_mut(|state| {
            state.prepared_in_vain = 0;
            state.at.as_mut().map(|at| at.settle(round.found))
        });
        Ok(())
    }

    /// Lets time pass, less of it if the job is canceled meanwhile, or the state `is_otherwise`.
    ///
    /// The timer has a token of its own, canceled only once the activation is taken in: where the workflow's cancellation and
    /// the end of a timer of its token come in one activation, in this order, the SDK has forgotten the timer when it hears
    /// of its end, and panics, attempt after attempt.
    async fn rest(ctx: &WorkflowContext<Self>, time: Duration, is_otherwise: impl Fn(&Self) -> bool) {
        let token = WorkflowCancellationToken::new();
        let options = TimerOptions::builder(time)
            .cancellation_token(token.clone())
            .build();
        let mut timer = pin!(ctx.timer(options));
        let mut canceled = pin!(ctx.cancelled());
        let mut otherwise = pin!(ctx.wait_condition(is_otherwise));
        poll_fn(|cx| {
            let is_over = timer.as_mut().poll(cx).is_ready()
                || canceled.as_mut().poll(cx).is_ready()
                || otherwise.as_mut().poll(cx).is_ready();
            if is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        // Of no effect on a timer that has fired.
        token.cancel();
    }

    /// Notes when the next round begins, and continues as new if the history has grown enough.
    fn fall_asleep(ctx: &WorkflowContext<Self>) -> Result<(), Stop> {
        let now_ms = now_ms(ctx);
        ctx.state_mut(|state| {
            let until_ms = now_ms.saturating_add(state.interval_ms());
            if let Some(at) = &mut state.at {
                at.sleep_until_ms = Some(until_ms);
            }
        });
        if ctx.continue_as_new_suggested() {
            return Err(Self::go_on_as_new(ctx));
        }
        Ok(())
    }

    /// Sleeps until the next round begins: the rest of the interval, however often the process was restarted meanwhile.
    async fn sleep_out(ctx: &WorkflowContext<Self>) -> Result<(), WorkflowTermination> {
        let mut until_ms = ctx.state_mut(|state| state.at.as_mut().and_then(|at| at.sleep_until_ms.take()));
        while let Some(until) = until_ms {
            ctx.state_mut(|state| (state.phase, state.next_run_ms) = (Phase::Sleeping, Some(until)));
            let interval_ms = ctx.state(Self::interval_ms);
            let rest = Duration::from_millis(until.saturating_sub(now_ms(ctx)));
            if rest > Duration::ZERO {
                Self::rest(ctx, rest, |state| state.interval_ms() != interval_ms).await;
            }
            let tuned_ms = ctx.state(Self::interval_ms);
            let goes_on = tuned_ms != interval_ms && !ctx.cancellation_token().is_cancelled();
            // Another interval counts from where the sleep began.
            until_ms = goes_on.then(|| until.saturating_sub(interval_ms).saturating_add(tuned_ms));
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
    pub(super) fn go_on_as_new(ctx: &WorkflowContext<Self>) -> Stop {
        let input = ctx.state(|state| JobInput {
            spec: state.spec.clone(),
            paused: state.paused,
            state: state.at.clone(),
            verifying: state.verifying.clone(),
            known: None,
            found: None,
        });
        match ctx.continue_as_new(input, ContinueAsNewOptions::default()) {
            Ok(never) => match never {},
            Err(termination) => Stop::Ended(termination),
        }
    }

    /// The wait between two rounds; 0 for a job that has none.
    fn interval_ms(&self) -> u64 {
        self.spec.kind.interval_ms().unwrap_or(0)
    }

    fn prepare_input(&self) -> PrepareInput {
        let sync = matches!(self.spec.kind, Kind::Sync { .. });
        let at = self.at.as_ref();
        PrepareInput {
            table: self.spec.table_spec(),
            sync,
            looked: at.and_then(|at| at.looked(sync)),
            witnesses: at.map(|at| at.told.now().to_vec()).unwrap_or_default(),
            lookback: self.spec.lookback_keys.is_some(),
            known: match &self.at {
                Some(at) => Some(at.position.clone()),
                None => self.known.clone(),
            },
        }
    }

    fn note_writers_input(&self) -> NoteWritersInput {
        let (table, fence) = self.table_and_fence();
        let at = self.at.as_ref();
        NoteWritersInput {
            table,
            fence,
            settled: at.and_then(|at| at.position.settled.clone()),
            clock: at.and_then(|at| at.clock),
            noted: at.and_then(|at| at.noted.clone()),
            lookback_keys: self.spec.lookback_keys,
        }
    }

    /// What every activity that writes is told. Only asked of a table that is prepared.
    pub(super) fn table_and_fence(&self) -> (TableSpec, Fence) {
        let fence = self.at.as_ref().map(TableState::fence);
        (
            self.spec.table_spec(),
            fence.expect("what writes comes after the table was prepared"),
        )
    }

    fn to_progress(&self) -> Progress {
        let at = self.at.as_ref();
        let verifying = self.verifying.as_ref();
        let plan = at
            .map(|at| &at.plan)
            .or(verifying.map(|verifying| &verifying.prepared.plan));
        let position = at.map(|at| &at.position);
        let noted = at.and_then(|at| at.noted.as_ref());
        let round = at.and_then(|at| at.round.as_ref());
        let looked = round
            .map(|round| &round.looked)
            .filter(|_| self.phase == Phase::Looking);
        Progress {
            spec: self.spec.clone(),
            phase: self.phase,
            paused: self.paused,
            in_flight: self.in_flight,
            source_table: plan.map_or(&self.spec.source_table, |plan| &plan.source).clone(),
            target_table: plan.map_or(&self.spec.target_table, |plan| &plan.target).clone(),
            rows_estimate: verifying
                .filter(|_| at.is_none())
                .and_then(|verifying| verifying.prepared.rows)
                .or(plan.and_then(|plan| plan.rows_estimate)),
            tally: position
                .map(|position| position.tally)
                .or(verifying.map(VerifyState::tally))
                .or(self.found)
                .or(self.known.as_ref().map(|known| known.tally))
                .unwrap_or_default(),
            begun: position.map_or(0, |position| position.begun),
            told: self.known.clone().filter(|_| at.is_none()),
            found: at.map(|at| at.found).unwrap_or_default(),
            lost: at.map(|at| at.lost.clone()).unwrap_or_default(),
            prepared_again: at.map_or(0, |at| at.prepared_again),
            copied: position.and_then(|position| position.copied.clone()),
            until: at.and_then(|at| at.until.clone()),
            looked_to: looked.and_then(|looked| looked.looked_to.clone()),
            looks_to: looked.and_then(|looked| looked.frontier.clone()),
            settled: position
                .filter(|_| matches!(self.spec.kind, Kind::Sync { .. }))
                .and_then(|position| position.settled.clone()),
            pace: self.pace.clone(),
            next_run_ms: self.next_run_ms,
            rounds: at.map_or(0, |at| at.rounds),
            held_back_by: noted.map_or_else(Vec::new, |noted| {
                noted.holders.iter().map(ToString::to_string).collect()
            }),
            findings: verifying.map(|verifying| verifying.findings.clone()),
        }
    }
}

/// The workflow's time, which a replay gives again, in milliseconds of Unix time.
pub(super) fn now_ms(ctx: &WorkflowContext<CopyTable>) -> u64 {
    let now = ctx.workflow_time();
    let since = now.and_then(|now| now.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
