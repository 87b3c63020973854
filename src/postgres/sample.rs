//! A table to try things on: `audio_downloads`, about 300 bytes a row, of the types that people have.
//!
//! For the demo, the benchmark and whoever wants a table that can be made again: row n is the same wherever it is made.
//! Also what is asked of it afterwards: its sum, computed by PostgreSQL itself, and what the ledger says of it.

use super::connect::Session;
use super::error::{Error, Kind, Result};

/// The table's name.
pub const TABLE: &str = "audio_downloads";

const CREATE: &str = "
CREATE TABLE public.audio_downloads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text NOT NULL,
    title text,
    duration_ms int,
    checksum bytea,
    tags text[],
    meta jsonb,
    created_at timestamptz NOT NULL)";

/// What a table holds, as its own server sums it up; equal on two servers where their rows are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Its rows.
    pub rows: u64,
    /// How many different keys they have.
    pub keys: u64,
    /// The sum of a 64-bit hash of each row's text, in decimal.
    pub hash: String,
}

/// What has been committed on a target, by its rows and by the ledger, in one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Rows that the table holds.
    pub rows: u64,
    /// Batches in the ledger.
    pub batches: u64,
    /// The rows of those batches.
    pub batch_rows: u64,
}

/// Makes the empty table.
///
/// # Errors
/// What goes wrong in making it; that it is there already, for one.
pub async fn create(session: &Session) -> Result<()> {
    session.rows(&format!("create {TABLE}"), CREATE).await.map(drop)
}

/// Adds the rows numbered `first` to `last`. Their ids are taken as they come, so concurrent calls mix them.
///
/// # Errors
/// What goes wrong in writing.
pub async fn fill(session: &Session, first: u64, last: u64) -> Result<()> {
    let sql = format!(
        "INSERT INTO public.{TABLE} (url, title, duration_ms, checksum, tags, meta, created_at)
         SELECT 'https://cdn.example.net/audio/' || left(h, 2) || '/' || h || '.mp3',
                CASE WHEN i % 97 = 0 THEN NULL ELSE 'Épisode ' || i || repeat(' ·', (i % 9)::int) END,
                (i * 7919 % 5400000)::int,
                decode(h || reverse(h), 'hex'),
                ARRAY['genre-' || i % 40, NULL, 'größe ' || i % 3],
                jsonb_build_object('bitrate', 64 + i % 4 * 64, 'host', 'edge-' || i % 16, 'retries', jsonb_build_array(i % 5, null)),
                timestamptz '2024-01-01 00:00:00+00' + i * interval '7.5 seconds'
         FROM (SELECT i, md5(i::text) AS h FROM generate_series({first}::bigint, {last}::bigint) i) numbered"
    );
    session.rows(&format!("fill {TABLE}"), &sql).await.map(drop)
}

/// Brings the catalog's statistics up to date. Gives the bytes that the table takes on disk, without its index.
///
/// # Errors
/// What goes wrong in reading.
pub async fn analyze(session: &Session) -> Result<u64> {
    let what = format!("analyze {TABLE}");
    session.rows(&what, &format!("ANALYZE public.{TABLE}")).await?;
    let row = session
        .row(&what, &format!("SELECT pg_table_size('public.{TABLE}')"))
        .await?;
    number(session, &what, &row, 0)
}

/// Reads the whole table and sums it up.
///
/// # Errors
/// What goes wrong in reading.
pub async fn sum(session: &Session) -> Result<Sum> {
    let what = format!("sum up {TABLE}");
    let sql = format!(
        "SELECT count(*), count(DISTINCT id), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM public.{TABLE} t"
    );
    let row = session.row(&what, &sql).await?;
    let hash = row.get(2).cloned().flatten().unwrap_or_default();
    Ok(Sum {
        rows: number(session, &what, &row, 0)?,
        keys: number(session, &what, &row, 1)?,
        hash,
    })
}

/// What the ledger says has been committed: batches and their rows. Zeros while there is no ledger.
///
/// # Errors
/// What goes wrong in reading.
pub async fn ledger(target: &Session) -> Result<(u64, u64)> {
    let what = "read the ledger";
    let there = target
        .row(what, "SELECT to_regclass('longhaul.batches') IS NOT NULL")
        .await?;
    if there.first().and_then(Option::as_deref) != Some("t") {
        return Ok((0, 0));
    }
    let row = target
        .row(
            what,
            "SELECT count(*), coalesce(sum(rows), 0) FROM longhaul.batches",
        )
        .await?;
    Ok((number(target, what, &row, 0)?, number(target, what, &row, 1)?))
}

/// What has been committed; the ledger must be there.
///
/// # Errors
/// What goes wrong in reading.
pub async fn held(target: &Session) -> Result<Held> {
    let what = "compare the ledger with the table";
    let sql = format!(
        "SELECT (SELECT count(*) FROM public.{TABLE}), count(*), coalesce(sum(rows), 0) FROM longhaul.batches"
    );
    let row = target.row(what, &sql).await?;
    Ok(Held {
        rows: number(target, what, &row, 0)?,
        batches: number(target, what, &row, 1)?,
        batch_rows: number(target, what, &row, 2)?,
    })
}

/// How many sessions of longhaul's jobs the server has, and how many of them are in a transaction that has written.
///
/// # Errors
/// What goes wrong in reading.
pub async fn sessions(session: &Session) -> Result<(u64, u64)> {
    let what = "look for longhaul's sessions";
    let sql = "SELECT count(*), count(backend_xid) FROM pg_stat_activity
               WHERE application_name LIKE 'longhaul %' AND pid <> pg_backend_pid()";
    let row = session.row(what, sql).await?;
    Ok((number(session, what, &row, 0)?, number(session, what, &row, 1)?))
}

fn number(session: &Session, what: &str, row: &[Option<String>], column: usize) -> Result<u64> {
    let text = row.get(column).and_then(Option::as_deref);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        Error::new(session.side(), Kind::Unknown, format!("cannot {what}")).because("no number came back")
    })
}
