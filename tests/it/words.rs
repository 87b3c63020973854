//! What is said, to whom and when: log files, what is waited for, counts.

use std::time::{Duration, Instant};

use longhaul::postgres::{ServerOptions, StopMode, ThrowawayServer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{Process, until};
use crate::servers::pair;
use crate::stage::{JOB, Stage, ask, tell};

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "1500kB/s"];

/// A job that runs slowly into a server that may be stopped.
fn into_one_that_stops() -> (ThrowawayServer, Stage, Process) {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let target = ThrowawayServer::start(&options).unwrap();
    let stage = Stage::on(&pair().0, &target, 60_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    until("a batch in the journal", || {
        (stage.try_status()?["tables"][0]["rows_done"].as_u64()? > 0).then_some(())
    });
    (target, stage, process)
}

#[test]
fn a_log_file_holds_what_the_terminal_was_told_each_line_with_its_time() {
    let stage = Stage::new(2000);
    let log = stage.path("log");
    let logged = ["--log-file", log.to_str().unwrap()];
    tell(&stage.target, "ALTER TABLE audio_downloads DROP COLUMN url");
    let refused = stage.begin(&mut stage.migrate(&logged)).end().assert_code(4);
    tell(&stage.target, "ALTER TABLE audio_downloads ADD COLUMN url text");
    let done = stage.begin(&mut stage.migrate(&logged)).end().assert_code(0);
    let quiet = [&logged[..], &["-q"]].concat();
    let again = stage.begin(&mut stage.migrate(&quiet)).end().assert_code(0);
    assert_eq!(again.stderr, "");

    let text = std::fs::read_to_string(&log).unwrap();
    let said = format!("{}\n{}", refused.stderr, done.stderr);
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = line.strip_prefix("warning: ").unwrap_or(line);
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    assert!(
        said.contains("hint: ") && said.contains(&format!("job {JOB} is complete")),
        "{said}"
    );
    let ends = text.matches("is complete: ").count();
    assert_eq!(ends, 2, "what a quiet run would have said is kept too: {text}");
    for line in text.lines() {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "no time: {line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
}

#[test]
fn readers_that_come_at_once_take_turns_at_the_journal() {
    let stage = Stage::new(500);
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    for _ in 0..6 {
        let begin = |number| {
            let question: &[&str] = match number % 3 {
                0 => &["list"],
                1 => &["status", JOB],
                _ => &["history", JOB],
            };
            stage.begin(&mut stage.command(question))
        };
        let readers: Vec<_> = (0..8).map(begin).collect();
        for reader in readers {
            reader.end().assert_code(0);
        }
    }
}

#[test]
fn whoever_waits_for_a_pause_is_told_what_keeps_it_until_it_is_over() {
    let stage = Stage::new(60_000);
    let process = stage.begin(&mut stage.migrate(&["--batch-rows", "60000", "--max-rate", "300kB/s"]));
    until("rows in flight", || {
        (stage.try_status()?["rows_in_flight"].as_u64()? > 0).then_some(())
    });
    let pausing = stage.begin(&mut stage.command(&["pause", JOB, "--wait"]));
    until("words once more", || {
        pausing.said().contains("still pausing").then_some(())
    });
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    let said = pausing.end().assert_code(0).stderr;
    let told: Vec<_> = said
        .lines()
        .filter(|line| line.contains("still pausing"))
        .collect();
    assert!((1..=12).contains(&told.len()), "{said}");
    assert!(told[0].contains("1 batch in flight"), "{said}");
    let paused = format!("job {JOB} is paused; go on with: longhaul resume {JOB}\n");
    assert!(said.ends_with(&paused), "{said}");
    process.kill();
}

#[test]
fn a_failure_counts_from_when_the_process_that_lives_has_met_it() {
    let (target, stage, process) = into_one_that_stops();
    target.stop(StopMode::Immediate).unwrap();
    stage.until_state("RETRYING");
    // What only waits for its next attempt keeps no pause.
    stage.run(&["pause", JOB, "--wait"]).assert_code(0);
    target.restart().unwrap();

    stage.run(&["resume", JOB]).assert_code(0);
    target.stop(StopMode::Immediate).unwrap();
    stage.until_state("RETRYING");
    process.kill();
    target.restart().unwrap();
    let died = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
    let again = stage.begin(&mut stage.migrate(&SLOW));
    until("a process", || {
        (stage.status()["worker_pid"] == again.pid()).then_some(())
    });
    target.stop(StopMode::Immediate).unwrap();
    let status = stage.until_state("RETRYING");
    assert!(
        status["retrying"]["since"].as_str().unwrap() >= died.as_str(),
        "{status} {died}"
    );
    again.kill();
}

#[test]
fn a_list_right_after_a_job_was_canceled_is_answered() {
    let stage = Stage::new(20_000);
    for _ in 0..3 {
        let process = stage.begin(&mut stage.migrate(&SLOW));
        until("the job", || {
            (stage.try_status()?["worker_pid"] == process.pid()).then_some(())
        });
        stage.run(&["cancel", JOB, "--wait"]).assert_code(0);
        for _ in 0..4 {
            let listed = stage.run(&["list", "--json"]).assert_code(0).stdout;
            let listed: Value = serde_json::from_str(&listed).unwrap();
            assert_eq!(listed["state"], "CANCELED");
        }
        process.end().assert_code(1);
    }
}

#[test]
fn a_server_process_that_is_stopped_is_named_by_its_side() {
    let stage = Stage::new(60_000);
    let process = stage.begin(&mut stage.migrate(&["--batch-rows", "60000", "--max-rate", "300kB/s"]));
    let copying = "SELECT pid FROM pg_stat_activity WHERE application_name = 'longhaul audio_downloads' AND query ~ '^COPY'
        AND datname = current_database() AND state = 'active'";
    let backend = |sql: &str| {
        until("a backend that copies", || {
            Some(ask_if(&stage.source, sql)).filter(|pid| !pid.is_empty())
        })
    };
    let pid = backend(copying);
    let signal = |signal| {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    };
    until("rows that came before it stops", || {
        (stage.status()["rows_in_flight"].as_u64()? > 0).then_some(())
    });
    signal(Signal::STOP);
    let waits = until("words about the source", || {
        let status = stage.status();
        status["waiting_for"]["what"]
            .as_str()
            .filter(|what| what.contains("source"))
            .map(str::to_owned)
    });
    signal(Signal::CONT);
    assert!(waits.contains("the source has sent nothing"), "{waits}");
    process.kill();
}

fn ask_if(url: &str, sql: &str) -> String {
    ask(
        url,
        &format!("SELECT coalesce(min(pid)::text, '') FROM ({sql}) q"),
    )
}

#[test]
fn an_interrupted_job_that_is_paused_names_resume_alone() {
    let stage = Stage::new(20_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    stage.run(&["pause", JOB, "--wait"]).assert_code(0);
    // It looks four times a second.
    std::thread::sleep(Duration::from_secs(1));
    process.interrupt();
    let said = process.end().assert_code(130).stderr;
    let last = said.lines().last().unwrap();
    assert_eq!(
        last,
        format!("job {JOB} is paused; go on with: longhaul resume {JOB}")
    );
}

#[test]
fn an_empty_name_is_refused_in_words() {
    let stage = Stage::new(1);
    for command in ["status", "history", "pause", "cancel", "resume", "verify"] {
        stage
            .run(&[command, ""])
            .assert_code(2)
            .assert_said(&["a job's name is not empty"]);
    }
}

#[test]
fn the_sum_of_a_history_is_what_the_status_says_after_a_second_run_too() {
    let stage = Stage::new(1);
    stage
        .begin(&mut stage.migrate(&[]))
        .end()
        .assert_code(0)
        .assert_said(&["complete: 1 row, ", "1 batch,"]);
    stage.add(2000);
    stage
        .begin(&mut stage.migrate(&["--batch-rows", "500"]))
        .end()
        .assert_code(0);
    let history = stage.run(&["history", JOB]).assert_code(0).stdout;
    let table = &stage.status()["tables"][0];
    assert_eq!(
        (&table["rows_done"], &table["batches_done"]),
        (&2001.into(), &5.into())
    );
    let sum = history.lines().last().unwrap();
    assert!(
        sum.starts_with("in all: 2,001 rows, ") && sum.contains(" in 5 batches; 1 row in 1 batch were"),
        "{sum}"
    );
    let name = [
        "verify",
        JOB,
        "--source",
        &stage.source,
        "--target",
        &stage.target,
    ];
    stage.begin(&mut stage.command(&name)).end().assert_code(0);
    let verifying = format!("{JOB}.verify");
    let history = stage.run(&["history", &verifying]);
    assert!(
        history.stdout.contains("in all: verified 2,001 rows, "),
        "{history:?}"
    );
}

#[test]
fn a_verification_against_receipts_shows_the_warnings_of_the_copy() {
    let stage = Stage::new(10);
    tell(&stage.source, "CREATE TABLE child () INHERITS (audio_downloads)");
    let warning = "other tables inherit from source table";
    stage
        .begin(&mut stage.migrate(&[]))
        .end()
        .assert_code(0)
        .assert_said(&[warning]);
    stage.run(&["verify", JOB]).assert_code(0).assert_said(&[warning]);
}

#[test]
fn a_watch_of_a_job_that_nobody_runs_goes_on_heeds_ctrl_c_and_keeps_nobody_from_the_journal() {
    let stage = Stage::new(20_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(0);
    process.kill();
    let watch = stage.begin(&mut stage.command(&["status", JOB, "--watch"]));
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let began = Instant::now();
        stage.run(&["status", JOB, "--json"]).assert_code(0);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    // The job's own command is not kept waiting either, and the watch sees it through.
    stage
        .begin(&mut stage.migrate(&["--max-rate", "none"]))
        .end()
        .assert_code(0);
    watch.end().assert_code(0);

    stage.add(20_000);
    let process = stage.begin(&mut stage.migrate(&SLOW));
    stage.until_rows(20_000);
    process.kill();
    let watch = stage.begin(&mut stage.command(&["status", JOB, "--watch"]));
    std::thread::sleep(Duration::from_secs(5));
    let began = Instant::now();
    watch.interrupt();
    watch.end().assert_code(130);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    let canceled = stage.run(&["cancel", JOB, "--wait"]);
    canceled.assert_code(0).assert_said(&["is canceled"]);
}

#[test]
fn a_suggested_command_leads_to_the_state_directory_that_was_given() {
    let stage = Stage::new(100);
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    let state = stage.state();
    let state = state.to_str().unwrap();
    let given = stage
        .run(&["status", "nothing", "--state-dir", state])
        .assert_code(2);
    given.assert_said(&[&format!("`longhaul list --state-dir {state}` shows all jobs")]);
    // From the environment, which the next command has as well.
    stage
        .run(&["status", "nothing"])
        .assert_code(2)
        .assert_said(&["`longhaul list` shows all jobs"]);
}

#[test]
fn a_check_waits_for_servers_as_long_as_it_is_told_to() {
    let stage = Stage::new(0);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let source = format!("postgres://a@127.0.0.1:{closed}/d");
    let check = [
        "check",
        "--source",
        &source,
        "--target",
        &stage.target,
        "--table",
        JOB,
    ];
    let began = std::time::Instant::now();
    let ended = stage.run(&[&check[..], &["--wait=3s"]].concat()).assert_code(3);
    assert!(began.elapsed() >= std::time::Duration::from_secs(3), "{ended:?}");
    ended.assert_said(&["source waited for since", "(--wait)"]);
}

#[test]
fn a_file_without_an_end_and_arguments_that_move_a_terminal_are_refused_in_plain_words() {
    let stage = Stage::new(0);
    let endless = stage.run(&["migrate", "--config", "/dev/zero"]).assert_code(2);
    endless.assert_said(&["/dev/zero", "larger than"]);
    for arguments in [
        ["status\x1b[2J\x1b[31m", "a"],
        ["migrate", "--tab\x1b]0;x\x07le"],
        ["list", "--color=\x1b[8m"],
    ] {
        let ended = stage.run(&arguments).assert_code(2);
        assert!(!ended.stderr.contains(['\x1b', '\x07']), "{ended:?}");
    }
}
