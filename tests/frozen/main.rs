//! What landed versions have written: their journals must open and answer, their histories must replay. Never changed,
//! only added to. `cargo test --release --test frozen -- --ignored` makes the histories of a new version's journals.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use longhaul::connect;
use longhaul::service::Mode;
use longhaul::workflow::MigrateTable;
use temporalio_client::{WorkflowFetchHistoryOptions, WorkflowHistory};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(kind)
        .join("v1");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

/// A journal where it may be written to: opening one makes files.
fn thawed(journal: &Path) -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let target = state.path().join("journal");
    std::fs::create_dir(&target).unwrap();
    for entry in std::fs::read_dir(journal).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    state
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn journals_of_every_version_open_and_their_jobs_say_how_they_stand() {
    for journal in fixtures("journals") {
        let state = thawed(&journal);
        let said = Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(["status", "--json", "--state-dir"])
            .arg(state.path())
            .env_clear()
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{}: {error}", journal.display());
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let table = &status["tables"][0];
        let seen = (
            status["state"].as_str().unwrap(),
            table["rows_done"].as_u64().unwrap(),
        );
        let expected = match name(&journal).as_str() {
            "completed" => ("COMPLETED", 20_000),
            "interrupted" => ("RUNNING", 6_000),
            "paused" => ("PAUSED", 6_000),
            "sync" => ("SLEEPING", 3_000),
            other => panic!("nothing is known of the journal {other}"),
        };
        assert_eq!(seen.0, expected.0, "{}", journal.display());
        assert!(seen.1 >= expected.1, "{}: {} rows", journal.display(), seen.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_every_version_replay_without_a_difference() {
    let options = WorkflowReplayerOptions::new()
        .register_workflow::<MigrateTable>()
        .unwrap()
        .build();
    let replayer = WorkflowReplayer::new(options).unwrap();
    for history in fixtures("histories") {
        let events = WorkflowHistory::from_json(&std::fs::read(&history).unwrap()).unwrap();
        let result = replayer.replay_workflow(events).await;
        assert!(result.is_ok(), "{}: {:?}", history.display(), result.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes fixtures: for a new version only"]
async fn freeze_the_histories_of_the_journals() {
    for journal in fixtures("journals") {
        let state = thawed(&journal);
        let connected = connect::reach(state.path(), Mode::Inspect).await.unwrap();
        let handle = connected.client.get_workflow_handle::<MigrateTable>("frozen");
        let history = handle
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .to_json()
            .await
            .unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories/v1");
        std::fs::write(folder.join(format!("{}.json", name(&journal))), history).unwrap();
    }
}
