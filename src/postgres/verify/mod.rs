//! Holds the target against the ledger's receipts, or against the source, range by range.
//!
//! A range's rows are read on each side in the format of COPY, counted and hashed; only where the sums differ is it halved,
//! down to some hundred rows, which are then compared one by one, by key. Rows that differ are looked at once more a moment
//! later: what changed meanwhile is no difference. Where both sides order keys in another way, ranges mean nothing on the
//! target, and rows are looked up by key from the start. No row's value leaves this room.

mod nulls;
mod repair;
mod rows;
mod units;

use super::checksum::RowCounter;
use super::connect::Session;
use super::copy::{CHUNK_BYTES, begin_sql, range_sql, rows_sql};
use super::cursor;
use super::error::{Error, Result, Side};
use super::throttle::Meter;
use crate::table::{CopyFormat, Difference, Findings, Key, KeyRange, Plan, TableSpec, Tally};
use futures_util::StreamExt;
use std::pin::pin;
use std::time::Duration;

pub use nulls::refuse_null_keys;
pub use repair::repair;
pub use units::{end_of_units, next_unit};

/// A range of at most so many rows is compared row by row.
const ROWS_COMPARED: u64 = 500;
/// And of at most so many bytes, unless it is a single row.
const BYTES_COMPARED: u64 = 16 << 20;
/// So long after the first look comes the second, at rows that were found different.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Both sides of a table that is verified.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// Where the rows come from.
    pub source: &'a Session,
    /// Where they went.
    pub target: &'a Session,
    /// How they were copied.
    pub plan: &'a Plan,
    /// Sees what is read.
    pub meter: &'a dyn Meter,
}

/// Holds a unit of the ledger against what the target has. The source is not read.
///
/// # Errors
/// What goes wrong in reading.
pub async fn against_receipts(
    target: &Session,
    plan: &Plan,
    spec: &TableSpec,
    range: &KeyRange,
    meter: &dyn Meter,
) -> Result<Findings> {
    let unit = units::read(target, plan, spec, range).await?;
    let found = checksum_range(target, plan, unit.format.unwrap_or(plan.format), range, meter).await?;
    let mut findings = Findings {
        rows: found.rows,
        bytes: found.bytes,
        ranges: 1,
        ..Findings::default()
    };
    let sent = unit.tally;
    // Rows that were skipped are the target's own: all that can be told is that they are there.
    if unit.format.is_none() || sent.skipped > 0 {
        findings.ranges_unproved = 1;
    }
    let is_right = if findings.ranges_unproved > 0 {
        found.rows == sent.rows
    } else {
        (found.rows, found.checksum) == (sent.rows, sent.checksum)
    };
    if !is_right {
        findings.add(Difference::Range {
            range: range.clone(),
            rows_sent: sent.rows,
            rows_found: found.rows,
        });
    }
    Ok(findings)
}

/// Holds a range of the target against the source, down to rows and columns.
///
/// With `count_missing` off, rows that only the source has are none that was compared: they are beyond what a job has copied.
///
/// # Errors
/// What goes wrong in reading.
pub async fn against_source(sides: Sides<'_>, range: &KeyRange, count_missing: bool) -> Result<Findings> {
    let mut findings = Findings {
        ranges: 1,
        ..Findings::default()
    };
    let (mut suspects, mut is_whole) = (Vec::new(), true);
    let mut ranges = vec![range.clone()];
    while let Some(range) = ranges.pop() {
        let (here, there) = sides.checksums(&range).await?;
        if std::mem::take(&mut is_whole) {
            (findings.rows, findings.bytes) = (here.rows, here.bytes);
        }
        if !count_missing && there.rows == 0 {
            findings.not_copied_yet += here.rows;
            findings.rows = findings.rows.saturating_sub(here.rows);
            continue;
        }
        let (rows, bytes) = (here.rows.max(there.rows), here.bytes.max(there.bytes));
        let is_small = rows <= ROWS_COMPARED && (bytes <= BYTES_COMPARED || rows <= 1);
        if (here.rows, here.checksum) == (there.rows, there.checksum) {
            continue;
        }
        if !is_small && let Some(middle) = sides.middle(&range, &here, &there).await? {
            ranges.push(KeyRange {
                low: Some(middle.clone()),
                high: range.high,
            });
            ranges.push(KeyRange {
                low: range.low,
                high: middle,
            });
            continue;
        }
        suspects.extend(rows::compare_range(sides, &range).await?);
    }
    let counts = |found: &Difference| count_missing || !matches!(found, Difference::Missing { .. });
    pass_over(&mut suspects, counts, &mut findings);
    look_once_more(sides, suspects, counts, &mut findings).await?;
    Ok(findings)
}

/// The same for rows that have no key: all that lies up to the end of the range against all that the target has.
///
/// # Errors
/// What goes wrong in reading.
pub async fn as_a_whole(sides: Sides<'_>, range: &KeyRange) -> Result<Findings> {
    let (here, there) = sides.checksums(range).await?;
    let mut findings = Findings {
        rows: here.rows,
        bytes: here.bytes,
        ranges: 1,
        ..Findings::default()
    };
    if (here.rows, here.checksum) != (there.rows, there.checksum) {
        findings.add(Difference::Range {
            range: range.clone(),
            rows_sent: here.rows,
            rows_found: there.rows,
        });
    }
    Ok(findings)
}

