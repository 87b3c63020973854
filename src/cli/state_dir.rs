//! The state directory: where it is, that it exists, that it is ours alone and can be written to.
//!
//! What lies in it (journal, lock, socket) belongs to the service; this room only prepares the place. A directory that is
//! open to others and already holds other things is refused rather than closed to them: it may be /tmp.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::exit::ExitStatus;
use super::report::Report;

const MODE: u32 = 0o700;
const OURS: &str = "README";
const OURS_TEXT: &str = "\
This is a state directory of longhaul: the journal of its jobs, and what the process that runs them needs.
Leave it alone while a job runs. If it is lost, the same command finds the ledger on the target and goes on from there.
";
/// Enough to meet a full disk or a used-up quota before a job does.
const PROBE_BYTES: usize = 64 * 1024;

/// A state directory that may not be there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// The platform names no place, there is no home directory.
    #[error("no place for the state directory: there is no home directory")]
    NoHome,
    /// Something else has that name, or one of the path's parts is a file.
    #[error("the state directory {} cannot be made: {} is a file", .path.display(), .file.display())]
    InsideFile {
        /// The state directory.
        path: PathBuf,
        /// The file in its way.
        file: PathBuf,
    },
    /// Open to others, and in use for other things.
    #[error(
        "{} cannot be the state directory: it holds other things, and others may enter it (mode {mode:04o})",
        .path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be made, or nothing can be written into it.
    #[error("cannot {doing} the state directory {}", .path.display())]
    Io {
        /// `make`, `read`, `write to` or `close to others`.
        doing: &'static str,
        /// The state directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StateDir {
    /// Finds the place: the one given, else the platform's; makes nothing.
    pub fn locate(given: Option<&Path>) -> Result<Self, StateDirError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => dirs::state_dir()
                .or_else(dirs::data_local_dir)
                .ok_or(StateDirError::NoHome)?
                .join("longhaul"),
        };
        // Absolute, so that what is said of it, and what is journaled, holds wherever the next command is typed.
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { path })
    }

    /// The directory's path, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there; a path that leads through a file is an error rather than a no.
    pub fn exists(&self) -> Result<bool, StateDirError> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Ok(_) => Err(self.in_the_way()),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// Makes the directory where it is not there, closes it to others, and proves that it can be written to.
    ///
    /// Gives back what the operator should be told. Idempotent.
    pub fn prepare(&self) -> Result<Vec<String>, StateDirError> {
        if !self.exists()? {
            let made = DirBuilder::new().recursive(true).mode(MODE).create(&self.path);
            made.map_err(|error| self.failed("make", error))?;
        }
        let metadata = fs::metadata(&self.path).map_err(|error| self.failed("read", error))?;
        let mode = metadata.mode() & 0o7777;
        let open_to_others = mode & 0o077 != 0;
        let is_ours = self.path.join(OURS).exists();
        if open_to_others && !is_ours && !self.is_empty()? {
            return Err(StateDirError::InUse {
                path: self.path.clone(),
                mode,
            });
        }
        let our_user_id = self.probe().map_err(|error| self.failed("write to", error))?;
        let mut told = Vec::new();
        if open_to_others && metadata.uid() == our_user_id {
            let closed = fs::set_permissions(&self.path, Permissions::from_mode(MODE));
            closed.map_err(|error| self.failed("close to others", error))?;
            told.push(format!(
                "the state directory {} was open to others (mode {mode:04o}); it is 0700 now",
                self.path.display()
            ));
        } else if open_to_others {
            told.push(format!(
                "the state directory {} belongs to another user and is open to others (mode {mode:04o})",
                self.path.display()
            ));
        }
        if !is_ours {
            let written = fs::write(self.path.join(OURS), OURS_TEXT);
            written.map_err(|error| self.failed("write to", error))?;
        }
        Ok(told)
    }

    fn is_empty(&self) -> Result<bool, StateDirError> {
        let mut entries = fs::read_dir(&self.path).map_err(|error| self.failed("read", error))?;
        Ok(entries.next().is_none())
    }

    /// Writes a file and takes it away again: modes say little, to root they say nothing. Gives the user it was written as.
    fn probe(&self) -> io::Result<u32> {
        let path = self.path.join(format!(".probe-{}", std::process::id()));
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&[0; PROBE_BYTES])?;
            file.sync_data()?;
            Ok(file.metadata()?.uid())
        };
        let written = write();
        let removed = fs::remove_file(&path);
        written.and_then(|user_id| removed.map(|()| user_id))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> StateDirError {
        match source.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => self.in_the_way(),
            _ => StateDirError::Io {
                doing,
                path: self.path.clone(),
                source,
            },
        }
    }

    fn in_the_way(&self) -> StateDirError {
        let file = self.path.ancestors().find(|path| path.exists() && !path.is_dir());
        let file = file.unwrap_or(&self.path).to_owned();
        StateDirError::InsideFile {
            path: self.path.clone(),
            file,
        }
    }
}

