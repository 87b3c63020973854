//! Where the fixtures are, and the binary over a copy of one: opening a journal makes files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The folder of one version's fixtures, `journals` or `histories`.
pub fn folder(kind: &str, version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(kind)
        .join(version)
}

/// What is in that folder.
pub fn all(kind: &str, version: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(kind, version)).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty(), "there is no {kind} of {version}");
    found
}

pub fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// A state directory with a journal in it.
pub struct Thawed(TempDir);

/// A journal where it may be written to.
pub fn thawed(journal: &Path) -> Thawed {
    let state = tempfile::tempdir().unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(state.path(), closed).unwrap();
    copy(journal, &state.path().join("journal"));
    Thawed(state)
}

impl Thawed {
    /// The binary on it, with nothing of the caller's.
    pub fn longhaul(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(arguments)
            .env_clear()
            .env("LONGHAUL_STATE_DIR", self.0.path())
            .output()
            .unwrap()
    }

    /// Ends with that status, and says these words.
    #[track_caller]
    pub fn assert_says(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.longhaul(arguments);
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: `{word}` is not in: {said}");
        }
    }

    /// All jobs of the journal, as `status --json` shows them.
    pub fn statuses(&self) -> Vec<Value> {
        let output = self.longhaul(&["status", "--json"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
