//! A job that is paused moves nothing, whatever was pending when it was; and what a status says after Ctrl-C is what is there.

use std::time::{Duration, Instant};

use longhaul::postgres::{ServerOptions, StopMode, ThrowawayServer};
use serde_json::Value;

use crate::binary::until;
use crate::stage::{JOB, Stage};

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "200kB/s"];
/// A table that shall not grow is watched for so long.
const WATCHED: Duration = Duration::from_secs(3);

#[track_caller]
fn assert_stays_paused(stage: &Stage, rows: u64) {
    let end = Instant::now() + WATCHED;
    let (mut paused, mut looked) = (0, 0);
    while Instant::now() < end {
        assert_eq!(stage.rows(), rows);
        let status = stage.status();
        looked += 1;
        match status["state"].as_str() {
            Some("PAUSED") => paused += 1,
            // An attempt that has just begun counts as in flight until it has heard that the job is paused.
            Some("PAUSING") => {}
            _ => panic!("{status}"),
        }
    }
    assert!(2 * paused > looked, "{paused} of {looked}");
    stage.until_state("PAUSED");
}

#[test]
fn a_paused_job_moves_no_row_when_its_process_is_started_again() {
    let stage = Stage::new(5000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    assert_eq!(process.kill().signal, Some(9));
    stage.run(&["pause", JOB]).assert_code(0);
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    let status = stage.status();
    assert_eq!(status["state"], "PAUSED");
    assert_ne!(
        status["pending_activities"].as_array().map(Vec::len),
        Some(0),
        "a batch of the dead process"
    );
    let rows = stage.rows();
    let again = stage.begin(&mut stage.migrate(&["--batch-rows", "500"]));
    until("the process that has it", || {
        (stage.status()["worker_pid"] == again.pid()).then_some(())
    });
    stage.until_state("PAUSED");
    assert_stays_paused(&stage, rows);
    stage.run(&["resume", JOB]).assert_code(0);
    again.end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_job_whose_server_is_away_becomes_paused_and_stays_so_when_it_is_back() {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = || ThrowawayServer::start(&options).unwrap();
    let (source, target) = (start(), start());
    let stage = Stage::on(&source, &target, 5000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    let rows = stage.until_rows(0);
    target.stop(StopMode::Immediate).unwrap();
    stage.until_state("RETRYING");
    let began = Instant::now();
    stage
        .run(&["pause", JOB, "--wait"])
        .assert_code(0)
        .assert_said(&["is paused; go on with"]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    target.restart().unwrap();
    let there = stage.rows();
    assert!(there >= rows);
    assert_stays_paused(&stage, there);
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    stage.run(&["resume", JOB]).assert_code(0);
    process.end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_paused_job_can_be_interrupted_and_canceled_though_attempts_of_it_wait() {
    let stage = Stage::new(5000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    assert_eq!(process.kill().signal, Some(9));
    stage.run(&["pause", JOB]).assert_code(0);
    let held = |stage: &Stage| {
        let process = stage.begin(&mut stage.migrate(&SLOW));
        until("the process that has it", || {
            let status = stage.status();
            (status["worker_pid"] == process.pid() && status["state"] == "PAUSED").then_some(())
        });
        process
    };
    let interrupted = held(&stage);
    let began = Instant::now();
    interrupted.interrupt();
    interrupted.end().assert_code(130);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let canceled = held(&stage);
    stage.run(&["cancel", JOB]).assert_code(0);
    canceled.end().assert_code(1);
    assert_eq!(stage.status()["state"], "CANCELED");
}

#[test]
fn after_ctrl_c_a_status_counts_the_rows_that_are_there() {
    let stage = Stage::new(5000);
    let process = stage.begin(&mut stage.migrate(&["--batch-rows", "500", "--max-rate", "100kB/s"]));
    let before = stage.until_rows(0);
    process.interrupt();
    process.end().assert_code(130);
    let rows = stage.rows();
    assert!(rows > before, "a batch has finished after the interrupt: {rows}");
    let status = stage.status();
    assert_eq!(
        (&status["tables"][0]["rows_done"], &status["worker_pid"]),
        (&rows.into(), &Value::Null)
    );
    let history = stage.run(&["history", JOB]).assert_code(0).stdout;
    assert!(!history.is_empty());
}
