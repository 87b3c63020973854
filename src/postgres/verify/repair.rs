//! Puts right what was found different: rows of the source over those of the target, extra ones away where that is wanted.
//!
//! All of a range's keys in one transaction of the target, with the fence, and with a receipt that says what is there now:
//! it is read back in that very transaction, and takes the place of the receipts that told of the range before.

use super::{Sides, rows, units};
use crate::postgres::catalog::{check_repair, digest_sql};
use crate::postgres::checksum::RowCounter;
use crate::postgres::connect::{TO_USERS_PATH, TextRow, to_our_path};
use crate::postgres::copy::{STAGING, begin_sql, column_list, move_sql, rows_sql, same_key};
use crate::postgres::cursor::{quote_column, rows_of, table_of, where_keys, where_range};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_table;
use crate::postgres::ledger;
use crate::table::{Difference, Fence, Findings, Key, KeyRange, OnConflict, Plan, TableSpec, Tally};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

/// Copies the rows that differ again, and deletes extra ones if `delete_extra`. Gives how many were different and are not any
/// more, looked at again afterwards.
///
/// Only what is named in `findings` is touched, and without `delete_extra` no key of which the target has more rows than the
/// source. Receipts stay as they are where extra rows stay. With a `fence` the ledger is kept in step; it is that of the run
/// which has the table, whose batches wait meanwhile, and go on. Durable when it returns. Safe to repeat.
///
/// # Errors
/// As a batch, and as [`check_repair`]; nothing of the range is kept then.
pub async fn repair(
    sides: Sides<'_>,
    spec: &TableSpec,
    fence: Option<&Fence>,
    range: &KeyRange,
    findings: &Findings,
    delete_extra: bool,
) -> Result<u64> {
    let (mut before, mut extra) = (BTreeMap::<_, u64>::new(), BTreeSet::new());
    for difference in &findings.told {
        if let Difference::Extra { key } = difference {
            extra.insert(&key.0);
        }
        if let Some(key) = row_of(difference) {
            *before.entry(&key.0).or_default() += 1;
        }
    }
    if !delete_extra {
        before.retain(|key, _| !extra.contains(key));
        extra.clear();
    }
    // Of an extra key the source may have a row by now, or have had one all along, and the target two: it is sent again.
    let keys = |keys: &mut dyn Iterator<Item = &Vec<String>>| keys.cloned().map(Key).collect::<Vec<_>>();
    let (wanted, extra) = (
        keys(&mut before.keys().copied()),
        keys(&mut extra.iter().copied()),
    );
    if wanted.is_empty() {
        return Ok(0);
    }
    let open = sides.target.open();
    let some = Wanted {
        keys: &wanted,
        extra: &extra,
        delete_extra,
        // Where rows that were never sent stay, a receipt of what is there would vouch for them.
        vouches: delete_extra || findings.extra == 0,
    };
    let sent = in_transaction(sides, spec, fence, range, some).await;
    let end = if sent.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let what = format!("put rows of target table {} right", sides.plan.target);
    let ended = sides.target.rows_of_table(&what, end).await;
    if ended.is_ok() {
        open.ended();
    }
    sent?;
    ended?;
    // The target's own code may have made something else of what was sent, and the source may have gone on.
    let mut after = BTreeMap::<_, u64>::new();
    for difference in rows::compare_some(sides, &wanted).await? {
        if let Some(key) = row_of(&difference) {
            *after.entry(key.0.clone()).or_default() += 1;
        }
    }
    let right = before.iter().map(|(key, count)| {
        let still = after.get(*key).copied().unwrap_or(0);
        count.saturating_sub(still)
    });
    Ok(right.sum())
}

fn row_of(difference: &Difference) -> Option<&Key> {
    match difference {
        Difference::Missing { key } | Difference::Extra { key } | Difference::Changed { key, .. } => {
            Some(key)
        }
        Difference::Range { .. } => None,
    }
}

/// What is to be put right.
struct Wanted<'a> {
    /// All of it.
    keys: &'a [Key],
    /// Those among them whose rows go first.
    extra: &'a [Key],
    delete_extra: bool,
    /// Whether what is there afterwards is what was sent.
    vouches: bool,
}

