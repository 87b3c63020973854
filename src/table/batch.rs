//! Keys, ranges of them, and the batch: the piece of work that is done whole or not at all.

use super::PlanDigest;
use serde::{Deserialize, Serialize};

/// The values of a table's key columns, in the order of the key, each in PostgreSQL's text form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Vec<String>);

/// The rows whose key is greater than `low` (all of them from the start where it is `None`) and at most `high`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// The greatest key that is not in the range; `None` is before the first key.
    pub low: Option<Key>,
    /// The greatest key that may be in the range.
    pub high: Key,
}

/// For what a batch goes over its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// Copies the range for the first time.
    Copy,
    /// Looks at it again and adds the rows that the target lacks.
    Look,
}

/// One batch: rows and ledger entry commit together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Unique among the batches of the job's table; a number is given once.
    pub number: u64,
    /// For what it goes over the range.
    pub pass: Pass,
    /// Which rows.
    pub range: KeyRange,
}

/// What the target must still know for a batch to commit there.
///
/// A batch commits only under the epoch that holds, with both tables as they were planned, and where the ledger still has
/// the batches that this run was told are committed: a target that went back in time has lost the newest of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch under which this run took the table over.
    pub epoch: u64,
    /// How both tables were when the plan was made.
    pub digest: PlanDigest,
    /// Batches that were confirmed, and that no later one in this list vouches for.
    #[serde(default)]
    pub witnesses: Vec<u64>,
    /// The snapshot of the source in which a batch reads, where all of them read in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl Key {
    /// The values for people, on one line, between commas.
    #[must_use]
    pub fn shown(&self) -> String {
        let parts = self.0.iter().map(|part| super::shown(part));
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl Pass {
    /// The number that the ledger keeps.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Copy => 0,
            Self::Look => 1,
        }
    }
}
