//! A target that goes back in time: failed over to a standby that lagged, or put back from an older backup, while a job
//! copies, between two runs, after the end, and while a sync sleeps. The target ends equal to the source; how many batches
//! and rows it had lost is said, once.

use std::process::Command;

use longhaul::postgres::{Backup, ServerOptions, Standby, StopMode, ThrowawayServer};
use serde_json::Value;

use crate::binary::{Ended, until};
use crate::servers::{pair, try_sql};
use crate::stage::{JOB, Stage, ask, runtime};

const ROWS: u64 = 60_000;
/// Rows that are on the target for good, and those that it has to lose.
const KEPT: u64 = 8000;
const LOST: u64 = 6000;
/// So slow that a backup, or the restart of a standby, is over long before the job.
const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "1MB/s"];
const FAST: [&str; 4] = ["--batch-rows", "500", "--max-rate", "none"];
const SYNC: [&str; 4] = ["--interval", "2s", "--batch-rows", "500"];
/// How the one sentence begins; the log tells of each batch that found out.
const SAID: &str = "warning: the target has lost";

/// How the target goes back.
#[derive(Debug, Clone, Copy)]
enum How {
    FailOver,
    Restore,
}

/// What it goes back to.
enum Earlier {
    Standby(Standby),
    Backup(Option<Backup>),
}

/// A target of its own, and a job that copies to it.
struct Scene {
    stage: Stage,
    target: ThrowawayServer,
    earlier: Earlier,
}

impl Scene {
    fn new(how: How, rows: u64) -> Self {
        let options = ServerOptions {
            fsync: false,
            ..ServerOptions::default()
        };
        let target = ThrowawayServer::start(&options).unwrap();
        let stage = Stage::on(&pair().0, &target, rows);
        let earlier = match how {
            How::FailOver => Earlier::Standby(target.standby().unwrap()),
            How::Restore => Earlier::Backup(None),
        };
        Self {
            stage,
            target,
            earlier,
        }
    }

    /// From here on the target can go back to what it has now: more than so many rows.
    fn keep(&mut self, more_than: u64) {
        self.stage.until_rows(more_than);
        match &mut self.earlier {
            Earlier::Standby(standby) => {
                let (_, database) = self.stage.target.rsplit_once('/').unwrap();
                let url = standby.url(database);
                until("rows on the standby", || (count(&url) > more_than).then_some(()));
                standby.stop_receiving().unwrap();
            }
            Earlier::Backup(backup) => *backup = Some(self.target.backup().unwrap()),
        }
    }

    /// Goes back to what was kept.
    fn go_back(&mut self) {
        match std::mem::replace(&mut self.earlier, Earlier::Backup(None)) {
            Earlier::Standby(standby) => self.target.fail_over_to(standby).unwrap(),
            Earlier::Backup(backup) => self.target.restore(backup.expect("it was kept")).unwrap(),
        }
    }

    /// Batches and rows of the target's ledger.
    fn ledger(&self) -> (u64, u64) {
        ledger(&self.stage.target)
    }

    fn end(&self, command: &mut Command) -> Ended {
        self.stage.begin(command).end()
    }
}

fn count(url: &str) -> u64 {
    ask(url, "SELECT count(*) FROM audio_downloads").parse().unwrap()
}

fn ledger(url: &str) -> (u64, u64) {
    let number = |sql| ask(url, sql).parse().unwrap();
    (
        number("SELECT count(*) FROM longhaul.batches"),
        number("SELECT coalesce(sum(rows), 0) FROM longhaul.batches"),
    )
}

/// What `status --json` says was lost: batches and rows.
fn lost(status: &Value) -> (u64, u64) {
    let table = &status["tables"][0];
    (
        table["batches_lost"].as_u64().unwrap(),
        table["rows_lost"].as_u64().unwrap(),
    )
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    let groups = groups.iter().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// It was said once, with these numbers.
#[track_caller]
fn assert_said_once(ended: &Ended, (batches, rows): (u64, u64)) {
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains(SAID)).collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    let numbers = format!("{} batches ({} rows)", with_commas(batches), with_commas(rows));
    assert!(lines[0].contains(&numbers), "not {numbers}: {}", lines[0]);
}

