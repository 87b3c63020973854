//! The journal on disk, in sled: the only file that names it.
//!
//! Three things sled 0.34.7 does not do by itself are done here. Its `flush` ends in `sync_file_range`, which does not
//! survive a power cut, so each flush is followed by `sync_data` on sled's own file. It syncs no large values, which it
//! keeps in files of their own, so each flush syncs those that are new (`blobs`). And damaged bytes make it panic, so every
//! call is caught, its panic text kept off the terminal, and told as [`JournalError::Damaged`]. After a batch that it could
//! not write it would wait for ever, at the next flush or on the way out: then it is not called again.

use std::any::Any;
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::blobs::{Blobs, Disk, OwnDisk};
use super::{Journal, JournalError, Record, Write};

/// Enough for the open runs; the rest is read when asked for.
const CACHE_BYTES: u64 = 16 << 20;

/// sled's own file.
const LOG: &str = "db";
/// The file beside sled's that says how far the flushes have come.
const MARK: &str = "mark";
/// As many as sled keeps ready.
const THREADS: usize = 7;
/// How long a file that was closed in this process may stay locked.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

/// A journal in a directory of its own. Dropping it releases sled's lock.
pub struct SledJournal {
    tree: sled::Db,
    /// sled's log file, opened a second time for `sync_data`.
    log: File,
    ahead: Ahead,
    blobs: Blobs,
    disk: Arc<dyn Disk>,
    /// Held while a batch is applied, and from the last look for new blobs to the end of sled's flush: the log that is written
    /// names none that is not synced.
    batch: Mutex<()>,
    /// A batch failed on the way: sled's log has a hole, and whatever waits for what comes after it waits for ever.
    broken: AtomicBool,
    /// How far the flushes have come, 8 bytes, little-endian.
    mark: File,
    path: PathBuf,
    /// Let go of after sled.
    held: Option<Box<dyn Any + Send + Sync>>,
}

impl SledJournal {
    /// Opens the journal in `path`, or makes an empty one there.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_on(path, Arc::new(OwnDisk))
    }

    pub(super) fn open_on(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, JournalError> {
        silence_panics_of_sled();
        threads_can_be_had().map_err(|error| io(path, "opened", &error))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| io(path, "opened", &error))?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        let blobs = Blobs::of(path);
        // Before sled writes a snapshot that names them.
        blobs
            .sync_found(disk.as_ref())
            .map_err(|error| io(path, "opened", &error))?;
        Ahead::take_away(&path.join(LOG)).map_err(|error| io(path, "opened", &error))?;
        let tree = open_when_released(path, &config)?;
        let options = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .clone();
        let mark = options
            .open(path.join(MARK))
            .map_err(|error| io(path, "opened", &error))?;
        let log = options
            .open(path.join(LOG))
            .map_err(|error| io(path, "opened", &error))?;
        close_to_others(path).map_err(|error| io(path, "opened", &error))?;
        // The directory entries too must survive a power cut.
        for directory in [Some(path), path.parent()].into_iter().flatten() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|error| io(directory, "opened", &error))?;
        }
        // What is read from now on is acted on, and may come from a process that died before its flush had ended.
        disk.sync_data(&log).map_err(|error| io(path, "opened", &error))?;
        Ok(Self {
            tree,
            log,
            ahead: Ahead::default(),
            blobs,
            disk,
            batch: Mutex::default(),
            broken: AtomicBool::new(false),
            mark,
            path: path.to_owned(),
            held: None,
        })
    }

    /// The same journal, which lets go of what keeps others away only when it is closed itself.
    pub fn holding(mut self, lock: impl Any + Send + Sync) -> Self {
        self.held = Some(Box::new(lock));
        self
    }
}

/// sled does its work on threads that it makes as it goes, and waits for ever where the system refuses it all of them.
fn threads_can_be_had() -> std::io::Result<()> {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, wait).map(drop);
        let spawned = (0..THREADS).try_for_each(spawn);
        drop(closed);
        spawned
    })
}

/// The directory and what lies in it are for their owner alone, also where a version before this one made them. What sled
/// makes later in the directory is, since nobody else may enter it.
fn close_to_others(path: &Path) -> std::io::Result<()> {
    let close = |path: &Path, mode| {
        let found = std::fs::symlink_metadata(path)?;
        match found.permissions().mode() & 0o077 {
            0 => Ok(()),
            _ if found.is_symlink() => Ok(()),
            _ => std::fs::set_permissions(path, Permissions::from_mode(mode)),
        }
    };
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
        close(&entry.path(), mode)?;
    }
    close(path, 0o700)
}

