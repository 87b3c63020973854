//! The embedded Temporal service: the `WorkflowService` API in one process, journaled.
//!
//! Rooms: `frontend` takes RPCs apart, `history` is the state machine of one run, `matching` holds the task queues,
//! `timer` lets deadlines happen, `visibility` lists, `listen` answers on a socket, `journal` keeps. Knows nothing of
//! PostgreSQL, tables, terminals or metrics. What one RPC changes is one atomic batch, and durable before its answer and
//! before anybody acts on it; many RPCs share a flush.

mod clock;
mod core;
mod detail;
mod events;
mod filter;
mod former;
mod frontend;
mod history;
mod holder;
mod index;
mod inventory;
pub mod journal;
mod listen;
mod matching;
mod query;
mod recovery;
mod search_attributes;
mod stored;
#[cfg(test)]
mod tests;
mod timer;
mod transaction;
mod update;
mod visibility;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

pub use clock::Clock;
pub use listen::{
    ApiKeyError, ApiKeys, Behind, BytesCodec, CALLER, ListenError, Listening, ListeningOnTcp, TcpOptions,
    Tls, TlsError, is_trusted, listen, listen_on_tcp,
};

use self::core::{Core, Pending};
use history::{Change, HistoryError, NextAttempt, RunState};
use journal::{JournalError, Store};

/// The only namespace there is, so far.
pub const NAMESPACE: &str = "default";
/// The gRPC service whose RPCs are answered.
const WORKFLOW_SERVICE: &str = "temporal.api.workflowservice.v1.WorkflowService";
/// What nobody waits for is flushed after so long at the latest.
const LATEST_FLUSH: std::time::Duration = std::time::Duration::from_millis(50);

/// Whose RPC it is, and so what is known of a worker: one in this process is lost when the process dies, another process of
/// this machine lives as long as its identity says, and the identity of any other says nothing. Journaled with the tasks
/// that are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Caller {
    /// Another process of this machine, through the Unix socket.
    Process = 0,
    /// Code in the process that owns the journal.
    Embedded = 1,
    /// Whoever came by TCP, from wherever.
    Remote = 2,
}

/// What the service may do with the journal it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything: open runs are taken up where they were.
    Serve,
    /// Answer questions; nothing is handed out, timed out or written.
    Inspect,
}

/// A running service. Clones are handles on the same one; the last one dropped releases the journal.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    mode: Mode,
    core: Mutex<Core>,
    applied: mpsc::UnboundedSender<Applied>,
    timer_wake: Arc<tokio::sync::Notify>,
}

impl Service {
    /// Opens the journal, proves that nothing in it is missing, and takes up its open runs. Needs a tokio runtime.
    pub fn open(store: Store, clock: Clock, mode: Mode) -> Result<Self, JournalError> {
        let core = recovery::load(&store)?;
        let (applied, receiver) = mpsc::unbounded_channel();
        let timer_wake = Arc::new(tokio::sync::Notify::new());
        let inner = Arc::new(Inner {
            store,
            clock,
            mode,
            core: Mutex::new(core),
            applied,
            timer_wake,
        });
        tokio::spawn(release_loop(Arc::downgrade(&inner), receiver));
        let service = Self { inner };
        if mode == Mode::Serve {
            service.recover()?;
            tokio::spawn(timer::run(Arc::downgrade(&service.inner)));
        }
        Ok(service)
    }

    /// Answers one RPC, named by its path as in gRPC: `/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo`.
    /// Dropping the future drops the answer only.
    pub async fn call(&self, caller: Caller, path: &str, request: &[u8]) -> Result<Vec<u8>, Status> {
        frontend::dispatch(self, caller, path, request).await
    }

