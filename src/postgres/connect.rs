//! Sessions: one connection to one side, with every setting that a copy relies on.
//!
//! A session is set up in one round trip after the log-in. A future that is dropped in the middle of a statement leaves
//! the session busy, and a busy session is cut when it is dropped, so that the server ends the statement and rolls back.

use super::connection_string::ConnectionString;
use super::error::{Error, Kind, Result, Side};
use super::frames::Watch;
use super::identifier::quote_literal;
use super::liveness::{BACKEND, Backend, Watched};
use super::pooler;
use super::reach::{self, Reached, no_answer};
use super::resolved::{Resolved, Surroundings};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

/// A row as text, one field a column.
pub(super) type TextRow = Vec<Option<String>>;

/// The search path of every session of ours. Anyone who may make objects in a schema of the user's path can make operators
/// and functions there that fit better than PostgreSQL's own, and they would run with this user's rights.
const OUR_PATH: &str = "pg_catalog, pg_temp";

/// Brings the search path that the user would have, until the transaction ends or [`to_our_path`]: for names that the user
/// typed, and for triggers of the target, which may rely on it. Every name in such a statement is qualified.
pub(super) const TO_USERS_PATH: &str = "SELECT pg_catalog.set_config('search_path', s.reset_val, true)
    FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'search_path'";

/// The same for an expression that the user typed, in a statement that reads rows: it gives no row, and PostgreSQL's own types
/// and functions come first, as they do for every path that does not name them.
pub(super) const TO_PATH_OF_EXPRESSIONS: &str = "SELECT FROM (SELECT pg_catalog.set_config('search_path',
        pg_catalog.concat_ws(', ', 'pg_catalog', nullif(s.reset_val, '')), true)
    FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'search_path' OFFSET 0) p(path) WHERE p.path IS NULL";

/// Brings our own search path back within a transaction.
pub(super) fn to_our_path() -> String {
    format!("SET LOCAL search_path = {OUR_PATH}")
}

/// At most so many prepared statements a session: one a table, in practice.
const PREPARED_LIMIT: usize = 16;

/// One connection to one side. Dropping it closes it; in the middle of a statement, without a farewell.
#[derive(Debug)]
pub struct Session {
    client: Client,
    side: Side,
    connection: tokio::task::AbortHandle,
    /// As the server numbers itself: 150004.
    server_version: u32,
    endpoint: String,
    database: String,
    statements_open: AtomicU32,
    prepared: Mutex<HashMap<String, Statement>>,
    watch: Arc<Watch>,
    backend: Backend,
    /// Looks after it while somebody waits on it.
    watcher: Option<tokio::task::AbortHandle>,
    set_up_within: Option<Duration>,
}

/// Connects, logs in, and sets the session up.
///
/// Hosts are tried in turn. The password is looked up anew each time (environment, password file).
///
/// # Errors
/// `Unreachable`, `Authentication`, `Tls`, `UndefinedObject` (no such database), `InvalidInput`, `Unsupported` (a pooler
/// that gives the session's server away), or what passes.
pub async fn connect(connection: &ConnectionString, side: Side, application_name: &str) -> Result<Session> {
    let mut session = connect_to_ask(connection, side, application_name).await?;
    let watched = Watched {
        connection: connection.clone(),
        side,
        application_name: application_name.to_owned(),
        server_version: session.server_version,
        backend: session.backend.clone(),
        watch: Arc::clone(&session.watch),
        task: session.connection.clone(),
    };
    session.watcher = Some(tokio::spawn(watched.run()).abort_handle());
    Ok(session)
}

/// The same without anybody who looks whether the connection is alive: for one short question.
pub(super) async fn connect_to_ask(
    connection: &ConnectionString,
    side: Side,
    application_name: &str,
) -> Result<Session> {
    let resolved = connection.resolve(side, &Surroundings::of_process())?;
    let mut reached = reach::reach(&resolved, side, application_name).await?;
    let backend = match reached.session.set_up_if_direct().await? {
        Some(backend) => backend,
        None => {
            pooler::must_keep_its_server(&resolved, &reached, application_name).await?;
            reached.session.set_up().await?
        }
    };
    reached.session.backend = backend;
    let Reached { session, .. } = reached;
    session.watch.trust();
    Ok(session)
}

/// Whether somebody waits for a session's server; outlives the session.
#[derive(Debug, Clone)]
pub struct Waits {
    side: Side,
    watch: Arc<Watch>,
}

impl Waits {
    /// Which side it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// How long somebody has waited without a byte that came or went; `None` where nobody waits.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.watch.pulse().silent_for()
    }
}

