//! What a start says of its run, and the run that follows another.

use temporalio_protos::temporal::api::command::v1::{
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{Link, Priority, RetryPolicy};
use temporalio_protos::temporal::api::enums::v1::{
    ContinueAsNewInitiator, RetryState, WorkflowExecutionStatus, WorkflowIdReusePolicy,
};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::WorkflowExecutionStartedEventAttributes;
use temporalio_protos::temporal::api::sdk::v1::UserMetadata;

use super::*;

pub(super) async fn start_with(
    service: &Service,
    with: impl FnOnce(&mut StartWorkflowExecutionRequest),
) -> Result<String, Status> {
    let mut request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        ..Default::default()
    };
    with(&mut request);
    let started: Result<StartWorkflowExecutionResponse, _> =
        call(service, "StartWorkflowExecution", request).await;
    started.map(|started| started.run_id)
}

async fn started(service: &Service) -> (HistoryEvent, WorkflowExecutionStartedEventAttributes) {
    let first = history(service, "w").await.swap_remove(0);
    let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = first.attributes.clone() else {
        panic!("{first:?}")
    };
    (first, started)
}

pub(super) async fn describe(service: &Service) -> DescribeWorkflowExecutionResponse {
    let request = DescribeWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        execution: workflow(),
    };
    call(service, "DescribeWorkflowExecution", request).await.unwrap()
}

/// A run, open or closed.
fn run_of(service: &Service, run_id: &str) -> super::super::history::RunState {
    let found = service.core().get(&service.inner.store, run_id);
    found.unwrap().expect("the run is there")
}

#[tokio::test]
async fn an_open_run_is_ended_by_a_start_that_says_so_in_the_older_way() {
    let service = Lab::new().open().unwrap();
    let old = start(&service).await;
    let waiting = GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: Some(WorkflowExecution {
            workflow_id: "w".into(),
            run_id: old.clone(),
        }),
        wait_new_event: true,
        history_event_filter_type: 2,
        ..Default::default()
    };
    #[expect(deprecated, reason = "clients still say it")]
    let policy = WorkflowIdReusePolicy::TerminateIfRunning as i32;
    let (closed, new) = tokio::join!(
        call::<_, GetWorkflowExecutionHistoryResponse>(&service, "GetWorkflowExecutionHistory", waiting),
        start_with(&service, |request| request.workflow_id_reuse_policy = policy)
    );
    assert_ne!(new.unwrap(), old);
    assert_eq!(
        run_of(&service, &old).status,
        WorkflowExecutionStatus::Terminated as i32
    );
    let closed = closed.unwrap().history.unwrap_or_default().events;
    assert_eq!(closed[0].event_type(), EventType::WorkflowExecutionTerminated);
}

#[tokio::test]
async fn what_a_start_says_is_in_the_history_and_in_the_description() {
    let service = Lab::new().open().unwrap();
    let metadata = Some(UserMetadata {
        summary: Some(payload(b"a summary".to_vec())),
        ..Default::default()
    });
    let priority = Some(Priority {
        priority_key: 3,
        ..Default::default()
    });
    start_with(&service, |request| {
        request.user_metadata.clone_from(&metadata);
        request.priority.clone_from(&priority);
        request.links = vec![Link::default()];
    })
    .await
    .unwrap();
    let (event, attributes) = started(&service).await;
    assert_eq!((event.user_metadata, event.links.len()), (metadata.clone(), 1));
    assert_eq!(attributes.priority, priority);
    let described = describe(&service).await;
    assert_eq!(
        described.execution_config.unwrap_or_default().user_metadata,
        metadata
    );
    assert_eq!(
        described.workflow_execution_info.unwrap_or_default().priority,
        priority
    );
}

