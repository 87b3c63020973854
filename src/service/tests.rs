//! The service as a whole, on a journal in memory and a clock that the test moves: what is durable, what a restart finds.

mod closed_tests;
mod durable_tests;
mod machine_tests;
mod proof_tests;
mod refusal_tests;
mod repetition_tests;
mod start_tests;
mod task_tests;
mod update_tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prost::Message;
use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, ModifyWorkflowPropertiesCommandAttributes,
    RecordMarkerCommandAttributes, StartTimerCommandAttributes,
    UpsertWorkflowSearchAttributesCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{
    Header, Memo, Payload, Payloads, SearchAttributes, WorkflowExecution, WorkflowType,
};
use temporalio_protos::temporal::api::enums::v1::EventType;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::query::v1::WorkflowQuery;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::update::v1::{Input, Meta, Request};
use temporalio_protos::temporal::api::workflowservice::v1::*;
use tonic::Code;

use self::start_tests::Slow;
use super::clock::duration;
use super::journal::{Journal, MemoryJournal, SledJournal, Store, Write, event_key, run_key};
use super::*;

/// A service whose process can die: the journal stays.
struct Lab {
    journal: Arc<MemoryJournal>,
    now: Arc<AtomicI64>,
}

impl Lab {
    fn new() -> Self {
        Self {
            journal: Arc::default(),
            now: Arc::new(AtomicI64::new(1_000_000)),
        }
    }

    fn open(&self) -> Result<Service, JournalError> {
        let store = Store::open(Arc::clone(&self.journal) as Arc<dyn Journal>)?;
        Service::open(store, Clock::Manual(Arc::clone(&self.now)), Mode::Serve)
    }
}

async fn call<Q: Message, A: Message + Default>(
    service: &Service,
    rpc: &str,
    request: Q,
) -> Result<A, Status> {
    let path = format!("/{WORKFLOW_SERVICE}/{rpc}");
    let answer = service
        .call(Caller::Embedded, &path, &request.encode_to_vec())
        .await?;
    Ok(A::decode(answer.as_slice()).expect("an answer of the right type"))
}

fn queue() -> Option<TaskQueue> {
    Some(TaskQueue {
        name: "q".into(),
        ..Default::default()
    })
}

/// What an update has to have.
fn update_input() -> Option<Input> {
    Some(Input {
        name: "U".into(),
        ..Default::default()
    })
}

async fn start(service: &Service) -> String {
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        ..Default::default()
    };
    let started: StartWorkflowExecutionResponse =
        call(service, "StartWorkflowExecution", request).await.unwrap();
    started.run_id
}

async fn poll(service: &Service) -> PollWorkflowTaskQueueResponse {
    let request = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: queue(),
        identity: "1@host".into(),
        ..Default::default()
    };
    call(service, "PollWorkflowTaskQueue", request).await.unwrap()
}

async fn answer(service: &Service, task: &PollWorkflowTaskQueueResponse, commands: Vec<Do>) {
    let command = |attributes| Command {
        attributes: Some(attributes),
        ..Default::default()
    };
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        commands: commands.into_iter().map(command).collect(),
        ..Default::default()
    };
    let _: RespondWorkflowTaskCompletedResponse = call(service, "RespondWorkflowTaskCompleted", request)
        .await
        .unwrap();
}

fn types(task: &PollWorkflowTaskQueueResponse) -> Vec<EventType> {
    task.history
        .iter()
        .flat_map(|history| &history.events)
        .map(|event| event.event_type())
        .collect()
}

#[tokio::test]
async fn a_timer_outlives_the_process_and_waits_the_rest_only() {
    let lab = Lab::new();
    {
        let service = lab.open().unwrap();
        start(&service).await;
        let task = poll(&service).await;
        let timer = StartTimerCommandAttributes {
            timer_id: "t".into(),
            start_to_fire_timeout: duration(600_000),
        };
        answer(&service, &task, vec![Do::StartTimerCommandAttributes(timer)]).await;
        lab.now.fetch_add(400_000, Ordering::SeqCst);
        service.fire_due();
    }
    let service = lab.open().unwrap();
    lab.now.fetch_add(199_999, Ordering::SeqCst);
    service.fire_due();
    assert!(
        service
            .core()
            .runs
            .values()
            .all(|run| run.workflow_task.is_none()),
        "a millisecond too early"
    );
    lab.now.fetch_add(1, Ordering::SeqCst);
    service.fire_due();
    let task = poll(&service).await;
    assert!(types(&task).contains(&EventType::TimerFired));
}

/// Has the run start a timer of ten minutes.
async fn start_timer(service: &Service) {
    start(service).await;
    let task = poll(service).await;
    let timer = StartTimerCommandAttributes {
        timer_id: "t".into(),
        start_to_fire_timeout: duration(600_000),
    };
    answer(service, &task, vec![Do::StartTimerCommandAttributes(timer)]).await;
}

