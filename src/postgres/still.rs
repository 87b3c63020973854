//! Whether nobody has written to a source whose rows are told apart by where they lie.
//!
//! The server's statistics come late, and may be off; the rows themselves do not lie. Before the first row is read it is noted
//! which transaction was the oldest that was not over. Once the last is copied, the rows are counted: if none is of that
//! transaction or of a later one, each was there from the beginning, in its place, and so was copied; if they are as many as
//! were copied, nothing else was. Blocks are looked at some at a time, so that no snapshot is held for long: what is proved of
//! each range is that it has not changed until after the last row was copied.

use std::time::Duration;

use tokio::time::Instant;

use super::catalog::digest_sql;
use super::connect::Session;
use super::copy::under_path_of_expressions;
use super::cursor::lock_of;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use super::places;
use crate::table::{Fence, Plan, StillSince, TableSpec, Tally};

/// So long transactions that are open at the start may take to end.
const OTHERS_END_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many blocks are looked at in one transaction: 512 MB.
const BLOCKS_AT_ONCE: u64 = 65_536;
/// Numbers of transactions are compared in 32 bits, and so mean nothing over more than this many.
const TRANSACTIONS_MAX: u64 = 1 << 31;

/// Notes in the ledger since when nobody may write, before the first row is copied. Idempotent: what is noted stays.
///
/// # Errors
/// `Ledger` where rows were copied and nothing is noted; `Fenced`; or what goes wrong in asking or writing.
pub async fn note_still(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    done: &Tally,
) -> Result<()> {
    if !must_be_still(plan) || since(target, spec, plan).await?.is_some() {
        return Ok(());
    }
    if done.batches > 0 {
        return Err(not_noted(spec));
    }
    let transaction = oldest_open(source).await?;
    ledger::set_still_since(target, spec, plan, epoch, StillSince { transaction }).await
}

/// The oldest transaction that is not over. Rows that were committed since it began would count as written later, so those
/// that are open now are given a while to end.
async fn oldest_open(source: &Session) -> Result<u64> {
    let what = "ask the source which transactions are open";
    let end = Instant::now() + OTHERS_END_WITHIN;
    let mut first_next = None;
    loop {
        let row = source
            .row(
                what,
                "SELECT pg_catalog.txid_snapshot_xmin(s), pg_catalog.txid_snapshot_xmax(s)
                 FROM pg_catalog.txid_current_snapshot() AS t(s)",
            )
            .await?;
        let mut numbers = row.into_iter().map(|field| field?.parse::<u64>().ok());
        let (Some(Some(oldest)), Some(Some(next))) = (numbers.next(), numbers.next()) else {
            let error = Error::new(Side::Source, Kind::Unknown, format!("cannot {what}"));
            return Err(error.because("no number came back"));
        };
        if oldest >= *first_next.get_or_insert(next) {
            return Ok(oldest);
        }
        if Instant::now() >= end {
            tracing::warn!(
                transaction = oldest,
                "transactions are open on the source's server: rows that were committed since the oldest of them began count as \
                 written after the start, and fail the job at its end"
            );
            return Ok(oldest);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whoever writes does no harm to what is read in a snapshot.
fn must_be_still(plan: &Plan) -> bool {
    plan.key_basis.is_places() && !plan.key_basis.is_in_snapshot()
}

async fn since(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<StillSince>> {
    ledger::still_since(target, spec, plan).await
}

fn not_noted(spec: &TableSpec) -> Error {
    let words = format!(
        "the ledger on the target does not say since when nobody may write to the source of job {}",
        spec.job
    );
    Error::new(Side::Target, Kind::Ledger, words)
}

/// What was found of some rows of the source.
#[derive(Default)]
struct Counted {
    rows: u64,
    later: u64,
}

/// Proves, once all is copied, that the source has the rows that were copied, and no other. Reads only.
///
/// # Errors
/// `Incompatible` where somebody has written to it; `TableChanged` where it was rewritten; or what goes wrong in asking.
pub async fn check_still(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    fence: &Fence,
    copied: &Tally,
) -> Result<()> {
    if !must_be_still(plan) {
        return Ok(());
    }
    let since = since(target, spec, plan).await?.ok_or_else(|| not_noted(spec))?;
    let mut counted = Counted::default();
    for part in places::parts(source, plan, BLOCKS_AT_ONCE).await? {
        let some = count(source, plan, fence, since, &part).await?;
        counted.rows += some.rows;
        counted.later += some.later;
    }
    if counted.later == 0 && counted.rows == copied.rows {
        return Ok(());
    }
    let words = format!(
        "source table {} was written to since job {} began: {} rows are there, of which {} are of later transactions, and {} were \
         copied",
        plan.source, spec.job, counted.rows, counted.later, copied.rows
    );
    Err(Error::new(Side::Source, Kind::Incompatible, words).hinted(
        "the target is not what the source is: empty it, and copy the table again while nobody writes to it (--restart); or give \
         the source table a primary key",
    ))
}

async fn count(
    source: &Session,
    plan: &Plan,
    fence: &Fence,
    since: StillSince,
    part: &str,
) -> Result<Counted> {
    let what = format!("look whether source table {} was written to", plan.source);
    let since = since.transaction;
    // Rows of 1 and 2 are older than any number. Of others no more than 32 bits are kept.
    let asked = format!(
        "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE r.x OPERATOR(pg_catalog.>) 2::pg_catalog.int8
                    AND ((r.x OPERATOR(pg_catalog.-) {since}::pg_catalog.int8) OPERATOR(pg_catalog.&) 4294967295::pg_catalog.int8)
                        OPERATOR(pg_catalog.<) n.passed),
                pg_catalog.min(n.passed)
         FROM (SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())
                      OPERATOR(pg_catalog.-) {since}::pg_catalog.int8) n(passed),
              LATERAL (SELECT v.x::pg_catalog.text::pg_catalog.int8 FROM ({part}) v(x)) r(x)"
    );
    let sql = format!(
        "{}; {}",
        digest_sql(&plan.source),
        under_path_of_expressions(Side::Source, plan, &asked)
    );
    let mut rows = source
        .rows_locked(&what, &lock_of(Side::Source, plan), &sql)
        .await?
        .into_iter();
    let digest = rows.next().and_then(|row| row.into_iter().next().flatten());
    ledger::judge_digest(Side::Source, plan, fence, digest.as_deref())?;
    let row = rows.next().unwrap_or_default();
    let number = |field: usize| row.get(field)?.as_deref()?.parse::<u64>().ok();
    if number(2).is_some_and(|passed| passed >= TRANSACTIONS_MAX) {
        let words = format!(
            "so many transactions were begun on the source since that nobody can tell whether source table {} was written to",
            plan.source
        );
        return Err(Error::new(Side::Source, Kind::Incompatible, words)
            .hinted("compare both sides: longhaul verify JOB --against source"));
    }
    Ok(Counted {
        rows: number(0).unwrap_or(0),
        later: number(1).unwrap_or(0),
    })
}
