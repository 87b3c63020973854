//! Workflow tasks that fail, come back late, or wait for a worker that is gone; and runs that are named by their first run.

use temporalio_protos::temporal::api::enums::v1::{QueryResultType, TaskQueueKind, WorkflowExecutionStatus};
use temporalio_protos::temporal::api::errordetails::v1::QueryFailedFailure;
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::taskqueue::v1::StickyExecutionAttributes;

use super::closed_tests::start_as;
use super::*;

/// How long a task or a query waits in the sticky queue.
const STICKY_MS: i64 = 200;

fn sticky() -> TaskQueue {
    TaskQueue {
        name: "sticky".into(),
        kind: TaskQueueKind::Sticky as i32,
        normal_name: "q".into(),
    }
}

pub(super) async fn poll_sticky(service: &Service) -> PollWorkflowTaskQueueResponse {
    let request = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: Some(sticky()),
        identity: "1@host".into(),
        ..Default::default()
    };
    call(service, "PollWorkflowTaskQueue", request).await.unwrap()
}

/// Answers with no command, keeps the run in the worker's cache, and has that worker look into its sticky queue once.
pub(super) async fn answer_and_keep(service: &Service, task: &PollWorkflowTaskQueueResponse) {
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        sticky_attributes: Some(StickyExecutionAttributes {
            worker_task_queue: Some(sticky()),
            schedule_to_start_timeout: duration(STICKY_MS),
        }),
        ..Default::default()
    };
    let _: RespondWorkflowTaskCompletedResponse = call(service, "RespondWorkflowTaskCompleted", request)
        .await
        .unwrap();
    let mut looking = Box::pin(poll_sticky(service));
    assert!(futures::poll!(&mut looking).is_pending());
}

async fn fail(service: &Service, task: &PollWorkflowTaskQueueResponse) -> Result<(), Status> {
    let request = RespondWorkflowTaskFailedRequest {
        task_token: task.task_token.clone(),
        ..Default::default()
    };
    let failed: Result<RespondWorkflowTaskFailedResponse, _> =
        call(service, "RespondWorkflowTaskFailed", request).await;
    failed.map(drop)
}

async fn try_answer(service: &Service, task: &PollWorkflowTaskQueueResponse) -> Result<(), Status> {
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        ..Default::default()
    };
    let answered: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(service, "RespondWorkflowTaskCompleted", request).await;
    answered.map(drop)
}

fn pass(lab: &Lab, service: &Service, ms: i64) {
    lab.now.fetch_add(ms, Ordering::SeqCst);
    service.fire_due();
}

#[tokio::test]
async fn what_a_worker_saw_of_a_task_that_had_failed_is_what_the_history_keeps() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    fail(&service, &poll(&service).await).await.unwrap();
    pass(&lab, &service, 3000);
    let task = poll(&service).await;
    let shown = task.history.clone().unwrap_or_default().events;
    assert_eq!((task.attempt, shown.len()), (2, 6));
    pass(&lab, &service, 5000);
    answer(&service, &task, vec![]).await;
    assert_eq!(history(&service, "w").await[..6], shown);
}

#[tokio::test]
async fn an_answer_to_an_attempt_that_is_over_changes_nothing() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    fail(&service, &poll(&service).await).await.unwrap();
    let slow = poll(&service).await;
    pass(&lab, &service, 10_000);
    pass(&lab, &service, 1000);
    let second = poll(&service).await;
    assert_eq!(
        (slow.attempt, slow.started_event_id),
        (2, second.started_event_id),
        "both have the same event"
    );
    assert_eq!(
        try_answer(&service, &slow).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(fail(&service, &slow).await.unwrap_err().code(), Code::NotFound);
    try_answer(&service, &second).await.unwrap();
}

#[tokio::test]
async fn news_between_two_attempts_makes_the_next_one_a_first_attempt() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    fail(&service, &poll(&service).await).await.unwrap();
    signal(&service, "w", |_| ()).await;
    let task = poll(&service).await;
    use EventType::*;
    assert_eq!(
        types(&task)[3..],
        [
            WorkflowTaskFailed,
            WorkflowExecutionSignaled,
            WorkflowTaskScheduled,
            WorkflowTaskStarted
        ]
    );
    assert_eq!(task.attempt, 1);
    answer(&service, &task, vec![]).await;
    assert_eq!(history(&service, "w").await.len(), 8);
}

#[tokio::test]
async fn a_task_that_failed_in_a_cache_is_a_first_attempt_with_the_whole_history() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    signal(&service, "w", |_| ()).await;
    fail(&service, &poll_sticky(&service).await).await.unwrap();
    let task = poll(&service).await;
    assert_eq!((task.attempt, types(&task).len()), (1, 10));
}