fn has_fired(service: &Service) -> bool {
    service.fire_due();
    service.core().runs.values().all(|run| run.timers.is_empty())
}

#[tokio::test]
async fn a_clock_that_is_set_back_an_hour_makes_a_timer_no_later() {
    let hands = Arc::new(super::clock::Hands::default());
    hands.wall_ms.store(50_000_000, Ordering::SeqCst);
    let store = Store::open(Arc::new(MemoryJournal::default())).unwrap();
    let service = Service::open(store, Clock::Hands(Arc::clone(&hands)), Mode::Serve).unwrap();
    start_timer(&service).await;
    hands.wall_ms.fetch_sub(3_600_000, Ordering::SeqCst);
    let pass = |ms| {
        hands.wall_ms.fetch_add(ms, Ordering::SeqCst);
        hands.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    };
    pass(599_999);
    assert!(!has_fired(&service), "a millisecond too early");
    pass(1);
    assert!(has_fired(&service));
}

#[tokio::test]
async fn a_clock_that_was_set_back_while_no_process_ran_makes_a_timer_no_longer_than_it_is() {
    let lab = Lab::new();
    lab.now.store(50_000_000, Ordering::SeqCst);
    start_timer(&lab.open().unwrap()).await;
    lab.now.fetch_sub(3_600_000, Ordering::SeqCst);
    let service = lab.open().unwrap();
    lab.now.fetch_add(599_999, Ordering::SeqCst);
    assert!(!has_fired(&service), "a millisecond too early");
    lab.now.fetch_add(1, Ordering::SeqCst);
    assert!(has_fired(&service));
}

#[tokio::test]
async fn a_task_that_was_out_when_the_process_died_is_out_again_at_once() {
    let lab = Lab::new();
    {
        let service = lab.open().unwrap();
        start(&service).await;
        poll(&service).await;
    }
    let service = lab.open().unwrap();
    let task = poll(&service).await;
    assert!(types(&task).contains(&EventType::WorkflowTaskTimedOut));
    answer(&service, &task, vec![]).await;
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_refused_the_second_time() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    answer(&service, &task, vec![]).await;
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        ..Default::default()
    };
    let again: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(&service, "RespondWorkflowTaskCompleted", request).await;
    assert_eq!(again.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn one_id_is_one_open_workflow() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        request_id: "another".into(),
        ..Default::default()
    };
    let twice: Result<StartWorkflowExecutionResponse, _> =
        call(&service, "StartWorkflowExecution", request).await;
    assert_eq!(twice.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn what_is_not_implemented_and_what_is_too_large_say_so() {
    let service = Lab::new().open().unwrap();
    let refused = async |path: &str, request: &[u8]| {
        let answer = service.call(Caller::Embedded, path, request).await;
        answer.unwrap_err()
    };
    let rpc = |rpc: &str| format!("/{WORKFLOW_SERVICE}/{rpc}");
    for path in [
        &rpc("CreateSchedule"),
        "/temporal.api.operatorservice.v1.OperatorService/GetSystemInfo",
        "/WorkflowService/GetSystemInfo",
        "GetSystemInfo",
        "",
    ] {
        assert_eq!(refused(path, &[]).await.code(), Code::Unimplemented, "{path}");
    }
    let large = refused(&rpc("StartWorkflowExecution"), &vec![0; 5 << 20]).await;
    assert_eq!(large.code(), Code::ResourceExhausted);
    assert!(
        large
            .message()
            .starts_with("grpc: received message larger than max"),
        "SDKs know it by these words"
    );
}

#[tokio::test]
async fn a_journal_that_lost_a_record_is_refused_with_its_name() {
    for lose_run in [false, true] {
        let lab = Lab::new();
        let run_id = start(&lab.open().unwrap()).await;
        let key = if lose_run {
            run_key(&run_id)
        } else {
            event_key(&run_id, 1)
        };
        lab.journal.apply(&[Write::Delete(key)]).unwrap();
        let error = lab.open().err().expect("it must not open");
        assert!(error.is_damage(), "{error}");
    }
}

#[tokio::test]
async fn a_journal_whose_run_and_events_do_not_belong_together_is_refused() {
    for changed_id in [1, 3] {
        let lab = Lab::new();
        let run_id = start(&lab.open().unwrap()).await;
        // Well sealed, and an event: but not the one that was stored, or one more than the run counts.
        let event = HistoryEvent {
            event_id: changed_id,
            ..Default::default()
        };
        let store = Store::open(Arc::clone(&lab.journal) as Arc<dyn Journal>).unwrap();
        store
            .apply(vec![Write::Put(
                event_key(&run_id, changed_id),
                event.encode_to_vec(),
            )])
            .unwrap();
        drop(store);
        let error = lab.open().err().expect("it must not open");
        assert!(error.is_damage(), "{error}");
    }
}

#[tokio::test]
async fn a_history_page_comes_when_there_is_news() {
    let service = Lab::new().open().unwrap();
    let run_id = start(&service).await;
    let request = |next_page_token| GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: Some(WorkflowExecution {
            workflow_id: "w".into(),
            run_id: run_id.clone(),
        }),
        wait_new_event: true,
        next_page_token,
        ..Default::default()
    };
    let page: GetWorkflowExecutionHistoryResponse =
        call(&service, "GetWorkflowExecutionHistory", request(vec![]))
            .await
            .unwrap();
    assert_eq!(page.history.unwrap_or_default().events.len(), 2);
    let waiting = request(page.next_page_token);
    let (next, task) = tokio::join!(
        call::<_, GetWorkflowExecutionHistoryResponse>(&service, "GetWorkflowExecutionHistory", waiting),
        poll(&service)
    );
    assert_eq!(
        next.unwrap().history.unwrap_or_default().events[0].event_type(),
        EventType::WorkflowTaskStarted
    );
    assert_eq!(task.attempt, 1);
}

