//! What would be silently wrong if it were taken: starts that ask for what nobody gives, commands and messages that contradict
//! themselves, what is too long or too large.

use temporalio_protos::temporal::api::command::v1::*;
use temporalio_protos::temporal::api::common::v1::{ActivityType, Callback, Priority, RetryPolicy};
use temporalio_protos::temporal::api::deployment::v1::WorkerDeploymentOptions;
use temporalio_protos::temporal::api::enums::v1::{WorkerVersioningMode, WorkflowTaskFailedCause as Cause};
use temporalio_protos::temporal::api::protocol::v1::Message as Envelope;
use temporalio_protos::temporal::api::update::v1::Response;
use temporalio_protos::temporal::api::workflow::v1::{OnConflictOptions, VersioningOverride};

use super::start_tests::start_with;
use super::update_tests::{accept, envelope, refuse};
use super::*;

fn span(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

#[tokio::test]
async fn a_start_that_asks_for_what_nobody_gives_is_refused() {
    let service = Lab::new().open().unwrap();
    type With = fn(&mut StartWorkflowExecutionRequest);
    let refused: [(With, Code); 10] = [
        (
            |it| it.completion_callbacks.push(Callback::default()),
            Code::Unimplemented,
        ),
        (
            |it| it.versioning_override = Some(VersioningOverride::default()),
            Code::Unimplemented,
        ),
        (
            |it| {
                it.on_conflict_options = Some(OnConflictOptions {
                    attach_links: true,
                    ..Default::default()
                });
            },
            Code::Unimplemented,
        ),
        (|it| it.workflow_run_timeout = span(-1, 0), Code::InvalidArgument),
        (
            |it| it.workflow_execution_timeout = span(1, -5),
            Code::InvalidArgument,
        ),
        (|it| it.workflow_task_timeout = span(-1, 0), Code::InvalidArgument),
        (|it| it.request_id = "r".repeat(1001), Code::InvalidArgument),
        (
            |it| {
                it.priority = Some(Priority {
                    priority_key: -1,
                    ..Default::default()
                });
            },
            Code::InvalidArgument,
        ),
        (
            |it| {
                it.retry_policy = Some(RetryPolicy {
                    backoff_coefficient: 0.5,
                    ..Default::default()
                });
            },
            Code::InvalidArgument,
        ),
        (
            |it| {
                it.retry_policy = Some(RetryPolicy {
                    initial_interval: span(10, 0),
                    maximum_interval: span(5, 0),
                    ..Default::default()
                });
            },
            Code::InvalidArgument,
        ),
    ];
    for (number, (with, code)) in refused.into_iter().enumerate() {
        let refused = start_with(&service, with).await.expect_err("it is refused");
        assert_eq!(refused.code(), code, "start {number}: {refused}");
    }
    assert!(service.core().runs.is_empty());
    // So long that it is never over.
    start_with(&service, |it| it.workflow_run_timeout = span(i64::MAX, 0))
        .await
        .unwrap();
    service.fire_due();
    assert_eq!(service.core().runs.len(), 1);
}

#[tokio::test]
async fn a_worker_that_wants_its_version_only_or_answers_in_pages_is_refused() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    let versioned = Some(WorkerDeploymentOptions {
        worker_versioning_mode: WorkerVersioningMode::Versioned as i32,
        ..Default::default()
    });
    let request = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: queue(),
        deployment_options: versioned,
        ..Default::default()
    };
    let polled: Result<PollWorkflowTaskQueueResponse, _> =
        call(&service, "PollWorkflowTaskQueue", request).await;
    assert_eq!(polled.unwrap_err().code(), Code::Unimplemented);
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        intermediate_page: true,
        ..Default::default()
    };
    let answered: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(&service, "RespondWorkflowTaskCompleted", request).await;
    assert_eq!(answered.unwrap_err().code(), Code::Unimplemented);
    answer(&service, &task, vec![]).await;
}

/// What a workflow task fails with that is answered so.
async fn cause_of(commands: Vec<Do>, messages: Vec<Envelope>) -> (Cause, String) {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    let command = |attributes| Command {
        attributes: Some(attributes),
        ..Default::default()
    };
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        commands: commands.into_iter().map(command).collect(),
        messages,
        ..Default::default()
    };
    let answered: Result<RespondWorkflowTaskCompletedResponse, _> =
        call(&service, "RespondWorkflowTaskCompleted", request).await;
    assert_eq!(answered.expect_err("it is refused").code(), Code::InvalidArgument);
    let last = history(&service, "w").await.pop().and_then(|it| it.attributes);
    match last {
        Some(Attributes::WorkflowTaskFailedEventAttributes(it)) => {
            (it.cause(), it.failure.unwrap_or_default().message)
        }
        other => panic!("{other:?}"),
    }
}

fn timer(timer_id: &str, takes: Option<prost_types::Duration>) -> Do {
    Do::StartTimerCommandAttributes(StartTimerCommandAttributes {
        timer_id: timer_id.into(),
        start_to_fire_timeout: takes,
    })
}

