//! What the source's clock showed, and when that was here: what tells that it was set back.

use serde::{Deserialize, Serialize};

/// Clocks that run freely differ by less than this part of the time that passes.
const DRIFT_PART: i64 = 2_000;
/// What an answer may take on its way, and steps that are too small to be told from that.
const STEP_US: i64 = 1_000_000;

/// What the source's clock showed, in microseconds of Unix time, and the time of this machine then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceClock {
    /// What it showed.
    pub source_us: i64,
    /// When it was asked, by a clock here that is not set back while the process lives.
    pub here_us: i64,
}

impl SourceClock {
    /// The earliest that the source's clock can have shown since this, in microseconds of Unix time, if it was set back:
    /// it shows `source_us` now, at `here_us`. A clock that was set back and forward again is not seen.
    #[must_use]
    pub fn earliest_since(&self, source_us: i64, here_us: i64) -> Option<i64> {
        let moved = source_us.saturating_sub(self.source_us);
        let passed = here_us.saturating_sub(self.here_us).max(0);
        let behind = passed.saturating_sub(moved);
        let tolerance = STEP_US + passed / DRIFT_PART;
        let is_back = moved < 0 || behind > tolerance;
        is_back.then(|| self.source_us.saturating_sub(behind).saturating_sub(tolerance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_clock_that_goes_back_or_moves_less_than_time_passes_was_set_back() {
        let seen = SourceClock {
            source_us: 1_000 * SECOND,
            here_us: 5_000 * SECOND,
        };
        let after = |source, here| seen.earliest_since(source * SECOND, here * SECOND);
        assert_eq!(after(1_010, 5_010), None);
        assert_eq!(after(1_040, 5_010), None, "set forward, which harms nobody");
        assert_eq!(after(1_009, 5_010), None, "an answer that took its time");
        assert_eq!(after(87_370, 91_400), None, "a day, and a clock that is slow");
        let back = after(990, 5_010).expect("it shows less than it did");
        assert!(back <= 980 * SECOND && back > 970 * SECOND, "{back}");
        let back = after(1_580, 5_600).expect("ten minutes, and 20 s are missing");
        assert!(back <= 980 * SECOND && back > 970 * SECOND, "{back}");
        let back = after(1_000, 4_000).map(|_| ());
        assert_eq!(back, None, "another machine here, whose clock is behind");
        assert!(after(999, 4_000).is_some());
    }
}
