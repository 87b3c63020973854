//! Copies of a throwaway server's data directory, made by pg_basebackup while it runs: to go back to an older state, and
//! for a standby to begin with. Refuses to know what is in them.

use super::{ServerError, StopMode, ThrowawayServer, directory};
use std::path::Path;

/// A server's state at one moment; dropping it removes it.
#[derive(Debug)]
pub struct Backup {
    directory: tempfile::TempDir,
}

impl ThrowawayServer {
    /// Keeps the state of this server, which runs on: what was committed before the call is in it, what is committed after
    /// its return is not. Unlogged tables are empty in it, and replication slots absent.
    ///
    /// # Errors
    /// Where the server does not run, or without room.
    pub fn backup(&self) -> Result<Backup, ServerError> {
        let directory = directory(self.account)?;
        self.copy_to(&directory.path().join("data"), &[])?;
        Ok(Backup { directory })
    }

    /// Goes back to an older state of this server, on the same port; sessions end as in a crash. As after the restore of a
    /// whole machine, the server does not know that it went back: neither its identifier nor its timeline changes.
    ///
    /// # Errors
    /// Where it does not come up; with the end of its log.
    pub fn restore(&self, backup: Backup) -> Result<(), ServerError> {
        // It may be stopped already; where it still runs, the start fails.
        _ = self.stop(StopMode::Immediate);
        let data = self.data();
        std::fs::remove_dir_all(&data)
            .and_then(|()| std::fs::rename(backup.directory.path().join("data"), &data))
            .map_err(|error| ServerError::Io(format!("put a backup into {}", data.display()), error))?;
        self.restart()
    }

    /// Copies the data directory to one that is not there yet, with the log that makes it consistent.
    pub(super) fn copy_to(&self, data: &Path, more: &[&str]) -> Result<(), ServerError> {
        let data = data.to_string_lossy();
        let port = self.port.to_string();
        let from = ["-h", "127.0.0.1", "-p", &*port, "-U", "postgres"];
        let to = ["-D", &*data, "-X", "stream", "-c", "fast", "-N"];
        let arguments = from.into_iter().chain(to).chain(more.iter().copied());
        self.run("pg_basebackup", arguments)
    }
}
