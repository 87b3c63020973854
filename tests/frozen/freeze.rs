//! Makes the fixtures of this version, with real servers and the real binary:
//! `cargo test --release --test frozen -- --ignored freeze`. For a version that has not landed yet: what has stays.

use std::os::unix::fs::PermissionsExt;

use longhaul::connect;
use longhaul::postgres::{ServerOptions, StopMode, ThrowawayServer};
use longhaul::service::Mode;
use longhaul::workflow::CopyTable;
use serde_json::Value;
use temporalio_client::WorkflowFetchHistoryOptions;
use temporalio_protos::temporal::api::history::v1::History;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use crate::binary::{Process, until};
use crate::fixtures::{copy, folder};
use crate::stage::{Stage, tell};

const VERSION: &str = "v3";
const ROWS: u64 = 1200;
const SLOW: [&str; 4] = ["--batch-rows", "100", "--max-rate", "100kB/s"];
const FAST: [&str; 2] = ["--batch-rows", "100"];

#[test]
#[ignore = "writes the fixtures of this version anew"]
fn freeze_what_this_version_writes() {
    for kind in ["journals", "histories"] {
        let folder = folder(kind, VERSION);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        std::fs::create_dir_all(&folder).unwrap();
    }
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = || ThrowawayServer::start(&options).unwrap();
    let (source, target) = (start(), start());
    let stage = || Stage::on(&source, &target, ROWS);
    ended(stage(), &target);
    killed(stage());
    waiting(stage());
    renewed(stage());
}

/// Jobs that have ended, each in another way.
fn ended(stage: Stage, target: &ThrowawayServer) {
    begin(&stage, "completed", &FAST).end().assert_code(0);
    tell(
        &stage.target,
        "UPDATE audio_downloads SET title = 'another' WHERE id = 77; DELETE FROM audio_downloads WHERE id = 3;
         INSERT INTO audio_downloads (id) OVERRIDING SYSTEM VALUE VALUES (9001)",
    );
    let ends = ["--source", &stage.source, "--target", &stage.target];
    for verify in [
        &["verify", "completed"][..],
        &["verify", "completed", "--against", "source"],
    ] {
        let mut command = stage.command(&[verify, &ends, &["--progress", "none"]].concat());
        stage.begin(&mut command).end().assert_code(1);
    }

    empty(&stage);
    tell(
        &stage.target,
        "ALTER TABLE audio_downloads ADD CONSTRAINT odd CHECK (id <> 777)",
    );
    begin(&stage, "failed", &FAST).end().assert_code(1);
    tell(&stage.target, "ALTER TABLE audio_downloads DROP CONSTRAINT odd");

    empty(&stage);
    let process = begin(&stage, "canceled", &SLOW);
    until_rows(&stage, "canceled", 200);
    stage.run(&["cancel", "canceled"]).assert_code(0);
    process.end().assert_code(1);

    empty(&stage);
    let process = begin(&stage, "retried", &SLOW);
    until_rows(&stage, "retried", 200);
    target.stop(StopMode::Immediate).unwrap();
    until("a retry", || {
        let status = stage.try_status_of("retried")?;
        let pending = status["pending_activities"].as_array()?;
        pending
            .iter()
            .any(|it| it["last_failure"].is_string())
            .then_some(())
    });
    target.restart().unwrap();
    process.end().assert_code(0);
    keep(
        &stage,
        "ended",
        &["completed", "completed.verify", "failed", "canceled", "retried"],
    );
}

/// A job that was killed while it copied.
fn killed(stage: Stage) {
    let process = begin(&stage, "interrupted", &SLOW);
    until_rows(&stage, "interrupted", 300);
    assert_eq!(process.kill().signal, Some(9));
    keep(&stage, "killed", &["interrupted"]);
}

