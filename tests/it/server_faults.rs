//! Servers that crash and come back, and a network that loses COMMIT, while the process lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longhaul::postgres::{ServerOptions, StopMode, ThrowawayServer};
use serde_json::Value;

use crate::binary::until;
use crate::proxy::{Cut, proxy};
use crate::servers::pair;
use crate::stage::{JOB, Stage, runtime};

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "2MB/s"];

/// Waits until an activity is being retried, and gives what `status` says of it.
fn until_retried(stage: &Stage) -> String {
    until("a retry", || {
        let status = stage.status();
        let pending = status["pending_activities"].as_array().unwrap();
        let failed = pending
            .iter()
            .find(|activity| activity["last_failure"].is_string())?;
        assert!(failed["attempt"].as_u64().unwrap() > 1, "{failed}");
        status["last_failure"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_job_outlives_the_crashes_of_both_servers_by_itself() {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = || ThrowawayServer::start(&options).unwrap();
    let (source, target) = (start(), start());
    let stage = Stage::on(&source, &target, 60_000);
    let mut process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    for server in [&target, &source, &target] {
        assert!(process.is_alive());
        server.stop(StopMode::Immediate).unwrap();
        let failure = until_retried(&stage);
        assert!(!failure.is_empty());
        let status = stage.until_state("RETRYING");
        let (retrying, table) = (&status["retrying"], &status["tables"][0]);
        assert!(
            retrying["attempt"].as_u64() > Some(1) && retrying["since"].is_string(),
            "{status}"
        );
        assert_eq!(
            (&table["rows_per_second"], &table["eta_seconds"]),
            (&Value::Null, &Value::Null),
            "nothing moves"
        );
        let rows = stage.status()["tables"][0]["rows_done"].as_u64().unwrap();
        server.restart().unwrap();
        until("rows after the restart", || {
            (stage.status()["tables"][0]["rows_done"].as_u64()? > rows).then_some(())
        });
    }
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    let said = process.end().assert_code(0).stderr;
    // The warnings of one outage are one, and none comes from inside.
    let warnings = said.matches("warning: ").count();
    assert!((1..=6).contains(&warnings), "{said}");
    assert!(
        said.contains("reached again after") || said.contains("over after"),
        "{said}"
    );
    for inside in ["longhaul::", "is_final", " WARN "] {
        assert!(!said.contains(inside), "{inside} is in: {said}");
    }
    stage.assert_moved();
}

#[test]
fn a_limit_that_is_tuned_in_an_outage_holds_for_the_batches_that_are_tried_again() {
    const LIMIT: u64 = 200_000;
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let target = ThrowawayServer::start(&options).unwrap();
    let stage = Stage::on(&pair().0, &target, 60_000);
    let process = stage.begin(&mut stage.migrate(&["--batch-rows", "500", "--max-rate", "2MB/s"]));
    stage.until_rows(0);
    target.stop(StopMode::Immediate).unwrap();
    stage.until_state("RETRYING");
    stage.run(&["tune", JOB, "--max-rate", "200KB/s"]).assert_code(0);
    target.restart().unwrap();
    let bytes = || stage.status()["tables"][0]["bytes_done"].as_u64().unwrap();
    let before = bytes();
    until("a batch that was tried again", || {
        (bytes() > before).then_some(())
    });
    let (from, began) = (bytes(), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let moved = bytes() - from;
    // Batches that were nearly sent may come to their end in this time: four of some 150 KB each.
    let most = LIMIT * began.elapsed().as_secs().max(1) * 2 + 600_000;
    assert!(moved <= most, "{moved} bytes in {:?}", began.elapsed());
    process.kill();
}

fn lose(cut: Cut) {
    let mut stage = Stage::new(30_000);
    let direct = stage.target.clone();
    let armed = Arc::new(AtomicBool::new(false));
    let port = runtime().block_on(proxy(pair().1.port(), Arc::clone(&armed), cut));
    stage.target = direct.replace(&format!(":{}/", pair().1.port()), &format!(":{port}/"));
    let process = stage.begin(&mut stage.migrate(&SLOW));
    // From here on the test itself asks the server directly.
    stage.target = direct;
    for _ in 0..4 {
        stage.until_rows(stage.rows());
        armed.store(true, Ordering::SeqCst);
        until("the cut", || (!armed.load(Ordering::SeqCst)).then_some(()));
    }
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    process.end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_done_twice() {
    lose(Cut::Answer);
}

#[test]
fn a_commit_that_is_lost_on_its_way_is_done_again() {
    lose(Cut::Request);
}