/// Opens sled's file; one that this very process has just closed is waited for, since its threads let go of it in their
/// own time. Another process is kept out before, by the lock of the state directory; the system lets go of that one a moment
/// before it lets go of sled's, where a process ends with the journal open. Where somebody has removed that lock's file, the
/// process that serves still has this one.
fn open_when_released(path: &Path, config: &sled::Config) -> Result<sled::Db, JournalError> {
    let end = Instant::now() + RELEASED_WITHIN;
    loop {
        let opened = guard(path, "opened", || config.open());
        let locked = matches!(&opened, Err(error) if error.to_string().contains("could not acquire lock"));
        if !locked {
            return opened;
        }
        if Instant::now() >= end {
            let path = path.to_owned();
            return Err(JournalError::Held { path });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl SledJournal {
    /// A call into sled that changes no record.
    fn reading<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, JournalError> {
        self.check()?;
        guard(&self.path, "read", || {
            let _writing = self.blobs.writing();
            call()
        })
    }

    /// A call into sled after whose failure there is none.
    fn writing<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, JournalError> {
        self.check()?;
        guard(&self.path, "written", call).inspect_err(|_| self.broken.store(true, Ordering::SeqCst))
    }

    fn check(&self) -> Result<(), JournalError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(JournalError::Poisoned("sled could not write a batch".to_owned()));
        }
        Ok(())
    }
}

impl Drop for SledJournal {
    fn drop(&mut self) {
        if self.broken.load(Ordering::SeqCst) {
            // sled flushes when the last of these is dropped.
            std::mem::forget(self.tree.clone());
        }
    }
}

impl Journal for SledJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.reading(|| Ok(self.tree.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, JournalError> {
        let mut range = self.tree.range(from.to_vec()..to.to_vec());
        let mut records = Vec::new();
        // Step by step: a flush need not wait for the end of a long history.
        while records.len() < limit
            && let Some((key, value)) = self.reading(|| range.next().transpose())?
        {
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), JournalError> {
        let mut batch = sled::Batch::default();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.insert(key.as_slice(), value.as_slice()),
                Write::Delete(key) => batch.remove(key.as_slice()),
            }
        }
        let _alone = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        self.writing(|| {
            let _writing = self.blobs.writing();
            self.tree.apply_batch(batch)
        })
    }

    fn flush(&self) -> Result<(), JournalError> {
        let disk = self.disk.as_ref();
        let failed = |error| io(&self.path, "written", &error);
        self.blobs.sync(disk).map_err(failed)?;
        {
            let _alone = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            // Those of batches that came meanwhile.
            self.blobs.sync(disk).map_err(failed)?;
            self.writing(|| self.tree.flush())?;
        }
        disk.sync_data(&self.log).map_err(failed)?;
        self.ahead.keep(&self.log);
        Ok(())
    }

    fn mark(&self, sequence: u64) -> Result<(), JournalError> {
        let written = self.mark.write_all_at(&sequence.to_le_bytes(), 0);
        written.map_err(|error| io(&self.path, "written", &error))
    }

    fn marked(&self) -> Result<Option<u64>, JournalError> {
        let mut bytes = [0; 8];
        match self.mark.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Some(u64::from_le_bytes(bytes))),
            // A journal that was never flushed, or one from before there were marks.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(io(&self.path, "read", &error)),
        }
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
            std::io::ErrorKind::NotFound => {
                Err(damaged(format!("the file of a large value is gone ({error})")))
            }
            // What sled says when it reads nonsense lengths or offsets.
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::InvalidInput => Err(damaged(format!("sled reads nonsense ({error})"))),
            _ => Err(io(path, operation, &error)),
        },
        Ok(Err(error)) => Err(damaged(format!("sled says: {error}"))),
        Err(panic) => match refusal(panic.as_ref()) {
            Some(cause) => Err(JournalError::Io {
                path: path.to_owned(),
                operation,
                cause,
            }),
            None => Err(damaged("sled gave up on its bytes".to_owned())),
        },
    }
}

/// What the system has refused, where that made sled panic: its bytes are well.
fn refusal(panic: &(dyn Any + Send)) -> Option<String> {
    const REFUSALS: [&str; 3] = [
        "Too many open files",
        "Resource temporarily unavailable",
        "Cannot allocate memory",
    ];
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())?;
    let refused = REFUSALS.into_iter().find(|refusal| words.contains(refusal))?;
    Some(refused.to_lowercase())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_for_their_owner_alone_whoever_made_them() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("journal");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        for _ in 0..2 {
            drop(SledJournal::open(&path).expect("a journal"));
            assert_eq!(mode(&path), 0o700);
            for entry in std::fs::read_dir(&path).expect("readable") {
                let path = entry.expect("an entry").path();
                let expected = if path.is_dir() { 0o700 } else { 0o600 };
                assert_eq!(mode(&path), expected, "{}", path.display());
                // As a version before this one made it.
                std::fs::set_permissions(&path, Permissions::from_mode(expected | 0o044)).expect("opened");
            }
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("opened");
        }
    }

    #[test]
    fn a_panic_of_sled_for_want_of_files_is_no_damage() {
        let panics = |words: &'static str| {
            guard::<()>(Path::new("j"), "opened", || std::panic::panic_any(words)).expect_err("it panics")
        };
        assert!(panics("not a page").is_damage());
        let refused = panics("called `Result::unwrap()` on an `Err` value: Too many open files");
        assert!(!refused.is_damage(), "{refused}");
        assert!(refused.to_string().contains("too many open files"), "{refused}");
    }
}
