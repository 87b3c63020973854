//! `prepare_verify`: finds out what there is to verify, and along which ranges. Takes nothing over, writes nothing.
//!
//! Timeouts: an hour. Retried without limit while the error can pass. Against receipts the source is not asked at all: the
//! plan is the ledger's.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{OneJob, Walk, failure, lend};
use crate::job::VerifySpec;
use crate::postgres::verify::refuse_null_keys;
use crate::postgres::{Error, Kind, Session, Side, check_key, check_repair, cursor, examine_to_read, ledger};
use crate::table::{Against, Fence, Key, KeyRange, Plan, Position, TableSpec};

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
    /// What the job was told is on the target; `None` where nobody knows.
    #[serde(default)]
    pub known: Option<Position>,
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

impl OneJob {
    pub(super) async fn do_prepare_verify(
        &self,
        input: PrepareVerifyInput,
    ) -> Result<PrepareVerifyOutput, Error> {
        let PrepareVerifyInput {
            table,
            verify,
            fence,
            known,
        } = &input;
        self.must_trust_sql(table)?;
        let table = &self.trusting(table);
        let has_ledger = verify.job.is_some() || fence.is_some();
        if verify.against == Against::Receipts && !verify.repair {
            let target = lend(&self.target).await?;
            let plan = ledger::stored_plan(&target, table).await?;
            let position = ledger::read(&target, &target, table, &plan).await?;
            must_have_what_was_told(table, known.as_ref(), &position)?;
            refuse_null_keys(&target, &plan).await?;
            if !plan.same_order && !position.beyond.is_empty() {
                let words = format!(
                    "job {} has gaps in its ledger, and the target orders its key in another way: ranges mean nothing there",
                    table.job
                );
                return Err(Error::new(Side::Target, Kind::Unsupported, words)
                    .hinted("let the job come to its end first, or hold the target against the source: --against source"));
            }
            let walks = walk_of_ledger(position.copied, position.beyond);
            return Ok(PrepareVerifyOutput {
                rows: Some(position.tally.rows),
                walks: walks.into_iter().collect(),
                plan,
                fence: None,
            });
        }
        let (source, target) = self.sessions().await?;
        super::step("looking at both tables");
        let plan = examine_to_read(&source, &target, table).await?;
        check_key(&source, &plan).await?;
        if verify.repair && plan.key_basis.is_places() {
            let words = format!(
                "source table {} has no key: no row of the target can be found that is to be put right",
                plan.source
            );
            return Err(Error::new(Side::Source, Kind::NoKey, words)
                .hinted("empty the target table, and copy it again: --restart"));
        }
        if verify.repair {
            check_repair(&target, &plan, table, verify.delete_extra).await?;
        }
        *self.plan.lock().await = Some(Arc::new(plan.clone()));
        let (mut walks, mut rows, mut end) = (Vec::new(), None, None);
        let mut fence = fence.clone();
        if has_ledger {
            ledger::ensure(&target, table.ledger_owner.as_deref()).await?;
            if fence.is_none() {
                // Whether the rows that were copied are still right, and still there.
                ledger::inspect(&target, table, &plan).await?;
                let Some(epoch) = ledger::epoch(&target, table, &plan).await? else {
                    return Err(went_back(format!(
                        "the ledger on the target does not know job {}",
                        table.job
                    )));
                };
                fence = verify.repair.then(|| Fence {
                    epoch,
                    digest: plan.digest.clone(),
                    witnesses: Vec::new(),
                    snapshot: None,
                });
            }
            let position = ledger::read(&target, &source, table, &plan).await?;
            must_have_what_was_told(table, known.as_ref(), &position)?;
            end = position.end().cloned();
            rows = Some(position.tally.rows);
            walks.extend(walk_of_ledger(position.copied, position.beyond));
        }
        refuse_null_keys(&target, &plan).await?;
        if verify.against == Against::Source && plan.key_basis.is_places() {
            walks = vec![walk_as_a_whole(&source, table, &plan, walks, has_ledger).await?];
        } else if verify.against == Against::Source {
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

/// A ledger that lost what it had would prove the rest of the target right, and say nothing of what is missing.
fn must_have_what_was_told(table: &TableSpec, known: Option<&Position>, now: &Position) -> Result<(), Error> {
    let Some(known) = known else {
        return Ok(());
    };
    ledger::check_begun(table, known, now)?;
    if known.copied == now.copied || known.tally.rows <= now.tally.rows {
        return Ok(());
    }
    Err(went_back(format!(
        "the ledger on the target has {} rows of job {}, and {} were confirmed",
        now.tally.rows, table.job, known.tally.rows
    )))
}

fn went_back(words: String) -> Error {
    Error::new(Side::Target, Kind::Ledger, words).hinted(
        "the target was failed over or restored to an older state: run the job again, it copies what was lost",
    )
}

/// The one walk over a table without a key: all that lies up to where the job has come.
async fn walk_as_a_whole(
    source: &Session,
    table: &TableSpec,
    plan: &Plan,
    walks: Vec<WalkPlan>,
    has_ledger: bool,
) -> Result<WalkPlan, Error> {
    let of_ledger = walks.into_iter().next();
    if of_ledger.as_ref().is_some_and(|walk| !walk.gaps.is_empty()) {
        let words = format!(
            "job {} has gaps in its ledger, and its table has no key: ranges mean nothing on the target",
            table.job
        );
        return Err(
            Error::new(Side::Target, Kind::Unsupported, words).hinted("let the job come to its end first")
        );
    }
    let stop = match of_ledger {
        Some(walk) => Some(walk.stop),
        None if has_ledger => None,
        None => cursor::highest_key(source, plan).await?,
    };
    Ok(WalkPlan {
        walk: Walk::Source,
        low: None,
        stop: stop.unwrap_or_else(|| cursor::before_all(plan)),
        gaps: Vec::new(),
    })
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
