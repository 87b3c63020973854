//! How large a batch should be, and how fast the last ones went. Pure arithmetic on the workflow's own time.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::job::Tuning;

/// A batch has at most so many rows, unless the operator says otherwise: the receipt of a lost batch is work done again.
const MAX_ROWS: u64 = 50_000;
/// And at most about so many bytes.
const MAX_BYTES: u64 = 16 << 20;
/// Nothing is known about the rows yet.
const FIRST_ROWS: u64 = 10_000;
/// A batch under a speed limit takes about so long: its snapshot should not be held for minutes.
const LIMITED_SECONDS: u64 = 5;
/// Speed is measured over so many batches.
const SAMPLES: usize = 32;

/// The most rows for the next batch.
pub fn batch_rows(tuning: &Tuning, row_bytes: Option<u64>) -> u64 {
    if let Some(rows) = tuning.batch_rows {
        return rows;
    }
    let Some(row_bytes) = row_bytes.filter(|bytes| *bytes > 0) else {
        return FIRST_ROWS;
    };
    // The batches in flight share the limit.
    let limit = tuning
        .max_rate_bytes_per_second
        .map(|rate| rate.saturating_mul(LIMITED_SECONDS) / u64::from(tuning.concurrency.max(1)));
    let bytes = limit.map_or(MAX_BYTES, |limit| limit.min(MAX_BYTES));
    (bytes / row_bytes).clamp(1, MAX_ROWS)
}

/// The most rows for the next batch of a second look: it writes little, and holds its snapshot for as long as it reads.
pub fn look_rows(tuning: &Tuning, row_bytes: Option<u64>) -> u64 {
    batch_rows(tuning, row_bytes).min(MAX_ROWS)
}

/// The last batches: when each came back, and what it brought.
#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<(SystemTime, u64, u64)>,
}

impl Pace {
    /// A stretch of copying begins: what was before does not count.
    pub fn begin(&mut self, now: Option<SystemTime>) {
        self.samples.clear();
        self.samples.extend(now.map(|now| (now, 0, 0)));
    }

    /// A batch came back.
    pub fn add(&mut self, now: Option<SystemTime>, rows: u64, bytes: u64) {
        self.samples.extend(now.map(|now| (now, rows, bytes)));
        let excess = self.samples.len().saturating_sub(SAMPLES);
        self.samples.drain(..excess);
    }

    /// Rows and bytes a second; `None` while there is nothing to measure.
    pub fn speed(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.duration_since(first.0).ok()?.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        // The first sample is where the clock starts: what it brought was copied before.
        let brought = self.samples.iter().skip(1);
        let (rows, bytes) = brought.fold((0, 0), |sum, sample| (sum.0 + sample.1, sum.1 + sample.2));
        Some((rows as f64 / seconds, bytes as f64 / seconds))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn batches_fit_rows_bytes_and_the_speed_limit() {
        let tuning = |batch_rows, max_rate| Tuning {
            concurrency: 4,
            batch_rows,
            max_rate_bytes_per_second: max_rate,
        };
        assert_eq!(batch_rows(&tuning(Some(7), None), Some(300)), 7);
        assert_eq!(batch_rows(&tuning(None, None), None), FIRST_ROWS);
        assert_eq!(batch_rows(&tuning(None, None), Some(100)), MAX_ROWS);
        assert_eq!(batch_rows(&tuning(None, None), Some(1 << 20)), 16);
        assert_eq!(batch_rows(&tuning(None, Some(4 << 20)), Some(1 << 20)), 5);
        assert_eq!(batch_rows(&tuning(None, None), Some(1 << 40)), 1);
        assert_eq!(look_rows(&tuning(Some(1_000_000), None), Some(300)), MAX_ROWS);
        assert_eq!(look_rows(&tuning(Some(7), None), Some(300)), 7);
    }

    #[test]
    fn speed_is_what_came_back_over_the_time_it_took() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        let mut pace = Pace::default();
        assert_eq!(pace.speed(), None);
        pace.begin(at(10));
        assert_eq!(pace.speed(), None);
        pace.add(at(11), 100, 1000);
        pace.add(at(12), 300, 3000);
        assert_eq!(pace.speed(), Some((200.0, 2000.0)));
        for second in 13..100 {
            pace.add(at(second), 50, 500);
        }
        assert_eq!(pace.speed(), Some((50.0, 500.0)), "old samples do not count");
    }
}
