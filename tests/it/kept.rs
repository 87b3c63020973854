//! The first promise, seen from outside: what ends with 0 is on the target, whatever was done to source or target meanwhile.
//!
//! Each was a way to lose rows at exit 0 once, or to wait for what never comes: LONGHAUL_TEST_BINARY holds these tests
//! against another binary.

use std::time::{Duration, Instant};

use crate::binary::{Ended, Process, until};
use crate::servers::client;
use crate::stage::{JOB, Stage, ask, runtime, tell};
use crate::writers::insert;

const ROWS: u64 = 8000;
/// A few seconds for all rows.
const SLOW: [&str; 6] = [
    "--batch-rows",
    "200",
    "--max-rate",
    "700kB/s",
    "--concurrency",
    "3",
];
const ALL_AGAIN: [&str; 3] = ["--restart", "--on-conflict", "update"];

/// A migrate in its middle.
fn running() -> (Stage, Process) {
    let stage = Stage::new(ROWS);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(ROWS / 8);
    assert!(stage.rows() < ROWS / 2, "it is slow");
    (stage, process)
}

/// Does this to the source, while a batch of the job waits for the lock that it needs.
fn under_a_batch_that_waits(stage: &Stage, statements: &str) {
    let session = runtime().block_on(client(&stage.source));
    let run = |sql: &str| runtime().block_on(session.batch_execute(sql)).unwrap();
    run("BEGIN; LOCK TABLE audio_downloads IN ACCESS EXCLUSIVE MODE");
    run(statements);
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                   WHERE NOT l.granted AND l.relation = 'audio_downloads'::regclass AND a.application_name LIKE 'longhaul%'";
    until("a batch that waits for the lock", || {
        (ask(&stage.source, waiting) != "0").then_some(())
    });
    run("COMMIT");
}

/// Runs the job again as it was begun, without a limit.
fn again(stage: &Stage, more: &[&str]) -> Ended {
    stage.begin(&mut stage.migrate(more)).end()
}

fn count(url: &str, condition: &str) -> u64 {
    let query = format!("SELECT count(*) FROM audio_downloads WHERE {condition}");
    ask(url, &query).parse().unwrap()
}

#[test]
fn a_source_that_is_rewritten_under_a_batch_is_copied_whole() {
    for rewrite in [
        "ALTER TABLE audio_downloads SET UNLOGGED",
        "CREATE TEMPORARY TABLE kept AS SELECT * FROM audio_downloads; TRUNCATE audio_downloads;
         INSERT INTO audio_downloads OVERRIDING SYSTEM VALUE SELECT * FROM kept",
    ] {
        let (stage, process) = running();
        under_a_batch_that_waits(&stage, rewrite);
        process.end().assert_code(0);
        stage.assert_moved();
    }
}

