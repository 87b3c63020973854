//! What the service holds in memory: the open runs, who of them is current, what is due, the queues, and who waits for
//! what. Changed only through `begin` and `commit`, so that memory never runs ahead of the journal.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Notify;

use super::NAMESPACE;
use super::history::{Change, Deadline, Dispatch, IsDead, RunState, UpdateNews};
use super::holder::{Holder, Holders};
use super::inventory::Inventories;
use super::journal::{JournalError, Store, Write, current_key, outdated_range, outdated_run};
use super::matching::{Matching, QueueKind, Task};
use super::query::Queries;
use super::stored::{read_closed, read_closed_record, run_id_of};
use super::transaction::Transaction;
use super::update::Updates;

/// Runs that are removed in one batch, so that nobody waits long for it.
const OUTDATED_AT_ONCE: usize = 100;
/// Records that are removed in one batch, but for those of one run.
const REMOVED_AT_ONCE: usize = 2000;

/// Of a chain of runs no more closed ones are kept than this.
const MAX_KEPT_RUNS: i64 = 100;
/// Nor, but for the last, more bytes of history.
const MAX_KEPT_BYTES: i64 = 32 << 20;

/// A change that is applied and not yet known to be durable.
#[derive(Default)]
pub struct Pending {
    /// What to wait for.
    pub sequence: u64,
    /// Run, and what is to be handed out.
    dispatch: Vec<(String, Dispatch)>,
    news: Vec<(String, String, UpdateNews)>,
    /// Runs that ended, and whether another follows.
    closed: Vec<(String, bool)>,
    changed: Vec<Arc<Notify>>,
}

impl Pending {
    /// Whether nobody but who reads the run has to know of it.
    pub fn hands_out_nothing(&self) -> bool {
        self.dispatch.is_empty() && self.news.is_empty() && self.closed.is_empty()
    }
}

#[derive(Default)]
pub struct Core {
    /// The open ones. Those that are closed are in the journal only.
    pub runs: HashMap<String, RunState>,
    /// By namespace and workflow id: the open run that is meant without a run id.
    pub current: HashMap<(String, String), String>,
    /// The open runs as they are listed: by namespace, those that started last first.
    pub started: BTreeSet<(String, Reverse<i64>, String)>,
    pub deadlines: BTreeSet<(i64, String, Deadline)>,
    pub matching: Matching,
    pub queries: Queries,
    pub updates: Updates,
    pub inventories: Inventories,
    pub holders: Holders,
    /// By open run: tells of every change, for long polls of its history.
    pub changed: HashMap<String, Arc<Notify>>,
    /// By open run: the batch that changed it last.
    pub written: HashMap<String, u64>,
}

impl Core {
    /// A draft of a run's next state. Of a closed run nothing can be changed.
    pub fn begin(&self, store: &Store, run_id: &str, now_ms: i64) -> Result<Option<Change>, JournalError> {
        let Some(mut state) = self.get(store, run_id)? else {
            return Ok(None);
        };
        let gone = |queue: &str| !self.matching.is_polled(QueueKind::Workflow, queue, now_ms);
        if state.workflow_task.is_none() && state.sticky.as_ref().is_some_and(|sticky| gone(&sticky.queue)) {
            state.sticky = None;
        }
        Ok(Some(Change::of(state, now_ms)))
    }

    /// A run, open or closed.
    pub fn get(&self, store: &Store, run_id: &str) -> Result<Option<RunState>, JournalError> {
        match self.runs.get(run_id) {
            Some(run) => Ok(Some(run.clone())),
            None => read_closed(store, run_id),
        }
    }

    /// Writes changes of several runs as one atomic batch and takes them into memory. On an error nothing has changed.
    ///
    /// A run that begins becomes the current one of its workflow: whoever replaces an open run closes it in the same batch,
    /// before it.
    pub fn commit(&mut self, store: &Store, changes: Vec<Change>) -> Result<Pending, JournalError> {
        let mut changes: Vec<Change> = changes.into_iter().flat_map(within_limits).collect();
        changes.retain(|change| change.begins || self.runs.contains_key(&change.state.run_id));
        let mut transaction = Transaction::begin(store, self.inventories);
        let continued: HashSet<String> = changes.iter().filter_map(continued).collect();
        for change in &mut changes {
            let before = self.runs.get(&change.state.run_id);
            if change.begins {
                shorten_chain(store, &mut transaction, &mut change.state)?;
            }
            transaction.write_change(before, change)?;
        }
        let mut pending = Pending {
            sequence: store.applied(),
            ..Pending::default()
        };
        if !transaction.is_empty() {
            (pending.sequence, self.inventories) = transaction.apply(self.inventories)?;
        }
        for change in changes {
            if change.state.is_closed() {
                let run_id = change.state.run_id.clone();
                let continues = continued.contains(&run_id);
                pending.closed.push((run_id, continues));
            }
            self.written.insert(change.state.run_id.clone(), pending.sequence);
            self.take(change, &mut pending);
        }
        Ok(pending)
    }

