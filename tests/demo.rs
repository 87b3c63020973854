//! The demo as a person sees it: the real binary, real servers, and what is left of it in the temporary directory.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A temporary directory of the demo's own, which servers that root starts as another user can pass through.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(directory.path(), open).expect("it is ours");
    directory
}

fn demo(directory: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", directory.path())
        .env("LONGHAUL_BATCH_ROWS", "7")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn left_in(directory: &tempfile::TempDir) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(directory.path()).expect("it is there");
    entries
        .map(|entry| entry.expect("an entry").file_name())
        .collect()
}

/// Processes whose command line names the directory.
fn running_in(directory: &tempfile::TempDir) -> Vec<String> {
    let name = directory.path().to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&name)).collect()
}

#[test]
fn a_demo_with_two_kills_ends_equal_and_leaves_nothing() {
    let directory = directory();
    let output = demo(&directory, &["--rows", "50000"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said.matches("killed with SIGKILL").count(), 2, "{said}");
    assert_eq!(said.matches("\n  yes ").count(), 3, "{said}");
    assert_eq!(left_in(&directory), [""; 0], "{said}");
    assert_eq!(running_in(&directory), [""; 0], "{said}");
}

#[test]
fn an_interrupted_demo_takes_its_worker_and_its_servers_away() {
    let directory = directory();
    let mut child = demo(&directory, &["--rows", "200000"]).spawn().expect("it runs");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let mut said = String::new();
    for line in lines {
        let line = line.expect("text");
        if line.starts_with("run 1: process") {
            kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
        }
        said += &format!("{line}\n");
    }
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{said}");
    assert!(said.contains("interrupted: the demo ends"), "{said}");
    assert_eq!(left_in(&directory), [""; 0], "{said}");
    assert_eq!(running_in(&directory), [""; 0], "{said}");
}
