//! Updates: what they leave in the history, and what their clients hear.

use temporalio_protos::temporal::api::command::v1::ContinueAsNewWorkflowExecutionCommandAttributes;
use temporalio_protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Lifecycle;
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::protocol::v1::Message as Envelope;
use temporalio_protos::temporal::api::update::v1::{
    Acceptance, Outcome, Rejection, Response, UpdateRef, WaitPolicy, outcome,
};

use super::task_tests::{answer_and_keep, poll_sticky};
use super::*;

pub(super) async fn update_to(
    service: &Service,
    update_id: &str,
    stage: Lifecycle,
) -> Result<UpdateWorkflowExecutionResponse, Status> {
    let request = UpdateWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: workflow(),
        wait_policy: Some(WaitPolicy {
            lifecycle_stage: stage as i32,
        }),
        request: Some(Request {
            meta: Some(Meta {
                update_id: update_id.into(),
                ..Default::default()
            }),
            input: update_input(),
            ..Default::default()
        }),
        ..Default::default()
    };
    call(service, "UpdateWorkflowExecution", request).await
}

pub(super) fn envelope(update_id: &str, name: &str, body: &impl Message) -> Envelope {
    Envelope {
        id: format!("{update_id}/{name}"),
        protocol_instance_id: update_id.into(),
        body: Some(prost_types::Any {
            type_url: format!("type.googleapis.com/temporal.api.update.v1.{name}"),
            value: body.encode_to_vec(),
        }),
        sequencing_id: None,
    }
}

pub(super) fn accept(update_id: &str) -> Envelope {
    envelope(update_id, "Acceptance", &Acceptance::default())
}

pub(super) fn refuse(update_id: &str) -> Envelope {
    let failure = Failure {
        message: "no".into(),
        ..Default::default()
    };
    let rejection = Rejection {
        failure: Some(failure),
        ..Default::default()
    };
    envelope(update_id, "Rejection", &rejection)
}

pub(super) fn complete(update_id: &str) -> Envelope {
    let value = Some(outcome::Value::Success(Payloads {
        payloads: vec![payload(update_id.as_bytes().to_vec())],
    }));
    let response = Response {
        outcome: Some(Outcome { value }),
        ..Default::default()
    };
    envelope(update_id, "Response", &response)
}

pub(super) async fn answer_with(
    service: &Service,
    task: &PollWorkflowTaskQueueResponse,
    messages: Vec<Envelope>,
    with: impl FnOnce(&mut RespondWorkflowTaskCompletedRequest),
) -> RespondWorkflowTaskCompletedResponse {
    let mut request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token.clone(),
        messages,
        ..Default::default()
    };
    with(&mut request);
    call(service, "RespondWorkflowTaskCompleted", request)
        .await
        .unwrap()
}

fn failure_type(outcome: Option<Outcome>) -> String {
    match outcome.and_then(|outcome| outcome.value) {
        Some(outcome::Value::Failure(failure)) => match failure.failure_info {
            Some(FailureInfo::ApplicationFailureInfo(info)) => info.r#type,
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn an_update_is_remembered_for_as_long_as_its_run() {
    let lab = Lab::new();
    let mut service = lab.open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    for number in 0..300 {
        let id = format!("u{number}");
        let (updated, ()) = tokio::join!(update_to(&service, &id, Lifecycle::Completed), async {
            let task = poll(&service).await;
            answer_with(&service, &task, vec![accept(&id), complete(&id)], |_| ()).await;
        });
        updated.unwrap();
    }
    // While the run is open, and of the journal when it is closed.
    for closed in [false, true] {
        if closed {
            signal(&service, "w", |_| ()).await;
            let done = CompleteWorkflowExecutionCommandAttributes::default();
            let commands = vec![Do::CompleteWorkflowExecutionCommandAttributes(done)];
            answer(&service, &poll(&service).await, commands).await;
            drop(service);
            service = lab.open().unwrap();
        }
        let again = tokio::time::timeout(
            std::time::Duration::from_secs(10),
            update_to(&service, "u0", Lifecycle::Completed),
        );
        let outcome = again.await.expect("its outcome is known").unwrap().outcome;
        let Some(outcome::Value::Success(value)) = outcome.unwrap_or_default().value else {
            panic!("it succeeded")
        };
        assert_eq!(value.payloads[0].data, b"u0");
    }
}

#[tokio::test]
async fn an_update_that_was_accepted_fails_with_the_run_that_does_not_complete_it() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll(&service).await;
        answer_with(&service, &task, vec![accept("u")], |_| ()).await;
        signal(&service, "w", |_| ()).await;
        let task = poll(&service).await;
        let done = CompleteWorkflowExecutionCommandAttributes::default();
        answer(
            &service,
            &task,
            vec![Do::CompleteWorkflowExecutionCommandAttributes(done)],
        )
        .await;
    });
    let expected = "AcceptedUpdateCompletedWorkflow";
    assert_eq!(failure_type(updated.unwrap().outcome), expected);
    drop(service);
    let service = lab.open().unwrap();
    let request = PollWorkflowExecutionUpdateRequest {
        namespace: NAMESPACE.into(),
        update_ref: Some(UpdateRef {
            workflow_execution: workflow(),
            update_id: "u".into(),
        }),
        ..Default::default()
    };
    let polled: PollWorkflowExecutionUpdateResponse = call(&service, "PollWorkflowExecutionUpdate", request)
        .await
        .unwrap();
    assert_eq!(failure_type(polled.outcome), expected);
    let again = update_to(&service, "u", Lifecycle::Completed).await.unwrap();
    assert_eq!(failure_type(again.outcome), expected);
}

