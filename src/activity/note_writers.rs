//! `note_writers`: reads the highest visible key, and who was writing then; says whether those noted before have ended.
//!
//! Ids are handed out before they commit, so the highest visible key proves nothing about the keys below it. Once every
//! transaction that was open when it was read has ended, it does: the rule of CREATE INDEX CONCURRENTLY.
//! Timeouts: an hour. Retried without limit while the error can pass. Idempotent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_workflow::ActivityOptions;

use super::{Activities, TableJob, failure};
use crate::postgres::{Error, cursor, ledger, writers};
use crate::table::{Key, Noted};

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoteWritersInput {
    /// The job's tables.
    pub table: TableJob,
    /// The epoch that `prepare` gave.
    pub epoch: u64,
    /// The key up to which everything is settled, to be kept on the target.
    pub settled: Option<Key>,
    /// What was noted in an earlier round and is not settled yet.
    pub noted: Option<Noted>,
    /// Look again at so many keys below the settled one.
    pub lookback_keys: Option<u64>,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoteWritersOutput {
    /// The highest key now, and who could still commit one below it.
    pub now: Noted,
    /// What was noted before, with those who are still open; `None` if nothing was.
    pub before: Option<Noted>,
    /// Where the second look begins: the settled key, less the lookback.
    pub look_from: Option<Key>,
}

/// How the workflow runs it.
pub fn options() -> ActivityOptions {
    failure::options(Duration::from_secs(3600))
}

impl Activities {
    pub(super) async fn do_note_writers(&self, input: NoteWritersInput) -> Result<NoteWritersOutput, Error> {
        let plan = self.plan(&input.table).await?;
        let (source, target) = self.sessions().await?;
        ledger::set_settled(
            &target,
            &input.table.job.to_string(),
            input.epoch,
            input.settled.as_ref(),
        )
        .await?;
        // Those of before first: what is noted now must be the later of the two.
        let before = match &input.noted {
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
        let look_from = match (&input.settled, input.lookback_keys) {
            (Some(settled), Some(keys)) => cursor::key_before(&source, &plan, settled, keys).await?,
            (settled, _) => settled.clone(),
        };
        Ok(NoteWritersOutput {
            now,
            before,
            look_from,
        })
    }
}
