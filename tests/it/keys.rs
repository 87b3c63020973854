//! Tables without a tidy key: the real binary finds one, is told one, or does without.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Ended, until};
use crate::random::Random;
use crate::servers::client;
use crate::stage::{Stage, ask, runtime, tell};

/// `migrate` of that table, with more flags.
fn migrate(stage: &Stage, table: &str, more: &[&str]) -> Ended {
    stage.begin(&mut stage.copy_of(table, "migrate", more)).end()
}

/// The rows of both sides, summed up by each.
#[track_caller]
fn assert_same(stage: &Stage, table: &str) {
    let sum = format!(
        "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)::numeric), 0) FROM {table} x"
    );
    assert_eq!(ask(&stage.source, &sum), ask(&stage.target, &sum));
}

#[test]
fn a_view_is_copied_along_the_key_that_is_named_and_check_says_why() {
    let stage = Stage::new(2000);
    tell(
        &stage.source,
        "CREATE VIEW few AS SELECT id, url, title FROM audio_downloads WHERE id % 2 = 0",
    );
    tell(
        &stage.target,
        "CREATE TABLE few (id bigint PRIMARY KEY, url text, title text)",
    );
    let ends = [
        "--source",
        &stage.source,
        "--target",
        &stage.target,
        "--table",
        "few",
    ];
    let checked = stage
        .run(&[&["check", "--json", "--key", "id"][..], &ends].concat())
        .assert_code(0);
    let checked: Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!(checked["key"], serde_json::json!(["id"]));
    let reason = checked["key_reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("named by --key; no two rows may have the same, and none a null in id"),
        "{reason}"
    );
    migrate(&stage, "few", &["--key", "id", "--batch-rows", "300", "--verify"])
        .assert_code(0)
        .assert_said(&["no index of public.few orders its rows"]);
    assert_same(&stage, "few");
    stage
        .run(&["verify", "few", "--against", "source", "--progress", "none"])
        .assert_code(0);
}

#[test]
fn a_row_that_lost_its_key_meanwhile_is_an_error_and_is_copied_once_it_has_one() {
    let stage = Stage::new(10);
    let table = "CREATE TABLE loose (a int, b int, pad text, UNIQUE (a, b))";
    tell(&stage.source, table);
    tell(&stage.target, table);
    tell(
        &stage.source,
        "INSERT INTO loose SELECT i, i, repeat('x', 200) FROM generate_series(1, 4000) i",
    );
    // What is copied before waits in the middle, held up by a row of the target that nobody has committed.
    let holder = runtime().block_on(client(&stage.target));
    runtime()
        .block_on(holder.batch_execute("BEGIN; INSERT INTO loose VALUES (2000, 2000, 'held')"))
        .expect("held");
    let mut command = stage.copy_of("loose", "migrate", &["--batch-rows", "100", "--concurrency", "1"]);
    let job = stage.begin(&mut command);
    until("batches before it are there", || {
        (ask(&stage.target, "SELECT count(*) FROM loose") == "1900").then_some(())
    });
    tell(&stage.source, "UPDATE loose SET b = NULL WHERE a IN (50, 3500)");
    runtime()
        .block_on(holder.batch_execute("ROLLBACK"))
        .expect("let go");
    job.end()
        .assert_code(1)
        .assert_said(&["2 rows of source table public.loose with a null in the key (a, b)"]);
    assert_eq!(ask(&stage.target, "SELECT count(*) FROM loose"), "3999");
    migrate(&stage, "loose", &[])
        .assert_code(3)
        .assert_said(&["2 rows of source table public.loose with a null"]);
    tell(&stage.source, "UPDATE loose SET b = a WHERE b IS NULL");
    migrate(&stage, "loose", &[]).assert_code(0);
    assert_same(&stage, "loose");
}

const LOOSE_ROWS: u64 = 100_000;
const LOOSE: &str = "CREATE TABLE loose (a int, b text)";

/// A table of rows that nothing tells apart, but where they lie.
fn loose() -> Stage {
    let stage = Stage::new(10);
    tell(&stage.source, LOOSE);
    tell(&stage.target, LOOSE);
    let fill = format!(
        "INSERT INTO loose SELECT i % 10, repeat('x', i % 50) FROM generate_series(1, {LOOSE_ROWS}) i"
    );
    tell(&stage.source, &fill);
    stage
}

