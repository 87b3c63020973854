//! Whom a worker trusts. What a job's workflow says comes from whoever may write to the service; what runs as the worker's role
//! is decided by whoever runs the worker: the owner of a ledger that is written to, and triggers that fire.

use super::{OneJob, lend};
use crate::postgres::{Error, Kind, Side, ledger};
use crate::table::{Shape, TableSpec};

/// What whoever runs a worker lets others have run as its role, where a job asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The role that may own the ledger, besides the worker's own and superusers.
    pub ledger_owner: Option<String>,
    /// Whether triggers of the target may fire.
    pub fire_triggers: bool,
    /// Which SQL of jobs may run on the source.
    pub sql: Sql,
}

/// Which SQL of jobs is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sql {
    /// None.
    #[default]
    Refused,
    /// That of the operator's own job.
    Of(Shape),
    /// Whatever a job has.
    Any,
}

impl OneJob {
    /// The table as it was asked for, less what is not trusted here.
    pub(super) fn trusting(&self, table: &TableSpec) -> TableSpec {
        let named = table.ledger_owner.as_ref();
        TableSpec {
            ledger_owner: named
                .filter(|it| self.trust.ledger_owner.as_ref() == Some(it))
                .cloned(),
            fire_triggers: table.fire_triggers && self.trust.fire_triggers,
            ..table.clone()
        }
    }

    /// Refuses SQL that is not trusted here: without it other rows would be copied, or as something else.
    ///
    /// # Errors
    /// `Privilege`.
    pub(super) fn must_trust_sql(&self, table: &TableSpec) -> Result<(), Error> {
        let is_trusted = match &self.trust.sql {
            Sql::Refused => false,
            Sql::Of(shape) => *shape == table.shape,
            Sql::Any => true,
        };
        if is_trusted || !table.shape.has_expressions() {
            return Ok(());
        }
        let words = format!(
            "job {} has SQL of its own (--where, --select), which this worker does not run",
            table.job
        );
        Err(Error::new(Side::Source, Kind::Privilege, words).hinted(
            "it would run as the worker's role, whoever began the job: longhaul worker --allow-sql runs it",
        ))
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
