//! `check` writes nothing and tells all; what the other commands say to people of a job that has run.

use serde_json::Value;

use crate::binary::until;
use crate::servers::client;
use crate::stage::{JOB, Stage, ask, runtime, tell};

/// Whatever a job could leave behind.
fn assert_untouched(stage: &Stage) {
    assert!(!stage.state().exists(), "there is no state directory");
    let ledger = ask(&stage.target, "SELECT to_regnamespace('longhaul') IS NULL");
    assert_eq!((ledger.as_str(), stage.rows()), ("t", 0));
}

#[test]
fn a_check_tells_what_would_be_done_and_all_that_is_in_the_way_and_writes_nothing() {
    let stage = Stage::new(2000);
    let nothing = stage.run(&["check"]).assert_code(2);
    for setting in ["no source was given", "no target was given", "no table was given"] {
        assert!(nothing.stderr.contains(setting), "{nothing:?}");
    }

    let ready = stage
        .begin(&mut stage.copy("check", &["--json"]))
        .end()
        .assert_code(0);
    let checked: Value = serde_json::from_str(&ready.stdout).unwrap();
    assert_eq!(
        (
            &checked["ready"],
            &checked["format"],
            &checked["key"][0],
            &checked["ledger"]
        ),
        (&true.into(), &"binary".into(), &"id".into(), &"absent".into()),
        "{checked}"
    );
    assert_eq!(
        (&checked["rows_estimate"], &checked["rows_read"]),
        (&2000.into(), &2000.into())
    );
    assert!(checked["seconds_estimate"].is_u64(), "{checked}");
    let dry = stage
        .begin(&mut stage.migrate(&["--dry-run"]))
        .end()
        .assert_code(0);
    assert!(
        dry.stdout.contains("it can begin") && dry.stdout.contains("primary key"),
        "{dry:?}"
    );
    assert_untouched(&stage);

    // Both sides are wrong: all of it is told, and the lowest status ends it. A job that would begin says the same.
    tell(
        &stage.target,
        "ALTER TABLE audio_downloads DROP COLUMN url, DROP COLUMN tags",
    );
    let file = stage.path("job.toml");
    std::fs::write(
        &file,
        format!(
            "table = \"{JOB}\"\n\nsource = \"{}\"\n",
            stage.source.replace("/it", "/no_it")
        ),
    )
    .unwrap();
    let config = file.to_str().unwrap();
    for line in [&["check"][..], &["migrate"], &["sync", "--dry-run"]] {
        let mut command = stage.command(line);
        command.args([
            "--config",
            config,
            "--target",
            &stage.target,
            "--target-table",
            "audio_download",
        ]);
        let ended = stage.begin(&mut command).end().assert_code(3);
        ended
            .assert_said(&[
                "given by: `source` in",
                "job.toml, line 3",
                "table audio_download does not exist on the target",
            ])
            .assert_said(&["given by: --target-table", "did you mean audio_downloads?"]);
    }
    let ended = stage
        .begin(&mut stage.copy("check", &["--json"]))
        .end()
        .assert_code(4);
    let ended = ended.assert_said(&["lacks column \"url\"", "lacks column \"tags\""]);
    let checked: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&checked["ready"], checked["troubles"].as_array().unwrap().len()),
        (&false.into(), 2)
    );
    std::fs::remove_dir_all(stage.state()).ok();
    assert_untouched(&stage);
}

#[test]
fn a_job_that_has_run_is_told_in_plain_words() {
    let stage = Stage::new(2000);
    let log = stage.path("log");
    let quiet = ["--batch-rows", "500", "-q", "--log-file", log.to_str().unwrap()];
    let ended = stage.begin(&mut stage.migrate(&quiet)).end().assert_code(0);
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("", ""),
        "it is quiet"
    );
    assert!(log.exists());
    let history = stage.run(&["history", JOB]).assert_code(0).stdout;
    let lines: Vec<_> = history.lines().collect();
    assert!(
        lines[0].ends_with("begun: audio_downloads -> audio_downloads"),
        "{history}"
    );
    assert_eq!(
        lines.iter().filter(|line| line.contains(": 500 rows, ")).count(),
        4,
        "{history}"
    );
    assert!(
        history.contains("keys after (1500) up to (2000) in 0."),
        "{history}"
    );
    assert!(
        lines.last().unwrap().starts_with("in all: 2,000 rows, "),
        "{history}"
    );
    let events = stage.run(&["history", JOB, "--events"]).assert_code(0).stdout;
    assert!(
        events.starts_with("1 ") && events.contains("WorkflowExecutionStarted"),
        "{events}"
    );
    let list = stage.run(&["list"]).assert_code(0).stdout;
    assert!(list.contains(" ago") || list.contains("now"), "{list}");
    // The job has ended, and so has its watching.
    let watched = stage.run(&["status", JOB, "--watch"]).assert_code(0).stdout;
    assert!(watched.contains("completed"), "{watched}");

    let source = stage.source.replace("postgres@", "postgres:hunter2@");
    let shown = stage
        .run(&["config", "show", "--source", &source, "--concurrency", "7"])
        .assert_code(0)
        .stdout;
    assert!(
        shown.contains("--concurrency") && !shown.contains("hunter2"),
        "{shown}"
    );
    let pages = stage.path("man");
    stage.run(&["man", pages.to_str().unwrap()]).assert_code(0);
    let page = std::fs::read_to_string(pages.join("longhaul-check.1")).unwrap();
    assert!(page.contains("dry") || page.contains("write nothing"), "{page}");
    let script = stage.run(&["completions", "bash"]).assert_code(0).stdout;
    assert!(
        script.contains("longhaul") && script.contains("--dry-run"),
        "it completes flags"
    );
    let version = stage.run(&["--version"]).assert_code(0).stdout;
    assert!(version.contains("ledger layout: 2"), "{version}");
}

#[test]
fn a_check_that_waits_for_a_lock_says_so() {
    let stage = Stage::new(100);
    let session = runtime().block_on(client(&stage.target));
    let run = |sql: &str| runtime().block_on(session.batch_execute(sql)).unwrap();
    run("BEGIN; LOCK TABLE audio_downloads IN ACCESS EXCLUSIVE MODE");
    let check = stage.begin(&mut stage.copy("check", &[]));
    let words = "looking at both sides takes";
    until("words about it", || check.said().contains(words).then_some(()));
    run("COMMIT");
    check.end().assert_code(0);
    assert_untouched(&stage);
}
