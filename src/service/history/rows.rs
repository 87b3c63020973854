//! The rows of a run: what it has many of, each under a key of its own. A draft of a run shares them with the run it was
//! made of and copies what it changes, so that it costs nothing to make and is dropped without a trace. They know which keys
//! were touched since they were last stored: only those are written.

use std::collections::BTreeMap;
use std::ops::Deref;

use prost::Message;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use xxhash_rust::xxh3::Xxh3;

use super::super::inventory::Inventory;
use super::ActivityState;
use super::state::RequestId;

/// What a row is of: the byte before its key in the journal. Never used again for another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    /// By the event that scheduled it.
    Activity = b'a',
    /// By its id.
    Timer = b't',
    /// Events that wait for their ids, by the order in which they came.
    Buffered = b'b',
    /// Accepted and not completed, by its id.
    Update = b'u',
    /// By its id.
    CompletedUpdate = b'd',
    /// By the order in which they came.
    RequestId = b'q',
}

/// A row to be written, or to be removed.
pub struct RowChange {
    pub kind: RowKind,
    pub key: Vec<u8>,
    /// None where it is to be removed.
    pub value: Option<Vec<u8>>,
}

/// What orders rows. The order of the bytes is that of the keys.
pub trait RowKey: Ord + Clone {
    fn bytes(&self) -> Vec<u8>;
    fn of_bytes(bytes: &[u8]) -> Option<Self>;
}

/// An event id or a number: not negative, so big-endian bytes have its order.
impl RowKey for i64 {
    fn bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().map(Self::from_be_bytes).ok()
    }
}

impl RowKey for String {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

#[derive(Debug, Clone)]
struct Row<V> {
    value: V,
    /// Of the bytes that are stored; encoded again the value may give others. Not set in a row that was touched.
    hash: u64,
}

/// Rows of one kind.
#[derive(Debug, Clone)]
pub struct Rows<K: Ord, V> {
    rows: RedBlackTreeMapSync<K, Row<V>>,
    /// The hash of what is stored under each key that was touched, if anything is.
    touched: BTreeMap<K, Option<u64>>,
}

impl<K: Ord, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self {
            rows: RedBlackTreeMapSync::new_sync(),
            touched: BTreeMap::new(),
        }
    }
}

impl<K: RowKey, V: Message + Default + Clone> Rows<K, V> {
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.rows.get(key).map(|row| &row.value)
    }

    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.rows.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.rows.size()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, row)| (key, &row.value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.rows.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().map(|row| &row.value)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.touch(key);
        self.rows.get_mut(key).map(|row| &mut row.value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        self.touch(&key);
        self.rows.insert_mut(key, Row { value, hash: 0 });
    }

    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (owned, row) = self.rows.get_key_value(key)?;
        let (owned, value) = (owned.clone(), row.value.clone());
        self.touch(&owned);
        self.rows.remove_mut(key);
        Some(value)
    }

    /// Takes all of them out, in the order of their keys.
    pub fn take_all(&mut self) -> Vec<V> {
        let keys: Vec<K> = self.rows.keys().cloned().collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    /// The keys that a draft has touched.
    pub fn touched(&self) -> impl Iterator<Item = &K> {
        self.touched.keys()
    }

    fn touch(&mut self, key: &K) {
        if !self.touched.contains_key(key) {
            let stored = self.rows.get(key).map(|row| row.hash);
            self.touched.insert(key.clone(), stored);
        }
    }

    /// What was touched, as it is to be written. The inventory is that of all rows that are stored.
    pub(super) fn changes(&mut self, kind: RowKind, inventory: &mut Inventory, changes: &mut Vec<RowChange>) {
        for (key, stored) in &self.touched {
            let bytes = key.bytes();
            let Some(row) = self.rows.get_mut(key) else {
                if let Some(hash) = stored {
                    inventory.remove(*hash);
                    changes.push(RowChange {
                        kind,
                        key: bytes,
                        value: None,
                    });
                }
                continue;
            };
            let value = row.value.encode_to_vec();
            row.hash = hash(kind, &bytes, &value);
            if *stored != Some(row.hash) {
                stored.iter().for_each(|hash| inventory.remove(*hash));
                inventory.add(row.hash);
                let value = Some(value);
                changes.push(RowChange {
                    kind,
                    key: bytes,
                    value,
                });
            }
        }
    }

    /// What was touched is stored.
    pub(super) fn settle(&mut self) {
        self.touched.clear();
    }

    /// Takes a row in as it was read. Gives its hash.
    pub(super) fn load(&mut self, kind: RowKind, key: &[u8], value: &[u8]) -> Result<u64, String> {
        let hash = hash(kind, key, value);
        let key = K::of_bytes(key).ok_or("its key is none of its kind")?;
        let value = V::decode(value).map_err(|error| error.to_string())?;
        self.rows.insert_mut(key, Row { value, hash });
        Ok(hash)
    }
}

