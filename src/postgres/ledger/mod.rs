//! The ledger: what each job has put on the target, kept on the target, in the schema `longhaul`.
//!
//! A batch's entry commits in the transaction of its rows, so that the ledger is never wrong about what is there. It
//! outlives the journal: a job that finds itself here goes on from it. Each run takes its table over with a new epoch; a
//! batch holds the table's advisory lock shared and commits only under the epoch that still holds, so that a forgotten
//! process cannot write behind our back, and whoever takes over waits for the batches in flight, and in turn.

mod again;
mod layout;
mod others;
mod partitions;
mod rewritten;
mod seen;
mod segments;
mod started_again;
mod take_over;
mod told;
mod trust;

use super::connect::Session;
use super::cursor::lock_of;
use super::error::{Error, Kind, Result, Side};
use super::identifier::{quote_literal, quote_text_array};
use crate::table::{Batch, Fence, Key, KeyRange, Plan, Position, SourceClock, TableSpec, Tally};
use xxhash_rust::xxh3::xxh3_64;

pub use again::to_look_at;
pub use layout::{FORMAT, Probe, State, ensure, probe};
pub use partitions::{is_unsettled, unsettle};
pub use rewritten::check_rewritten;
pub use seen::{
    set_snapshot, set_source_seen, set_still_since, snapshot, source_clock, source_seen, still_since,
};
#[cfg(any(test, fuzzing))]
pub(super) use segments::{Ends, ends_of, joined};
pub(super) use segments::{key_of, tally_of};
pub use started_again::start_again;
#[cfg(any(test, fuzzing))]
pub(super) use take_over::plan_from_json;
pub use take_over::{Found, check_begun, check_source, inspect, lost, stored_plan, take_over};
pub use told::{Told, told};
pub use trust::is_trusted;

const YEAR_10000_MICROSECONDS: u64 = 253_402_300_800_000_000;

/// What a batch's entry holds, in this order.
pub(super) const BATCH_COLUMNS: &str =
    "job, table_name, batch, pass, format, low, high, low_hash, rows, rows_written, bytes, checksum";

/// Asks the target whether it still knows this run, in a transaction of its own. Writes nothing.
///
/// # Errors
/// `Fenced`, `TargetRewound`, `TableChanged`; or what goes wrong in asking.
pub async fn check(target: &Session, spec: &TableSpec, plan: &Plan, fence: &Fence) -> Result<()> {
    in_transaction(target, async || pass_fence(target, spec, plan, fence).await).await
}

/// The end of a migrate: the target has what the position says, by its ledger, in the table that the ledger speaks of, and
/// the source's is still the one that was planned.
///
/// # Errors
/// `TargetRewound` where the ledger says something else; or as [`check`].
pub async fn conclude(
    target: &Session,
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
    fence: &Fence,
    position: &Position,
) -> Result<()> {
    let mine = of_table(spec, plan);
    // Of a change that came with the last batch none that follows can tell.
    let what = format!("compare source table {} with the plan", plan.source);
    let (locked, sql) = (
        lock_of(Side::Source, plan),
        super::catalog::digest_sql(&plan.source),
    );
    let digest = source.rows_locked(&what, &locked, &sql).await?.pop();
    let digest = digest.as_ref().and_then(|row| row.first()?.as_deref());
    judge_digest(Side::Source, plan, fence, digest)?;
    let found = in_transaction(target, async || {
        pass_fence(target, spec, plan, fence).await?;
        segments::read_position(target, source, plan, &mine).await
    });
    let found = found.await?;
    let same = found.tally == position.tally && found.copied == position.copied && found.beyond.is_empty();
    if same {
        return Ok(());
    }
    let words = format!(
        "the ledger on the target has {} batches of {} rows for job {}, and {} of {} were confirmed",
        found.tally.batches, found.tally.rows, spec.job, position.tally.batches, position.tally.rows
    );
    Err(Error::new(Side::Target, Kind::TargetRewound, words))
}

