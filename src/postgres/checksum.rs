//! Counts and hashes rows as they pass, in either COPY format.
//!
//! The server sends each row as one message. In the binary format the file's header is glued to the first row, and the
//! trailer is a message of its own; neither is counted. The checksum is a sum, so that the rows' order does not matter.

use crate::table::{CopyFormat, Tally};
use xxhash_rust::xxh3::xxh3_64;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Counts and hashes what passes.
#[derive(Debug)]
pub(super) struct RowCounter {
    format: CopyFormat,
    is_header_due: bool,
    pub rows: u64,
    pub bytes: u64,
    pub checksum: u64,
}

impl RowCounter {
    pub(super) fn new(format: CopyFormat) -> Self {
        Self {
            format,
            is_header_due: format == CopyFormat::Binary,
            rows: 0,
            bytes: 0,
            checksum: 0,
        }
    }

    /// Takes one message.
    pub(super) fn add(&mut self, message: &[u8]) {
        let mut row = message;
        if self.format == CopyFormat::Binary {
            if self.is_header_due {
                row = row.get(header_length(message)..).unwrap_or_default();
                self.is_header_due = false;
            }
            if row.is_empty() || row == [0xff, 0xff] {
                return;
            }
        }
        self.rows += 1;
        self.bytes += row.len() as u64;
        self.checksum = self.checksum.wrapping_add(xxh3_64(row));
    }

    /// What has passed, of no batch yet.
    pub(super) fn tally(&self, skipped: u64) -> Tally {
        Tally {
            rows: self.rows,
            skipped,
            bytes: self.bytes,
            batches: 0,
            checksum: self.checksum,
        }
    }
}

/// Signature, flags, and an extension of a given length.
fn header_length(message: &[u8]) -> usize {
    let extension = message.get(15..19).filter(|_| message.starts_with(SIGNATURE));
    let extension = extension
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes);
    extension.map_or(0, |length| 19 + length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_trailer_are_no_rows() {
        let header = [SIGNATURE, &[0; 8]].concat();
        let row = [0, 1, 0, 0, 0, 1, 7];
        let mut together = RowCounter::new(CopyFormat::Binary);
        together.add(&[&header[..], &row].concat());
        together.add(&row);
        together.add(&[0xff, 0xff]);
        assert_eq!((together.rows, together.bytes), (2, 14));
        assert_eq!(together.checksum, xxh3_64(&row).wrapping_mul(2));
        let mut empty = RowCounter::new(CopyFormat::Binary);
        empty.add(&[&header[..], &[0xff, 0xff]].concat());
        assert_eq!((empty.rows, empty.bytes, empty.checksum), (0, 0, 0));
    }

    #[test]
    fn the_order_of_rows_does_not_matter() {
        let sum = |rows: [&[u8]; 3]| {
            let mut tally = RowCounter::new(CopyFormat::Text);
            rows.iter().for_each(|row| tally.add(row));
            tally.tally(0)
        };
        assert_eq!(sum([b"a\n", b"b\n", b"c\n"]), sum([b"c\n", b"a\n", b"b\n"]));
        assert_ne!(sum([b"a\n", b"b\n", b"c\n"]), sum([b"a\n", b"b\n", b"d\n"]));
    }
}
