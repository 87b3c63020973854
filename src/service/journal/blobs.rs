//! The files that sled keeps beside its log: one for each value, or page of values, that is longer than a quarter of a
//! segment (128 KiB). Its log only names them. sled writes them and goes on: neither they nor their names in the directory
//! are ever synced. That is done here, for those that are new, and a flush that finds none costs a look into the directory.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

/// How files come to survive a power cut. A test puts in one that remembers what would.
pub(super) trait Disk: Send + Sync + 'static {
    /// Makes the bytes of a file durable.
    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Makes the names in a directory durable. `fdatasync` may leave out a name that does not make the directory longer.
    fn sync_names(&self, directory: &File) -> io::Result<()> {
        directory.sync_all()
    }
}

/// The machine's own.
pub(super) struct OwnDisk;

impl Disk for OwnDisk {}

/// The directory of these files, and which of them are synced.
pub(super) struct Blobs {
    directory: PathBuf,
    /// A file gets its name before its bytes. Calls into sled hold this for reading, so that a file which is found while it
    /// is held for writing has all of its bytes.
    writing: RwLock<()>,
    /// A name is never used for a second file: it is the file's place in the log.
    synced: Mutex<HashSet<OsString>>,
}

impl Blobs {
    /// Of the journal in `journal`. Nothing counts as synced: the process before may have died before it came to it.
    pub(super) fn of(journal: &Path) -> Self {
        Self {
            directory: journal.join("blobs"),
            writing: RwLock::default(),
            synced: Mutex::default(),
        }
    }

    /// To be held during each call into sled that may write files: all but its flush, since reads may split or join pages.
    pub(super) fn writing(&self) -> RwLockReadGuard<'_, ()> {
        self.writing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the process before has left is made durable; a journal that is new has no directory yet.
    pub(super) fn sync_found(&self, disk: &dyn Disk) -> io::Result<()> {
        if self.directory.try_exists()? {
            self.sync(disk)?;
        }
        Ok(())
    }

    /// Makes all files that are there durable, and their names.
    pub(super) fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.names()?;
        let new: Vec<_> = found.difference(&synced).collect();
        if !new.is_empty() {
            for name in new {
                match File::open(self.directory.join(name)) {
                    Ok(file) => disk.sync_data(&file)?,
                    // sled removes a file once a durable part of its log names another in its place.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            disk.sync_names(&File::open(&self.directory)?)?;
        }
        *synced = found;
        Ok(())
    }

    fn names(&self) -> io::Result<HashSet<OsString>> {
        let _complete = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        std::fs::read_dir(&self.directory)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    }
}
