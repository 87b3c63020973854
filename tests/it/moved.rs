//! The address is not the job: what counts is the database that answers. And servers that are not there are waited for, as
//! long as was asked.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::binary::{Process, until};
use crate::proxy::{Cut, proxy};
use crate::servers::pair;
use crate::stage::{JOB, Stage, tell};

const ROWS: u64 = 20_000;
/// Slow enough to be killed on the way.
const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "300KB/s"];

/// Another address of a server, until it is dropped.
struct Road {
    _runtime: Runtime,
    url: String,
}

impl Road {
    fn to(url: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let port = port_of(url);
        let own = runtime.block_on(proxy(port, Arc::default(), Cut::Answer));
        Self {
            _runtime: runtime,
            url: with_port(url, own),
        }
    }
}

fn port_of(url: &str) -> u16 {
    let (address, _) = url.rsplit_once('/').unwrap();
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn with_port(url: &str, port: u16) -> String {
    url.replace(&format!(":{}/", port_of(url)), &format!(":{port}/"))
}

fn between(stage: &Stage, source: &str, target: &str, more: &[&str]) -> Command {
    let mut command = stage.command(&["migrate", "--table", JOB, "--progress", "none"]);
    command.args(["--source", source, "--target", target]).args(more);
    command
}

/// A migrate that is on its way.
fn running(stage: &Stage, source: &str, target: &str) -> Process {
    let rows = stage.rows();
    let process = stage.begin(&mut between(stage, source, target, &SLOW));
    stage.until_rows(rows + 500);
    process
}

#[test]
fn a_job_goes_on_whatever_address_leads_to_its_databases_and_while_its_table_has_no_name() {
    let stage = Stage::new(ROWS);
    running(&stage, &stage.source, &stage.target).kill();
    let moved = |url: &str| url.replace("127.0.0.1", "localhost") + "?sslmode=prefer";
    let (source, target) = (moved(&stage.source), moved(&stage.target));
    let before = stage.status()["run_id"].clone();
    let process = running(&stage, &source, &target);
    tell(&stage.source, "ALTER TABLE audio_downloads RENAME TO away");
    let status = until("an attempt without the table", || {
        let status = stage.status();
        let failed = status["pending_activities"][0]["last_failure"]
            .as_str()?
            .to_owned();
        failed.contains("does not exist").then_some(status)
    });
    assert_eq!(status["run_id"], before, "the same run of the same workflow");
    tell(&stage.source, "ALTER TABLE away RENAME TO audio_downloads");
    stage.run(&["tune", JOB, "--max-rate", "none"]).assert_code(0);
    process.end().assert_code(0);
    stage.assert_moved();
}

#[test]
fn another_database_under_the_name_of_a_job_is_refused_and_both_are_named() {
    let stage = Stage::new(ROWS);
    running(&stage, &stage.source, &stage.target).kill();
    let rows = stage.rows();
    let name = stage.source.rsplit_once('/').unwrap().1;
    // Of that name on the other server; and another one on the same.
    let sibling = format!("{name}_sibling");
    for server in [&pair().0, &pair().1] {
        tell(
            &server.url("postgres"),
            &format!("CREATE DATABASE {sibling} TEMPLATE template0"),
        );
        tell(
            &server.url(&sibling),
            "CREATE TABLE audio_downloads (id bigint PRIMARY KEY)",
        );
    }
    let here = format!("database {name} of cluster");
    let there = format!("database {sibling} of cluster");
    for (source, target, words) in [
        (
            pair().0.url(&sibling),
            stage.target.clone(),
            ["its source is", &there],
        ),
        (
            stage.source.clone(),
            pair().1.url(&sibling),
            ["its target is", &there],
        ),
    ] {
        let ended = stage.begin(&mut between(&stage, &source, &target, &[])).end();
        let ended = ended.assert_code(2).assert_said(&words);
        ended.assert_said(&["there is a job", &here, "--name", "--restart", "longhaul resume"]);
    }
    let elsewhere = pair().1.url(&sibling);
    let wrong = ["resume", JOB, "--target", &elsewhere, "--progress", "none"];
    stage
        .run(&wrong)
        .assert_code(2)
        .assert_said(&["the job's target is", &here, &there, "leave --source"]);
    let wrong = ["verify", JOB, "--target", &elsewhere, "--progress", "none"];
    stage
        .run(&wrong)
        .assert_code(2)
        .assert_said(&["the job's target is", &here, &there]);
    assert!(stage.rows() >= rows, "nothing was touched");
    // The way out, for who means it.
    tell(&elsewhere, "DROP TABLE audio_downloads");
    let table = "CREATE TABLE audio_downloads (id bigint PRIMARY KEY, url text, title text, duration_ms int, checksum bytea,
        tags text[], meta jsonb, created_at timestamptz)";
    tell(&elsewhere, table);
    let restart = ["--restart", "--max-rate", "none"];
    stage
        .begin(&mut between(&stage, &stage.source, &elsewhere, &restart))
        .end()
        .assert_code(0);
}

#[test]
fn resume_points_a_job_at_where_its_servers_are_now_and_it_stays_there_until_it_gives_up() {
    let stage = Stage::new(ROWS);
    let (old, new) = (Road::to(&stage.target), Road::to(&stage.target));
    let hasty = [&SLOW[..], &["--give-up-after", "1s"]].concat();
    let process = stage.begin(&mut between(&stage, &stage.source, &old.url, &hasty));
    stage.until_rows(1000);
    let plain = ["resume", JOB, "--progress", "none"];
    let moved = [&plain[..], &["--target", &new.url]].concat();
    stage
        .run(&moved)
        .assert_code(2)
        .assert_said(&["runs job", "interrupt that process"]);
    process.kill();
    drop(old);
    stage.run(&plain).assert_code(4).assert_said(&["refused"]);
    let more_rows = |process: Process| {
        stage.until_rows(stage.rows() + 500);
        process
    };
    more_rows(stage.begin(&mut stage.command(&moved))).kill();
    let process = more_rows(stage.begin(&mut stage.command(&plain)));
    drop(new);
    let ended = process.end().assert_code(1);
    ended.assert_said(&[
        "given up after",
        "of trying again",
        "target",
        "the same command continues",
    ]);
    let fast = ["--max-rate", "none", "--give-up-after", "never"];
    stage
        .begin(&mut between(&stage, &stage.source, &stage.target, &fast))
        .end()
        .assert_code(0);
    stage.assert_moved();
}

#[test]
fn servers_that_are_not_there_yet_are_waited_for_before_a_job_starts() {
    let stage = Stage::new(100);
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let source = with_port(&stage.source, port);
    let ended = stage
        .begin(&mut between(&stage, &source, &stage.target, &["--wait=1s"]))
        .end();
    ended
        .assert_code(3)
        .assert_said(&["refused", "waited for since", "it was waited for 1s"]);
    let process = stage.begin(&mut between(&stage, &source, &stage.target, &["--wait"]));
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap()
    });
    let to = port_of(&stage.source);
    runtime.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    process
        .end()
        .assert_code(0)
        .assert_said(&["waited for since", "reached after"]);
    stage.assert_moved();
}
