//! Puts right what was found different: rows of the source over those of the target, extra ones away where that is wanted.
//!
//! All of a range's keys in one transaction of the target, with the fence, and with a receipt that says what is there now:
//! it is read back in that very transaction, and takes the place of the receipts that told of the range before.

use super::{Sides, units};
use crate::postgres::catalog::digest_sql;
use crate::postgres::checksum::RowCounter;
use crate::postgres::connect::{TO_USERS_PATH, TextRow, lock_sql, to_our_path};
use crate::postgres::copy::{STAGING, column_list, move_sql, rows_sql};
use crate::postgres::cursor::{rows_of, where_keys, where_range};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_table;
use crate::postgres::ledger;
use crate::table::{Difference, Fence, Findings, Key, KeyRange, OnConflict, TableSpec, Tally};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::pin::pin;

/// Copies the rows that differ again, and deletes extra ones if `delete_extra`. Gives how many rows were put right.
///
/// Only what is named in `findings` is touched; receipts stay as they are where extra rows stay. With a `fence` the ledger is kept in step; it is that of the run which
/// has the table, whose batches wait meanwhile, and go on. Durable when it returns. Safe to repeat.
///
/// # Errors
/// As a batch; nothing of the range is kept then.
pub async fn repair(
    sides: Sides<'_>,
    spec: &TableSpec,
    fence: Option<&Fence>,
    range: &KeyRange,
    findings: &Findings,
    delete_extra: bool,
) -> Result<u64> {
    let (mut wanted, mut extra) = (Vec::new(), Vec::new());
    for difference in &findings.told {
        match difference {
            Difference::Missing { key } | Difference::Changed { key, .. } => wanted.push(key.clone()),
            Difference::Extra { key } if delete_extra => extra.push(key.clone()),
            Difference::Extra { .. } | Difference::Range { .. } => {}
        }
    }
    // Of an extra key the source may have a row by now, or have had one all along, and the target two: it is sent again.
    let differing = wanted.len() as u64;
    wanted.extend_from_slice(&extra);
    wanted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(0);
    }
    let open = sides.target.open();
    // Where rows that were never sent stay, a receipt of what is there would vouch for them.
    let vouches = delete_extra || findings.extra == 0;
    let sent = in_transaction(sides, spec, fence, range, (&wanted, &extra), vouches).await;
    let end = if sent.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let what = format!("put rows of target table {} right", sides.plan.target);
    let ended = sides.target.rows_of_table(&what, end).await;
    if ended.is_ok() {
        open.ended();
    }
    let sent = sent?;
    ended.map(|_| sent.min(differing) + extra.len() as u64)
}

/// Gives how many rows were sent: those that the source has of the wanted keys, the extra ones among them.
async fn in_transaction(
    sides: Sides<'_>,
    spec: &TableSpec,
    fence: Option<&Fence>,
    range: &KeyRange,
    (wanted, extra): (&[Key], &[Key]),
    vouches: bool,
) -> Result<u64> {
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
    if !extra.is_empty() {
        let sql = format!("DELETE FROM {only} AS t{}", where_keys(Side::Target, plan, extra));
        target.rows_of_table(&what, &sql).await?;
    }
    let stage = format!(
        "CREATE TEMPORARY TABLE longhaul_batch ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
    );
    target.rows(&what, &stage).await?;
    let sent = send(sides, wanted).await?;
    if !plan.target_key_is_unique {
        let sql = format!(
            "DELETE FROM {only} AS t{}",
            where_keys(Side::Target, plan, wanted)
        );
        target.rows_of_table(&what, &sql).await?;
    }
    let fires = plan.target_fires_triggers;
    if fires {
        target.rows(&what, TO_USERS_PATH).await?;
    }
    let written = if plan.target_key_is_unique {
        let row = last(
            target
                .rows_of_table(&what, &move_sql(plan, OnConflict::Update))
                .await?,
        );
        let number = |column: usize| {
            let text = row.get(column).and_then(Option::as_deref);
            text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        number(0) + number(1)
    } else {
        let sql = format!(
            "WITH written AS (INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
             SELECT {columns} FROM {STAGING} RETURNING 1) SELECT pg_catalog.count(*) FROM written"
        );
        let row = last(target.rows_of_table(&what, &sql).await?);
        row.into_iter()
            .next()
            .flatten()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    if written != sent {
        let words = format!(
            "target table {} took {written} rows of {sent} that were sent",
            plan.target
        );
        return Err(Error::new(Side::Target, Kind::CountMismatch, words));
    }
    if fires {
        target.rows(&what, &to_our_path()).await?;
    }
    if fence.is_some() && vouches {
        let sql = if plan.same_order {
            let tally = read_back(sides, range).await?;
            units::replace_sql(plan, spec, range, &tally)
        } else {
            // Receipts of ranges that cannot be read back prove nothing any more, and say so.
            format!(
                "UPDATE longhaul.batches SET format = NULL WHERE {}",
                ledger::of_table(spec, plan)
            )
        };
        let changed = target.rows(&what, &sql).await?;
        if plan.same_order && changed.is_empty() {
            let words = format!(
                "the ledger on the target has no receipt of job {} to replace",
                spec.job
            );
            return Err(Error::new(Side::Target, Kind::TargetRewound, words));
        }
    }
    if fires {
        target.rows(&what, TO_USERS_PATH).await?;
    }
    Ok(sent)
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

/// Sends the source's rows of some keys to the staging table; gives how many.
async fn send(sides: Sides<'_>, keys: &[Key]) -> Result<u64> {
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
    let lock = lock_sql(&rows_of(Side::Source, plan));
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
    Ok(counter.rows)
}

/// What the target has in the range now, as this transaction sees it.
async fn read_back(sides: Sides<'_>, range: &KeyRange) -> Result<Tally> {
    let Sides { target, plan, .. } = sides;
    let failed = |error: tokio_postgres::Error| {
        Error::rows(
            Side::Target,
            format!("cannot read target table {}", plan.target),
            &error,
        )
    };
    let sql = rows_sql(Side::Target, plan, &where_range(Side::Target, plan, range));
    let stream = target.awaited(target.client().copy_out(&sql)).await;
    let mut stream = pin!(stream.map_err(failed)?);
    let mut counter = RowCounter::new(plan.format);
    while let Some(message) = target.awaited(stream.next()).await {
        counter.add(&message.map_err(failed)?);
    }
    Ok(counter.tally(0))
}
