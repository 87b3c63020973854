//! How far a second look has come, and how much of that holds once the table was prepared again. Pure.
//!
//! A look leaves no trace in the ledger where nothing was missing, so the ledger alone cannot say where it stands. The
//! workflow remembers it, together with batches that prove it: a target that goes back in time loses a suffix of its commits,
//! so where such a batch is still there, so is all that had been confirmed when it was scheduled.

use serde::{Deserialize, Serialize};

use crate::table::Key;

/// More proofs than this are thinned out: every second one goes, the last stays. A loss then costs a little more of the look
/// than what was lost.
const MOST_PROOFS: usize = 64;

/// How far a second look has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Looked {
    /// Up to where it has come; before it began: where it begins.
    #[serde(default)]
    pub looked_to: Option<Key>,
    /// Where it ends: at the end of what the ledger had when it began. `None` where there is nothing to look at.
    #[serde(default)]
    pub frontier: Option<Key>,
    /// Whether it has come to its end (of a migrate, which remembers it until it is complete).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_over: bool,
    /// What proves it, in the order of the batches' numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
}

/// A batch that was confirmed: while the ledger has it, all that was looked at up to a key is on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its number.
    pub batch: u64,
    /// Up to where the look had come when it was scheduled.
    #[serde(default)]
    pub looked_to: Option<Key>,
}

impl Looked {
    /// A batch that was scheduled when the look had come to `looked_to` is in the ledger.
    pub fn prove(&mut self, batch: u64, looked_to: Option<Key>) {
        let at = self.proofs.partition_point(|proof| proof.batch < batch);
        // What an earlier batch proves is lost later.
        let is_known = at > 0 && self.proofs[at - 1].looked_to == looked_to;
        if self.frontier.is_none() || is_known {
            return;
        }
        self.proofs.insert(at, Proof { batch, looked_to });
        if self.proofs.len() > MOST_PROOFS {
            let last = self.proofs.len() - 1;
            let mut at = 0..;
            self.proofs
                .retain(|_| at.next().is_some_and(|at| (last - at).is_multiple_of(2)));
        }
    }

    /// The look has come to its end.
    pub fn end(&mut self) {
        self.looked_to.clone_from(&self.frontier);
        self.is_over = true;
    }

    /// What holds of it on a target that has all that it had confirmed (`has_all`), or else only some of the batches; `None`:
    /// the look begins anew.
    #[must_use]
    pub fn kept(mut self, has_all: bool, has: impl Fn(u64) -> bool) -> Option<Self> {
        // Nothing was there when the job began: what was lost since is copied again, and was never to be looked at.
        if has_all || self.frontier.is_none() {
            return Some(self);
        }
        self.proofs.retain(|proof| has(proof.batch));
        self.looked_to.clone_from(&self.proofs.last()?.looked_to);
        self.is_over &= self.looked_to == self.frontier;
        Some(self)
    }

    /// It ends at `end`, which lies before its frontier: what lies beyond is lost, and copied again. `is_past`: it has come
    /// farther than that.
    #[must_use]
    pub fn cut(mut self, end: Option<Key>, is_past: bool) -> Self {
        self.frontier = end;
        if is_past {
            self.end();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Option<Key> {
        Some(Key(vec![number.to_string()]))
    }

    fn looked(proofs: impl IntoIterator<Item = (u64, u64)>, to: u64) -> Looked {
        let mut looked = Looked {
            looked_to: key(to),
            frontier: key(1000),
            ..Looked::default()
        };
        for (batch, to) in proofs {
            looked.prove(batch, key(to));
        }
        looked
    }

    #[test]
    fn what_the_target_has_kept_is_not_looked_at_again() {
        let all = looked([(3, 0), (4, 10), (6, 10), (5, 10), (9, 50)], 60);
        let batches: Vec<_> = all.proofs.iter().map(|proof| proof.batch).collect();
        assert_eq!(batches, [3, 4, 9], "the earlier of two that prove the same");
        assert_eq!(all.clone().kept(true, |_| false), Some(all.clone()));
        let some = all.clone().kept(false, |batch| batch < 9).expect("it goes on");
        assert_eq!((some.looked_to, some.proofs.len()), (key(10), 2));
        assert_eq!(all.kept(false, |_| false), None);
    }

    #[test]
    fn a_look_that_is_over_stays_so_only_where_a_batch_proves_it() {
        let mut over = looked([(3, 0), (4, 10), (7, 900)], 1000);
        over.end();
        let lost = over.clone().kept(false, |batch| batch < 7).expect("it goes on");
        assert_eq!((lost.looked_to, lost.is_over), (key(10), false));
        over.prove(8, key(1000));
        assert!(over.kept(false, |batch| batch == 8).expect("it goes on").is_over);
    }

    #[test]
    fn a_look_ends_where_the_ledger_ends_now() {
        let cut = looked([], 500).cut(key(700), false);
        assert_eq!(
            (&cut.looked_to, &cut.frontier, cut.is_over),
            (&key(500), &key(700), false)
        );
        let past = cut.cut(key(400), true);
        assert_eq!(
            (&past.looked_to, &past.frontier, past.is_over),
            (&key(400), &key(400), true)
        );
        let nothing = past.cut(None, true);
        assert_eq!(nothing.clone().kept(false, |_| false), Some(nothing));
    }

    #[test]
    fn proofs_are_few_and_the_last_is_among_them() {
        let many = looked((0..10_000).map(|batch| (batch, batch)), 10_000);
        assert!(many.proofs.len() <= MOST_PROOFS, "{}", many.proofs.len());
        assert_eq!(many.proofs.last().map(|proof| proof.batch), Some(9_999));
        assert!(many.proofs.is_sorted_by_key(|proof| proof.batch));
    }
}
