//! Made-up clients and workers on several workflows, at random: after whatever they do, memory is what a process would read
//! that starts then, no task is lost, and no history is one that cannot be. In the end every run can be ended.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use temporalio_protos::temporal::api::command::v1::*;
use temporalio_protos::temporal::api::common::v1::ActivityType;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes as Happened;

use super::super::core::Core;
use super::super::events::read_events;
use super::super::history::RunState;
use super::super::matching::{QueueKind, Task};
use super::super::recovery::load;
use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

struct World {
    lab: Lab,
    service: Service,
    random: Random,
    /// Activity tasks that are out.
    activities: Vec<PollActivityTaskQueueResponse>,
    /// Workflow tasks that are out.
    tasks: Vec<PollWorkflowTaskQueueResponse>,
    /// All runs there ever were.
    runs: BTreeSet<(String, String)>,
    number: u64,
}

fn execution(workflow_id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: workflow_id.into(),
        ..Default::default()
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        Self {
            service: lab.open().unwrap(),
            lab,
            random: Random(seed),
            activities: vec![],
            tasks: vec![],
            runs: BTreeSet::new(),
            number: 0,
        }
    }

    /// Answers that come too late or are refused are a part of it.
    async fn call<A: Message + Default>(&mut self, rpc: &str, request: impl Message) -> Option<A> {
        let caller = if self.random.below(2) == 0 {
            Caller::Embedded
        } else {
            Caller::Remote
        };
        let path = format!("/{WORKFLOW_SERVICE}/{rpc}");
        match self.service.call(caller, &path, &request.encode_to_vec()).await {
            Ok(answer) => Some(A::decode(answer.as_slice()).unwrap()),
            Err(status) => {
                let expected = [Code::NotFound, Code::InvalidArgument, Code::AlreadyExists];
                assert!(expected.contains(&status.code()), "{rpc}: {status}");
                None
            }
        }
    }

    /// Until all that was applied is released.
    async fn settled(&self) {
        self.service.release(Pending::default()).await.unwrap();
    }

    async fn step(&mut self) {
        let id = format!("w{}", self.random.below(4));
        match self.random.below(20) {
            0..=2 => self.begin(id).await,
            3 | 4 => self.signal(&id).await,
            5 => {
                let request = RequestCancelWorkflowExecutionRequest {
                    namespace: NAMESPACE.into(),
                    workflow_execution: execution(&id),
                    ..Default::default()
                };
                self.call::<RequestCancelWorkflowExecutionResponse>(
                    "RequestCancelWorkflowExecution",
                    request,
                )
                .await;
            }
            6 if self.random.below(3) == 0 => {
                let request = TerminateWorkflowExecutionRequest {
                    namespace: NAMESPACE.into(),
                    workflow_execution: execution(&id),
                    ..Default::default()
                };
                self.call::<TerminateWorkflowExecutionResponse>("TerminateWorkflowExecution", request)
                    .await;
            }
            7..=9 => self.take_task().await,
            10..=13 => self.answer_task().await,
            14 | 15 => self.take_activity().await,
            16 | 17 => self.answer_activity().await,
            18 => {
                let ms = [1, 900, 11_000, 70_000][usize::try_from(self.random.below(4)).unwrap()];
                self.lab.now.fetch_add(ms, Ordering::SeqCst);
                self.service.fire_due();
            }
            _ => self.die(),
        }
        self.settled().await;
    }

    async fn begin(&mut self, id: String) {
        let request = StartWorkflowExecutionRequest {
            namespace: NAMESPACE.into(),
            workflow_id: id.clone(),
            workflow_type: Some(WorkflowType { name: "T".into() }),
            task_queue: queue(),
            // Fail, or terminate what is there.
            workflow_id_conflict_policy: [1, 3][usize::from(self.random.below(8) == 0)],
            ..Default::default()
        };
        let started: Option<StartWorkflowExecutionResponse> =
            self.call("StartWorkflowExecution", request).await;
        self.runs.extend(started.map(|started| (id, started.run_id)));
    }

    async fn signal(&mut self, id: &str) {
        let request = SignalWorkflowExecutionRequest {
            namespace: NAMESPACE.into(),
            workflow_execution: execution(id),
            signal_name: "s".into(),
            request_id: self.random.below(30).to_string(),
            ..Default::default()
        };
        self.call::<SignalWorkflowExecutionResponse>("SignalWorkflowExecution", request)
            .await;
    }

    /// A poll that will find something: one that does not would wait.
    fn waits(&self, kind: QueueKind, name: &str) -> bool {
        let now_ms = self.service.now_ms();
        let core = self.service.core();
        let holds = |task: &Task| holds(&core, task, now_ms);
        core.matching.waiting(kind, name).iter().any(holds)
    }

    async fn take_task(&mut self) {
        let name = if self.random.below(2) == 0 { "q" } else { "sticky" };
        if !self.waits(QueueKind::Workflow, name) {
            return;
        }
        let request = PollWorkflowTaskQueueRequest {
            namespace: NAMESPACE.into(),
            task_queue: Some(TaskQueue {
                name: name.into(),
                kind: if name == "q" { 1 } else { 2 },
                ..Default::default()
            }),
            identity: "1@host".into(),
            ..Default::default()
        };
        let task = self.call("PollWorkflowTaskQueue", request).await;
        self.tasks.extend(task);
    }

    async fn answer_task(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.tasks.len() as u64)).unwrap();
        let task = self.tasks.swap_remove(index);
        if self.random.below(8) == 0 {
            let request = RespondWorkflowTaskFailedRequest {
                task_token: task.task_token,
                ..Default::default()
            };
            self.call::<RespondWorkflowTaskFailedResponse>("RespondWorkflowTaskFailed", request)
                .await;
            return;
        }
        let mut commands: Vec<Do> = (0..self.random.below(4)).map(|_| self.decide(&task)).collect();
        match self.random.below(12) {
            0 => commands.push(Do::CompleteWorkflowExecutionCommandAttributes(Default::default())),
            1 => commands.push(Do::ContinueAsNewWorkflowExecutionCommandAttributes(
                Default::default(),
            )),
            _ => {}
        }
        let sticky_attributes = (self.random.below(2) == 0).then(|| {
            temporalio_protos::temporal::api::taskqueue::v1::StickyExecutionAttributes {
                worker_task_queue: Some(TaskQueue {
                    name: "sticky".into(),
                    ..Default::default()
                }),
                schedule_to_start_timeout: duration(5000),
            }
        });
        let command = |attributes| Command {
            attributes: Some(attributes),
            ..Default::default()
        };
        let request = RespondWorkflowTaskCompletedRequest {
            task_token: task.task_token,
            commands: commands.into_iter().map(command).collect(),
            sticky_attributes,
            ..Default::default()
        };
        self.call::<RespondWorkflowTaskCompletedResponse>("RespondWorkflowTaskCompleted", request)
            .await;
    }

    fn decide(&mut self, task: &PollWorkflowTaskQueueResponse) -> Do {
        self.number += 1;
        let some = self.random.below(6).to_string();
        match self.random.below(6) {
            0..=2 => Do::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
                // Now and then one that is taken: the whole task is refused.
                activity_id: if self.random.below(10) == 0 {
                    some
                } else {
                    self.number.to_string()
                },
                activity_type: Some(ActivityType { name: "A".into() }),
                start_to_close_timeout: duration(10_000),
                schedule_to_start_timeout: duration(60_000),
                heartbeat_timeout: duration(5000),
                request_eager_execution: self.random.below(4) == 0,
                ..Default::default()
            }),
            3 => Do::StartTimerCommandAttributes(StartTimerCommandAttributes {
                timer_id: some,
                start_to_fire_timeout: duration(1000),
            }),
            4 => Do::CancelTimerCommandAttributes(CancelTimerCommandAttributes { timer_id: some }),
            _ => {
                let scheduled = task.history.iter().flat_map(|history| &history.events);
                let scheduled =
                    scheduled.filter(|event| event.event_type() == EventType::ActivityTaskScheduled);
                let ids: Vec<i64> = scheduled.map(|event| event.event_id).collect();
                let index = usize::try_from(self.random.below(1 + ids.len() as u64)).unwrap();
                match ids.get(index) {
                    Some(id) => Do::RequestCancelActivityTaskCommandAttributes(
                        RequestCancelActivityTaskCommandAttributes {
                            scheduled_event_id: *id,
                        },
                    ),
                    None => Do::RecordMarkerCommandAttributes(Default::default()),
                }
            }
        }
    }

    async fn take_activity(&mut self) {
        if self.waits(QueueKind::Activity, "q") {
            let request = PollActivityTaskQueueRequest {
                namespace: NAMESPACE.into(),
                task_queue: queue(),
                ..Default::default()
            };
            let task = self.call("PollActivityTaskQueue", request).await;
            self.activities.extend(task);
        }
    }

    async fn answer_activity(&mut self) {
        if self.activities.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.below(self.activities.len() as u64)).unwrap();
        let task_token = self.activities[index].task_token.clone();
        let answer = self.random.below(6);
        if answer < 4 {
            self.activities.swap_remove(index);
        }
        match answer {
            0 | 1 => {
                let request = RespondActivityTaskCompletedRequest {
                    task_token,
                    ..Default::default()
                };
                self.call::<RespondActivityTaskCompletedResponse>("RespondActivityTaskCompleted", request)
                    .await;
            }
            2 => {
                let request = RespondActivityTaskFailedRequest {
                    task_token,
                    ..Default::default()
                };
                self.call::<RespondActivityTaskFailedResponse>("RespondActivityTaskFailed", request)
                    .await;
            }
            3 => {
                let request = RespondActivityTaskCanceledRequest {
                    task_token,
                    ..Default::default()
                };
                self.call::<RespondActivityTaskCanceledResponse>("RespondActivityTaskCanceled", request)
                    .await;
            }
            _ => {
                let request = RecordActivityTaskHeartbeatRequest {
                    task_token,
                    ..Default::default()
                };
                self.call::<RecordActivityTaskHeartbeatResponse>("RecordActivityTaskHeartbeat", request)
                    .await;
            }
        }
    }

    /// The process dies, and another one starts on what the journal has.
    fn die(&mut self) {
        self.lab.journal = self.copy();
        self.service = self.lab.open().unwrap();
    }

    fn copy(&self) -> Arc<MemoryJournal> {
        let records = self.lab.journal.scan(&[0], &[u8::MAX], usize::MAX).unwrap();
        let writes: Vec<Write> = records
            .into_iter()
            .map(|(key, value)| Write::Put(key, value))
            .collect();
        let copy = MemoryJournal::default();
        copy.apply(&writes).unwrap();
        Arc::new(copy)
    }

    /// Holds memory against what is read back, and looks for every task that should wait.
    async fn check(&mut self) {
        self.service.settled().await.unwrap();
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
                let queue = if task.sticky { &task.queue } else { &run.task_queue };
                let due = Task::Workflow {
                    run_id: run_id.clone(),
                };
                let waits = core.matching.waiting(QueueKind::Workflow, queue).contains(&due);
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
            assert_legal(&read_events(&store, run, 1, usize::MAX).unwrap());
        }
    }

    /// Ends every run: whatever was out is lost, and comes again in time.
    async fn end(&mut self) {
        for _ in 0..40 {
            let open: Vec<String> = self
                .service
                .core()
                .runs
                .values()
                .map(|run| run.workflow_id.clone())
                .collect();
            if open.is_empty() {
                break;
            }
            for id in open {
                self.signal(&id).await;
            }
            self.lab.now.fetch_add(61_000, Ordering::SeqCst);
            self.service.fire_due();
            self.settled().await;
            while self.waits(QueueKind::Workflow, "q") || self.waits(QueueKind::Workflow, "sticky") {
                self.take_task().await;
            }
            for task in std::mem::take(&mut self.tasks) {
                let complete = Do::CompleteWorkflowExecutionCommandAttributes(Default::default());
                let request = RespondWorkflowTaskCompletedRequest {
                    task_token: task.task_token,
                    commands: vec![Command {
                        attributes: Some(complete),
                        ..Default::default()
                    }],
                    ..Default::default()
                };
                self.call::<RespondWorkflowTaskCompletedResponse>("RespondWorkflowTaskCompleted", request)
                    .await;
            }
        }
        assert!(self.service.core().runs.is_empty(), "a run is stuck");
        for (_, run_id) in &self.runs {
            let store = &self.service.inner.store;
            // One that was continued may have gone.
            if let Some(run) = self.service.core().get(store, run_id).unwrap() {
                super::super::stored::prove_events(store, &run).unwrap();
                assert_legal(&read_events(store, &run, 1, usize::MAX).unwrap());
            }
        }
    }
}

