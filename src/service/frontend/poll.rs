//! How a worker waits for a task of its queue.

use std::time::Duration;

use tonic::Status;

use super::super::Service;
use super::super::matching::{QueueKind, Task};
use super::check_id;

/// An empty answer after so long; the worker polls again.
pub(super) const LONG_POLL: Duration = Duration::from_secs(60);

impl Service {
    /// The next task of a queue: a hint, to be asked of its run. `None` when the long poll is over.
    pub(super) async fn next_task(
        &self,
        (kind, queue, identity): (QueueKind, &str, &str),
        end: tokio::time::Instant,
    ) -> Result<Option<Task>, Status> {
        check_id("task queue", queue)?;
        loop {
            let polled = self.core().matching.poll(kind, queue, identity, self.now_ms());
            let arrived = match polled {
                Ok(task) => return Ok(Some(task)),
                Err(arrived) => arrived,
            };
            let _waiting = WaitingPoll::new(self, kind, queue, identity);
            if tokio::time::timeout_at(end, arrived.notified()).await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// Counts a poll as waiting for as long as it lives.
struct WaitingPoll<'a> {
    service: &'a Service,
    kind: QueueKind,
    queue: &'a str,
    identity: &'a str,
}

impl<'a> WaitingPoll<'a> {
    fn new(service: &'a Service, kind: QueueKind, queue: &'a str, identity: &'a str) -> Self {
        service
            .core()
            .matching
            .wait(kind, queue, identity, service.now_ms(), true);
        Self {
            service,
            kind,
            queue,
            identity,
        }
    }
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        let now_ms = self.service.now_ms();
        self.service
            .core()
            .matching
            .wait(self.kind, self.queue, self.identity, now_ms, false);
    }
}