/// Jobs that are open and wait: for the operator, and for the next round.
fn waiting(stage: Stage) {
    let process = begin(&stage, "paused", &SLOW);
    until_rows(&stage, "paused", 200);
    stage
        .run(&["tune", "paused", "--concurrency", "2"])
        .assert_code(0);
    stage.run(&["pause", "paused"]).assert_code(0);
    until_state(&stage, "paused", "PAUSED");
    assert_eq!(process.kill().signal, Some(9));

    empty(&stage);
    let begin = || {
        stage.begin(&mut stage.copy(
            "sync",
            &["--name", "sync", "--interval", "1s", "--batch-rows", "300"],
        ))
    };
    let process = begin();
    for rows in [ROWS, ROWS + 20, ROWS + 40] {
        stage.until_rows(rows - 1);
        stage.add(20);
    }
    stage.until_rows(ROWS + 59);
    assert_eq!(process.kill().signal, Some(9));
    // Killed in its sleep: where it was awake, once more.
    until("a sync that sleeps", || {
        let status = stage.try_status_of("sync")?;
        if status["next_run_at"].is_string() {
            return Some(());
        }
        let process = begin();
        until_state(&stage, "sync", "SLEEPING");
        process.kill();
        None
    });
    keep(&stage, "waiting", &["paused", "sync"]);
}

/// A job that has continued as new, and was killed then.
fn renewed(stage: Stage) {
    let mut command = stage.copy("migrate", &[&["--name", "renewed"], &SLOW[..]].concat());
    let process = stage.begin(command.env("FAILPOINTS", "service::renew_after=return(40)"));
    let first = until("a first run", || {
        Some(stage.try_status_of("renewed")?["run_id"].clone())
    });
    until("a later run that copies", || {
        let status = stage.try_status_of("renewed")?;
        let is_later = status["run_id"] != first && status["tables"][0]["rows_done"].as_u64()? >= ROWS / 2;
        (is_later && status["history_length"].as_u64()? > 25).then_some(())
    });
    assert_eq!(process.kill().signal, Some(9));
    keep(&stage, "renewed", &["renewed"]);
}

fn begin(stage: &Stage, name: &str, more: &[&str]) -> Process {
    stage.begin(&mut stage.migrate(&[&["--name", name], more].concat()))
}

fn until_rows(stage: &Stage, job: &str, rows: u64) {
    until("rows that the journal tells of", || {
        (stage.try_status_of(job)?["tables"][0]["rows_done"].as_u64()? >= rows).then_some(())
    });
}

fn until_state(stage: &Stage, job: &str, state: &str) -> Value {
    until(state, || {
        stage.try_status_of(job).filter(|status| status["state"] == state)
    })
}

/// The target as it was before any job.
fn empty(stage: &Stage) {
    tell(
        &stage.target,
        "DROP SCHEMA IF EXISTS longhaul CASCADE; TRUNCATE audio_downloads",
    );
}

/// Keeps a journal, and the histories of its jobs: of each the current run, and the one before it.
fn keep(stage: &Stage, journal: &str, jobs: &[&str]) {
    let (from, to) = (
        stage.state().join("journal"),
        folder("journals", VERSION).join(journal),
    );
    copy(&from, &to);
    // Read of a copy: what is kept is as the process left it.
    let read = stage.path("read");
    std::fs::create_dir(&read).unwrap();
    std::fs::set_permissions(&read, std::fs::Permissions::from_mode(0o700)).unwrap();
    copy(&from, &read.join("journal"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let connected = connect::reach(&read, Mode::Inspect).await.unwrap();
        let client = &connected.client;
        for job in jobs {
            let history = async |run: Option<String>| {
                let mut info = client.get_workflow_handle::<CopyTable>(*job).info().clone();
                info.run_id = run;
                let handle = info.bind_untyped(client.clone());
                let events = handle.fetch_history(WorkflowFetchHistoryOptions::default());
                events.into_events().await.unwrap()
            };
            let write = |name: String, events| {
                let json = serde_json::to_vec(&History { events }).unwrap();
                std::fs::write(folder("histories", VERSION).join(format!("{name}.json")), json).unwrap();
            };
            let events = history(None).await;
            let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = &events[0].attributes
            else {
                panic!("{job}: {:?}", events[0]);
            };
            let before = started.continued_execution_run_id.clone();
            if !before.is_empty() {
                write(format!("{job}-before"), history(Some(before)).await);
            }
            write((*job).to_owned(), events);
        }
    });
}
