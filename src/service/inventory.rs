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
}

/// Those of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inventories {
    /// Open runs, by their ids.
    pub open: Inventory,
    /// The list of closed runs: whole records.
    pub listed: Inventory,
    /// Which run a workflow id means: whole records.
    pub current: Inventory,
    /// The index of closed runs: whole records.
    pub indexed: Inventory,
}

impl Inventories {
    pub fn write(self) -> Write {
        let numbers = [self.open, self.listed, self.current, self.indexed].map(|it| [it.count, it.sum]);
        let value = numbers
            .as_flattened()
            .iter()
            .flat_map(|number| number.to_le_bytes());
        Write::Put(INVENTORY_KEY.to_vec(), value.collect())
    }

    pub fn read(store: &Store) -> Result<Self, JournalError> {
        match read_numbers(store)?.as_slice() {
            [] => Ok(Self::default()),
            [open, listed, current, rest @ ..] if rest.len() <= 1 => Ok(Self {
                open: *open,
                listed: *listed,
                current: *current,
                // The second format had no index.
                indexed: rest.first().copied().unwrap_or_default(),
            }),
            _ => Err(cut_short(store)),
        }
    }
}

/// That of the first format: of all runs, by their ids.
pub fn read_former(store: &Store) -> Result<Inventory, JournalError> {
    match read_numbers(store)?.as_slice() {
        [] => Ok(Inventory::default()),
        [runs] => Ok(*runs),
        _ => Err(cut_short(store)),
    }
}

fn read_numbers(store: &Store) -> Result<Vec<Inventory>, JournalError> {
    let bytes = store.get(INVENTORY_KEY)?.unwrap_or_default();
    let (inventories, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(cut_short(store));
    }
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let inventory = |bytes: &[u8; 16]| Inventory {
        count: number(&bytes[..8]),
        sum: number(&bytes[8..]),
    };
    Ok(inventories.iter().map(inventory).collect())
}

fn cut_short(store: &Store) -> JournalError {
    store.damaged("its inventory is cut short")
}
