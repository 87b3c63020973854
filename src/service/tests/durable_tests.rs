//! What has to be durable before a worker gets it, and what need not be: the start of its workflow task.

use std::time::Duration;

use super::start_tests::Slow;
use super::*;

fn open_on(journal: Arc<dyn Journal>) -> Service {
    Service::open(
        Store::open(journal).unwrap(),
        Clock::Manual(Lab::new().now),
        Mode::Serve,
    )
    .unwrap()
}

/// A while in which nothing comes of it.
async fn assert_waits<T>(waiting: &mut (impl Future<Output = T> + Unpin)) {
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(futures::poll!(&mut *waiting).is_pending());
    }
}

#[tokio::test]
async fn a_workflow_task_goes_out_before_its_start_is_durable_and_its_answer_waits_for_both() {
    let slow = Arc::new(Slow::default());
    let service = open_on(Arc::clone(&slow) as Arc<dyn Journal>);
    start(&service).await;
    slow.hold(true);
    let task = tokio::time::timeout(Duration::from_secs(5), poll(&service))
        .await
        .unwrap();
    let mut answering = Box::pin(answer(&service, &task, Vec::new()));
    assert_waits(&mut answering).await;
    slow.hold(false);
    answering.await;
}

#[tokio::test]
async fn what_a_workflow_task_shows_beside_its_start_is_durable() {
    let slow = Arc::new(Slow::default());
    let service = open_on(Arc::clone(&slow) as Arc<dyn Journal>);
    start(&service).await;
    slow.hold(true);
    let mut signaling = Box::pin(signal(&service, "w", |_| ()));
    assert!(futures::poll!(&mut signaling).is_pending());
    let mut polling = Box::pin(poll(&service));
    assert_waits(&mut polling).await;
    slow.hold(false);
    assert!(types(&polling.await).contains(&EventType::WorkflowExecutionSignaled));
    signaling.await;
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_is_durable_in_a_moment() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    poll(&service).await;
    let applied = service.inner.store.applied();
    let flushed = async {
        while lab.journal.marked().unwrap() < Some(applied) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), flushed)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_answer_to_a_task_whose_start_a_crash_took_back_is_the_answer_to_none() {
    let slow = Arc::new(Slow::default());
    let service = open_on(Arc::clone(&slow) as Arc<dyn Journal>);
    start(&service).await;
    let durable = slow.records();
    let lost = poll(&service).await;
    drop(service);
    let journal = MemoryJournal::default();
    let writes: Vec<Write> = durable
        .into_iter()
        .map(|(key, value)| Write::Put(key, value))
        .collect();
    journal.apply(&writes).unwrap();
    let service = open_on(Arc::new(journal));
    let complete = |task: &PollWorkflowTaskQueueResponse| {
        let request = RespondWorkflowTaskCompletedRequest {
            task_token: task.task_token.clone(),
            ..Default::default()
        };
        call::<_, RespondWorkflowTaskCompletedResponse>(&service, "RespondWorkflowTaskCompleted", request)
    };
    let refused = complete(&lost).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "before it is handed out again");
    let task = poll(&service).await;
    assert_eq!(
        (task.started_event_id, task.attempt),
        (lost.started_event_id, lost.attempt)
    );
    let refused = complete(&lost).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "while another worker has it");
    complete(&task).await.unwrap();
}
