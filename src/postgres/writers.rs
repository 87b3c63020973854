//! Who may still add rows behind the highest key that is visible: what a sync waits for before it trusts its cursor.
//!
//! A key is taken before its row is committed, so a lower key can appear after a higher one. The rule: note the highest
//! visible key, then every open transaction; once all of those have ended, no key below it can appear any more. Every
//! open transaction counts, whether or not it has written yet: it may have taken its key already.

use super::connect::Session;
use super::cursor;
use super::error::{Error, Kind, Result, Side};
use super::words::plain;
use crate::table::{Holder, Noted, Plan};
use std::time::{Duration, Instant};

/// Open transactions of this database that could write: not ourselves, not the server's own workers that never add rows.
///
/// A process that is in the middle of a VACUUM or an ANALYZE adds none either.
const RUNNING: &str = "
SELECT l.virtualtransaction, l.pid,
       pg_catalog.concat_ws(', ', 'process ' || l.pid, 'user ' || a.usename, 'application ' || nullif(a.application_name, ''),
           'since ' || pg_catalog.to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SS \"UTC\"'))
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
  AND (a.datid IS NULL OR a.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
  AND coalesce(a.backend_type, '') NOT IN ('autovacuum worker', 'autovacuum launcher', 'walsender', 'checkpointer',
      'background writer', 'walwriter', 'archiver', 'startup', 'logical replication launcher')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = l.pid)";

const PREPARED: &str = "
SELECT gid, pg_catalog.concat_ws(', ', 'prepared transaction ' || gid, 'user ' || owner,
       'since ' || pg_catalog.to_char(prepared, 'YYYY-MM-DD HH24:MI:SS \"UTC\"'))
FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()";

/// So long [`note_the_long`] waits.
const A_MOMENT: Duration = Duration::from_secs(1);

const STARTED_AT: &str = "SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// Notes the highest visible key, and then who is open. Reads only.
///
/// # Errors
/// `Unsupported` on a standby, which does not know who writes on its primary; or what goes wrong in asking.
pub async fn note(source: &Session, plan: &Plan) -> Result<Noted> {
    refuse_standby(source).await?;
    let server_started_at = started_at(source).await?;
    // In this order, in separate statements: a transaction that begins after the list was made takes a later key.
    let key = cursor::highest_key(source, plan).await?;
    let mut holders: Vec<_> = running(source).await?;
    holders.extend(prepared(source).await?);
    Ok(Noted {
        key,
        holders,
        server_started_at,
    })
}

/// The same, given a moment: what is noted are those who have not ended in it. Most transactions are short.
///
/// # Errors
/// As [`note`].
pub async fn note_the_long(source: &Session, plan: &Plan) -> Result<Noted> {
    let began = Instant::now();
    let mut noted = note(source, plan).await?;
    while !noted.holders.is_empty() && began.elapsed() < A_MOMENT {
        tokio::time::sleep(A_MOMENT / 10).await;
        noted = still_open(source, &noted).await?;
    }
    Ok(noted)
}

/// The same note with those of its holders that are still open; keep the answer for the next question. Reads only.
///
/// Where a noted transaction has gone it may have been prepared meanwhile, so every transaction that is prepared now
/// takes its place: that ends, since no others are added once the running ones are gone.
///
/// # Errors
/// What goes wrong in asking the source.
pub async fn still_open(source: &Session, noted: &Noted) -> Result<Noted> {
    if noted.holders.is_empty() {
        return Ok(noted.clone());
    }
    refuse_standby(source).await?;
    let server_started_at = started_at(source).await?;
    // Locks first: a transaction that is prepared in between is then seen twice, and not missed.
    let now_running = running(source).await?;
    let now_prepared = prepared(source).await?;
    // After a restart the numbers begin anew.
    let same_server = server_started_at == noted.server_started_at;
    let runs = |holder: &&Holder| {
        let same =
            |now: &Holder| now.virtual_transaction == holder.virtual_transaction && now.pid == holder.pid;
        same_server && holder.virtual_transaction.is_some() && now_running.iter().any(same)
    };
    let mut holders: Vec<Holder> = noted.holders.iter().filter(runs).cloned().collect();
    let noted_running = noted
        .holders
        .iter()
        .filter(|holder| holder.virtual_transaction.is_some())
        .count();
    let some_vanished = holders.len() < noted_running;
    let was_noted = |now: &Holder| {
        noted
            .holders
            .iter()
            .any(|holder| holder.prepared.is_some() && holder.prepared == now.prepared)
    };
    holders.extend(
        now_prepared
            .into_iter()
            .filter(|now| some_vanished || was_noted(now)),
    );
    Ok(Noted {
        key: noted.key.clone(),
        holders,
        server_started_at,
    })
}

async fn refuse_standby(source: &Session) -> Result<()> {
    let row = source
        .row(
            "ask whether the source is a standby",
            "SELECT pg_catalog.pg_is_in_recovery()",
        )
        .await?;
    if row.first().and_then(Option::as_deref) != Some("t") {
        return Ok(());
    }
    Err(Error::new(
        Side::Source,
        Kind::Unsupported,
        "the source is a standby, which does not know who is writing",
    )
    .hinted("connect to its primary, or let the sync look back a number of rows (--lookback)"))
}

async fn started_at(source: &Session) -> Result<String> {
    let row = source
        .row("ask when the source's server was started", STARTED_AT)
        .await?;
    Ok(row.into_iter().next().flatten().unwrap_or_default())
}

async fn running(source: &Session) -> Result<Vec<Holder>> {
    let rows = source
        .rows("list the open transactions of the source", RUNNING)
        .await?;
    let holders = rows.into_iter().map(|row| {
        let mut row = row.into_iter();
        Holder {
            virtual_transaction: row.next().flatten(),
            pid: row.next().flatten().and_then(|pid| pid.parse().ok()),
            prepared: None,
            shown: plain(&row.next().flatten().unwrap_or_default()),
        }
    });
    Ok(holders.collect())
}

async fn prepared(source: &Session) -> Result<Vec<Holder>> {
    let rows = source
        .rows("list the prepared transactions of the source", PREPARED)
        .await?;
    let holders = rows.into_iter().map(|row| {
        let mut row = row.into_iter();
        Holder {
            virtual_transaction: None,
            pid: None,
            prepared: row.next().flatten(),
            shown: plain(&row.next().flatten().unwrap_or_default()),
        }
    });
    Ok(holders.collect())
}
