//! Opening a journal: proving that nothing is missing, and taking up what the process before has left.
//!
//! sled can lose records without a word when its file is damaged. So there is an inventory of all runs (their number and
//! the sum of their ids' hashes), and each run's record holds the number of its events and a running checksum over them.
//! The checksum is over the bytes that are stored: an event that is decoded and encoded again may give others.

use std::collections::HashMap;

use prost::Message;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use tokio::sync::oneshot;

use super::Service;
use super::clock::millis;
use super::core::Core;
use super::events::{read_events, read_stored_events};
use super::history::{RunState, chain};
use super::inventory::Inventory;
use super::journal::{JournalError, Store, Table, event_key, event_range, table_range};

/// Events read at a time while a run is checked.
const PAGE: usize = 4096;
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
        let run = RunState::decode(value.as_slice())
            .map_err(|error| store.damaged(format!("run {}: {error}", key.escape_ascii())))?;
        prove_whole(store, &run)?;
        seen.add(&run.run_id);
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
    Ok(core)
}

fn prove_whole(store: &Store, run: &RunState) -> Result<(), JournalError> {
    let mut checksum = 0;
    let mut next = 1;
    while next < run.next_event_id {
        for (key, bytes) in read_stored_events(store, run, next, PAGE)? {
            if key != event_key(&run.run_id, next) {
                return Err(store.damaged(format!(
                    "run {} has record {} in the place of event {next}",
                    run.run_id,
                    key.escape_ascii()
                )));
            }
            checksum = chain(checksum, &bytes);
            next += 1;
        }
    }
    let (low, high) = event_range(&run.run_id, next, i64::MAX);
    if !store.scan(&low, &high, 1)?.is_empty() {
        return Err(store.damaged(format!(
            "run {} has more events than the {} it counts",
            run.run_id,
            run.last_event_id()
        )));
    }
    if checksum != run.events_checksum {
        return Err(store.damaged(format!(
            "the events of run {} do not match their checksum",
            run.run_id
        )));
    }
    Ok(())
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
                // It lived in the process that owned the journal before this one.
                let is_dead = |_: &str, embedded: bool| embedded;
                // The updates that it was for were known to that process only: their clients ask again.
                change.state.workflow_task.take_if(|task| task.speculative);
                change.recover_workflow_task(&is_dead);
                change.recover_activities(&is_dead);
                change.state.sticky = None;
                change.dispatch.clear();
                change.dispatch_all();
                Ok(())
            });
            match recovered {
                // Nobody waits for it: the releasing task hands out the tasks once they are durable.
                Ok(((), pending)) => drop(self.inner.pending.send((pending, oneshot::channel().0))),
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

    /// Hands out at once what dead workers have, instead of when its timeouts have passed. `is_dead` is asked of their identities.
    pub fn outlive(&self, is_dead: &dyn Fn(&str) -> bool) {
        let of_the_dead = |identity: &str, _: bool| is_dead(identity);
        let left: Vec<String> = {
            let mut core = self.core();
            core.matching.forget_all(is_dead);
            let has_left = |run: &&RunState| !run.is_closed() && core.is_left_by(run, is_dead, self.now_ms());
            let left = core.runs.values().filter(has_left);
            left.map(|run| run.run_id.clone()).collect()
        };
        for run_id in left {
            let recovered = self.apply(&run_id, |change| {
                change.state.sticky = None;
                change.recover_workflow_task(&of_the_dead);
                change.recover_activities(&of_the_dead);
                Ok(())
            });
            match recovered {
                Ok(((), pending)) => drop(self.inner.pending.send((pending, oneshot::channel().0))),
                Err(status) => {
                    tracing::error!(
                        run_id,
                        error = status.message(),
                        "a dead worker's tasks stay with it"
                    );
                }
            }
        }
    }

    /// How long the timers of a run take from their beginning to their end, by the events that started them.
    fn timers_ms(&self, run_id: &str) -> Result<HashMap<i64, i64>, JournalError> {
        let Some(run) = self.core().runs.get(run_id).cloned() else {
            return Ok(HashMap::new());
        };
        let mut timers_ms = HashMap::new();
        for timer in &run.timers {
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
