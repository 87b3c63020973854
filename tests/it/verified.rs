//! `longhaul verify`: what differs is named, each row of it and no other; killed it goes on; repaired it is equal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::binary::{Ended, until};
use crate::random::Random;
use crate::servers::{client, sql};
use crate::stage::{JOB, Stage, ask, runtime, tell};

const VERIFICATION: &str = "audio_downloads.verify";
const COLUMNS: [&str; 6] = ["url", "title", "duration_ms", "checksum", "tags", "meta"];
const OTHER: [&str; 6] = [
    "'changed'",
    "title || '!'",
    "NULL",
    "decode('00', 'hex')",
    "tags || 'more'::text",
    "meta || '{\"n\": -1}'",
];

/// A stage whose table was copied, `gone` keys of it deleted on the source before.
fn copied(rows: u64, batch_rows: &str, gone: &BTreeSet<u64>) -> Stage {
    let stage = Stage::new(rows);
    if !gone.is_empty() {
        tell(
            &stage.source,
            &format!("DELETE FROM audio_downloads WHERE id IN ({})", list(gone)),
        );
    }
    let ended = stage
        .begin(&mut stage.migrate(&["--batch-rows", batch_rows]))
        .end();
    ended.assert_code(0);
    stage
}

fn list(keys: &BTreeSet<u64>) -> String {
    let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.join(", ")
}

