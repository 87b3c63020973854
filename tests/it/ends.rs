//! Ctrl-C ends a command within five seconds, whatever it waits for; and what a command needs of its machine.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::binary::{Process, until};
use crate::stage::{JOB, Stage, ask, runtime};

const SLOW: [&str; 4] = ["--batch-rows", "500", "--max-rate", "100kB/s"];
/// What is promised.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A process that is stopped for as long as this lives.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// A server that accepts and never says a word.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "postgres://postgres@{}/postgres?connect_timeout=60",
        listener.local_addr().unwrap()
    );
    (listener, url)
}

/// A way to a server that passes on nothing any more once it is told so.
fn falls_silent(url: &str) -> (String, Arc<AtomicBool>) {
    let (front, database) = url.rsplit_once('/').unwrap();
    let (user, server) = front.rsplit_once('@').unwrap();
    let silence = Arc::new(AtomicBool::new(false));
    let (server, is_silent) = (server.to_owned(), Arc::clone(&silence));
    let own = runtime().block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pass_on(from_client, to_server, Arc::clone(&is_silent)));
                tokio::spawn(pass_on(from_server, to_client, Arc::clone(&is_silent)));
            }
        });
        own
    });
    (format!("{user}@{own}/{database}"), silence)
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_silent: Arc<AtomicBool>) {
    let mut buffer = vec![0; 1 << 14];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !is_silent.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Interrupts all of them, and looks how they end.
fn interrupt_all(processes: Vec<(&str, Process)>) {
    let began = Instant::now();
    for (_, process) in &processes {
        process.interrupt();
    }
    for (what, process) in processes {
        let ended = process.end();
        let took = began.elapsed();
        assert!(took < ENDS_WITHIN, "{what}: {took:?}, {ended:?}");
        assert_eq!(ended.code, Some(130), "{what}: {ended:?}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("go on"), "{what}: {ended:?}");
    }
}

#[test]
fn ctrl_c_ends_within_five_seconds_whatever_is_waited_for() {
    let [look, batch, taken, asleep, paused] = [(); 5].map(|()| Stage::new(2000));
    let ((_source, silent_source), (_target, silent_target)) = (silent(), silent());
    let begin_at = |state: &str, source: &str, target: &str| {
        let mut command = look.command(&["migrate", "--table", JOB, "--progress", "none"]);
        command.args(["--source", source, "--target", target]);
        look.begin(command.env("LONGHAUL_STATE_DIR", look.path(state)))
    };
    let mut processes = vec![
        ("a silent source", begin_at("a", &silent_source, &look.target)),
        ("a silent target", begin_at("b", &look.source, &silent_target)),
    ];

    // Paused with nothing in flight, and asleep.
    let pausing = paused.begin(&mut paused.migrate(&["--batch-rows", "200", "--max-rate", "200kB/s"]));
    paused.until_rows(0);
    paused.run(&["pause", JOB]).assert_code(0);
    let sync = asleep.begin(&mut asleep.copy("sync", &["--interval", "1h"]));
    asleep.until_state("SLEEPING");
    processes.push(("a sync that sleeps", sync));

    // A network that falls silent in the middle of a batch.
    let (through, silence) = falls_silent(&batch.target);
    let mut copying = batch.command(&[
        "migrate",
        "--table",
        JOB,
        "--progress",
        "none",
        "--source",
        &batch.source,
    ]);
    let copying = batch.begin(copying.args(["--target", &through]).args(SLOW));
    until("a session that copies", || {
        let copies = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name LIKE 'longhaul%' AND query LIKE 'COPY%' AND state = 'active'";
        (ask(&batch.target, copies) != "0").then_some(())
    });
    silence.store(true, Ordering::SeqCst);
    processes.push(("a network that falls silent in a batch", copying));

    // A take-over that waits for a batch of a stopped process; and a question to that process.
    let owner = taken.begin(&mut taken.migrate(&SLOW));
    taken.until_rows(0);
    let owner_is_stopped = Stopped::new(owner.pid());
    let mut second = taken.migrate(&[]);
    second.env("LONGHAUL_STATE_DIR", taken.path("elsewhere"));
    let second = taken.begin(&mut second);
    let question = taken.begin(&mut taken.command(&["status"]));
    until("a take-over that waits", || {
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE a.datname = current_database() AND NOT l.granted";
        (ask(&taken.target, waits) != "0").then_some(())
    });
    processes.extend([("a take-over", second), ("a question", question)]);

    paused.until_state("PAUSED");
    processes.push(("a paused job", pausing));

    interrupt_all(processes);
    drop(owner_is_stopped);
    // Nothing is lost by it.
    taken.run(&["tune", JOB, "--max-rate", "none"]);
    let owner = owner.end();
    if owner.code != Some(0) {
        taken.begin(&mut taken.migrate(&[])).end().assert_code(0);
    }
    taken.assert_moved();
}

#[test]
fn a_state_directory_that_others_could_change_is_refused_by_every_command() {
    let stage = Stage::new(500);
    let kept = stage.path("kept");
    std::fs::write(&kept, "dear").unwrap();
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
    assert_private(&stage.state());

    let link = stage.path("link");
    symlink(stage.state(), &link).unwrap();
    let lock = stage.state().join("lock");
    let open = std::fs::Permissions::from_mode(0o777);
    let closed = std::fs::Permissions::from_mode(0o700);
    let refuse = |state: &Path, words: &str| {
        let mut commands: Vec<_> = ["status", "list", "history", "pause", "resume", "cancel", "verify"]
            .map(|name| match name {
                "status" | "list" => stage.command(&[name]),
                _ => stage.command(&[name, JOB]),
            })
            .into();
        commands.push(stage.migrate(&[]));
        for command in &mut commands {
            let ended = stage.begin(command.env("LONGHAUL_STATE_DIR", state)).end();
            ended.assert_code(5).assert_said(&["error:", words, "hint:"]);
        }
    };
    refuse(&link, "is a symbolic link");
    std::fs::set_permissions(stage.state(), open).unwrap();
    refuse(&stage.state(), "mode 0777");
    std::fs::set_permissions(stage.state(), closed).unwrap();
    std::fs::remove_file(&lock).unwrap();
    symlink(&kept, &lock).unwrap();
    refuse(&stage.state(), "lock is a symbolic link");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "dear");
    std::fs::remove_file(&lock).unwrap();
    stage.begin(&mut stage.migrate(&[])).end().assert_code(0);
}

/// Nobody but the owner may read anything in it.
fn assert_private(directory: &Path) {
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(directory), 0o700, "{}", directory.display());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_private(&path);
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }
}

