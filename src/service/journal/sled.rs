//! The journal on disk, in sled: the only file that names it.
//!
//! Two things sled 0.34.7 does not do by itself are done here. Its `flush` ends in `sync_file_range`, which does not
//! survive a power cut, so each flush is followed by `sync_data` on sled's own file. And damaged bytes make it panic, so
//! every call is caught, its panic text kept off the terminal, and told as [`JournalError::Damaged`].

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::{Journal, JournalError, Record, Write};

/// Enough for the open runs; the rest is read when asked for.
const CACHE_BYTES: u64 = 16 << 20;

/// A journal in a directory of its own. Dropping it releases sled's lock.
pub struct SledJournal {
    tree: sled::Db,
    /// sled's log file, opened a second time for `sync_data`.
    log: File,
    path: PathBuf,
}

impl SledJournal {
    /// Opens the journal in `path`, or makes an empty one there.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        silence_panics_of_sled();
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let tree = guard(path, "opened", || config.open())?;
        let log = File::open(path.join("db")).map_err(|error| io(path, "opened", &error))?;
        // The directory entries too must survive a power cut.
        for directory in [Some(path), path.parent()].into_iter().flatten() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| io(directory, "opened", &error))?;
        }
        Ok(Self {
            tree,
            log,
            path: path.to_owned(),
        })
    }
}

impl Journal for SledJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        guard(&self.path, "read", || {
            Ok(self.tree.get(key)?.map(|value| value.to_vec()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, JournalError> {
        guard(&self.path, "read", || {
            let range = self.tree.range(from.to_vec()..to.to_vec());
            range
                .take(limit)
                .map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    fn apply(&self, writes: &[Write]) -> Result<(), JournalError> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                Write::Delete(key) => batch.remove(key.as_slice()),
            }
        }
        guard(&self.path, "written", || self.tree.apply_batch(batch))
    }

    fn flush(&self) -> Result<(), JournalError> {
        guard(&self.path, "written", || self.tree.flush())?;
        self.log
            .sync_data()
            .map_err(|error| io(&self.path, "written", &error))
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

fn io(path: &Path, operation: &'static str, error: &std::io::Error) -> JournalError {
    JournalError::Io {
        path: path.to_owned(),
        operation,
        cause: error.to_string(),
    }
}

fn guard<T>(
    path: &Path,
    operation: &'static str,
    call: impl FnOnce() -> sled::Result<T>,
) -> Result<T, JournalError> {
    let damaged = |what: String| JournalError::Damaged {
        path: path.to_owned(),
        what,
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            // What sled says when it reads nonsense lengths or offsets.
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::InvalidInput => Err(damaged(format!("sled reads nonsense ({error})"))),
            _ => Err(io(path, operation, &error)),
        },
        Ok(Err(error)) => Err(damaged(format!("sled says: {error}"))),
        Err(_) => Err(damaged("sled gave up on its bytes".to_owned())),
    }
}

/// A panic inside sled is an error of ours, not a text on the terminal.
fn silence_panics_of_sled() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let from_sled = info.location().is_some_and(|at| at.file().contains("sled-0."));
            if !from_sled {
                before(info);
            }
        }));
    });
}