impl StateDirError {
    /// What the operator may do.
    pub fn hint(&self) -> String {
        let elsewhere = "give another directory with --state-dir or LONGHAUL_STATE_DIR";
        match self {
            Self::NoHome | Self::InsideFile { .. } => elsewhere.to_owned(),
            Self::InUse { path, .. } => {
                format!(
                    "give it a directory of its own, --state-dir {}",
                    path.join("longhaul").display()
                )
            }
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    format!("make room there, or {elsewhere}")
                }
                io::ErrorKind::ReadOnlyFilesystem => format!("that file system is read-only; {elsewhere}"),
                _ => elsewhere.to_owned(),
            },
        }
    }
}

impl From<StateDirError> for Report {
    fn from(error: StateDirError) -> Self {
        Self::new(&error, ExitStatus::Service).with_hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    fn at(path: &Path) -> StateDir {
        StateDir::locate(Some(path)).expect("a path was given")
    }

    #[test]
    fn a_directory_is_made_with_its_parents_for_its_owner_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = at(&root.path().join("a/b/state"));
        assert!(!dir.exists().expect("readable"));
        assert_eq!(dir.prepare().expect("made"), Vec::<String>::new());
        assert!(dir.exists().expect("readable"));
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(dir.prepare().expect("prepared again"), Vec::<String>::new());
        let left: Vec<_> = fs::read_dir(dir.path())
            .expect("readable")
            .map(|e| e.expect("entry").file_name())
            .collect();
        assert_eq!(left, [OURS]);
    }

    #[test]
    fn an_open_directory_of_ours_is_closed_and_that_is_said() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = at(&root.path().join("state"));
        fs::create_dir(dir.path()).expect("made");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("opened");
        let told = dir.prepare().expect("prepared").join("\n");
        assert!(told.contains("mode 0755") && told.contains("0700 now"), "{told}");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("opened again");
        assert_eq!(dir.prepare().expect("it is known as ours").len(), 1);
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[test]
    fn an_open_directory_with_other_things_in_it_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("letter"), "dear").expect("written");
        fs::set_permissions(root.path(), Permissions::from_mode(0o1777)).expect("opened");
        let report = Report::from(at(root.path()).prepare().expect_err("it is in use"));
        assert_eq!(report.status(), ExitStatus::Service);
        assert!(
            report.render(false).contains("mode 1777"),
            "{}",
            report.render(false)
        );
        assert_eq!(mode(root.path()), 0o1777);
    }

    #[test]
    fn a_path_through_a_file_is_refused_with_both_named() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("afile");
        fs::write(&file, "x").expect("written");
        for path in [file.clone(), file.join("state"), file.join("deep/state")] {
            let error = at(&path).prepare().expect_err("a file is in the way").to_string();
            assert!(
                error.ends_with(&format!("{} is a file", file.display())),
                "{error}"
            );
            assert!(at(&path).exists().is_err());
        }
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_refused_with_the_path() {
        // Not even root writes there, whatever the modes say.
        let error = at(Path::new("/proc/self/state"))
            .prepare()
            .expect_err("no directories there");
        assert!(error.to_string().contains("/proc/self/state"), "{error}");
        let report = Report::from(error).render(false);
        assert!(
            report.contains("caused by") && report.contains("--state-dir"),
            "{report}"
        );
    }
}