/// The target goes back while the job copies, at any moment of its batches.
fn live(how: How, more: &[&str]) {
    let mut scene = Scene::new(how, ROWS);
    let arguments: Vec<_> = SLOW.iter().chain(more).copied().collect();
    let mut command = scene.stage.migrate(&arguments);
    // Batches that wait before they commit do so in another order than they began.
    if more.contains(&"--concurrency") {
        command.env("FAILPOINTS", "copy::before_commit=30%sleep(120)");
    }
    let process = scene.stage.begin(&mut command);
    scene.keep(KEPT);
    scene.stage.until_rows(scene.stage.rows() + LOST);
    let confirmed = scene.stage.status()["tables"][0]["rows_done"].as_u64().unwrap();
    scene.go_back();
    let left = scene.ledger();
    scene
        .stage
        .run(&["tune", JOB, "--max-rate", "none"])
        .assert_code(0);
    let ended = process.end().assert_code(0);
    scene.stage.assert_moved();
    let status = scene.stage.status();
    let lost = lost(&status);
    assert_said_once(&ended, lost);
    // What was left may hold batches that were not confirmed yet; and batches went on until the server was gone.
    let at_least = confirmed.saturating_sub(left.1 + 16 * 500);
    assert!(
        lost.0 > 0 && lost.1 >= at_least && lost.1 < ROWS,
        "{lost:?} lost of {confirmed} confirmed, {left:?} left"
    );
    assert!(
        status["tables"][0]["lost_since"].is_string(),
        "since when: {status}"
    );
    assert_eq!(status["tables"][0]["rows_done"], ROWS);
}

/// The target goes back between two runs of one job.
fn between(how: How) {
    let mut scene = Scene::new(how, ROWS);
    let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
    scene.keep(KEPT);
    scene.stage.until_rows(scene.stage.rows() + LOST);
    process.kill();
    scene.go_back();
    let ended = scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
    scene.stage.assert_moved();
    let lost = lost(&scene.stage.status());
    assert!(lost.0 > 0 && lost.1 > 0, "{lost:?}");
    assert_said_once(&ended, lost);
    // Nothing new has happened: nothing is said again.
    let ended = scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
    assert!(!ended.stderr.contains(SAID), "{ended:?}");
    scene.stage.assert_moved();
}

/// The target goes back after the job was complete; then the same command.
fn after(how: How) {
    let mut scene = Scene::new(how, ROWS);
    let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
    scene.keep(KEPT);
    scene
        .stage
        .run(&["tune", JOB, "--max-rate", "none"])
        .assert_code(0);
    process.end().assert_code(0);
    let had = scene.ledger();
    scene.go_back();
    let left = scene.ledger();
    assert!(left.0 < had.0, "it lost batches: {had:?} {left:?}");
    let ended = scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
    scene.stage.assert_moved();
    let expected = (had.0 - left.0, had.1 - left.1);
    assert_said_once(&ended, expected);
    assert_eq!(lost(&scene.stage.status()), expected);
}

/// The target goes back while a sync sleeps, and nothing new comes on the source.
fn asleep(how: How) {
    let mut scene = Scene::new(how, 5000);
    let process = scene.stage.begin(&mut scene.stage.copy("sync", &SYNC));
    scene.keep(4999);
    scene.stage.add(3000);
    scene.stage.until_rows(7999);
    scene.stage.until_state("SLEEPING");
    scene.go_back();
    scene.stage.until_rows(7999);
    until("a sync that sleeps with all rows", || {
        let (source, target) = scene.stage.sums();
        let status = scene.stage.status();
        (source == target && status["state"] == "SLEEPING").then_some(())
    });
    let lost = lost(&scene.stage.status());
    process.interrupt();
    let ended = process.end().assert_code(130);
    assert_said_once(&ended, lost);
    assert_eq!(lost.1, 3000, "{lost:?}");
    assert_eq!(scene.ledger().1, 8000, "the ledger counts each row once");
}

#[test]
fn a_migrate_goes_on_over_a_failover_that_loses_batches() {
    live(How::FailOver, &[]);
}

#[test]
fn a_migrate_goes_on_over_a_restore_of_an_older_backup() {
    live(How::Restore, &[]);
}

