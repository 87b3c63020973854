//! What is written in one batch, of however many runs, and the inventories brought in line with it.
//!
//! An open run's record is in one table, a closed one's in another, so that a start reads the open ones only. A run that
//! closes is entered in the list of closed runs; one that is closed and no longer the current one of its workflow among
//! those that are outdated once the retention is over.
//!
//! All runs are in this journal, so that what one does to another (a successor, a start that terminates, a child, a signal)
//! is a second change in the same transaction. What has to be carried out elsewhere after the batch would be a table of its
//! own, written here, and read again by `recovery`.

use prost::Message;
use xxhash_rust::xxh3::Xxh3;

use super::history::{Change, RunRecord, RunState};
use super::inventory::Inventories;
use super::journal::{
    JournalError, Store, Write, closed_key, current_key, event_key, outdated_key, row_key, row_range, run_key,
};
use super::stored::{read_closed_record, run_id_of};
use super::visibility::Listed;

pub struct Transaction<'a> {
    store: &'a Store,
    writes: Vec<Write>,
    inventories: Inventories,
    /// Runs that this transaction closes: their ids and when.
    closes: Vec<(String, i64)>,
}

impl<'a> Transaction<'a> {
    pub fn begin(store: &'a Store, inventories: Inventories) -> Self {
        Self {
            store,
            writes: Vec::new(),
            inventories,
            closes: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes a run's events, the rows that the change has touched, and the record. Nothing where it changes nothing.
    pub fn write_change(
        &mut self,
        before: Option<&RunState>,
        change: &mut Change,
    ) -> Result<(), JournalError> {
        let untouched = self.writes.len();
        self.write_rows(&mut change.state);
        let run = &change.state;
        if self.writes.len() == untouched && before.is_some_and(|before| before.record() == run.record()) {
            return Ok(());
        }
        self.writes.extend(change.events.iter().map(|it| {
            let key = event_key(&run.run_id, it.event.event_id);
            Write::Put(key, it.bytes.clone())
        }));
        if before.is_none() {
            self.inventories.open.add_run(&run.run_id);
        }
        self.write_record(run);
        if before.is_none() {
            self.make_current(run)?;
        }
        Ok(())
    }

    pub fn write_rows(&mut self, run: &mut RunState) {
        let rows = run.changes();
        self.writes.extend(rows.into_iter().map(|row| {
            let key = row_key(&run.run_id, row.kind as u8, &row.key);
            match row.value {
                Some(value) => Write::Put(key, value),
                None => Write::Delete(key),
            }
        }));
    }

    /// Writes the record of a run that counts as open.
    pub fn write_record(&mut self, run: &RunRecord) {
        let record = run.encode_to_vec();
        if !run.is_closed() {
            self.writes.push(Write::Put(run_key(&run.run_id), record));
            return;
        }
        self.closes.push((run.run_id.clone(), run.close_ms));
        self.inventories.open.remove_run(&run.run_id);
        self.writes.push(Write::Delete(run_key(&run.run_id)));
        self.writes.push(Write::Put(closed_key(&run.run_id), record));
        self.list(&run.namespace, run.start_ms, &run.run_id, &Listed::of(run));
    }

    /// Enters a closed run in the list and in its index.
    pub fn list(&mut self, namespace: &str, start_ms: i64, run_id: &str, listed: &Listed) {
        let (key, indexed) = listed.keys(namespace, start_ms, run_id);
        let value = listed.encode_to_vec();
        self.inventories.listed.add(hash(&key, &value));
        self.writes.push(Write::Put(key, value));
        for key in indexed {
            self.inventories.indexed.add(hash(&key, &[]));
            self.writes.push(Write::Put(key, Vec::new()));
        }
    }

    /// The run that the workflow id means from now on. The one before it is closed, here or long ago, and outdated in time.
    fn make_current(&mut self, run: &RunRecord) -> Result<(), JournalError> {
        let key = current_key(&run.namespace, &run.workflow_id);
        if let Some(value) = self.store.get(&key)? {
            self.inventories.current.remove(hash(&key, &value));
            let replaced = run_id_of(self.store, &key, value)?;
            let closes = self.closes.iter().find(|(run_id, _)| *run_id == replaced);
            let close_ms = match closes {
                Some((_, close_ms)) => *close_ms,
                None => read_closed_record(self.store, &replaced)?.map_or(0, |run| run.close_ms),
            };
            self.write_outdated(&run.namespace, close_ms, &replaced);
        }
        let value = run.run_id.clone().into_bytes();
        self.inventories.current.add(hash(&key, &value));
        self.writes.push(Write::Put(key, value));
        Ok(())
    }

    pub fn write_outdated(&mut self, namespace: &str, close_ms: i64, run_id: &str) {
        self.writes
            .push(Write::Put(outdated_key(namespace, close_ms, run_id), Vec::new()));
    }

    /// Takes away all of a closed run but for its being the current one of its workflow.
    pub fn remove(&mut self, run: &RunRecord) -> Result<(), JournalError> {
        let run_id = &run.run_id;
        let (listed, indexed) = Listed::of(run).keys(&run.namespace, run.start_ms, run_id);
        if let Some(value) = self.store.get(&listed)? {
            self.inventories.listed.remove(hash(&listed, &value));
            for key in &indexed {
                self.inventories.indexed.remove(hash(key, &[]));
            }
        }
        let (low, high) = row_range(run_id);
        let rows = self
            .store
            .scan(&low, &high, usize::MAX)?
            .into_iter()
            .map(|(key, _)| key);
        let events = (1..run.next_event_id).map(|event_id| event_key(run_id, event_id));
        let outdated = outdated_key(&run.namespace, run.close_ms, run_id);
        let others = [closed_key(run_id), listed, outdated].into_iter().chain(indexed);
        self.writes
            .extend(rows.chain(events).chain(others).map(Write::Delete));
        Ok(())
    }

    /// Where a workflow's id means a run that is removed, it means none any more.
    pub fn forget_current(&mut self, run: &RunRecord) -> Result<(), JournalError> {
        let key = current_key(&run.namespace, &run.workflow_id);
        if let Some(value) = self.store.get(&key)?
            && value == run.run_id.as_bytes()
        {
            self.inventories.current.remove(hash(&key, &value));
            self.writes.push(Write::Delete(key));
        }
        Ok(())
    }

    /// How much there is to write.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn put(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Writes it all. Gives the number of the batch, and the inventories as they are now.
    pub fn apply(mut self, before: Inventories) -> Result<(u64, Inventories), JournalError> {
        if self.inventories != before {
            self.writes.push(self.inventories.write());
        }
        Ok((self.store.apply(self.writes)?, self.inventories))
    }

    /// As `apply`, where the inventories that are stored are of another form.
    pub fn apply_anew(mut self) -> Result<u64, JournalError> {
        self.writes.push(self.inventories.write());
        self.store.apply(self.writes)
    }
}

/// Of a record, for an inventory.
pub fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest()
}
