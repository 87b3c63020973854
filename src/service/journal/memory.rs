//! A journal in memory: for tests of the service, and as the plainest statement of what a journal must do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{Journal, JournalError, Record, Write};

/// Keeps everything until it is dropped; `flush` has nothing to do.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    records: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    marked: AtomicU64,
}

impl Journal for MemoryJournal {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self
            .records
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, JournalError> {
        let map = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let range = map.range(from.to_vec()..to.to_vec());
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&self, writes: &[Write]) -> Result<(), JournalError> {
        let mut map = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match write {
                Write::Put(key, value) => drop(map.insert(key.clone(), value.clone())),
                Write::Delete(key) => drop(map.remove(key)),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), JournalError> {
        Ok(())
    }

    fn mark(&self, sequence: u64) -> Result<(), JournalError> {
        self.marked.store(sequence, Ordering::SeqCst);
        Ok(())
    }

    fn marked(&self) -> Result<Option<u64>, JournalError> {
        Ok(Some(self.marked.load(Ordering::SeqCst)))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}
