//! Lets deadlines happen. They are wall-clock times, and looked at once a second at least, so that a machine that slept
//! notices what became due meanwhile.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Inner, Service};

/// The longest sleep: a suspended machine's monotonic clock stands still.
const MAX_SLEEP_MS: i64 = 1000;

/// How often what is outdated is looked for.
const RETENTION_PASS: Duration = Duration::from_secs(60);

pub(super) async fn run(inner: Weak<Inner>) {
    let mut next_pass = Instant::now();
    loop {
        let Some(service) = inner.upgrade().map(|inner| Service { inner }) else {
            return;
        };
        if service.check().is_err() {
            return;
        }
        service.fire_due();
        if Instant::now() >= next_pass {
            match service.remove_outdated() {
                // Somebody else's turn first, but not for a minute.
                Ok(true) => {}
                Ok(false) => next_pass = Instant::now() + RETENTION_PASS,
                Err(error) => {
                    tracing::error!(%error, "what is outdated could not be removed");
                    next_pass = Instant::now() + RETENTION_PASS;
                }
            }
        }
        let first = service.core().deadlines.first().map(|(at_ms, ..)| *at_ms);
        let sleep_ms = first.map_or(MAX_SLEEP_MS, |at_ms| {
            (at_ms - service.now_ms()).clamp(1, MAX_SLEEP_MS)
        });
        let bell = Arc::clone(&service.inner.timer_wake);
        // Nothing is held while this sleeps: the service may end meanwhile.
        drop(service);
        let sleep = tokio::time::sleep(Duration::from_millis(sleep_ms.unsigned_abs()));
        tokio::select! { () = bell.notified() => (), () = sleep => () }
    }
}

impl Service {
    /// Does everything that is due now.
    pub(super) fn fire_due(&self) {
        let now_ms = self.now_ms();
        loop {
            let mut core = self.core();
            let Some((at_ms, run_id, deadline)) = core.deadlines.first().cloned() else {
                return;
            };
            if at_ms > now_ms {
                return;
            }
            // Taken out first: what is still due after the change puts itself back.
            core.deadlines.remove(&(at_ms, run_id.clone(), deadline.clone()));
            drop(core);
            let fired = self.apply(&run_id, |change| {
                change.on_deadline(&deadline);
                Ok(())
            });
            match fired {
                Ok(((), pending)) => self.release_soon(pending),
                Err(status) => {
                    tracing::error!(run_id, error = status.message(), "a deadline could not be kept")
                }
            }
        }
    }
}
