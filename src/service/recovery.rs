//! Opening a journal: proving that nothing is missing, and taking up what the process before has left.
//!
//! sled can lose records without a word when its file is damaged. So there are inventories of the open runs, of the list of
//! closed runs and of the current ones, and each run's record proves its rows and its events (`stored`). A closed run is
//! proved when it is read: the lists name it, so that it cannot be missing without a word.

use std::collections::HashMap;

use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::clock::millis;
use super::core::Core;
use super::events::read_events;
use super::former::{bring_over, index_closed_runs};
use super::history::RETENTION_MS;
use super::inventory::Inventories;
use super::journal::{FORMAT_VERSION, JournalError, Store, Table, table_range};
use super::stored::{prove_events, read_run, run_id_of};
use super::transaction::hash;
use super::{Caller, Service};

/// Records read at a time.
const PAGE: usize = 4096;

/// Reads the open runs and proves them whole, and proves that the lists of the others are.
pub fn load(store: &Store) -> Result<Core, JournalError> {
    match store.format() {
        FORMAT_VERSION => {}
        2 => index_closed_runs(store)?,
        _ => bring_over(store)?,
    }
    let mut core = Core {
        inventories: Inventories::read(store)?,
        ..Core::default()
    };
    let mut seen = Inventories::default();
    each_record(store, Table::Run, |key, value| {
        let run = read_run(store, &key, &value)?;
        prove_events(store, &run)?;
        seen.open.add_run(&run.run_id);
        for (at_ms, deadline) in run.deadlines() {
            core.deadlines.insert((at_ms, run.run_id.clone(), deadline));
        }
        core.holders.take_in(&run);
        core.keep(run);
        Ok(())
    })?;
    each_record(store, Table::Listed, |key, value| {
        seen.listed.add(hash(&key, &value));
        Ok(())
    })?;
    each_record(store, Table::Indexed, |key, value| {
        seen.indexed.add(hash(&key, &value));
        Ok(())
    })?;
    let mut open = 0;
    each_record(store, Table::Current, |key, value| {
        seen.current.add(hash(&key, &value));
        let run_id = run_id_of(store, &key, value)?;
        open += usize::from(core.runs.contains_key(&run_id));
        Ok(())
    })?;
    let (should, has) = (core.inventories, seen);
    for (what, should, has) in [
        ("open runs", should.open, has.open),
        ("entries in the list of closed runs", should.listed, has.listed),
        ("current runs", should.current, has.current),
        ("entries in the index of closed runs", should.indexed, has.indexed),
    ] {
        if should != has {
            let (should, has) = (should.count, has.count);
            return Err(store.damaged(format!(
                "it should hold {should} {what} and holds {has}, or others"
            )));
        }
    }
    if open != core.runs.len() {
        return Err(store.damaged("an open run is not the current one of its workflow"));
    }
    Ok(core)
}

pub fn each_record(
    store: &Store,
    table: Table,
    mut take: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let (mut low, high) = table_range(table);
    loop {
        let records = store.scan(&low, &high, PAGE)?;
        let next = records.last().filter(|_| records.len() == PAGE);
        let next = next.map(|(key, _)| [key.as_slice(), &[0]].concat());
        for (key, value) in records {
            take(key, value)?;
        }
        match next {
            Some(next) => low = next,
            None => return Ok(()),
        }
    }
}

impl Service {
    /// Hands out again what the workers of the dead process had, and everything that waits.
    pub(super) fn recover(&self) -> Result<(), JournalError> {
        let open: Vec<String> = self.core().runs.keys().cloned().collect();
        for run_id in open {
            let timers_ms = self.timers_ms(&run_id)?;
            let recovered = self.apply(&run_id, |change| {
                change.keep_up_with_the_clock(&timers_ms);
                // It lived in the process that owned the journal before this one.
                let is_dead = |_: &str, caller| caller == Caller::Embedded;
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
                Ok(((), pending)) => self.release_soon(pending),
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

    /// Lets go of closed runs that are neither current nor younger than the retention: some at a time. Returns whether there
    /// may be more.
    pub(super) fn remove_outdated(&self) -> Result<bool, JournalError> {
        let before_ms = self.now_ms() - RETENTION_MS;
        let (more, pending) = self.core().remove_outdated(&self.inner.store, before_ms)?;
        if let Some(pending) = pending {
            self.release_soon(pending);
        }
        Ok(more)
    }

    /// Hands out at once what dead workers of this machine have, instead of when its timeouts have passed. `is_dead` is asked
    /// of their identities; whoever came by TCP may have any.
    pub fn outlive(&self, is_dead: &dyn Fn(&str) -> bool) {
        let of_the_dead = |identity: &str, caller| caller != Caller::Remote && is_dead(identity);
        let left = {
            let mut core = self.core();
            core.matching.forget_all(is_dead);
            core.left_by(&of_the_dead, self.now_ms())
        };
        for run_id in left {
            let recovered = self.apply(&run_id, |change| {
                change.state.sticky = None;
                change.recover_workflow_task(&of_the_dead);
                change.recover_activities(&of_the_dead);
                Ok(())
            });
            match recovered {
                Ok(((), pending)) => self.release_soon(pending),
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
