//! Poolers between us and the server: one that gives each transaction another server is refused, in words.
//!
//! Sessions rely on settings, locks and COPY that stay with one server process. A pooler makes up the process number
//! that it tells at the log-in, so one question finds out whether there is one. That a pool is in transaction or statement
//! mode is certain once two connections of ours were given the same process, or one was given two.

use super::connect::{Session, TextRow};
use super::error::{Error, Kind, Result};
use super::reach::{Reached, again};
use super::resolved::Resolved;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The SQLSTATE of [`only_if_direct`]'s error.
pub(super) const NOT_DIRECT: &str = "22P02";

/// How often both connections are asked. Where other clients take turns as well, one round need not tell.
const ROUNDS: u32 = 5;

/// How long the second connection may wait for a server of its own: a pool in session mode may have none left.
const ANOTHER_WITHIN: Duration = Duration::from_secs(3);

/// Poolers that were found to keep a session's server, by host, port, database and user.
static KEEPERS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A statement that fails where the process that answers is not the one that the log-in told of.
///
/// What follows it in the same text is then not run. Written so that no search path and no settings matter.
pub(super) fn only_if_direct(backend_pid: i32) -> String {
    format!(
        "SELECT (CASE WHEN pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) ({backend_pid})::pg_catalog.int4 THEN '1' \
         ELSE 'through a pooler' END)::pg_catalog.int4"
    )
}

/// Finds out whether a pooler leaves a session its server.
///
/// # Errors
/// `Unsupported` where it does not, or what connecting a second time returns.
pub(super) async fn must_keep_its_server(
    resolved: &Resolved,
    reached: &Reached<'_>,
    application: &str,
) -> Result<()> {
    let session = &reached.session;
    let name = format!("{} {}", session.endpoint(), resolved.user);
    if keepers().contains(&name) {
        return Ok(());
    }
    let second = again(resolved, &reached.door, session.side(), application).await?;
    let first = serving(session).await?;
    for _ in 0..ROUNDS {
        let Ok(other) = tokio::time::timeout(ANOTHER_WITHIN, serving(&second)).await else {
            // No server is left, though ours does nothing: it is ours.
            break;
        };
        if other? == first || serving(session).await? != first || serving(session).await? != first {
            return Err(gives_it_away(session));
        }
    }
    keepers().insert(name);
    Ok(())
}

fn keepers() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process that answers now, which its number alone does not tell where a pool has servers on more than one machine.
async fn serving(session: &Session) -> Result<Option<TextRow>> {
    let sql = "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity \
               WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";
    let what = format!("ask who serves us on the {}", session.side());
    let mut rows = session.rows(&what, sql).await?;
    Ok(rows.pop())
}

fn gives_it_away(session: &Session) -> Error {
    let words = format!(
        "the connection pooler at {} gives each transaction another server (transaction or statement mode)",
        session.endpoint()
    );
    Error::new(session.side(), Kind::Unsupported, words)
        .hinted("connect to PostgreSQL itself, or to a pool in session mode (pgbouncer: pool_mode = session)")
}
