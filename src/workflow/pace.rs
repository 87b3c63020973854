//! How large a batch should be, and how fast the last ones went. Pure arithmetic on the workflow's own time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::job::Tuning;

/// A batch has at most so many rows, unless the operator says otherwise: the receipt of a lost batch is work done again.
const MAX_ROWS: u64 = 50_000;
/// And at most about so many bytes.
const MAX_BYTES: u64 = 16 << 20;
/// Nothing is known about the rows yet.
const FIRST_ROWS: u64 = 10_000;
/// A batch under a speed limit takes about so long: its snapshot should not be held for minutes.
const LIMITED_SECONDS: u64 = 5;
/// Speed is measured over so many milliseconds: enough to even out batches, and a server that has stopped is seen soon.
const WINDOW_MS: u64 = 12_000;
/// Over a shorter time a rate says more about the batch than about the speed.
const SPAN_MS_MIN: u64 = 500;
/// What stood still for longer than this does not count for how fast rows move since: an outage, a pause, a process that was
/// not there.
const STOOD_MS_MIN: u64 = 3000;
/// So many batches are kept for it: more come back in that time where batches are tiny, and then it is shorter.
const SAMPLES: usize = 128;

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

/// The stretch of copying that goes on: when it began, and the last batches that came back.
///
/// It is what everybody who shows a speed computes it from, so that there is one: a bar, a status, a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pace {
    /// When the stretch began, in milliseconds of Unix time.
    pub since_ms: u64,
    /// What came back before this is forgotten; 0 where nothing is.
    #[serde(default)]
    pub forgotten_ms: u64,
    /// The last batches, in the order in which they came back.
    pub moved: VecDeque<Moved>,
}

/// Rows that moved, and in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// When their batch began, in milliseconds of Unix time.
    pub began_ms: u64,
    /// When it came back, or its last row was sent.
    pub ended_ms: u64,
    /// Rows.
    pub rows: u64,
    /// Wire bytes.
    pub bytes: u64,
}

impl Pace {
    /// A stretch of copying begins: what was before does not count.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.moved.clear();
        (self.since_ms, self.forgotten_ms) = (now_ms, 0);
    }

    /// A batch came back.
    pub(super) fn add(&mut self, moved: Moved) {
        self.moved.push_back(moved);
        while self.moved.len() > SAMPLES {
            let forgotten = self.moved.pop_front();
            self.forgotten_ms = forgotten.map_or(0, |it| it.ended_ms).max(self.forgotten_ms);
        }
    }

    /// Rows and bytes a second, over the last seconds before `now_ms`, with what is `in_flight`; `None` while nothing moves.
    ///
    /// A batch is taken to have moved evenly while it lasted, so that one of a minute counts as one of a second does.
    #[must_use]
    pub fn speed(&self, in_flight: &[Moved], now_ms: u64) -> Option<(f64, f64)> {
        let moves_since_ms = self.moves_since_ms(in_flight);
        let from_ms = now_ms
            .saturating_sub(WINDOW_MS)
            .max(moves_since_ms)
            .max(self.forgotten_ms);
        let seconds = now_ms.saturating_sub(from_ms) as f64 / 1000.0;
        if now_ms.saturating_sub(moves_since_ms) < SPAN_MS_MIN || seconds <= 0.0 {
            return None;
        }
        let (mut rows, mut bytes) = (0.0, 0.0);
        for it in self.moved.iter().chain(in_flight) {
            let within = it.ended_ms.min(now_ms).saturating_sub(it.began_ms.max(from_ms));
            // One that began and ended in one moment counts whole where that moment does.
            let share = match it.ended_ms.saturating_sub(it.began_ms) {
                0 => f64::from(u8::from((from_ms..=now_ms).contains(&it.ended_ms))),
                lasted => within as f64 / lasted as f64,
            };
            rows += it.rows as f64 * share;
            bytes += it.bytes as f64 * share;
        }
        (rows > 0.0).then(|| (rows / seconds, bytes / seconds))
    }

    /// Since when rows move without having stood still.
    fn moves_since_ms(&self, in_flight: &[Moved]) -> u64 {
        let mut moved: Vec<_> = self.moved.iter().chain(in_flight).collect();
        moved.sort_unstable_by_key(|it| it.began_ms);
        let mut since_ms = self.since_ms;
        let mut until_ms = since_ms.max(self.forgotten_ms);
        for it in moved {
            if it.began_ms.saturating_sub(until_ms) > STOOD_MS_MIN {
                since_ms = it.began_ms;
            }
            until_ms = until_ms.max(it.ended_ms);
        }
        since_ms
    }
}