#[tokio::test]
async fn an_update_that_is_refused_leaves_no_event() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    let before = history(&service, "w").await;
    let (updated, answered) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll_sticky(&service).await;
        use EventType::*;
        assert_eq!(
            types(&task),
            [WorkflowTaskCompleted, WorkflowTaskScheduled, WorkflowTaskStarted]
        );
        answer_with(&service, &task, vec![refuse("u")], |_| ()).await
    });
    assert!(matches!(
        updated.unwrap().outcome.unwrap_or_default().value,
        Some(outcome::Value::Failure(failure)) if failure.message == "no"
    ));
    assert_eq!(answered.reset_history_event_id, 3);
    assert_eq!(history(&service, "w").await, before);
}

#[tokio::test]
async fn the_events_of_an_update_that_is_taken_are_those_that_its_worker_saw() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let (updated, shown) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll(&service).await;
        lab.now.fetch_add(700, Ordering::SeqCst);
        // The task is for the update alone until something else happens.
        signal(&service, "w", |_| ()).await;
        answer_with(&service, &task, vec![accept("u"), complete("u")], |_| ()).await;
        task.history.unwrap_or_default().events
    });
    updated.unwrap();
    let events = history(&service, "w").await;
    use EventType::*;
    let seen: Vec<_> = events[4..].iter().map(|event| event.event_type()).collect();
    assert_eq!(
        seen,
        [
            WorkflowTaskScheduled,
            WorkflowTaskStarted,
            WorkflowTaskCompleted,
            WorkflowExecutionUpdateAccepted,
            WorkflowExecutionUpdateCompleted,
            WorkflowExecutionSignaled,
            WorkflowTaskScheduled,
        ]
    );
    assert_eq!(events[..6], shown);
}

#[tokio::test]
async fn an_update_that_nobody_takes_waits_in_an_ordinary_task() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let mut updating = Box::pin(update_to(&service, "u", Lifecycle::Completed));
    assert!(futures::poll!(&mut updating).is_pending());
    lab.now.fetch_add(5000, Ordering::SeqCst);
    service.fire_due();
    let task = poll(&service).await;
    use EventType::*;
    assert_eq!(
        types(&task)[4..],
        [
            WorkflowTaskScheduled,
            WorkflowTaskTimedOut,
            WorkflowTaskScheduled,
            WorkflowTaskStarted
        ]
    );
    assert_eq!(task.messages.len(), 1);
}

#[tokio::test]
async fn a_worker_that_asks_for_more_time_has_not_refused_the_update() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer_and_keep(&service, &poll(&service).await).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll_sticky(&service).await;
        answer_with(&service, &task, vec![], |request| {
            request.force_create_new_workflow_task = true;
        })
        .await;
        let task = poll(&service).await;
        answer_with(&service, &task, vec![accept("u"), complete("u")], |_| ()).await;
    });
    assert!(matches!(
        updated.unwrap().outcome.unwrap_or_default().value,
        Some(outcome::Value::Success(_))
    ));
}

#[tokio::test]
async fn a_worker_that_does_not_answer_an_update_has_refused_it() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll(&service).await;
        answer_with(&service, &task, vec![], |_| ()).await;
    });
    assert_eq!(failure_type(updated.unwrap().outcome), "UnprocessedUpdate");
}

#[tokio::test]
async fn an_update_goes_on_with_the_workflow_that_continues() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    let first = start(&service).await;
    let task = poll(&service).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let again = ContinueAsNewWorkflowExecutionCommandAttributes::default();
        answer(
            &service,
            &task,
            vec![Do::ContinueAsNewWorkflowExecutionCommandAttributes(again)],
        )
        .await;
        lab.now.fetch_add(1000, Ordering::SeqCst);
        service.fire_due();
        let task = poll(&service).await;
        assert_eq!(task.messages.len(), 1);
        answer_with(&service, &task, vec![accept("u"), complete("u")], |_| ()).await;
    });
    let reference = updated.unwrap().update_ref.unwrap_or_default();
    assert_ne!(reference.workflow_execution.unwrap_or_default().run_id, first);
}

#[tokio::test]
async fn nothing_is_accepted_of_a_run_that_closes_with_the_same_answer() {
    let service = Lab::new().open().unwrap();
    start(&service).await;
    answer(&service, &poll(&service).await, vec![]).await;
    let (updated, ()) = tokio::join!(update_to(&service, "u", Lifecycle::Completed), async {
        let task = poll(&service).await;
        let end = CompleteWorkflowExecutionCommandAttributes::default();
        answer_with(&service, &task, vec![accept("u")], |it| {
            it.commands = vec![Command {
                attributes: Some(Do::CompleteWorkflowExecutionCommandAttributes(end)),
                ..Default::default()
            }];
        })
        .await;
    });
    assert_eq!(updated.unwrap_err().code(), Code::NotFound);
    let last = history(&service, "w").await.pop().map(|it| it.event_type());
    assert_eq!(last, Some(EventType::WorkflowExecutionCompleted));
}