#[tokio::test]
async fn a_signal_that_starts_a_workflow_comes_before_its_first_task() {
    let service = Lab::new().open().unwrap();
    let request = SignalWithStartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        signal_name: "s".into(),
        ..Default::default()
    };
    let _: SignalWithStartWorkflowExecutionResponse =
        call(&service, "SignalWithStartWorkflowExecution", request)
            .await
            .unwrap();
    let seen: Vec<_> = history(&service, "w")
        .await
        .iter()
        .map(|event| event.event_type())
        .collect();
    use EventType::*;
    assert_eq!(
        seen,
        [
            WorkflowExecutionStarted,
            WorkflowExecutionSignaled,
            WorkflowTaskScheduled
        ]
    );
}

#[tokio::test]
async fn no_task_outlasts_its_run_and_no_run_its_execution() {
    let service = Lab::new().open().unwrap();
    start_with(&service, |request| {
        request.workflow_execution_timeout = duration(3000);
        request.workflow_run_timeout = duration(60_000);
        request.workflow_task_timeout = duration(30_000);
    })
    .await
    .unwrap();
    let (_, attributes) = started(&service).await;
    assert_eq!(attributes.workflow_run_timeout, duration(3000));
    assert_eq!(attributes.workflow_task_timeout, duration(3000));
}

fn policy() -> Option<RetryPolicy> {
    Some(RetryPolicy {
        initial_interval: duration(5000),
        maximum_attempts: 2,
        ..Default::default()
    })
}

#[tokio::test]
async fn a_workflow_that_continues_has_its_policy_and_waits_for_its_second_to_be_over() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    lab.now.fetch_add(300, Ordering::SeqCst);
    let again = ContinueAsNewWorkflowExecutionCommandAttributes {
        retry_policy: policy(),
        ..Default::default()
    };
    let task = poll(&service).await;
    answer(
        &service,
        &task,
        vec![Do::ContinueAsNewWorkflowExecutionCommandAttributes(again)],
    )
    .await;
    let (_, attributes) = started(&service).await;
    assert_eq!(attributes.initiator, ContinueAsNewInitiator::Workflow as i32);
    assert_eq!(attributes.first_workflow_task_backoff, duration(700));
    assert_eq!(attributes.retry_policy.unwrap_or_default().maximum_attempts, 2);
    assert_eq!(
        history(&service, "w").await.len(),
        1,
        "its first task is held back"
    );
    drop(service);
    let service = lab.open().unwrap();
    lab.now.fetch_add(700, Ordering::SeqCst);
    service.fire_due();
    assert_eq!(history(&service, "w").await.len(), 2);
}

#[tokio::test]
async fn a_workflow_that_fails_is_tried_again_as_its_policy_says() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    let first = start_with(&service, |request| {
        request.retry_policy = policy();
        request.input = Some(Payloads {
            payloads: vec![payload(b"in".to_vec())],
        });
    })
    .await
    .unwrap();
    let failure = Failure {
        message: "broken".into(),
        ..Default::default()
    };
    let fail = || {
        Do::FailWorkflowExecutionCommandAttributes(FailWorkflowExecutionCommandAttributes {
            failure: Some(failure.clone()),
        })
    };
    let closed_with = |events: Vec<HistoryEvent>| match events.last().and_then(|it| it.attributes.clone()) {
        Some(Attributes::WorkflowExecutionFailedEventAttributes(failed)) => failed,
        other => panic!("{other:?}"),
    };
    let task = poll(&service).await;
    answer(&service, &task, vec![fail()]).await;
    let (_, attributes) = started(&service).await;
    assert_eq!(attributes.attempt, 2);
    assert_eq!(attributes.initiator, ContinueAsNewInitiator::Retry as i32);
    assert_eq!(attributes.continued_execution_run_id, first);
    assert_eq!(attributes.first_execution_run_id, first);
    assert_eq!(attributes.continued_failure, Some(failure.clone()));
    assert_eq!(attributes.first_workflow_task_backoff, duration(5000));
    assert_eq!(attributes.input.unwrap_or_default().payloads[0].data, b"in");
    let ended = run_of(&service, &first);
    let last = closed_with(service.events_of(&ended));
    assert_eq!(last.retry_state, RetryState::InProgress as i32);
    assert_eq!(last.new_execution_run_id, attributes.original_execution_run_id);
    lab.now.fetch_add(5000, Ordering::SeqCst);
    service.fire_due();
    let task = poll(&service).await;
    answer(&service, &task, vec![fail()]).await;
    let last = closed_with(history(&service, "w").await);
    assert_eq!(last.retry_state, RetryState::MaximumAttemptsReached as i32);
}

