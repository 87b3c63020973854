//! The journal: a small ordered store of records, and the promise that what was acted on is on the disk.
//!
//! `Journal` is what a store must offer (`conformance` holds every store to it). Records are
//! sealed with a version and a checksum, flushes are shared, and a failed flush poisons the journal for good: the state on
//! disk is then unknown, so nothing more is acted on. Refuses: any knowledge of what is in a record.

mod ahead;
mod blobs;
#[cfg(test)]
mod conformance;
mod keys;
mod memory;
#[cfg(test)]
mod power_cut_tests;
mod record;
mod sled;
mod unwritten;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;

use self::unwritten::Unwritten;
use crate::failpoint::failpoint;

pub use keys::{
    Table, closed_key, current_key, event_key, event_range, indexed_prefix, listed_prefix, outdated_key,
    outdated_range, outdated_run, place_of, placed_key, placed_range, row_key, row_range, run_key,
    table_range,
};
pub use memory::MemoryJournal;
pub use record::{FORMAT_VERSION, format_write};
pub use sled::SledJournal;

/// What can be wrong with a journal. None of these passes by itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The bytes on disk are not what was written.
    #[error("the journal in {} is damaged: {what}", .path.display())]
    Damaged {
        /// The journal's directory.
        path: PathBuf,
        /// Which record, and what is wrong with it.
        what: String,
    },
    /// A newer version of longhaul wrote it.
    #[error("the journal in {} has format {found}; this version reads formats up to {}", .path.display(), FORMAT_VERSION)]
    Newer {
        /// The journal's directory.
        path: PathBuf,
        /// The format that the journal says it has.
        found: u32,
    },
    /// Reading or writing failed: disk full, no permission, a broken disk.
    #[error("the journal in {} cannot be {operation}: {cause}", .path.display())]
    Io {
        /// The journal's directory.
        path: PathBuf,
        /// `read`, `written`, `opened`.
        operation: &'static str,
        /// The system's words.
        cause: String,
    },
    /// Another process has it open, whoever has the lock of the state directory.
    #[error("the journal in {} is held by another process", .path.display())]
    Held {
        /// The journal's directory.
        path: PathBuf,
    },
    /// An earlier flush failed, so what is on disk is unknown.
    #[error("the journal is closed since an earlier write failed: {0}")]
    Poisoned(String),
}

impl JournalError {
    /// Whether the way out is to set the journal aside and go on from the ledger on the target.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Whether another process has it.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }
}

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// One change in an atomic batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Insert or replace.
    Put(Vec<u8>, Vec<u8>),
    /// Remove, if there.
    Delete(Vec<u8>),
}

/// An ordered store of bytes. Implementations are thread-safe.
pub trait Journal: Send + Sync + 'static {
    /// The value last written under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError>;
    /// Records with `from <= key < to`, in order, at most `limit`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, JournalError>;
    /// Applies all of `writes` or none: visible at once, durable after the next `flush`.
    fn apply(&self, writes: &[Write]) -> Result<(), JournalError>;
    /// Blocks until everything applied before the call survives a power cut.
    fn flush(&self) -> Result<(), JournalError>;
    /// Notes, outside of the records, how far the flushes have come: a store that loses its newest records without a word
    /// is found out by it. Called after a flush; need not be durable itself.
    fn mark(&self, sequence: u64) -> Result<(), JournalError>;
    /// The last mark, if there is one.
    fn marked(&self) -> Result<Option<u64>, JournalError>;
    /// Where it is, for error messages.
    fn path(&self) -> PathBuf;
}

/// A journal whose records are sealed and whose flushes are shared by all who wait.
pub struct Store {
    journal: Arc<dyn Journal>,
    /// In which it was found.
    format: u32,
    unwritten: Arc<Unwritten>,
    flusher: Arc<Flusher>,
    thread: Option<JoinHandle<()>>,
    durable: watch::Receiver<u64>,
    poison: Arc<OnceLock<JournalError>>,
    marks: Arc<Marks>,
}

/// What is noted beside the records: how far the flushes have come, and, for good, that damage was found.
#[derive(Default)]
struct Marks {
    damaged: Mutex<bool>,
}

impl Marks {
    fn flushed(&self, journal: &dyn Journal, sequence: u64) -> Result<(), JournalError> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if *damaged { Ok(()) } else { journal.mark(sequence) }
    }

    fn damaged(&self, journal: &dyn Journal) {
        *self.damaged.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // Where it cannot be noted, the next process finds out by itself.
        let _ = journal.mark(record::DAMAGED_MARK);
    }
}

/// How far the flushing thread must come.
struct Flusher {
    wanted: Mutex<Wanted>,
    wake: Condvar,
}

#[derive(Default)]
struct Wanted {
    sequence: u64,
    stop: bool,
}

impl Store {
    /// Takes a journal into use: checks its format, or writes it into an empty one.
    pub fn open(journal: Arc<dyn Journal>) -> Result<Self, JournalError> {
        let format = record::check_format(journal.as_ref())?;
        let applied = record::check_mark(journal.as_ref())?;
        let (sender, durable) = watch::channel(applied);
        let flusher = Arc::new(Flusher {
            wanted: Mutex::new(Wanted {
                sequence: applied,
                stop: false,
            }),
            wake: Condvar::new(),
        });
        let poison = Arc::new(OnceLock::new());
        let marks = Arc::new(Marks::default());
        let unwritten = Arc::new(Unwritten::after(applied));
        let flushing = Flushing {
            journal: Arc::clone(&journal),
            unwritten: Arc::clone(&unwritten),
            flusher: Arc::clone(&flusher),
            sender,
            poison: Arc::clone(&poison),
            marks: Arc::clone(&marks),
        };
        let thread = std::thread::Builder::new()
            .name("journal-flush".to_owned())
            .spawn(move || flushing.run())
            .map_err(|cause| JournalError::Io {
                path: journal.path(),
                operation: "opened",
                cause: cause.to_string(),
            })?;
        Ok(Self {
            journal,
            format,
            unwritten,
            flusher,
            thread: Some(thread),
            durable,
            poison,
            marks,
        })
    }

