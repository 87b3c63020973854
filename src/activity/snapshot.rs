//! The one snapshot in which a table without a key is read: held by the worker that prepared it, until all is copied.
//!
//! It ends with that worker's session. Then nobody can read the rest as it was: what was copied is taken away from the target,
//! which was empty before, and the table starts again in another snapshot.

use super::{OneJob, lend, step};
use crate::postgres::{Error, Session, Snapshot, ledger};
use crate::table::{Plan, Position, SnapshotHeld, TableSpec, Tally};

/// The snapshot with which a run begins.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// What the source calls it; `None` where none is needed.
    pub name: Option<String>,
    /// Whether the table starts again.
    pub is_new: bool,
    /// Whether an earlier run has copied all of its rows.
    pub is_over: bool,
}

impl OneJob {
    /// The snapshot of the ledger, if somebody still holds it; else a new one, and nothing is copied yet.
    pub(super) async fn snapshot(
        &self,
        target: &Session,
        table: &TableSpec,
        plan: &Plan,
        position: &mut Position,
    ) -> Result<Begun, Error> {
        if !plan.key_basis.is_in_snapshot() {
            return Ok(Begun::default());
        }
        let before = ledger::snapshot(target, table, plan).await?;
        let mut held = self.snapshot.lock().await;
        if let Some(SnapshotHeld { name, is_over }) = before.filter(|_| position.tally.batches > 0) {
            if is_over || self.is_held(plan, held.as_ref(), &name).await? {
                return Ok(Begun {
                    name: Some(name),
                    is_new: false,
                    is_over,
                });
            }
        }
        step("taking a snapshot of the source");
        *held = None;
        let snapshot = Snapshot::take(lend(&self.source).await?, plan).await?;
        let name = snapshot.name().to_owned();
        ledger::start_again(target, table, plan, position.epoch, &name).await?;
        *held = Some(snapshot);
        (position.copied, position.tally) = (None, Tally::default());
        position.beyond.clear();
        Ok(Begun {
            name: Some(name),
            is_new: true,
            is_over: false,
        })
    }

    /// Whether rows can still be read in it, by this worker or by another one that holds it, and the table is as it was then.
    async fn is_held(&self, plan: &Plan, held: Option<&Snapshot>, name: &str) -> Result<bool, Error> {
        if held.is_some_and(|held| held.name() != name) {
            return Ok(false);
        }
        let source = lend(&self.source).await?;
        Snapshot::is_held(&source, plan, name).await
    }

    /// All of its rows were copied: a repeat copies none.
    pub(super) async fn end_snapshot(
        &self,
        target: &Session,
        table: &TableSpec,
        plan: &Plan,
        epoch: u64,
    ) -> Result<(), Error> {
        if !plan.key_basis.is_in_snapshot() {
            return Ok(());
        }
        if let Some(held) = ledger::snapshot(target, table, plan).await? {
            let over = SnapshotHeld {
                is_over: true,
                ..held
            };
            ledger::set_snapshot(target, table, plan, epoch, &over).await?;
        }
        *self.snapshot.lock().await = None;
        Ok(())
    }
}