#[test]
fn batches_in_flight_that_commit_out_of_order_are_all_missed_after_a_failover() {
    live(How::FailOver, &["--concurrency", "8"]);
}

#[test]
fn batches_in_flight_that_commit_out_of_order_are_all_missed_after_a_restore() {
    live(How::Restore, &["--concurrency", "4"]);
}

#[test]
fn a_failover_between_two_runs_is_found_by_the_second() {
    between(How::FailOver);
}

#[test]
fn a_restore_between_two_runs_is_found_by_the_second() {
    between(How::Restore);
}

#[test]
fn a_failover_after_the_end_is_found_by_the_same_command() {
    after(How::FailOver);
}

#[test]
fn a_restore_after_the_end_is_found_by_the_same_command() {
    after(How::Restore);
}

#[test]
fn a_sync_brings_back_what_a_failover_lost_while_it_slept() {
    asleep(How::FailOver);
}

#[test]
fn a_sync_brings_back_what_a_restore_lost_while_it_slept() {
    asleep(How::Restore);
}

#[test]
fn a_sync_does_not_follow_a_source_that_went_back_and_its_way_out_leads_out() {
    let often = ["--interval", "1s", "--batch-rows", "500"];
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let mut source = ThrowawayServer::start(&options).unwrap();
    let stage = Stage::on(&source, &pair().1, 3000);
    let standby = source.standby().unwrap();
    standby.stop_receiving().unwrap();
    let process = stage.begin(&mut stage.copy("sync", &often));
    stage.until_rows(2999);
    stage.add(500);
    stage.until_rows(3499);
    source.fail_over_to(standby).unwrap();
    let words = [
        "gone back in time",
        "(3500)",
        "(3000)",
        "--restart --on-conflict update",
    ];
    let ended = process.end().assert_code(3).assert_said(&words);
    assert!(!ended.stderr.contains("the same command continues"), "{ended:?}");
    // It gives keys again that were copied as others' rows.
    stage.add(200);
    let again = stage.begin(&mut stage.copy("sync", &often)).end();
    again.assert_code(3).assert_said(&["gone back in time"]);
    let way_out = [&often[..], &["--restart", "--on-conflict", "update"]].concat();
    let process = stage.begin(&mut stage.copy("sync", &way_out));
    stage.until_state("SLEEPING");
    process.interrupt();
    process.end().assert_code(130);
    let repair = ["verify", JOB, "--against", "source", "--repair", "--delete-extra"];
    let ends = [
        "--source",
        &stage.source,
        "--target",
        &stage.target,
        "--progress",
        "none",
    ];
    stage.run(&[&repair[..], &ends].concat()).assert_code(0);
    let (here, there) = stage.sums();
    assert_eq!(here, there);
}

/// Goes back to a target that never heard of the job: neither its rows nor the schema `longhaul`.
fn before_the_ledger(strike: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::new(How::Restore, ROWS);
    scene.earlier = Earlier::Backup(Some(scene.target.backup().unwrap()));
    strike(&mut scene);
    scene.stage.assert_moved();
    let rows_done = scene.stage.status()["tables"][0]["rows_done"].as_u64();
    assert_eq!(rows_done, Some(ROWS));
}

#[test]
fn a_running_job_begins_its_ledger_anew_where_the_target_went_back_before_it() {
    before_the_ledger(|scene| {
        let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
        scene.stage.until_rows(LOST);
        scene.go_back();
        scene
            .stage
            .run(&["tune", JOB, "--max-rate", "none"])
            .assert_code(0);
        let ended = process.end().assert_code(0);
        let lost = lost(&scene.stage.status());
        assert!(lost.1 >= LOST, "{lost:?}");
        assert_said_once(&ended, lost);
    });
}

#[test]
fn the_next_run_begins_the_ledger_anew_where_the_target_went_back_before_it() {
    before_the_ledger(|scene| {
        let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
        scene.stage.until_rows(LOST);
        process.kill();
        scene.go_back();
        let ended = scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
        let lost = lost(&scene.stage.status());
        assert!(lost.1 > 0, "{lost:?}");
        assert_said_once(&ended, lost);
    });
}

