//! Whom a worker trusts. What a job's workflow says comes from whoever may write to the service; whose ledger may be written
//! to is decided by whoever runs the worker: its owner decides what runs as the worker's role.

use super::{OneJob, lend};
use crate::postgres::{Error, ledger};
use crate::table::TableSpec;

impl OneJob {
    /// The table as it was asked for, but for the role that may own the ledger: that must be the one that is trusted here.
    pub(super) fn trusting(&self, table: &TableSpec) -> TableSpec {
        let named = table.ledger_owner.as_ref();
        TableSpec {
            ledger_owner: named.filter(|it| self.ledger_owner.as_ref() == Some(it)).cloned(),
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
