//! Task queues: tasks that wait for a worker, and who polls. All in memory: what a queue holds follows from the runs, and
//! is filled again from them at start. A task is a hint, not a claim: whoever takes one asks the run whether it still holds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

/// A sticky queue that nobody polled for so long has lost its worker.
const POLLER_GONE_MS: i64 = 10_000;
/// Pollers that were not seen for so long are no longer listed.
const POLLER_FORGOTTEN_MS: i64 = 300_000;

/// The two kinds of queue that share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueKind {
    /// Workflow tasks and queries.
    Workflow,
    /// Activity tasks.
    Activity,
}

/// Something for a worker to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Task {
    /// The workflow task of a run.
    Workflow {
        /// The run.
        run_id: String,
    },
    /// An attempt at an activity.
    Activity {
        /// The run.
        run_id: String,
        /// Which activity.
        scheduled_event_id: i64,
        /// Which attempt.
        attempt: i32,
    },
    /// A query that no workflow task carries.
    Query {
        /// The query.
        query_id: String,
    },
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// The same ones: none is in a queue twice.
    queued: HashSet<Task>,
    arrived: Arc<Notify>,
    /// By identity: when it last polled.
    pollers: HashMap<String, i64>,
    /// Polls that wait now.
    waiting: usize,
    /// Its one worker has said that it is shutting down, and not polled since.
    retired: bool,
}

/// All task queues of a service.
#[derive(Default)]
pub struct Matching {
    queues: HashMap<(QueueKind, String), Queue>,
}

impl Matching {
    /// Adds a task and wakes one poller.
    pub fn push(&mut self, kind: QueueKind, name: &str, task: Task) {
        let queue = self.queue(kind, name);
        if queue.queued.insert(task.clone()) {
            queue.tasks.push_back(task);
        }
        queue.arrived.notify_one();
    }

    /// Takes the next task of a queue for a poller; without one, gives what tells of the next arrival.
    pub fn poll(
        &mut self,
        kind: QueueKind,
        name: &str,
        identity: &str,
        now_ms: i64,
    ) -> Result<Task, Arc<Notify>> {
        let queue = self.queue(kind, name);
        queue.pollers.insert(identity.to_owned(), now_ms);
        queue.retired = false;
        let task = queue.tasks.pop_front();
        if !queue.tasks.is_empty() {
            // Two tasks that come before a poller begins to wait ring once: who is rung for one passes it on for the other.
            queue.arrived.notify_one();
        }
        let task = task.ok_or_else(|| Arc::clone(&queue.arrived))?;
        queue.queued.remove(&task);
        Ok(task)
    }

    /// A poll begins or ends to wait.
    pub fn wait(&mut self, kind: QueueKind, name: &str, identity: &str, now_ms: i64, waits: bool) {
        if waits {
            let queue = self.queue(kind, name);
            queue.pollers.insert(identity.to_owned(), now_ms);
            queue.waiting += 1;
        } else if let Some(queue) = self.queues.get_mut(&(kind, name.to_owned())) {
            // A poller that was forgotten meanwhile does not come back by the end of its last poll.
            if let Some(seen) = queue.pollers.get_mut(identity) {
                *seen = now_ms;
            }
            queue.waiting = queue.waiting.saturating_sub(1);
        }
    }

    /// Whether somebody polls a queue, or did a moment ago.
    pub fn is_polled(&self, kind: QueueKind, name: &str, now_ms: i64) -> bool {
        self.queues.get(&(kind, name.to_owned())).is_some_and(|queue| {
            !queue.retired
                && (queue.waiting > 0 || queue.pollers.values().any(|seen| now_ms - seen < POLLER_GONE_MS))
        })
    }

    /// Who polls a queue, and when each last did.
    pub fn pollers(&mut self, kind: QueueKind, name: &str, now_ms: i64) -> Vec<(String, i64)> {
        let Some(queue) = self.queues.get_mut(&(kind, name.to_owned())) else {
            return Vec::new();
        };
        queue
            .pollers
            .retain(|_, seen| now_ms - *seen < POLLER_FORGOTTEN_MS);
        queue
            .pollers
            .iter()
            .map(|(identity, seen)| (identity.clone(), *seen))
            .collect()
    }

