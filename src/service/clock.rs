//! Wall-clock time for the service, replaceable in tests. Milliseconds of Unix time, as everything in the journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the service gets its time from.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's wall clock: a laptop that slept wakes up later, not earlier.
    #[default]
    System,
    /// A clock that stands until it is moved.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Now, in milliseconds of Unix time.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => {
                let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
            }
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
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

/// 0 for none, for what is negative and for what does not fit.
pub(super) fn millis(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .unwrap_or_default();
    i64::try_from(duration.as_millis()).unwrap_or(0)
}
