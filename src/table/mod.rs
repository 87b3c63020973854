//! The domain's nouns: qualified name, key, key range, receipt. Pure data, no I/O, nothing of ours imported.
//!
//! A key travels in PostgreSQL's own text form, one text per key column, so that it survives the journal exactly; only
//! PostgreSQL ever compares two keys.

mod name;
mod plan;
mod progress;

pub use name::{NameError, TableName};
pub use plan::{Column, CopyFormat, KeyColumn, OnConflict, SourceIdentity, TablePlan};
pub use progress::{Holder, LedgerState, Noted};

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

/// What one committed batch did: all of its rows that the journal ever sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Receipt {
    /// Rows that the range held on the source.
    pub rows: u64,
    /// Rows that this batch wrote to the target; fewer than `rows` where some were there already.
    pub rows_written: u64,
    /// Wire bytes of those rows in the COPY format used, without its header and trailer.
    pub bytes: u64,
    /// Sum, modulo 2^64, of the XXH3-64 hash of each row's wire bytes: the order of the rows does not matter.
    pub checksum: u64,
}