#[tokio::test]
async fn a_task_whose_sticky_queue_is_reset_reaches_another_worker() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    signal(&service, "w", |_| ()).await;
    let request = ResetStickyTaskQueueRequest {
        namespace: NAMESPACE.into(),
        execution: workflow(),
    };
    let _: ResetStickyTaskQueueResponse = call(&service, "ResetStickyTaskQueue", request).await.unwrap();
    pass(&lab, &service, STICKY_MS);
    let mut polling = Box::pin(poll(&service));
    let task = tokio::time::timeout(std::time::Duration::from_secs(10), &mut polling).await;
    let task = task.expect("the task is in the normal queue");
    assert_eq!(task.attempt, 1);
}

fn execution(run_id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: "w".into(),
        run_id: run_id.into(),
    })
}

async fn terminate(service: &Service, run_id: &str, first_run_id: &str) -> Result<(), Status> {
    let request = TerminateWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: execution(run_id),
        first_execution_run_id: first_run_id.into(),
        ..Default::default()
    };
    let terminated: Result<TerminateWorkflowExecutionResponse, _> =
        call(service, "TerminateWorkflowExecution", request).await;
    terminated.map(drop)
}

pub(super) async fn cancel(service: &Service, run_id: &str, first_run_id: &str) -> Result<(), Status> {
    let request = RequestCancelWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: execution(run_id),
        first_execution_run_id: first_run_id.into(),
        ..Default::default()
    };
    let canceled: Result<RequestCancelWorkflowExecutionResponse, _> =
        call(service, "RequestCancelWorkflowExecution", request).await;
    canceled.map(drop)
}

#[tokio::test]
async fn an_old_handle_neither_cancels_nor_terminates_nor_updates_a_newer_workflow_of_its_id() {
    let service = Lab::new().open().unwrap();
    let old = start(&service).await;
    terminate(&service, "", &old).await.unwrap();
    let new = start(&service).await;
    assert_eq!(
        terminate(&service, "", &old).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        cancel(&service, "", &old).await.unwrap_err().code(),
        Code::NotFound
    );
    let request = UpdateWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: workflow(),
        first_execution_run_id: old.clone(),
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
    let updated: Result<UpdateWorkflowExecutionResponse, _> =
        call(&service, "UpdateWorkflowExecution", request).await;
    assert_eq!(updated.unwrap_err().code(), Code::NotFound);
    let run = service.core().runs.get(&new).cloned().unwrap();
    assert_eq!(run.status, WorkflowExecutionStatus::Running as i32);
    assert!(!run.cancel_requested);
    cancel(&service, "", &new).await.unwrap();
    assert!(service.core().runs[&new].cancel_requested);
}

#[tokio::test]
async fn to_cancel_what_has_ended_is_no_error() {
    let service = Lab::new().open().unwrap();
    let run_id = start(&service).await;
    terminate(&service, &run_id, "").await.unwrap();
    cancel(&service, &run_id, "").await.unwrap();
    assert_eq!(
        terminate(&service, &run_id, "").await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_query_whose_worker_is_gone_is_answered_by_another() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    let (answered, ()) = tokio::join!(query(&service), async {
        let task = poll(&service).await;
        assert!(task.query.is_some() && types(&task).len() == 4, "{task:?}");
        let request = RespondQueryTaskCompletedRequest {
            task_token: task.task_token,
            completed_type: QueryResultType::Answered as i32,
            ..Default::default()
        };
        let _: RespondQueryTaskCompletedResponse = call(&service, "RespondQueryTaskCompleted", request)
            .await
            .unwrap();
    });
    answered.unwrap();
    assert!(
        service.core().runs.values().all(|run| run.sticky.is_none()),
        "the next task goes to another worker as well"
    );
}

#[tokio::test]
async fn a_query_goes_out_with_the_workflow_task_that_it_waits_for_however_late_that_is_taken() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    signal(&service, "w", |_| ()).await;
    let late = std::time::Duration::from_millis(STICKY_MS.unsigned_abs());
    let (_, task) = tokio::join!(tokio::time::timeout(3 * late, query(&service)), async {
        tokio::time::sleep(2 * late).await;
        poll_sticky(&service).await
    });
    assert_eq!(task.queries.len(), 1, "{task:?}");
}

