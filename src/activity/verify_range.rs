//! `verify_range`: holds one range of the target against its receipts or the source, and puts right what differs if asked.
//!
//! Timeouts: a day, with heartbeats. Retried without limit while the error can pass. Reads only, or, in a repair, one
//! transaction of the target for what differs; a repeat finds it repaired.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{BatchMeter, OneJob, Timed, failure, lend, step, verifying};
use crate::postgres::{Error, Retry, verify};
use crate::table::{Against, Fence, Findings, KeyRange, PlanDigest, RepairFailure, TableSpec};

/// Which rows of which side are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    /// The ledger's ranges.
    #[default]
    Ledger,
    /// Ranges of the source, where there is no ledger.
    Source,
    /// What lies beyond the ledger's end: rows that only the source has are not copied yet, and are passed over.
    Beyond,
    /// Ranges of the target in the target's own order, for rows that only it has.
    Target,
}

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRangeInput {
    /// The table.
    pub table: TableSpec,
    /// How both tables were when the plan was made.
    pub digest: PlanDigest,
    /// What the target is held against.
    pub against: Against,
    /// Which rows are walked.
    pub walk: Walk,
    /// The range.
    pub range: KeyRange,
    /// Whether what differs is put right.
    #[serde(default)]
    pub repair: bool,
    /// Whether a repair deletes rows that only the target has.
    #[serde(default)]
    pub delete_extra: bool,
    /// What the target must still know for a repair to keep its receipts; `None` where there is no ledger.
    #[serde(default)]
    pub fence: Option<Fence>,
}

/// What it found, after the repair if there was one; before it where the repair failed for good, which is said.
pub type VerifyRangeOutput = Timed<Findings>;

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(24 * 3600))
}

impl OneJob {
    pub(super) async fn do_verify_range(&self, input: VerifyRangeInput) -> Result<Findings, Error> {
        let VerifyRangeInput {
            table,
            against,
            walk,
            range,
            ..
        } = &input;
        let table = &self.trusting(table);
        let meter = BatchMeter::new(&self.throttle);
        if *against == Against::Receipts {
            let plan = self.plan_of_ledger(table, &input.digest).await?;
            let target = lend(&self.target).await?;
            step("reading a range back from the target");
            let found = verify::against_receipts(&target, &plan, table, range, &meter).await?;
            if found.differences() == 0 || !input.repair {
                return Ok(found);
            }
        }
        if input.fence.is_some() {
            self.must_trust_ledger(table).await?;
        }
        let plan = self.plan_to_read(table, &input.digest).await?;
        let (source, target) = self.sessions().await?;
        step("comparing a range of source and target");
        let sides = verify::Sides {
            source: &source,
            target: &target,
            plan: &plan,
            meter: &meter,
        };
        let look = async || match walk {
            _ if plan.key_basis.is_places() => verify::as_a_whole(sides, range).await,
            Walk::Target => verify::only_on_target(sides, range).await,
            _ if !plan.same_order => verify::by_keys(sides, range, *walk != Walk::Beyond).await,
            _ => verify::against_source(sides, range, *walk != Walk::Beyond).await,
        };
        let mut found = look().await?;
        let mut repaired = 0;
        // More differences than can be named take more than one turn.
        while input.repair && found.missing + found.changed + found.extra * u64::from(input.delete_extra) > 0
        {
            let fence = input.fence.as_ref().filter(|_| *walk == Walk::Ledger);
            let right = match verify::repair(sides, table, fence, range, &found, input.delete_extra).await {
                Ok(right) => right,
                // What was found is not lost over it, and other ranges may be put right.
                Err(error) if matches!(error.retry(), Retry::Never | Retry::RetryLimited) => {
                    note_failure(&mut found, error);
                    break;
                }
                Err(error) => return Err(error),
            };
            repaired += right;
            let before = found.differences();
            found = look().await?;
            if right == 0 || found.differences() >= before {
                break;
            }
        }
        found.repaired = repaired;
        if found.not_copied_yet > 0 {
            found.copied_up_to.clone_from(&range.low);
        }
        Ok(found)
    }
}

fn note_failure(found: &mut Findings, error: Error) {
    let error = verifying::in_verification(error);
    found.ranges_unrepaired = 1;
    found.repair_failure = Some(RepairFailure {
        message: error.chain(),
        hint: error.hint().to_owned(),
    });
    tracing::info!("{}", error.chain());
}