/// What a batch that has committed did; `None` where it has not.
///
/// # Errors
/// `Fenced` where a later run has taken over, which may have given that number to another range; `Ledger` where it is
/// another range's all the same; or what goes wrong in asking.
pub async fn find(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    fence: &Fence,
    batch: &Batch,
) -> Result<Option<Tally>> {
    let Batch { number, pass, range } = batch;
    let what = format!(
        "look for batch {number} of job {} in the target's ledger",
        spec.job
    );
    let (low, high) = bounds(range);
    let pass = pass.number();
    // By its range only a first copy is found: a range is looked at again as often as need be.
    let by_range = match pass {
        0 => format!(
            "OR (pass = 0 AND low_hash = {} AND low = {low} AND high = {high})",
            low_hash(&low)
        ),
        _ => String::new(),
    };
    let mine = of_table(spec, plan);
    let sql = format!(
        "SELECT rows, rows - rows_written, bytes, 1, checksum, low = {low} AND high = {high} AND pass = {pass},
                (SELECT epoch FROM longhaul.tables WHERE {mine}) FROM longhaul.batches
         WHERE {mine} AND (batch = {number} {by_range}) ORDER BY 6 LIMIT 1"
    );
    let Some(row) = target.rows(&what, &sql).await?.pop() else {
        return Ok(None);
    };
    let epoch = row.get(6).and_then(Option::as_deref);
    if let Some(epoch) = epoch
        .and_then(|text| text.parse().ok())
        .filter(|epoch| *epoch > fence.epoch)
    {
        return Err(fenced(spec, Some(epoch)));
    }
    if row.get(5).and_then(Option::as_deref) != Some("t") {
        return Err(Error::new(
            Side::Target,
            Kind::Ledger,
            format!(
                "batch {number} of job {} is another range in the target's ledger",
                spec.job
            ),
        ));
    }
    tally_of(&row).map(Some)
}

/// How far the ledger says the table is. Takes nothing over; the epoch is not told.
///
/// Keys are sorted by `orders`: the source, or the target itself where only some order is wanted.
///
/// # Errors
/// What goes wrong in asking.
pub async fn read(target: &Session, orders: &Session, spec: &TableSpec, plan: &Plan) -> Result<Position> {
    let mine = of_table(spec, plan);
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!(
        "SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM longhaul.jobs WHERE job = {}",
        quote_literal(&spec.job)
    );
    in_transaction(target, async || {
        let begun = target.rows(&what, &sql).await?.pop();
        let begun = begun.and_then(|row| row.into_iter().next().flatten());
        Ok(Position {
            begun: begun.and_then(|text| text.parse().ok()).unwrap_or(0),
            ..segments::read_position(target, orders, plan, &mine).await?
        })
    })
    .await
}

/// What the job's batches did, by the ledger, whatever has become of the tables. The ledger must be there.
///
/// # Errors
/// What goes wrong in asking.
pub async fn tally(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Tally> {
    let (tally, _) = segments::read_tally(target, &of_table(spec, plan)).await?;
    Ok(tally)
}

/// Keeps the key up to which nothing can appear any more, and what the source's clock showed then; without a key, what is kept
/// stays. Idempotent.
///
/// # Errors
/// `Fenced` where a later run has taken over.
pub async fn set_settled(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    settled: Option<&Key>,
    clock: Option<&SourceClock>,
) -> Result<()> {
    let key = settled.map_or("NULL::text[]".to_owned(), |key| quote_text_array(&key.0));
    let clock = clock.map_or(String::new(), |clock| {
        let SourceClock { source_us, here_us } = clock;
        format!(
            ", plan = pg_catalog.jsonb_set(plan, '{{source_clock}}',
                 pg_catalog.jsonb_build_object('source_us', {source_us}, 'here_us', {here_us}))"
        )
    });
    let sql = format!(
        "UPDATE longhaul.tables SET settled = coalesce({key}, settled){clock}, updated_at = now() WHERE {} AND epoch = {epoch} RETURNING 1",
        of_table(spec, plan)
    );
    let what = format!("write the settled key of job {} to the target's ledger", spec.job);
    match target.rows(&what, &sql).await?.len() {
        1 => Ok(()),
        _ => Err(fenced(spec, None)),
    }
}

