//! A speed limit that several batches share, and that can be changed while they run.
//!
//! A token bucket. Waiters are served in the order in which they came, so that no batch starves another.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// Sees every chunk of rows before it goes to the target; may hold it back.
pub trait Meter: Send + Sync {
    /// `rows` rows of `bytes` wire bytes are about to be written. Dropping the future must be harmless.
    fn pass(&self, rows: u64, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Sees nothing and holds nothing back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unmetered;

impl Meter for Unmetered {
    fn pass(&self, _rows: u64, _bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// A limit in bytes a second, or none.
#[derive(Debug)]
pub struct Throttle {
    rate: watch::Sender<Option<NonZeroU64>>,
    bucket: Mutex<Bucket>,
}

/// So much of a second's bytes may pass at once after a pause.
const BURST_SECONDS: f64 = 0.1;

#[derive(Debug)]
struct Bucket {
    /// Negative while the last chunk is being paid off.
    tokens: f64,
    filled_at: Instant,
}

impl Throttle {
    /// A limit in bytes a second; `None` is no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            rate: watch::Sender::new(bytes_per_second),
            bucket: Mutex::new(Bucket {
                tokens: 0.0,
                filled_at: Instant::now(),
            }),
        }
    }

    /// Changes the limit; who waits is told at once.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        self.rate.send_replace(bytes_per_second);
    }

    /// The limit in bytes a second.
    #[must_use]
    pub fn get(&self) -> Option<NonZeroU64> {
        *self.rate.borrow()
    }

    /// Waits until `bytes` may pass. Cancel-safe: a dropped wait has taken nothing.
    pub async fn pass(&self, bytes: u64) {
        if self.get().is_none() {
            return;
        }
        let mut rate = self.rate.subscribe();
        // The lock is held while waiting: tokio's mutex is fair, so this is the queue.
        let mut bucket = self.bucket.lock().await;
        loop {
            let Some(limit) = *rate.borrow_and_update() else {
                *bucket = Bucket {
                    tokens: 0.0,
                    filled_at: Instant::now(),
                };
                return;
            };
            #[expect(
                clippy::cast_precision_loss,
                reason = "a rate beyond 2^53 bytes a second is no limit"
            )]
            let limit = limit.get() as f64;
            let now = Instant::now();
            let filled = bucket.tokens + now.duration_since(bucket.filled_at).as_secs_f64() * limit;
            bucket.tokens = filled.min(limit * BURST_SECONDS);
            bucket.filled_at = now;
            if bucket.tokens >= 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "a chunk is some 64 KiB, or one row")]
                let bytes = bytes as f64;
                bucket.tokens -= bytes;
                return;
            }
            // Short enough for the clock to stay meaningful, whatever the debt.
            let wait = Duration::from_secs_f64((-bucket.tokens / limit).clamp(0.000_1, 3600.0));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = rate.changed() => {}
            }
        }
    }
}

impl Meter for Throttle {
    fn pass(&self, _rows: u64, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(Throttle::pass(self, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn rate(bytes: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(bytes)
    }

    /// Passes `chunks` of 10,000 bytes and says how many seconds that took.
    async fn seconds(throttle: &Throttle, chunks: u32) -> f64 {
        let start = std::time::Instant::now();
        for _ in 0..chunks {
            throttle.pass(10_000).await;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test]
    async fn a_limit_is_kept_and_shared_fairly() {
        let throttle = Arc::new(Throttle::new(rate(1_000_000)));
        let both =
            [Arc::clone(&throttle), throttle].map(|t| tokio::spawn(async move { seconds(&t, 20).await }));
        let mut took = Vec::new();
        for one in both {
            took.push(one.await.unwrap());
        }
        // 400,000 bytes at 1 MB/s: 0.4 s, less the burst.
        assert!(took.iter().all(|s| (0.2..1.0).contains(s)), "{took:?}");
        assert!((took[0] - took[1]).abs() < 0.1, "{took:?}");
    }

    #[tokio::test]
    async fn lifting_the_limit_frees_who_waits() {
        let throttle = Arc::new(Throttle::new(rate(1)));
        throttle.pass(1_000_000).await;
        let waits = [0, 1].map(|_| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move { throttle.pass(1).await })
        });
        tokio::task::yield_now().await;
        assert!(waits.iter().all(|wait| !wait.is_finished()));
        throttle.set(None);
        for wait in waits {
            tokio::time::timeout(Duration::from_secs(5), wait)
                .await
                .expect("freed")
                .unwrap();
        }
        assert_eq!(throttle.get(), None);
    }
}
