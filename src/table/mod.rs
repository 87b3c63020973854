//! The domain's nouns: names, plan, key, range, batch, tally, position. Pure data, no I/O, nothing of ours imported.
//!
//! A key travels in PostgreSQL's own text form, one text per key column, so that it survives the journal exactly; only
//! PostgreSQL ever compares two keys. One fact has one type all the way: what is asked for is a [`TableSpec`], what was
//! found a [`Plan`] with its [`PlanDigest`], what is to do a [`Batch`], what was done a [`Tally`], and how far it is a
//! [`Position`], in the ledger, in an activity's answer, in a workflow's state and in a status alike.

mod batch;
mod collation;
mod expression;
mod finding;
mod key;
mod name;
mod plan;
mod position;
mod shape;
mod shown;
mod source_clock;
mod tally;
mod wal;
mod writers;

pub use batch::{Batch, Fence, Key, KeyRange, Pass};
pub use collation::CollationDefinition;
pub use expression::{Expression, ExpressionError};
pub use finding::{Against, Difference, Findings, RepairFailure, TOLD_MAX};
pub use key::{KeyBasis, KeyChoice, KeyNames, KeyNamesError, Leaf, SnapshotHeld, SourceKind, StillSince};
pub use name::{NameError, TableName};
pub use plan::{
    Column, CopyFormat, DatabaseIdentity, EnumLabel, Growth, KeyColumn, OnConflict, Order, Plan, PlanDigest,
    ReadAs, TableSpec,
};
pub use position::{Lost, Position};
pub use shape::{ColumnNames, Renames, Selections, Shape, ShapeError};
pub use shown::{is_obeyed, plain, shown};
pub use source_clock::SourceClock;
pub use tally::Tally;
pub use wal::{Lsn, SourceSeen, Wal};
pub use writers::{Holder, Noted};