fn activity(with: impl FnOnce(&mut ScheduleActivityTaskCommandAttributes)) -> Do {
    let mut it = ScheduleActivityTaskCommandAttributes {
        activity_id: "a".into(),
        activity_type: Some(ActivityType { name: "A".into() }),
        start_to_close_timeout: span(10, 0),
        ..Default::default()
    };
    with(&mut it);
    Do::ScheduleActivityTaskCommandAttributes(it)
}

fn large() -> Option<Payloads> {
    Some(Payloads {
        payloads: vec![payload(vec![7; (2 << 20) + 1])],
    })
}

#[tokio::test]
async fn commands_that_a_server_refuses_fail_their_task() {
    let long = "x".repeat(1001);
    let refused = [
        (timer("t", span(-1, 0)), Cause::BadStartTimerAttributes),
        (timer("t", span(1, -5)), Cause::BadStartTimerAttributes),
        (timer(&long, span(1, 0)), Cause::BadStartTimerAttributes),
        (
            activity(|it| it.activity_id = long.clone()),
            Cause::BadScheduleActivityAttributes,
        ),
        (
            activity(|it| it.input = large()),
            Cause::BadScheduleActivityAttributes,
        ),
        (
            activity(|it| it.heartbeat_timeout = span(-1, 0)),
            Cause::BadScheduleActivityAttributes,
        ),
        (
            activity(|it| {
                it.retry_policy = Some(RetryPolicy {
                    initial_interval: span(-3, 0),
                    ..Default::default()
                });
            }),
            Cause::BadScheduleActivityAttributes,
        ),
        (
            Do::RequestCancelActivityTaskCommandAttributes(RequestCancelActivityTaskCommandAttributes {
                scheduled_event_id: 1,
            }),
            Cause::BadRequestCancelActivityAttributes,
        ),
        (
            Do::RecordMarkerCommandAttributes(RecordMarkerCommandAttributes::default()),
            Cause::BadRecordMarkerAttributes,
        ),
        (
            Do::CompleteWorkflowExecutionCommandAttributes(CompleteWorkflowExecutionCommandAttributes {
                result: large(),
            }),
            Cause::BadCompleteWorkflowExecutionAttributes,
        ),
        (
            Do::ContinueAsNewWorkflowExecutionCommandAttributes(
                ContinueAsNewWorkflowExecutionCommandAttributes {
                    cron_schedule: "* * * * *".into(),
                    ..Default::default()
                },
            ),
            Cause::BadContinueAsNewAttributes,
        ),
    ];
    for (command, expected) in refused {
        let (cause, message) = cause_of(vec![command], vec![]).await;
        assert_eq!(cause, expected, "{message}");
    }
}

#[tokio::test]
async fn messages_about_an_update_that_contradict_each_other_fail_their_task() {
    let accepted = || {
        let request = Request {
            input: update_input(),
            ..Default::default()
        };
        let acceptance = temporalio_protos::temporal::api::update::v1::Acceptance {
            accepted_request: Some(request),
            ..Default::default()
        };
        envelope("u", "Acceptance", &acceptance)
    };
    for messages in [
        vec![accepted(), refuse("u")],
        vec![accepted(), accepted()],
        vec![accepted(), envelope("u", "Response", &Response::default())],
        vec![accept("nobody asked")],
    ] {
        let (cause, _) = cause_of(vec![], messages).await;
        assert_eq!(cause, Cause::BadUpdateWorkflowExecutionMessage);
    }
}

#[tokio::test]
async fn a_timer_of_longer_than_anybody_lives_does_not_fire() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    let task = poll(&service).await;
    answer(&service, &task, vec![timer("t", span(1 << 62, 0))]).await;
    lab.now.fetch_add(365 * 24 * 3_600_000, Ordering::SeqCst);
    assert!(!has_fired(&service));
}

#[tokio::test]
async fn an_answer_to_a_query_that_nobody_asked_is_no_success() {
    let service = Lab::new().open().unwrap();
    for (token, code) in [
        ("garbage", Code::InvalidArgument),
        ("00000000-0000-4000-8000-000000000000", Code::NotFound),
    ] {
        let request = RespondQueryTaskCompletedRequest {
            task_token: token.into(),
            ..Default::default()
        };
        let answered: Result<RespondQueryTaskCompletedResponse, _> =
            call(&service, "RespondQueryTaskCompleted", request).await;
        assert_eq!(answered.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn an_update_without_a_name_is_refused_at_once() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    let request = UpdateWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: workflow(),
        request: Some(Request {
            meta: Some(Meta {
                update_id: "u".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated: Result<UpdateWorkflowExecutionResponse, _> =
        call(&service, "UpdateWorkflowExecution", request).await;
    assert_eq!(updated.unwrap_err().code(), Code::InvalidArgument);
}