/// The same for keys that the target orders in another way: each row of the source is looked up by its key.
///
/// What only the target has is found by [`only_on_target`].
///
/// # Errors
/// What goes wrong in reading.
pub async fn by_keys(sides: Sides<'_>, range: &KeyRange, count_missing: bool) -> Result<Findings> {
    let mut findings = Findings {
        ranges: 1,
        ..Findings::default()
    };
    let counts = |found: &Difference| match found {
        Difference::Missing { .. } => count_missing,
        Difference::Extra { .. } => false,
        Difference::Changed { .. } | Difference::Range { .. } => true,
    };
    let mut suspects = Vec::new();
    let mut low = range.low.clone();
    while let Some(high) = cursor::next_range_end(
        sides.source,
        sides.plan,
        low.as_ref(),
        Some(&range.high),
        ROWS_COMPARED,
    )
    .await?
    {
        let part = KeyRange {
            low,
            high: high.clone(),
        };
        let ((rows, bytes), mut found) = rows::compare_keys(sides, Side::Source, &part).await?;
        findings.rows += rows;
        findings.bytes += bytes;
        pass_over(&mut found, counts, &mut findings);
        suspects.extend(found);
        low = Some(high);
    }
    look_once_more(sides, suspects, counts, &mut findings).await?;
    Ok(findings)
}

/// Rows of a range of the target, in the target's order, that the source does not have. Rows of the source are counted by
/// [`by_keys`].
///
/// # Errors
/// What goes wrong in reading.
pub async fn only_on_target(sides: Sides<'_>, range: &KeyRange) -> Result<Findings> {
    let mut findings = Findings {
        ranges: 1,
        ..Findings::default()
    };
    let (_, mut suspects) = rows::compare_keys(sides, Side::Target, range).await?;
    // What both have was compared from the source's side.
    let counts = |found: &Difference| matches!(found, Difference::Extra { .. });
    suspects.retain(counts);
    look_once_more(sides, suspects, counts, &mut findings).await?;
    Ok(findings)
}

/// Drops what does not count; rows that only the source has were not compared then.
fn pass_over(suspects: &mut Vec<Difference>, counts: impl Fn(&Difference) -> bool, findings: &mut Findings) {
    let passed = |found: &&Difference| !counts(found) && matches!(found, Difference::Missing { .. });
    let passed = suspects.iter().filter(passed).count() as u64;
    findings.not_copied_yet += passed;
    findings.rows = findings.rows.saturating_sub(passed);
    suspects.retain(counts);
}

/// Looks again at what was found different, and counts what still is.
async fn look_once_more(
    sides: Sides<'_>,
    suspects: Vec<Difference>,
    counts: impl Fn(&Difference) -> bool,
    findings: &mut Findings,
) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    let mut keys: Vec<Key> = suspects.into_iter().filter_map(rows::key_of_row).collect();
    keys.dedup();
    for some in keys.chunks(usize::try_from(ROWS_COMPARED).unwrap_or(usize::MAX)) {
        for difference in rows::compare_some(sides, some).await? {
            if counts(&difference) {
                findings.add(difference);
            }
        }
    }
    Ok(())
}

impl Sides<'_> {
    async fn checksums(&self, range: &KeyRange) -> Result<(Tally, Tally)> {
        let format = self.plan.format;
        tokio::try_join!(
            checksum_range(self.source, self.plan, format, range, self.meter),
            checksum_range(self.target, self.plan, format, range, self.meter)
        )
    }

    /// A key that halves the range, by the rows of the side that has more of them; `None` where it cannot be halved.
    async fn middle(&self, range: &KeyRange, here: &Tally, there: &Tally) -> Result<Option<Key>> {
        let (session, rows) = if here.rows >= there.rows {
            (self.source, here.rows)
        } else {
            (self.target, there.rows)
        };
        let middle = cursor::key_within(session, self.plan, range, rows / 2).await?;
        Ok(middle.filter(|middle| *middle != range.high))
    }
}

/// Counts and hashes the range's rows as they are on one side, in `format`. Reads only.
///
/// Where the target has another order than the source ([`Plan::same_order`]), all of its rows are read: the range must then
/// be all that there is.
///
/// # Errors
/// What goes wrong in reading.
pub async fn checksum_range(
    session: &Session,
    plan: &Plan,
    format: CopyFormat,
    range: &KeyRange,
    meter: &dyn Meter,
) -> Result<Tally> {
    let plan = Plan {
        format,
        ..plan.clone()
    };
    let side = session.side();
    let failed = |error: tokio_postgres::Error| {
        let table = match side {
            Side::Source => &plan.source,
            Side::Target => &plan.target,
        };
        Error::rows(side, format!("cannot read {side} table {table}"), &error)
    };
    // Where the target has another order its rows cannot be cut into the source's ranges: all of them, or none.
    let sql = match side {
        Side::Target if !plan.same_order => rows_sql(side, &plan, ""),
        _ => range_sql(side, &plan, range)?,
    };
    let lock = begin_sql(side, &plan);
    let open = session.open();
    let sent = async {
        tokio::join!(
            session.client().simple_query(&lock),
            session.client().copy_out(&sql)
        )
    };
    let (begun, stream) = session.awaited(sent).await;
    begun.map_err(failed)?;
    let mut stream = pin!(stream.map_err(failed)?);
    let mut counter = RowCounter::new(format);
    let mut passed = (0, 0);
    while let Some(message) = session.awaited(stream.next()).await {
        counter.add(&message.map_err(failed)?);
        if counter.bytes - passed.1 >= CHUNK_BYTES as u64 {
            meter
                .pass(counter.rows - passed.0, counter.bytes - passed.1)
                .await;
            passed = (counter.rows, counter.bytes);
        }
    }
    let ended = session.awaited(session.client().batch_execute("COMMIT")).await;
    ended.map_err(failed)?;
    open.ended();
    Ok(counter.tally(0))
}