    /// The format in which the journal was found.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// The record under `key`, its seal checked.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let sealed = self.unwritten.get(self.journal.as_ref(), key);
        let value = sealed.and_then(|sealed| {
            let unseal = |bytes| record::unseal(key, bytes).map_err(|what| self.damaged(what));
            sealed.map(unseal).transpose()
        });
        value.inspect_err(|error| self.notice(error))
    }

    /// Records with `from <= key < to`, at most `limit`, their seals checked.
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, JournalError> {
        let records = self.unwritten.scan(self.journal.as_ref(), (from, to), limit);
        let records = records.and_then(|mut records| {
            for (key, value) in &mut records {
                *value = record::unseal(key, std::mem::take(value)).map_err(|what| self.damaged(what))?;
            }
            Ok(records)
        });
        records.inspect_err(|error| self.notice(error))
    }

    /// Applies one atomic batch: seen by reads at once, written with the next flush. Returns its sequence number, to be awaited
    /// with [`Store::durable`].
    pub fn apply(&self, mut writes: Vec<Write>) -> Result<u64, JournalError> {
        self.check()?;
        let seal = |write: &mut Write| {
            if let Write::Put(key, value) = write {
                *value = record::seal(key, value);
            }
        };
        writes.iter_mut().for_each(seal);
        Ok(self.unwritten.apply(|sequence| {
            let mut number = record::sequence_write(sequence);
            seal(&mut number);
            writes.push(number);
            writes
        }))
    }

    /// The sequence number of the last applied batch.
    pub fn applied(&self) -> u64 {
        self.unwritten.sequence()
    }

    /// Waits until batch `sequence` and all before it survive a power cut. One flush serves all who wait. Cancel-safe.
    pub async fn durable(&self, sequence: u64) -> Result<(), JournalError> {
        let mut durable = self.durable.clone();
        if *durable.borrow() < sequence {
            let mut wanted = self.flusher.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.sequence = wanted.sequence.max(self.applied());
            drop(wanted);
            self.flusher.wake.notify_one();
        }
        loop {
            self.check()?;
            if *durable.borrow_and_update() >= sequence {
                return Ok(());
            }
            if durable.changed().await.is_err() {
                self.check()?;
                return Err(JournalError::Poisoned("the flushing thread has ended".to_owned()));
            }
        }
    }

    /// An error that names this journal.
    pub fn damaged(&self, what: impl Into<String>) -> JournalError {
        JournalError::Damaged {
            path: self.journal.path(),
            what: what.into(),
        }
    }

    /// Errs once anything has gone wrong for good.
    pub fn check(&self) -> Result<(), JournalError> {
        self.poison
            .get()
            .map_or(Ok(()), |error| Err(JournalError::Poisoned(error.to_string())))
    }

    /// Not all is read when a journal is opened. Where damage is found later, it is not opened again: what works with it
    /// would find the same damage each time, and the way out begins at the start.
    fn notice(&self, error: &JournalError) {
        if error.is_damage() {
            self.marks.damaged(self.journal.as_ref());
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flusher
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop = true;
        self.flusher.wake.notify_one();
        // What nobody waited for is written first; where that fails, nobody is there to be told.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the flushing thread works with.
struct Flushing {
    journal: Arc<dyn Journal>,
    unwritten: Arc<Unwritten>,
    flusher: Arc<Flusher>,
    sender: watch::Sender<u64>,
    poison: Arc<OnceLock<JournalError>>,
    marks: Arc<Marks>,
}

impl Flushing {
    fn run(self) {
        while self.is_wanted() {
            match self.flush() {
                Ok(done) => drop(self.sender.send_replace(done)),
                Err(error) => {
                    if error.is_damage() {
                        self.marks.damaged(self.journal.as_ref());
                    }
                    // The first error is the one worth telling.
                    let _ = self.poison.set(error);
                    self.sender.send_modify(|_| ());
                    return;
                }
            }
        }
    }

    /// Waits until there is something to flush. At the end that is whatever was applied.
    fn is_wanted(&self) -> bool {
        let done = *self.sender.borrow();
        let mut wanted = self.flusher.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        while wanted.sequence <= done && !wanted.stop {
            let woken = self.flusher.wake.wait(wanted);
            wanted = woken.unwrap_or_else(PoisonError::into_inner);
        }
        wanted.sequence > done || self.unwritten.sequence() > done
    }

    fn flush(&self) -> Result<u64, JournalError> {
        let journal = self.journal.as_ref();
        let upto = self.unwritten.write_out(|writes| {
            failpoint!("journal::before_apply");
            journal.apply(writes)?;
            failpoint!("journal::after_apply");
            Ok(())
        })?;
        failpoint!("journal::before_flush");
        journal.flush()?;
        self.marks.flushed(journal, upto)?;
        failpoint!("journal::after_flush");
        Ok(upto)
    }
}
