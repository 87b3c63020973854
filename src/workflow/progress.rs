//! What a workflow answers when asked how far it is.

use serde::{Deserialize, Serialize};

use super::pace::Pace;
use crate::job::JobSpec;
use crate::table::{Findings, Key, Lost, Position, TableName, Tally};

/// What the workflow is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looks at both tables and the ledger.
    #[default]
    Preparing,
    /// Copies what it has not seen.
    Copying,
    /// Looks again at keys that are not settled yet.
    Looking,
    /// Asks the target whether all of it is there.
    Concluding,
    /// Holds the target against receipts or source.
    Verifying,
    /// Waits for the next round.
    Sleeping,
    /// Everything is there.
    Done,
}

/// How far a table is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What was asked for, with the tuning of now.
    pub spec: JobSpec,
    /// What it is doing.
    pub phase: Phase,
    /// The operator has paused it.
    pub paused: bool,
    /// Batches that are being copied now.
    pub in_flight: u32,
    /// The tables' full names, once they are known.
    pub source_table: TableName,
    /// The target's.
    pub target_table: TableName,
    /// Rows on the source, by the catalog's statistics.
    #[serde(default)]
    pub rows_estimate: Option<u64>,
    /// What the batches in the ledger did, all of them together.
    pub tally: Tally,
    /// When the ledger's account of the job begins, in microseconds of Unix time; 0 where it is not known.
    #[serde(default)]
    pub begun: u64,
    /// What an earlier run was told is on the target, as long as the table is not prepared: where that fails, the next run
    /// must still know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Position>,
    /// What of it an earlier run had done, and this one found in the ledger when it began.
    #[serde(default)]
    pub found: Tally,
    /// What the target had confirmed and lost again; it was copied once more, or will be.
    #[serde(default)]
    pub lost: Lost,
    /// How often the table was prepared again: because it was changed, or because the target had lost batches.
    #[serde(default)]
    pub prepared_again: u32,
    /// The key up to which everything is on the target.
    #[serde(default)]
    pub copied: Option<Key>,
    /// The key up to which a migrate copies; `None` before it is known, of an empty table, and of a sync.
    #[serde(default)]
    pub until: Option<Key>,
    /// While it looks again at what was copied before: up to where it has come, and where that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_to: Option<Key>,
    /// See above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looks_to: Option<Key>,
    /// The key up to which no row can appear any more (sync).
    #[serde(default)]
    pub settled: Option<Key>,
    /// What moved in the last seconds: what a speed is computed from.
    #[serde(default)]
    pub pace: Pace,
    /// When the next round begins, or the table is prepared once more, in milliseconds of Unix time.
    #[serde(default)]
    pub next_run_ms: Option<u64>,
    /// Rounds of a sync that are over.
    #[serde(default)]
    pub rounds: u64,
    /// Who keeps the newest keys from being settled.
    #[serde(default)]
    pub held_back_by: Vec<String>,
    /// What was verified so far; `None` where nothing is.
    #[serde(default)]
    pub findings: Option<Findings>,
}

impl Phase {
    /// The phase as a status shows it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Looking => "looking",
            Self::Concluding => "concluding",
            Self::Verifying => "verifying",
            Self::Sleeping => "sleeping",
            Self::Done => "done",
        }
    }
}

impl Progress {
    /// Of a workflow that has ended, of which no more is known than what it ended with.
    #[must_use]
    pub fn of_result(spec: JobSpec, tally: Tally) -> Self {
        Self {
            phase: Phase::Done,
            paused: false,
            in_flight: 0,
            source_table: spec.source_table.clone(),
            target_table: spec.target_table.clone(),
            spec,
            rows_estimate: None,
            tally,
            begun: 0,
            told: None,
            found: Tally::default(),
            lost: Lost::default(),
            prepared_again: 0,
            copied: None,
            until: None,
            looked_to: None,
            looks_to: None,
            settled: None,
            pace: Pace::default(),
            next_run_ms: None,
            rounds: 0,
            held_back_by: Vec::new(),
            findings: None,
        }
    }
}
