//! The versions whose workflow is `CopyTable`: the second, and the third, whose journal is of format 2. Their journals open,
//! their open jobs are gone on with, their histories are replayed for ever.

use longhaul::workflow::CopyTable;
use serde_json::Value;
use temporalio_client::WorkflowHistory;
use temporalio_protos::temporal::api::enums::v1::EventType::{self, *};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

use crate::fixtures::{all, folder, name, thawed};

const VERSIONS: [&str; 2] = ["v2", "v3"];

/// What a job says of itself: its state, and at least so many rows.
fn expected(job: &str) -> (&'static str, u64) {
    match job {
        "completed" | "retried" => ("COMPLETED", 1200),
        "completed.verify" => ("COMPLETED", 1),
        "failed" => ("FAILED", 100),
        "canceled" => ("CANCELED", 200),
        "interrupted" => ("INTERRUPTED", 300),
        "paused" => ("PAUSED", 200),
        "sync" => ("INTERRUPTED", 1260),
        "renewed" => ("INTERRUPTED", 600),
        other => panic!("nothing is known of the job {other}"),
    }
}

#[test]
fn journals_open_and_their_jobs_say_how_they_stand() {
    let mut jobs = 0;
    for path in VERSIONS.iter().flat_map(|version| all("journals", version)) {
        let state = thawed(&path);
        for status in state.statuses() {
            jobs += 1;
            let job = status["job"].as_str().unwrap();
            let (said, rows) = expected(job);
            assert_eq!(status["state"], said, "{job}: {status}");
            assert!(
                status["tables"][0]["rows_done"].as_u64().unwrap() >= rows,
                "{job}: {status}"
            );
            assert_eq!(status["worker_pid"], Value::Null);
            state.assert_says(&["history", job, "--events"], 0, &["WorkflowExecutionStarted"]);
            state.assert_says(&["history", job], 0, &["begun: audio_downloads -> "]);
            match job {
                "failed" => assert!(
                    status["last_failure"].as_str().unwrap().contains("odd"),
                    "{status}"
                ),
                "completed.verify" => assert_eq!(status["findings"]["missing"], 1, "{status}"),
                "sync" => assert!(status["next_run_at"].is_string(), "{status}"),
                _ => {}
            }
        }
    }
    assert_eq!(jobs, 9 * VERSIONS.len());
}

#[test]
fn open_jobs_are_tuned_paused_and_canceled() {
    let open = [
        ("killed", "interrupted"),
        ("waiting", "paused"),
        ("waiting", "sync"),
        ("renewed", "renewed"),
    ];
    for (version, (journal, job)) in VERSIONS
        .into_iter()
        .flat_map(|version| open.map(|it| (version, it)))
    {
        let state = thawed(&folder("journals", version).join(journal));
        state.assert_says(&["tune", job, "--concurrency", "3"], 0, &["concurrency 3"]);
        state.assert_says(&["pause", job], 0, &["is paused"]);
        let status = state
            .statuses()
            .into_iter()
            .find(|status| status["job"] == job)
            .unwrap();
        assert_eq!(
            (&status["state"], &status["tuning"]["concurrency"]),
            (&"PAUSED".into(), &3.into())
        );
        state.assert_says(&["cancel", job], 0, &["is canceled"]);
    }
}

fn history(path: &std::path::Path) -> WorkflowHistory {
    WorkflowHistory::from_json(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_replay_without_a_difference() {
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<CopyTable>()
        .unwrap()
        .build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    for path in VERSIONS.iter().flat_map(|version| all("histories", version)) {
        let result = replayer.replay_workflow(history(&path)).await;
        assert!(result.is_ok(), "{}: {:?}", path.display(), result.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_have_in_them_what_a_replay_could_trip_over() {
    for path in VERSIONS.iter().flat_map(|version| all("histories", version)) {
        let events = history(&path).into_events().await.unwrap();
        let types: Vec<EventType> = events.iter().map(|event| event.event_type()).collect();
        let has: &[EventType] = match name(&path).as_str() {
            "completed" => &[WorkflowExecutionCompleted],
            "completed.verify" => &[ActivityTaskCompleted, WorkflowExecutionCompleted],
            "failed" => &[ActivityTaskFailed, WorkflowExecutionFailed],
            "canceled" => &[
                WorkflowExecutionCancelRequested,
                ActivityTaskCancelRequested,
                WorkflowExecutionCanceled,
            ],
            "paused" => &[WorkflowExecutionSignaled, WorkflowExecutionUpdateCompleted],
            "sync" => &[TimerStarted, TimerFired],
            "renewed-before" => &[WorkflowExecutionContinuedAsNew],
            "renewed" | "interrupted" => &[ActivityTaskCompleted],
            "retried" => {
                use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
                let retried = events.iter().any(|event| {
                    matches!(&event.attributes, Some(Attributes::ActivityTaskStartedEventAttributes(it))
                        if it.attempt > 1 && it.last_failure.is_some())
                });
                assert!(retried, "no attempt was retried");
                &[WorkflowExecutionCompleted]
            }
            other => panic!("nothing is known of the history {other}"),
        };
        for kind in has {
            assert!(types.contains(kind), "{}: no {kind:?}", path.display());
        }
    }
}