#[tokio::test]
async fn a_query_that_failed_brings_the_failure_of_its_worker() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let (answered, ()) = tokio::join!(query(&service), async {
        let request = RespondQueryTaskCompletedRequest {
            task_token: poll(&service).await.task_token,
            completed_type: QueryResultType::Failed as i32,
            error_message: "no such query".into(),
            failure: Some(Failure {
                message: "no such query".into(),
                stack_trace: "at line 1".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let _: RespondQueryTaskCompletedResponse = call(&service, "RespondQueryTaskCompleted", request)
            .await
            .unwrap();
    });
    let status = answered.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "no such query")
    );
    let detail: QueryFailedFailure = detail(&status);
    assert_eq!(detail.failure.unwrap_or_default().stack_trace, "at line 1");
}

/// The one detail of an error.
pub(super) fn detail<M: Message + Default>(status: &Status) -> M {
    let details = temporalio_protos::google::rpc::Status::decode(status.details()).unwrap();
    M::decode(details.details[0].value.as_slice()).unwrap()
}

#[tokio::test]
async fn a_run_that_cannot_close_for_news_says_so_in_the_words_of_a_server() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    signal(&service, "w", |_| ()).await;
    let complete =
        Do::CompleteWorkflowExecutionCommandAttributes(CompleteWorkflowExecutionCommandAttributes::default());
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        commands: vec![Command {
            attributes: Some(complete),
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(&service, "RespondWorkflowTaskCompleted", request).await;
    assert_eq!(refused.unwrap_err().message(), "UnhandledCommand");
    let events = history(&service, "w").await;
    let Some(Attributes::WorkflowTaskFailedEventAttributes(failed)) = events[3].attributes.clone() else {
        panic!("{events:?}")
    };
    let failure = failed.failure.unwrap_or_default();
    assert_eq!(failure.message, "UnhandledCommand");
    assert!(matches!(
        failure.failure_info,
        Some(FailureInfo::ServerFailureInfo(_))
    ));
}

#[tokio::test]
async fn what_waits_for_a_worker_that_shuts_down_is_for_any_other() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    let mut asking = Box::pin(query(&service));
    assert!(futures::poll!(&mut asking).is_pending());
    signal(&service, "w", |_| ()).await;
    let request = ShutdownWorkerRequest {
        namespace: NAMESPACE.into(),
        identity: "1@host".into(),
        sticky_task_queue: "sticky".into(),
        ..Default::default()
    };
    let _: ShutdownWorkerResponse = call(&service, "ShutdownWorker", request).await.unwrap();
    let both = async { [poll(&service).await, poll(&service).await] };
    let both = tokio::time::timeout(std::time::Duration::from_secs(10), both).await;
    let [asked, task] = both.expect("both are in the normal queue");
    assert!(asked.query.is_some() && task.query.is_none());
    assert_eq!(task.history.unwrap_or_default().events[0].event_id, 1);
}

#[tokio::test]
async fn who_dies_is_asked_about_once_and_costs_the_runs_that_it_had() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    for number in 0..50 {
        start_as(&service, &format!("w{number}")).await;
    }
    let poll_as = |identity: &str| {
        let request = PollWorkflowTaskQueueRequest {
            namespace: NAMESPACE.into(),
            task_queue: queue(),
            identity: identity.into(),
            ..Default::default()
        };
        call::<_, PollWorkflowTaskQueueResponse>(&service, "PollWorkflowTaskQueue", request)
    };
    let lost = poll_as("1@host").await.unwrap();
    let mut kept = Vec::new();
    for _ in 1..50 {
        kept.push(poll_as("2@host").await.unwrap());
    }
    let asked = std::cell::Cell::new(0);
    let is_dead = |identity: &str| {
        asked.set(asked.get() + 1);
        identity == "1@host"
    };
    service.outlive(&is_dead);
    assert!(asked.get() <= 5, "asked {} times about two workers", asked.get());
    let again = poll_as("3@host").await.unwrap();
    assert_eq!(again.workflow_execution, lost.workflow_execution);
    assert_eq!(
        try_answer(&service, &lost).await.unwrap_err().code(),
        Code::NotFound
    );
    for task in &kept {
        try_answer(&service, task).await.unwrap();
    }
    // They are done, and nobody has anything.
    try_answer(&service, &again).await.unwrap();
    asked.set(0);
    service.outlive(&is_dead);
    assert!(asked.get() <= 2, "asked {} times about pollers", asked.get());
    assert!(service.core().holders.runs_of(|_| true).is_empty());
}

#[tokio::test]
async fn a_task_that_waits_for_a_dead_worker_alone_is_for_any_other() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    signal(&service, "w", |_| ()).await;
    service.outlive(&|identity| identity == "2@host");
    let mut polling = Box::pin(poll(&service));
    assert!(futures::poll!(&mut polling).is_pending(), "its worker lives");
    service.outlive(&|identity| identity == "1@host");
    assert!(types(&polling.await).contains(&EventType::WorkflowTaskTimedOut));
}
