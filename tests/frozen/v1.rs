//! The first version: its workflow was `MigrateTable`, which this one does not replay. Its journals open, what ended says
//! how, and what is open is taken up by its own command from the ledger (tests/it/earlier.rs does it with real servers).

use longhaul::workflow::JobInput;
use temporalio_client::WorkflowHistory;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use crate::fixtures::{Thawed, all, folder, name, thawed};

const JOB: &str = "frozen";
const WAY_OUT: &str = "its own command";
const OPEN: [&str; 3] = ["interrupted", "paused", "sync"];

fn journal(name: &str) -> Thawed {
    thawed(&folder("journals", "v1").join(name))
}

#[test]
fn journals_of_the_first_version_open_and_their_jobs_say_how_they_stand() {
    for path in all("journals", "v1") {
        let statuses = thawed(&path).statuses();
        let [status] = statuses.as_slice() else {
            panic!("{}: {statuses:?}", path.display());
        };
        assert_eq!(status["job"], JOB);
        let (state, rows) = match name(&path).as_str() {
            "completed" => ("COMPLETED", 20_000),
            // How far these have come the ledger on their target knows.
            "interrupted" | "paused" | "sync" => ("INTERRUPTED", 0),
            other => panic!("nothing is known of the journal {other}"),
        };
        assert_eq!(status["state"], state, "{}", path.display());
        assert_eq!(status["tables"][0]["rows_done"], rows, "{}", path.display());
        assert_eq!(
            status["tables"][0]["source"].as_str().map(str::is_empty),
            Some(false)
        );
        let words = status["last_failure"].as_str().unwrap_or_default();
        let is_told = words.contains("an earlier version of longhaul began it") && words.contains(WAY_OUT);
        assert_eq!(is_told, state == "INTERRUPTED", "{}: {status}", path.display());
    }
}

#[test]
fn a_job_that_the_first_version_has_finished_is_shown_in_full_and_there_is_nothing_to_do_for_it() {
    let state = journal("completed");
    state.assert_says(&["list"], 0, &[JOB, "completed", "20,000"]);
    state.assert_says(&["status", JOB], 0, &["completed", "20,000 rows"]);
    state.assert_says(
        &["history", JOB, "--events"],
        0,
        &["WorkflowExecutionCompleted", "copy_batch"],
    );
    state.assert_says(&["pause", JOB], 1, &["is completed", "nothing to change"]);
    state.assert_says(&["resume", JOB], 0, &["complete", "nothing to resume"]);
}

#[test]
fn an_open_job_of_the_first_version_is_told_the_way_out_and_left_as_it_is() {
    for name in OPEN {
        let state = journal(name);
        let words = [
            "an earlier version of longhaul began job frozen",
            "hint:",
            WAY_OUT,
            "ledger",
        ];
        state.assert_says(&["pause", JOB], 1, &words);
        state.assert_says(&["tune", JOB, "--concurrency", "2"], 1, &words);
        state.assert_says(&["cancel", JOB], 1, &words);
        state.assert_says(
            &["status"],
            0,
            &["an earlier version of longhaul began it", WAY_OUT],
        );
        state.assert_says(&["list"], 0, &[JOB]);
        state.assert_says(&["history", JOB, "--events"], 0, &["WorkflowExecutionStarted"]);
        state.assert_says(&["history", JOB], 0, &["begun: small -> small"]);
        assert_eq!(state.statuses()[0]["state"], "INTERRUPTED", "{name}");
    }
}

#[test]
fn the_name_of_an_open_job_of_the_first_version_is_not_taken_by_another_job() {
    for name in OPEN {
        let state = journal(name);
        let kind = if name == "sync" { "sync" } else { "migrate" };
        let dead = "postgres://postgres@127.0.0.1:1/postgres";
        let ends = [
            "--source", dead, "--target", dead, "--table", "small", "--name", JOB,
        ];
        let words = [
            "there is a job `frozen` already, and it is another one",
            "its source is",
            dead,
        ];
        state.assert_says(&[&[kind], &ends[..]].concat(), 2, &words);
        assert_eq!(state.statuses()[0]["state"], "INTERRUPTED", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_the_first_version_are_read_and_name_the_workflow_that_is_not_replayed() {
    for path in all("histories", "v1") {
        let history = WorkflowHistory::from_json(&std::fs::read(&path).unwrap()).unwrap();
        let events = history.into_events().await.unwrap();
        let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = &events[0].attributes else {
            panic!("{}: {:?}", path.display(), events[0]);
        };
        // The name by which `status` knows it for an earlier version's.
        assert_eq!(started.workflow_type.as_ref().unwrap().name, "MigrateTable");
        let input = &started.input.as_ref().unwrap().payloads[0].data;
        let input: JobInput = serde_json::from_slice(input).unwrap();
        assert_eq!(input.spec.name.as_str(), JOB, "{}", path.display());
        assert!(input.state.is_none(), "where it was, its ledger says");
    }
}
