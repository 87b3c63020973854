//! Journals of the formats before this one, proved whole as they were then and written anew in one batch: a journal has the one
//! format or the other. In the first all runs were in one table, what are rows now was in their records, and there was no list
//! of closed runs. In the second that list was in the order of the starts, and had no index.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::NAMESPACE;
use super::history::{FormerFields, RunRecord, RunState};
use super::inventory::{Inventories, Inventory, read_former};
use super::journal::{JournalError, Store, Table, Write, format_write, listed_prefix, table_range};
use super::recovery::each_record;
use super::stored::{prove_events, run_id_of};
use super::transaction::{Transaction, hash};
use super::visibility::Listed;

/// Brings a journal of the second format over.
pub fn index_closed_runs(store: &Store) -> Result<(), JournalError> {
    let before = Inventories::read(store)?;
    let inventories = Inventories {
        listed: Inventory::default(),
        ..before
    };
    let mut transaction = Transaction::begin(store, inventories);
    transaction.put(format_write());
    let prefix = listed_prefix(NAMESPACE);
    let mut seen = Inventory::default();
    each_record(store, Table::Listed, |key, value| {
        let broken = || store.damaged(format!("record {} is none of the list", key.escape_ascii()));
        seen.add(hash(&key, &value));
        let started = key.get(prefix.len()..).and_then(|rest| rest.split_first_chunk());
        let (order, run_id) = started.ok_or_else(broken)?;
        let start_ms = i64::MAX - i64::from_be_bytes(*order);
        let run_id = std::str::from_utf8(run_id).map_err(|_| broken())?;
        let listed = Listed::decode(value.as_slice()).map_err(|_| broken())?;
        transaction.list(NAMESPACE, start_ms, run_id, &listed);
        transaction.put(Write::Delete(key));
        Ok(())
    })?;
    if seen != before.listed {
        return Err(store.damaged(format!(
            "it should hold {} entries in the list of closed runs and holds {}, or others",
            before.listed.count, seen.count
        )));
    }
    transaction.apply_anew().map(drop)
}

/// Brings a journal of the first format over.
pub fn bring_over(store: &Store) -> Result<(), JournalError> {
    let runs = read_runs(store)?;
    let (low, high) = table_range(Table::Current);
    let mut current = HashSet::new();
    let mut inventories = Inventories::default();
    for (key, value) in store.scan(&low, &high, usize::MAX)? {
        inventories.current.add(hash(&key, &value));
        let run_id = run_id_of(store, &key, value)?;
        if !runs.contains_key(&run_id) {
            let key = key.escape_ascii();
            return Err(store.damaged(format!("record {key} names a run that is not there")));
        }
        current.insert(run_id);
    }
    let workflows = current.iter().filter_map(|run_id| runs.get(run_id));
    let workflows: HashSet<_> = workflows.map(|run| run.workflow_id.clone()).collect();
    if let Some(run) = runs.values().find(|run| !workflows.contains(&run.workflow_id)) {
        let workflow_id = &run.workflow_id;
        return Err(store.damaged(format!("nothing says which run of {workflow_id} is current")));
    }
    runs.values()
        .for_each(|run| inventories.open.add_run(&run.run_id));
    let mut transaction = Transaction::begin(store, inventories);
    transaction.put(format_write());
    for mut run in runs.into_values() {
        transaction.write_rows(&mut run);
        transaction.write_record(&run);
        if run.is_closed() && !current.contains(&run.run_id) {
            transaction.write_outdated(&run.namespace, run.close_ms, &run.run_id);
        }
    }
    // In whatever state it was: its layout is another now.
    transaction.apply_anew().map(drop)
}

fn read_runs(store: &Store) -> Result<HashMap<String, RunState>, JournalError> {
    let mut runs = HashMap::new();
    let mut seen = Inventory::default();
    let (low, high) = table_range(Table::Run);
    for (key, value) in store.scan(&low, &high, usize::MAX)? {
        let broken = |error| store.damaged(format!("run {}: {error}", key.escape_ascii()));
        let mut run = RunState::of(RunRecord::decode(value.as_slice()).map_err(broken)?);
        let fields = FormerFields::decode(value.as_slice()).map_err(broken)?;
        fields.bring_over(&mut run);
        prove_events(store, &run)?;
        seen.add_run(&run.run_id);
        runs.insert(run.run_id.clone(), run);
    }
    let counted = read_former(store)?;
    if seen != counted {
        return Err(store.damaged(format!(
            "it should hold {} runs and holds {}",
            counted.count, seen.count
        )));
    }
    Ok(runs)
}
