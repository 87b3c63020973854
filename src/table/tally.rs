//! What was done, counted.

use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// What one batch did, or many: all of their rows that the journal ever sees. Added up with `+=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Rows that were sent, each of which is on the target since.
    pub rows: u64,
    /// Those of them that were there already, and stayed as they were.
    #[serde(default)]
    pub skipped: u64,
    /// Wire bytes of the rows that were sent in the COPY format used, without its header and trailer.
    pub bytes: u64,
    /// Batches that have an entry in the ledger.
    pub batches: u64,
    /// Sum, modulo 2^64, of the XXH3-64 hash of each sent row's wire bytes: the order of the rows does not matter.
    pub checksum: u64,
}

impl Tally {
    /// Rows that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.rows.saturating_sub(self.skipped)
    }

    /// Mean wire bytes of a row, once there are rows.
    #[must_use]
    pub fn row_bytes(&self) -> Option<u64> {
        self.bytes.checked_div(self.rows)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.skipped += other.skipped;
        self.bytes += other.bytes;
        self.batches += other.batches;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum += tally;
            sum
        })
    }
}