/// Removes the job from the ledger, so that it starts afresh; its rows stay. Waits for batches that are committing.
///
/// # Errors
/// What goes wrong in writing.
pub async fn forget(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<()> {
    let name = quote_literal(&spec.job);
    // One simple query is one transaction.
    let sql = format!(
        "SELECT pg_catalog.pg_advisory_xact_lock({}); DELETE FROM longhaul.jobs WHERE job = {name};
         DELETE FROM longhaul.tables WHERE job = {name}; DELETE FROM longhaul.batches WHERE job = {name}",
        lock_key(spec, plan)
    );
    let what = format!("remove job {} from the target's ledger", spec.job);
    target.rows(&what, &sql).await.map(drop)
}

/// Under which epoch the job's table was taken over last; `None` where the ledger does not know it.
///
/// # Errors
/// What goes wrong in asking.
pub async fn epoch(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<u64>> {
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!("SELECT epoch FROM longhaul.tables WHERE {}", of_table(spec, plan));
    let row = target.rows(&what, &sql).await?.pop();
    let epoch = row.and_then(|row| row.into_iter().next().flatten());
    Ok(epoch.and_then(|text| text.parse().ok()))
}

/// Waits for the batches in flight, and keeps others from beginning until the transaction ends.
pub(super) async fn lock_until_the_end(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<()> {
    let what = format!("wait for the batches of job {} that are in flight", spec.job);
    let sql = format!(
        "SELECT pg_catalog.pg_advisory_xact_lock({})",
        lock_key(spec, plan)
    );
    target.rows(&what, &sql).await.map(drop)
}

/// The job belongs to another run now. Its epoch says since when: an epoch is the microseconds since 1970.
fn fenced(spec: &TableSpec, epoch: Option<u64>) -> Error {
    // A later year has no spelling.
    let since = epoch.filter(|epoch| *epoch < YEAR_10000_MICROSECONDS);
    let when = since.map_or(String::new(), |since| {
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_micros(since);
        format!(" at {}", humantime::format_rfc3339_seconds(since))
    });
    let words = format!("job {} was taken over by another process{when}", spec.job);
    Error::new(Side::Target, Kind::Fenced, words)
        .hinted(
            "this process has stopped, and its batches in flight were rolled back; look at the other one; once that has ended, the \
             same command continues from what it has copied",
        )
}

/// Holds the table and the job for the rest of a transaction, and gives what [`judge_fence`] wants to see, as its last row.
pub(super) fn fence_sql(spec: &TableSpec, plan: &Plan, fence: &Fence) -> String {
    let mine = of_table(spec, plan);
    let witnesses: Vec<_> = fence.witnesses.iter().map(ToString::to_string).collect();
    let present = if witnesses.is_empty() {
        "0".to_owned()
    } else {
        format!(
            "(SELECT count(*) FROM longhaul.batches WHERE {mine} AND batch IN ({}))",
            witnesses.join(", ")
        )
    };
    // The locks first, each in a statement of its own: what the last one sees is then younger than both.
    format!(
        "SELECT pg_catalog.pg_advisory_xact_lock_shared({}); LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE;
         SELECT (SELECT epoch FROM longhaul.tables WHERE {mine}), {present}, {}",
        lock_key(spec, plan),
        super::identifier::quote_table(&plan.target),
        others::other_sql(spec, plan),
    )
}

/// Whether the target still knows this run, and no other job is in its way, by the last row of [`fence_sql`].
pub(super) fn judge_fence(
    spec: &TableSpec,
    plan: &Plan,
    fence: &Fence,
    row: Option<&[Option<String>]>,
) -> Result<()> {
    let field = |number: usize| row.and_then(|row| row.get(number)).and_then(Option::as_deref);
    let epoch = field(0).and_then(|text| text.parse::<u64>().ok());
    let present = field(1).and_then(|text| text.parse::<usize>().ok());
    match epoch {
        Some(epoch) if epoch > fence.epoch => Err(fenced(spec, Some(epoch))),
        Some(epoch) if epoch == fence.epoch && present == Some(fence.witnesses.len()) => match field(2) {
            Some(other) => Err(others::shared(spec, plan, other)),
            None => Ok(()),
        },
        _ => {
            let words = format!(
                "the target has lost what it had confirmed of job {}: it was failed over or restored to an older state",
                spec.job
            );
            Err(Error::new(Side::Target, Kind::TargetRewound, words))
        }
    }
}

/// Whether a table is as it was planned, by what its digest is now.
pub(super) fn judge_digest(side: Side, plan: &Plan, fence: &Fence, digest: Option<&str>) -> Result<()> {
    let (planned, table) = match side {
        Side::Source => (&fence.digest.source, &plan.source),
        Side::Target => (&fence.digest.target, &plan.target),
    };
    match digest {
        Some(digest) if digest == planned => Ok(()),
        Some(_) => {
            let words = format!("{side} table {table} was changed since the job was prepared");
            Err(Error::new(side, Kind::TableChanged, words))
        }
        None => {
            let words = format!("table {table} does not exist on the {side} any more");
            Err(Error::new(side, Kind::UndefinedObject, words))
        }
    }
}

pub(super) async fn pass_fence(target: &Session, spec: &TableSpec, plan: &Plan, fence: &Fence) -> Result<()> {
    let what = format!("ask the target about job {}", spec.job);
    let row = target.rows(&what, &fence_sql(spec, plan, fence)).await?.pop();
    judge_fence(spec, plan, fence, row.as_deref())?;
    let digest = target
        .row(&what, &super::catalog::digest_sql(&plan.target))
        .await?;
    judge_digest(
        Side::Target,
        plan,
        fence,
        digest.first().and_then(Option::as_deref),
    )
}

/// Runs `body` in a transaction of the target: committed if it succeeds, else rolled back. A dropped future closes the session.
pub(super) async fn in_transaction<T>(target: &Session, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let open = target.open();
    target
        .rows(
            "begin a transaction on the target",
            "BEGIN ISOLATION LEVEL READ COMMITTED",
        )
        .await?;
    let done = body().await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = target.rows("end a transaction on the target", end).await;
    if ended.is_ok() {
        open.ended();
    }
    let done = done?;
    ended.map(|_| done)
}

/// The advisory lock of a job's table: batches share it, a take-over has it alone.
pub(super) fn lock_key(spec: &TableSpec, plan: &Plan) -> i64 {
    xxh3_64(format!("longhaul/{}/{}", spec.job, plan.source).as_bytes()).cast_signed()
}

/// A range's bounds as literals of `text[]`.
pub(super) fn bounds(range: &KeyRange) -> (String, String) {
    let low = range.low.as_ref().map(|key| key.0.as_slice()).unwrap_or_default();
    (quote_text_array(low), quote_text_array(&range.high.0))
}

/// What an index entry can hold of a key of any length. Not md5: servers that keep to FIPS have none.
pub(super) fn low_hash(low: &str) -> String {
    format!(
        "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({low}::text, pg_catalog.getdatabaseencoding())), 'hex')"
    )
}

pub(super) fn of_table(spec: &TableSpec, plan: &Plan) -> String {
    format!(
        "job = {} AND table_name = {}",
        quote_literal(&spec.job),
        quote_literal(&plan.source.to_string())
    )
}
