//! Made-up clients and workers on several workflows, at random: after whatever they do, memory is what a process would read
//! that starts then, no task is lost, and no history is one that cannot be. In the end every run can be ended.

mod check_tests;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use temporalio_protos::temporal::api::command::v1::*;
use temporalio_protos::temporal::api::common::v1::{ActivityType, RetryPolicy};
use temporalio_protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Lifecycle;
use temporalio_protos::temporal::api::protocol::v1::Message as Envelope;
use temporalio_protos::temporal::api::update::v1::{Acceptance, WaitPolicy};

use super::super::events::read_events;
use super::super::matching::{QueueKind, Task};
use super::update_tests::{complete, envelope, refuse};
use super::*;
use check_tests::{assert_legal, holds};

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
    /// Queries that a worker has.
    asked: BTreeSet<String>,
    /// Updates that workers have accepted and not completed, by run.
    accepted: Vec<(String, String)>,
    /// Clients that wait.
    clients: Vec<tokio::task::JoinHandle<()>>,
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
            asked: BTreeSet::new(),
            accepted: vec![],
            clients: vec![],
            runs: BTreeSet::new(),
            number: 0,
        }
    }

    /// Answers that come too late or are refused are a part of it.
    async fn call<A: Message + Default>(&mut self, rpc: &str, request: impl Message) -> Option<A> {
        let caller = [Caller::Embedded, Caller::Process, Caller::Remote][self.below(3)];
        let path = format!("/{WORKFLOW_SERVICE}/{rpc}");
        match self.service.call(caller, &path, &request.encode_to_vec()).await {
            Ok(answer) => Some(A::decode(answer.as_slice()).unwrap()),
            Err(status) => {
                let expected = [
                    Code::NotFound,
                    Code::InvalidArgument,
                    Code::AlreadyExists,
                    Code::FailedPrecondition,
                    Code::ResourceExhausted,
                ];
                assert!(expected.contains(&status.code()), "{rpc}: {status}");
                None
            }
        }
    }

    fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.random.below(end)).unwrap()
    }

    /// A client that waits for its answer, which may never come.
    async fn wait_for(&mut self, rpc: &str, request: impl Message) {
        let (service, path) = (self.service.clone(), format!("/{WORKFLOW_SERVICE}/{rpc}"));
        let request = request.encode_to_vec();
        self.clients.push(tokio::spawn(async move {
            let _ = service.call(Caller::Remote, &path, &request).await;
        }));
        // It begins to wait.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    /// Until all that was applied is released.
    async fn settled(&self) {
        self.service.release(Pending::default()).await.unwrap();
    }

    async fn step(&mut self) {
        let id = format!("w{}", self.random.below(4));
        match self.random.below(25) {
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
            19 | 20 => self.update(&id).await,
            21 => self.query(&id).await,
            22 => {
                let request = ResetStickyTaskQueueRequest {
                    namespace: NAMESPACE.into(),
                    execution: execution(&id),
                };
                self.call::<ResetStickyTaskQueueResponse>("ResetStickyTaskQueue", request)
                    .await;
            }
            23 => self.lose_worker().await,
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
            workflow_run_timeout: duration([0, 0, 50_000][self.below(3)]),
            retry_policy: (self.random.below(2) == 0).then(|| RetryPolicy {
                maximum_attempts: 3,
                ..Default::default()
            }),
            ..Default::default()
        };
        let started: Option<StartWorkflowExecutionResponse> =
            self.call("StartWorkflowExecution", request).await;
        self.runs.extend(started.map(|started| (id, started.run_id)));
    }

    async fn update(&mut self, id: &str) {
        let stage = [Lifecycle::Admitted, Lifecycle::Accepted, Lifecycle::Completed][self.below(3)];
        let update_id = format!("u{}", self.random.below(40));
        let request = UpdateWorkflowExecutionRequest {
            namespace: NAMESPACE.into(),
            workflow_execution: execution(id),
            wait_policy: Some(WaitPolicy {
                lifecycle_stage: stage as i32,
            }),
            request: Some(Request {
                meta: Some(Meta {
                    update_id,
                    ..Default::default()
                }),
                input: update_input(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.wait_for("UpdateWorkflowExecution", request).await;
    }

    async fn query(&mut self, id: &str) {
        let request = QueryWorkflowRequest {
            namespace: NAMESPACE.into(),
            execution: execution(id),
            query: Some(WorkflowQuery {
                query_type: "q".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.wait_for("QueryWorkflow", request).await;
    }

    /// A worker ends, in good order or not; what it has comes again.
    async fn lose_worker(&mut self) {
        if self.random.below(2) == 0 {
            let request = ShutdownWorkerRequest {
                namespace: NAMESPACE.into(),
                identity: "1@host".into(),
                sticky_task_queue: "sticky".into(),
                ..Default::default()
            };
            self.call::<ShutdownWorkerResponse>("ShutdownWorker", request)
                .await;
        } else {
            self.service.outlive(&|_| true);
        }
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
        let task: Option<PollWorkflowTaskQueueResponse> = self.call("PollWorkflowTaskQueue", request).await;
        let Some(task) = task else { return };
        if task.query.is_none() {
            self.tasks.push(task);
            return;
        }
        let query_id = String::from_utf8(task.task_token.clone()).unwrap();
        if self.random.below(4) == 0 {
            // Its worker is gone.
            self.asked.insert(query_id);
            return;
        }
        let request = RespondQueryTaskCompletedRequest {
            task_token: task.task_token,
            completed_type: i32::try_from(1 + self.random.below(2)).unwrap(),
            ..Default::default()
        };
        self.call::<RespondQueryTaskCompletedResponse>("RespondQueryTaskCompleted", request)
            .await;
    }

    /// What a worker says of the updates that it has got with a task, or before.
    fn messages(&mut self, task: &PollWorkflowTaskQueueResponse) -> Vec<Envelope> {
        let run_id = task.workflow_execution.clone().unwrap_or_default().run_id;
        let mut messages = Vec::new();
        let of_run = |(run, _): &(String, String)| *run == run_id;
        if self.random.below(2) == 0
            && let Some(index) = self.accepted.iter().position(of_run)
        {
            messages.push(complete(&self.accepted.swap_remove(index).1));
        }
        for request in &task.messages {
            let id = request.protocol_instance_id.clone();
            match self.random.below(4) {
                0 => messages.push(refuse(&id)),
                // It does not know updates.
                1 => {}
                after => {
                    let accepted_request =
                        Request::decode(request.body.clone().unwrap().value.as_slice()).ok();
                    let acceptance = Acceptance {
                        accepted_request,
                        ..Default::default()
                    };
                    messages.push(envelope(&id, "Acceptance", &acceptance));
                    if after == 2 {
                        messages.push(complete(&id));
                    } else {
                        self.accepted.push((run_id.clone(), id));
                    }
                }
            }
        }
        messages
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
        match self.random.below(14) {
            2 => commands.push(Do::FailWorkflowExecutionCommandAttributes(Default::default())),
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
        let messages = self.messages(&task);
        let answered = |_| temporalio_protos::temporal::api::query::v1::WorkflowQueryResult {
            result_type: 1,
            ..Default::default()
        };
        let request = RespondWorkflowTaskCompletedRequest {
            task_token: task.task_token.clone(),
            commands: commands.into_iter().map(command).collect(),
            sticky_attributes,
            messages,
            query_results: task.queries.keys().map(|id| (id.clone(), answered(id))).collect(),
            force_create_new_workflow_task: self.random.below(8) == 0,
            return_new_workflow_task: self.random.below(2) == 0,
            ..Default::default()
        };
        let answer: Option<RespondWorkflowTaskCompletedResponse> =
            self.call("RespondWorkflowTaskCompleted", request).await;
        let Some(answer) = answer else { return };
        if answer.reset_history_event_id == 0 {
            self.assert_kept(&task);
        }
        self.tasks.extend(answer.workflow_task);
        self.activities.extend(answer.activity_tasks);
    }

    /// What a worker saw of a task that it has answered is what the history has, whoever reads it then.
    fn assert_kept(&self, task: &PollWorkflowTaskQueueResponse) {
        let run_id = task.workflow_execution.clone().unwrap_or_default().run_id;
        let store = &self.service.inner.store;
        let Some(run) = self.service.core().get(store, &run_id).unwrap() else {
            return;
        };
        let kept = read_events(store, &run, 1, usize::MAX).unwrap();
        for seen in task.history.iter().flat_map(|history| &history.events) {
            let index = usize::try_from(seen.event_id - 1).unwrap();
            assert_eq!(Some(seen), kept.get(index), "what a worker has seen");
        }
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
        self.clients.drain(..).for_each(|client| client.abort());
        self.asked.clear();
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
