//! The binary as an operator runs it, in a clean environment: begun, watched, killed, waited for.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Whatever a test waits for comes within this time, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The binary with a state directory, and nothing of the caller's that would change what it does.
///
/// LONGHAUL_TEST_BINARY names another one: that of an earlier version, to see that a test fails where it should.
pub fn longhaul(state: &Path) -> Command {
    let other = std::env::var_os("LONGHAUL_TEST_BINARY");
    let mut command = Command::new(other.unwrap_or(env!("CARGO_BIN_EXE_longhaul").into()));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let foreign = name.starts_with("PG") || name.starts_with("LONGHAUL");
        if foreign || ["FAILPOINTS", "RUST_LOG", "NO_COLOR"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.env("LONGHAUL_STATE_DIR", state).stdin(Stdio::null());
    command
}

/// A process of the binary; killed when dropped.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How it ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Begins; what it says goes to files in `directory`, so that no full pipe can hold it up.
    pub fn begin(command: &mut Command, directory: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = |suffix| directory.join(format!("run{number}.{suffix}"));
        let (stdout, stderr) = (file("out"), file("err"));
        let open = |path| std::fs::File::create(path).unwrap();
        let child = command
            .stdout(open(&stdout))
            .stderr(open(&stderr))
            .spawn()
            .unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.end()
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// SIGSTOP: it stands still until [`Self::go_on`].
    pub fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// What it has said so far on stderr.
    pub fn said(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let ends = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = read(&self.stderr);
            assert!(
                Instant::now() < ends,
                "it does not end within {DEADLINE:?}: {said}"
            );
            std::thread::sleep(LOOK_EVERY);
        };
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Ended {
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    #[track_caller]
    pub fn assert_said(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
        self
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}
