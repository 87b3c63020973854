//! Who has to act for the open runs to go on: the workers that have their tasks, and the sticky queues in which workflow tasks
//! wait. So a worker that dies costs what it had, not what there is.

use std::collections::{BTreeMap, BTreeSet};

use super::Caller;
use super::history::RunState;

/// Who has tasks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// By its identity, which tells something of some of them only.
    Worker(String, Caller),
    /// By its name: a queue for one worker alone.
    StickyQueue(String),
}

/// By holder: runs, and which task: the event that scheduled an activity, 0 for the workflow task.
#[derive(Default)]
pub struct Holders {
    tasks: BTreeMap<Holder, BTreeSet<(String, i64)>>,
}

impl Holders {
    /// Takes over what a draft of a run has changed.
    pub fn change(&mut self, before: Option<&RunState>, draft: &RunState) {
        for (holder, task) in before.iter().flat_map(|before| held(before, draft)) {
            if let Some(tasks) = self.tasks.get_mut(&holder) {
                tasks.remove(&(draft.run_id.clone(), task));
                if tasks.is_empty() {
                    self.tasks.remove(&holder);
                }
            }
        }
        self.add(draft, held(draft, draft));
    }

    /// Takes in a run that was read.
    pub fn take_in(&mut self, run: &RunState) {
        self.add(run, held_among(run, run.activities.keys()));
    }

    fn add(&mut self, run: &RunState, held: Vec<(Holder, i64)>) {
        for (holder, task) in held {
            let tasks = self.tasks.entry(holder).or_default();
            tasks.insert((run.run_id.clone(), task));
        }
    }

    /// The runs of which a holder has tasks.
    pub fn runs(&self, holder: &Holder) -> BTreeSet<&str> {
        let tasks = self.tasks.get(holder).into_iter().flatten();
        tasks.map(|(run_id, _)| run_id.as_str()).collect()
    }

    /// The runs of which those have tasks that are so.
    pub fn runs_of(&self, is_so: impl Fn(&Holder) -> bool) -> BTreeSet<String> {
        let holders = self.tasks.keys().filter(|holder| is_so(holder));
        let runs = holders.flat_map(|holder| self.runs(holder));
        runs.map(str::to_owned).collect()
    }
}

/// Of the activities only those that the draft has touched: the others' are what they were.
fn held(run: &RunState, draft: &RunState) -> Vec<(Holder, i64)> {
    held_among(run, draft.activities.touched())
}

fn held_among<'a>(run: &RunState, activities: impl Iterator<Item = &'a i64>) -> Vec<(Holder, i64)> {
    if run.is_closed() {
        return Vec::new();
    }
    let mut held = Vec::new();
    if let Some(task) = &run.workflow_task {
        if task.started_event_id != 0 {
            held.push((Holder::Worker(task.identity.clone(), task.caller()), 0));
        } else if task.sticky {
            held.push((Holder::StickyQueue(task.queue.clone()), 0));
        }
    }
    let started = activities.filter_map(|id| run.activities.get(id).filter(|it| it.started_ms != 0));
    held.extend(started.map(|it| {
        let holder = Holder::Worker(it.identity.clone(), it.caller());
        (holder, it.scheduled_event_id)
    }));
    held
}
