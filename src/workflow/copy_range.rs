//! The loop of `MigrateTable`: plans batches one ahead, keeps up to `concurrency` of them in flight, and looks up at every
//! signal. Deterministic: what is ready is taken in the order in which it was begun.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::future::LocalBoxFuture;
use temporalio_workflow::{
    ActivityExecutionError, WaitConditionOptions, WorkflowCancellationToken, WorkflowContext,
    WorkflowTermination,
};

use super::migrate_table::MigrateTable;
use super::pace::batch_rows;
use super::progress::Phase;
use crate::activity::{
    Activities, CopyBatchInput, CopyBatchOutput, NextBatchInput, NextBatchOutput, TableJob,
    copy_batch_options, next_batch_options,
};
use crate::table::{Key, KeyRange};

type Answer<'a, T> = LocalBoxFuture<'a, Result<T, ActivityExecutionError>>;

/// What ends a wait.
enum News {
    Planned(Result<NextBatchOutput, ActivityExecutionError>),
    Copied(usize, Result<CopyBatchOutput, ActivityExecutionError>),
    Poked,
    Canceled,
}

/// One pass over the keys between two.
struct Pass<'a> {
    ctx: &'a WorkflowContext<MigrateTable>,
    /// 0 copies; a later pass adds what the target lacks.
    pass: u16,
    /// Where planning has come to.
    low: Option<Key>,
    stop: Option<Key>,
    next: Option<Answer<'a, NextBatchOutput>>,
    planned: Option<KeyRange>,
    copies: Vec<(KeyRange, Answer<'a, CopyBatchOutput>)>,
    /// Batches that came back before one that begins below them.
    early: Vec<KeyRange>,
    exhausted: bool,
    /// Lets what is in flight end when one batch has failed for good.
    token: WorkflowCancellationToken,
    canceled: bool,
    failed: Option<ActivityExecutionError>,
}

impl MigrateTable {
    /// Copies everything beyond the cursor, to `stop` if there is one.
    pub(super) async fn copy_new(
        ctx: &WorkflowContext<Self>,
        stop: Option<Key>,
    ) -> Result<(), WorkflowTermination> {
        ctx.state_mut(|state| state.phase = Phase::Copying);
        let low = ctx.state(|state| state.at.as_ref().and_then(|at| at.cursor.clone()));
        Pass::new(ctx, 0, low, stop).run().await
    }

    /// Looks again at the keys after `low`, up to `stop`.
    pub(super) async fn look_again(
        ctx: &WorkflowContext<Self>,
        low: Option<Key>,
        stop: Key,
    ) -> Result<(), WorkflowTermination> {
        ctx.state_mut(|state| state.phase = Phase::Looking);
        Pass::new(ctx, 1, low, Some(stop)).run().await
    }

    pub(super) fn table_job(&self) -> TableJob {
        TableJob::of(&self.spec)
    }
}

impl<'a> Pass<'a> {
    fn new(ctx: &'a WorkflowContext<MigrateTable>, pass: u16, low: Option<Key>, stop: Option<Key>) -> Self {
        let now = ctx.workflow_time();
        ctx.state_mut(|state| state.pace.begin(now));
        Self {
            ctx,
            pass,
            low,
            stop,
            next: None,
            planned: None,
            copies: Vec::new(),
            early: Vec::new(),
            exhausted: false,
            token: ctx.cancellation_token().child_token(),
            canceled: false,
            failed: None,
        }
    }

    async fn run(mut self) -> Result<(), WorkflowTermination> {
        loop {
            let ending = self.canceled || self.failed.is_some();
            let renewing = self.ctx.continue_as_new_suggested();
            let paused = self.ctx.state(|state| state.paused);
            if !ending && !renewing && !paused {
                self.begin();
            }
            self.ctx
                .state_mut(|state| state.in_flight = u32::try_from(self.copies.len()).unwrap_or(u32::MAX));
            if self.copies.is_empty() && self.next.is_none() {
                if let Some(failed) = self.failed {
                    return Err(failed.into());
                }
                if self.canceled {
                    return Err(WorkflowTermination::cancelled());
                }
                if self.exhausted && self.planned.is_none() {
                    return Ok(());
                }
                if renewing {
                    MigrateTable::go_on_as_new(self.ctx)?;
                }
            }
            match self.news().await {
                News::Planned(planned) => self.plan(planned),
                News::Copied(index, receipt) => self.take(index, receipt),
                News::Poked => {}
                News::Canceled => self.canceled = true,
            }
        }
    }

    /// Begins what may begin: batches that are planned, and the planning of one more.
    fn begin(&mut self) {
        loop {
            let concurrency = self.ctx.state(|state| state.spec.tuning.concurrency);
            if let Some(range) = self.planned.take_if(|_| self.copies.len() < concurrency as usize) {
                self.begin_copy(range);
            } else if self.next.is_none() && self.planned.is_none() && !self.exhausted {
                self.skip_done();
                if self.stop.is_some() && self.low == self.stop {
                    self.exhausted = true;
                    return;
                }
                self.begin_next();
                return;
            } else {
                return;
            }
        }
    }

