//! How a run lies in the journal: a record, its rows, its events. What is read is proved whole: the record counts the rows
//! and the events, and has a checksum over each of the two.

use prost::Message;

use super::events::read_stored_events;
use super::history::{Change, FormerFields, RunRecord, RunState, chain};
use super::inventory::Inventory;
use super::journal::{
    FORMAT_VERSION, JournalError, Store, Write, event_key, event_range, row_key, row_range, run_key,
};

/// Records read at a time.
const PAGE: usize = 4096;

/// What a change writes: its events, the rows that it touched, and the record. Nothing where it changes nothing.
pub fn write_change(before: Option<&RunState>, change: &mut Change, writes: &mut Vec<Write>) {
    let untouched = writes.len();
    write_rows(&mut change.state, writes);
    let run = &change.state;
    if writes.len() == untouched && before.is_some_and(|before| before.record() == run.record()) {
        return;
    }
    writes.extend(change.events.iter().map(|it| {
        let key = event_key(&run.run_id, it.event.event_id);
        Write::Put(key, it.bytes.clone())
    }));
    writes.push(Write::Put(run_key(&run.run_id), run.record().encode_to_vec()));
}

/// All of a run but its events.
pub fn write_state(run: &mut RunState, writes: &mut Vec<Write>) {
    write_rows(run, writes);
    writes.push(Write::Put(run_key(&run.run_id), run.record().encode_to_vec()));
}

fn write_rows(run: &mut RunState, writes: &mut Vec<Write>) {
    let rows = run.changes();
    writes.extend(rows.into_iter().map(|row| {
        let key = row_key(&run.run_id, row.kind as u8, &row.key);
        match row.value {
            Some(value) => Write::Put(key, value),
            None => Write::Delete(key),
        }
    }));
}

/// What takes all of a run away.
pub fn write_removal(store: &Store, run: &RunRecord, writes: &mut Vec<Write>) -> Result<(), JournalError> {
    let run_id = &run.run_id;
    let (low, high) = row_range(run_id);
    let rows = store.scan(&low, &high, usize::MAX)?;
    writes.push(Write::Delete(run_key(run_id)));
    writes.extend(rows.into_iter().map(|(key, _)| Write::Delete(key)));
    writes.extend((1..run.next_event_id).map(|event_id| Write::Delete(event_key(run_id, event_id))));
    Ok(())
}

/// Makes a run of its record and its rows.
pub fn read_run(store: &Store, key: &[u8], record: &[u8]) -> Result<RunState, JournalError> {
    let damaged = |what: String| store.damaged(format!("run {}: {what}", key.escape_ascii()));
    let broken = |error: prost::DecodeError| damaged(error.to_string());
    let mut run = RunState::of(RunRecord::decode(record).map_err(broken)?);
    if store.format() < FORMAT_VERSION {
        FormerFields::decode(record).map_err(broken)?.bring_over(&mut run);
        return Ok(run);
    }
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
