//! `note_writers`: reads the highest visible key, and who was writing then; says whether those noted before have ended.
//!
//! Ids are handed out before they commit, so the highest visible key proves nothing about the keys below it. Once every
//! transaction that was open when it was read has ended, it does: the rule of CREATE INDEX CONCURRENTLY. Since every round
//! of a sync begins here, the target is asked as well whether it still knows this run, and the source whether it has gone
//! back in time.
//! Timeouts: an hour. Retried without limit while the error can pass. Idempotent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{OneJob, failure, step};
use crate::postgres::{Error, check_growth, check_key_again, cursor, ledger, rewind, source_clock, writers};
use crate::table::{Fence, Key, Noted, SourceClock, TableSpec};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteWritersInput {
    /// The table.
    pub table: TableSpec,
    /// What the target must still know.
    pub fence: Fence,
    /// The key up to which everything is settled, to be kept on the target.
    #[serde(default)]
    pub settled: Option<Key>,
    /// What was noted in an earlier round and is not settled yet.
    #[serde(default)]
    pub noted: Option<Noted>,
    /// What the source's clock showed in the round before, where it fills the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<SourceClock>,
    /// Look again at so many keys below the settled one.
    #[serde(default)]
    pub lookback_keys: Option<u64>,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteWritersOutput {
    /// The highest key now, and who could still commit one below it.
    pub now: Noted,
    /// What was noted before, with those who are still open; `None` if nothing was.
    #[serde(default)]
    pub before: Option<Noted>,
    /// Where the second look begins: the settled key, less the lookback.
    #[serde(default)]
    pub look_from: Option<Key>,
    /// What the source's clock shows, where it fills the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<SourceClock>,
    /// Only up to here is settled what was, since that clock was set back; `None` where all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<Key>,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}

impl OneJob {
    pub(super) async fn do_note_writers(&self, input: NoteWritersInput) -> Result<NoteWritersOutput, Error> {
        let (table, fence, settled) = (&input.table, &input.fence, input.settled.as_ref());
        let plan = self.plan(table, &fence.digest).await?;
        let (source, target) = self.sessions().await?;
        step("asking the target's ledger, and who writes to the source");
        // In this order: a ledger that does not know this run is not written to.
        ledger::check(&target, table, &plan, fence).await?;
        ledger::set_settled(&target, table, &plan, fence.epoch, settled, input.clock.as_ref()).await?;
        check_key_again(&source, &target, table, &plan).await?;
        // Before the highest key: what comes after it has a later time.
        let clock = input.clock.as_ref();
        let stamped = source_clock::look(&source, table, &plan, clock, settled).await?;
        let settled = stamped.unsettled.as_ref().or(settled);
        // Those of before first: what is noted now must be the later of the two.
        let before = match &input.noted {
            // Noted of a time that comes once more.
            Some(_) if stamped.unsettled.is_some() => None,
            Some(noted) => Some(writers::still_open(&source, noted).await?),
            None => None,
        };
        let now = if plan.source_is_standby {
            // Allowed with a lookback only, which then stands for everything that a standby cannot tell.
            let key = cursor::highest_key(&source, &plan).await?;
            Noted {
                key,
                holders: Vec::new(),
                server_started_at: String::new(),
            }
        } else {
            writers::note(&source, &plan).await?
        };
        let (epoch, highest) = (fence.epoch, now.key.as_ref());
        rewind::note(&source, &target, table, &plan, epoch, highest, None).await?;
        if input.lookback_keys.is_none() {
            check_growth(&source, &plan, highest).await?;
        }
        let look_from = match (settled, input.lookback_keys) {
            (Some(settled), Some(keys)) => cursor::key_before(&source, &plan, settled, keys).await?,
            (settled, _) => settled.cloned(),
        };
        Ok(NoteWritersOutput {
            now,
            before,
            look_from,
            clock: stamped.clock,
            unsettled: stamped.unsettled,
        })
    }
}