impl Service {
    fn events_of(&self, run: &super::super::history::RunState) -> Vec<HistoryEvent> {
        super::super::events::read_events(&self.inner.store, run, 1, usize::MAX).unwrap()
    }
}

#[tokio::test]
async fn a_search_attribute_that_nobody_defined_is_refused() {
    let service = Lab::new().open().unwrap();
    let unknown = || {
        Some(SearchAttributes {
            indexed_fields: [("Mine".to_owned(), payload(vec![1]))].into(),
        })
    };
    let refused = start_with(&service, |request| request.search_attributes = unknown()).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    start(&service).await;
    let upsert = Do::UpsertWorkflowSearchAttributesCommandAttributes(
        UpsertWorkflowSearchAttributesCommandAttributes {
            search_attributes: unknown(),
        },
    );
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: poll(&service).await.task_token,
        commands: vec![Command {
            attributes: Some(upsert),
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(&service, "RespondWorkflowTaskCompleted", request).await;
    assert_eq!(
        refused.unwrap_err().message(),
        "BadSearchAttributes: search attribute Mine is not defined"
    );
}

/// A journal whose flushes wait while they are held.
#[derive(Default)]
pub(super) struct Slow {
    journal: MemoryJournal,
    held: std::sync::Mutex<bool>,
    let_through: std::sync::Condvar,
}

impl Slow {
    pub(super) fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.let_through.notify_all();
    }

    /// What was written, flushed or not.
    pub(super) fn records(&self) -> Vec<journal::Record> {
        self.journal.scan(&[0], &[u8::MAX], usize::MAX).unwrap()
    }
}

impl Journal for Slow {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.journal.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<journal::Record>, JournalError> {
        self.journal.scan(from, to, limit)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), JournalError> {
        self.journal.apply(writes)
    }

    fn flush(&self) -> Result<(), JournalError> {
        let held = self.held.lock().unwrap();
        drop(self.let_through.wait_while(held, |held| *held).unwrap());
        Ok(())
    }

    fn mark(&self, sequence: u64) -> Result<(), JournalError> {
        self.journal.mark(sequence)
    }

    fn marked(&self) -> Result<Option<u64>, JournalError> {
        self.journal.marked()
    }

    fn path(&self) -> std::path::PathBuf {
        self.journal.path()
    }
}

#[tokio::test]
async fn no_read_shows_what_is_not_durable_yet() {
    let slow = Arc::new(Slow::default());
    let store = Store::open(Arc::clone(&slow) as Arc<dyn Journal>).unwrap();
    let service = Service::open(store, Clock::Manual(Lab::new().now), Mode::Serve).unwrap();
    slow.hold(true);
    let mut starting = Box::pin(start(&service));
    assert!(futures::poll!(&mut starting).is_pending());
    let list = ListWorkflowExecutionsRequest {
        namespace: NAMESPACE.into(),
        ..Default::default()
    };
    let mut reading = Box::pin(async {
        let listed: ListWorkflowExecutionsResponse =
            call(&service, "ListWorkflowExecutions", list).await.unwrap();
        (listed.executions.len(), history(&service, "w").await.len())
    });
    let mut describing = Box::pin(describe(&service));
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert!(futures::poll!(&mut reading).is_pending());
        assert!(futures::poll!(&mut describing).is_pending());
    }
    slow.hold(false);
    assert_eq!(reading.await, (1, 2));
    describing.await;
    starting.await;
}
