//! Clients that others wrote: programs on Temporal's Python SDK against `longhaul server`, also with the server killed
//! half-way, and their histories beside those that a real Temporal server wrote.
//!
//! The programs are the Python files beside this one. The SDK comes from PyPI, once, into the virtual environment that
//! `tests/it` uses as well; `LONGHAUL_TEST_PYTHON` names a Python that has it already, where PyPI cannot be reached.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../support/python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Pinned: the histories are of this one.
const SDK: &str = "temporalio==1.35.0";

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{out}{err}")
}

/// Runs to the end; what it says is in the error.
fn run(command: &mut Command) -> Result<String, String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(said(&output)),
        Ok(output) => Err(format!("{command:?}: {}\n{}", output.status, said(&output))),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A Python that has the SDK.
fn interpreter() -> PathBuf {
    match std::env::var_os("LONGHAUL_TEST_PYTHON") {
        Some(python) => python.into(),
        None => python::with(&[SDK]).join("python"),
    }
}

/// Runs one of the scripts beside this file, on the binary.
fn script(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/compat")
        .join(name);
    let mut command = Command::new(interpreter());
    command.arg(path).arg(env!("CARGO_BIN_EXE_longhaul"));
    for (variable, _) in std::env::vars_os() {
        let ours = variable.to_string_lossy().into_owned();
        if ["LONGHAUL", "TEMPORAL", "FAILPOINTS", "RUST_LOG"]
            .iter()
            .any(|it| ours.starts_with(it))
        {
            command.env_remove(variable);
        }
    }
    // Nothing of theirs stays in the sources.
    match run(command.env("PYTHONDONTWRITEBYTECODE", "1")) {
        Ok(said) => print!("{said}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn programs_of_another_sdk_run_survive_a_kill_and_leave_a_real_servers_histories() {
    script("run.py");
}

#[test]
fn a_client_needs_the_certificate_or_the_key_that_the_server_asks_for() {
    script("doors.py");
}