fn loose_rows(stage: &Stage) -> u64 {
    ask(&stage.target, "SELECT count(*) FROM loose").parse().unwrap()
}

#[test]
fn a_table_without_a_key_comes_once_though_killed_twenty_times_and_its_state_lost() {
    let (mut random, stage) = (Random::seeded(), loose());
    let slow = ["--source-is-quiet", "--batch-rows", "200", "--max-rate", "80KB/s"];
    let (begun, process) = (
        Instant::now(),
        stage.begin(&mut stage.copy_of("loose", "migrate", &slow)),
    );
    until("rows on the target", || (loose_rows(&stage) > 0).then_some(()));
    let longest = 3 * u64::try_from(begun.elapsed().as_millis()).unwrap();
    assert_eq!(process.kill().signal, Some(9));
    let mut rows = vec![loose_rows(&stage)];
    for number in 0..20 {
        if number % 5 == 4 {
            std::fs::remove_dir_all(stage.state()).unwrap();
        }
        let process = stage.begin(&mut stage.copy_of("loose", "migrate", &slow));
        std::thread::sleep(Duration::from_millis(random.within(30..longest)));
        let ended = process.kill();
        assert_eq!(ended.signal, Some(9), "the kill hits a live process: {ended:?}");
        rows.push(loose_rows(&stage));
    }
    let copying = rows.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(
        copying >= 5 && rows[20] < LOOSE_ROWS,
        "many kills hit while rows are being copied: {rows:?}"
    );
    migrate(
        &stage,
        "loose",
        &["--source-is-quiet", "--max-rate", "none", "--verify"],
    )
    .assert_code(0);
    assert_same(&stage, "loose");
    let counted = ask(
        &stage.target,
        "SELECT sum(rows) FROM longhaul.batches WHERE job = 'loose'",
    );
    assert_eq!(counted, LOOSE_ROWS.to_string(), "the ledger's rows");
    for against in ["receipts", "source"] {
        stage
            .run(&["verify", "loose", "--against", against, "--progress", "none"])
            .assert_code(0);
    }
    tell(&stage.target, "UPDATE loose SET b = 'other' WHERE ctid = '(3,3)'");
    for against in ["receipts", "source"] {
        stage
            .run(&["verify", "loose", "--against", against, "--progress", "none"])
            .assert_code(1);
    }
}

#[test]
fn a_source_without_a_key_that_is_written_to_or_rewritten_meanwhile_fails_the_job_in_words() {
    for (statement, words) in [
        (
            "INSERT INTO loose VALUES (1, 'more')",
            "source table public.loose was written to since job loose began",
        ),
        (
            "DELETE FROM loose WHERE ctid = '(0,1)'",
            "source table public.loose was written to since job loose began",
        ),
        ("VACUUM FULL loose", "its rows lie in other places"),
    ] {
        let stage = loose();
        let slow = ["--source-is-quiet", "--batch-rows", "1000", "--max-rate", "1MB/s"];
        let job = stage.begin(&mut stage.copy_of("loose", "migrate", &slow));
        until("rows on the target", || (loose_rows(&stage) > 5000).then_some(()));
        tell(&stage.source, statement);
        stage.run(&["tune", "loose", "--max-rate", "none"]);
        job.end().assert_code(1).assert_said(&[words, "--restart"]);
        // It says so again, for as long as the target is what it is.
        let again = migrate(&stage, "loose", &["--source-is-quiet"]);
        assert!(
            matches!(again.code, Some(1 | 3)) && again.stderr.contains(words),
            "{again:?}"
        );
        tell(&stage.target, "TRUNCATE loose");
        migrate(&stage, "loose", &["--source-is-quiet", "--restart"]).assert_code(0);
        assert_same(&stage, "loose");
    }
}