    fn take(&mut self, mut change: Change, pending: &mut Pending) {
        let run_id = change.state.run_id.clone();
        let mut waited = Vec::new();
        let before = self.runs.get(&run_id);
        self.holders.change(before, &change.state);
        if let Some(before) = before {
            for (at_ms, deadline) in before.deadlines_beside(&change.state) {
                let entry = (at_ms, run_id.clone(), deadline);
                if self.deadlines.remove(&entry) {
                    waited.push(entry);
                }
            }
        }
        for (at_ms, deadline) in change.state.deadlines_beside(&change.state) {
            let entry = (at_ms, run_id.clone(), deadline);
            // What may be handed out now is in `dispatch`, unless it still waits for the timer to come round.
            if at_ms > change.now_ms || !entry.2.only_hands_out() || waited.contains(&entry) {
                self.deadlines.insert(entry);
            }
        }
        pending.dispatch.extend(
            change
                .dispatch
                .into_iter()
                .map(|dispatch| (run_id.clone(), dispatch)),
        );
        for (update_id, _) in &change.update_news {
            self.updates.answered(&run_id, update_id);
        }
        pending.news.extend(
            change
                .update_news
                .into_iter()
                .map(|(id, news)| (run_id.clone(), id, news)),
        );
        if !change.events.is_empty() {
            pending.changed.extend(self.changed.get(&run_id).cloned());
        }
        change.state.settle();
        self.keep(change.state);
    }

    /// Keeps a run in memory if it is open, and lets go of it if it is closed.
    pub fn keep(&mut self, run: RunState) {
        let (run_id, namespace) = (run.run_id.clone(), run.namespace.clone());
        let workflow = (namespace.clone(), run.workflow_id.clone());
        let started = (namespace, Reverse(run.start_ms), run_id.clone());
        if !run.is_closed() {
            self.current.insert(workflow, run_id.clone());
            self.started.insert(started);
            self.runs.insert(run_id, run);
            return;
        }
        self.runs.remove(&run_id);
        self.changed.remove(&run_id);
        self.written.remove(&run_id);
        self.started.remove(&started);
        if self.current.get(&workflow) == Some(&run_id) {
            self.current.remove(&workflow);
        }
    }

    /// Hands out what a durable change has made.
    pub fn release(&mut self, pending: Pending, now_ms: i64) {
        for (run_id, dispatch) in pending.dispatch {
            self.hand_out(run_id, dispatch);
        }
        for (run_id, update_id, news) in pending.news {
            self.updates.hear(&run_id, &update_id, news);
        }
        for (run_id, continues) in &pending.closed {
            self.updates.abandon(run_id, *continues);
        }
        for changed in pending.changed {
            changed.notify_waiters();
        }
        self.release_queries(now_ms);
    }

    pub fn hand_out(&mut self, run_id: String, dispatch: Dispatch) {
        match dispatch {
            Dispatch::WorkflowTask { queue } => {
                self.matching
                    .push(QueueKind::Workflow, &queue, Task::Workflow { run_id });
            }
            Dispatch::ActivityTask {
                queue,
                scheduled_event_id,
                attempt,
            } => {
                let task = Task::Activity {
                    run_id,
                    scheduled_event_id,
                    attempt,
                };
                self.matching.push(QueueKind::Activity, &queue, task);
            }
        }
    }

    /// A worker is shutting down: what waits for it is for any other, also a task that is not in its queue yet.
    pub fn retire_worker(&mut self, identity: &str, sticky_queue: &str) {
        for task in self.matching.retire(identity, sticky_queue) {
            if let Task::Query { query_id } = task {
                self.ask_elsewhere(&query_id);
            }
        }
        let queue = Holder::StickyQueue(sticky_queue.to_owned());
        for run_id in self.holders.runs(&queue) {
            if let Some(run) = self.runs.get(run_id) {
                let run_id = run_id.to_owned();
                self.matching
                    .push(QueueKind::Workflow, &run.task_queue, Task::Workflow { run_id });
            }
        }
    }

    /// Runs of which a dead worker has a task, or which wait for one in its sticky queue.
    pub fn left_by(&self, is_dead: &IsDead, now_ms: i64) -> BTreeSet<String> {
        self.holders.runs_of(|holder| match holder {
            Holder::Worker(identity, caller) => is_dead(identity, *caller),
            Holder::StickyQueue(queue) => !self.matching.is_polled(QueueKind::Workflow, queue, now_ms),
        })
    }

    /// The batch in which all that is known of an open run was written, at the latest. What was read from the journal at the
    /// start was durable then.
    pub fn written(&self, run_id: &str) -> u64 {
        self.written.get(run_id).copied().unwrap_or_default()
    }

    /// What tells of every change of an open run.
    pub fn watch(&mut self, run_id: &str) -> Arc<Notify> {
        if !self.runs.contains_key(run_id) {
            return Arc::default();
        }
        Arc::clone(self.changed.entry(run_id.to_owned()).or_default())
    }

