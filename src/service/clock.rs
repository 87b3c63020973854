//! Time for the service, replaceable in tests. Milliseconds of Unix time, as everything in the journal.
//!
//! It is the wall clock's as long as that runs forward: a machine that slept finds due what became due meanwhile. Where the
//! wall clock is set back, it goes on from where it was, so that what was to be in a minute is in a minute.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the service gets its time from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// A clock that stands until it is moved.
    Manual(Arc<AtomicI64>),
    /// A wall clock and one that only goes on, as the system has them, each moved by the test.
    #[cfg(test)]
    Hands(Arc<Hands>),
}

/// The two clocks of [`Clock::Hands`].
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Hands {
    /// May be set back.
    pub wall_ms: AtomicI64,
    /// May not.
    pub monotonic_ms: AtomicI64,
    anchor: Mutex<Anchor>,
}

impl Clock {
    /// Now, in milliseconds of Unix time. Never less than before, in one process.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => system_ms(),
            Self::Manual(now) => now.load(Ordering::SeqCst),
            #[cfg(test)]
            Self::Hands(hands) => {
                let [wall_ms, monotonic_ms] =
                    [&hands.wall_ms, &hands.monotonic_ms].map(|hand| hand.load(Ordering::SeqCst));
                let monotonic = Duration::from_millis(monotonic_ms.unsigned_abs());
                hands
                    .anchor
                    .lock()
                    .expect("nobody panicked")
                    .now_ms(wall_ms, monotonic)
            }
        }
    }
}

fn system_ms() -> i64 {
    static ANCHOR: Mutex<Option<(Instant, Anchor)>> = Mutex::new(None);
    // Read under the lock: of two threads, the later one reads the later time.
    let mut anchor = ANCHOR.lock().unwrap_or_else(PoisonError::into_inner);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
    let (began, anchor) = anchor.get_or_insert_with(|| (Instant::now(), Anchor::default()));
    anchor.now_ms(wall_ms, began.elapsed())
}

/// A moment on both clocks: the last at which the wall clock was not behind.
#[derive(Debug, Default)]
struct Anchor {
    wall_ms: i64,
    monotonic: Duration,
}

impl Anchor {
    fn now_ms(&mut self, wall_ms: i64, monotonic: Duration) -> i64 {
        let passed = monotonic.saturating_sub(self.monotonic).as_millis();
        let kept_ms = self
            .wall_ms
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        if wall_ms < kept_ms {
            return kept_ms;
        }
        (self.wall_ms, self.monotonic) = (wall_ms, monotonic);
        wall_ms
    }
}

pub(super) fn timestamp(ms: i64) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    Some(prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos,
    })
}

pub(super) fn duration(ms: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    (ms > 0).then_some(prost_types::Duration {
        seconds: ms.div_euclid(1000),
        nanos,
    })
}

/// As long as anything may take that a client asks for. What is longer is taken for this.
const LONGEST_MS: i64 = 100 * 365 * 24 * 3600 * 1000;

/// A span that a client has given, 0 for none, or what is wrong with it.
pub(super) fn span_ms(span: Option<prost_types::Duration>) -> Result<i64, String> {
    let Some(span) = span else { return Ok(0) };
    if span.seconds < 0 || !(0..1_000_000_000).contains(&span.nanos) {
        return Err("a span of time is negative, or none".to_owned());
    }
    let ms = i64::from(span.nanos / 1_000_000);
    Ok(span
        .seconds
        .saturating_mul(1000)
        .saturating_add(ms)
        .min(LONGEST_MS))
}

/// 0 for none and for what is negative.
pub(super) fn millis(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default();
    i64::try_from(duration.as_millis())
        .unwrap_or(LONGEST_MS)
        .min(LONGEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_back_is_not_followed_and_one_that_is_ahead_is() {
        let mut anchor = Anchor::default();
        let mut now_ms = |wall_ms, monotonic_ms| anchor.now_ms(wall_ms, Duration::from_millis(monotonic_ms));
        assert_eq!(now_ms(5_000_000, 0), 5_000_000);
        assert_eq!(now_ms(5_001_000, 1000), 5_001_000);
        // An hour back: a second is still a second, in steps of any size.
        assert_eq!(now_ms(1_401_000, 1000), 5_001_000);
        assert_eq!(now_ms(1_401_001, 1001), 5_001_001);
        assert_eq!(now_ms(1_402_000, 2000), 5_002_000);
        // It was asleep, or was set right again.
        assert_eq!(now_ms(5_060_000, 2001), 5_060_000);
        assert_eq!(now_ms(5_060_010, 2011), 5_060_010);
        assert!(Clock::System.now_ms() <= Clock::System.now_ms());
    }
}