#[cfg(test)]
mod tests {
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

    fn moved(began_ms: u64, ended_ms: u64, rows: u64) -> Moved {
        Moved {
            began_ms,
            ended_ms,
            rows,
            bytes: rows * 10,
        }
    }

    #[test]
    fn speed_is_what_moved_over_the_last_seconds() {
        let mut pace = Pace::default();
        pace.begin(10_000);
        assert_eq!(pace.speed(&[], 10_100), None, "too short to measure");
        assert_eq!(pace.speed(&[], 12_000), None, "nothing has moved");
        pace.add(moved(10_000, 11_000, 100));
        pace.add(moved(11_000, 12_000, 300));
        assert_eq!(pace.speed(&[], 12_000), Some((200.0, 2000.0)));
        for second in 12..100 {
            pace.add(moved(second * 1000, (second + 1) * 1000, 50));
        }
        assert_eq!(
            pace.speed(&[], 100_000),
            Some((50.0, 500.0)),
            "old ones do not count"
        );
        assert_eq!(
            pace.speed(&[], 106_000),
            Some((25.0, 250.0)),
            "a server that stops is seen"
        );
        assert_eq!(pace.speed(&[], 113_000), None, "nothing moves any more");
    }

    #[test]
    fn a_long_batch_counts_for_the_time_it_took_before_and_after_it_came_back() {
        let mut pace = Pace::default();
        pace.begin(0);
        let speed = |pace: &Pace, in_flight: &[Moved], now_ms| pace.speed(in_flight, now_ms).map(|it| it.0);
        assert_eq!(speed(&pace, &[moved(0, 30_000, 3000)], 30_000), Some(100.0));
        pace.add(moved(0, 60_000, 6000));
        assert_eq!(speed(&pace, &[], 60_000), Some(100.0));
        assert_eq!(
            speed(&pace, &[moved(60_000, 60_000, 0)], 60_000),
            Some(100.0),
            "one that has just begun"
        );
    }

    #[test]
    fn what_stood_still_does_not_count_once_rows_move_again() {
        let mut pace = Pace::default();
        pace.begin(0);
        for second in 0..20 {
            pace.add(moved(second * 1000, (second + 1) * 1000, 50));
        }
        // An outage of ten seconds.
        let speed = |pace: &Pace, in_flight: &[Moved], now_ms| pace.speed(in_flight, now_ms).map(|it| it.0);
        assert_eq!(speed(&pace, &[moved(30_000, 31_000, 60)], 31_000), Some(60.0));
        assert_eq!(
            speed(&pace, &[moved(30_000, 30_100, 60)], 30_100),
            None,
            "too short"
        );
        pace.add(moved(30_000, 31_000, 60));
        pace.add(moved(31_000, 32_000, 40));
        assert_eq!(speed(&pace, &[], 32_000), Some(50.0));
        assert_eq!(speed(&pace, &[], 34_000), Some(25.0), "it slows down");
        // Less than what is told as standing still is part of how fast it goes.
        pace.add(moved(34_000, 35_000, 50));
        assert_eq!(speed(&pace, &[], 35_000), Some(30.0));
    }

    #[test]
    fn what_is_forgotten_is_not_waited_for_either() {
        let mut pace = Pace::default();
        pace.begin(0);
        for tick in 0..10_000 {
            pace.add(moved(tick, tick + 1, 1));
        }
        assert_eq!(pace.moved.len(), SAMPLES);
        let speed = pace.speed(&[], 10_000).expect("a speed").0;
        assert!((speed - 1000.0).abs() < 10.0, "{speed}");
    }

    #[test]
    fn a_clock_that_was_set_back_is_harmless() {
        let mut pace = Pace::default();
        pace.begin(100_000);
        pace.add(moved(101_000, 102_000, 100));
        assert_eq!(pace.speed(&[], 50_000), None);
        pace.add(moved(50_000, 40_000, 100));
        assert_eq!(pace.speed(&[], 60_000), None);
    }
}
