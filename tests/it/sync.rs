//! A sync beside writers that commit out of order: no row is lost, whatever dies, and no round comes early.

use std::time::{Duration, Instant, SystemTime};

use crate::binary::until;
use crate::random::Random;
use crate::servers::client;
use crate::stage::{Stage, ask, runtime};
use crate::writers::{poll_naively, write};

/// How long the writers write; LONGHAUL_TEST_SYNC_SECONDS makes it longer.
const WRITE_FOR: Duration = Duration::from_secs(20);
const WRITERS: u64 = 8;

fn write_for() -> Duration {
    let given = std::env::var("LONGHAUL_TEST_SYNC_SECONDS").ok();
    given.map_or(WRITE_FOR, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

fn until_same(stage: &Stage) {
    until("a target that equals the source", || {
        let (source, target) = stage.sums();
        (source == target).then_some(())
    });
}

/// Lets the writers write until that share of their time is over.
fn until_share(began: Instant, share: f64) {
    while began.elapsed() < write_for().mul_f64(share) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_sync_keeps_every_row_that_commits_late_where_a_naive_cursor_loses_some() {
    let mut random = Random::seeded();
    let stage = Stage::new(1000);
    let sync = || stage.begin(&mut stage.copy("sync", &["--interval", "1s"]));
    let process = sync();
    let writers = write(&stage.source, WRITERS, &mut random);
    let poller = poll_naively(&stage.source, &stage.target);
    let began = Instant::now();
    stage.until_rows(1000);

    until_share(began, 0.25);
    let reader = runtime().block_on(client(&stage.source));
    runtime()
        .block_on(reader.batch_execute("BEGIN; SELECT count(*) FROM audio_downloads"))
        .unwrap();
    // The writers hold it back too, for moments; the reader stays.
    until("a reader that is seen to hold the newest keys back", || {
        let held = stage.status()["held_back_by"].as_array()?.clone();
        let reader_pid = runtime()
            .block_on(reader.query_one("SELECT pg_backend_pid()", &[]))
            .unwrap()
            .get::<_, i32>(0);
        held.iter()
            .any(|holder| {
                holder
                    .as_str()
                    .is_some_and(|text| text.contains(&format!("process {reader_pid},")))
            })
            .then_some(())
    });
    let rows = stage.rows();
    stage.until_rows(rows);

    until_share(began, 0.5);
    assert_eq!(process.kill().signal, Some(9));
    let process = sync();
    until_share(began, 0.75);
    runtime().block_on(reader.batch_execute("COMMIT")).unwrap();
    until_share(began, 1.0);
    writers.stop();
    poller.stop();
    until_same(&stage);

    let status = until("nobody who holds anything back", || {
        Some(stage.status()).filter(|status| status["held_back_by"].as_array().is_some_and(Vec::is_empty))
    });
    assert_eq!(status["kind"], "sync");
    process.interrupt();
    process.end().assert_code(130);
    let (source, target) = stage.sums();
    assert_eq!(source, target);
    let ledger = ask(&stage.target, "SELECT sum(rows) FROM longhaul.batches");
    assert_eq!(
        ledger,
        stage.rows().to_string(),
        "the ledger counts each row once"
    );
    let naive: u64 = ask(&stage.target, "SELECT count(*) FROM naive").parse().unwrap();
    println!(
        "{} rows synced; the naive cursor lost {}",
        stage.rows(),
        stage.rows() - naive
    );
    assert!(
        naive < stage.rows(),
        "the writers committed out of order: the naive cursor has lost rows"
    );
}

#[test]
fn a_restart_in_the_middle_of_a_sleep_waits_the_rest_and_not_the_whole() {
    const INTERVAL: Duration = Duration::from_secs(16);
    /// Into the sleep; whoever waited the whole interval again would come this much too late.
    const KILLED_AFTER: Duration = Duration::from_secs(8);
    let stage = Stage::new(1000);
    let sync = || stage.begin(&mut stage.copy("sync", &["--interval", "16s"]));
    let process = sync();
    let sleeping = stage.until_state("SLEEPING");
    let next = humantime::parse_rfc3339(sleeping["next_run_at"].as_str().unwrap()).unwrap();
    until("the middle of the sleep", || {
        (SystemTime::now() > next - INTERVAL + KILLED_AFTER).then_some(())
    });
    assert_eq!(process.kill().signal, Some(9));
    stage.add(10);
    assert_eq!(
        stage.status()["next_run_at"],
        sleeping["next_run_at"],
        "while nobody runs it"
    );
    let process = sync();
    until("the process that runs it", || {
        (stage.status()["worker_pid"] == process.pid()).then_some(())
    });
    let status = stage.status();
    assert_eq!(
        (&status["state"], &status["next_run_at"]),
        (&"SLEEPING".into(), &sleeping["next_run_at"])
    );
    stage.until_rows(1000);
    let late = SystemTime::now()
        .duration_since(next)
        .expect("the round does not come early");
    assert!(late < KILLED_AFTER / 2, "the round came {late:?} late");
    assert_eq!(stage.rows(), 1010);
    process.interrupt();
    process.end().assert_code(130);
}

#[test]
fn a_sync_is_tuned_paused_and_resumed_between_its_rounds() {
    let stage = Stage::new(500);
    let process = stage.begin(&mut stage.copy("sync", &["--interval", "1s"]));
    stage.until_rows(499);
    stage.run(&["pause", crate::stage::JOB]).assert_code(0);
    stage.until_state("PAUSED");
    stage.add(100);
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(3) {
        assert_eq!(stage.rows(), 500, "no round begins while it is paused");
        std::thread::sleep(Duration::from_millis(200));
    }
    stage.run(&["resume", crate::stage::JOB]).assert_code(0);
    stage.until_rows(599);
    // A long interval, and a short one again: it holds for the sleep that goes on.
    let tune = |interval| stage.run(&["tune", crate::stage::JOB, "--interval", interval]);
    tune("1h").assert_code(0).assert_said(&["interval 1h"]);
    let sleeping = until("a long sleep", || {
        stage
            .try_status()
            .filter(|status| status["state"] == "SLEEPING" && status["interval_ms"] == 3_600_000)
    });
    assert_eq!(sleeping["tables"][0]["rows_per_second"], serde_json::Value::Null);
    let text = stage.run(&["status"]).assert_code(0).stdout;
    assert!(
        text.contains("in step; looks again at") && text.contains("interval 1h"),
        "{text}"
    );
    stage.add(50);
    tune("1s").assert_code(0);
    stage.until_rows(649);
    stage.run(&["cancel", crate::stage::JOB]).assert_code(0);
    process.end().assert_code(1);
    assert_eq!(stage.status()["state"], "CANCELED");
}
