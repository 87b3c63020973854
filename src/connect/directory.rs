//! The state directory as one open handle: it is ours alone, and so is what lies in it, or it is refused.
//!
//! It is opened once, without following a symbolic link, and judged by the handle. Files in it are opened through the
//! handle, without following one either, so that nobody who may write beside it can put another file in their place.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// For its owner alone.
const PRIVATE: u32 = 0o700;
/// Unix sockets of every system take a path of so many bytes.
const SOCKET_PATH_MAX: usize = 103;

/// Why a state directory, or what lies in it, is refused.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Who made the link decides what is written to.
    #[error("{} is a symbolic link", .path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// Its owner could read the journal and put words into it.
    #[error("{} belongs to user {owner}, and this is user {user}", .path.display())]
    Foreign {
        /// The directory or file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Others may read it, or worse.
    #[error("the state directory {} is open to others (mode {mode:04o})", .path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something else has the name.
    #[error("{} is not a {expected}", .path.display())]
    Kind {
        /// What has the name.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// The system refuses.
    #[error("cannot open {}", .path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirectoryError {
    /// Whether nothing is there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the operator may do.
    #[must_use]
    pub fn hint(&self) -> String {
        let elsewhere = "give another directory with --state-dir or LONGHAUL_STATE_DIR";
        match self {
            Self::Link { path } => match path.canonicalize() {
                Ok(end) => format!("name the place itself, {}, or {elsewhere}", end.display()),
                Err(_) => format!("take the link away, or {elsewhere}"),
            },
            Self::Foreign { owner, .. } => format!("run longhaul as user {owner}, or {elsewhere}"),
            Self::Open { path, .. } => format!(
                "if nobody else has put anything into it: chmod 700 {}; else {elsewhere}",
                path.display()
            ),
            Self::Kind { .. } | Self::Io { .. } => elsewhere.to_owned(),
        }
    }
}

/// An open state directory that belongs to this process's user.
#[derive(Debug)]
pub struct Directory {
    handle: File,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory that is ours and closed to others.
    ///
    /// # Errors
    /// Whatever it is else, nothing in it is looked at.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let directory = Self::open_ours(path)?;
        match directory.mode()? {
            mode if mode & !PRIVATE & 0o777 == 0 => Ok(directory),
            mode => Err(DirectoryError::Open {
                path: path.to_owned(),
                mode,
            }),
        }
    }

    /// Opens a directory that is ours, closed to others or not.
    ///
    /// # Errors
    /// As [`Self::open`], but for its mode.
    pub fn open_ours(path: &Path) -> Result<Self, DirectoryError> {
        // Without a slash at its end, which would follow a link.
        let path: PathBuf = path.components().collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP if path.is_symlink() => DirectoryError::Link { path: path.clone() },
            error => refused(&path, error),
        })?;
        let directory = Self {
            handle: handle.into(),
            path,
        };
        let stat = rustix::fs::fstat(&directory.handle).map_err(|error| refused(&directory.path, error))?;
        must_be_ours(&directory.path, &stat)?;
        Ok(directory)
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its mode now, without its type.
    ///
    /// # Errors
    /// `Io`.
    pub fn mode(&self) -> Result<u32, DirectoryError> {
        let metadata = self.handle.metadata();
        let metadata = metadata.map_err(|source| self.io(source))?;
        Ok(metadata.mode() & 0o7777)
    }

    /// Gives it mode 0700.
    ///
    /// # Errors
    /// `Io`.
    pub fn close_to_others(&self) -> Result<(), DirectoryError> {
        rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(PRIVATE)).map_err(|error| self.io(error.into()))
    }

    /// Whether nothing lies in it.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_empty(&self) -> Result<bool, DirectoryError> {
        let mut entries = rustix::fs::Dir::read_from(&self.handle).map_err(|error| self.io(error.into()))?;
        let other = entries.find(|entry| {
            entry
                .as_ref()
                .is_ok_and(|entry| ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()))
        });
        Ok(other.is_none())
    }

    /// Whether there is an entry of that name; one that is not ours, or of another kind, is an error rather than a yes.
    ///
    /// # Errors
    /// `Link`, `Foreign`, `Kind`, `Io`.
    pub fn has(&self, name: &str, kind: FileType) -> Result<bool, DirectoryError> {
        let path = self.path.join(name);
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => judge(&path, &stat, kind).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(refused(&path, error)),
        }
    }

    /// The inode that has a name now.
    ///
    /// # Errors
    /// `Io`.
    pub fn inode(&self, name: &str) -> Result<Option<u64>, DirectoryError> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_ino)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(refused(&self.path.join(name), error)),
        }
    }

    /// Opens a file for reading and writing, and makes it where it is not there.
    ///
    /// # Errors
    /// `Link`, `Foreign`, `Kind`, `Io`; the file is then as it was.
    pub fn file(&self, name: &str) -> Result<File, DirectoryError> {
        let path = self.path.join(name);
        // A FIFO would make the opening wait.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR);
        let file = opened.map_err(|error| match error {
            Errno::LOOP => DirectoryError::Link { path: path.clone() },
            error => refused(&path, error),
        })?;
        let stat = rustix::fs::fstat(&file).map_err(|error| refused(&path, error))?;
        judge(&path, &stat, FileType::RegularFile)?;
        Ok(file.into())
    }

    /// Makes a file that is not there.
    ///
    /// # Errors
    /// `Io`, of kind `AlreadyExists` where anything has the name.
    pub fn new_file(&self, name: &str) -> Result<File, DirectoryError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| refused(&self.path.join(name), error))
    }

    /// Removes a file; a link is removed, and not what it points to.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        rustix::fs::unlinkat(&self.handle, name, AtFlags::empty())
            .map_err(|error| refused(&self.path.join(name), error))
    }

    /// A path by which a socket of that name can be bound or reached, for as long as this lives: where the directory's own
    /// is too long for a socket, the one that leads through its handle.
    #[must_use]
    pub fn socket_path(&self, name: &str) -> PathBuf {
        use std::os::fd::AsRawFd;
        let path = self.path.join(name);
        let handles = Path::new("/proc/self/fd");
        if path.as_os_str().len() <= SOCKET_PATH_MAX || !handles.is_dir() {
            return path;
        }
        handles.join(self.handle.as_raw_fd().to_string()).join(name)
    }

    fn io(&self, source: io::Error) -> DirectoryError {
        DirectoryError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

fn judge(path: &Path, stat: &Stat, kind: FileType) -> Result<(), DirectoryError> {
    let path = path.to_owned();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Err(DirectoryError::Link { path }),
        found if found == kind => must_be_ours(&path, stat),
        _ => Err(DirectoryError::Kind {
            path,
            expected: match kind {
                FileType::Socket => "socket",
                FileType::Directory => "directory",
                _ => "file",
            },
        }),
    }
}

