//! Reading a run out of the journal: its record, its rows, its events. What is read is proved whole: the record counts the rows
//! and the events, and has a checksum over each of the two.

use prost::Message;

use super::history::{RunRecord, RunState, chain};
use super::inventory::Inventory;
use super::journal::{JournalError, Store, closed_key, event_key, event_range, row_range};

/// Records read at a time.
const PAGE: usize = 4096;

/// A closed run, from the journal. Its events are proved when they are read.
pub fn read_closed(store: &Store, run_id: &str) -> Result<Option<RunState>, JournalError> {
    let key = closed_key(run_id);
    store
        .get(&key)?
        .map(|record| read_run(store, &key, &record))
        .transpose()
}

/// Its record alone.
pub fn read_closed_record(store: &Store, run_id: &str) -> Result<Option<RunRecord>, JournalError> {
    let key = closed_key(run_id);
    let broken = |error| store.damaged(format!("run {}: {error}", key.escape_ascii()));
    let record = store.get(&key)?;
    record
        .map(|record| RunRecord::decode(record.as_slice()).map_err(broken))
        .transpose()
}

/// The run that a record of the table of current runs names.
pub fn run_id_of(store: &Store, key: &[u8], value: Vec<u8>) -> Result<String, JournalError> {
    let named = String::from_utf8(value);
    named.map_err(|_| store.damaged(format!("record {} names no run", key.escape_ascii())))
}

/// Makes a run of its record and its rows.
pub fn read_run(store: &Store, key: &[u8], record: &[u8]) -> Result<RunState, JournalError> {
    let damaged = |what: String| store.damaged(format!("run {}: {what}", key.escape_ascii()));
    let broken = |error: prost::DecodeError| damaged(error.to_string());
    let mut run = RunState::of(RunRecord::decode(record).map_err(broken)?);
    let (mut low, high) = row_range(&run.run_id);
    let prefix = low.len();
    let mut found = Inventory::default();
    loop {
        let rows = store.scan(&low, &high, PAGE)?;
        for (key, value) in &rows {
            let (kind, row_key) = key[prefix..].split_first().unwrap_or((&0, &[]));
            let hash = run.load_row(*kind, row_key, value);
            let hash = hash.map_err(|what| damaged(format!("row {}: {what}", key.escape_ascii())))?;
            found.add(hash);
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => low = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    let counted = run.rows_inventory();
    if found != counted {
        return Err(damaged(format!(
            "it should have {} rows and has {}, or others",
            counted.count, found.count
        )));
    }
    Ok(run)
}

/// That a run has the events that its record counts, and no others.
pub fn prove_events(store: &Store, run: &RunState) -> Result<(), JournalError> {
    let (mut low, high) = event_range(&run.run_id, 1, i64::MAX);
    let (mut checksum, mut next) = (0, 1);
    loop {
        let events = store.scan(&low, &high, PAGE)?;
        let more = events.len() == PAGE;
        for (key, bytes) in events {
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
        if !more {
            break;
        }
        low = event_key(&run.run_id, next);
    }
    if next != run.next_event_id {
        return Err(store.damaged(format!(
            "run {} should have {} events and has {}",
            run.run_id,
            run.last_event_id(),
            next - 1
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