impl Session {
    pub(super) fn new(
        client: Client,
        mut connection: reach::Connection,
        watch: Arc<Watch>,
        side: Side,
        endpoint: String,
        resolved: &Resolved,
    ) -> Self {
        let server_version = connection.parameter("server_version").map_or(0, version_number);
        let task = tokio::spawn(async move {
            // Not the driver's own loop: that one logs notices, and a notice can hold a row's values.
            while let Some(Ok(_)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {}
        });
        Self {
            client,
            side,
            connection: task.abort_handle(),
            server_version,
            endpoint,
            database: resolved.database.clone(),
            statements_open: AtomicU32::new(0),
            prepared: Mutex::default(),
            watch,
            backend: Backend::default(),
            watcher: None,
            set_up_within: resolved.options.connect_timeout,
        }
    }

    async fn set_up(&self) -> Result<Backend> {
        let settings = settings_sql(self.side, self.server_version);
        let rows = self.rows_of_set_up(&format!("{settings}; {BACKEND}")).await?;
        Ok(Backend::of_row(
            rows.last().map(Vec::as_slice).unwrap_or_default(),
        ))
    }

    /// Sets the session up, unless a pooler is between us and the server: then nothing is set, and the answer is `None`.
    async fn set_up_if_direct(&self) -> Result<Option<Backend>> {
        let settings = settings_sql(self.side, self.server_version);
        let direct = pooler::only_if_direct(self.watch.backend_pid());
        match self
            .rows_of_set_up(&format!("{direct}; {settings}; {BACKEND}"))
            .await
        {
            Ok(rows) => Ok(rows.last().map(|row| Backend::of_row(row))),
            Err(error) if error.sqlstate() == Some(pooler::NOT_DIRECT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn rows_of_set_up(&self, sql: &str) -> Result<Vec<TextRow>> {
        let what = format!("set up a session on the {} at {}", self.side, self.endpoint);
        let asking = self.rows(&what, sql);
        let Some(within) = self.set_up_within else {
            return asking.await;
        };
        let answer = tokio::time::timeout(within, asking).await;
        answer.unwrap_or_else(|_| {
            let error = Error::new(self.side, Kind::Unreachable, format!("cannot {what}"));
            Err(error.because(no_answer(within)))
        })
    }

    /// What its server sends or takes, waited for: a server that is not there any more is noticed. Cancel-safe if the future is.
    pub(super) async fn awaited<T>(&self, answer: impl Future<Output = T>) -> T {
        self.watch.pulse().awaited(answer).await
    }

    /// Whether somebody waits for its server, to be asked by whoever watches.
    #[must_use]
    pub fn waits(&self) -> Waits {
        Waits {
            side: self.side,
            watch: Arc::clone(&self.watch),
        }
    }

    /// The process that serves it.
    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Why we ended the connection, if we did.
    pub(super) fn ended_because(&self) -> Option<String> {
        self.watch.refusal().map(|refusal| refusal.words)
    }

    /// Host, port and database, for messages.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Which side it is connected to.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The server's version as a number: 150004 for 15.4; 0 where it is not told.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether a statement is under way, or was when its future was dropped.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        self.statements_open.load(Ordering::Acquire) > 0
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Notes that a statement has begun; the session is busy until it is told otherwise with [`Open::ended`].
    pub(super) fn open(&self) -> Open<'_> {
        self.statements_open.fetch_add(1, Ordering::AcqRel);
        Open(self)
    }

    /// Runs SQL without parameters, in one round trip, and gives the rows of all its statements as text.
    ///
    /// `what` completes "cannot ..." in the error. For statements that read or write rows of a user's:
    /// [`Self::rows_of_table`].
    pub(super) async fn rows(&self, what: &str, sql: &str) -> Result<Vec<TextRow>> {
        self.ask(what, sql, Error::query::<String>).await
    }

    /// The same where the error's own words could hold a row's values.
    pub(super) async fn rows_of_table(&self, what: &str, sql: &str) -> Result<Vec<TextRow>> {
        self.ask(what, sql, Error::rows::<String>).await
    }

    async fn ask(
        &self,
        what: &str,
        sql: &str,
        told: fn(Side, String, &tokio_postgres::Error) -> Error,
    ) -> Result<Vec<TextRow>> {
        let open = self.open();
        let answer = self.awaited(self.client.simple_query(sql)).await;
        let messages = match answer {
            Ok(messages) => messages,
            Err(error) => {
                if error.as_db_error().is_some() {
                    open.ended();
                }
                let error = told(self.side, format!("cannot {what}"), &error);
                return Err(match self.ended_because() {
                    Some(words) => error.because(words),
                    None => error,
                });
            }
        };
        open.ended();
        Ok(text_rows(&messages))
    }

    /// Locks a table against whoever would rewrite or empty it, then reads: what is read is younger than the lock.
    ///
    /// One round trip, one transaction, which reads only. `lock` is the statement that locks it. After an error the session
    /// is not used again.
    pub(super) async fn rows_locked(&self, what: &str, lock: &str, sql: &str) -> Result<Vec<TextRow>> {
        let in_transaction = self.open();
        let rows = self
            .rows_of_table(what, &format!("{}; {sql}; COMMIT", lock_sql(lock)))
            .await?;
        in_transaction.ended();
        Ok(rows)
    }

    /// The only row, which must be there.
    pub(super) async fn row(&self, what: &str, sql: &str) -> Result<TextRow> {
        let mut rows = self.rows(what, sql).await?;
        rows.pop().ok_or_else(|| {
            Error::new(self.side, Kind::Unknown, format!("cannot {what}")).because("no row came back")
        })
    }

    /// A prepared statement, kept for the session's life; only for texts that come again and again.
    pub(super) async fn statement(&self, sql: &str) -> std::result::Result<Statement, tokio_postgres::Error> {
        let known = self
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(sql)
            .cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.awaited(self.client.prepare(sql)).await?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() >= PREPARED_LIMIT {
            prepared.clear();
        }
        prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if self.is_busy() {
            self.connection.abort();
        }
    }
}

/// A statement under way.
#[must_use = "the session stays busy until the statement has ended"]
pub(super) struct Open<'a>(&'a Session);

impl Open<'_> {
    /// The server has answered: the session can take the next statement.
    pub(super) fn ended(self) {
        self.0.statements_open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The beginning of a transaction that reads a table as it is, and not as it was before somebody's DDL.
///
/// DDL that rewrites a table, and TRUNCATE, are not MVCC-safe: a statement that waited for such a lock with an older
/// snapshot reads an empty table, and says so cheerfully. Under READ COMMITTED each statement takes its snapshot when it
/// begins: that of the one after the LOCK is younger than the lock.
pub(super) fn lock_sql(lock: &str) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {lock}")
}

pub(super) fn text_rows(messages: &[SimpleQueryMessage]) -> Vec<TextRow> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    rows.collect()
}

fn version_number(text: &str) -> u32 {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse::<u32>().ok());
    parts.next().unwrap_or(0) * 10_000 + parts.next().unwrap_or(0)
}

