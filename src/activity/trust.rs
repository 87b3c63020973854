//! Whom a worker trusts. What a job's workflow says comes from whoever may write to the service; whose ledger may be written
//! to is decided by whoever runs the worker: its owner decides what runs as the worker's role. So does SQL of a job's.

use super::{OneJob, lend};
use crate::postgres::{Error, Kind, Side, ledger};
use crate::table::{Shape, TableSpec};

/// What whoever runs a worker trusts, whatever a job says.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The role that may own the ledger besides the worker's own.
    pub ledger_owner: Option<String>,
    /// Whose SQL runs on the source.
    pub sql: TrustedSql,
}

/// Whose SQL a worker runs on the source, as its own role.
#[derive(Debug, Clone)]
pub enum TrustedSql {
    /// That of the shape which its operator has asked for, and no other.
    Of(Shape),
    /// That of every job that comes to it.
    OfAll,
}

impl OneJob {
    /// Refuses SQL that nobody here has asked for. Another worker may take it: the attempt is not the last.
    ///
    /// # Errors
    /// `Transient`.
    pub(super) fn must_trust_sql(&self, table: &TableSpec) -> Result<(), Error> {
        let is_trusted = match &self.trust.sql {
            TrustedSql::OfAll => true,
            TrustedSql::Of(shape) => shape.has_sql_of(&table.shape),
        };
        if is_trusted || Shape::default().has_sql_of(&table.shape) {
            return Ok(());
        }
        let words = format!(
            "job {} asks for SQL of its own on the source (--where, --select), and this worker runs none but what it was asked for",
            table.job
        );
        Err(Error::new(Side::Source, Kind::Transient, words).hinted(
            "a worker runs the SQL of every job between its databases, as its own role, if its operator says so: longhaul worker \
             --run-sql",
        ))
    }

    /// The table as it was asked for, but for the role that may own the ledger: that must be the one that is trusted here.
    pub(super) fn trusting(&self, table: &TableSpec) -> TableSpec {
        let named = table.ledger_owner.as_ref();
        TableSpec {
            ledger_owner: named
                .filter(|it| self.trust.ledger_owner.as_ref() == Some(it))
                .cloned(),
            ..table.clone()
        }
    }

    /// Refuses a ledger that is not trusted here, before it is read or written: another worker may have prepared the job,
    /// or nobody has.
    ///
    /// # Errors
    /// `Ledger`; or what goes wrong in asking.
    pub(super) async fn must_trust_ledger(&self, table: &TableSpec) -> Result<(), Error> {
        let mut is_trusted = self.is_trusted.lock().await;
        if !*is_trusted {
            let target = lend(&self.target).await?;
            let owner = self.trusting(table).ledger_owner;
            // One that is not there yet is nobody's, and may be anybody's the next time.
            *is_trusted = ledger::is_trusted(&target, owner.as_deref()).await?;
        }
        Ok(())
    }
}
