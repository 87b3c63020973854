//! Clients that others wrote: programs on Temporal's Python SDK against `longhaul server`, also with the server killed
//! half-way, and their histories beside those that a real Temporal server wrote.
//!
//! The programs are the Python files beside this one. The SDK comes from PyPI, once, into a virtual environment below the
//! build's directory; `LONGHAUL_TEST_PYTHON` names a Python that has it already, where PyPI cannot be reached.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

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
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| match std::env::var_os("LONGHAUL_TEST_PYTHON") {
        Some(python) => python.into(),
        None => environment().unwrap_or_else(|error| {
            panic!(
                "there is no Python with Temporal's SDK, and none can be made of PyPI; LONGHAUL_TEST_PYTHON may name one \
                 that has {SDK}: {error}"
            )
        }),
    })
}

fn environment() -> Result<PathBuf, String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(SDK);
    let (python, ready) = (directory.join("bin/python"), directory.join("ready"));
    // Made last: what an interrupted attempt has left is begun anew.
    if !ready.exists() {
        _ = std::fs::remove_dir_all(&directory);
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            SDK,
        ];
        run(Command::new(&python).args(pip))?;
        std::fs::write(&ready, SDK).map_err(|error| error.to_string())?;
    }
    Ok(python)
}

/// Runs one of the scripts beside this file, on the binary.
fn script(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/compat")
        .join(name);
    let mut command = Command::new(python());
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