async fn in_transaction(
    sides: Sides<'_>,
    spec: &TableSpec,
    fence: Option<&Fence>,
    range: &KeyRange,
    wanted: Wanted<'_>,
) -> Result<()> {
    let Sides { target, plan, .. } = sides;
    let what = format!("put rows of target table {} right", plan.target);
    let columns = column_list(plan);
    let table = quote_table(&plan.target);
    let only = rows_of(Side::Target, plan);
    target.rows(&what, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    match fence {
        Some(fence) => {
            // Alone, so that no batch writes a receipt between what is read back and what is written of it.
            ledger::lock_until_the_end(target, spec, plan).await?;
            let passed = ledger::pass_fence(target, spec, plan, fence).await;
            // It has not taken the table over: whoever has meanwhile is no reason to give up.
            passed.map_err(|error| match error.kind() {
                Kind::Fenced => error.of_kind(Kind::TableChanged),
                _ => error,
            })?;
        }
        None => check_digest(sides).await?,
    }
    // Before anything is written, though it was asked when the job began: nobody else may have a say in this.
    let fires = check_repair(target, plan, spec, wanted.delete_extra).await?;
    if !wanted.extra.is_empty() {
        let condition = where_keys(Side::Target, plan, wanted.extra);
        let sql = format!("DELETE FROM {only} AS t{condition}");
        target.rows_of_table(&what, &sql).await?;
    }
    let stage = format!(
        "CREATE TEMPORARY TABLE longhaul_batch ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
    );
    target.rows(&what, &stage).await?;
    let sent = send(sides, wanted.keys).await?;
    if !plan.target_key_is_unique {
        target.rows_of_table(&what, &make_way_sql(plan, &wanted)).await?;
    }
    if fires {
        target.rows(&what, TO_USERS_PATH).await?;
    }
    let sql = if plan.target_key_is_unique {
        move_sql(plan, OnConflict::Update)
    } else {
        insert_sql(plan)
    };
    let row = last(target.rows_of_table(&what, &sql).await?);
    let number = |column: usize| {
        let text = row.get(column).and_then(Option::as_deref);
        text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    };
    let (written, stayed) = (number(0), number(1));
    if written + stayed != sent.rows {
        let words = format!(
            "target table {} took {written} rows of {} that were sent",
            plan.target, sent.rows
        );
        return Err(Error::new(Side::Target, Kind::CountMismatch, words));
    }
    if fires {
        target.rows(&what, &to_our_path()).await?;
    }
    if fence.is_some()
        && wanted.vouches
        && (stayed == 0 || plan.target_key_is_unique)
        && (!fires || is_as_sent(sides, wanted.keys, &sent).await?)
    {
        write_receipt(sides, spec, range).await?;
    }
    if fires {
        target.rows(&what, TO_USERS_PATH).await?;
    }
    Ok(())
}

/// Deletes the rows in whose place others were sent, where no unique index tells which row is updated.
///
/// Unless extra rows are to go, one that the source has no row for stays, and so do several of one key.
fn make_way_sql(plan: &Plan, wanted: &Wanted<'_>) -> String {
    let only = rows_of(Side::Target, plan);
    let condition = where_keys(Side::Target, plan, wanted.keys);
    if wanted.delete_extra {
        return format!("DELETE FROM {only} AS t{condition}");
    }
    let key: Vec<_> = plan
        .key
        .iter()
        .map(|column| quote_column(column.name_on_target()))
        .collect();
    format!(
        "DELETE FROM {only} AS d USING (SELECT t.tableoid, t.ctid, pg_catalog.count(*) OVER (PARTITION BY {}) AS number,
             EXISTS (SELECT FROM {STAGING} s WHERE {}) AS is_sent FROM {only} AS t{condition}) k
         WHERE d.tableoid = k.tableoid AND d.ctid = k.ctid AND k.number = 1 AND k.is_sent",
        key.join(", "),
        same_key(plan)
    )
}

/// Inserts what was sent, but for keys that still have a row; gives how many were inserted, and how many not.
fn insert_sql(plan: &Plan) -> String {
    let columns = column_list(plan);
    let there = format!(
        "EXISTS (SELECT FROM {} WHERE {})",
        table_of(Side::Target, plan),
        same_key(plan)
    );
    format!(
        "WITH written AS (INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE
             SELECT {columns} FROM {STAGING} s WHERE NOT {there} RETURNING 1)
         SELECT (SELECT pg_catalog.count(*) FROM written), (SELECT pg_catalog.count(*) FROM {STAGING} s WHERE {there})",
        quote_table(&plan.target)
    )
}