/// A protobuf map with more keys than would come back in the same order by chance.
fn map<V>(value: impl Fn(Vec<u8>) -> V) -> std::collections::HashMap<String, V> {
    (0..8)
        .map(|key| (format!("key {key}"), value(vec![key; 8])))
        .collect()
}

fn payload(data: Vec<u8>) -> Payload {
    Payload {
        data,
        ..Default::default()
    }
}

/// As [`map`], of names that are known.
fn search_attributes() -> SearchAttributes {
    let names = [
        "BatcherNamespace",
        "BatcherUser",
        "BinaryChecksums",
        "BuildIds",
        "TemporalChangeVersion",
        "TemporalPauseInfo",
        "TemporalScheduledById",
        "TemporalSchedulePaused",
    ];
    let fields = names.into_iter().zip(0_u8..);
    SearchAttributes {
        indexed_fields: fields
            .map(|(name, value)| (name.to_owned(), payload(vec![value; 8])))
            .collect(),
    }
}

async fn history(service: &Service, workflow_id: &str) -> Vec<HistoryEvent> {
    let request = GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: Some(WorkflowExecution {
            workflow_id: workflow_id.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let page: GetWorkflowExecutionHistoryResponse = call(service, "GetWorkflowExecutionHistory", request)
        .await
        .unwrap();
    page.history.unwrap_or_default().events
}

/// One open and one closed run, with a map of several keys wherever an event can have one.
async fn run_with_maps(service: &Service) {
    for workflow_id in ["closed", "open"] {
        let request = StartWorkflowExecutionRequest {
            namespace: NAMESPACE.into(),
            workflow_id: workflow_id.into(),
            workflow_type: Some(WorkflowType { name: "T".into() }),
            task_queue: queue(),
            memo: Some(Memo { fields: map(payload) }),
            header: Some(Header { fields: map(payload) }),
            search_attributes: Some(search_attributes()),
            ..Default::default()
        };
        let _: StartWorkflowExecutionResponse =
            call(service, "StartWorkflowExecution", request).await.unwrap();
        let task = poll(service).await;
        let mut commands = vec![
            Do::RecordMarkerCommandAttributes(RecordMarkerCommandAttributes {
                marker_name: "m".into(),
                details: map(|data| Payloads {
                    payloads: vec![payload(data)],
                }),
                header: Some(Header { fields: map(payload) }),
                ..Default::default()
            }),
            Do::UpsertWorkflowSearchAttributesCommandAttributes(
                UpsertWorkflowSearchAttributesCommandAttributes {
                    search_attributes: Some(search_attributes()),
                },
            ),
            Do::ModifyWorkflowPropertiesCommandAttributes(ModifyWorkflowPropertiesCommandAttributes {
                upserted_memo: Some(Memo { fields: map(payload) }),
            }),
        ];
        if workflow_id == "closed" {
            commands.push(Do::CompleteWorkflowExecutionCommandAttributes(
                CompleteWorkflowExecutionCommandAttributes::default(),
            ));
        }
        answer(service, &task, commands).await;
        if workflow_id == "open" {
            signal_with_header(service, workflow_id).await;
            let task = poll(service).await;
            // The task is out: this one goes through the buffer in the run's state.
            signal_with_header(service, workflow_id).await;
            answer(service, &task, vec![]).await;
        }
    }
}

async fn signal_with_header(service: &Service, workflow_id: &str) {
    signal(service, workflow_id, |request| {
        request.header = Some(Header { fields: map(payload) });
    })
    .await;
}

async fn signal(
    service: &Service,
    workflow_id: &str,
    with: impl FnOnce(&mut SignalWorkflowExecutionRequest),
) {
    let mut request = SignalWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: Some(WorkflowExecution {
            workflow_id: workflow_id.into(),
            ..Default::default()
        }),
        signal_name: "s".into(),
        ..Default::default()
    };
    with(&mut request);
    let _: SignalWorkflowExecutionResponse = call(service, "SignalWorkflowExecution", request).await.unwrap();
}

#[tokio::test]
async fn runs_whose_events_have_maps_open_every_time_with_the_same_history() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    run_with_maps(&service).await;
    let before = [history(&service, "open").await, history(&service, "closed").await];
    let lengths = before.each_ref().map(Vec::len);
    assert_eq!(lengths, [13, 8]);
    drop(service);
    // Each map that is decoded has an order of its own: one start would prove little.
    for start in 0..30 {
        let service = lab
            .open()
            .unwrap_or_else(|error| panic!("start {start}: {error}"));
        let now = [history(&service, "open").await, history(&service, "closed").await];
        assert!(now == before, "another history at start {start}");
    }
}

