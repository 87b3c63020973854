//! What is sent again because its answer was lost, and whom a task is given to again.

use temporalio_protos::temporal::api::command::v1::{
    FailWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{ActivityType, RetryPolicy};
use temporalio_protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Lifecycle;
use temporalio_protos::temporal::api::enums::v1::{DescribeTaskQueueMode, TaskQueueType};

use super::start_tests::{describe, start_with};
use super::task_tests::cancel;
use super::update_tests::{accept, answer_with, complete, update_to};
use super::*;

#[tokio::test]
async fn a_burst_of_signals_that_is_sent_again_after_a_kill_is_heard_once() {
    let lab = Lab::new();
    let mut service = lab.open().unwrap();
    start(&service).await;
    for round in 0..2 {
        for number in 0..300 {
            signal(&service, "w", |it| it.request_id = format!("r{number}")).await;
        }
        let request = SignalWithStartWorkflowExecutionRequest {
            namespace: NAMESPACE.into(),
            workflow_id: "w".into(),
            workflow_type: Some(WorkflowType { name: "T".into() }),
            task_queue: queue(),
            signal_name: "s".into(),
            request_id: "with start".into(),
            ..Default::default()
        };
        let _: SignalWithStartWorkflowExecutionResponse =
            call(&service, "SignalWithStartWorkflowExecution", request)
                .await
                .unwrap();
        if round == 0 {
            drop(service);
            service = lab.open().unwrap();
        }
    }
    let events = history(&service, "w").await;
    let signals = events
        .iter()
        .filter(|it| it.event_type() == EventType::WorkflowExecutionSignaled);
    assert_eq!(signals.count(), 301);
}

/// A workflow whose second attempt is to begin in half a minute.
async fn held_back(service: &Service) {
    start_with(service, |it| {
        it.retry_policy = Some(RetryPolicy {
            initial_interval: duration(30_000),
            ..Default::default()
        });
    })
    .await
    .unwrap();
    let failed = FailWorkflowExecutionCommandAttributes::default();
    let commands = vec![Do::FailWorkflowExecutionCommandAttributes(failed)];
    answer(service, &poll(service).await, commands).await;
}

#[tokio::test]
async fn a_run_that_is_held_back_hears_of_its_cancel_and_of_an_update_at_once() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    held_back(&service).await;
    cancel(&service, "", "").await.unwrap();
    let task = poll(&service).await;
    assert!(types(&task).contains(&EventType::WorkflowExecutionCancelRequested));
    answer(&service, &task, vec![]).await;
    // What it was held back for comes, and finds that it has begun.
    lab.now.fetch_add(60_000, Ordering::SeqCst);
    service.fire_due();
    assert!(
        service
            .core()
            .runs
            .values()
            .all(|run| run.workflow_task.is_none())
    );

    let service = Lab::new().open().unwrap();
    held_back(&service).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll(&service).await;
        answer_with(&service, &task, vec![accept("u"), complete("u")], |_| ()).await;
    });
    updated.unwrap();
}

