//! Runs one pass over a stretch of keys: asks the scheduler what is to be done, begins the activities, and tells it
//! what became of them. Deterministic: what is ready is taken in the order in which it was begun.
//!
//! What is done with a range is the pass's [`Work`]: it is copied, looked at again, or verified.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::future::LocalBoxFuture;
use temporalio_workflow::common::error::ApplicationFailure;
use temporalio_workflow::{
    ActivityExecutionError, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowTermination,
};

use super::copy_table::{CopyTable, now_ms};
use super::pace::Moved;
use super::scheduler::{Action, Event, Outcome, Scheduler, Setback};
use crate::activity::{Failure, Timed};
use crate::table::{Key, KeyRange};

/// What an activity will have answered.
pub(super) type Answer<'a, T> = LocalBoxFuture<'a, Result<T, ActivityExecutionError>>;

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

/// What a pass does with the ranges that it goes over.
pub(super) trait Work<'a> {
    /// What comes back of a range.
    type Done: 'a;

    /// Finds the key that ends the next range.
    fn plan(
        &self,
        ctx: &'a WorkflowContext<CopyTable>,
        low: Option<Key>,
        stop: Key,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Option<Key>>;

    /// Begins a range.
    fn begin(
        &mut self,
        ctx: &'a WorkflowContext<CopyTable>,
        number: u64,
        range: KeyRange,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Timed<Self::Done>>;

    /// Rows and bytes that moved for what came back.
    fn moved(done: &Self::Done) -> (u64, u64);

    /// Takes what came back of the range of that number.
    fn take(&mut self, ctx: &WorkflowContext<CopyTable>, number: u64, done: Self::Done);

    /// Notes in the workflow's state where the pass stands.
    fn note(&self, ctx: &WorkflowContext<CopyTable>, scheduler: &Scheduler);
}

/// What ends a wait.
enum News<T> {
    Planned(Result<Option<Key>, ActivityExecutionError>),
    Batch(u64, Result<Timed<T>, ActivityExecutionError>),
    /// A signal, an update, a cancellation: the workflow's state says which.
    Poked,
}

/// A pass that goes on.
pub(super) struct Running<'a, W: Work<'a>> {
    ctx: &'a WorkflowContext<CopyTable>,
    work: W,
    scheduler: Scheduler,
    planning: Option<Answer<'a, Option<Key>>>,
    /// In the order in which they were begun.
    batches: Vec<(u64, Answer<'a, Timed<W::Done>>)>,
    /// When each batch in flight was begun, in milliseconds of Unix time.
    begun_ms: BTreeMap<u64, u64>,
    /// Lets what is in flight end when one batch has failed for good.
    token: WorkflowCancellationToken,
    failed: Option<ActivityExecutionError>,
}

impl<'a, W: Work<'a>> Running<'a, W> {
    /// A pass over the keys after `low`, up to `stop`, past the ranges of `done`.
    pub(super) fn new(
        ctx: &'a WorkflowContext<CopyTable>,
        work: W,
        low: Option<Key>,
        stop: Key,
        done: Vec<KeyRange>,
        next_number: u64,
    ) -> Self {
        let now_ms = now_ms(ctx);
        let concurrency = ctx.state_mut(|state| {
            state.pace.begin(now_ms);
            state.spec.tuning.concurrency
        });
        Self {
            ctx,
            work,
            scheduler: Scheduler::new(low, stop, done, next_number, concurrency),
            planning: None,
            batches: Vec::new(),
            begun_ms: BTreeMap::new(),
            token: ctx.cancellation_token().child_token(),
            failed: None,
        }
    }

    /// Goes over all of it.
    pub(super) async fn run(mut self) -> Result<(), Stop> {
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
                Action::Plan { low, stop } => {
                    self.planning = Some(self.work.plan(self.ctx, low, stop, self.token.clone()));
                }
                Action::Begin { number, range } => {
                    let answer = self.work.begin(self.ctx, number, range, self.token.clone());
                    self.batches.push((number, answer));
                    self.begun_ms.insert(number, now_ms(self.ctx));
                }
                Action::CancelInFlight => self.token.cancel_with_reason("another batch failed"),
            }
        }
        let in_flight = self.scheduler.in_flight();
        self.ctx.state_mut(|state| state.in_flight = in_flight);
        self.work.note(self.ctx, &self.scheduler);
    }

    fn take(&mut self, news: News<W::Done>) {
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
            News::Batch(number, answer) => {
                self.batches.retain(|(other, _)| *other != number);
                let begun_ms = self.begun_ms.remove(&number);
                match answer {
                    Ok(Timed { done, took_ms }) => {
                        let (rows, bytes) = W::moved(&done);
                        let ended_ms = now_ms(self.ctx);
                        let attempt_ms = took_ms.map(|took_ms| ended_ms.saturating_sub(took_ms));
                        let began_ms = attempt_ms.or(begun_ms).unwrap_or(ended_ms);
                        let moved = Moved {
                            began_ms,
                            ended_ms,
                            rows,
                            bytes,
                        };
                        self.ctx.state_mut(|state| state.pace.add(moved));
                        self.work.take(self.ctx, number, done);
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

    /// Keeps the first error that can end the job: those that follow are of what was told to end.
    fn set_back(&mut self, error: ActivityExecutionError) -> Setback {
        let setback = setback(&error);
        if setback != Setback::PrepareAgain {
            self.failed.get_or_insert(error);
        }
        setback
    }

    /// Waits for the first thing that happens, in the order in which things were begun.
    async fn news(&mut self) -> News<W::Done> {
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
            for (number, answer) in batches.iter_mut() {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(News::Batch(*number, answer));
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
        hint: "see whether the collation of the key was changed, reindex it, and begin the migrate or sync afresh with --restart"
            .to_owned(),
        prepare_again: false,
        since_ms: None,
        process: None,
    };
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(failure.kind.clone())
        .non_retryable(true)
        .details(failure)
        .build();
    WorkflowTermination::failed_application(answer)
}