#[test]
fn a_small_table_without_a_key_is_copied_as_it_was_at_one_moment_and_starts_again_once_killed() {
    let stage = loose();
    tell(&stage.source, "CREATE TABLE moment AS SELECT * FROM loose");
    let flags = |rate: &'static str| {
        [
            "--snapshot-below",
            "100MB",
            "--batch-rows",
            "1000",
            "--max-rate",
            rate,
        ]
    };
    let sum = |url: &str, table: &str| {
        ask(
            url,
            &format!("SELECT count(*) || ' ' || sum(hashtextextended(x::text, 0)::numeric) FROM {table} x"),
        )
    };
    let writes =
        "INSERT INTO loose SELECT 77, 'more' FROM generate_series(1, 500); DELETE FROM loose WHERE a = 3;
                  UPDATE loose SET b = b || 'x' WHERE a = 4";
    let process = stage.begin(&mut stage.copy_of("loose", "migrate", &flags("500KB/s")));
    until("rows on the target", || (loose_rows(&stage) > 3000).then_some(()));
    tell(&stage.source, writes);
    // All of it is as it was, whoever has written meanwhile.
    stage.run(&["tune", "loose", "--max-rate", "none"]);
    process
        .end()
        .assert_code(0)
        .assert_said(&["no VACUUM of that database cleans up"]);
    assert_eq!(sum(&stage.source, "moment"), sum(&stage.target, "loose"));
    // It is over: the same command takes no other snapshot, and takes nothing away.
    migrate(&stage, "loose", &flags("none")).assert_code(0);
    assert_eq!(sum(&stage.source, "moment"), sum(&stage.target, "loose"));
    tell(&stage.target, "TRUNCATE loose");
    let process = stage.begin(&mut stage.copy_of(
        "loose",
        "migrate",
        &[&flags("500KB/s")[..], &["--restart"]].concat(),
    ));
    until("rows on the target", || (loose_rows(&stage) > 3000).then_some(()));
    assert_eq!(process.kill().signal, Some(9));
    tell(
        &stage.source,
        "INSERT INTO loose SELECT 78, 'later' FROM generate_series(1, 500)",
    );
    let copied = loose_rows(&stage);
    let ended = migrate(&stage, "loose", &[&flags("none")[..], &["--verify"]].concat()).assert_code(0);
    assert!(
        ended.stderr.contains("job loose starts again") && ended.stderr.contains("taken away"),
        "{copied}: {ended:?}"
    );
    assert_same(&stage, "loose");
    let counted = ask(
        &stage.target,
        "SELECT sum(rows) FROM longhaul.batches WHERE job = 'loose'",
    );
    assert_eq!(counted, loose_rows(&stage).to_string(), "the ledger's rows");
}

#[test]
fn a_snapshot_is_refused_where_the_table_is_too_large_or_rows_could_not_be_taken_away_again() {
    let stage = loose();
    migrate(&stage, "loose", &["--snapshot-below", "1MB"])
        .assert_code(3)
        .assert_said(&["--snapshot-below allows 1000000"]);
    migrate(&stage, "loose", &["--snapshot-below", "much"])
        .assert_code(2)
        .assert_said(&["1GB"]);
    tell(
        &stage.target,
        "ALTER TABLE loose ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY; CREATE TABLE refers (r int REFERENCES loose ON DELETE CASCADE)",
    );
    migrate(&stage, "loose", &["--snapshot-below", "1GB"])
        .assert_code(4)
        .assert_said(&["does more than take rows away"]);
    assert_eq!(loose_rows(&stage), 0);
    // Rows that somebody else has put there are not taken away with its own.
    tell(&stage.target, "DROP TABLE refers");
    let slow = [
        "--snapshot-below",
        "1GB",
        "--batch-rows",
        "1000",
        "--max-rate",
        "500KB/s",
    ];
    let process = stage.begin(&mut stage.copy_of("loose", "migrate", &slow));
    until("rows on the target", || (loose_rows(&stage) > 3000).then_some(()));
    assert_eq!(process.kill().signal, Some(9));
    tell(&stage.target, "INSERT INTO loose VALUES (99, 'theirs')");
    let ended = migrate(&stage, "loose", &slow);
    assert!(
        ended.code == Some(1) && ended.stderr.contains("would start again"),
        "{ended:?}"
    );
    assert_eq!(ask(&stage.target, "SELECT count(*) FROM loose WHERE a = 99"), "1");
}
