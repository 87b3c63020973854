//! Whether a server that is waited for is still there: TCP keeps a connection open for as long as anything answers its
//! probes, and a balancer answers for a server that it has lost.
//!
//! Where somebody waits and for a while no byte has come or gone, the server is asked through another connection what became
//! of the session. It works, or waits for a lock: let it. It waits for us, or has no such session any more, or answers
//! nobody: the connection is dead. Then the session is ended on the server, so that it holds nothing any more, and cut here:
//! whoever waits on it gets an error that passes.

use super::connect::{Session, connect_to_ask};
use super::connection_string::ConnectionString;
use super::error::{Error, Kind, Result, Side};
use super::frames::Watch;
use super::identifier::quote_literal;
use std::sync::Arc;
use std::time::Duration;

/// After so long without a byte a server that is waited for is asked about.
const SILENT_FOR: Duration = Duration::from_secs(15);
/// The same of servers before version 14, which do not tell how far a COPY is: a slow line is given time to move something.
const SILENT_FOR_BEFORE_14: Duration = Duration::from_secs(60);
/// How long one waits between two looks, and between two questions.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long the answer may take, log-in included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// So long sessions that were ended may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A session as its server knows it: a process number alone comes again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Backend {
    /// Its process; 0 where it is not known.
    pub pid: i32,
    /// When it was started, in seconds since 1970.
    pub started: String,
}

/// Gives the process that serves a session, as its last row.
pub(super) const BACKEND: &str = "SELECT pid, extract(epoch FROM backend_start)::pg_catalog.text
    FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";

impl Backend {
    /// From a row of [`BACKEND`].
    pub(super) fn of_row(row: &[Option<String>]) -> Self {
        let field = |number: usize| row.get(number).and_then(Option::as_deref).unwrap_or_default();
        Self {
            pid: field(0).parse().unwrap_or(0),
            started: field(1).to_owned(),
        }
    }

    /// That a row of pg_stat_activity, called `a`, is this one.
    fn condition(&self) -> String {
        format!(
            "(a.pid = {} AND extract(epoch FROM a.backend_start)::pg_catalog.text = {})",
            self.pid,
            quote_literal(&self.started)
        )
    }
}

/// A session that is watched, and how another one is reached.
pub(super) struct Watched {
    pub connection: ConnectionString,
    pub side: Side,
    pub application_name: String,
    pub server_version: u32,
    pub backend: Backend,
    pub watch: Arc<Watch>,
    /// The task that reads and writes: everyone who waits on it gets an error once it is gone.
    pub task: tokio::task::AbortHandle,
}

/// What the server says of the session.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Works,
    /// It waits for us, this far into its COPY.
    WaitsForUs(Option<String>),
    Gone,
}

impl Watched {
    /// Watches until the session ends, or is found dead.
    pub(super) async fn run(self) {
        let bound = match self.server_version {
            140_000.. => SILENT_FOR,
            _ => SILENT_FOR_BEFORE_14,
        };
        let silent = || self.watch.pulse().silent_for().filter(|silent| *silent >= bound);
        let (mut suspicion, mut unanswered) = (None, 0);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if silent().is_none() {
                (suspicion, unanswered) = (None, 0);
                continue;
            }
            let state = tokio::time::timeout(ANSWER_WITHIN, self.ask()).await;
            // Whatever the answer, a byte that came meanwhile is a better one.
            let Some(silent) = silent() else { continue };
            match state {
                Ok(Ok(State::Works)) => (suspicion, unanswered) = (None, 0),
                Ok(Ok(State::Gone)) => return self.cut(silent, "its server has no such session any more"),
                Ok(Ok(state)) if suspicion.as_ref() == Some(&state) => {
                    return self.cut(silent, "its server waits for this side, and nothing gets through");
                }
                Ok(Ok(state)) => suspicion = Some(state),
                // The server is there, and would not have us.
                Ok(Err(error)) if error.sqlstate().is_some() => {}
                Ok(Err(_)) | Err(_) if unanswered == 0 => unanswered = 1,
                Ok(Err(_)) | Err(_) => {
                    return self.cut(silent, "nobody answers on another connection either");
                }
            }
        }
    }

    async fn ask(&self) -> Result<State> {
        let session = connect_to_ask(&self.connection, self.side, &self.application_name).await?;
        let progress = match self.server_version {
            140_000.. => {
                "(SELECT p.bytes_processed FROM pg_catalog.pg_stat_progress_copy p WHERE p.pid = a.pid)"
            }
            _ => "NULL",
        };
        let mine = self.backend.condition();
        let sql = format!(
            "SELECT a.wait_event_type IS NOT DISTINCT FROM 'Client', {progress} FROM pg_catalog.pg_stat_activity a WHERE {mine}"
        );
        let what = format!("ask the {} about a session", self.side);
        let found = session.rows(&what, &sql).await?.pop();
        let state = match found.as_deref() {
            None => State::Gone,
            Some([Some(waits), progress]) if waits == "t" => State::WaitsForUs(progress.clone()),
            Some(_) => State::Works,
        };
        Ok(state)
    }

    fn cut(self, silent: Duration, why: &str) {
        let words = format!("no byte for {} s, and {why}", silent.as_secs());
        tracing::warn!("the connection to the {} is dead: {words}", self.side);
        self.watch.end_because(Kind::Transient, words);
        self.task.abort();
    }
}

/// Ends sessions of ours that may still hold something, and waits until they are gone. Those that are not there are no error.
///
/// # Errors
/// What goes wrong in asking.
pub(super) async fn end(session: &Session, backends: &[Backend]) -> Result<()> {
    let known: Vec<_> = backends.iter().filter(|backend| backend.pid != 0).collect();
    if known.is_empty() {
        return Ok(());
    }
    let those: Vec<_> = known.iter().map(|backend| backend.condition()).collect();
    let sql = format!(
        "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity a WHERE {}",
        those.join(" OR ")
    );
    let what = format!("end earlier sessions on the {}", session.side());
    let until = tokio::time::Instant::now() + GONE_WITHIN;
    loop {
        let row = session.row(&what, &sql).await?;
        if row.first().and_then(Option::as_deref) == Some("0") {
            return Ok(());
        }
        if tokio::time::Instant::now() >= until {
            return Err(
                Error::new(session.side(), Kind::Transient, format!("cannot {what}"))
                    .because("they do not end"),
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
