//! Passes that verify: walks over the ledger's ranges, over the source, or over the target.

use serde::{Deserialize, Serialize};
use temporalio_workflow::common::error::ApplicationFailure;
use temporalio_workflow::{WorkflowCancellationToken, WorkflowContext, WorkflowTermination};

use super::copy_table::CopyTable;
use super::pace::look_rows;
use super::pass::{Answer, Running, Stop, Work};
use super::progress::Phase;
use super::scheduler::Scheduler;
use super::state::TableState;
use crate::activity::{
    Activities, Failure, NextRangeInput, PrepareVerifyInput, PrepareVerifyOutput, Timed, VerifyRangeInput,
    Walk, WalkPlan, next_range_options, prepare_verify_options, verify_range_options,
};
use crate::job::VerifySpec;
use crate::table::{Findings, Key, KeyRange, Tally};

/// A verification that goes on: what continue-as-new carries of it, and the workflow's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyState {
    /// What it is to do.
    pub spec: VerifySpec,
    /// What there is to verify, and how.
    pub prepared: PrepareVerifyOutput,
    /// The walk that goes on, by its place among those of `prepared`.
    #[serde(default)]
    pub walk: u32,
    /// Everything up to this key of the walk was verified.
    #[serde(default)]
    pub cursor: Option<Key>,
    /// Ranges above it that were verified too, or are passed over.
    #[serde(default)]
    pub beyond: Vec<KeyRange>,
    /// What was found so far.
    #[serde(default)]
    pub findings: Findings,
}

impl VerifyState {
    fn begin(spec: VerifySpec, prepared: PrepareVerifyOutput) -> Self {
        let mut state = Self {
            spec,
            prepared,
            walk: 0,
            cursor: None,
            beyond: Vec::new(),
            findings: Findings::default(),
        };
        state.begin_walk();
        state
    }

    fn current(&self) -> Option<&WalkPlan> {
        self.prepared.walks.get(self.walk as usize)
    }

    fn begin_walk(&mut self) {
        let start = self.current().map(|walk| (walk.low.clone(), walk.gaps.clone()));
        (self.cursor, self.beyond) = start.unwrap_or_default();
    }

    fn end_walk(&mut self) {
        self.walk += 1;
        self.begin_walk();
    }

    /// What was read so far, counted as a job's work is.
    pub(super) fn tally(&self) -> Tally {
        Tally {
            rows: self.findings.rows,
            bytes: self.findings.bytes,
            batches: self.findings.ranges,
            ..Tally::default()
        }
    }
}

impl CopyTable {
    /// Verifies as `spec` says; what was found stays in the workflow's state. Gives what was read.
    pub(super) async fn verify(ctx: &WorkflowContext<Self>, spec: VerifySpec) -> Result<Tally, Stop> {
        ctx.state_mut(|state| state.phase = Phase::Verifying);
        if ctx.state(|state| state.verifying.is_none()) {
            let input = ctx.state(|state| PrepareVerifyInput {
                table: state.spec.table_spec(),
                verify: spec.clone(),
                fence: state.at.as_ref().map(TableState::fence),
                known: state.known.clone().filter(|_| state.at.is_none()),
            });
            let prepared = ctx
                .execute_activity(Activities::prepare_verify, input, prepare_verify_options())
                .await?;
            ctx.state_mut(|state| state.verifying = Some(VerifyState::begin(spec, prepared)));
        }
        loop {
            let start = ctx.state(|state| {
                let verifying = state.verifying.as_ref()?;
                let walk = verifying.current()?.clone();
                Some((walk, verifying.cursor.clone(), verifying.beyond.clone()))
            });
            let Some((walk, cursor, beyond)) = start else {
                break;
            };
            let work = Verifying { walk: walk.walk };
            Running::new(ctx, work, cursor, walk.stop, beyond, 0)
                .run()
                .await?;
            ctx.state_mut(|state| state.verifying.as_mut().map(VerifyState::end_walk));
        }
        Ok(ctx.state(|state| {
            state
                .verifying
                .as_ref()
                .map(VerifyState::tally)
                .unwrap_or_default()
        }))
    }

