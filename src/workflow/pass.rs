//! Carries out one pass over a stretch of keys: asks the scheduler what is to be done, begins the activities, and tells it
//! what became of them. Deterministic: what is ready is taken in the order in which it was begun.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::future::LocalBoxFuture;
use temporalio_workflow::common::error::ApplicationFailure;
use temporalio_workflow::{
    ActivityExecutionError, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowTermination,
};

use super::copy_table::CopyTable;
use super::pace::{batch_rows, look_rows};
use super::progress::Phase;
use super::scheduler::{Action, Event, Outcome, Scheduler, Setback};
use super::state::TableState;
use crate::activity::{
    Activities, CopyBatchInput, CopyBatchOutput, Failure, NextBatchInput, NextBatchOutput,
    copy_batch_options, next_batch_options,
};
use crate::table::{Batch, Key, KeyRange, Pass, Tally};

type Answer<'a, T> = LocalBoxFuture<'a, Result<T, ActivityExecutionError>>;

/// Why a run of the workflow does not just go on.
pub(super) enum Stop {
    /// The workflow ends, or goes on in a new run.
    Ended(WorkflowTermination),
    /// The table is to be prepared again.
    PrepareAgain,
}

impl From<WorkflowTermination> for Stop {
    fn from(termination: WorkflowTermination) -> Self {
        Self::Ended(termination)
    }
}

impl From<ActivityExecutionError> for Stop {
    fn from(error: ActivityExecutionError) -> Self {
        match setback(&error) {
            Setback::PrepareAgain => Self::PrepareAgain,
            Setback::ForGood | Setback::Canceled => Self::Ended(error.into()),
        }
    }
}

/// What a failed activity means for the pass.
fn setback(error: &ActivityExecutionError) -> Setback {
    if error.as_cancelled().is_some() {
        Setback::Canceled
    } else if Failure::in_error(error).is_some_and(|failure| failure.asks_to_prepare_again()) {
        Setback::PrepareAgain
    } else {
        Setback::ForGood
    }
}

/// What ends a wait.
enum News {
    Planned(Result<NextBatchOutput, ActivityExecutionError>),
    Batch(usize, Result<CopyBatchOutput, ActivityExecutionError>),
    /// A signal, an update, a cancellation: the workflow's state says which.
    Poked,
}

struct InFlight<'a> {
    number: u64,
    /// The batches that it vouches for once it is confirmed.
    carried: Vec<u64>,
    answer: Answer<'a, CopyBatchOutput>,
}

/// A pass that goes on.
struct Running<'a> {
    ctx: &'a WorkflowContext<CopyTable>,
    pass: Pass,
    scheduler: Scheduler,
    planning: Option<Answer<'a, NextBatchOutput>>,
    /// In the order in which they were begun.
    batches: Vec<InFlight<'a>>,
    /// Lets what is in flight end when one batch has failed for good.
    token: WorkflowCancellationToken,
    failed: Option<ActivityExecutionError>,
}

impl CopyTable {
    /// Copies everything beyond the cursor that is not done yet, up to `stop`.
    pub(super) async fn copy(ctx: &WorkflowContext<Self>, stop: Key) -> Result<(), Stop> {
        ctx.state_mut(|state| state.phase = Phase::Copying);
        let start = |at: &TableState| (at.position.copied.clone(), at.position.beyond.clone());
        let (low, done) = ctx.state(|state| state.at.as_ref().map(start).unwrap_or_default());
        Running::new(ctx, Pass::Copy, low, stop, done).run().await
    }

    /// Looks again at the keys after `low`, up to `stop`.
    pub(super) async fn look(ctx: &WorkflowContext<Self>, low: Option<Key>, stop: Key) -> Result<(), Stop> {
        ctx.state_mut(|state| state.phase = Phase::Looking);
        Running::new(ctx, Pass::Look, low, stop, Vec::new()).run().await
    }
}