    /// How many tasks wait in a queue.
    pub fn backlog(&self, kind: QueueKind, name: &str) -> usize {
        let queue = self.queues.get(&(kind, name.to_owned()));
        queue.map_or(0, |queue| queue.tasks.len())
    }

    /// Forgets a poller that says it is shutting down. Gives what waited for it in its sticky queue.
    pub fn retire(&mut self, identity: &str, sticky_queue: &str) -> Vec<Task> {
        for queue in self.queues.values_mut() {
            queue.pollers.remove(identity);
        }
        let sticky = self
            .queues
            .get_mut(&(QueueKind::Workflow, sticky_queue.to_owned()));
        sticky.map_or_else(Vec::new, |queue| {
            queue.retired = true;
            queue.queued.clear();
            queue.tasks.drain(..).collect()
        })
    }

    /// Forgets the pollers that are so.
    pub fn forget_all(&mut self, is_dead: &dyn Fn(&str) -> bool) {
        for queue in self.queues.values_mut() {
            queue.pollers.retain(|identity, _| !is_dead(identity));
        }
    }

    /// What a queue holds.
    #[cfg(test)]
    pub fn waiting(&self, kind: QueueKind, name: &str) -> Vec<Task> {
        let queue = self.queues.get(&(kind, name.to_owned()));
        queue.iter().flat_map(|queue| &queue.tasks).cloned().collect()
    }

    fn queue(&mut self, kind: QueueKind, name: &str) -> &mut Queue {
        self.queues.entry((kind, name.to_owned())).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_wakes_a_poller_and_is_given_once() {
        let mut matching = Matching::default();
        let arrived = matching.poll(QueueKind::Activity, "q", "w1", 0).unwrap_err();
        let task = Task::Activity {
            run_id: "r".into(),
            scheduled_event_id: 5,
            attempt: 1,
        };
        matching.push(QueueKind::Activity, "q", task.clone());
        matching.push(QueueKind::Activity, "q", task.clone());
        arrived.notified().await;
        assert_eq!(matching.poll(QueueKind::Activity, "q", "w1", 1).unwrap(), task);
        assert!(matching.poll(QueueKind::Activity, "q", "w1", 2).is_err());
    }

    #[tokio::test]
    async fn two_tasks_that_come_before_anybody_waits_wake_two_pollers() {
        let mut matching = Matching::default();
        let poll = |matching: &mut Matching| matching.poll(QueueKind::Workflow, "q", "w", 0);
        let bells = [poll(&mut matching).unwrap_err(), poll(&mut matching).unwrap_err()];
        for run_id in ["a", "b"] {
            let run_id = run_id.to_owned();
            matching.push(QueueKind::Workflow, "q", Task::Workflow { run_id });
        }
        for bell in bells {
            let rung = tokio::time::timeout(std::time::Duration::from_secs(5), bell.notified());
            rung.await.expect("there is a task for each");
            poll(&mut matching).unwrap();
        }
    }

    #[test]
    fn a_queue_without_pollers_is_known_as_such() {
        let mut matching = Matching::default();
        assert!(!matching.is_polled(QueueKind::Workflow, "sticky", 0));
        assert!(matching.poll(QueueKind::Workflow, "sticky", "w1", 0).is_err());
        assert!(matching.is_polled(QueueKind::Workflow, "sticky", 1));
        assert!(!matching.is_polled(QueueKind::Workflow, "sticky", POLLER_GONE_MS));
        assert_eq!(
            matching.pollers(QueueKind::Workflow, "sticky", 1),
            vec![("w1".to_owned(), 0)]
        );
    }

    #[test]
    fn a_forgotten_poller_does_not_come_back_by_the_end_of_its_poll() {
        let mut matching = Matching::default();
        let mut poll = |name: &str| {
            matching
                .poll(QueueKind::Workflow, name, "w1", 0)
                .expect_err("nothing is there");
            matching.wait(QueueKind::Workflow, name, "w1", 0, true);
            matching.retire("w1", "sticky");
            matching.wait(QueueKind::Workflow, name, "w1", 1, false);
            matching.is_polled(QueueKind::Workflow, name, 2)
        };
        assert!(!poll("sticky"));
        assert!(!poll("q"));
    }
}
