//! What was applied and is not in the journal's store yet: it is written there as one batch, just before the flush that makes
//! it durable. One batch costs sled two writes to its file beside its records, however many changes are in it; and of a
//! record that several of them change only the last is written.
//!
//! Reads find it here. It leaves only once it can be read in the store, so that a reader who looks here first misses nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Journal, JournalError, Record, Write};

/// By key: the sealed value, or that there is none any more.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Default)]
pub(super) struct Unwritten {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last batch that was applied.
    sequence: u64,
    applied: Changes,
    /// What is being written.
    leaving: Arc<Changes>,
}

impl Unwritten {
    /// Goes on from a number.
    pub(super) fn after(sequence: u64) -> Self {
        let unwritten = Self::default();
        unwritten.state().sequence = sequence;
        unwritten
    }

    pub(super) fn sequence(&self) -> u64 {
        self.state().sequence
    }

    /// Takes in a batch that is made of its number. Numbers and batches have one order.
    pub(super) fn apply(&self, batch: impl FnOnce(u64) -> Vec<Write>) -> u64 {
        let mut state = self.state();
        state.sequence += 1;
        for write in batch(state.sequence) {
            match write {
                Write::Put(key, value) => state.applied.insert(key, Some(value)),
                Write::Delete(key) => state.applied.insert(key, None),
            };
        }
        state.sequence
    }

    /// Has `write` write all that was applied, as one batch. Gives the number up to which it did. By one thread at a time.
    pub(super) fn write_out(
        &self,
        write: impl FnOnce(&[Write]) -> Result<(), JournalError>,
    ) -> Result<u64, JournalError> {
        let (sequence, leaving) = {
            let mut state = self.state();
            state.leaving = Arc::new(std::mem::take(&mut state.applied));
            (state.sequence, Arc::clone(&state.leaving))
        };
        if !leaving.is_empty() {
            let writes = leaving.iter().map(|(key, value)| match value {
                Some(value) => Write::Put(key.clone(), value.clone()),
                None => Write::Delete(key.clone()),
            });
            write(&writes.collect::<Vec<_>>())?;
        }
        self.state().leaving = Arc::default();
        Ok(sequence)
    }

    /// As [`Journal::get`], of what is here and what is in the store.
    pub(super) fn get(&self, journal: &dyn Journal, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let found = {
            let state = self.state();
            let found = state.applied.get(key).or_else(|| state.leaving.get(key));
            found.cloned()
        };
        found.map_or_else(|| journal.get(key), Ok)
    }

    /// As [`Journal::scan`], of what is here and what is in the store.
    pub(super) fn scan(
        &self,
        journal: &dyn Journal,
        (from, to): (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let (mut from, mut records) = (from.to_vec(), Vec::new());
        // Where much was removed a piece may come out shorter than it was asked for.
        while from.as_slice() < to && records.len() < limit {
            let wanted = limit - records.len();
            let changes = self.changes(&from, to, wanted);
            let stored = journal.scan(&from, to, wanted)?;
            if changes.is_empty() {
                records.extend(stored);
                break;
            }
            // Of neither is known what comes behind its last record, unless it has come to the end.
            let ends = [
                (changes.len() == wanted)
                    .then(|| changes.keys().next_back())
                    .flatten(),
                (stored.len() == wanted)
                    .then(|| stored.last().map(|(key, _)| key))
                    .flatten(),
            ];
            let end = ends
                .into_iter()
                .flatten()
                .min()
                .map(|key| [key, &[0][..]].concat());
            let end = end.unwrap_or_else(|| to.to_vec());
            let mut piece: Changes = stored
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect();
            piece.extend(changes);
            let piece = piece.into_iter().take_while(|(key, _)| *key < end);
            records.extend(piece.filter_map(|(key, value)| Some((key, value?))));
            from = end;
        }
        records.truncate(limit);
        Ok(records)
    }

    /// The first changes in a range, at most `limit`.
    fn changes(&self, from: &[u8], to: &[u8], limit: usize) -> Changes {
        let state = self.state();
        let range = from.to_vec()..to.to_vec();
        let of = |changes: &Changes| -> Changes {
            let range = changes.range(range.clone()).take(limit);
            range.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let mut found = of(&state.leaving);
        found.extend(of(&state.applied));
        found.into_iter().take(limit).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryJournal;
    use super::*;

    /// Numbers from a seed: enough to vary what is done.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    #[test]
    fn reads_are_what_they_would_be_if_all_were_written_at_once() {
        let (unwritten, journal, all) = (
            Unwritten::default(),
            MemoryJournal::default(),
            MemoryJournal::default(),
        );
        let mut seed = 7;
        for round in 0..3000 {
            let key = vec![b'k', u8::try_from(random(&mut seed) % 40).unwrap()];
            let write = match random(&mut seed) % 3 {
                0 => Write::Delete(key.clone()),
                _ => Write::Put(key.clone(), round.to_string().into_bytes()),
            };
            all.apply(std::slice::from_ref(&write)).unwrap();
            assert_eq!(unwritten.apply(|_| vec![write]), round + 1);
            assert_eq!(unwritten.get(&journal, &key).unwrap(), all.get(&key).unwrap());
            let mut bound = || vec![b'k', u8::try_from(random(&mut seed) % 41).unwrap()];
            let (from, to) = (bound(), bound());
            let limit = usize::try_from(random(&mut seed) % 12).unwrap();
            let read = |journal: &dyn Journal| unwritten.scan(journal, (&from, &to), limit).unwrap();
            if from <= to {
                assert_eq!(read(&journal), all.scan(&from, &to, limit).unwrap());
            }
            if random(&mut seed).is_multiple_of(10) {
                let written = unwritten.write_out(|writes| {
                    if from <= to {
                        assert_eq!(
                            read(&journal),
                            all.scan(&from, &to, limit).unwrap(),
                            "while it leaves"
                        );
                    }
                    journal.apply(writes)
                });
                assert_eq!(written.unwrap(), round + 1);
            }
        }
    }
}
