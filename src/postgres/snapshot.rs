//! One snapshot of the source, exported, in which the batches of a table read: as it was at that moment, whoever writes to it.
//!
//! The session that holds it also holds a lock on the table: a snapshot does not protect against whoever rewrites or empties
//! it, and nobody can until the snapshot is given up. While it is held no VACUUM of the source's database cleans up what it can see.

use super::catalog::digest_sql;
use super::connect::Session;
use super::cursor::lock_of;
use super::error::{Error, Kind, Result, Side};
use super::identifier::quote_literal;
use super::pool::Lease;
use crate::table::Plan;

/// A snapshot that is held for as long as this lives.
#[derive(Debug)]
pub struct Snapshot {
    name: String,
    _session: Lease,
}

impl Snapshot {
    /// Locks the table, then takes the snapshot: what is read in it is younger than the lock.
    ///
    /// # Errors
    /// What goes wrong on the source.
    pub async fn take(session: Lease, plan: &Plan) -> Result<Self> {
        let what = format!("take a snapshot of source table {}", plan.source);
        session
            .rows(&what, "SET idle_in_transaction_session_timeout = 0")
            .await?;
        // Never ended: a session that is given back in the middle of it is closed.
        let _ = session.open();
        let lock = lock_of(Side::Source, plan);
        let sql = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {lock}; SELECT pg_catalog.pg_export_snapshot()"
        );
        let name = session.row(&what, &sql).await?.into_iter().next().flatten();
        let name = name.ok_or_else(|| {
            Error::new(Side::Source, Kind::Unknown, format!("cannot {what}")).because("it has no name")
        })?;
        Ok(Self {
            name,
            _session: session,
        })
    }

    /// What the source calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether somebody holds the snapshot of that name, and the table was in it as the plan says.
    ///
    /// # Errors
    /// What goes wrong in asking.
    pub async fn is_held(source: &Session, plan: &Plan, name: &str) -> Result<bool> {
        let what = format!("look for the snapshot of source table {}", plan.source);
        let sql = format!("{}; {}; COMMIT", begin_sql(plan, name), digest_sql(&plan.source));
        let open = source.open();
        match source.rows(&what, &sql).await {
            Ok(rows) => {
                open.ended();
                let digest = rows.into_iter().flatten().flatten().next();
                Ok(digest.as_ref() == Some(&plan.digest.source))
            }
            Err(error) if is_gone(error.sqlstate()) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Begins a transaction that reads in the snapshot. The lock first: if the snapshot is still held then, so was its lock until now.
pub(super) fn begin_sql(plan: &Plan, name: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}; SET TRANSACTION SNAPSHOT {}",
        lock_of(Side::Source, plan),
        quote_literal(name)
    )
}

/// What the source says of a snapshot that nobody holds any more: there is no such name, or its holder has just gone.
pub(super) fn is_gone(sqlstate: Option<&str>) -> bool {
    matches!(sqlstate, Some("22023" | "55000" | "42704"))
}

/// The table starts again, in another one.
pub(super) fn gone(plan: &Plan) -> Error {
    let words = format!(
        "the snapshot in which source table {} was read is gone",
        plan.source
    );
    Error::new(Side::Source, Kind::TableChanged, words)
}
