//! Since when somebody has waited for a server without a byte that came or went.
//!
//! Waiting is noted only while a future is not ready, so that a row costs nothing that is there already.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When bytes moved on a connection, and since when somebody waits for some.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    waiting: AtomicU32,
    waiting_since_ms: AtomicU64,
    moved_at_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            waiting: AtomicU32::new(0),
            waiting_since_ms: AtomicU64::new(0),
            moved_at_ms: AtomicU64::new(0),
        }
    }
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A byte came or went.
    pub(super) fn moved(&self) {
        self.moved_at_ms.store(self.now_ms(), Ordering::Release);
    }

    /// How long somebody has waited without a byte; `None` where nobody waits.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let since = self.waiting_since_ms.load(Ordering::Acquire);
        let since = since.max(self.moved_at_ms.load(Ordering::Acquire));
        Some(Duration::from_millis(self.now_ms().saturating_sub(since)))
    }

    /// The future, and for as long as it is not ready somebody who waits. Cancel-safe if the future is.
    pub(super) async fn awaited<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut waiting = None;
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && waiting.is_none() {
                waiting = Some(Waiting::on(self));
            }
            polled
        })
        .await
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Pulse);

impl<'a> Waiting<'a> {
    fn on(pulse: &'a Pulse) -> Self {
        if pulse.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            pulse.waiting_since_ms.store(pulse.now_ms(), Ordering::Release);
        }
        Self(pulse)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_counts_from_the_last_byte_while_somebody_waits() {
        let pulse = Pulse::default();
        let pause = Duration::from_millis(60);
        tokio::time::sleep(pause).await;
        assert_eq!(pulse.silent_for(), None, "nobody waits");
        pulse.awaited(std::future::ready(())).await;
        assert_eq!(pulse.silent_for(), None);
        let waits = pulse.awaited(std::future::pending::<()>());
        let watches = async {
            assert!(pulse.silent_for().expect("somebody waits") < pause);
            tokio::time::sleep(pause).await;
            assert!(pulse.silent_for().expect("somebody waits") >= pause);
            pulse.moved();
            assert!(pulse.silent_for().expect("somebody waits") < pause);
        };
        tokio::select! {
            biased;
            () = waits => unreachable!("it never ends"),
            () = watches => {}
        }
        assert_eq!(pulse.silent_for(), None, "who waited has gone");
    }
}
