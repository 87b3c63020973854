//! Decides whether an activity that met an error is tried again: counts the errors of unknown kind, and how long it has
//! met those that should pass.
//!
//! An outage may have cost an activity fifty attempts before it meets an error that nobody knows: that one still gets its
//! own ten. Kept in memory only: another process counts anew, so nothing is ever given up sooner than promised.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::postgres::{BRIEF, Retry, UNKNOWN_ATTEMPTS};

/// Activities that are counted at one time: more than can be in flight. The one that is counted longest goes first.
const COUNTED_MAX: usize = 256;

/// A run's id, and an activity's within it.
type Id = (String, String);

/// What becomes of an activity that met an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again.
    Again,
    /// No attempt can mend it.
    Final,
    /// It should have passed, and did not for so long.
    GivenUp(Duration),
}

/// The errors that activities met on this worker, and have not got over yet.
#[derive(Debug)]
pub(super) struct Attempts {
    give_up_after: Option<Duration>,
    counted: Mutex<VecDeque<(Id, Errors)>>,
}

/// One activity's.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    unknown: u32,
    /// When the first one came that is tried again.
    since: Option<Instant>,
    /// When the first came, with no other kind since, that should pass within [`BRIEF`].
    brief_since: Option<Instant>,
}

impl Attempts {
    /// None so far; what should pass is given up after that time, or never.
    pub(super) fn new(give_up_after: Option<Duration>) -> Self {
        Self {
            give_up_after,
            counted: Mutex::default(),
        }
    }

    /// An attempt has met an error of that class at `now`: what becomes of its activity.
    pub(super) fn judge(&self, run: &str, activity: &str, retry: Retry, now: Instant) -> Verdict {
        match retry {
            Retry::Never | Retry::Again => Verdict::Final,
            Retry::RetryLimited => self.count(run, activity, |errors| {
                errors.meet_unknown(self.give_up_after, now)
            }),
            Retry::Retry | Retry::RetryBriefly => self.count(run, activity, |errors| {
                errors.meet_passing(retry == Retry::RetryBriefly, self.give_up_after, now)
            }),
        }
    }

    /// The activity has ended for good.
    pub(super) fn forget(&self, run: &str, activity: &str) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|(id, _)| !is(id, run, activity));
    }

    fn count(&self, run: &str, activity: &str, judge: impl FnOnce(&mut Errors) -> Verdict) -> Verdict {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, errors)) = counted.iter_mut().find(|(id, _)| is(id, run, activity)) {
            return judge(errors);
        }
        if counted.len() >= COUNTED_MAX {
            counted.pop_front();
        }
        let mut errors = Errors::default();
        let verdict = judge(&mut errors);
        counted.push_back(((run.to_owned(), activity.to_owned()), errors));
        verdict
    }
}

impl Errors {
    fn meet_unknown(&mut self, give_up_after: Option<Duration>, now: Instant) -> Verdict {
        self.unknown = self.unknown.saturating_add(1);
        let waited = now.duration_since(*self.since.get_or_insert(now));
        if self.unknown >= UNKNOWN_ATTEMPTS {
            Verdict::Final
        } else if give_up_after.is_some_and(|limit| waited >= limit) {
            Verdict::GivenUp(waited)
        } else {
            Verdict::Again
        }
    }

    fn meet_passing(&mut self, is_brief: bool, give_up_after: Option<Duration>, now: Instant) -> Verdict {
        let since = *self.since.get_or_insert(now);
        let brief_since = is_brief.then(|| *self.brief_since.get_or_insert(now));
        self.brief_since = brief_since;
        let limits = [
            give_up_after.map(|limit| (since, limit)),
            brief_since.map(|since| (since, BRIEF)),
        ];
        let mut waited = limits
            .into_iter()
            .flatten()
            .map(|(since, limit)| (now.duration_since(since), limit));
        match waited.find(|(waited, limit)| waited >= limit) {
            Some((waited, _)) => Verdict::GivenUp(waited),
            None => Verdict::Again,
        }
    }
}

