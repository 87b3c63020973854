//! How far a table's copy has come.

use super::{Key, KeyRange, Tally};
use serde::{Deserialize, Serialize};

/// How far a table's copy has come: the ledger's account of it, and the workflow's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The epoch under which the table was taken over: a batch of an earlier one can commit nothing any more.
    pub epoch: u64,
    /// When the ledger's account of the job begins, in microseconds of Unix time: later than before once the job has begun
    /// anew. 0 where it is not known.
    #[serde(default)]
    pub begun: u64,
    /// Everything up to this key has been copied; `None`: nothing yet.
    #[serde(default)]
    pub copied: Option<Key>,
    /// Ranges above it that have been copied too, in the source's order.
    #[serde(default)]
    pub beyond: Vec<KeyRange>,
    /// The key up to which no row can appear any more (sync).
    #[serde(default)]
    pub settled: Option<Key>,
    /// The number that the next batch takes.
    pub next_batch: u64,
    /// What the batches in the ledger did, all of them together.
    pub tally: Tally,
}

impl Position {
    /// The key at which the ledger's account ends.
    #[must_use]
    pub fn end(&self) -> Option<&Key> {
        self.beyond
            .last()
            .map(|range| &range.high)
            .or(self.copied.as_ref())
    }
}

/// Batches that the target had confirmed and does not have any more.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub batches: u64,
    /// The rows that they had brought.
    pub rows: u64,
    /// When the newest batch that is still there was committed, in the target's words; `None` where none is.
    #[serde(default)]
    pub since: Option<String>,
}
