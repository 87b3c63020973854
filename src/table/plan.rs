//! What was learnt about a table before its first row moved: the plan that every batch of it follows.
//!
//! A plan is pure data. It is made once from both catalogs, travels through the journal, and is the same at each replay,
//! so that a batch that runs tomorrow reads and writes the very columns that today's did.

use super::TableName;
use serde::{Deserialize, Serialize};

/// One table's copy, decided: what is read, what is written, along which key, in which form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    /// The table on the source, with its schema.
    pub source: TableName,
    /// The table on the target, with its schema.
    pub target: TableName,
    /// Which database the source is, as the ledger keeps it.
    pub source_identity: SourceIdentity,
    /// The columns that are copied, in the source's order.
    pub columns: Vec<Column>,
    /// The columns of the key that the batches follow, in the key's order.
    pub key: Vec<KeyColumn>,
    /// The form in which rows travel.
    pub format: CopyFormat,
    /// What happens to a row whose key is on the target already.
    pub on_conflict: OnConflict,
    /// Whether the target has a unique index on exactly the key's columns.
    pub target_key_is_unique: bool,
    /// Whether the source is a partitioned table (else only the table itself is read, not what inherits from it).
    pub source_is_partitioned: bool,
    /// Whether the source is a standby: it cannot tell who is writing.
    pub source_is_standby: bool,
    /// Whether the key's first column is of a type whose values tend to grow: a number, a time.
    pub key_ascends: bool,
    /// Rows on the source by its statistics, if it has any.
    pub rows_estimate: Option<u64>,
    /// Bytes of the source table on disk, without its indexes and out-of-line values.
    pub bytes_estimate: Option<u64>,
    /// What the operator should know before the first row moves; empty mostly.
    pub warnings: Vec<String>,
}

/// A column that is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its type on the source as SQL spells it, for people.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its type, quoted and qualified so that a literal can be cast to it under any search path.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its collation on the source, quoted and qualified; `None` where its type has no collation.
    pub collation: Option<String>,
}

/// The form in which rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    /// PostgreSQL's binary COPY format: for built-in types, the same on both sides.
    Binary,
    /// PostgreSQL's text COPY format: for every type.
    Text,
}

/// What happens to a row whose key is on the target already, and was not put there by this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The job fails.
    #[default]
    Error,
    /// The target's row stays.
    Skip,
    /// The target's row gets the source's values.
    Update,
}

/// Which database a source is: what must be the same when a ledger is taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIdentity {
    /// The cluster's system identifier; `None` where the server does not tell it.
    pub system_identifier: Option<String>,
    /// The database's name.
    pub database: String,
}