fn is(id: &Id, run: &str, activity: &str) -> bool {
    id.0 == run && id.1 == activity
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_activity_has_ten_unknown_errors_of_its_own_until_it_ends() {
        let attempts = Attempts::new(None);
        let now = Instant::now();
        let meet = |run: &str, activity: &str, retry| attempts.judge(run, activity, retry, now);
        for _ in 1..UNKNOWN_ATTEMPTS {
            assert_eq!(meet("r", "1", Retry::RetryLimited), Verdict::Again);
            assert_eq!(
                meet("r", "1", Retry::Retry),
                Verdict::Again,
                "an outage is not counted"
            );
        }
        assert_eq!(meet("r", "2", Retry::RetryLimited), Verdict::Again);
        assert_eq!(meet("s", "1", Retry::RetryLimited), Verdict::Again);
        assert_eq!(meet("r", "1", Retry::RetryLimited), Verdict::Final);
        attempts.forget("r", "1");
        assert_eq!(meet("r", "1", Retry::RetryLimited), Verdict::Again);
        for retry in [Retry::Never, Retry::Again] {
            assert_eq!(meet("r", "3", retry), Verdict::Final);
        }
    }

    #[test]
    fn what_should_pass_is_waited_for_as_long_as_was_asked_and_by_default_for_ever() {
        let (began, year) = (Instant::now(), 366 * 24 * 3600 * SECOND);
        let patient = Attempts::new(None);
        let limited = Attempts::new(Some(3600 * SECOND));
        for attempts in [&patient, &limited] {
            assert_eq!(attempts.judge("r", "1", Retry::Retry, began), Verdict::Again);
        }
        assert_eq!(
            patient.judge("r", "1", Retry::Retry, began + year),
            Verdict::Again
        );
        let nearly = began + 3599 * SECOND;
        assert_eq!(limited.judge("r", "1", Retry::Retry, nearly), Verdict::Again);
        assert_eq!(
            limited.judge("r", "2", Retry::Retry, nearly),
            Verdict::Again,
            "its first"
        );
        let late = began + 3601 * SECOND;
        assert_eq!(
            limited.judge("r", "1", Retry::Retry, late),
            Verdict::GivenUp(3601 * SECOND)
        );
        limited.forget("r", "1");
        assert_eq!(limited.judge("r", "1", Retry::Retry, late), Verdict::Again);
    }

    #[test]
    fn an_error_of_unknown_kind_is_given_up_by_whichever_bound_comes_first() {
        let (attempts, began) = (Attempts::new(Some(3 * SECOND)), Instant::now());
        let at = |seconds: u32| attempts.judge("r", "1", Retry::RetryLimited, began + seconds * SECOND);
        assert_eq!((at(0), at(2)), (Verdict::Again, Verdict::Again));
        assert_eq!(at(3), Verdict::GivenUp(3 * SECOND));
        let patient = Attempts::new(Some(3600 * SECOND));
        let last = (0..UNKNOWN_ATTEMPTS).map(|_| patient.judge("r", "1", Retry::RetryLimited, began));
        assert_eq!(last.last(), Some(Verdict::Final));
    }

    #[test]
    fn a_refusal_or_a_table_that_is_not_there_passes_within_a_minute_or_not_at_all() {
        let (attempts, began) = (Attempts::new(None), Instant::now());
        let at = |seconds: u32, retry| attempts.judge("r", "1", retry, began + seconds * SECOND);
        assert_eq!(at(0, Retry::RetryBriefly), Verdict::Again);
        assert_eq!(at(59, Retry::RetryBriefly), Verdict::Again);
        assert_eq!(at(60, Retry::RetryBriefly), Verdict::GivenUp(BRIEF));
        // A server that was gone meanwhile gets a minute of its own once it is back.
        assert_eq!(at(61, Retry::Retry), Verdict::Again);
        assert_eq!(at(900, Retry::RetryBriefly), Verdict::Again);
        assert_eq!(at(960, Retry::RetryBriefly), Verdict::GivenUp(BRIEF));
        let hasty = Attempts::new(Some(2 * SECOND));
        let at = |seconds: u32| hasty.judge("r", "1", Retry::RetryBriefly, began + seconds * SECOND);
        assert_eq!((at(0), at(2)), (Verdict::Again, Verdict::GivenUp(2 * SECOND)));
    }

    #[test]
    fn the_counts_are_bounded() {
        let attempts = Attempts::new(None);
        let now = Instant::now();
        for activity in 0..2 * COUNTED_MAX {
            attempts.judge("r", &activity.to_string(), Retry::RetryLimited, now);
        }
        assert_eq!(
            attempts.counted.lock().expect("nobody panicked").len(),
            COUNTED_MAX
        );
    }
}
