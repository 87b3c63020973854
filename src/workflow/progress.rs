//! What a workflow answers when asked how far it is.

use serde::{Deserialize, Serialize};

use crate::job::JobSpec;
use crate::table::{Key, TableName};

/// What the workflow is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looks at both tables and the ledger.
    #[default]
    Preparing,
    /// Copies what it has not seen.
    Copying,
    /// Looks again at keys below the settled one.
    Looking,
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
    /// Rows on the target.
    pub rows_done: u64,
    /// Wire bytes copied.
    pub bytes_done: u64,
    /// Batches committed.
    pub batches_done: u64,
    /// Rows on the source, by the catalog's statistics.
    pub rows_estimate: Option<u64>,
    /// The key up to which everything is on the target.
    pub cursor: Option<Key>,
    /// Sum of the receipts' checksums.
    pub checksum: u64,
    /// Over the last batches.
    pub rows_per_second: Option<f64>,
    /// Over the last batches.
    pub bytes_per_second: Option<f64>,
    /// When the next round begins, in milliseconds of Unix time.
    pub next_run_ms: Option<u64>,
    /// Rounds of a sync that are over.
    pub rounds: u64,
    /// Who keeps the newest keys from being settled.
    pub held_back_by: Vec<String>,
    /// Batches whose ledger row was found on the target when the job was prepared.
    pub batches_found: u64,
}