impl<'a> Running<'a> {
    fn new(
        ctx: &'a WorkflowContext<CopyTable>,
        pass: Pass,
        low: Option<Key>,
        stop: Key,
        done: Vec<KeyRange>,
    ) -> Self {
        let now = ctx.workflow_time();
        let (number, concurrency) = ctx.state_mut(|state| {
            state.pace.begin(now);
            let number = state.at.as_ref().map_or(0, |at| at.position.next_batch);
            (number, state.spec.tuning.concurrency)
        });
        Self {
            ctx,
            pass,
            scheduler: Scheduler::new(low, stop, done, number, concurrency),
            planning: None,
            batches: Vec::new(),
            token: ctx.cancellation_token().child_token(),
            failed: None,
        }
    }

    async fn run(mut self) -> Result<(), Stop> {
        loop {
            self.look_up();
            if let Some(outcome) = self.scheduler.outcome() {
                return self.end(outcome);
            }
            let news = self.news().await;
            // A cancellation that came with it is heard first: what was told to end has not failed.
            if self.ctx.cancellation_token().is_cancelled() {
                self.tell(Event::Canceled);
            }
            self.take(news);
        }
    }

    /// Tells the scheduler how the job stands now.
    fn look_up(&mut self) {
        if self.ctx.cancellation_token().is_cancelled() {
            self.tell(Event::Canceled);
        }
        if self.ctx.continue_as_new_suggested() {
            self.tell(Event::RenewalSuggested);
        }
        let (paused, concurrency) = self
            .ctx
            .state(|state| (state.paused, state.spec.tuning.concurrency));
        self.tell(Event::Paused(paused));
        self.tell(Event::Concurrency(concurrency));
    }

    /// Tells the scheduler what happened, does what it asks for, and notes where it stands.
    fn tell(&mut self, event: Event) {
        for action in self.scheduler.on(event) {
            match action {
                Action::Plan { low, stop } => self.plan(low, stop),
                Action::Begin { number, range } => self.begin(number, range),
                Action::CancelInFlight => self.token.cancel_with_reason("another batch failed"),
            }
        }
        let (scheduler, pass) = (&self.scheduler, self.pass);
        self.ctx.state_mut(|state| {
            state.in_flight = scheduler.in_flight();
            let Some(at) = &mut state.at else { return };
            at.position.next_batch = scheduler.next_number();
            match (pass, &mut at.round) {
                (Pass::Look, Some(round)) => round.looked_to = scheduler.cursor().cloned(),
                (Pass::Look, None) => {}
                (Pass::Copy | Pass::Repair, _) => {
                    at.position.copied = scheduler.cursor().cloned();
                    at.position.beyond = scheduler.beyond();
                }
            }
        });
    }

    fn take(&mut self, news: News) {
        match news {
            News::Poked => {}
            News::Planned(planned) => {
                self.planning = None;
                match planned {
                    Ok(high) => self.tell(Event::Planned(high)),
                    Err(error) => {
                        let setback = self.set_back(error);
                        self.tell(Event::PlanFailed(setback));
                    }
                }
            }
            News::Batch(index, answer) => {
                let InFlight { number, carried, .. } = self.batches.remove(index);
                match answer {
                    Ok(tally) => {
                        self.confirm(number, &carried, tally);
                        self.tell(Event::BatchDone(number));
                    }
                    Err(error) => {
                        let setback = self.set_back(error);
                        self.tell(Event::BatchFailed(number, setback));
                    }
                }
            }
        }
    }

    fn confirm(&self, number: u64, carried: &[u64], tally: Tally) {
        let (now, pass) = (self.ctx.workflow_time(), self.pass);
        self.ctx.state_mut(|state| {
            state.pace.add(now, tally.rows, tally.bytes);
            state.prepared_in_vain = 0;
            if let Some(at) = &mut state.at {
                at.confirm(pass, number, carried, tally);
            }
        });
    }

