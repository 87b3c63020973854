//! The seal of a record: a version byte, a CRC-32 over key and value, the value. A record that was moved, torn or
//! overwritten does not pass. Also the journal's format number, and who may read which.

use super::{Journal, JournalError, Write};

/// The format this version writes. It reads this one and those before.
pub const FORMAT_VERSION: u32 = 3;

const FORMAT_KEY: &[u8] = b"mformat";
const SEQUENCE_KEY: &[u8] = b"msequence";
/// In the place of how far the flushes have come: damage was found while the journal was in use.
pub(super) const DAMAGED_MARK: u64 = u64::MAX;
const SEAL_VERSION: u8 = 1;
const SEAL_BYTES: usize = 5;

pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL_BYTES + value.len());
    sealed.push(SEAL_VERSION);
    sealed.extend(checksum(key, value).to_le_bytes());
    sealed.extend(value);
    sealed
}

pub(super) fn unseal(key: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, String> {
    let name = || format!("record {}", key.escape_ascii());
    let Some((head, value)) = sealed.split_at_checked(SEAL_BYTES) else {
        return Err(format!("{} is cut short", name()));
    };
    if head[0] != SEAL_VERSION {
        return Err(format!("{} has the unknown seal {}", name(), head[0]));
    }
    if head[1..] != checksum(key, value).to_le_bytes() {
        return Err(format!("{} does not match its checksum", name()));
    }
    sealed.drain(..SEAL_BYTES);
    Ok(sealed)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The format of a journal, which is written into an empty one; refuses a newer one, and one that lost its format record.
pub(super) fn check_format(journal: &dyn Journal) -> Result<u32, JournalError> {
    let damaged = |what: String| JournalError::Damaged {
        path: journal.path(),
        what,
    };
    let Some(sealed) = journal.get(FORMAT_KEY)? else {
        if !journal.scan(&[0], &[u8::MAX], 1)?.is_empty() {
            return Err(damaged("its format record is missing".to_owned()));
        }
        journal.apply(&[Write::Put(
            FORMAT_KEY.to_vec(),
            seal(FORMAT_KEY, &FORMAT_VERSION.to_le_bytes()),
        )])?;
        journal.flush()?;
        return Ok(FORMAT_VERSION);
    };
    let bytes = unseal(FORMAT_KEY, sealed).map_err(damaged)?;
    let found = bytes.try_into().map(u32::from_le_bytes);
    match found.map_err(|_| damaged("its format record is no number".to_owned()))? {
        found if found > FORMAT_VERSION => Err(JournalError::Newer {
            path: journal.path(),
            found,
        }),
        found => Ok(found),
    }
}

/// What says that a journal has the format of this version: in the batch that brings it over.
pub fn format_write() -> Write {
    Write::Put(FORMAT_KEY.to_vec(), FORMAT_VERSION.to_le_bytes().to_vec())
}

/// The record that every batch carries: its number.
pub(super) fn sequence_write(sequence: u64) -> Write {
    Write::Put(SEQUENCE_KEY.to_vec(), sequence.to_le_bytes().to_vec())
}

/// The number of the last batch. Refuses a journal that is older than its mark: batches that were durable are gone.
pub(super) fn check_mark(journal: &dyn Journal) -> Result<u64, JournalError> {
    let damaged = |what: String| JournalError::Damaged {
        path: journal.path(),
        what,
    };
    let sequence = match journal.get(SEQUENCE_KEY)? {
        Some(sealed) => unseal(SEQUENCE_KEY, sealed)
            .map_err(damaged)?
            .try_into()
            .map(u64::from_le_bytes),
        None => Ok(0),
    };
    let sequence = sequence.map_err(|_| damaged("its sequence record is no number".to_owned()))?;
    match journal.marked()? {
        Some(DAMAGED_MARK) => Err(damaged("damage was found while it was in use".to_owned())),
        Some(marked) if marked > sequence => {
            let lost = marked - sequence;
            Err(damaged(format!(
                "its last {lost} batches are gone, without a trace in its own file"
            )))
        }
        _ => Ok(sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_survives_and_a_touched_one_does_not() {
        let sealed = seal(b"rkey", b"value");
        assert_eq!(unseal(b"rkey", sealed.clone()).unwrap(), b"value");
        assert!(
            unseal(b"rother", sealed.clone()).unwrap_err().contains("rother"),
            "moved to another key"
        );
        for position in 0..sealed.len() {
            let mut touched = sealed.clone();
            touched[position] ^= 1;
            assert!(unseal(b"rkey", touched).is_err(), "byte {position}");
        }
        assert!(unseal(b"rkey", sealed[..3].to_vec()).is_err(), "cut short");
    }
}