impl<V: Message + Default + Clone> Rows<i64, V> {
    /// Adds one behind all others.
    pub fn push(&mut self, value: V) {
        let last = self.rows.last().map_or(0, |(number, _)| *number);
        self.insert(last + 1, value);
    }
}

/// Of one row as it is stored.
fn hash(kind: RowKind, key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[kind as u8]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.digest()
}

/// The open activities of a run, which are found by their ids as well.
#[derive(Debug, Clone)]
pub struct Activities {
    rows: Rows<i64, ActivityState>,
    scheduled: RedBlackTreeMapSync<String, i64>,
}

impl Default for Activities {
    fn default() -> Self {
        Self {
            rows: Rows::default(),
            scheduled: RedBlackTreeMapSync::new_sync(),
        }
    }
}

impl Deref for Activities {
    type Target = Rows<i64, ActivityState>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl Activities {
    pub fn with_id(&self, activity_id: &str) -> Option<&ActivityState> {
        self.rows.get(self.scheduled.get(activity_id)?)
    }

    /// Its id stays as it is.
    pub fn get_mut(&mut self, scheduled_event_id: i64) -> Option<&mut ActivityState> {
        self.rows.get_mut(&scheduled_event_id)
    }

    pub fn insert(&mut self, it: ActivityState) {
        self.scheduled
            .insert_mut(it.activity_id.clone(), it.scheduled_event_id);
        self.rows.insert(it.scheduled_event_id, it);
    }

    pub fn remove(&mut self, scheduled_event_id: i64) -> Option<ActivityState> {
        let it = self.rows.remove(&scheduled_event_id)?;
        self.scheduled.remove_mut(&it.activity_id);
        Some(it)
    }

    pub fn clear(&mut self) {
        self.scheduled = RedBlackTreeMapSync::new_sync();
        self.rows.take_all();
    }

    pub(super) fn rows_mut(&mut self) -> &mut Rows<i64, ActivityState> {
        &mut self.rows
    }

    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<u64, String> {
        let hash = self.rows.load(RowKind::Activity, key, value)?;
        let it = i64::of_bytes(key).and_then(|id| self.rows.get(&id));
        if let Some(it) = it {
            self.scheduled
                .insert_mut(it.activity_id.clone(), it.scheduled_event_id);
        }
        Ok(hash)
    }
}

/// The request ids of a run's signals and cancels, all of them: a client repeats a request whose answer it has not got, however
/// many others were answered meanwhile.
#[derive(Debug, Clone)]
pub struct RequestIds {
    rows: Rows<i64, RequestId>,
    known: RedBlackTreeSetSync<String>,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self {
            rows: Rows::default(),
            known: RedBlackTreeSetSync::new_sync(),
        }
    }
}

impl Deref for RequestIds {
    type Target = Rows<i64, RequestId>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl RequestIds {
    /// Whether it is a new one.
    pub fn insert(&mut self, id: String) -> bool {
        if self.known.contains(&id) {
            return false;
        }
        self.known.insert_mut(id.clone());
        self.rows.push(RequestId { id });
        true
    }

    pub(super) fn rows_mut(&mut self) -> &mut Rows<i64, RequestId> {
        &mut self.rows
    }

    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<u64, String> {
        let hash = self.rows.load(RowKind::RequestId, key, value)?;
        let it = i64::of_bytes(key).and_then(|number| self.rows.get(&number));
        if let Some(it) = it {
            self.known.insert_mut(it.id.clone());
        }
        Ok(hash)
    }
}
