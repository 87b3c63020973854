//! How fast rows and bytes move, over the last seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Long enough to even out batches, short enough to show that a server has stopped.
const WINDOW: Duration = Duration::from_secs(12);
/// Below this a rate says more about the batch than about the speed.
const SPAN_MIN: Duration = Duration::from_millis(500);
/// Samples closer together than this replace each other, so that the window has a bounded length.
const SAMPLE_SPACING: Duration = Duration::from_millis(100);

/// Rows and bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PerSecond {
    pub(super) rows: f64,
    pub(super) bytes: f64,
}

/// The last seconds' samples.
#[derive(Debug, Default)]
pub(super) struct Speed {
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    rows: u64,
    bytes: u64,
}

impl Speed {
    /// Notes how much has moved in all, so far.
    pub(super) fn note(&mut self, at: Instant, rows: u64, bytes: u64) {
        if self.samples.len() > 1
            && self
                .samples
                .get(self.samples.len() - 2)
                .is_some_and(|s| at.saturating_duration_since(s.at) < SAMPLE_SPACING)
        {
            self.samples.pop_back();
        }
        self.samples.push_back(Sample { at, rows, bytes });
        // The oldest sample stays until the next one is as old as the window, so that the window is never shorter.
        while self
            .samples
            .get(1)
            .is_some_and(|second| at.saturating_duration_since(second.at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// The speed over the window; `None` before there is anything to measure. Never negative, never infinite.
    pub(super) fn per_second(&self) -> Option<PerSecond> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let span = last.at.saturating_duration_since(first.at);
        if span < SPAN_MIN {
            return None;
        }
        // What was in flight and rolled back makes the sum smaller.
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / span.as_secs_f64();
        Some(PerSecond {
            rows: rate(first.rows, last.rows),
            bytes: rate(first.bytes, last.bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let (mut speed, began) = (Speed::default(), Instant::now());
        assert_eq!(speed.per_second(), None);
        // A resumed job begins far from zero; that is no speed.
        speed.note(began, 1_000_000, 300_000_000);
        assert_eq!(speed.per_second(), None);
        for second in 1..=60 {
            speed.note(
                began + Duration::from_secs(second),
                1_000_000 + second * 1000,
                300_000_000 + second * 300_000,
            );
        }
        assert_eq!(
            speed.per_second(),
            Some(PerSecond {
                rows: 1000.0,
                bytes: 300_000.0
            })
        );
        for second in 61..=80 {
            speed.note(began + Duration::from_secs(second), 1_060_000, 318_000_000);
        }
        assert_eq!(
            speed.per_second(),
            Some(PerSecond {
                rows: 0.0,
                bytes: 0.0
            })
        );
        assert!(
            speed.samples.len() < 20,
            "{} samples are kept",
            speed.samples.len()
        );
    }

    #[test]
    fn a_clock_that_stands_and_counts_that_fall_are_harmless() {
        let (mut speed, began) = (Speed::default(), Instant::now());
        for rows in [10, 20, 5] {
            speed.note(began, rows, rows);
        }
        assert_eq!(speed.per_second(), None);
        speed.note(began + Duration::from_secs(1), 0, 0);
        assert_eq!(
            speed.per_second(),
            Some(PerSecond {
                rows: 0.0,
                bytes: 0.0
            })
        );
    }

    #[test]
    fn quick_updates_do_not_fill_the_window() {
        let (mut speed, began) = (Speed::default(), Instant::now());
        for tick in 0..100_000u64 {
            speed.note(began + Duration::from_millis(tick), tick, tick);
        }
        assert!(
            speed.samples.len() <= 245,
            "{} samples are kept",
            speed.samples.len()
        );
        let rows = speed.per_second().expect("a speed").rows;
        assert!((rows - 1000.0).abs() < 20.0, "{rows}");
    }
}
