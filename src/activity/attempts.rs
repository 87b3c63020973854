//! Counts the errors of unknown kind that an activity met on this worker, apart from those that pass by themselves.
//!
//! An outage may have cost an activity fifty attempts before it meets an error that nobody knows: that one still gets its
//! own ten. Kept in memory only: another process counts anew, so nothing is ever given up sooner than promised.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Activities that are counted at one time: more than can be in flight. The one that is counted longest goes first.
const COUNTED_MAX: usize = 256;

/// A run's id, and an activity's within it.
type Id = (String, String);

/// Errors of unknown kind, by activity.
#[derive(Debug, Default)]
pub(super) struct UnknownErrors(Mutex<VecDeque<(Id, u32)>>);

impl UnknownErrors {
    /// Counts one more, and says how many there are.
    pub(super) fn add(&self, run: &str, activity: &str) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = counts.iter_mut().find(|(id, _)| is(id, run, activity)) {
            *count = count.saturating_add(1);
            return *count;
        }
        if counts.len() >= COUNTED_MAX {
            counts.pop_front();
        }
        counts.push_back(((run.to_owned(), activity.to_owned()), 1));
        1
    }

    /// The activity has ended for good.
    pub(super) fn forget(&self, run: &str, activity: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|(id, _)| !is(id, run, activity));
    }
}

fn is(id: &Id, run: &str, activity: &str) -> bool {
    id.0 == run && id.1 == activity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_activity_is_counted_apart_until_it_ends() {
        let errors = UnknownErrors::default();
        assert_eq!([errors.add("r", "1"), errors.add("r", "1")], [1, 2]);
        assert_eq!([errors.add("r", "2"), errors.add("s", "1")], [1, 1]);
        errors.forget("r", "1");
        assert_eq!([errors.add("r", "1"), errors.add("r", "2")], [1, 2]);
    }

    #[test]
    fn the_counts_are_bounded() {
        let errors = UnknownErrors::default();
        for activity in 0..2 * COUNTED_MAX {
            errors.add("r", &activity.to_string());
        }
        assert_eq!(errors.0.lock().expect("nobody panicked").len(), COUNTED_MAX);
        assert_eq!(errors.add("r", "0"), 1, "the oldest is forgotten");
        let newest = (2 * COUNTED_MAX - 1).to_string();
        assert_eq!(errors.add("r", &newest), 2);
    }
}