#[test]
fn a_column_that_the_source_gains_under_the_job_is_told_and_no_row_goes_without_it() {
    let (stage, process) = running();
    let add = "ALTER TABLE audio_downloads ADD COLUMN chance float8 DEFAULT random()";
    under_a_batch_that_waits(&stage, add);
    let said = process.end().assert_code(1);
    said.assert_said(&[
        "lacks column \"chance\"",
        "audio_downloads",
        "hint:",
        "ADD COLUMN",
    ]);
    tell(
        &stage.target,
        "ALTER TABLE audio_downloads ADD COLUMN chance float8",
    );
    let refused = again(&stage, &[]).assert_code(3);
    refused.assert_said(&["as it was before", "chance", "--restart --on-conflict update"]);
    again(&stage, &ALL_AGAIN).assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_type_that_changes_under_the_job_ends_it_before_a_wrong_value_is_written() {
    let (stage, process) = running();
    let alter = "ALTER TABLE audio_downloads ALTER COLUMN duration_ms TYPE real";
    under_a_batch_that_waits(&stage, alter);
    let said = process.end().assert_code(1);
    said.assert_said(&[
        "\"duration_ms\" is real on the source",
        "integer on the target",
        "hint:",
    ]);
    assert_eq!(count(&stage.target, "duration_ms >= 6000"), 0);
    tell(&stage.target, alter);
    let refused = again(&stage, &[]).assert_code(3);
    refused.assert_said(&[
        "as it was before",
        "duration_ms",
        "--restart --on-conflict update",
    ]);
    again(&stage, &ALL_AGAIN).assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_target_that_is_emptied_under_the_job_is_found_before_it_is_complete() {
    let (stage, process) = running();
    tell(&stage.target, "TRUNCATE audio_downloads");
    let said = process.end().assert_code(1);
    said.assert_said(&[
        "has lost rows that job audio_downloads has copied",
        "emptied",
        "--restart",
    ]);
    again(&stage, &[]).assert_code(4).assert_said(&["has lost rows"]);
    again(&stage, &ALL_AGAIN).assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_target_that_is_made_anew_under_the_job_is_found_before_it_is_complete() {
    let (stage, process) = running();
    tell(
        &stage.target,
        "BEGIN; CREATE TABLE anew (LIKE audio_downloads INCLUDING ALL); DROP TABLE audio_downloads;
         ALTER TABLE anew RENAME TO audio_downloads; COMMIT",
    );
    let ended = process.end();
    assert!(matches!(ended.code, Some(1 | 4)), "{ended:?}");
    again(&stage, &[])
        .assert_code(4)
        .assert_said(&["has lost rows", "created again"]);
    again(&stage, &ALL_AGAIN).assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_target_that_is_emptied_between_two_runs_is_refused_until_the_job_begins_anew() {
    let (stage, process) = running();
    assert_eq!(process.kill().signal, Some(9));
    tell(&stage.target, "TRUNCATE audio_downloads");
    let refused = again(&stage, &[]).assert_code(4);
    refused.assert_said(&["has lost rows", "--restart"]);
    assert_eq!(stage.rows(), 0);
    again(&stage, &["--restart"]).assert_code(0);
    stage.assert_moved();
}

#[test]
fn a_target_that_is_emptied_or_made_anew_after_the_end_is_not_called_complete() {
    let stage = Stage::new(1000);
    let anew = "CREATE TABLE anew (LIKE audio_downloads INCLUDING ALL); DROP TABLE audio_downloads;
                ALTER TABLE anew RENAME TO audio_downloads";
    again(&stage, &["--batch-rows", "100"]).assert_code(0);
    for lost in ["TRUNCATE audio_downloads", anew] {
        for state_is_lost in [false, true] {
            tell(&stage.target, lost);
            if state_is_lost {
                std::fs::remove_dir_all(stage.state()).unwrap();
            }
            again(&stage, &[])
                .assert_code(4)
                .assert_said(&["has lost rows", "10 of 10 ranges"]);
            let sync = stage.begin(&mut stage.copy("sync", &[])).end();
            sync.assert_code(4).assert_said(&["has lost rows"]);
            assert_eq!(stage.rows(), 0);
            again(&stage, &["--restart", "--batch-rows", "100"]).assert_code(0);
            stage.assert_moved();
        }
    }
}

#[test]
fn rows_that_the_target_loses_in_the_middle_of_the_table_are_found_too() {
    let stage = Stage::new(1000);
    again(&stage, &["--batch-rows", "100"]).assert_code(0);
    // As a rewrite leaves it: another file, and some of the rows.
    let lose = "CREATE TABLE rest AS SELECT * FROM audio_downloads WHERE id NOT BETWEEN 301 AND 500; TRUNCATE audio_downloads;
                INSERT INTO audio_downloads OVERRIDING SYSTEM VALUE SELECT * FROM rest";
    tell(&stage.target, lose);
    again(&stage, &[])
        .assert_code(4)
        .assert_said(&["has lost rows", "2 of 10 ranges"]);
    assert_eq!(stage.rows(), 800);
}

#[test]
fn another_key_between_two_runs_is_another_job_and_is_refused_with_both_shown() {
    let stage = Stage::new(0);
    let table = "CREATE TABLE keyed (id int CONSTRAINT keyed_pkey PRIMARY KEY, code int NOT NULL UNIQUE)";
    for url in [&stage.source, &stage.target] {
        tell(url, table);
    }
    // The second key runs against the first: whoever mixes them up passes over rows.
    tell(
        &stage.source,
        "INSERT INTO keyed SELECT i, 10000 - i FROM generate_series(1, 5000) i",
    );
    let keyed = |more: &[&str]| {
        let skip = ["--on-conflict", "skip", "--batch-rows", "100"];
        stage.begin(&mut stage.copy_of("keyed", "migrate", &[&skip[..], more].concat()))
    };
    let rows = || {
        ask(&stage.target, "SELECT count(*) FROM keyed")
            .parse::<u64>()
            .unwrap()
    };
    let process = keyed(&["--max-rate", "30kB/s"]);
    until("rows on the target", || (rows() >= 1000).then_some(()));
    assert_eq!(process.kill().signal, Some(9));
    for url in [&stage.source, &stage.target] {
        tell(
            url,
            "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (code), ADD UNIQUE (id)",
        );
    }
    let before = rows();
    assert!(before < 4000, "{before}");
    let refused = keyed(&[]).end().assert_code(4);
    refused.assert_said(&["along (id)", "along (code)", "--restart"]);
    assert_eq!(rows(), before);
    keyed(&["--restart"]).end().assert_code(0);
    assert_eq!(rows(), 5000);
}

#[test]
fn a_migrate_of_a_table_that_grows_all_the_time_ends_says_up_to_where_and_a_sync_goes_on_from_there() {
    let stage = Stage::new(300);
    let writer = insert(&stage.source);
    let grown = |than: u64| {
        until("a table that grows", || {
            (count(&stage.source, "true") > than).then_some(())
        });
    };
    grown(800);
    let begun = Instant::now();
    // No faster than the rows that come.
    let said = again(&stage, &["--batch-rows", "500", "--max-rate", "30kB/s"]).assert_code(0);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let up_to = stage.status()["tables"][0]["copies_up_to"][0].clone();
    let up_to: u64 = up_to.as_str().unwrap().parse().unwrap();
    said.assert_said(&[&format!("copies up to key ({up_to})")]);
    assert_eq!(
        ask(&stage.target, "SELECT max(id) FROM audio_downloads"),
        up_to.to_string()
    );
    grown(stage.rows());

    let sync = stage.begin(&mut stage.copy("sync", &["--interval", "1s"]));
    stage.until_rows(stage.rows() + 100);
    writer.stop();
    until("a target that equals the source", || {
        let (source, target) = stage.sums();
        (source == target).then_some(())
    });
    sync.interrupt();
    sync.end().assert_code(130);
    stage.assert_ledger_complete();
}

#[test]
fn an_unknown_error_gets_attempts_of_its_own_after_many_that_pass() {
    let stage = Stage::new(200);
    // Every batch waits where the gate is shut. With it open, the first one fails in a way that nobody knows.
    tell(
        &stage.target,
        "CREATE SEQUENCE errors;
         CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock_shared(77);
             IF nextval('errors') = 1 THEN RAISE EXCEPTION 'odd' USING ERRCODE = 'LH001'; END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER odd BEFORE INSERT ON audio_downloads FOR EACH STATEMENT EXECUTE FUNCTION odd()",
    );
    let gate = runtime().block_on(client(&stage.target));
    let turn = |sql: &str| runtime().block_on(gate.batch_execute(sql)).unwrap();
    turn("SELECT pg_advisory_lock(77)");
    let at_the_gate = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
    // An attempt that dies with its process is tried again at once, and counts.
    let attempt = |number: u64| {
        // By the variable, so that a version without this setting runs too.
        let process = stage.begin(stage.migrate(&[]).env("LONGHAUL_FIRE_TRIGGERS", "true"));
        until("a batch at the gate", || {
            (ask(&stage.target, &format!("SELECT count(*) {at_the_gate}")) != "0").then_some(())
        });
        let pending = stage.status()["pending_activities"].clone();
        assert_eq!(pending[0]["attempt"], number, "{pending}");
        process
    };
    for number in 1..=9 {
        let process = attempt(number);
        // Durable when it returns, and so is that the attempt has begun.
        stage.run(&["tune", JOB, "--concurrency", "2"]).assert_code(0);
        assert_eq!(process.kill().signal, Some(9));
        let end = format!("SELECT count(pg_terminate_backend(pid)) {at_the_gate}");
        tell(&stage.target, &end);
        until("an empty gate", || {
            (ask(&stage.target, &format!("SELECT count(*) {at_the_gate}")) == "0").then_some(())
        });
    }
    let process = attempt(10);
    turn("SELECT pg_advisory_unlock(77)");
    process.end().assert_code(0);
    assert_eq!(ask(&stage.target, "SELECT last_value FROM errors"), "2");
    stage.assert_moved();
}

#[test]
fn keys_as_long_as_the_source_can_index_are_copied() {
    let stage = Stage::new(0);
    for url in [&stage.source, &stage.target] {
        tell(url, "CREATE TABLE long_keys (key text COLLATE \"C\" PRIMARY KEY)");
    }
    // Nothing that could be compressed: each is as large in an index as it is here.
    tell(
        &stage.source,
        "INSERT INTO long_keys
         SELECT (SELECT left(string_agg(md5(i || '/' || n), ''), 2680) FROM generate_series(1, 90) n)
         FROM generate_series(1, 40) i",
    );
    let copied = stage
        .begin(&mut stage.copy_of("long_keys", "migrate", &["--batch-rows", "7"]))
        .end();
    copied.assert_code(0).assert_said(&["40 rows"]);
    let sum = "SELECT count(*) || md5(string_agg(key, ',' ORDER BY key)) FROM long_keys";
    assert_eq!(ask(&stage.source, sum), ask(&stage.target, sum));
}

#[test]
fn a_target_that_takes_no_writes_is_refused_at_once() {
    let stage = Stage::new(100);
    let database = stage.target.rsplit_once('/').unwrap().1;
    tell(
        &stage.target,
        &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"),
    );
    let begun = Instant::now();
    let refused = again(&stage, &[]).assert_code(4);
    refused.assert_said(&[
        "read-only",
        "the server takes no writes",
        "default_transaction_read_only",
    ]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
