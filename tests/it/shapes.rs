//! A job that copies some rows and columns of a table, and some of them as something else: it keeps to what was asked for,
//! through kills and without its state directory, and so does a verification.

use serde_json::Value;

use crate::stage::{JOB, Stage, ask, tell};

const FILTER: &str = "duration_ms % 3 = 0 AND title LIKE 'Track %'";

/// A target of another schema, name and columns.
const TARGET: &str = "CREATE SCHEMA raw; CREATE TABLE raw.\"Songs\" (id bigint PRIMARY KEY, place text, title text, length bigint,
    checksum text, copied_at timestamptz DEFAULT now())";

/// What must be there, by each side.
fn assert_copied(stage: &Stage) {
    let sum = |columns: &str, from: &str| {
        format!(
            "SELECT count(*) || ' ' || sum(hashtextextended(ROW({columns})::text, 0)::numeric) FROM {from}"
        )
    };
    let there = ask(
        &stage.target,
        &sum("id, place, title, length, checksum", "raw.\"Songs\""),
    );
    let here = format!("audio_downloads WHERE {FILTER}");
    let here = ask(
        &stage.source,
        &sum(
            "id, url, title, duration_ms::bigint, encode(checksum, 'hex')",
            &here,
        ),
    );
    assert_eq!(here, there);
}

fn job_file(stage: &Stage) -> String {
    let file = stage.path("job.toml");
    let text = format!(
        "source = \"{}\"\ntarget = \"{}\"\ntable = \"{JOB}\"\ntarget_table = 'raw.\"Songs\"'\n\
         columns = \"id, url, title, duration_ms\"\nwhere = \"{FILTER}\"\nrename = \"url=place,duration_ms=length\"\n\
         select = \"checksum = encode(checksum, 'hex')\"\nbatch_rows = 100\nprogress = \"none\"\n",
        stage.source, stage.target
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn what_a_job_file_chooses_is_copied_through_a_kill_and_verified() {
    let stage = Stage::new(3000);
    tell(&stage.target, TARGET);
    let file = job_file(&stage);
    let given = ["--config", &file];

    let checked = stage.run(&["check", "--config", &file, "--json"]).assert_code(0);
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(checked["filter"], FILTER);
    let read = |column: &str| {
        let readings = checked["readings"].as_array().unwrap();
        let of = readings.iter().find(|read| read["column"] == column).unwrap();
        (of["from"].as_str().unwrap().to_owned(), of["why"].clone())
    };
    assert_eq!(read("place"), ("column \"url\"".to_owned(), Value::Null));
    assert_eq!(read("checksum").0, "the expression encode(checksum, 'hex')");
    let (from, why) = read("length");
    assert!(
        from == "column \"duration_ms\" as bigint" && why.as_str().unwrap().contains("each integer fits"),
        "{from} {why}"
    );
    let left_out: Vec<_> = checked["columns_left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| &left["column"])
        .collect();
    assert_eq!(left_out, ["checksum", "tags", "meta", "created_at"]);

    let migrate = || stage.command(&[&["migrate"], &given[..]].concat());
    let mut slow = migrate();
    slow.args(["--max-rate", "20KB/s"]);
    let process = stage.begin(&mut slow);
    crate::binary::until("rows on the target", || {
        (ask(&stage.target, "SELECT count(*) > 50 FROM raw.\"Songs\"") == "t").then_some(())
    });
    process.kill();
    let mut fast = migrate();
    stage
        .begin(fast.args(["--max-rate", "none"]))
        .end()
        .assert_code(0);
    assert_copied(&stage);

    for line in [&["verify", JOB][..], &["verify", JOB, "--against", "source"]] {
        stage.run(line).assert_code(0);
    }
    let tables = stage.command(&[&["verify"], &given[..]].concat());
    let mut tables = tables;
    stage.begin(&mut tables).end().assert_code(0);
    stage
        .run(&["verify", JOB, "--where", "id > 5"])
        .assert_code(2)
        .assert_said(&["of the job that is named"]);

    // Another choice under the same name is another job, with the journal and without it.
    let mut other = migrate();
    other.args(["--where", "duration_ms % 3 = 1"]);
    stage
        .begin(&mut other)
        .end()
        .assert_code(2)
        .assert_said(&["its choice of rows is"]);
    std::fs::remove_dir_all(stage.state()).unwrap();
    stage
        .begin(&mut other)
        .end()
        .assert_code(3)
        .assert_said(&["the rows that are copied were those where"]);
    let mut same = migrate();
    stage.begin(&mut same).end().assert_code(0);
    assert_copied(&stage);

    tell(
        &stage.target,
        "UPDATE raw.\"Songs\" SET place = '' WHERE id = (SELECT max(id) FROM raw.\"Songs\")",
    );
    stage.run(&["verify", JOB, "--against", "source"]).assert_code(1);
    stage
        .run(&["verify", JOB, "--against", "source", "--repair"])
        .assert_code(0);
    assert_copied(&stage);
}

#[test]
fn a_condition_that_makes_no_sense_is_told_and_nothing_is_written() {
    let stage = Stage::new(10);
    for (given, code, words) in [
        (
            &["--where", "duration > 5"][..],
            2,
            "column \"duration\" does not exist",
        ),
        (&["--where", "random() < 0.5"], 2, "volatile"),
        (&["--where", "true) TO STDOUT; --"], 2, "do not match"),
        (&["--where", "id IN (SELECT 1)"], 2, "about its own row"),
        (
            &["--select", "title=upper(titel)"],
            2,
            "column \"titel\" does not exist",
        ),
        (&["--columns", "url"], 4, "needs a value for column \"id\""),
    ] {
        let mut command = stage.migrate(given);
        stage
            .begin(&mut command)
            .end()
            .assert_code(code)
            .assert_said(&[words]);
        let ledger = ask(&stage.target, "SELECT to_regnamespace('longhaul') IS NULL");
        assert_eq!((ledger.as_str(), stage.rows()), ("t", 0), "{given:?}");
    }
    let mut sync = stage.copy("sync", &["--dry-run", "--where", "duration_ms > 5"]);
    let told = stage.begin(&mut sync).end().assert_code(0).stdout;
    assert!(
        told.contains("a row that comes to fit later is not found by this sync"),
        "{told}"
    );
}