#[test]
fn a_state_directory_whose_path_is_too_long_for_a_socket_works_all_the_same() {
    let stage = Stage::new(2000);
    let long = stage.path(&"long".repeat(40));
    assert!(long.as_os_str().len() > 160);
    let at = |mut command: Command| {
        command.env("LONGHAUL_STATE_DIR", &long);
        command
    };
    let process = stage.begin(&mut at(stage.migrate(&SLOW)));
    stage.until_rows(0);
    let told = stage.begin(&mut at(stage.command(&["tune", JOB, "--max-rate", "none"])));
    told.end().assert_code(0).assert_said(&["max rate none"]);
    assert_private(&long);
    process.end().assert_code(0);
    stage.assert_moved();
    assert!(!long.join("socket").exists(), "it is taken away");
}

#[test]
fn too_few_open_files_are_told_before_they_run_out() {
    let stage = Stage::new(500);
    let limited = |limit: &str, arguments: &[&str]| {
        let real = stage.migrate(arguments);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
        command.arg(real.get_program()).args(real.get_args());
        for (name, value) in real.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        stage.begin(&mut command).end()
    };
    // What a command needs that only asks, and what a job needs.
    limited("-n 30", &[])
        .assert_code(5)
        .assert_said(&["the system allows 30", "ulimit -n 48"]);
    limited("-n 100", &["--concurrency", "64"])
        .assert_code(5)
        .assert_said(&["needs 184 open files", "allows 100", "ulimit -n 184"]);
    assert_eq!(stage.rows(), 0);
    // With just what it says it needs, it comes to its end; a soft limit is raised.
    limited("-n 80", &["--concurrency", "12", "--batch-rows", "10"]).assert_code(0);
    stage.assert_moved();
    stage.forget();
    limited("-S -n 20", &[]).assert_code(0);
    stage.assert_moved();
}