/// Whether a task that waits in a queue is still one.
fn holds(core: &Core, task: &Task, now_ms: i64) -> bool {
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
        Task::Query { .. } => false,
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
fn assert_legal(events: &[HistoryEvent]) {
    let (mut open, mut closed) = (BTreeMap::new(), false);
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
            Happened::TimerStartedEventAttributes(_) => Some((format!("t{id}"), 1)),
            Happened::TimerFiredEventAttributes(it) => Some((format!("t{}", it.started_event_id), -1)),
            Happened::TimerCanceledEventAttributes(it) => Some((format!("t{}", it.started_event_id), -1)),
            _ => None,
        };
        if let Some((name, step)) = named {
            let count = open.entry(name.clone()).or_insert(0);
            *count += step;
            assert!([0, 1].contains(count), "{name} at event {id}");
        }
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

#[tokio::test]
async fn whatever_clients_and_workers_do_nothing_is_lost_and_all_runs_can_end() {
    let given = std::env::var("LONGHAUL_TEST_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().hash_one(()),
        |seed| seed.parse().expect("a number"),
    );
    let history = async {
        let mut world = World::new(seed);
        for _ in 0..1500 {
            world.step().await;
            world.check().await;
        }
        world.end().await;
        assert!(world.runs.len() > 10);
    };
    let ended = AssertUnwindSafe(history).catch_unwind().await;
    assert!(ended.is_ok(), "LONGHAUL_TEST_SEED={seed} gives it again");
}
