//! Words from a second process to a job that runs, or that nobody runs: status, pause, resume, tune, cancel.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Process, until};
use crate::stage::{JOB, Stage, ask};

const ROWS: u64 = 40_000;
const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "1500kB/s"];
/// A table that shall not grow is watched for so long.
const WATCHED: Duration = Duration::from_millis(1500);

/// A job that runs slowly, with rows on the target, of which its workflow knows.
fn running() -> (Stage, Process) {
    let stage = Stage::new(ROWS);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    until("a batch in the journal", || {
        (stage.try_status()?["tables"][0]["rows_done"].as_u64()? > 0).then_some(())
    });
    (stage, process)
}

fn assert_stands_still(stage: &Stage) {
    let (rows, end) = (stage.rows(), Instant::now() + WATCHED);
    while Instant::now() < end {
        assert_eq!(stage.rows(), rows);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn event_types(stage: &Stage) -> Vec<String> {
    let ended = stage.run(&["history", JOB, "--json"]).assert_code(0);
    let kind = |event: &Value| {
        event["eventType"]
            .as_str()
            .unwrap_or_else(|| panic!("{event}"))
            .to_owned()
    };
    let events = lines(&ended.stdout);
    events.iter().map(kind).collect()
}

#[test]
fn a_running_job_is_seen_paused_tuned_and_resumed_from_a_second_process() {
    let (stage, process) = running();
    let status = stage.status();
    assert_eq!(
        (&status["job"], &status["kind"]),
        (&JOB.into(), &"migrate".into())
    );
    assert_eq!(
        (&status["state"], &status["worker_pid"]),
        (&"RUNNING".into(), &process.pid().into())
    );
    let rows = status["tables"][0]["rows_done"].as_u64().unwrap();
    until("rows_done that grows", || {
        (stage.status()["tables"][0]["rows_done"].as_u64()? > rows).then_some(())
    });
    let listed = lines(&stage.run(&["list", "--json"]).assert_code(0).stdout);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["job"], JOB);
    assert!(event_types(&stage)[0].ends_with("WORKFLOW_EXECUTION_STARTED"));

    stage
        .run(&["pause", JOB, "--wait"])
        .assert_code(0)
        .assert_said(&[&format!("job {JOB} is paused; go on with: longhaul resume {JOB}")]);
    let status = stage.status();
    assert_eq!(
        (
            &status["state"],
            &status["draining"],
            status["pending_activities"].as_array().map(Vec::len)
        ),
        (&"PAUSED".into(), &0.into(), Some(0)),
        "it returns when nothing is in flight"
    );
    assert_stands_still(&stage);
    stage
        .run(&["resume", JOB])
        .assert_code(0)
        .assert_said(&[&process.pid().to_string()]);
    stage.until_rows(stage.rows());

    stage
        .run(&["tune", JOB, "--concurrency", "0"])
        .assert_code(2)
        .assert_said(&["--concurrency", "1 to 64"]);
    stage.run(&["tune", JOB]).assert_code(2);
    let tuned = stage.run(&[
        "tune",
        JOB,
        "--max-rate",
        "none",
        "--concurrency",
        "3",
        "--batch-rows",
        "900",
    ]);
    tuned
        .assert_code(0)
        .assert_said(&["concurrency 3", "batch rows 900", "max rate none"]);
    process.end().assert_code(0);
    stage.assert_moved();
    let largest = ask(&stage.target, "SELECT max(rows) FROM longhaul.batches");
    assert_eq!(largest, "900", "batches are as tuned");
}

#[test]
fn a_finished_job_that_is_run_again_looks_at_the_target_and_brings_new_keys() {
    let stage = Stage::new(2000);
    let first = stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    first.assert_said(&[
        "copies up to key (2000)",
        "is complete: 2,000 rows",
        "checked on the target",
    ]);
    let status = stage.status();
    assert_eq!(
        (&status["state"], &status["worker_pid"]),
        (&"COMPLETED".into(), &Value::Null)
    );
    assert!(status["closed_at"].is_string(), "{status}");
    assert_eq!(status["tables"][0]["rows_total"], 2000);
    assert!(
        event_types(&stage)
            .last()
            .unwrap()
            .ends_with("WORKFLOW_EXECUTION_COMPLETED")
    );
    let listed = stage.run(&["list"]).assert_code(0).stdout;
    assert!(
        listed.contains("completed") && listed.contains("2,000"),
        "{listed}"
    );
    stage
        .run(&["resume", JOB])
        .assert_code(0)
        .assert_said(&["complete", "nothing to resume"]);
    stage
        .run(&["pause", JOB])
        .assert_code(1)
        .assert_said(&["completed"]);

    let batches = || ask(&stage.target, "SELECT count(*) FROM longhaul.batches");
    let before = batches();
    stage
        .begin(&mut stage.migrate(&[]))
        .end()
        .assert_code(0)
        .assert_said(&["was complete, with 2,000 rows", "is complete: 2,000 rows"]);
    assert_eq!(batches(), before, "nothing is copied twice");
    assert_ne!(
        stage.status()["run_id"],
        status["run_id"],
        "it was looked at again"
    );
    stage.add(30);
    stage
        .begin(&mut stage.migrate(&[]))
        .end()
        .assert_code(0)
        .assert_said(&["copies up to key (2030)", "is complete: 2,030 rows"]);
    stage.assert_moved();
    assert_eq!(stage.status()["tables"][0]["rows_done"], 2030);
}

#[test]
fn restart_begins_anew_and_still_looks_before_a_row_moves() {
    let stage = Stage::new(2000);
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    stage
        .begin(&mut stage.migrate(&["--restart"]))
        .end()
        .assert_code(4)
        .assert_said(&["not empty"]);
    assert_eq!(stage.rows(), 2000);
    crate::stage::tell(&stage.target, "TRUNCATE audio_downloads");
    stage.add(500);
    stage
        .begin(&mut stage.migrate(&["--restart"]))
        .end()
        .assert_code(0);
    assert_eq!(stage.rows(), 2500);
    stage.assert_moved();
}

#[test]
fn a_canceled_job_leaves_only_what_the_ledger_accounts_for_and_can_be_run_again() {
    let (stage, process) = running();
    stage.run(&["tune", JOB, "--concurrency", "3"]).assert_code(0);
    stage
        .run(&["cancel", JOB, "--wait"])
        .assert_code(0)
        .assert_said(&["is canceled"]);
    assert_eq!(stage.status()["state"], "CANCELED");
    process.end().assert_code(1).assert_said(&["canceled"]);
    let rows = stage.rows();
    assert!((1..ROWS).contains(&rows), "{rows}");
    let accounted = ask(&stage.target, "SELECT sum(rows) FROM longhaul.batches");
    assert_eq!(accounted, rows.to_string());
    let again = stage.begin(&mut stage.migrate(&["--max-rate", "none"])).end();
    again.assert_code(0).assert_said(&[
        &format!("job {JOB} was canceled, and is run again"),
        "concurrency 3 as before",
        "batch rows 500 as before",
        "max rate none as given, instead of 1500KB/s",
    ]);
    stage.assert_moved();
    assert_eq!(stage.status()["tuning"]["concurrency"], 3, "as it was tuned");
}

#[test]
fn a_job_that_nobody_runs_can_be_asked_paused_and_then_resumed_here() {
    let (stage, process) = running();
    assert_eq!(process.kill().signal, Some(9));
    let status = stage.status();
    assert_eq!(
        (&status["state"], &status["worker_pid"]),
        (&"INTERRUPTED".into(), &Value::Null)
    );
    assert!(status["tables"][0]["rows_done"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(
        status["tables"][0]["rows_per_second"],
        Value::Null,
        "nothing moves"
    );
    let text = stage.run(&["status"]).assert_code(0).stdout;
    assert!(text.contains("interrupted, no process runs it"), "{text}");
    assert!(text.contains("batch rows 500, max rate 1500KB/s"), "{text}");
    let listed = lines(&stage.run(&["list", "--json"]).assert_code(0).stdout);
    assert_eq!(
        (&listed[0]["state"], &listed[0]["worker_pid"]),
        (&"INTERRUPTED".into(), &Value::Null)
    );
    let listed = stage.run(&["list"]).assert_code(0).stdout;
    assert!(listed.contains("interrupted"), "{listed}");
    assert!(!event_types(&stage).is_empty());

    stage
        .run(&["pause", JOB])
        .assert_code(0)
        .assert_said(&["no process runs it now"]);
    assert_eq!(stage.status()["state"], "PAUSED");
    stage
        .run(&["tune", JOB, "--max-rate", "none"])
        .assert_code(0)
        .assert_said(&["max rate none"]);
    // The same command leaves it so, and says in its first line what goes on with it.
    let same = stage.begin(&mut stage.migrate(&["--batch-rows", "500"]));
    until("the process that has it", || {
        (stage.status()["worker_pid"] == same.pid()).then_some(())
    });
    // The batches of the dead process are still to end.
    stage.until_state("PAUSED");
    assert_stands_still(&stage);
    same.interrupt();
    let said = same.end().assert_code(130).stderr;
    let first = said.lines().next().unwrap_or_default();
    assert!(
        first.contains("is paused") && first.contains(&format!("longhaul resume {JOB}")),
        "{said}"
    );
    stage.run(&["resume"]).assert_code(0);
    stage.assert_moved();
    assert_eq!(stage.status()["state"], "COMPLETED");
}

#[test]
fn a_job_that_nobody_runs_can_be_canceled() {
    let (stage, process) = running();
    assert_eq!(process.kill().signal, Some(9));
    stage.run(&["cancel", JOB]).assert_code(0);
    assert_eq!(stage.status()["state"], "CANCELED");
}
