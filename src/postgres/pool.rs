//! A bounded set of sessions to one side.
//!
//! Idle sessions are reused, dead ones replaced, and there are never more than the bound. A lease that is dropped in the
//! middle of a statement closes its session instead of giving it back.

use super::connect::{Session, connect};
use super::connection_string::ConnectionString;
use super::error::{Result, Side};
use super::liveness::{self, Backend};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A session that lay idle for longer than this is asked whether it still lives before it is used.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// How long that question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A bounded set of sessions; clones share it.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: ConnectionString,
    side: Side,
    application_name: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<(Session, Instant)>>,
    /// Sessions that were given up in the middle of a statement: what they hold on the server would be in the way.
    orphans: Mutex<Vec<Backend>>,
}

impl Pool {
    /// At most `bound` sessions (at least one); none is opened yet.
    #[must_use]
    pub fn new(
        connection: ConnectionString,
        side: Side,
        application_name: impl Into<String>,
        bound: usize,
    ) -> Self {
        Self(Arc::new(Inner {
            connection,
            side,
            application_name: application_name.into(),
            permits: Arc::new(Semaphore::new(bound.clamp(1, Semaphore::MAX_PERMITS))),
            idle: Mutex::default(),
            orphans: Mutex::default(),
        }))
    }

    /// A session of one's own: an idle one that lives, or a new one; waits while all are out. Cancel-safe.
    ///
    /// What an earlier one was doing when it was given up is ended on the server first.
    ///
    /// # Errors
    /// What [`connect`] returns.
    pub async fn acquire(&self) -> Result<Lease> {
        let lease = self.lend().await?;
        let orphans = self.0.orphans().clone();
        if !orphans.is_empty() {
            liveness::end(&lease, &orphans).await?;
            self.0.orphans().retain(|orphan| !orphans.contains(orphan));
        }
        Ok(lease)
    }

    async fn lend(&self) -> Result<Lease> {
        let permit = Arc::clone(&self.0.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        while let Some((session, since)) = self.take_idle() {
            if session.is_closed() {
                continue;
            }
            if since.elapsed() < TRUSTED_FOR || lives(&session).await {
                return Ok(Lease {
                    session: Some(session),
                    pool: Arc::clone(&self.0),
                    _permit: permit,
                });
            }
        }
        let session = connect(&self.0.connection, self.0.side, &self.0.application_name).await?;
        Ok(Lease {
            session: Some(session),
            pool: Arc::clone(&self.0),
            _permit: permit,
        })
    }

    fn take_idle(&self) -> Option<(Session, Instant)> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Inner {
    fn orphans(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn lives(session: &Session) -> bool {
    let open = session.open();
    let answer = tokio::time::timeout(ANSWER_WITHIN, session.client().check_connection()).await;
    let lives = matches!(answer, Ok(Ok(())));
    if lives {
        open.ended();
    }
    lives
}

/// A session on loan. Dropping it gives the session back; a busy or dead one is closed.
#[derive(Debug)]
pub struct Lease {
    session: Option<Session>,
    pool: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session
            .as_ref()
            .expect("a lease has its session until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        if session.is_busy() {
            self.pool.orphans().push(session.backend().clone());
        } else if !session.is_closed() {
            let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((session, Instant::now()));
        }
    }
}
