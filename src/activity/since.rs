//! Since when each activity fails that is tried again: what a status tells, and a warning. Kept in memory only: under
//! another process it begins anew.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Activities that are noted at one time: more than can be in flight. The one that is noted longest goes first.
const NOTED_MAX: usize = 256;

/// A run's id, and an activity's within it.
type Id = (String, String);

/// When activities began to fail.
#[derive(Debug, Default)]
pub(super) struct FailingSince(Mutex<VecDeque<(Id, SystemTime)>>);

impl FailingSince {
    /// Since when it fails: `at`, where this is the first failure that this worker sees of it.
    pub(super) fn note(&self, run: &str, activity: &str, at: SystemTime) -> SystemTime {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, since)) = noted.iter().find(|(id, _)| is(id, run, activity)) {
            return *since;
        }
        if noted.len() >= NOTED_MAX {
            noted.pop_front();
        }
        noted.push_back(((run.to_owned(), activity.to_owned()), at));
        at
    }

    /// The activity has ended for good.
    pub(super) fn forget(&self, run: &str, activity: &str) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|(id, _)| !is(id, run, activity));
    }
}

fn is(id: &Id, run: &str, activity: &str) -> bool {
    id.0 == run && id.1 == activity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_fails_since_its_first_failure_until_it_ends() {
        let failing = FailingSince::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert_eq!(failing.note("r", "1", at(5)), at(5));
        assert_eq!(failing.note("r", "1", at(9)), at(5));
        assert_eq!(failing.note("r", "2", at(9)), at(9));
        failing.forget("r", "1");
        assert_eq!(failing.note("r", "1", at(9)), at(9));
        for activity in 0..2 * NOTED_MAX {
            failing.note("r", &activity.to_string(), at(1));
        }
        assert_eq!(failing.0.lock().expect("nobody panicked").len(), NOTED_MAX);
    }
}
