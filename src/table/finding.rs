//! What a verification found.

use super::{Key, KeyRange};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;

/// So many differences are named; the rest are counted.
pub const TOLD_MAX: usize = 1000;

/// What the target is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The ledger's receipts: what was sent, by rows and checksum of each range. The source is not read.
    #[default]
    Receipts,
    /// The source as it is now, down to rows and columns.
    Source,
}

/// One difference between the target and what it is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference {
    /// The source has the row, the target does not.
    Missing {
        /// The row's key.
        key: Key,
    },
    /// The target has the row, the source does not.
    Extra {
        /// The row's key.
        key: Key,
    },
    /// Both have it, with other values.
    Changed {
        /// The row's key.
        key: Key,
        /// In which columns.
        columns: Vec<String>,
    },
    /// The target's rows of a range are not those that its receipt tells of.
    Range {
        /// Which rows.
        range: KeyRange,
        /// How many rows were sent, by the receipt.
        rows_sent: u64,
        /// How many are there.
        rows_found: u64,
    },
}

/// Why a repair failed, for people. No row's value is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairFailure {
    /// The error and its causes, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// What a verification found; added up with `+=`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Rows of the source that were compared; against receipts, where only the target is read, of the target.
    pub rows: u64,
    /// Bytes of those rows, as they were read.
    pub bytes: u64,
    /// Ranges that were held against each other.
    pub ranges: u64,
    /// Ranges whose receipts cannot prove anything: rows in them were there before, and stayed as they were.
    #[serde(default)]
    pub ranges_unproved: u64,
    /// Rows that the target lacks.
    #[serde(default)]
    pub missing: u64,
    /// Rows that only the target has.
    #[serde(default)]
    pub extra: u64,
    /// Rows that have other values.
    #[serde(default)]
    pub changed: u64,
    /// Ranges that are not as their receipts say.
    #[serde(default)]
    pub ranges_different: u64,
    /// Rows that were different, and were not any more when they were looked at after they were repaired.
    #[serde(default)]
    pub repaired: u64,
    /// Ranges in which a repair failed, so that nothing of that turn was kept; what differs there is named as it was found.
    #[serde(default)]
    pub ranges_unrepaired: u64,
    /// Why the first of those repairs failed.
    #[serde(default)]
    pub repair_failure: Option<RepairFailure>,
    /// Rows of the source beyond the job's last key, which the target does not have: they are not copied yet, and not missing.
    #[serde(default)]
    pub not_copied_yet: u64,
    /// That last key, where there are such rows; `None` also where the job has copied nothing.
    #[serde(default)]
    pub copied_up_to: Option<Key>,
    /// The first of the differences, at most [`TOLD_MAX`].
    #[serde(default)]
    pub told: Vec<Difference>,
}

impl Findings {
    /// How many differences there are.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.missing + self.extra + self.changed + self.ranges_different
    }

    /// Counts a difference, and names it if there is room.
    pub fn add(&mut self, difference: Difference) {
        match &difference {
            Difference::Missing { .. } => self.missing += 1,
            Difference::Extra { .. } => self.extra += 1,
            Difference::Changed { .. } => self.changed += 1,
            Difference::Range { .. } => self.ranges_different += 1,
        }
        if self.told.len() < TOLD_MAX {
            self.told.push(difference);
        }
    }
}

impl AddAssign for Findings {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.ranges += other.ranges;
        self.ranges_unproved += other.ranges_unproved;
        self.missing += other.missing;
        self.extra += other.extra;
        self.changed += other.changed;
        self.ranges_different += other.ranges_different;
        self.repaired += other.repaired;
        self.ranges_unrepaired += other.ranges_unrepaired;
        self.repair_failure = self.repair_failure.take().or(other.repair_failure);
        self.not_copied_yet += other.not_copied_yet;
        self.copied_up_to = self.copied_up_to.take().or(other.copied_up_to);
        let room = TOLD_MAX.saturating_sub(self.told.len());
        self.told.extend(other.told.into_iter().take(room));
    }
}
