//! How far a table's copy has come: what the ledger on the target says, and who may still add rows behind the cursor.
//!
//! Pure data that crosses the journal.

use super::{Key, KeyRange};
use serde::{Deserialize, Serialize};

/// What the ledger on the target says of a job, at the moment this run took it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerState {
    /// This run's epoch: writers of an earlier one can commit nothing any more.
    pub epoch: u64,
    /// Whether the job was in the ledger before.
    pub found: bool,
    /// The ranges that are on the target, joined where they meet, in the order of the key.
    pub segments: Vec<KeyRange>,
    /// Rows that the ledger's batches brought, all passes.
    pub rows: u64,
    /// Wire bytes of those batches.
    pub bytes: u64,
    /// How many batches the ledger holds.
    pub batches: u64,
    /// The number that the next batch may take: one more than the greatest there is, from 0.
    pub next_batch: u64,
    /// The key up to which nothing can appear any more (sync jobs).
    pub settled: Option<Key>,
}

/// The highest key that was visible, and every transaction that might still add a row below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The highest key that was visible; `None` where the table was empty.
    pub key: Option<Key>,
    /// Who was open just after that key was read. Once all of them have ended, `key` is settled.
    pub holders: Vec<Holder>,
    /// When the source's server was started, in its own text: a new start ends every transaction but the prepared.
    pub server_started_at: String,
}

/// A transaction on the source that may still add rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The virtual transaction id, for one that runs; `None` for a prepared one.
    pub virtual_transaction: Option<String>,
    /// The backend's process id, for one that runs.
    pub pid: Option<i32>,
    /// The global identifier, for a prepared one.
    pub prepared: Option<String>,
    /// Who that is, for the operator: process, user, application, since when. Never the query.
    pub shown: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}
