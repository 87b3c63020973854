//! Passes that copy: ranges for the first time, or another look at them for rows that came late.

use std::collections::BTreeMap;

use temporalio_workflow::{WorkflowCancellationToken, WorkflowContext};

use super::copy_table::CopyTable;
use super::pace::{batch_rows, look_rows};
use super::pass::{Answer, Running, Stop, Work};
use super::progress::Phase;
use super::scheduler::Scheduler;
use super::state::{Carried, TableState};
use crate::activity::{
    Activities, CopyBatchInput, NextBatchInput, Timed, copy_batch_options, next_batch_options,
};
use crate::table::{Batch, Key, KeyRange, Pass, Tally};

impl CopyTable {
    /// Copies everything beyond the cursor that is not done yet, up to `stop`.
    pub(super) async fn copy(ctx: &WorkflowContext<Self>, stop: Key) -> Result<(), Stop> {
        ctx.state_mut(|state| state.phase = Phase::Copying);
        let start = |at: &TableState| (at.position.copied.clone(), at.position.beyond.clone());
        let (low, done) = ctx.state(|state| state.at.as_ref().map(start).unwrap_or_default());
        Self::go_over(ctx, Pass::Copy, low, stop, done).await
    }

    /// Looks again at the keys after `low`, up to `stop`.
    pub(super) async fn look(ctx: &WorkflowContext<Self>, low: Option<Key>, stop: Key) -> Result<(), Stop> {
        ctx.state_mut(|state| state.phase = Phase::Looking);
        Self::go_over(ctx, Pass::Look, low, stop, Vec::new()).await
    }

    async fn go_over(
        ctx: &WorkflowContext<Self>,
        pass: Pass,
        low: Option<Key>,
        stop: Key,
        done: Vec<KeyRange>,
    ) -> Result<(), Stop> {
        let number = ctx.state(|state| state.at.as_ref().map_or(0, |at| at.position.next_batch));
        let work = Copying {
            pass,
            carried: BTreeMap::new(),
        };
        Running::new(ctx, work, low, stop, done, number).run().await
    }
}

struct Copying {
    pass: Pass,
    /// What each batch in flight took along.
    carried: BTreeMap<u64, Carried>,
}

impl<'a> Work<'a> for Copying {
    type Done = Tally;

    fn plan(
        &self,
        ctx: &'a WorkflowContext<CopyTable>,
        low: Option<Key>,
        stop: Key,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Option<Key>> {
        let rows = match self.pass {
            Pass::Look => look_rows,
            Pass::Copy => batch_rows,
        };
        let input = ctx.state(|state| {
            let at = state.at.as_ref();
            NextBatchInput {
                table: state.spec.table_spec(),
                digest: at.map(|at| at.plan.digest.clone()).unwrap_or_default(),
                low,
                stop: Some(stop),
                rows: rows(&state.spec.tuning, at.and_then(TableState::row_bytes)),
            }
        });
        let mut options = next_batch_options();
        options.cancellation_token = Some(token);
        Box::pin(ctx.execute_activity(Activities::next_batch, input, options))
    }

    fn begin(
        &mut self,
        ctx: &'a WorkflowContext<CopyTable>,
        number: u64,
        range: KeyRange,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Timed<Tally>> {
        let (table, fence) = ctx.state(CopyTable::table_and_fence);
        let looked_to = ctx.state(|state| {
            let round = state.at.as_ref().and_then(|at| at.round.as_ref());
            round.and_then(|round| round.looked.looked_to.clone())
        });
        let witnesses = fence.witnesses.clone();
        self.carried.insert(number, Carried { witnesses, looked_to });
        let batch = Batch {
            number,
            pass: self.pass,
            range,
        };
        let input = CopyBatchInput { table, fence, batch };
        let mut options = copy_batch_options();
        options.cancellation_token = Some(token);
        Box::pin(ctx.execute_activity(Activities::copy_batch, input, options))
    }

    fn moved(tally: &Tally) -> (u64, u64) {
        (tally.rows, tally.bytes)
    }

    fn take(&mut self, ctx: &WorkflowContext<CopyTable>, number: u64, tally: Tally) {
        let pass = self.pass;
        let carried = self.carried.remove(&number).unwrap_or_default();
        ctx.state_mut(|state| {
            state.prepared_in_vain = 0;
            if let Some(at) = &mut state.at {
                at.confirm(pass, number, carried, tally);
            }
        });
    }

    fn note(&self, ctx: &WorkflowContext<CopyTable>, scheduler: &Scheduler) {
        ctx.state_mut(|state| {
            let Some(at) = &mut state.at else { return };
            at.position.next_batch = scheduler.next_number();
            match (self.pass, &mut at.round) {
                (Pass::Look, Some(round)) => round.looked.looked_to = scheduler.cursor().cloned(),
                (Pass::Look, None) => {}
                (Pass::Copy, _) => {
                    at.position.copied = scheduler.cursor().cloned();
                    at.position.beyond = scheduler.beyond();
                }
            }
        });
    }
}
