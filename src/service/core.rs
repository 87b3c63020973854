//! What the service holds in memory: the states of all runs it keeps, who is current, what is due, the queues, and who
//! waits for what. Changed only through `begin` and `commit`, so that memory never runs ahead of the journal.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use prost::Message;
use tokio::sync::Notify;

use super::history::{ActivityState, Change, Deadline, Dispatch, RunState, UpdateNews};
use super::inventory::Inventory;
use super::journal::{JournalError, Store, Write, current_key, event_key, run_key};
use super::matching::{Matching, QueueKind, Task};
use super::query::Queries;
use super::update::Updates;

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
    /// Both, as one to wait for.
    pub fn and(mut self, after: Self) -> Self {
        self.sequence = self.sequence.max(after.sequence);
        self.dispatch.extend(after.dispatch);
        self.news.extend(after.news);
        self.closed.extend(after.closed);
        self.changed.extend(after.changed);
        self
    }
}

#[derive(Default)]
pub struct Core {
    pub runs: HashMap<String, RunState>,
    /// By namespace and workflow id: the run that is meant without a run id.
    pub current: HashMap<(String, String), String>,
    pub deadlines: BTreeSet<(i64, String, Deadline)>,
    pub matching: Matching,
    pub queries: Queries,
    pub updates: Updates,
    pub inventory: Inventory,
    /// By run: tells of every change, for long polls of its history.
    pub changed: HashMap<String, Arc<Notify>>,
}

impl Core {
    /// A draft of a run's next state.
    pub fn begin(&self, run_id: &str, now_ms: i64) -> Option<Change> {
        let mut state = self.runs.get(run_id)?.clone();
        let gone = |queue: &str| !self.matching.is_polled(QueueKind::Workflow, queue, now_ms);
        if state.workflow_task.is_none() && state.sticky.as_ref().is_some_and(|sticky| gone(&sticky.queue)) {
            state.sticky = None;
        }
        Some(Change::of(state, now_ms))
    }

    /// Writes a change as one atomic batch and takes it into memory. On an error nothing has changed.
    pub fn commit(&mut self, store: &Store, change: Change) -> Result<Pending, JournalError> {
        let mut change = change;
        if change.is_too_long() && !change.is_closed() {
            let reason = "the history is too long: the workflow never continued as new".to_owned();
            // It is open: it can be terminated.
            let _ = change.terminate(reason, None, "history-service".to_owned());
        }
        let nothing = self
            .runs
            .get(&change.state.run_id)
            .is_some_and(|before| *before == change.state);
        let mut pending = Pending {
            sequence: store.applied(),
            ..Pending::default()
        };
        let continues = change.successor.is_some();
        let mut changes = vec![];
        let mut next = Some(change);
        while let Some(mut change) = next {
            next = change.successor.take().map(|successor| *successor);
            changes.push(change);
        }
        if !nothing {
            let mut writes = Vec::new();
            let mut inventory = self.inventory;
            for change in &changes {
                write_change(change, &mut writes);
                if !self.runs.contains_key(&change.state.run_id) {
                    inventory.add(&change.state.run_id);
                    writes.push(Write::Put(
                        current_key(&change.state.namespace, &change.state.workflow_id),
                        change.state.run_id.clone().into_bytes(),
                    ));
                }
            }
            let forgotten = self.outdated(&changes);
            if let Some(run_id) = &forgotten {
                self.write_removal(run_id, &mut writes);
                inventory.remove(run_id);
            }
            if inventory != self.inventory {
                writes.push(inventory.write());
            }
            pending.sequence = store.apply(writes)?;
            self.inventory = inventory;
            forgotten.iter().for_each(|run_id| self.forget(run_id));
        }
        for change in changes {
            if change.state.is_closed() {
                pending.closed.push((change.state.run_id.clone(), continues));
            }
            self.take(change, &mut pending);
        }
        Ok(pending)
    }

    /// Of a chain of runs only the current one and the one before it are kept.
    fn outdated(&self, changes: &[Change]) -> Option<String> {
        let closed = changes.first().filter(|_| changes.len() > 1)?;
        self.runs
            .get(&closed.state.continued_run_id)
            .map(|run| run.run_id.clone())
    }

