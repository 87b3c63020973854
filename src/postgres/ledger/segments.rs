//! What the ledger's batches amount to: their sum, and the ranges that they cover, joined where they meet.

use crate::postgres::connect::{Session, TextRow};
use crate::postgres::cursor;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{Key, KeyRange, Plan, Position, Tally};

/// The position that the ledger's batches make; epoch and settled key are not theirs to know.
pub(super) async fn read_position(
    target: &Session,
    source: &Session,
    plan: &Plan,
    mine: &str,
) -> Result<Position> {
    let (tally, next_batch) = read_tally(target, mine).await?;
    let mut segments = read_segments(target, source, plan, mine).await?;
    let from_the_start = segments.first().is_some_and(|first| first.low.is_none());
    let copied = from_the_start.then(|| segments.remove(0).high);
    Ok(Position {
        copied,
        beyond: segments,
        next_batch,
        tally,
        ..Position::default()
    })
}

/// The sum of the ledger's batches, and the number that comes after the greatest.
pub(super) async fn read_tally(target: &Session, mine: &str) -> Result<(Tally, u64)> {
    // A checksum is a sum modulo 2^64, kept as a signed number.
    let sql = format!(
        "SELECT coalesce(sum(rows), 0), coalesce(sum(rows - rows_written), 0), coalesce(sum(bytes), 0), count(*),
                coalesce(sum(checksum), 0), coalesce(max(batch) + 1, 0) FROM longhaul.batches WHERE {mine}"
    );
    let row = target.row("sum up the target's ledger", &sql).await?;
    let next = row.get(5).and_then(Option::as_deref);
    Ok((
        tally_of(&row)?,
        next.and_then(|text| text.parse().ok()).unwrap_or(0),
    ))
}

/// A tally from rows, rows skipped, bytes, batches and checksum, each a sum in decimal.
///
/// # Errors
/// `Ledger` where one is missing, or no table can have so many.
pub(in crate::postgres) fn tally_of(row: &[Option<String>]) -> Result<Tally> {
    let number = |column: usize| row.get(column)?.as_deref()?.parse::<i128>().ok();
    let count = |column: usize| {
        let count = number(column).and_then(|number| i64::try_from(number).ok());
        count.and_then(|count| u64::try_from(count).ok())
    };
    let read = || {
        let tally = Tally {
            rows: count(0)?,
            skipped: count(1)?,
            bytes: count(2)?,
            batches: count(3)?,
            checksum: u64::try_from(number(4)?.rem_euclid(1 << 64)).ok()?,
        };
        (tally.skipped <= tally.rows).then_some(tally)
    };
    read().ok_or_else(|| {
        let words = "the target's ledger counts what no table can have: rows of longhaul.batches were changed by hand";
        Error::new(Side::Target, Kind::Ledger, words)
    })
}

/// Chains of ranges, each from a low that nobody ends at to a high that nobody begins at, in the source's order.
///
/// The target compares for equality only; starts and ends are sorted by the source, and then pair up in order.
async fn read_segments(target: &Session, source: &Session, plan: &Plan, mine: &str) -> Result<Vec<KeyRange>> {
    let what = "read the ranges of the target's ledger";
    let sql = format!(
        "WITH b AS (SELECT low, high FROM longhaul.batches WHERE {mine} AND pass = 0)
         SELECT true, to_json(low) FROM b WHERE NOT EXISTS (SELECT FROM b p WHERE p.high = b.low)
         UNION ALL
         SELECT false, to_json(high) FROM b WHERE NOT EXISTS (SELECT FROM b n WHERE n.low = b.high)"
    );
    let Ends {
        from_the_start,
        starts,
        ends,
    } = ends_of(plan, &target.rows(what, &sql).await?)?;
    let starts = cursor::sort_keys(source, plan, starts).await?;
    let ends = cursor::sort_keys(source, plan, ends).await?;
    Ok(joined(from_the_start, starts, ends))
}

/// Where chains of ranges begin and end, as many of both.
pub(in crate::postgres) struct Ends {
    /// Whether one begins at the start of the table.
    pub from_the_start: bool,
    /// Where the others begin.
    pub starts: Vec<Key>,
    pub ends: Vec<Key>,
}

/// Takes rows apart, each of whether it is a start, and a key.
///
/// # Errors
/// `Ledger` where there are not as many starts as ends, or a key is none of the plan's.
pub(in crate::postgres) fn ends_of(plan: &Plan, rows: &[TextRow]) -> Result<Ends> {
    let (mut starts, mut ends, mut from_the_start) = (Vec::new(), Vec::new(), false);
    for row in rows {
        let [Some(is_start), Some(key)] = row.as_slice() else {
            continue;
        };
        match (is_start == "t", key_of(plan, key)?) {
            (true, Some(key)) => starts.push(key),
            (true, None) => from_the_start = true,
            (false, Some(key)) => ends.push(key),
            (false, None) => {}
        }
    }
    if starts.len() + usize::from(from_the_start) != ends.len() {
        let words =
            "the ranges of the target's ledger do not join up: rows of longhaul.batches were changed by hand";
        return Err(Error::new(Side::Target, Kind::Ledger, words));
    }
    Ok(Ends {
        from_the_start,
        starts,
        ends,
    })
}

/// The chains, of starts and ends in order.
pub(in crate::postgres) fn joined(from_the_start: bool, starts: Vec<Key>, ends: Vec<Key>) -> Vec<KeyRange> {
    let first = from_the_start.then_some(None);
    let starts = first.into_iter().chain(starts.into_iter().map(Some));
    starts
        .zip(ends)
        .map(|(low, high)| KeyRange { low, high })
        .collect()
}

/// A key of the ledger's, with a value for each of the plan's columns; `None` for the empty one, which is the start of the
/// table, and for SQL's null.
///
/// # Errors
/// `Ledger` where it has a null, or more or fewer values.
pub(in crate::postgres) fn key_of(plan: &Plan, text: &str) -> Result<Option<Key>> {
    let key = key_from_json(text)?;
    if let Some(Key(values)) = &key
        && values.len() != plan.key.len()
    {
        let words = format!(
            "a key in the target's ledger has {} values, and the table's key ({}) is of {} columns",
            values.len(),
            plan.key_shown(),
            plan.key.len()
        );
        return Err(Error::new(Side::Target, Kind::Ledger, words));
    }
    Ok(key)
}

/// A list of texts; `None` where it is empty, or SQL's null.
pub(super) fn key_from_json(text: &str) -> Result<Option<Key>> {
    let values: Option<Vec<String>> = serde_json::from_str(text).map_err(|_| {
        Error::new(
            Side::Target,
            Kind::Ledger,
            "a key in the target's ledger holds a null",
        )
    })?;
    Ok(values.filter(|values| !values.is_empty()).map(Key))
}
