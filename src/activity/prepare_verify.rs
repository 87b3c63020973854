//! `prepare_verify`: finds out what there is to verify, and along which ranges. A repair takes the table over.
//!
//! Timeouts: an hour. Retried without limit while the error can pass. Against receipts the source is not asked at all: the
//! plan is the ledger's.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Activities, Walk, failure};
use crate::job::VerifySpec;
use crate::postgres::{Error, cursor, examine, ledger};
use crate::table::{Against, Fence, Key, KeyRange, Plan, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareVerifyInput {
    /// The table.
    pub table: TableSpec,
    /// What the verification is to do.
    pub verify: VerifySpec,
    /// The fence of the run that asks, where that run has taken the table over already.
    #[serde(default)]
    pub fence: Option<Fence>,
}

/// One walk over the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkPlan {
    /// Which rows.
    pub walk: Walk,
    /// The key before the first.
    #[serde(default)]
    pub low: Option<Key>,
    /// The last key.
    pub stop: Key,
    /// Ranges that are passed over, in the order of the walk.
    #[serde(default)]
    pub gaps: Vec<KeyRange>,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareVerifyOutput {
    /// How the table was copied.
    pub plan: Plan,
    /// The walks, one after the other.
    pub walks: Vec<WalkPlan>,
    /// Rows that the receipts tell of; `None` without a ledger.
    #[serde(default)]
    pub rows: Option<u64>,
    /// What the target must still know in a repair.
    #[serde(default)]
    pub fence: Option<Fence>,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}

impl Activities {
    pub(super) async fn do_prepare_verify(
        &self,
        input: PrepareVerifyInput,
    ) -> Result<PrepareVerifyOutput, Error> {
        let PrepareVerifyInput { table, verify, fence } = &input;
        let has_ledger = verify.job.is_some() || fence.is_some();
        if verify.against == Against::Receipts && !verify.repair {
            let target = self.target.acquire().await?;
            let plan = ledger::stored_plan(&target, table).await?;
            let position = ledger::read(&target, &target, table, &plan).await?;
            let walks = walk_of_ledger(position.copied, position.beyond);
            return Ok(PrepareVerifyOutput {
                rows: Some(position.tally.rows),
                walks: walks.into_iter().collect(),
                plan,
                fence: None,
            });
        }
        let (source, target) = self.sessions().await?;
        let plan = examine(&source, &target, table).await?;
        *self.plan.lock().await = Some(Arc::new(plan.clone()));
        let (mut walks, mut rows, mut end) = (Vec::new(), None, None);
        let mut fence = fence.clone();
        if has_ledger {
            ledger::ensure(&target).await?;
            let position = match (&fence, verify.repair) {
                (None, true) => {
                    let position = ledger::take_over(&target, &source, table, &plan).await?;
                    fence = Some(Fence {
                        epoch: position.epoch,
                        digest: plan.digest.clone(),
                        witnesses: Vec::new(),
                    });
                    position
                }
                _ => ledger::read(&target, &source, table, &plan).await?,
            };
            end = position.end().cloned();
            rows = Some(position.tally.rows);
            walks.extend(walk_of_ledger(position.copied, position.beyond));
        }
        if verify.against == Against::Source {
            let here = cursor::highest_key(&source, &plan).await?;
            let there = cursor::highest_key(&target, &plan).await?;
            let ends = here.iter().chain(&there).chain(&end).cloned().collect();
            let highest = cursor::sort_keys(&source, &plan, ends).await?.pop();
            if let Some(stop) = highest.filter(|highest| Some(highest) != end.as_ref()) {
                let walk = if has_ledger { Walk::Beyond } else { Walk::Source };
                walks.push(WalkPlan {
                    walk,
                    low: end,
                    stop,
                    gaps: Vec::new(),
                });
            }
            if let Some(stop) = there.filter(|_| !plan.same_order) {
                walks.push(WalkPlan {
                    walk: Walk::Target,
                    low: None,
                    stop,
                    gaps: Vec::new(),
                });
            }
        }
        Ok(PrepareVerifyOutput {
            plan,
            walks,
            rows,
            fence,
        })
    }
}

/// The walk along the ledger's ranges, past what lies between them.
fn walk_of_ledger(copied: Option<Key>, beyond: Vec<KeyRange>) -> Option<WalkPlan> {
    let mut gaps = Vec::new();
    let mut last = copied;
    for range in beyond {
        if let Some(high) = range.low.clone() {
            gaps.push(KeyRange {
                low: last.take(),
                high,
            });
        }
        last = Some(range.high);
    }
    last.map(|stop| WalkPlan {
        walk: Walk::Ledger,
        low: None,
        stop,
        gaps,
    })
}
