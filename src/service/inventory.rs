//! Inventories: how many of something there are, and which. Written with every change of it, held against what is read, so
//! that what is lost is missed.

use xxhash_rust::xxh3::xxh3_64;

use super::journal::{JournalError, Store, Write};

const INVENTORY_KEY: &[u8] = b"minventory";

/// How many there are, and the sum of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inventory {
    pub count: u64,
    pub sum: u64,
}

impl Inventory {
    pub fn add(&mut self, hash: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    pub fn remove(&mut self, hash: u64) {
        self.count = self.count.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(hash);
    }

    pub fn add_run(&mut self, run_id: &str) {
        self.add(xxh3_64(run_id.as_bytes()));
    }

    pub fn remove_run(&mut self, run_id: &str) {
        self.remove(xxh3_64(run_id.as_bytes()));
    }

    /// Of the runs of the journal.
    pub fn write(self) -> Write {
        let value = [self.count.to_le_bytes(), self.sum.to_le_bytes()].concat();
        Write::Put(INVENTORY_KEY.to_vec(), value)
    }

    /// Of the runs of the journal.
    pub fn read(store: &Store) -> Result<Self, JournalError> {
        let Some(bytes) = store.get(INVENTORY_KEY)? else {
            return Ok(Self::default());
        };
        let half = |range: std::ops::Range<usize>| {
            bytes
                .get(range)
                .and_then(|half| half.try_into().ok())
                .map(u64::from_le_bytes)
        };
        match (half(0..8), half(8..16)) {
            (Some(count), Some(sum)) => Ok(Self { count, sum }),
            _ => Err(store.damaged("its inventory is cut short")),
        }
    }
}