    /// Errs once the journal has failed; then nothing more is acted on.
    pub fn check(&self) -> Result<(), JournalError> {
        self.inner.store.check()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // A panic while it was held is a bug; what the lock guards is replaced whole, so it is still sound.
        self.inner.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// Changes one run: one atomic batch, durable and its tasks handed out when this returns.
    async fn change<T>(
        &self,
        run_id: &str,
        change: impl FnOnce(&mut Change) -> Result<T, HistoryError>,
    ) -> Result<T, Status> {
        let (value, pending) = self.apply(run_id, change)?;
        self.release(pending).await?;
        Ok(value)
    }

    /// The first half of `change`: applied, visible to reads, not yet durable.
    fn apply<T>(
        &self,
        run_id: &str,
        change: impl FnOnce(&mut Change) -> Result<T, HistoryError>,
    ) -> Result<(T, Pending), Status> {
        self.apply_to(&mut self.core(), run_id, change)
    }

    /// As `apply`, for a change that must be one with what the caller reads or does under the same lock.
    fn apply_to<T>(
        &self,
        core: &mut Core,
        run_id: &str,
        change: impl FnOnce(&mut Change) -> Result<T, HistoryError>,
    ) -> Result<(T, Pending), Status> {
        let now_ms = self.now_ms();
        let mut draft = core
            .begin(&self.inner.store, run_id, now_ms)
            .map_err(|error| journal_status(&error))?
            .ok_or_else(|| Status::not_found("workflow execution not found"))?;
        if draft.state.retry_policy.is_some() {
            draft.next_attempt = self.next_attempt(&draft.state)?;
        }
        let value = change(&mut draft).map_err(status_of)?;
        let pending = core
            .commit(&self.inner.store, vec![draft])
            .map_err(|error| journal_status(&error))?;
        self.inner.timer_wake.notify_one();
        Ok((value, pending))
    }

    fn next_attempt(&self, run: &RunState) -> Result<Option<NextAttempt>, Status> {
        let first =
            events::read_events(&self.inner.store, run, 1, 1).map_err(|error| journal_status(&error))?;
        let started = first.into_iter().next().and_then(|event| event.attributes);
        Ok(match started {
            Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => Some(NextAttempt {
                started,
                run_id: uuid::Uuid::new_v4().to_string(),
            }),
            _ => None,
        })
    }

    /// Waits until all that a read may have seen is durable.
    async fn settled(&self) -> Result<(), Status> {
        self.durable(self.inner.store.applied()).await
    }

    async fn durable(&self, sequence: u64) -> Result<(), Status> {
        let durable = self.inner.store.durable(sequence).await;
        durable.map_err(|error| journal_status(&error))
    }

    /// The second half: waits until it is durable and its tasks are in their queues.
    async fn release(&self, pending: Pending) -> Result<(), Status> {
        let (done, answer) = oneshot::channel();
        let ended = || Status::unavailable("the service is shutting down");
        let applied = Applied::Awaited(pending, done);
        self.inner.applied.send(applied).map_err(|_| ended())?;
        answer
            .await
            .map_err(|_| ended())?
            .map_err(|error| journal_status(&error))
    }

    /// As `release`, of what nobody waits for, and without waiting.
    fn release_soon(&self, pending: Pending) {
        // Without a receiver the service is shutting down, and the next one takes it up.
        let _ = self.inner.applied.send(Applied::Soon(pending));
    }

    /// As `release_soon`, of what need not have a flush of its own: a change that hands nothing out.
    fn release_later(&self, pending: Pending) {
        let _ = self.inner.applied.send(Applied::Later(pending));
    }
}

/// A change that is applied and to be made durable.
enum Applied {
    /// Somebody waits for it.
    Awaited(Pending, oneshot::Sender<Result<(), JournalError>>),
    Soon(Pending),
    /// With the next flush, whoever asks for it.
    Later(Pending),
}

/// Makes changes durable in their order, then lets their consequences happen. One task, so that a client that goes away
/// takes nothing with it.
async fn release_loop(inner: std::sync::Weak<Inner>, mut receiver: mpsc::UnboundedReceiver<Applied>) {
    let mut unhurried: Vec<Pending> = Vec::new();
    let mut end = Instant::now();
    loop {
        let received = if unhurried.is_empty() {
            Ok(receiver.recv().await)
        } else {
            timeout_at(end, receiver.recv()).await
        };
        let (pending, done) = match received {
            Ok(Some(Applied::Awaited(pending, done))) => (pending, Some(done)),
            Ok(Some(Applied::Soon(pending))) => (pending, None),
            Ok(Some(Applied::Later(pending))) => {
                if unhurried.is_empty() {
                    end = Instant::now() + LATEST_FLUSH;
                }
                unhurried.push(pending);
                continue;
            }
            Ok(None) => return,
            Err(_) => (unhurried.pop().unwrap_or_default(), None),
        };
        let Some(inner) = inner.upgrade() else { return };
        let outcome = inner.store.durable(pending.sequence).await;
        if outcome.is_ok() && inner.mode == Mode::Serve {
            let mut core = inner.core.lock().unwrap_or_else(PoisonError::into_inner);
            let now_ms = inner.clock.now_ms();
            for pending in unhurried.drain(..).chain([pending]) {
                core.release(pending, now_ms);
            }
        }
        if let Some(done) = done {
            // Nobody waits where the client has gone.
            let _ = done.send(outcome);
        }
    }
}

fn status_of(error: HistoryError) -> Status {
    match error {
        HistoryError::NotFound(what) => Status::not_found(what),
        HistoryError::Invalid(what) => Status::invalid_argument(what),
        HistoryError::NotNow(what) => Status::failed_precondition(what),
        HistoryError::BadCommand { message, .. } => Status::invalid_argument(message),
    }
}

fn journal_status(error: &JournalError) -> Status {
    tracing::debug!(%error, "the journal failed");
    Status::data_loss(error.to_string())
}