/// Whether triggers of the target left the rows as they were sent.
async fn is_as_sent(sides: Sides<'_>, keys: &[Key], sent: &Tally) -> Result<bool> {
    let there = read_back(sides, &where_keys(Side::Target, sides.plan, keys)).await?;
    Ok((there.rows, there.checksum) == (sent.rows, sent.checksum))
}

/// Puts a receipt of what is there now in the place of those that told of the range before.
async fn write_receipt(sides: Sides<'_>, spec: &TableSpec, range: &KeyRange) -> Result<()> {
    let Sides { target, plan, .. } = sides;
    let sql = if plan.same_order {
        let tally = read_back(sides, &where_range(Side::Target, plan, range)).await?;
        units::replace_sql(plan, spec, range, &tally)
    } else {
        // Receipts of ranges that cannot be read back prove nothing any more, and say so.
        format!(
            "UPDATE longhaul.batches SET format = NULL WHERE {}",
            ledger::of_table(spec, plan)
        )
    };
    let what = format!("put rows of target table {} right", plan.target);
    let changed = target.rows(&what, &sql).await?;
    if plan.same_order && changed.is_empty() {
        let words = format!(
            "the ledger on the target has no receipt of job {} to replace",
            spec.job
        );
        return Err(Error::new(Side::Target, Kind::TargetRewound, words));
    }
    Ok(())
}

fn last(mut rows: Vec<TextRow>) -> TextRow {
    rows.pop().unwrap_or_default()
}

async fn check_digest(sides: Sides<'_>) -> Result<()> {
    let Sides { target, plan, .. } = sides;
    let what = format!("look at target table {}", plan.target);
    let row = target.row(&what, &digest_sql(&plan.target)).await?;
    if row.first().and_then(Option::as_deref) == Some(&plan.digest.target) {
        return Ok(());
    }
    let words = format!("target table {} was changed since it was looked at", plan.target);
    Err(Error::new(Side::Target, Kind::TableChanged, words))
}

/// Sends the source's rows of some keys to the staging table; gives what was sent.
async fn send(sides: Sides<'_>, keys: &[Key]) -> Result<Tally> {
    let Sides {
        source,
        target,
        plan,
        meter,
    } = sides;
    let reading = |error: tokio_postgres::Error| {
        Error::rows(
            Side::Source,
            format!("cannot read source table {}", plan.source),
            &error,
        )
    };
    let writing = |error: tokio_postgres::Error| {
        Error::rows(
            Side::Target,
            format!("cannot write to target table {}", plan.target),
            &error,
        )
    };
    let open = source.open();
    let sql = rows_sql(Side::Source, plan, &where_keys(Side::Source, plan, keys));
    let lock = begin_sql(Side::Source, plan);
    let asked = async {
        tokio::join!(
            source.client().simple_query(&lock),
            source.client().copy_out(&sql)
        )
    };
    let (begun, stream) = source.awaited(asked).await;
    begun.map_err(reading)?;
    let mut stream = pin!(stream.map_err(reading)?);
    let into = format!(
        "COPY {STAGING} ({}) FROM STDIN (FORMAT {})",
        column_list(plan),
        plan.format.name()
    );
    let sink = target.awaited(target.client().copy_in::<_, Bytes>(&into)).await;
    let mut sink = pin!(sink.map_err(writing)?);
    let mut counter = RowCounter::new(plan.format);
    while let Some(message) = source.awaited(stream.next()).await {
        let message = message.map_err(reading)?;
        counter.add(&message);
        meter.pass(1, message.len() as u64).await;
        target.awaited(sink.send(message)).await.map_err(writing)?;
    }
    target.awaited(sink.finish()).await.map_err(writing)?;
    let ended = source.awaited(source.client().batch_execute("COMMIT")).await;
    ended.map_err(reading)?;
    open.ended();
    Ok(counter.tally(0))
}

/// What of the target the condition takes now, as this transaction sees it.
async fn read_back(sides: Sides<'_>, condition: &str) -> Result<Tally> {
    let Sides { target, plan, .. } = sides;
    let failed = |error: tokio_postgres::Error| {
        Error::rows(
            Side::Target,
            format!("cannot read target table {}", plan.target),
            &error,
        )
    };
    let sql = rows_sql(Side::Target, plan, condition);
    let stream = target.awaited(target.client().copy_out(&sql)).await;
    let mut stream = pin!(stream.map_err(failed)?);
    let mut counter = RowCounter::new(plan.format);
    while let Some(message) = target.awaited(stream.next()).await {
        counter.add(&message.map_err(failed)?);
    }
    Ok(counter.tally(0))
}
