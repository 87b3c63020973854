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
    pub fn look(&mut self, status: &JobStatus, now: SystemTime) -> Vec<Said> {
        match &status.retrying {
            Some(retrying) => self.goes_on(retrying, now),
            None => self.clears(status, now).into_iter().collect(),
        }
    }

    fn goes_on(&mut self, retrying: &Retrying, now: SystemTime) -> Vec<Said> {
        let warning = || Said::Warning(retrying_in_words(retrying, now));
        if let Some(told) = self.0.as_mut().filter(|told| told.last.side == retrying.side) {
            told.clear_since = None;
            told.was_unreachable |= retrying.unreachable;
            told.last.clone_from(retrying);
            if now < told.again_at {
                return Vec::new();
            }
            told.again_at = again_at(told.since, now);
            return vec![warning()];
        }
        let since = humantime::parse_rfc3339_weak(&retrying.since).unwrap_or(now);
        let told = Told {
            last: retrying.clone(),
            was_unreachable: retrying.unreachable,
            since,
            again_at: again_at(since, now),
            clear_since: None,
        };
        // What fails longest is what is told: the other side's trouble would still be it, were it not over.
        let before = self.0.replace(told).filter(|before| before.since <= since);
        let over = before.map(|before| before.over(now));
        over.into_iter().chain([warning()]).collect()
    }

    fn clears(&mut self, status: &JobStatus, now: SystemTime) -> Option<Said> {
        let told = self.0.as_mut()?;
        let clear_since = *told.clear_since.get_or_insert(now);
        let is_clear = match status.state {
            JobState::Completed => true,
            JobState::Running | JobState::Sleeping => {
                now.duration_since(clear_since).unwrap_or_default() >= OVER_AFTER
            }
            _ => {
                // Whether it would have passed nobody knows.
                self.0 = None;
                return None;
            }
        };
        is_clear.then(|| self.0.take().map(|told| told.over(clear_since)))?
    }
}

impl Told {
    fn over(&self, at: SystemTime) -> Said {
        let at = self.clear_since.unwrap_or(at);
        let lasted = span(at.duration_since(self.since).unwrap_or_default().as_secs());
        Said::Over(match self.was_unreachable {
            true => format!("{} reached again after {lasted}", self.last.side),
            false => format!("{}: over after {lasted}", trouble_in_words(&self.last)),
        })
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
            for said in trouble.look(&job, at(second)) {
                match said {
                    Said::Warning(words) => warned.push((second, words)),
                    over => panic!("{over:?}"),
                }
            }
        }
        let when: Vec<_> = warned.iter().map(|(second, _)| *second).collect();
        assert_eq!(when, [100, 160, 700, 4300]);
        assert_eq!(
            warned[1].1,
            "target not reached for 1m 00s, attempt 2, trying now: connection refused"
        );
        let looks: Vec<_> = (4400..4410)
            .flat_map(|second| trouble.look(&running(), at(second)))
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
            said += trouble.look(&job, at(second)).len();
        }
        assert_eq!(said, 1);
        assert_eq!(trouble.look(&running(), at(150)), []);
        assert_eq!(
            trouble.look(&running(), at(151)),
            [Said::Over("target in trouble: over after 49s".to_owned())]
        );
    }

    #[test]
    fn the_other_side_is_another_trouble_and_a_pause_is_no_end_of_one() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.look(&retrying("target", true), at(110)).len(), 1);
        let said = trouble.look(&retrying("source", true), at(111));
        assert!(
            matches!(&said[..], [Said::Over(over), Said::Warning(words)]
                if over == "target reached again after 11s" && words.starts_with("source not reached")),
            "{said:?}"
        );
        let mut other = running();
        other.state = JobState::Paused;
        assert_eq!(trouble.look(&other, at(120)), []);
        assert_eq!(trouble.look(&running(), at(130)), []);
        assert_eq!(trouble.look(&retrying("target", true), at(131)).len(), 1);
        other.state = JobState::Completed;
        let over = Said::Over("target reached again after 32s".to_owned());
        assert_eq!(
            trouble.look(&other, at(132)),
            [over],
            "at once where the job has ended"
        );
    }
}
