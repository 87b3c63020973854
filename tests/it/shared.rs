//! One state directory, many processes: one serves the journal, and when it goes another does.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::{Process, until};
use crate::stage::{JOB, Stage, ask, tell};

const JOBS: usize = 10;
const ROWS: u64 = 4000;
/// So slow that every job outlives the kills.
const SLOW: [&str; 6] = [
    "--batch-rows",
    "100",
    "--concurrency",
    "1",
    "--max-rate",
    "20kB/s",
];
/// What the service says who has it.
const LOCK: &str = "lock";

fn table(number: usize) -> String {
    format!("t{number}")
}

/// Ten tables that are alike, and a job for each, in a process of its own.
fn ten() -> (Stage, Vec<Process>) {
    let stage = Stage::new(0);
    for number in 0..JOBS {
        let table = table(number);
        let create = format!("CREATE TABLE {table} (id int PRIMARY KEY, text text)");
        [&stage.source, &stage.target]
            .iter()
            .for_each(|url| tell(url, &create));
        tell(
            &stage.source,
            &format!(
                "INSERT INTO {table} SELECT i, md5(i::text) || repeat('x', 100) FROM generate_series(1, {ROWS}) i"
            ),
        );
    }
    let begin = |number| stage.begin(&mut stage.copy_of(&table(number), "migrate", &SLOW));
    let processes = (0..JOBS).map(begin).collect();
    (stage, processes)
}

/// What `list` says of all jobs.
fn list(stage: &Stage) -> Vec<Value> {
    let listed = stage.run(&["list", "--json"]).assert_code(0);
    let jobs = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    jobs.collect()
}

fn owner(stage: &Stage) -> Option<u32> {
    std::fs::read_to_string(stage.state().join(LOCK))
        .ok()?
        .parse()
        .ok()
}

fn rows(stage: &Stage, number: usize) -> u64 {
    let count = format!("SELECT count(*) FROM {}", table(number));
    ask(&stage.target, &count).parse().expect("a number")
}

/// The rows of a table, computed by PostgreSQL.
fn sum(table: &str) -> String {
    format!(
        "SET timezone = 'UTC'; SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)::numeric) FROM {table} t"
    )
}

#[test]
fn ten_jobs_share_a_state_directory_and_go_on_when_those_that_serve_it_are_killed() {
    let (stage, mut processes) = ten();
    until("ten jobs that run", || {
        let jobs = list(&stage);
        let run = jobs.iter().filter(|job| job["state"] == "RUNNING").count();
        (run == JOBS).then_some(())
    });
    for _ in 0..3 {
        let pid = until("a process that serves", || {
            let pid = owner(&stage)?;
            processes
                .iter()
                .any(|process| process.pid() == pid)
                .then_some(pid)
        });
        let number = processes
            .iter()
            .position(|process| process.pid() == pid)
            .expect("just seen");
        let job = processes.remove(number);
        let began = Instant::now();
        assert_eq!(job.kill().signal, Some(9));
        let jobs = list(&stage);
        let took = began.elapsed();
        assert_eq!(jobs.len(), JOBS, "all are seen, whoever serves");
        let run = jobs.iter().filter(|job| job["worker_pid"].is_number()).count();
        assert_eq!(run, processes.len(), "those that live are known to: {jobs:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let moved = |stage: &Stage| (0..JOBS).map(|number| rows(stage, number)).sum::<u64>();
        let before = moved(&stage);
        until("rows that move", || (moved(&stage) > before).then_some(()));
    }
    // The others are let run, and end as if nothing had been.
    let lives = |job: &Value| job["worker_pid"].is_number();
    for job in list(&stage).iter().filter(|job| lives(job)) {
        let name = job["job"].as_str().expect("a name");
        stage.run(&["tune", name, "--max-rate", "none"]).assert_code(0);
    }
    for process in processes {
        process.end().assert_code(0).assert_said(&["is complete"]);
    }
    for number in 0..JOBS {
        let again = stage.begin(&mut stage.copy_of(&table(number), "migrate", &["--max-rate", "none"]));
        again.end().assert_code(0);
        let sum = sum(&table(number));
        assert_eq!(ask(&stage.source, &sum), ask(&stage.target, &sum));
    }
}

/// A stage whose journal the process of another job serves, one that takes far longer than a test.
fn served_by_another() -> (Stage, Process) {
    let stage = Stage::new(20_000);
    tell(
        &stage.source,
        "CREATE TABLE slow (id int PRIMARY KEY); INSERT INTO slow SELECT generate_series(1, 20000)",
    );
    tell(&stage.target, "CREATE TABLE slow (id int PRIMARY KEY)");
    let slow = ["--batch-rows", "100", "--concurrency", "1", "--max-rate", "1kB/s"];
    let serves = stage.begin(&mut stage.copy_of("slow", "migrate", &slow));
    until("a process that serves", || {
        owner(&stage).filter(|pid| *pid == serves.pid())
    });
    until("its job", || stage.try_status_of("slow"));
    (stage, serves)
}

#[test]
fn a_killed_job_beside_the_one_that_serves_goes_on_at_once_in_its_next_process() {
    let (stage, serves) = served_by_another();
    let beside = stage.begin(&mut stage.migrate(&["--batch-rows", "500", "--max-rate", "1MB/s"]));
    stage.until_rows(0);
    assert_eq!(beside.kill().signal, Some(9));
    let began = Instant::now();
    stage
        .begin(&mut stage.migrate(&["--max-rate", "none"]))
        .end()
        .assert_code(0);
    // Its batches would be waited for a minute long, until their heartbeats are missed.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(ask(&stage.source, &sum(JOB)), ask(&stage.target, &sum(JOB)));
    serves.kill();
}

#[test]
fn a_job_says_that_the_process_which_serves_its_journal_stands_still_and_goes_on_when_it_does() {
    let (stage, serves) = served_by_another();
    let beside = stage.begin(&mut stage.migrate(&["--batch-rows", "500", "--max-rate", "200kB/s"]));
    stage.until_rows(0);
    serves.stop();
    let words = format!(
        "process {}, which serves the journal of the state directory, does not answer",
        serves.pid()
    );
    until("words about it", || beside.said().contains(&words).then_some(()));
    serves.go_on();
    until("words that it is over", || {
        beside
            .said()
            .contains("the journal is served again")
            .then_some(())
    });
    // Ctrl-C needs nobody's answer.
    serves.stop();
    let began = Instant::now();
    beside.interrupt();
    beside.end().assert_code(130);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    serves.go_on();
    stage
        .begin(&mut stage.migrate(&["--max-rate", "none"]))
        .end()
        .assert_code(0);
    assert_eq!(ask(&stage.source, &sum(JOB)), ask(&stage.target, &sum(JOB)));
    serves.kill();
}

#[test]
fn a_command_that_begins_as_the_process_that_serves_dies_serves_itself() {
    for arguments in [vec!["list", "--json"], vec!["server", "--listen", "127.0.0.1:0"]] {
        let stage = Stage::new(0);
        let server = ["server", "--listen", "127.0.0.1:0"];
        let serves = stage.begin(&mut stage.command(&server));
        until("a process that serves", || {
            serves.said().contains("listening on").then_some(())
        });
        // It takes connections, and answers none.
        serves.stop();
        let begun = stage.begin(&mut stage.command(&arguments));
        std::thread::sleep(Duration::from_secs(1));
        serves.kill();
        if arguments[0] == "list" {
            begun.end().assert_code(0);
            continue;
        }
        until("a process that serves in its place", || {
            begun.said().contains("listening on").then_some(())
        });
        begun.terminate();
        begun.end().assert_code(0);
    }
}
