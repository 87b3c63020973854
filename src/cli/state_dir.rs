//! The state directory: where it is, that it exists, that it is ours alone and can be written to.
//!
//! What lies in it (journal, lock, socket) belongs to the service; this room only prepares the place. A directory that is
//! open to others is closed where nobody else can have put anything into it, and refused where somebody can.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::exit::ExitStatus;
use super::report::Report;
use crate::connect::{Directory, DirectoryError};

const MODE: u32 = 0o700;
/// The bits of a mode that let others in.
const OPEN: u32 = 0o077;
/// Those that let others write.
const WRITABLE: u32 = 0o022;
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
    /// Another user's, a link, or open to others; or something in it is.
    #[error(transparent)]
    Refused(#[from] DirectoryError),
    /// It cannot be made, or nothing can be written into it.
    #[error("cannot {doing} the state directory {}", .path.display())]
    Io {
        /// `make`, `read` or `write to`.
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

    /// Looks whether it is there, for a command that only asks or speaks to a job; `None` where nothing is. One of ours that others
    /// could read is closed to them; what the operator should be told of that is given back.
    ///
    /// One that is not ours alone is an error, and so is a path that leads through a file.
    pub fn find(&self) -> Result<Option<Vec<String>>, StateDirError> {
        let refused = |error| self.refused("read", error);
        let directory = match Directory::open_ours(&self.path) {
            Err(error) if error.is_missing() => return Ok(None),
            opened => opened.map_err(refused)?,
        };
        let is_open = directory.mode().map_err(refused)? & OPEN != 0;
        if is_open && directory.is_empty().map_err(refused)? {
            return Ok(None);
        }
        self.close(&directory)
            .map(|told| Some(told.into_iter().collect()))
    }

    /// Makes the directory where it is not there, closes it to others, and proves that it can be written to.
    ///
    /// Gives back what the operator should be told. Idempotent.
    pub fn prepare(&self) -> Result<Vec<String>, StateDirError> {
        let directory = self.make()?;
        let told = self.close(&directory)?;
        self.probe(&directory)?;
        if !self.is_signed(&directory)? {
            self.sign(&directory)?;
        }
        Ok(told.into_iter().collect())
    }

    /// Closes it to others where nobody else can have put anything into it, and says so.
    fn close(&self, directory: &Directory) -> Result<Option<String>, StateDirError> {
        let refused = |error| self.refused("write to", error);
        let mode = directory.mode().map_err(refused)?;
        if mode & OPEN == 0 {
            return Ok(None);
        }
        // Nobody else can have put anything into an empty one, nor into one that only its owner could write to.
        let in_use = || StateDirError::InUse {
            path: self.path.clone(),
            mode,
        };
        let only_read = mode & WRITABLE == 0 && self.is_signed(directory)?;
        if !only_read && !directory.is_empty().map_err(refused)? {
            return Err(in_use());
        }
        directory.close_to_others().map_err(refused)?;
        // Until now others may have done so.
        if !only_read && !directory.is_empty().map_err(refused)? {
            return Err(in_use());
        }
        Ok(Some(format!(
            "the state directory {} was open to others (mode {mode:04o}); it is 0700 now",
            self.path.display()
        )))
    }

    /// Whether it has our README.
    fn is_signed(&self, directory: &Directory) -> Result<bool, StateDirError> {
        let signed = directory.has(OURS, FileType::RegularFile);
        signed.map_err(|error| self.refused("read", error))
    }

    /// Leaves the README in it. Another process may be doing the same.
    fn sign(&self, directory: &Directory) -> Result<(), StateDirError> {
        let refused = |error| self.refused("write to", error);
        let mut file = match directory.new_file(OURS) {
            Err(_) if directory.has(OURS, FileType::RegularFile).map_err(refused)? => return Ok(()),
            made => made.map_err(refused)?,
        };
        let written = file.write_all(OURS_TEXT.as_bytes());
        written.map_err(|error| self.failed("write to", error))
    }

    /// Opens the directory, and makes it where it is not there.
    fn make(&self) -> Result<Directory, StateDirError> {
        match Directory::open_ours(&self.path) {
            Err(error) if error.is_missing() => {}
            opened => return opened.map_err(|error| self.refused("read", error)),
        }
        let made = DirBuilder::new().recursive(true).mode(MODE).create(&self.path);
        made.map_err(|error| self.failed("make", error))?;
        Directory::open_ours(&self.path).map_err(|error| self.refused("read", error))
    }

    /// Writes a file and takes it away again: modes say little, to root they say nothing.
    fn probe(&self, directory: &Directory) -> Result<(), StateDirError> {
        let name = format!(".probe-{}", std::process::id());
        let refused = |error| self.refused("write to", error);
        // A dead process may have had this one's id.
        if directory.has(&name, FileType::RegularFile).map_err(refused)? {
            directory.remove(&name).map_err(refused)?;
        }
        let mut file = directory.new_file(&name).map_err(refused)?;
        let written = file.write_all(&[0; PROBE_BYTES]).and_then(|()| file.sync_data());
        let removed = directory.remove(&name).map_err(refused);
        written.map_err(|error| self.failed("write to", error))?;
        removed
    }

    fn refused(&self, doing: &'static str, error: DirectoryError) -> StateDirError {
        match error {
            DirectoryError::Io { source, .. } => self.failed(doing, source),
            error => StateDirError::Refused(error),
        }
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
            Self::InUse { path, .. } => format!(
                "give it a directory of its own, --state-dir {}; or, if all in it is longhaul's and yours: chmod 700 {}",
                path.join("longhaul").display(),
                path.display()
            ),
            Self::Refused(error) => error.hint(),
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
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

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
        assert_eq!(dir.find().expect("readable"), None);
        assert_eq!(dir.prepare().expect("made"), Vec::<String>::new());
        assert_eq!(dir.find().expect("readable"), Some(Vec::new()));
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
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("opened again");
        assert_eq!(dir.prepare().expect("it is known as ours").len(), 1);
        assert_eq!(mode(dir.path()), 0o700);
        // By a command that only asks as well, once.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).expect("opened again");
        let told = dir.find().expect("closed").expect("there").join("\n");
        assert!(told.contains("mode 0750") && told.contains("0700 now"), "{told}");
        assert_eq!(
            (dir.find().expect("readable"), mode(dir.path())),
            (Some(Vec::new()), 0o700)
        );
        // Whoever could write into it could have put the README there as well.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("opened to all");
        let report = Report::from(dir.prepare().expect_err("others could write to it")).render(false);
        assert!(
            report.contains("mode 0777") && report.contains("chmod 700"),
            "{report}"
        );
        assert!(dir.find().is_err());
        assert_eq!(mode(dir.path()), 0o777);
    }

    #[test]
    fn a_command_that_only_asks_leaves_an_empty_directory_as_it_is() {
        let root = tempfile::tempdir().expect("a directory");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("opened");
        assert_eq!(at(root.path()).find().expect("readable"), None);
        assert_eq!(mode(root.path()), 0o755);
    }

    #[test]
    fn a_readme_or_a_probe_that_is_a_link_is_refused_and_what_it_points_to_is_left() {
        let root = tempfile::tempdir().expect("a directory");
        let kept = root.path().join("kept");
        fs::write(&kept, "dear").expect("written");
        for name in [OURS.to_owned(), format!(".probe-{}", std::process::id())] {
            let dir = at(&root.path().join(format!("state{name}")));
            dir.prepare().expect("made");
            let link = dir.path().join(&name);
            let _ = fs::remove_file(&link);
            symlink(&kept, &link).expect("linked");
            let report = Report::from(dir.prepare().expect_err("a link")).render(false);
            assert!(
                report.contains(&format!("{} is a symbolic link", link.display())),
                "{report}"
            );
        }
        assert_eq!(fs::read_to_string(&kept).expect("readable"), "dear");
    }

    #[test]
    fn a_directory_that_is_a_link_is_refused_whether_it_leads_anywhere_or_not() {
        let root = tempfile::tempdir().expect("a directory");
        let there = at(&root.path().join("there"));
        there.prepare().expect("made");
        for end in [there.path().to_owned(), root.path().join("nowhere")] {
            let link = root
                .path()
                .join(format!("to-{}", end.file_name().expect("named").display()));
            symlink(&end, &link).expect("linked");
            for error in [
                at(&link).prepare().expect_err("a link"),
                at(&link).find().expect_err("a link"),
            ] {
                let report = Report::from(error).render(false);
                assert!(
                    report.contains("is a symbolic link") && report.contains("--state-dir"),
                    "{report}"
                );
            }
        }
        assert!(!root.path().join("nowhere").exists());
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
            assert!(at(&path).find().is_err());
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
