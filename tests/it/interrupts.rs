//! Ctrl-C, and two processes that want the same job or the same name.

use crate::binary::until;
use crate::stage::{JOB, Stage, tell};

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "2MB/s"];

#[test]
fn ctrl_c_ends_with_130_and_resume_goes_on() {
    let stage = Stage::new(30_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    process.interrupt();
    process
        .end()
        .assert_code(130)
        .assert_said(&["interrupted", &format!("longhaul resume {JOB}")]);
    let resumed = stage.begin(stage.command(&["resume"]).args(["--progress", "none"]));
    until("the resumed job", || {
        (stage.status()["worker_pid"] == resumed.pid()).then_some(())
    });
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    resumed.end().assert_code(0);
    stage.assert_moved();
    stage
        .run(&["resume"])
        .assert_code(0)
        .assert_said(&["nothing to resume"]);
}

#[test]
fn ctrl_c_twice_ends_at_once_and_the_same_command_goes_on() {
    let stage = Stage::new(30_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    process.interrupt();
    process.interrupt();
    let ended = process.end();
    // The second signal may come before the first was looked at, and then counts as one with it.
    assert_eq!(ended.code, Some(130), "{ended:?}");
    stage
        .begin(&mut stage.migrate(&["--max-rate", "none"]))
        .end()
        .assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_job_that_a_live_process_runs_is_refused_with_its_pid() {
    let stage = Stage::new(20_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    let pid = process.pid().to_string();
    let second = stage.begin(&mut stage.migrate(&SLOW)).end();
    let words = format!("job {JOB} is run by process {pid}");
    second
        .assert_code(5)
        .assert_said(&[&words, &format!("longhaul status {JOB}")]);
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    process.end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn of_two_processes_that_begin_at_the_same_moment_one_does_the_job() {
    let stage = Stage::new(20_000);
    for _ in 0..4 {
        let begin = || stage.begin(&mut stage.migrate(&["--batch-rows", "500"]));
        let both = [begin(), begin()];
        let pids = both.each_ref().map(|process| process.pid());
        let ended = both.map(|process| process.end());
        let codes = ended.each_ref().map(|ended| ended.code);
        // The later one may also come when all is done.
        assert!(codes.contains(&Some(0)), "{ended:?}");
        for (ended, other) in ended.into_iter().zip([pids[1], pids[0]]) {
            if ended.code != Some(0) {
                ended
                    .assert_code(5)
                    .assert_said(&[&format!("is run by process {other}")]);
            }
        }
        stage.assert_moved();
        stage.forget();
    }
}

#[test]
fn two_processes_with_state_directories_of_their_own_do_not_copy_a_row_twice() {
    let stage = Stage::new(20_000);
    let first = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    let elsewhere = stage.path("elsewhere");
    let mut second = stage.migrate(&["--batch-rows", "700"]);
    let second = stage.begin(second.env("LONGHAUL_STATE_DIR", &elsewhere));
    second.end().assert_code(0).assert_said(&["ledger found"]);
    let first = first.end();
    // The take-over waits for batches in flight; where they never pause, it comes when the first is done.
    if first.code != Some(0) {
        first.assert_code(1).assert_said(&["taken over"]);
    }
    stage.assert_moved();
}

#[test]
fn the_same_name_for_another_table_is_refused_with_both_shown() {
    let stage = Stage::new(100);
    for url in [&stage.source, &stage.target] {
        tell(url, "CREATE TABLE images (id int PRIMARY KEY)");
    }
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    let mut other = stage.command(&["migrate", "--name", JOB, "--table", "images"]);
    other.args(["--source", &stage.source, "--target", &stage.target]);
    stage
        .begin(&mut other)
        .end()
        .assert_code(2)
        .assert_said(&[JOB, "images", "--name"]);
    // Where the state directory is gone, the ledger knows the name.
    std::fs::remove_dir_all(stage.state()).unwrap();
    let refused = stage.begin(&mut other).end();
    assert!(matches!(refused.code, Some(1 | 4)), "{refused:?}");
    refused.assert_said(&[JOB, "images"]);
    stage.assert_moved();
}
