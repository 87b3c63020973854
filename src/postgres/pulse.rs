//! Whether a server that is waited for is still there: TCP keeps a connection open for as long as anything answers its
//! probes, and a balancer answers for a server that it has lost.
//!
//! Somebody waits, and for a while no byte has come or gone: then the server is asked, through another connection, what
//! became of the session. It may work, or wait for a lock: let it. If it waits for us, or has no such session any more, the
//! connection is dead: it is cut, and whoever waits on it gets an error that passes.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After so long without a byte a server that is waited for is asked about.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(15);
/// How long one waits between two looks, and between two questions: a slow line is given the time to move something.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

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

/// A connection that notes when bytes move.
#[derive(Debug)]
pub(super) struct Pulsing<S> {
    inner: S,
    pulse: Arc<Pulse>,
}

impl<S> Pulsing<S> {
    pub(super) fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }

    fn moved(&self) {
        self.pulse
            .moved_at_ms
            .store(self.pulse.now_ms(), Ordering::Release);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pulsing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.moved();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pulsing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if polled.is_ready() {
            self.moved();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