fn must_be_ours(path: &Path, stat: &Stat) -> Result<(), DirectoryError> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid == user {
        return Ok(());
    }
    Err(DirectoryError::Foreign {
        path: path.to_owned(),
        owner: stat.st_uid,
        user,
    })
}

fn refused(path: &Path, error: Errno) -> DirectoryError {
    DirectoryError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory of ours, and one with mode 0700 in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("state");
        std::fs::create_dir(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("closed");
        (root, path)
    }

    #[test]
    fn a_link_to_a_directory_is_refused_with_a_slash_at_its_end_and_without() {
        let (root, path) = place();
        let link = root.path().join("link");
        symlink(&path, &link).expect("linked");
        let slash = PathBuf::from(format!("{}/", link.display()));
        for path in [link.clone(), slash, link.join(".")] {
            let error = Directory::open(&path).expect_err("a link");
            assert!(matches!(error, DirectoryError::Link { .. }), "{error:?}");
        }
        Directory::open(&path).expect("the place itself");
    }

    #[test]
    fn a_directory_of_another_user_or_open_to_others_is_refused() {
        let (_root, path) = place();
        let modes = [0o755, 0o701, 0o770, 0o1777];
        for mode in modes {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("opened");
            let error = Directory::open(&path).expect_err("open to others");
            assert!(error.to_string().contains(&format!("mode {mode:04o}")), "{error}");
            assert!(error.hint().contains("chmod 700"), "{}", error.hint());
        }
        // Of root where this is not root, and the other way round.
        let foreign = match rustix::process::geteuid().is_root() {
            true => {
                std::os::unix::fs::chown(&path, Some(65_534), None).expect("root may");
                path
            }
            false => PathBuf::from("/"),
        };
        let error = Directory::open(&foreign).expect_err("another user's");
        assert!(matches!(error, DirectoryError::Foreign { .. }), "{error:?}");
    }

    #[test]
    fn a_file_that_is_a_link_is_neither_opened_nor_changed() {
        let (root, path) = place();
        let kept = root.path().join("kept");
        std::fs::write(&kept, "dear").expect("written");
        symlink(&kept, path.join("lock")).expect("linked");
        symlink(root.path().join("nowhere"), path.join("dangling")).expect("linked");
        let directory = Directory::open(&path).expect("ours");
        for name in ["lock", "dangling"] {
            let error = directory.file(name).expect_err("a link");
            assert!(matches!(error, DirectoryError::Link { .. }), "{error:?}");
            let error = directory.has(name, FileType::RegularFile).expect_err("a link");
            assert!(matches!(error, DirectoryError::Link { .. }), "{error:?}");
            let error = directory.new_file(name).expect_err("a link");
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&kept).expect("readable"), "dear");
        assert!(!root.path().join("nowhere").exists());
        std::fs::create_dir(path.join("socket")).expect("made");
        let error = directory
            .has("socket", FileType::Socket)
            .expect_err("a directory");
        assert!(error.to_string().ends_with("is not a socket"), "{error}");
    }
}