#[test]
fn a_complete_job_is_copied_again_where_the_target_went_back_before_it() {
    before_the_ledger(|scene| {
        scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
        let had = scene.ledger();
        scene.go_back();
        let ended = scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
        assert_eq!(had.1, ROWS);
        assert_said_once(&ended, had);
    });
}

#[test]
fn a_sleeping_sync_begins_its_ledger_anew_where_the_target_went_back_before_it() {
    let mut scene = Scene::new(How::Restore, 5000);
    scene.earlier = Earlier::Backup(Some(scene.target.backup().unwrap()));
    let process = scene.stage.begin(&mut scene.stage.copy("sync", &SYNC));
    scene.stage.until_rows(4999);
    scene.stage.until_state("SLEEPING");
    scene.go_back();
    scene.stage.until_rows(4999);
    let lost = until("what was lost", || {
        Some(lost(&scene.stage.status())).filter(|lost| lost.1 > 0)
    });
    process.interrupt();
    let ended = process.end().assert_code(130);
    assert_eq!(lost.1, 5000);
    assert_said_once(&ended, lost);
    let (source, target) = scene.stage.sums();
    assert_eq!(source, target);
}

#[test]
fn a_target_that_went_back_to_just_after_it_was_prepared_gets_every_batch_again() {
    let mut scene = Scene::new(How::Restore, ROWS);
    let died = scene.end(
        scene
            .stage
            .migrate(&SLOW)
            .env("FAILPOINTS", "ledger::after_take_over=return"),
    );
    assert!(died.signal.is_some(), "{died:?}");
    scene.earlier = Earlier::Backup(Some(scene.target.backup().unwrap()));
    let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
    scene.stage.until_rows(LOST);
    scene.go_back();
    assert_eq!(scene.ledger(), (0, 0), "prepared, and nothing confirmed");
    scene
        .stage
        .run(&["tune", JOB, "--max-rate", "none"])
        .assert_code(0);
    let ended = process.end().assert_code(0);
    scene.stage.assert_moved();
    let lost = lost(&scene.stage.status());
    assert!(lost.1 >= LOST, "{lost:?}");
    assert_said_once(&ended, lost);
}

#[test]
fn a_target_that_goes_back_twice_says_each_time_what_was_lost_then() {
    let mut scene = Scene::new(How::Restore, 2 * ROWS);
    let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
    scene.keep(KEPT);
    scene.stage.until_rows(scene.stage.rows() + LOST);
    scene.go_back();
    let first = until("the first loss", || {
        Some(lost(&scene.stage.status())).filter(|lost| lost.0 > 0)
    });
    scene.keep(scene.stage.rows() + 1000);
    scene.stage.until_rows(scene.stage.rows() + LOST);
    scene.go_back();
    let both = until("the second loss", || {
        Some(lost(&scene.stage.status())).filter(|lost| lost.0 > first.0)
    });
    scene
        .stage
        .run(&["tune", JOB, "--max-rate", "none"])
        .assert_code(0);
    let ended = process.end().assert_code(0);
    scene.stage.assert_moved();
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains(SAID)).collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    for (line, (batches, rows)) in [
        (lines[0], first),
        (lines[1], (both.0 - first.0, both.1 - first.1)),
    ] {
        let numbers = format!("{} batches ({} rows)", with_commas(batches), with_commas(rows));
        assert!(line.contains(&numbers), "not {numbers}: {line}");
    }
}

#[test]
fn a_target_that_is_gone_when_the_job_begins_again_is_waited_for_by_nobody() {
    // Before a job starts, nobody who answers is a mistake; and the same command goes on once the server is back.
    let scene = Scene::new(How::Restore, 5000);
    let process = scene.stage.begin(&mut scene.stage.migrate(&SLOW));
    scene.stage.until_rows(0);
    process.kill();
    scene.target.stop(StopMode::Immediate).unwrap();
    scene
        .end(&mut scene.stage.migrate(&FAST))
        .assert_code(4)
        .assert_said(&["target"]);
    scene.target.restart().unwrap();
    until("a target that answers", || {
        runtime().block_on(try_sql(&scene.stage.target, "SELECT 1")).ok()
    });
    scene.end(&mut scene.stage.migrate(&FAST)).assert_code(0);
    scene.stage.assert_moved();
}
