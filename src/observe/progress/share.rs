//! How much of a whole is done, when the whole is often only guessed.

use crate::job::status::{JobState, JobStatus, TableStatus};
use crate::observe::figures::{count, counted};

/// Rows done, and how many there are in all, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    done: u64,
    in_flight: u64,
    total: Option<u64>,
    is_estimate: bool,
    completed: bool,
}

/// The share of one table of a job that is done, with what is on the way to it.
pub fn share(job: &JobStatus, table: &TableStatus) -> Share {
    Share {
        done: table.rows_done,
        in_flight: job.rows_in_flight,
        total: table.rows_total,
        is_estimate: table.rows_total_is_estimate,
        completed: has_all(job),
    }
}

/// Whether all that was there is on the target: a job that has completed, and a sync that is in step, or was when it was paused.
fn has_all(job: &JobStatus) -> bool {
    match job.state {
        JobState::Completed | JobState::Sleeping => true,
        JobState::Paused => job.phase.as_deref() == Some("sleeping"),
        _ => false,
    }
}

impl Share {
    /// The share of a whole job that is done; its total is known when every table's is.
    pub fn of_job(job: &JobStatus) -> Self {
        let total = job
            .tables
            .iter()
            .map(|table| table.rows_total)
            .try_fold(0u64, |sum, total| total.map(|total| sum.saturating_add(total)));
        Self {
            done: job
                .tables
                .iter()
                .fold(0, |sum, table| sum.saturating_add(table.rows_done)),
            in_flight: job.rows_in_flight,
            total: total.filter(|_| !job.tables.is_empty()),
            is_estimate: job.tables.iter().any(|table| table.rows_total_is_estimate),
            completed: has_all(job),
        }
    }

    /// Whole percents, 100 only when it has completed or is in step; `None` where there is no total, or more is done than was guessed.
    pub fn percent(&self) -> Option<u64> {
        self.permille().map(|permille| permille / 10)
    }

    /// As [`percent`](Self::percent), in thousandths, for a bar.
    pub fn permille(&self) -> Option<u64> {
        if self.completed {
            return Some(1000);
        }
        let total = self.total.filter(|total| *total > 0 && self.done <= *total)?;
        let moved = u128::from(self.moved().min(total));
        let permille = u64::try_from(moved * 1000 / u128::from(total)).unwrap_or(1000);
        Some(permille.min(999))
    }

    /// The percents with their sign, `~45%` where the total is an estimate; `  ?%` where there are none.
    pub fn percent_in_words(&self) -> String {
        match self.percent() {
            Some(percent) if self.is_guess() => format!("~{percent}%"),
            Some(percent) => format!("{percent}%"),
            None => "?%".to_owned(),
        }
    }

    /// `450,000 of ~1,000,000 rows`; an estimate that was too low becomes `450,000 of >=450,000 rows`.
    pub fn rows_in_words(&self) -> String {
        let done = count(self.done);
        match self.total {
            Some(_) if self.completed => counted(self.done, "row"),
            None => counted(self.done, "row"),
            Some(total) if total < self.done => format!("{done} of >={}", counted(self.done, "row")),
            Some(total) if self.is_estimate => format!("{done} of ~{}", counted(total, "row")),
            Some(total) => format!("{done} of {}", counted(total, "row")),
        }
    }

    /// Rows done and percents: `450,000 of ~1,000,000 rows (~45%)`, which count what is in flight too, and say so.
    pub fn in_words(&self) -> String {
        let notes = [
            self.percent().map(|_| self.percent_in_words()),
            self.in_flight_in_words(),
        ];
        let notes: Vec<_> = notes.into_iter().flatten().collect();
        match notes.is_empty() {
            true => self.rows_in_words(),
            false => format!("{} ({})", self.rows_in_words(), notes.join(", ")),
        }
    }

    /// `+50,000 in flight`; `None` where nothing is.
    pub fn in_flight_in_words(&self) -> Option<String> {
        (self.in_flight > 0).then(|| format!("+{} in flight", count(self.in_flight)))
    }

    /// Rows done alone, where there is no room for more.
    pub fn done_in_words(&self) -> String {
        counted(self.done, "row")
    }

    fn moved(&self) -> u64 {
        self.done.saturating_add(self.in_flight)
    }

    fn is_guess(&self) -> bool {
        self.is_estimate && !self.completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(done: u64, total: Option<u64>, is_estimate: bool, completed: bool) -> Share {
        Share {
            done,
            in_flight: 0,
            total,
            is_estimate,
            completed,
        }
    }

    #[test]
    fn a_share_is_said_with_what_is_known_of_the_whole() {
        for (share, words) in [
            (
                of(450_000, Some(1_000_000), true, false),
                "450,000 of ~1,000,000 rows (~45%)",
            ),
            (
                of(450_000, Some(1_000_000), false, false),
                "450,000 of 1,000,000 rows (45%)",
            ),
            (of(450_000, None, true, false), "450,000 rows"),
            (
                of(1_200_000, Some(1_000_000), true, false),
                "1,200,000 of >=1,200,000 rows",
            ),
            (
                of(1_200_000, Some(1_000_000), true, true),
                "1,200,000 rows (100%)",
            ),
            (of(900_000, Some(1_000_000), true, true), "900,000 rows (100%)"),
            (of(0, Some(0), false, false), "0 of 0 rows"),
            (of(0, Some(0), true, true), "0 rows (100%)"),
            (of(0, Some(1), true, false), "0 of ~1 row (~0%)"),
        ] {
            assert_eq!(share.in_words(), words);
        }
        let moving = Share {
            in_flight: 50_000,
            ..of(450_000, Some(1_000_000), true, false)
        };
        assert_eq!(
            moving.in_words(),
            "450,000 of ~1,000,000 rows (~50%, +50,000 in flight)"
        );
    }

    #[test]
    fn only_a_completed_share_is_a_hundred_percent() {
        assert_eq!(of(1000, Some(1000), true, false).percent(), Some(99));
        assert_eq!(of(u64::MAX, Some(u64::MAX), false, false).percent(), Some(99));
        assert_eq!(of(u64::MAX, Some(1), true, false).percent(), None);
        let over = Share {
            in_flight: u64::MAX,
            ..of(10, Some(20), true, false)
        };
        assert_eq!(over.percent(), Some(99));
        assert_eq!(of(5, None, true, true).percent(), Some(100));
    }
}