    /// The end of a migrate that verifies: what differs makes it a failed one.
    pub(super) async fn verify_at_the_end(ctx: &WorkflowContext<Self>, spec: VerifySpec) -> Result<(), Stop> {
        Self::verify(ctx, spec).await?;
        let differences = ctx.state(|state| {
            state
                .verifying
                .as_ref()
                .map_or(0, |verifying| verifying.findings.differences())
        });
        if differences == 0 {
            return Ok(());
        }
        let name = ctx.state(|state| state.spec.name.to_string());
        let failure = Failure {
            side: "target".to_owned(),
            kind: "Different".to_owned(),
            message: format!("{differences} ranges of the target are not what was sent"),
            hint: format!(
                "see which rows, and put them right: longhaul verify {name} --against source [--repair]"
            ),
            prepare_again: false,
            since_ms: None,
            process: None,
        };
        let answer = ApplicationFailure::builder(failure.clone())
            .type_name(failure.kind.clone())
            .non_retryable(true)
            .details(failure)
            .build();
        Err(Stop::Ended(WorkflowTermination::failed_application(answer)))
    }
}

struct Verifying {
    walk: Walk,
}

impl<'a> Work<'a> for Verifying {
    type Done = Findings;

    fn plan(
        &self,
        ctx: &'a WorkflowContext<CopyTable>,
        low: Option<Key>,
        stop: Key,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Option<Key>> {
        let input = ctx.state(|state| {
            let verifying = state.verifying.as_ref();
            NextRangeInput {
                table: state.spec.table_spec(),
                digest: verifying
                    .map(|it| it.prepared.plan.digest.clone())
                    .unwrap_or_default(),
                against: verifying.map(|it| it.spec.against).unwrap_or_default(),
                walk: self.walk,
                low,
                stop,
                rows: look_rows(&state.spec.tuning, None),
            }
        });
        let mut options = next_range_options();
        options.cancellation_token = Some(token);
        Box::pin(ctx.execute_activity(Activities::next_range, input, options))
    }

    fn begin(
        &mut self,
        ctx: &'a WorkflowContext<CopyTable>,
        _number: u64,
        range: KeyRange,
        token: WorkflowCancellationToken,
    ) -> Answer<'a, Timed<Findings>> {
        let input = ctx.state(|state| {
            let verifying = state.verifying.as_ref();
            VerifyRangeInput {
                table: state.spec.table_spec(),
                digest: verifying
                    .map(|it| it.prepared.plan.digest.clone())
                    .unwrap_or_default(),
                against: verifying.map(|it| it.spec.against).unwrap_or_default(),
                walk: self.walk,
                range,
                repair: verifying.is_some_and(|it| it.spec.repair),
                delete_extra: verifying.is_some_and(|it| it.spec.delete_extra),
                fence: verifying.and_then(|it| it.prepared.fence.clone()),
            }
        });
        let mut options = verify_range_options();
        options.cancellation_token = Some(token);
        Box::pin(ctx.execute_activity(Activities::verify_range, input, options))
    }

    fn moved(findings: &Findings) -> (u64, u64) {
        (findings.rows, findings.bytes)
    }

    fn take(&mut self, ctx: &WorkflowContext<CopyTable>, _number: u64, findings: Findings) {
        ctx.state_mut(|state| {
            state.prepared_in_vain = 0;
            if let Some(verifying) = &mut state.verifying {
                verifying.findings += findings;
            }
        });
    }

    fn note(&self, ctx: &WorkflowContext<CopyTable>, scheduler: &Scheduler) {
        ctx.state_mut(|state| {
            if let Some(verifying) = &mut state.verifying {
                verifying.cursor = scheduler.cursor().cloned();
                verifying.beyond = scheduler.beyond();
            }
        });
    }
}