#[tokio::test]
async fn a_journal_that_lost_the_file_of_a_large_event_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| {
        let store = Store::open(Arc::new(SledJournal::open(path)?))?;
        Service::open(store, Clock::Manual(Lab::new().now), Mode::Serve)
    };
    let service = open(directory.path()).unwrap();
    start(&service).await;
    for number in 0..3 {
        signal(&service, "w", |request| {
            request.input = Some(Payloads {
                payloads: vec![payload(vec![number; 1 << 20])],
            });
        })
        .await;
    }
    let before = history(&service, "w").await;
    drop(service);
    let files = |path: &std::path::Path| -> Vec<_> {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name())
            .collect()
    };
    let large = files(&directory.path().join("blobs"));
    assert!(!large.is_empty());
    let mut refused = 0;
    for lost in &large {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("blobs")).unwrap();
        for name in files(directory.path()) {
            std::fs::copy(directory.path().join(&name), copy.path().join(&name)).unwrap();
        }
        for name in large.iter().filter(|name| *name != lost) {
            let name = std::path::Path::new("blobs").join(name);
            std::fs::copy(directory.path().join(&name), copy.path().join(&name)).unwrap();
        }
        match open(copy.path()) {
            // A file may be one that is no longer needed, and not removed yet.
            Ok(service) => assert!(history(&service, "w").await == before),
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "not one of {large:?} was needed");
}

async fn query(service: &Service) -> Result<QueryWorkflowResponse, Status> {
    let request = QueryWorkflowRequest {
        namespace: NAMESPACE.into(),
        execution: workflow(),
        query: Some(WorkflowQuery {
            query_type: "q".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    call(service, "QueryWorkflow", request).await
}

async fn update(service: &Service) -> Result<UpdateWorkflowExecutionResponse, Status> {
    let request = UpdateWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: workflow(),
        request: Some(Request {
            meta: Some(Meta {
                update_id: "u".into(),
                ..Default::default()
            }),
            input: update_input(),
            ..Default::default()
        }),
        ..Default::default()
    };
    call(service, "UpdateWorkflowExecution", request).await
}

fn workflow() -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: "w".into(),
        ..Default::default()
    })
}

#[tokio::test]
async fn what_is_asked_after_a_signal_goes_out_with_the_signal_or_after_it() {
    let slow = Arc::new(Slow::default());
    let store = Store::open(Arc::clone(&slow) as Arc<dyn Journal>).unwrap();
    let service = Service::open(store, Clock::Manual(Lab::new().now), Mode::Serve).unwrap();
    start(&service).await;
    slow.hold(true);
    let mut signaling = Box::pin(signal(&service, "w", |_| ()));
    assert!(futures::poll!(&mut signaling).is_pending());
    let mut taking = Box::pin(poll(&service));
    assert!(
        futures::poll!(&mut taking).is_pending(),
        "the task is started, and what it shows not yet durable"
    );
    slow.hold(false);
    signaling.await;
    signal(&service, "w", |_| ()).await;
    let (mut asking, mut updating) = (Box::pin(query(&service)), Box::pin(update(&service)));
    assert!(futures::poll!(&mut asking).is_pending());
    assert!(futures::poll!(&mut updating).is_pending());
    let first = taking.await;
    let signals = |task: &_| {
        types(task)
            .iter()
            .filter(|it| **it == EventType::WorkflowExecutionSignaled)
            .count()
    };
    assert_eq!(signals(&first), 1);
    assert!(first.queries.is_empty(), "asked before the signal is told");
    assert!(first.messages.is_empty(), "updated before the signal is told");
    answer(&service, &first, vec![]).await;
    let second = poll(&service).await;
    assert_eq!(signals(&second), 2);
    assert_eq!((second.queries.len(), second.messages.len()), (1, 1));
}
