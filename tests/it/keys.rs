//! Tables without a tidy key: the real binary finds one, is told one, or does without.

use serde_json::Value;

use crate::binary::{Ended, until};
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
