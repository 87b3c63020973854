//! One warning for one trouble: said when it begins, again when it lasts, and once more when it is over.

use std::time::{Duration, SystemTime};

use crate::job::status::{JobState, JobStatus, Retrying};
use crate::observe::figures::span;
use crate::observe::progress::{retrying_in_words, trouble_in_words};

/// A trouble is over when nothing has failed for so long: where each batch meets its own, they are one.
const OVER_AFTER: Duration = Duration::from_secs(2);
/// It is said again when it has lasted so long, then each hour.
const SAID_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(600)];
const SAID_AGAIN_EVERY: Duration = Duration::from_secs(3600);

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Warning(String),
    Over(String),
}

/// The trouble that goes on, if any.
#[derive(Debug, Default)]
pub struct Trouble(Option<Told>);

#[derive(Debug)]
struct Told {
    last: Retrying,
    was_unreachable: bool,
    since: SystemTime,
    again_at: SystemTime,
    clear_since: Option<SystemTime>,
}

impl Trouble {
    /// Looks how the job stands now; gives what is new of its trouble.
    pub fn look(&mut self, status: &JobStatus, now: SystemTime) -> Option<Said> {
        match &status.retrying {
            Some(retrying) => self.goes_on(retrying, now),
            None => self.clears(status, now),
        }
    }

    fn goes_on(&mut self, retrying: &Retrying, now: SystemTime) -> Option<Said> {
        let words = || Said::Warning(retrying_in_words(retrying, now));
        match self.0.as_mut().filter(|told| told.last.side == retrying.side) {
            Some(told) => {
                told.clear_since = None;
                told.was_unreachable |= retrying.unreachable;
                told.last.clone_from(retrying);
                (now >= told.again_at).then(|| {
                    told.again_at = again_at(told.since, now);
                    words()
                })
            }
            None => {
                let since = humantime::parse_rfc3339_weak(&retrying.since).unwrap_or(now);
                self.0 = Some(Told {
                    last: retrying.clone(),
                    was_unreachable: retrying.unreachable,
                    since,
                    again_at: again_at(since, now),
                    clear_since: None,
                });
                Some(words())
            }
        }
    }

    fn clears(&mut self, status: &JobStatus, now: SystemTime) -> Option<Said> {
        let told = self.0.as_mut()?;
        if !matches!(status.state, JobState::Running | JobState::Sleeping) {
            // Whether it would have passed nobody knows.
            self.0 = None;
            return None;
        }
        let clear_since = *told.clear_since.get_or_insert(now);
        if now.duration_since(clear_since).unwrap_or_default() < OVER_AFTER {
            return None;
        }
        let lasted = span(
            clear_since
                .duration_since(told.since)
                .unwrap_or_default()
                .as_secs(),
        );
        let words = match told.was_unreachable {
            true => format!("{} reached again after {lasted}", told.last.side),
            false => format!("{}: over after {lasted}", trouble_in_words(&told.last)),
        };
        self.0 = None;
        Some(Said::Over(words))
    }
}

fn again_at(since: SystemTime, now: SystemTime) -> SystemTime {
    let lasts = now.duration_since(since).unwrap_or_default();
    match SAID_AGAIN_AFTER.into_iter().find(|after| *after > lasts) {
        Some(after) => since + after,
        None => now + SAID_AGAIN_EVERY,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::report::status_tests::running;
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn retrying(side: &str, unreachable: bool) -> JobStatus {
        let mut job = running();
        job.state = JobState::Retrying;
        job.retrying = Some(Retrying {
            activity: "copy_batch".to_owned(),
            side: side.to_owned(),
            unreachable,
            since: "1970-01-01T00:01:40Z".to_owned(),
            attempt: 2,
            next_attempt_at: None,
            last_failure: "connection refused".to_owned(),
        });
        job
    }

    #[test]
    fn an_outage_is_said_when_it_begins_when_it_lasts_and_when_it_is_over() {
        let (mut trouble, job) = (Trouble::default(), retrying("target", true));
        let mut warned = Vec::new();
        for second in 100..4400 {
            match trouble.look(&job, at(second)) {
                Some(Said::Warning(words)) => warned.push((second, words)),
                other => assert_eq!(other, None),
            }
        }
        let when: Vec<_> = warned.iter().map(|(second, _)| *second).collect();
        assert_eq!(when, [100, 160, 700, 4300]);
        assert_eq!(
            warned[1].1,
            "target not reached for 1m 00s, attempt 2, trying now: connection refused"
        );
        let looks: Vec<_> = (4400..4410)
            .filter_map(|second| trouble.look(&running(), at(second)))
            .collect();
        assert_eq!(
            looks,
            [Said::Over("target reached again after 1h 11m".to_owned())]
        );
    }

    #[test]
    fn a_trouble_of_each_batch_is_one() {
        let (mut trouble, mut said) = (Trouble::default(), 0);
        for second in 100..150 {
            let job = match second % 2 {
                0 => retrying("target", false),
                _ => running(),
            };
            said += usize::from(trouble.look(&job, at(second)).is_some());
        }
        assert_eq!(said, 1);
        assert_eq!(trouble.look(&running(), at(150)), None);
        assert_eq!(
            trouble.look(&running(), at(151)),
            Some(Said::Over("target in trouble: over after 49s".to_owned()))
        );
    }

    #[test]
    fn the_other_side_is_another_trouble_and_a_pause_is_no_end_of_one() {
        let mut trouble = Trouble::default();
        assert!(trouble.look(&retrying("target", true), at(110)).is_some());
        let said = trouble.look(&retrying("source", true), at(111));
        assert!(
            matches!(&said, Some(Said::Warning(words)) if words.starts_with("source not reached")),
            "{said:?}"
        );
        let mut paused = running();
        paused.state = JobState::Paused;
        assert_eq!(trouble.look(&paused, at(120)), None);
        assert_eq!(trouble.look(&running(), at(130)), None);
    }
}
