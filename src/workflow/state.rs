//! What a job's workflow knows of its table: enough to decide again after a crash, and to go on in a new run.

use serde::{Deserialize, Serialize};

use super::witnesses::Witnesses;
use crate::activity::{NoteWritersOutput, PrepareOutput};
use crate::job::JobSpec;
use crate::table::{Fence, Key, Lost, Noted, Plan, Position, Tally};

/// What the workflow is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInput {
    /// What was asked for.
    pub spec: JobSpec,
    /// Begins paused.
    #[serde(default)]
    pub paused: bool,
    /// Where the run before has come to; `None` for the first.
    #[serde(default)]
    pub state: Option<TableState>,
}

/// A table that is prepared: the workflow's state, and what a run hands to the one that continues it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// How the table is copied.
    pub plan: Plan,
    /// How far it is.
    pub position: Position,
    /// What the target must still have.
    #[serde(default)]
    pub told: Witnesses,
    /// The key up to which a migrate copies: the highest one when it began, however often it is prepared again. `None`
    /// where there was no row then, and in a sync.
    #[serde(default)]
    pub until: Option<Key>,
    /// What the ledger had when the job began.
    #[serde(default)]
    pub found: Tally,
    /// What the passes that copy brought since then; its rows are what batches are sized by.
    #[serde(default)]
    pub brought: Tally,
    /// All that the target had confirmed and lost again.
    #[serde(default)]
    pub lost: Lost,
    /// How often it was prepared again.
    #[serde(default)]
    pub prepared_again: u32,
    /// How often in a row, with no batch confirmed in between.
    #[serde(default)]
    pub prepared_in_vain: u32,
    /// What was noted, and waits for its writers to end (sync).
    #[serde(default)]
    pub noted: Option<Noted>,
    /// Rounds of a sync that are over.
    #[serde(default)]
    pub rounds: u64,
    /// The round that is going on (sync).
    #[serde(default)]
    pub round: Option<Round>,
    /// When the next round begins, in milliseconds of Unix time, if the run before ended asleep.
    #[serde(default)]
    pub sleep_until_ms: Option<u64>,
}

/// One round of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Who was writing when it began, and where its second look begins.
    pub found: NoteWritersOutput,
    /// Up to where the second look has come.
    #[serde(default)]
    pub looked_to: Option<Key>,
    /// Where the second look ends: at the end of what the ledger had when the round began.
    #[serde(default)]
    pub frontier: Option<Key>,
}
