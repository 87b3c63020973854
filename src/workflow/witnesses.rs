//! Which batches vouch for what the target has confirmed: how a target that went back in time is found.
//!
//! A server that fails over to a lagging standby, or is restored, loses a suffix of its commits. Each batch carries the
//! numbers of those that were confirmed before it was scheduled and that no later one vouches for; its transaction looks
//! for them in the ledger. So the presence of one batch proves the presence of all that it carried, and theirs in turn.

use serde::{Deserialize, Serialize};

/// Batches that were confirmed and that no later confirmed batch vouches for.
///
/// Bounded: one that was confirmed waits only for the first confirmation of a batch that was scheduled after it, so there
/// are never more than were in flight at one time, about twice the concurrency while that is being changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Witnesses {
    told: Vec<u64>,
}

impl Witnesses {
    /// What the fence of a batch that is scheduled now must carry.
    #[must_use]
    pub fn now(&self) -> &[u64] {
        &self.told
    }

    /// Batch `number` is in the ledger, and so are those that it carried.
    pub fn confirm(&mut self, number: u64, carried: &[u64]) {
        self.told.retain(|told| !carried.contains(told));
        self.told.push(number);
    }

    /// The table was prepared: from here on the epoch that this wrote is the witness.
    pub fn clear(&mut self) {
        self.told.clear();
    }
}