fn activity() -> Do {
    Do::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: "a".into(),
        activity_type: Some(ActivityType { name: "A".into() }),
        start_to_close_timeout: duration(60_000),
        heartbeat_timeout: duration(60_000),
        retry_policy: Some(RetryPolicy {
            initial_interval: duration(20_000),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// A worker takes an activity.
async fn take(service: &Service, caller: Caller) -> PollActivityTaskQueueResponse {
    let request = PollActivityTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: queue(),
        identity: "7@host".into(),
        ..Default::default()
    };
    let path = format!("/{WORKFLOW_SERVICE}/PollActivityTaskQueue");
    let answer = service
        .call(caller, &path, &request.encode_to_vec())
        .await
        .unwrap();
    Message::decode(answer.as_slice()).unwrap()
}

#[tokio::test]
async fn the_pid_of_a_worker_says_that_it_is_dead_only_where_it_is_a_process_of_this_machine() {
    for (caller, attempt) in [(Caller::Process, 2), (Caller::Remote, 1)] {
        let service = Lab::new().open().unwrap();
        start(&service).await;
        answer(&service, &poll(&service).await, vec![activity()]).await;
        take(&service, caller).await;
        service.outlive(&|identity| identity == "7@host");
        let run = service.core().runs.values().next().cloned().unwrap();
        let it = run.activities.values().next().unwrap();
        assert_eq!(
            (it.attempt, it.started_ms == 0),
            (attempt, attempt == 2),
            "{caller:?}"
        );
    }
}

#[tokio::test]
async fn an_activity_is_completed_by_its_id_whether_or_not_anybody_has_it() {
    let ids = || RespondActivityTaskCompletedByIdRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        activity_id: "a".into(),
        ..Default::default()
    };
    for is_taken in [false, true] {
        let service = Lab::new().open().unwrap();
        start(&service).await;
        answer(&service, &poll(&service).await, vec![activity()]).await;
        if is_taken {
            take(&service, Caller::Remote).await;
        }
        let _: RespondActivityTaskCompletedByIdResponse =
            call(&service, "RespondActivityTaskCompletedById", ids())
                .await
                .unwrap();
        use EventType::*;
        assert_eq!(
            types(&poll(&service).await)[5..7],
            [ActivityTaskStarted, ActivityTaskCompleted]
        );
        let again: Result<RespondActivityTaskCompletedByIdResponse, _> =
            call(&service, "RespondActivityTaskCompletedById", ids()).await;
        assert_eq!(again.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn an_activity_that_waits_for_its_next_attempt_is_described_as_such() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![activity()]).await;
    let task = take(&service, Caller::Remote).await;
    let pending = describe(&service).await.pending_activities;
    assert_eq!(pending[0].last_heartbeat_time, None, "it has sent none");
    let request = RespondActivityTaskFailedRequest {
        task_token: task.task_token,
        last_heartbeat_details: Some(Payloads::default()),
        ..Default::default()
    };
    let _: RespondActivityTaskFailedResponse = call(&service, "RespondActivityTaskFailed", request)
        .await
        .unwrap();
    let pending = describe(&service).await.pending_activities;
    assert_eq!(pending[0].current_retry_interval, duration(20_000));
    assert_eq!(pending[0].last_heartbeat_time, None, "it has sent none");
}

#[tokio::test]
#[expect(deprecated, reason = "the temporal command asks in the older ways")]
async fn a_task_queue_is_described_in_each_way_that_is_asked_for() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let request = |api_mode| DescribeTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: queue(),
        task_queue_type: TaskQueueType::Workflow as i32,
        api_mode,
        include_task_queue_status: true,
        report_stats: true,
        ..Default::default()
    };
    let plain: DescribeTaskQueueResponse = call(&service, "DescribeTaskQueue", request(0)).await.unwrap();
    assert_eq!(plain.stats.unwrap_or_default().approximate_backlog_count, 1);
    let status = plain.task_queue_status.unwrap_or_default();
    assert!(status.backlog_count_hint == 1 && status.task_id_block.is_some());
    let enhanced = request(DescribeTaskQueueMode::Enhanced as i32);
    let enhanced: DescribeTaskQueueResponse = call(&service, "DescribeTaskQueue", enhanced).await.unwrap();
    let types = &enhanced.versions_info[""].types_info;
    let backlog = |it: TaskQueueType| {
        types[&(it as i32)]
            .stats
            .unwrap_or_default()
            .approximate_backlog_count
    };
    assert_eq!(
        (backlog(TaskQueueType::Workflow), backlog(TaskQueueType::Activity)),
        (1, 0)
    );
}

#[tokio::test]
async fn a_task_that_follows_at_once_goes_back_with_the_answer_to_the_one_before_it() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    let answered = answer_with(&service, &task, vec![], |it| it.return_new_workflow_task = true).await;
    assert!(answered.workflow_task.is_none(), "nothing has happened");
    signal(&service, "w", |_| ()).await;
    let task = poll(&service).await;
    signal(&service, "w", |_| ()).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let answered = answer_with(&service, &task, vec![], |it| it.return_new_workflow_task = true).await;
        let next = answered.workflow_task.expect("a signal came meanwhile");
        assert_eq!(next.messages.len(), 1, "an update as well");
        use EventType::*;
        assert_eq!(
            types(&next),
            [
                WorkflowTaskCompleted,
                WorkflowExecutionSignaled,
                WorkflowTaskScheduled,
                WorkflowTaskStarted
            ]
        );
        answer_with(&service, &next, vec![accept("u"), complete("u")], |_| ()).await;
    });
    updated.unwrap();
    assert!(
        service
            .core()
            .matching
            .waiting(super::super::matching::QueueKind::Workflow, "q")
            .is_empty()
    );
}

#[tokio::test]
async fn a_task_that_kept_failing_and_whose_worker_dies_is_out_again_at_once() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    for _ in 0..3 {
        let request = RespondWorkflowTaskFailedRequest {
            task_token: poll(&service).await.task_token,
            ..Default::default()
        };
        let _: RespondWorkflowTaskFailedResponse = call(&service, "RespondWorkflowTaskFailed", request)
            .await
            .unwrap();
        lab.now.fetch_add(5000, Ordering::SeqCst);
        service.fire_due();
    }
    assert_eq!(poll(&service).await.attempt, 4);
    service.outlive(&|_| true);
    let again = tokio::time::timeout(std::time::Duration::from_secs(10), poll(&service)).await;
    assert_eq!(again.expect("it is in its queue").attempt, 5);
}