fn verify(stage: &Stage, arguments: &[&str]) -> Ended {
    let arguments: Vec<_> = ["verify", JOB, "--progress", "none"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    stage.run(&arguments)
}

fn found(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[track_caller]
fn assert_equal(stage: &Stage) {
    verify(stage, &[])
        .assert_code(0)
        .assert_said(&["audio_downloads: equal ("]);
    let ended = verify(stage, &["--against", "source"]).assert_code(0);
    assert_eq!(ended.stdout, "");
    let (source, target) = stage.sums();
    assert_eq!(source, target);
}

/// Some keys of a range that are not in `but`, which they join.
fn some_keys(
    random: &mut Random,
    number: usize,
    range: std::ops::Range<u64>,
    but: &mut BTreeSet<u64>,
) -> BTreeSet<u64> {
    let mut keys = BTreeSet::new();
    while keys.len() < number {
        let key = random.within(range.clone());
        if but.insert(key) {
            keys.insert(key);
        }
    }
    keys
}

/// What was made different on the target.
#[derive(Default)]
struct Planted {
    missing: BTreeSet<u64>,
    extra: BTreeSet<u64>,
    changed: Vec<(u64, BTreeSet<&'static str>)>,
}

impl Planted {
    fn keys(&self) -> BTreeSet<u64> {
        let changed = self.changed.iter().map(|(key, _)| *key);
        let others = self.missing.iter().chain(&self.extra).copied();
        others.chain(changed).collect()
    }

    fn plant(&self, stage: &Stage) {
        let mut statements = format!(
            "DELETE FROM audio_downloads WHERE id IN ({});",
            list(&self.missing)
        );
        for key in &self.extra {
            statements += &format!(
                "INSERT INTO audio_downloads (id, url) OVERRIDING SYSTEM VALUE VALUES ({key}, 'of nobody');"
            );
        }
        for (key, columns) in &self.changed {
            let sets: Vec<_> = columns
                .iter()
                .map(|column| {
                    let at = COLUMNS.iter().position(|other| other == column).unwrap();
                    format!("{column} = {}", OTHER[at])
                })
                .collect();
            statements += &format!("UPDATE audio_downloads SET {} WHERE id = {key};", sets.join(", "));
        }
        tell(&stage.target, &statements);
    }

    /// A line each, as stdout has them.
    fn lines(&self) -> BTreeSet<String> {
        let missing = self.missing.iter().map(|key| format!("missing ({key})"));
        let extra = self.extra.iter().map(|key| format!("extra ({key})"));
        let changed = self.changed.iter().map(|(key, columns)| {
            let order = COLUMNS.iter().filter(|column| columns.contains(*column));
            format!(
                "changed ({key}): {}",
                order.copied().collect::<Vec<_>>().join(", ")
            )
        });
        missing.chain(extra).chain(changed).collect()
    }

    #[track_caller]
    fn assert_named(&self, ended: &Ended) {
        let told = found(ended)["told"].as_array().unwrap().clone();
        let key = |difference: &Value| difference["key"][0].as_str().unwrap().to_owned();
        let lines: BTreeSet<_> = told
            .iter()
            .map(|difference| match difference["difference"].as_str().unwrap() {
                "changed" => {
                    let columns = difference["columns"].as_array().unwrap().iter();
                    let columns: Vec<_> = columns.map(|column| column.as_str().unwrap()).collect();
                    format!("changed ({}): {}", key(difference), columns.join(", "))
                }
                kind => format!("{kind} ({})", key(difference)),
            })
            .collect();
        assert_eq!(lines, self.lines());
        assert_eq!(lines.len(), told.len(), "each once");
        let counts =
            ["missing", "extra", "changed"].map(|kind| found(ended)[kind].as_u64().unwrap() as usize);
        assert_eq!(counts, [self.missing.len(), self.extra.len(), self.changed.len()]);
    }
}

fn changes(random: &mut Random, keys: BTreeSet<u64>) -> Vec<(u64, BTreeSet<&'static str>)> {
    let columns = |random: &mut Random| {
        let number = random.within(1..4);
        (0..number).map(|_| *random.pick(&COLUMNS)).collect()
    };
    keys.into_iter().map(|key| (key, columns(random))).collect()
}

#[test]
fn thirty_differences_in_300_000_rows_are_each_named_and_none_more_and_repaired() {
    const ROWS: u64 = 300_000;
    let mut random = Random::seeded();
    let mut taken = BTreeSet::from([1, ROWS]);
    let gone = some_keys(&mut random, 8, 2..ROWS, &mut taken);
    let stage = copied(ROWS, "5000", &gone);
    assert_equal(&stage);

    let mut planted = Planted {
        missing: some_keys(&mut random, 9, 2..ROWS, &mut taken),
        changed: Vec::new(),
        // In the gaps, before the first key and beyond the last.
        extra: gone.iter().copied().chain([0, ROWS + 1, ROWS + 70]).collect(),
    };
    planted.missing.insert(1);
    let mut changed = some_keys(&mut random, 8, 2..ROWS, &mut taken);
    changed.insert(ROWS);
    planted.changed = changes(&mut random, changed);
    assert_eq!(planted.keys().len(), 30);
    planted.plant(&stage);

    let ended = verify(&stage, &["--against", "source"]).assert_code(1);
    let lines: BTreeSet<_> = ended.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines, planted.lines());
    ended.assert_said(&["different: 10 missing, 11 extra, 9 changed"]);
    planted.assert_named(&verify(&stage, &["--against", "source", "--json"]).assert_code(1));
    assert_ranges(&stage, &planted.keys());

    // Extra rows stay until they are told to go.
    verify(&stage, &["--against", "source", "--repair"]).assert_code(1);
    let left = Planted {
        extra: planted.extra.clone(),
        ..Planted::default()
    };
    left.assert_named(&verify(&stage, &["--against", "source", "--json"]).assert_code(1));
    verify(&stage, &["--against", "source", "--repair", "--delete-extra"]).assert_code(0);
    assert_equal(&stage);
}

/// Against receipts exactly the ranges are told that hold a difference.
fn assert_ranges(stage: &Stage, keys: &BTreeSet<u64>) {
    let ended = verify(stage, &["--json"]).assert_code(1);
    let bound = |key: &Value| key[0].as_str().map(|key| key.parse::<i64>().unwrap());
    let ranges: Vec<_> = found(&ended)["told"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| {
            assert_eq!(told["difference"], "range", "{told}");
            let range = &told["range"];
            (
                bound(&range["low"]).unwrap_or(i64::MIN),
                bound(&range["high"]).unwrap(),
            )
        })
        .collect();
    let last = ask(&stage.target, "SELECT max(high[1]::bigint) FROM longhaul.batches");
    let last: i64 = last.parse().unwrap();
    let in_range = |key: i64, (low, high): (i64, i64)| low < key && key <= high;
    for key in keys
        .iter()
        .map(|key| key.cast_signed())
        .filter(|key| *key <= last)
    {
        let holding = ranges.iter().filter(|range| in_range(key, **range)).count();
        assert_eq!(holding, 1, "ranges that hold {key}: {ranges:?}");
    }
    for range in &ranges {
        let holds = keys.iter().any(|key| in_range(key.cast_signed(), *range));
        assert!(holds, "{range:?} holds no difference");
        let batch = format!(
            "SELECT count(*) FROM longhaul.batches WHERE high[1]::bigint = {} AND coalesce(low[1]::bigint, {}) = {}",
            range.1,
            i64::MIN,
            range.0
        );
        let batches = ask(&stage.target, &batch);
        assert_eq!(batches, "1", "{range:?} is a range of the ledger");
    }
    assert_eq!(found(&ended)["ranges_different"], ranges.len());
}

#[test]
fn a_whole_missing_stretch_is_named_up_to_a_thousand_rows_and_counted_beyond() {
    let stage = copied(40_000, "1000", &BTreeSet::new());
    tell(
        &stage.target,
        "DELETE FROM audio_downloads WHERE id > 12345 AND id <= 19345",
    );
    let ended = verify(&stage, &["--against", "source", "--json"]).assert_code(1);
    let found = found(&ended);
    assert_eq!(
        (&found["missing"], &found["extra"], &found["changed"]),
        (&json!(7000), &json!(0), &json!(0))
    );
    let told = found["told"].as_array().unwrap();
    assert_eq!(told.len(), 1000);
    let keys: BTreeSet<u64> = told
        .iter()
        .map(|told| told["key"][0].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(keys.len(), 1000, "each once");
    assert!(keys.iter().all(|key| (12_346..=19_345).contains(key)));
    let ended = verify(&stage, &["--against", "source"]).assert_code(1);
    assert_eq!(ended.stdout.lines().count(), 1001);
    assert!(
        ended
            .stdout
            .ends_with("and 6,000 more (the first 1,000 are named)\n"),
        "{}",
        ended.stdout
    );
    verify(&stage, &["--against", "source", "--repair"]).assert_code(0);
    assert_equal(&stage);
}

#[test]
fn a_whole_missing_end_is_found_by_both() {
    let stage = copied(20_000, "1000", &BTreeSet::new());
    tell(&stage.target, "DELETE FROM audio_downloads WHERE id > 17500");
    let found_by = |arguments| found(&verify(&stage, arguments).assert_code(1));
    assert_eq!(found_by(&["--json", "--against", "source"])["missing"], 2500);
    assert!(found_by(&["--json"])["ranges_different"].as_u64().unwrap() > 0);
    verify(&stage, &["--repair"]).assert_code(0);
    assert_equal(&stage);
}

fn status_of_verification(stage: &Stage) -> Option<Value> {
    let ended = stage.run(&["status", VERIFICATION, "--json"]);
    (ended.code == Some(0)).then(|| serde_json::from_str(&ended.stdout).unwrap())
}

fn ranges(status: &Value) -> u64 {
    status["findings"]["ranges"].as_u64().unwrap_or(0)
}

fn until_ranges(stage: &Stage, more_than: u64) -> Value {
    until("ranges that were verified", || {
        status_of_verification(stage).filter(|status| ranges(status) > more_than)
    })
}

/// A stage with ten differences, and slow arguments for its verification.
fn different(random: &mut Random) -> (Stage, Planted) {
    let stage = copied(60_000, "1000", &BTreeSet::new());
    let mut taken = BTreeSet::new();
    let planted = Planted {
        missing: some_keys(random, 5, 1..60_001, &mut taken),
        extra: BTreeSet::from([60_010]),
        changed: {
            let keys = some_keys(random, 4, 1..60_001, &mut taken);
            changes(random, keys)
        },
    };
    planted.plant(&stage);
    (stage, planted)
}

const SLOW: [&str; 4] = ["--max-rate", "4MB/s", "--concurrency", "2"];

#[test]
fn a_verification_that_is_killed_goes_on_where_it_was_and_finds_the_same() {
    let mut random = Random::seeded();
    let (stage, planted) = different(&mut random);
    let command = |rate: &str| {
        let arguments = [
            "verify",
            JOB,
            "--progress",
            "none",
            "--against",
            "source",
            "--json",
            "--max-rate",
            rate,
        ];
        stage.begin(&mut stage.command(&arguments))
    };
    let mut verified = 0;
    for _ in 0..2 {
        let process = command("3MB/s");
        let status = until_ranges(&stage, verified);
        verified = ranges(&status);
        assert_eq!(process.kill().signal, Some(9));
    }
    let before = status_of_verification(&stage).unwrap();
    assert_eq!(
        (&before["kind"], &before["state"]),
        (&json!("verify"), &json!("INTERRUPTED"))
    );
    let ended = command("none").end().assert_code(1);
    planted.assert_named(&ended);
    ended.assert_said(&["continues"]);
    let after = status_of_verification(&stage).unwrap();
    assert_eq!(after["run_id"], before["run_id"], "it was not begun anew");
    let history = stage
        .run(&["history", VERIFICATION, "--json"])
        .assert_code(0)
        .stdout;
    let prepared = history
        .lines()
        .filter(|line| line.contains("ACTIVITY_TASK_SCHEDULED") || line.contains("ActivityTaskScheduled"))
        .filter(|line| line.contains("prepare_verify"))
        .count();
    assert_eq!(prepared, 1, "{history}");
}

#[test]
fn a_running_verification_is_seen_paused_resumed_and_tuned_from_another_process() {
    let mut random = Random::seeded();
    let (stage, planted) = different(&mut random);
    let arguments: Vec<_> = [
        "verify",
        JOB,
        "--progress",
        "none",
        "--against",
        "source",
        "--json",
    ]
    .into_iter()
    .chain(SLOW)
    .collect();
    let process = stage.begin(&mut stage.command(&arguments));
    let status = until_ranges(&stage, 0);
    assert_eq!(status["worker_pid"], process.pid());
    assert_eq!(status["state"], "RUNNING");
    stage.run(&["pause", VERIFICATION]).assert_code(0);
    let paused = until("a verification that is paused", || {
        status_of_verification(&stage).filter(|status| status["state"] == "PAUSED")
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        ranges(&status_of_verification(&stage).unwrap()),
        ranges(&paused),
        "it stands still"
    );
    let listed = stage.run(&["list"]).assert_code(0).stdout;
    assert!(listed.contains(VERIFICATION), "{listed}");
    stage.run(&["resume", VERIFICATION]).assert_code(0);
    until_ranges(&stage, ranges(&paused));
    stage
        .run(&["tune", VERIFICATION, "--max-rate", "none", "--concurrency", "3"])
        .assert_code(0);
    let ended = process.end().assert_code(1);
    planted.assert_named(&ended);
    let status = status_of_verification(&stage).unwrap();
    assert_eq!(status["state"], "COMPLETED");
    assert_eq!(status["tuning"]["concurrency"], 3);
    assert_eq!(status["findings"]["missing"], 5);
}

#[test]
fn a_canceled_verification_ends_and_the_job_stays_as_it_was() {
    let stage = copied(60_000, "1000", &BTreeSet::new());
    let arguments: Vec<_> = ["verify", JOB, "--progress", "none"]
        .into_iter()
        .chain(SLOW)
        .collect();
    let process = stage.begin(&mut stage.command(&arguments));
    until_ranges(&stage, 0);
    stage.run(&["cancel", VERIFICATION]).assert_code(0);
    process.end().assert_code(1);
    assert_eq!(stage.status()["state"], "COMPLETED");
    assert_equal(&stage);
}

#[test]
fn two_tables_are_verified_and_repaired_without_a_job() {
    let mut random = Random::seeded();
    let stage = Stage::new(20_000);
    // Somebody else has filled the target.
    let process = std::process::Command::new("sh")
        .args([
            "-c",
            "psql -XAtq \"$1\" -c 'COPY audio_downloads TO STDOUT' | psql -XAtq \"$2\" -c 'COPY audio_downloads FROM STDIN'",
            "sh",
            &stage.source,
            &stage.target,
        ])
        .status();
    assert!(process.unwrap().success(), "psql copies");
    let verify = |arguments: &[&str]| {
        let mut command = stage.copy("verify", arguments);
        stage.begin(&mut command).end()
    };
    verify(&[]).assert_code(0).assert_said(&["equal (20,000 rows"]);
    let mut taken = BTreeSet::new();
    let planted = Planted {
        missing: some_keys(&mut random, 4, 1..20_001, &mut taken),
        extra: BTreeSet::from([0, 20_001]),
        changed: {
            let keys = some_keys(&mut random, 4, 1..20_001, &mut taken);
            changes(&mut random, keys)
        },
    };
    planted.plant(&stage);
    planted.assert_named(&verify(&["--json"]).assert_code(1));
    verify(&["--against", "receipts"])
        .assert_code(2)
        .assert_said(&["receipts are of a job"]);
    verify(&["--repair", "--delete-extra"]).assert_code(0);
    verify(&[]).assert_code(0);
    let (source, target) = stage.sums();
    assert_eq!(source, target);
}

#[test]
fn a_migrate_that_verifies_says_that_every_row_was_read_back() {
    let stage = Stage::new(30_000);
    let ended = stage
        .begin(&mut stage.migrate(&["--verify", "--batch-rows", "1000"]))
        .end();
    ended
        .assert_code(0)
        .assert_said(&["is complete", "all 30,000 rows were read back"]);
    stage.assert_moved();
}

#[test]
fn a_migrate_that_verifies_fails_over_a_row_that_was_damaged_meanwhile_and_names_the_way() {
    let stage = Stage::new(30_000);
    let arguments = ["--verify", "--batch-rows", "500", "--max-rate", "2MB/s"];
    let process = stage.begin(&mut stage.migrate(&arguments));
    stage.until_rows(3000);
    tell(
        &stage.target,
        "UPDATE audio_downloads SET title = 'damaged' WHERE id = 17",
    );
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    process
        .end()
        .assert_code(1)
        .assert_said(&["1 range", "longhaul verify audio_downloads --against source"]);
    let ended = verify(&stage, &["--against", "source"]).assert_code(1);
    assert_eq!(ended.stdout, "changed (17): title\n");
    verify(&stage, &["--against", "source", "--repair"]).assert_code(0);
    // The same command again: now it is what was sent.
    let ended = stage.begin(&mut stage.migrate(&arguments)).end();
    ended.assert_code(0).assert_said(&["were read back"]);
}

/// Tables of other shapes: made on both sides, filled on the source, copied, and verified.
struct Other {
    stage: Stage,
    table: &'static str,
}

impl Other {
    fn new(table: &'static str, source: &str, target: &str, fill: &str) -> Self {
        let stage = Stage::new(0);
        tell(&stage.source, source);
        tell(&stage.target, target);
        tell(&stage.source, fill);
        let other = Self { stage, table };
        other.command("migrate", &["--batch-rows", "500"]).assert_code(0);
        other
    }

    fn command(&self, kind: &str, more: &[&str]) -> Ended {
        let ends = ["--source", &self.stage.source, "--target", &self.stage.target];
        let mut command = self
            .stage
            .command(&[kind, "--table", self.table, "--progress", "none"]);
        command.args(ends).args(more);
        self.stage.begin(&mut command).end()
    }

    fn verify(&self, more: &[&str]) -> Ended {
        let arguments: Vec<_> = ["verify", self.table, "--progress", "none"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        self.stage.run(&arguments)
    }

    #[track_caller]
    fn assert_lines(&self, expected: &[&str]) {
        for ended in [self.verify(&["--against", "source"]), self.command("verify", &[])] {
            let ended = ended.assert_code(i32::from(!expected.is_empty()));
            let mut lines: Vec<_> = ended.stdout.lines().collect();
            lines.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(lines, expected, "{ended:?}");
        }
    }

    /// Equal both ways, after a repair.
    #[track_caller]
    fn assert_repaired(&self) {
        self.verify(&["--against", "source", "--repair", "--delete-extra"])
            .assert_code(0);
        self.assert_lines(&[]);
        self.verify(&[]).assert_code(0);
        let sum = format!(
            "SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} t",
            self.table
        );
        assert_eq!(ask(&self.stage.source, &sum), ask(&self.stage.target, &sum));
    }
}

#[test]
fn keys_that_the_target_orders_in_another_way_are_verified_and_repaired() {
    let fill = "INSERT INTO words SELECT (ARRAY['a', 'B', 'ä', '-', 'Z', 'é', '_'])[1 + i % 7] || substr(md5(i::text), 1, 6)
                || i, i FROM generate_series(1, 6000) i";
    let table = |collation| format!("CREATE TABLE words (k text COLLATE \"{collation}\" PRIMARY KEY, n int)");
    for (one, other) in [("C", "und-x-icu"), ("und-x-icu", "C")] {
        let words = Other::new("words", &table(one), &table(other), fill);
        words.assert_lines(&[]);
        words.verify(&[]).assert_code(0);
        let key = |n: u32| ask(&words.stage.source, &format!("SELECT k FROM words WHERE n = {n}"));
        let (gone, changed) = (key(77), key(4321));
        tell(
            &words.stage.target,
            "DELETE FROM words WHERE n = 77; UPDATE words SET n = -1 WHERE n = 4321;
             INSERT INTO words VALUES ('Only here', 0), ('zz', 0), ('ZZZ', 0), ('', 0)",
        );
        words.assert_lines(&[
            &format!("missing ({gone})"),
            &format!("changed ({changed}): n"),
            "extra (Only here)",
            "extra (zz)",
            "extra (ZZZ)",
            "extra ()",
        ]);
        words.verify(&[]).assert_code(1);
        words.assert_repaired();
    }
}

#[test]
fn a_key_of_two_columns_is_verified_and_repaired() {
    let table = "CREATE TABLE readings (tenant int, id bigint, v text, PRIMARY KEY (tenant, id))";
    let fill = "INSERT INTO readings SELECT i % 7, i, md5(i::text) FROM generate_series(1, 9000) i";
    let readings = Other::new("readings", table, table, fill);
    readings.assert_lines(&[]);
    readings.verify(&[]).assert_code(0);
    tell(
        &readings.stage.target,
        "DELETE FROM readings WHERE id IN (7, 5000); UPDATE readings SET v = v || '?' WHERE id IN (6, 8999);
         INSERT INTO readings VALUES (3, 4, 'extra'), (-1, 1, 'first'), (7, 1, 'last')",
    );
    readings.assert_lines(&[
        "missing (0, 7)",
        "missing (2, 5000)",
        "changed (6, 6): v",
        "changed (4, 8999): v",
        "extra (3, 4)",
        "extra (-1, 1)",
        "extra (7, 1)",
    ]);
    readings.verify(&[]).assert_code(1);
    readings.assert_repaired();
}

#[test]
fn a_partitioned_target_is_verified_and_repaired() {
    let source = "CREATE TABLE parts (id bigint PRIMARY KEY, v text)";
    let target = "CREATE TABLE parts (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (3000);
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (3000) TO (3001);
        CREATE TABLE parts_3 PARTITION OF parts DEFAULT";
    let fill = "INSERT INTO parts SELECT i, md5(i::text) FROM generate_series(1, 8000) i";
    let parts = Other::new("parts", source, target, fill);
    parts.assert_lines(&[]);
    parts.verify(&[]).assert_code(0);
    tell(
        &parts.stage.target,
        "TRUNCATE parts_2; DELETE FROM parts WHERE id = 8000; UPDATE parts SET v = NULL WHERE id IN (1, 2999, 3001);
         INSERT INTO parts VALUES (0, 'before'), (9000, 'after')",
    );
    parts.assert_lines(&[
        "missing (3000)",
        "missing (8000)",
        "changed (1): v",
        "changed (2999): v",
        "changed (3001): v",
        "extra (0)",
        "extra (9000)",
    ]);
    parts.verify(&[]).assert_code(1);
    parts.assert_repaired();
}

#[test]
fn rows_that_change_on_both_sides_under_a_verification_of_a_live_sync_are_not_called_different() {
    let stage = Stage::new(40_000);
    let process = stage.begin(&mut stage.copy("sync", &["--interval", "1s", "--batch-rows", "1000"]));
    stage.until_rows(39_999);
    stage.until_state("SLEEPING");
    let stop = Arc::new(AtomicBool::new(false));
    // Each row changes once, on the source first and a moment later on the target; and new ones come.
    let (source, target, stopped) = (stage.source.clone(), stage.target.clone(), Arc::clone(&stop));
    let changing = runtime().spawn(async move {
        let (one, other) = (client(&source).await, client(&target).await);
        let mut key = 0;
        while !stopped.load(Ordering::SeqCst) {
            key += 97;
            let change = format!(
                "UPDATE audio_downloads SET title = 'changed' WHERE id = {}",
                key % 40_000
            );
            one.batch_execute(&change).await.unwrap();
            tokio::time::sleep(Duration::from_millis(15)).await;
            other.batch_execute(&change).await.unwrap();
            sql(&source, "INSERT INTO audio_downloads (url) VALUES ('new')").await;
        }
    });
    // The sync holds the journal: the verification has a state directory of its own, and no job.
    let other = stage.path("other");
    for _ in 0..3 {
        let arguments = ["--max-rate", "10MB/s"];
        let mut command = stage.copy("verify", &arguments);
        command.env("LONGHAUL_STATE_DIR", &other);
        let ended = stage.begin(&mut command).end();
        // Without a job new rows are missing for as long as the sync sleeps; none is changed, and none extra.
        let lines: Vec<_> = ended
            .stdout
            .lines()
            .filter(|line| !line.starts_with("missing ("))
            .collect();
        assert!(lines.is_empty(), "{ended:?}");
    }
    stop.store(true, Ordering::SeqCst);
    runtime().block_on(changing).unwrap();
    until("a target that equals the source", || {
        let (source, target) = stage.sums();
        (source == target).then_some(())
    });
    process.interrupt();
    process.end().assert_code(130);
    verify(&stage, &["--against", "source"]).assert_code(0);
}

#[test]
fn a_job_goes_on_after_its_target_was_repaired() {
    let stage = Stage::new(40_000);
    let slow = ["--batch-rows", "500", "--max-rate", "2MB/s"];
    let process = stage.begin(&mut stage.migrate(&slow));
    stage.until_rows(8000);
    process.kill();
    tell(
        &stage.target,
        "UPDATE audio_downloads SET title = '' WHERE id = 700",
    );
    let ended = verify(&stage, &["--against", "source", "--repair"]).assert_code(0);
    ended.assert_said(&["1 row put right"]);
    let ended = stage
        .begin(&mut stage.migrate(&["--batch-rows", "500", "--max-rate", "none"]))
        .end();
    let ended = ended.assert_code(0);
    assert!(
        !ended.stderr.contains("has lost"),
        "a repair is no loss: {ended:?}"
    );
    stage.assert_moved();
    assert_equal(&stage);
}

#[test]
fn a_sync_goes_on_after_its_target_was_repaired() {
    let stage = Stage::new(10_000);
    let sync = || stage.begin(&mut stage.copy("sync", &["--interval", "1s", "--batch-rows", "500"]));
    let process = sync();
    stage.until_rows(9999);
    stage.until_state("SLEEPING");
    process.interrupt();
    process.end().assert_code(130);
    tell(
        &stage.target,
        "DELETE FROM audio_downloads WHERE id IN (700, 9000)",
    );
    stage.add(100);
    verify(&stage, &["--against", "source", "--repair"]).assert_code(0);
    let process = sync();
    until("a target that equals the source", || {
        let (source, target) = stage.sums();
        (source == target).then_some(())
    });
    stage.until_state("SLEEPING");
    process.interrupt();
    let ended = process.end().assert_code(130);
    assert!(
        !ended.stderr.contains("has lost"),
        "a repair is no loss: {ended:?}"
    );
}

#[test]
fn a_verification_of_a_target_that_went_back_does_not_call_it_equal() {
    let stage = copied(30_000, "500", &BTreeSet::new());
    stage.add(5000);
    stage.keep_target();
    stage
        .begin(&mut stage.migrate(&["--batch-rows", "500"]))
        .end()
        .assert_code(0);
    stage.bring_target_back();
    // The ledger went back with the rows: what it has receipts for is there, and is not all.
    for arguments in [&[][..], &["--against", "source"]] {
        let ended = verify(&stage, arguments).assert_code(1);
        ended.assert_said(&["has 30000 rows", "35000 were confirmed", "run the job again"]);
    }
    stage
        .begin(&mut stage.migrate(&["--batch-rows", "500"]))
        .end()
        .assert_code(0);
    assert_equal(&stage);
}

#[test]
fn a_verification_of_a_target_without_the_jobs_ledger_does_not_call_it_equal() {
    let stage = copied(5000, "500", &BTreeSet::new());
    tell(
        &stage.target,
        "DROP SCHEMA longhaul CASCADE; TRUNCATE audio_downloads",
    );
    for arguments in [&[][..], &["--against", "source"]] {
        verify(&stage, arguments)
            .assert_code(1)
            .assert_said(&["job audio_downloads", "ledger"]);
    }
}

#[test]
fn a_sync_that_runs_goes_on_under_a_repair() {
    let stage = Stage::new(10_000);
    let process = stage.begin(&mut stage.copy("sync", &["--interval", "1s", "--batch-rows", "300"]));
    stage.until_rows(9999);
    tell(&stage.target, "DELETE FROM audio_downloads WHERE id % 1000 = 7");
    let other = stage.path("other");
    let mut command = stage.copy("verify", &["--repair"]);
    command.env("LONGHAUL_STATE_DIR", &other);
    stage.add(500);
    stage.begin(&mut command).end();
    until("a target that equals the source", || {
        let (source, target) = stage.sums();
        (source == target).then_some(())
    });
    process.interrupt();
    process.end().assert_code(130);
    assert_equal(&stage);
}

#[test]
fn what_cannot_be_compared_or_repaired_is_said_with_a_way_out_of_verify_itself() {
    let columns = "x text, y text, a text, u int";
    let words = Other::new(
        "w2",
        &format!("CREATE TABLE w2 ({columns}, PRIMARY KEY (x, y))"),
        &format!("CREATE TABLE w2 ({columns}, UNIQUE (x, y), CONSTRAINT one_u UNIQUE (u))"),
        "INSERT INTO w2 SELECT i, i, 'v', i FROM generate_series(100, 109) i",
    );
    let (source, target) = (&words.stage.source, &words.stage.target);
    let against_source = |more: &[&str]| words.verify(&[&["--against", "source"], more].concat());
    tell(
        target,
        "INSERT INTO w2 SELECT 'extra', i, 'v' FROM generate_series(1, 8) i; INSERT INTO w2 VALUES (NULL, '1', 'v')",
    );
    against_source(&[]).assert_code(1).assert_said(&[
        "1 row of target table public.w2 with a null in the key (x, y)",
        "DELETE FROM ONLY \"public\".\"w2\" WHERE \"x\" IS NULL OR \"y\" IS NULL",
    ]);
    // What the source has beyond what is copied is not missing; what the target has beyond it is extra.
    tell(source, "INSERT INTO w2 VALUES ('z', 'z', 'late', 200)");
    tell(
        target,
        "DELETE FROM w2 WHERE x IS NULL OR y <> '8'; DELETE FROM w2 WHERE x <> 'extra'",
    );
    tell(
        target,
        "INSERT INTO w2 SELECT i, i, 'v', i FROM generate_series(100, 109) i",
    );
    let ended = against_source(&[]).assert_code(1);
    assert_eq!(ended.stdout, "extra (extra, 8)\n");
    ended.assert_said(&[
        "beyond the last key that the job has copied",
        "1 row that the source has beyond key (109, 109) is not",
    ]);
    against_source(&["--repair", "--delete-extra"])
        .assert_code(0)
        .assert_said(&["equal up to key (109, 109) (10 rows", "1 row put right"]);
    // Two rows that have exchanged a value of another unique index, and one that only was changed, and is in their range.
    tell(
        target,
        "UPDATE w2 SET u = 0 WHERE x = '101'; UPDATE w2 SET u = 101 WHERE x = '102'; UPDATE w2 SET u = 102 WHERE x = '101'",
    );
    let role = format!("owner_of_{}", ask(target, "SELECT current_database()"));
    tell(
        target,
        &format!("CREATE ROLE {role}; ALTER TABLE w2 OWNER TO {role}"),
    );
    let ended = against_source(&["--repair"]).assert_code(1);
    assert_eq!(ended.stdout, "changed (101, 101): u\nchanged (102, 102): u\n");
    let ended = ended.assert_said(&[
        "the repair failed in 1 range",
        "one_u",
        "by hand",
        &format!("belongs to role {role}"),
    ]);
    assert!(!ended.stderr.contains("--on-conflict"), "{ended:?}");
    tell(
        target,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN OLD; END$$;
         CREATE TRIGGER kept BEFORE UPDATE ON w2 FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let ended = against_source(&["--repair"]).assert_code(1);
    let ended = ended.assert_said(&[
        "kept",
        "ALTER TABLE \"public\".\"w2\" DISABLE TRIGGER \"kept\"",
        "verifies again",
    ]);
    assert!(!ended.stderr.contains("--fire-triggers"), "{ended:?}");
}
