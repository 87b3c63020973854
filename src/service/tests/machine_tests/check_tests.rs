//! What holds at every moment: memory is what the journal has, everything that is to come comes, and every history is one that
//! can be.

use std::collections::{BTreeMap, BTreeSet};

use temporalio_protos::temporal::api::history::v1::history_event::Attributes as Happened;

use super::super::super::core::Core;
use super::super::super::events::read_events;
use super::super::super::history::RunState;
use super::super::super::matching::{QueueKind, Task};
use super::super::super::recovery::load;
use super::super::*;
use super::World;

impl World {
    /// Until nothing is applied that is not released: clients that wait do something whenever they hear of something.
    async fn quiet(&self) {
        loop {
            let applied = self.service.inner.store.applied();
            self.service.release(Pending::default()).await.unwrap();
            self.service.settled().await.unwrap();
            if self.service.inner.store.applied() == applied {
                return;
            }
        }
    }

    /// Holds memory against what is read back, and looks for every task that should wait.
    pub(super) async fn check(&mut self) {
        self.quiet().await;
        let store = Store::open(self.copy()).unwrap();
        let read = load(&store).unwrap();
        let now_ms = self.service.now_ms();
        let core = self.service.core();
        let states = |core: &Core| {
            core.runs
                .iter()
                .map(|(id, run)| (id.clone(), parts(run)))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(states(&core) == states(&read), "memory is not what is read back");
        assert_eq!(core.current, read.current);
        assert_eq!(core.started, read.started);
        assert_eq!(core.inventories, read.inventories);
        assert!(core.deadlines.is_subset(&read.deadlines), "a deadline too many");
        let missing = read.deadlines.difference(&core.deadlines);
        for (at_ms, run_id, deadline) in missing {
            let handed_out = deadline.only_hands_out() && *at_ms <= now_ms;
            assert!(handed_out, "{run_id} lacks {deadline:?} at {at_ms}");
        }
        for (run_id, run) in &core.runs {
            let task = run.workflow_task.as_ref();
            if let Some(task) = task.filter(|task| task.started_event_id == 0 && task.scheduled_ms <= now_ms)
            {
                // What waited for a worker that shuts down waits in the normal queue.
                let queues = [Some(&run.task_queue), Some(&task.queue).filter(|_| task.sticky)];
                let due = Task::Workflow {
                    run_id: run_id.clone(),
                };
                let holds_it =
                    |queue: &String| core.matching.waiting(QueueKind::Workflow, queue).contains(&due);
                let waits = queues.into_iter().flatten().any(holds_it);
                let comes = core
                    .deadlines
                    .iter()
                    .any(|(_, it, deadline)| it == run_id && deadline.only_hands_out());
                assert!(waits || comes, "the workflow task of {run_id} is lost");
            }
            for it in run.activities.values() {
                let due = Task::Activity {
                    run_id: run_id.clone(),
                    scheduled_event_id: it.scheduled_event_id,
                    attempt: it.attempt,
                };
                let ready = it.started_ms == 0 && it.attempt_scheduled_ms <= now_ms;
                let waits = core
                    .matching
                    .waiting(QueueKind::Activity, &it.queue)
                    .contains(&due);
                let comes = core
                    .deadlines
                    .iter()
                    .any(|(_, run, deadline)| run == run_id && deadline.only_hands_out());
                assert!(
                    !ready || waits || comes,
                    "activity {} of {run_id} is lost",
                    it.activity_id
                );
            }
            let asks = core.updates.has_unsent(run_id);
            assert!(
                !asks || run.workflow_task.is_some(),
                "an update of {run_id} is lost"
            );
            assert_legal(&read_events(&store, run, 1, usize::MAX).unwrap());
        }
        for (query_id, run_id, queue) in core.queries.all() {
            let travels = core
                .runs
                .get(&run_id)
                .is_some_and(|run| run.workflow_task.is_some());
            let due = Task::Query {
                query_id: query_id.clone(),
            };
            let waits =
                queue.is_some_and(|queue| core.matching.waiting(QueueKind::Workflow, &queue).contains(&due));
            assert!(
                travels || waits || self.asked.contains(&query_id),
                "a query of {run_id} is lost"
            );
        }
    }
}

/// Whether a task that waits in a queue is still one.
pub(super) fn holds(core: &Core, task: &Task, now_ms: i64) -> bool {
    match task {
        Task::Workflow { run_id } => core.runs.get(run_id).is_some_and(|run| {
            let task = run.workflow_task.as_ref();
            task.is_some_and(|task| task.started_event_id == 0 && task.scheduled_ms <= now_ms)
        }),
        Task::Activity {
            run_id,
            scheduled_event_id,
            attempt,
        } => core.runs.get(run_id).is_some_and(|run| {
            run.activities.get(scheduled_event_id).is_some_and(|it| {
                it.attempt == *attempt && it.started_ms == 0 && it.attempt_scheduled_ms <= now_ms
            })
        }),
        Task::Query { query_id } => core.queries.get(query_id).is_some(),
    }
}

/// All of a run, to be compared.
fn parts(run: &RunState) -> impl PartialEq + use<> {
    fn all<'a, K: Clone + 'a, V: Clone + 'a>(rows: impl Iterator<Item = (&'a K, &'a V)>) -> Vec<(K, V)> {
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
    (
        run.record().clone(),
        all(run.activities.iter()),
        all(run.timers.iter()),
        all(run.buffered.iter()),
        all(run.updates.iter()),
        all(run.completed_updates.iter()),
        all(run.request_ids.iter()),
    )
}

/// What holds of every history.
pub(super) fn assert_legal(events: &[HistoryEvent]) {
    let (mut open, mut closed) = (BTreeMap::new(), false);
    let mut updates = BTreeSet::new();
    let mut task = EventType::WorkflowTaskCompleted;
    for (event, id) in events.iter().zip(1..) {
        let kind = event.event_type();
        assert_eq!(event.event_id, id);
        assert_eq!(kind == EventType::WorkflowExecutionStarted, id == 1);
        assert!(!closed, "{kind:?} follows the end");
        closed = super::super::history::is_close_event(event);
        let named = match event.attributes.as_ref().unwrap() {
            Happened::ActivityTaskScheduledEventAttributes(_) => Some((format!("a{id}"), 1)),
            Happened::ActivityTaskCompletedEventAttributes(it) => {
                Some((format!("a{}", it.scheduled_event_id), -1))
            }
            Happened::ActivityTaskFailedEventAttributes(it) => {
                Some((format!("a{}", it.scheduled_event_id), -1))
            }
            Happened::ActivityTaskTimedOutEventAttributes(it) => {
                Some((format!("a{}", it.scheduled_event_id), -1))
            }
            Happened::ActivityTaskCanceledEventAttributes(it) => {
                Some((format!("a{}", it.scheduled_event_id), -1))
            }
            Happened::WorkflowExecutionUpdateAcceptedEventAttributes(_) => Some((format!("u{id}"), 1)),
            Happened::WorkflowExecutionUpdateCompletedEventAttributes(it) => {
                Some((format!("u{}", it.accepted_event_id), -1))
            }
            Happened::TimerStartedEventAttributes(_) => Some((format!("t{id}"), 1)),
            Happened::TimerFiredEventAttributes(it) => Some((format!("t{}", it.started_event_id), -1)),
            Happened::TimerCanceledEventAttributes(it) => Some((format!("t{}", it.started_event_id), -1)),
            _ => None,
        };
        if let Some(Happened::WorkflowExecutionUpdateAcceptedEventAttributes(it)) = &event.attributes {
            assert!(
                updates.insert(&it.protocol_instance_id),
                "accepted twice at event {id}"
            );
        }
        if let Some((name, step)) = named {
            let count = open.entry(name.clone()).or_insert(0);
            *count += step;
            assert!([0, 1].contains(count), "{name} at event {id}");
        }
        assert_refers(events, event);
        let before = match kind {
            EventType::WorkflowTaskScheduled => Some(None),
            EventType::WorkflowTaskStarted => Some(Some(EventType::WorkflowTaskScheduled)),
            EventType::WorkflowTaskCompleted | EventType::WorkflowTaskFailed => {
                Some(Some(EventType::WorkflowTaskStarted))
            }
            EventType::WorkflowTaskTimedOut => Some(Some(task)),
            _ => None,
        };
        if let Some(before) = before {
            let ended = ![EventType::WorkflowTaskScheduled, EventType::WorkflowTaskStarted].contains(&task);
            let right = before.map_or(ended, |before| task == before);
            assert!(right, "{kind:?} after {task:?} at event {id}");
            task = kind;
        }
    }
}

/// That the events that an event names are there, and are what it takes them for.
fn assert_refers(events: &[HistoryEvent], event: &HistoryEvent) {
    use EventType::*;
    let scheduled = |id| (id, ActivityTaskScheduled);
    let started = |id| (id, ActivityTaskStarted);
    let completed = |id| (id, WorkflowTaskCompleted);
    let task = |scheduled, started| vec![(scheduled, WorkflowTaskScheduled), (started, WorkflowTaskStarted)];
    let named = match event.attributes.as_ref().unwrap() {
        Happened::WorkflowTaskStartedEventAttributes(it) => {
            vec![(it.scheduled_event_id, WorkflowTaskScheduled)]
        }
        Happened::WorkflowTaskCompletedEventAttributes(it) => {
            task(it.scheduled_event_id, it.started_event_id)
        }
        Happened::WorkflowTaskFailedEventAttributes(it) => task(it.scheduled_event_id, it.started_event_id),
        Happened::WorkflowTaskTimedOutEventAttributes(it) => task(it.scheduled_event_id, it.started_event_id),
        Happened::ActivityTaskScheduledEventAttributes(it) => {
            vec![completed(it.workflow_task_completed_event_id)]
        }
        Happened::ActivityTaskStartedEventAttributes(it) => vec![scheduled(it.scheduled_event_id)],
        Happened::ActivityTaskCompletedEventAttributes(it) => {
            assert!(it.started_event_id > 0, "it was not started: {event:?}");
            vec![scheduled(it.scheduled_event_id), started(it.started_event_id)]
        }
        Happened::ActivityTaskFailedEventAttributes(it) => {
            vec![scheduled(it.scheduled_event_id), started(it.started_event_id)]
        }
        Happened::ActivityTaskTimedOutEventAttributes(it) => {
            vec![scheduled(it.scheduled_event_id), started(it.started_event_id)]
        }
        Happened::ActivityTaskCanceledEventAttributes(it) => vec![
            scheduled(it.scheduled_event_id),
            started(it.started_event_id),
            (it.latest_cancel_requested_event_id, ActivityTaskCancelRequested),
        ],
        Happened::ActivityTaskCancelRequestedEventAttributes(it) => vec![
            scheduled(it.scheduled_event_id),
            completed(it.workflow_task_completed_event_id),
        ],
        Happened::TimerStartedEventAttributes(it) => vec![completed(it.workflow_task_completed_event_id)],
        Happened::TimerFiredEventAttributes(it) => vec![(it.started_event_id, TimerStarted)],
        Happened::TimerCanceledEventAttributes(it) => vec![(it.started_event_id, TimerStarted)],
        Happened::WorkflowExecutionUpdateCompletedEventAttributes(it) => {
            vec![(it.accepted_event_id, WorkflowExecutionUpdateAccepted)]
        }
        _ => vec![],
    };
    // 0 is none: nobody had started it.
    for (id, kind) in named.into_iter().filter(|(id, _)| *id != 0) {
        let index = usize::try_from(id - 1).unwrap();
        assert!(id < event.event_id, "{event:?} names what comes after it");
        assert_eq!(events[index].event_type(), kind, "{event:?} names event {id}");
    }
}