    /// The run that a client means: by its id, or the current one of the workflow.
    pub fn find(
        &self,
        store: &Store,
        namespace: &str,
        workflow_id: &str,
        run_id: &str,
    ) -> Result<Option<RunState>, JournalError> {
        let run = match run_id {
            "" => self.find_current(store, namespace, workflow_id)?,
            run_id => self.get(store, run_id)?,
        };
        Ok(run.filter(|run| run.workflow_id == workflow_id && run.namespace == namespace))
    }

    fn find_current(
        &self,
        store: &Store,
        namespace: &str,
        workflow_id: &str,
    ) -> Result<Option<RunState>, JournalError> {
        let workflow = (namespace.to_owned(), workflow_id.to_owned());
        if let Some(run_id) = self.current.get(&workflow) {
            return self.get(store, run_id);
        }
        let key = current_key(namespace, workflow_id);
        let Some(value) = store.get(&key)? else {
            return Ok(None);
        };
        let run_id = run_id_of(store, &key, value)?;
        let gone = || {
            store.damaged(format!(
                "run {run_id} is the current one of its workflow and is not there"
            ))
        };
        self.get(store, &run_id)?.map(Some).ok_or_else(gone)
    }

    /// Removes a closed run, also where its workflow's id means it. Gives the batch to wait for.
    pub fn remove_closed(&mut self, store: &Store, run_id: &str) -> Result<u64, JournalError> {
        let Some(run) = read_closed_record(store, run_id)? else {
            return Ok(store.applied());
        };
        let mut transaction = Transaction::begin(store, self.inventories);
        transaction.remove(&run)?;
        transaction.forget_current(&run)?;
        let (sequence, inventories) = transaction.apply(self.inventories)?;
        self.inventories = inventories;
        Ok(sequence)
    }

    /// Removes closed runs that are neither current nor younger than the retention: some at a time. Returns whether there may
    /// be more, and what was changed.
    pub fn remove_outdated(
        &mut self,
        store: &Store,
        before_ms: i64,
    ) -> Result<(bool, Option<Pending>), JournalError> {
        let (low, high) = outdated_range(NAMESPACE, before_ms);
        let outdated = store.scan(&low, &high, OUTDATED_AT_ONCE)?;
        let mut transaction = Transaction::begin(store, self.inventories);
        let mut more = outdated.len() == OUTDATED_AT_ONCE;
        for (key, _) in outdated {
            if transaction.len() > REMOVED_AT_ONCE {
                more = true;
                break;
            }
            let run_id = outdated_run(NAMESPACE, &key).unwrap_or_default();
            match read_closed_record(store, run_id)? {
                Some(run) => transaction.remove(&run)?,
                None => transaction.put(Write::Delete(key)),
            }
        }
        if transaction.is_empty() {
            return Ok((more, None));
        }
        let (sequence, inventories) = transaction.apply(self.inventories)?;
        self.inventories = inventories;
        let pending = Pending {
            sequence,
            ..Pending::default()
        };
        Ok((more, Some(pending)))
    }
}

/// Removes the oldest runs of the chain of a run that begins, where it is too long. The one right before it stays.
fn shorten_chain(
    store: &Store,
    transaction: &mut Transaction<'_>,
    begins: &mut RunState,
) -> Result<(), JournalError> {
    while begins.kept_runs > 1 && (begins.kept_runs > MAX_KEPT_RUNS || begins.kept_bytes > MAX_KEPT_BYTES) {
        let oldest = read_closed_record(store, &begins.oldest_kept_run_id)?;
        let Some(oldest) = oldest.filter(|run| !run.successor_run_id.is_empty()) else {
            // It has gone with its time, and those that came before the last with it or soon.
            begins.oldest_kept_run_id = begins.continued_run_id.clone();
            (begins.kept_runs, begins.kept_bytes) = (1, 0);
            break;
        };
        transaction.remove(&oldest)?;
        begins.oldest_kept_run_id.clone_from(&oldest.successor_run_id);
        begins.kept_runs -= 1;
        begins.kept_bytes -= oldest.history_bytes;
    }
    Ok(())
}

/// The run that a run which begins continues.
fn continued(change: &Change) -> Option<String> {
    let continued = Some(&change.state.continued_run_id);
    continued.filter(|it| change.begins && !it.is_empty()).cloned()
}

/// A change and what follows it; where its history has grown too long, its end.
fn within_limits(mut change: Change) -> Vec<Change> {
    if change.is_too_long() && !change.is_closed() {
        let reason = "the history is too long: the workflow never continued as new".to_owned();
        // It is open: it can be terminated.
        let _ = change.terminate(reason, None, "history-service".to_owned(), Vec::new());
    }
    let successor = change.successor.take();
    let mut changes = vec![change];
    changes.extend(successor.into_iter().flat_map(|it| within_limits(*it)));
    changes
}