    /// Keeps the first error that can end the job: those that follow are of what was told to end.
    fn set_back(&mut self, error: ActivityExecutionError) -> Setback {
        let setback = setback(&error);
        if setback != Setback::PrepareAgain {
            self.failed.get_or_insert(error);
        }
        setback
    }

    fn plan(&mut self, low: Option<Key>, stop: Key) {
        let pass = self.pass;
        let input = self.ctx.state(|state| {
            let at = state.at.as_ref();
            let rows = if pass == Pass::Look { look_rows } else { batch_rows };
            NextBatchInput {
                table: state.spec.table_spec(),
                digest: at.map(|at| at.plan.digest.clone()).unwrap_or_default(),
                low,
                stop: Some(stop),
                rows: rows(&state.spec.tuning, at.and_then(TableState::row_bytes)),
            }
        });
        let mut options = next_batch_options();
        options.cancellation_token = Some(self.token.clone());
        self.planning = Some(Box::pin(self.ctx.execute_activity(
            Activities::next_batch,
            input,
            options,
        )));
    }

    fn begin(&mut self, number: u64, range: KeyRange) {
        let (table, fence) = self.ctx.state(CopyTable::table_and_fence);
        let carried = fence.witnesses.clone();
        let batch = Batch {
            number,
            pass: self.pass,
            range,
        };
        let input = CopyBatchInput { table, fence, batch };
        let mut options = copy_batch_options();
        options.cancellation_token = Some(self.token.clone());
        let answer = self.ctx.execute_activity(Activities::copy_batch, input, options);
        self.batches.push(InFlight {
            number,
            carried,
            answer: Box::pin(answer),
        });
    }

    /// Waits for the first thing that happens, in the order in which things were begun.
    async fn news(&mut self) -> News {
        let seen = self.ctx.state(|state| state.pokes);
        let mut options = WaitConditionOptions::default();
        // A canceled job must still hear of its batches: this wait does not end with the workflow's token.
        options.cancellation_token = Some(WorkflowCancellationToken::new());
        let mut poked = pin!(
            self.ctx
                .wait_condition_with_options(move |state| state.pokes != seen, options)
        );
        let is_known = self.ctx.cancellation_token().is_cancelled();
        let mut canceled = pin!(self.ctx.cancelled());
        let (batches, planning) = (&mut self.batches, &mut self.planning);
        poll_fn(move |cx| {
            for (index, batch) in batches.iter_mut().enumerate() {
                if let Poll::Ready(answer) = batch.answer.as_mut().poll(cx) {
                    return Poll::Ready(News::Batch(index, answer));
                }
            }
            if let Some(Poll::Ready(planned)) = planning.as_mut().map(|next| next.as_mut().poll(cx)) {
                return Poll::Ready(News::Planned(planned));
            }
            if !is_known && canceled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(News::Poked);
            }
            poked.as_mut().poll(cx).map(|_| News::Poked)
        })
        .await
    }

    /// Nothing is in flight.
    fn end(self, outcome: Outcome) -> Result<(), Stop> {
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Canceled => Err(WorkflowTermination::cancelled().into()),
            Outcome::PrepareAgain => Err(Stop::PrepareAgain),
            Outcome::Renew => Err(CopyTable::go_on_as_new(self.ctx)),
            Outcome::Failed => {
                let ended = self.failed.map_or_else(out_of_order, WorkflowTermination::from);
                Err(Stop::Ended(ended))
            }
        }
    }
}

/// The scheduler alone found that it cannot go on.
fn out_of_order() -> WorkflowTermination {
    let failure = Failure {
        side: "source".to_owned(),
        kind: "KeysOutOfOrder".to_owned(),
        message: "what the ledger has does not join up: the source orders its keys otherwise than it did"
            .to_owned(),
        hint: "see whether the collation of the key was changed, reindex it, and begin afresh with --restart"
            .to_owned(),
        prepare_again: false,
    };
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(failure.kind.clone())
        .non_retryable(true)
        .details(failure)
        .build();
    WorkflowTermination::failed_application(answer)
}
