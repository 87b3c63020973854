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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::workflow::tests::Random;

    #[test]
    fn a_batch_vouches_for_those_it_carried_and_for_no_other() {
        let mut witnesses = Witnesses::default();
        assert!(witnesses.now().is_empty(), "the epoch is the witness");
        witnesses.confirm(1, &[]);
        witnesses.confirm(2, &[]);
        assert_eq!(witnesses.now(), [1, 2]);
        let carried = witnesses.now().to_vec();
        witnesses.confirm(3, &[1]);
        assert_eq!(witnesses.now(), [2, 3], "3 was scheduled before 2 was confirmed");
        witnesses.confirm(4, &carried);
        assert_eq!(witnesses.now(), [3, 4]);
        witnesses.clear();
        assert!(witnesses.now().is_empty());
    }

    #[test]
    fn they_cross_the_journal_as_a_list() {
        let mut witnesses = Witnesses::default();
        witnesses.confirm(7, &[]);
        let json = serde_json::to_string(&witnesses).expect("plain data");
        assert_eq!(json, "[7]");
        assert_eq!(
            serde_json::from_str::<Witnesses>(&json).expect("what was written"),
            witnesses
        );
    }

    /// A target with its commits in order, and a run that schedules, hears and forgets in any order.
    #[derive(Default)]
    struct Model {
        witnesses: Witnesses,
        /// Scheduled, not committed: number, and what it carries.
        scheduled: Vec<(u64, Vec<u64>)>,
        /// Committed, the receipt on its way.
        answering: Vec<(u64, Vec<u64>)>,
        /// The target's commits, in their order.
        commits: Vec<u64>,
        /// All that was confirmed, and who vouches for it: those that carried it and were confirmed in turn.
        told: BTreeMap<u64, Vec<u64>>,
    }

    impl Model {
        fn step(&mut self, random: &mut Random, number: u64, concurrency: usize) {
            match random.within(0..3) {
                0 if self.scheduled.len() + self.answering.len() < concurrency => {
                    self.scheduled.push((number, self.witnesses.now().to_vec()));
                }
                1 if !self.scheduled.is_empty() => {
                    let at = random.within(0..self.scheduled.len() as u64) as usize;
                    let (number, carried) = self.scheduled.swap_remove(at);
                    assert!(carried.iter().all(|carried| self.commits.contains(carried)));
                    // Now and then a look that found nothing missing: it leaves no trace.
                    if random.within(0..5) > 0 {
                        self.commits.push(number);
                        self.answering.push((number, carried));
                    }
                }
                _ if !self.answering.is_empty() => {
                    let at = random.within(0..self.answering.len() as u64) as usize;
                    let (number, carried) = self.answering.swap_remove(at);
                    self.witnesses.confirm(number, &carried);
                    for carried in carried {
                        self.told.entry(carried).or_default().push(number);
                    }
                    self.told.entry(number).or_default();
                }
                _ => {}
            }
        }

        /// Whether a chain of vouchers leads from a batch that was told to one that the next fence carries.
        fn is_vouched_for(&self, number: u64) -> bool {
            self.witnesses.now().contains(&number)
                || self.told[&number]
                    .iter()
                    .any(|voucher| self.is_vouched_for(*voucher))
        }
    }

    #[test]
    fn the_loss_of_any_suffix_with_a_batch_that_was_told_is_seen_by_the_next_fence() {
        let mut random = Random::seeded();
        for _ in 0..200 {
            let concurrency = random.within(1..9) as usize;
            let mut model = Model::default();
            for number in 1..150 {
                model.step(&mut random, number, concurrency);
                assert!(model.witnesses.now().len() <= 2 * concurrency, "it grows");
                let recent = model.told.keys().rev().take(20);
                assert!(recent.copied().all(|told| model.is_vouched_for(told)));
                for kept in model.commits.len().saturating_sub(30)..model.commits.len() {
                    let lost = &model.commits[kept..];
                    let is_told = lost.iter().any(|number| model.told.contains_key(number));
                    let is_seen = model.witnesses.now().iter().any(|number| lost.contains(number));
                    assert!(is_seen || !is_told, "{lost:?} of {:?}", model.witnesses);
                }
            }
        }
    }
}