/// What both sides and each side need, so that values read the same on both and a dead client's session ends.
fn settings_sql(side: Side, server_version: u32) -> String {
    let mut settings = vec![
        ("client_encoding", "UTF8"),
        ("datestyle", "ISO"),
        ("intervalstyle", "postgres"),
        ("timezone", "UTC"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        // How values are read back: NULL in an array is a null, and a piece of XML need not be a document.
        ("array_nulls", "on"),
        ("xmloption", "content"),
        // Names of tables and types are values too (regclass and its like), and stand in expressions that are compared.
        ("quote_all_identifiers", "off"),
        ("standard_conforming_strings", "on"),
        ("row_security", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "60s"),
        // Nothing here takes long to compute, and to compile a look into the catalogs takes longer than the look.
        ("jit", "off"),
        ("idle_in_transaction_session_timeout", "5min"),
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
    ];
    match side {
        Side::Source => settings.extend([
            ("default_transaction_read_only", "on"),
            // A reader that is held back by a speed limit leaves the window at zero for a while: do not cut it.
            ("tcp_user_timeout", "10min"),
            ("enable_seqscan", "off"),
            ("enable_sort", "off"),
            ("max_parallel_workers_per_gather", "0"),
        ]),
        Side::Target => settings.push(("tcp_user_timeout", "60s")),
    }
    if server_version >= 140_000 {
        settings.push(("client_connection_check_interval", "10s"));
    }
    if server_version >= 170_000 {
        settings.push(("transaction_timeout", "0"));
    }
    // First of all: what comes after it means PostgreSQL's own functions, operators and types, and nobody else's.
    let mut sql = format!("SET search_path = {OUR_PATH}; ");
    for (name, value) in settings {
        sql.push_str(&format!("SET {name} = {}; ", quote_literal(value)));
    }
    if side == Side::Target {
        // A receipt is a promise: what the journal holds must survive a crash of the target.
        sql.push_str(
            "SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
             WHERE pg_catalog.current_setting('synchronous_commit') = 'off'",
        );
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_versions_become_numbers() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0)", 150_018),
            ("18beta1", 180_001),
            ("12.0", 120_000),
            ("", 0),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