    /// Jumps over ranges that the ledger had when the job was prepared.
    fn skip_done(&mut self) {
        if self.pass > 0 {
            return;
        }
        let done = |state: &mut MigrateTable, low: &Option<Key>| {
            let at = state.at.as_mut()?;
            let index = at.done.iter().position(|range| range.low == *low)?;
            Some(at.done.remove(index))
        };
        while let Some(range) = self.ctx.state_mut(|state| done(state, &self.low)) {
            self.low = Some(range.high.clone());
            self.advance(range);
        }
    }

    fn begin_next(&mut self) {
        let input = self.ctx.state(|state| {
            let at = state.at.as_ref();
            // A batch ends at the latest where the next range of the ledger begins.
            let done = at
                .filter(|_| self.pass == 0)
                .and_then(|at| at.done.first())
                .and_then(|range| range.low.clone());
            let measured = at
                .filter(|at| at.rows_done > 0)
                .map(|at| at.bytes_done / at.rows_done);
            NextBatchInput {
                table: state.table_job(),
                low: self.low.clone(),
                stop: done.or_else(|| self.stop.clone()),
                rows: batch_rows(
                    &state.spec.tuning,
                    measured.or(at.and_then(|at| at.row_bytes_estimate)),
                ),
            }
        });
        let mut options = next_batch_options();
        options.cancellation_token = Some(self.token.clone());
        self.next = Some(Box::pin(self.ctx.execute_activity(
            Activities::next_batch,
            input,
            options,
        )));
    }

    fn plan(&mut self, planned: Result<NextBatchOutput, ActivityExecutionError>) {
        self.next = None;
        match planned {
            Ok(Some(high)) => {
                self.planned = Some(KeyRange {
                    low: self.low.replace(high.clone()),
                    high,
                });
            }
            Ok(None) => self.exhausted = true,
            Err(error) => self.fail(error),
        }
    }

    fn begin_copy(&mut self, range: KeyRange) {
        let input = self.ctx.state_mut(|state| {
            let table = state.table_job();
            let max_rate_bytes_per_second = state.spec.tuning.max_rate_bytes_per_second;
            let (epoch, batch) = state.at.as_mut().map_or((0, 0), |at| {
                at.next_batch += 1;
                (at.epoch, at.next_batch - 1)
            });
            CopyBatchInput {
                table,
                epoch,
                batch,
                pass: self.pass,
                range: range.clone(),
                max_rate_bytes_per_second,
            }
        });
        let mut options = copy_batch_options();
        options.cancellation_token = Some(self.token.clone());
        self.copies.push((
            range,
            Box::pin(self.ctx.execute_activity(Activities::copy_batch, input, options)),
        ));
    }

    fn take(&mut self, index: usize, receipt: Result<CopyBatchOutput, ActivityExecutionError>) {
        let (range, _) = self.copies.remove(index);
        match receipt {
            Ok(receipt) => {
                let now = self.ctx.workflow_time();
                self.ctx.state_mut(|state| {
                    state.count(&receipt, self.pass);
                    state.pace.add(now, receipt.rows, receipt.bytes);
                });
                self.advance(range);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Moves the cursor over everything that is done without a gap.
    fn advance(&mut self, range: KeyRange) {
        self.early.push(range);
        self.ctx.state_mut(|state| {
            let Some(at) = &mut state.at else { return };
            let cursor = match &mut at.round {
                Some(round) if self.pass > 0 => &mut round.looked_to,
                _ => &mut at.cursor,
            };
            while let Some(index) = self.early.iter().position(|range| range.low == *cursor) {
                *cursor = Some(self.early.swap_remove(index).high);
            }
        });
    }

    fn fail(&mut self, error: ActivityExecutionError) {
        // What a canceled job's batches say on their way out does not make it a failed one.
        if error.as_cancelled().is_some() || self.canceled {
            return;
        }
        self.token.cancel_with_reason("another batch failed");
        self.failed.get_or_insert(error);
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
        let mut canceled = pin!(self.ctx.cancelled());
        let (copies, next, known) = (&mut self.copies, &mut self.next, self.canceled);
        poll_fn(move |cx| {
            for (index, (_, copy)) in copies.iter_mut().enumerate() {
                if let Poll::Ready(receipt) = copy.as_mut().poll(cx) {
                    return Poll::Ready(News::Copied(index, receipt));
                }
            }
            if let Some(Poll::Ready(planned)) = next.as_mut().map(|next| next.as_mut().poll(cx)) {
                return Poll::Ready(News::Planned(planned));
            }
            if !known && canceled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(News::Canceled);
            }
            poked.as_mut().poll(cx).map(|_| News::Poked)
        })
        .await
    }
}