    fn take(&mut self, change: Change, pending: &mut Pending) {
        let run_id = change.state.run_id.clone();
        let mut waited = Vec::new();
        if let Some(before) = self.runs.get(&run_id) {
            for (at_ms, deadline) in before.deadlines() {
                let entry = (at_ms, run_id.clone(), deadline);
                if self.deadlines.remove(&entry) {
                    waited.push(entry);
                }
            }
        } else {
            let workflow = (change.state.namespace.clone(), change.state.workflow_id.clone());
            self.current.insert(workflow, run_id.clone());
        }
        for (at_ms, deadline) in change.state.deadlines() {
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
        self.runs.insert(run_id, change.state);
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

    /// A worker is shutting down: what waited for it is for any other.
    pub fn retire_worker(&mut self, identity: &str, sticky_queue: &str) {
        for task in self.matching.retire(identity, sticky_queue) {
            match task {
                Task::Query { query_id } => drop(self.ask_elsewhere(&query_id)),
                Task::Workflow { run_id } => {
                    if let Some(queue) = self.runs.get(&run_id).map(|run| run.task_queue.clone()) {
                        self.matching
                            .push(QueueKind::Workflow, &queue, Task::Workflow { run_id });
                    }
                }
                Task::Activity { .. } => (),
            }
        }
    }

    /// Whether a dead worker has a task of a run, or the run waits for one in its sticky queue.
    pub fn is_left_by(&self, run: &RunState, is_dead: &dyn Fn(&str) -> bool, now_ms: i64) -> bool {
        let task = run.workflow_task.as_ref();
        let waits_in_vain = task.is_some_and(|task| {
            let is_polled = self.matching.is_polled(QueueKind::Workflow, &task.queue, now_ms);
            task.started_event_id == 0 && task.sticky && !is_polled
        });
        let has_task = task.is_some_and(|task| task.started_event_id != 0 && is_dead(&task.identity));
        let has_activity = |it: &ActivityState| it.started_ms != 0 && is_dead(&it.identity);
        waits_in_vain || has_task || run.activities.iter().any(has_activity)
    }

    /// What tells of every change of a run.
    pub fn watch(&mut self, run_id: &str) -> Arc<Notify> {
        Arc::clone(self.changed.entry(run_id.to_owned()).or_default())
    }

    /// The run that a client means: by its id, or the current one of the workflow.
    pub fn find(&self, namespace: &str, workflow_id: &str, run_id: &str) -> Option<&RunState> {
        let run_id = match run_id {
            "" => self
                .current
                .get(&(namespace.to_owned(), workflow_id.to_owned()))?,
            run_id => run_id,
        };
        self.runs.get(run_id).filter(|run| run.workflow_id == workflow_id)
    }

    /// Removes closed runs that are neither current nor younger than the retention.
    pub fn prune(&mut self, store: &Store, older_than_ms: i64) -> Result<(), JournalError> {
        let current: Vec<&String> = self.current.values().collect();
        let old = |run: &&RunState| {
            run.is_closed() && run.close_ms < older_than_ms && !current.contains(&&run.run_id)
        };
        let old: Vec<String> = self
            .runs
            .values()
            .filter(old)
            .map(|run| run.run_id.clone())
            .collect();
        for run_id in old {
            let mut inventory = self.inventory;
            inventory.remove(&run_id);
            let mut writes = vec![inventory.write()];
            self.write_removal(&run_id, &mut writes);
            store.apply(writes)?;
            self.inventory = inventory;
            self.forget(&run_id);
        }
        Ok(())
    }

    fn write_removal(&self, run_id: &str, writes: &mut Vec<Write>) {
        let events = self.runs.get(run_id).map_or(0, RunState::last_event_id);
        writes.push(Write::Delete(run_key(run_id)));
        writes.extend((1..=events).map(|event_id| Write::Delete(event_key(run_id, event_id))));
    }

    fn forget(&mut self, run_id: &str) {
        self.runs.remove(run_id);
        self.changed.remove(run_id);
    }
}

fn write_change(change: &Change, writes: &mut Vec<Write>) {
    let run_id = &change.state.run_id;
    writes.push(Write::Put(run_key(run_id), change.state.encode_to_vec()));
    writes.extend(
        change
            .events
            .iter()
            .map(|it| Write::Put(event_key(run_id, it.event.event_id), it.bytes.clone())),
    );
}
