//! Opening a journal: proving that nothing is missing, and taking up what the process before has left.
//!
//! sled can lose records without a word when its file is damaged. So there is an inventory of all runs (their number and
//! the sum of their ids' hashes), and each run's record proves its rows and its events (`stored`).

use std::collections::HashMap;

use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::Service;
use super::clock::millis;
use super::core::Core;
use super::events::read_events;
use super::inventory::Inventory;
use super::journal::{FORMAT_VERSION, JournalError, Store, Table, format_write, table_range};
use super::stored::{prove_events, read_run, write_state};

/// Closed runs that are not the last of their workflow are kept for so long.
const RETENTION_MS: i64 = 30 * 24 * 3600 * 1000;

/// Reads all runs and proves them whole.
pub fn load(store: &Store) -> Result<Core, JournalError> {
    let mut core = Core {
        inventory: Inventory::read(store)?,
        ..Core::default()
    };
    let mut seen = Inventory::default();
    let (low, high) = table_range(Table::Run);
    for (key, value) in store.scan(&low, &high, usize::MAX)? {
        let run = read_run(store, &key, &value)?;
        prove_events(store, &run)?;
        seen.add_run(&run.run_id);
        for (at_ms, deadline) in run.deadlines() {
            core.deadlines.insert((at_ms, run.run_id.clone(), deadline));
        }
        core.runs.insert(run.run_id.clone(), run);
    }
    if seen != core.inventory {
        return Err(store.damaged(format!(
            "it should hold {} runs and holds {}",
            core.inventory.count, seen.count
        )));
    }
    let (low, high) = table_range(Table::Current);
    for (key, value) in store.scan(&low, &high, usize::MAX)? {
        let run = String::from_utf8(value)
            .ok()
            .and_then(|run_id| core.runs.get(&run_id));
        let run = run.ok_or_else(|| {
            store.damaged(format!(
                "record {} names a run that is not there",
                key.escape_ascii()
            ))
        })?;
        core.current.insert(
            (run.namespace.clone(), run.workflow_id.clone()),
            run.run_id.clone(),
        );
    }
    for run in core.runs.values() {
        if !core
            .current
            .contains_key(&(run.namespace.clone(), run.workflow_id.clone()))
        {
            return Err(store.damaged(format!(
                "nothing says which run of {} is current",
                run.workflow_id
            )));
        }
    }
    if store.format() < FORMAT_VERSION {
        bring_over(store, &mut core)?;
    }
    Ok(core)
}

/// Writes all runs of a journal of an older format anew: in one batch, so that it has the one format or the other.
fn bring_over(store: &Store, core: &mut Core) -> Result<(), JournalError> {
    let mut writes = vec![format_write()];
    for run in core.runs.values_mut() {
        write_state(run, &mut writes);
        run.settle();
    }
    store.apply(writes).map(drop)
}

impl Service {
    /// Hands out again what the workers of the dead process had, and everything that waits.
    pub(super) fn recover(&self) -> Result<(), JournalError> {
        let open: Vec<String> = {
            let mut core = self.core();
            core.prune(&self.inner.store, self.now_ms() - RETENTION_MS)?;
            core.runs
                .values()
                .filter(|run| !run.is_closed())
                .map(|run| run.run_id.clone())
                .collect()
        };
        for run_id in open {
            let timers_ms = self.timers_ms(&run_id)?;
            let recovered = self.apply(&run_id, |change| {
                change.keep_up_with_the_clock(&timers_ms);
                change.recover_workflow_task();
                change.recover_activities();
                change.state.sticky = None;
                change.dispatch.clear();
                change.dispatch_all();
                Ok(())
            });
            match recovered {
                // Nobody waits for it: the releasing task hands out the tasks once they are durable.
                Ok(((), pending)) => drop(
                    self.inner
                        .pending
                        .send((pending, tokio::sync::oneshot::channel().0)),
                ),
                Err(status) => {
                    self.inner.store.check()?;
                    return Err(self
                        .inner
                        .store
                        .damaged(format!("run {run_id}: {}", status.message())));
                }
            }
        }
        Ok(())
    }

    /// How long the timers of a run take from their beginning to their end, by the events that started them.
    fn timers_ms(&self, run_id: &str) -> Result<HashMap<i64, i64>, JournalError> {
        let Some(run) = self.core().runs.get(run_id).cloned() else {
            return Ok(HashMap::new());
        };
        let mut timers_ms = HashMap::new();
        for timer in run.timers.values() {
            let started = read_events(&self.inner.store, &run, timer.started_event_id, 1)?;
            if let Some(Attributes::TimerStartedEventAttributes(started)) =
                started.into_iter().next().and_then(|event| event.attributes)
            {
                timers_ms.insert(timer.started_event_id, millis(started.start_to_fire_timeout));
            }
        }
        Ok(timers_ms)
    }
}
