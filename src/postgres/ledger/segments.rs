//! What the ledger's batches amount to: their sum, and the ranges that they cover, joined where they meet.

use crate::postgres::connect::Session;
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
        tally_of(&row),
        next.and_then(|text| text.parse().ok()).unwrap_or(0),
    ))
}

/// A tally from rows, rows skipped, bytes, batches and checksum, each a sum in decimal.
pub(in crate::postgres) fn tally_of(row: &[Option<String>]) -> Tally {
    let number = |column: usize| {
        let text = row.get(column).and_then(Option::as_deref);
        text.and_then(|text| text.parse::<i128>().ok()).unwrap_or(0)
    };
    let count = |column: usize| u64::try_from(number(column)).unwrap_or(0);
    Tally {
        rows: count(0),
        skipped: count(1),
        bytes: count(2),
        batches: count(3),
        checksum: u64::try_from(number(4).rem_euclid(1 << 64)).unwrap_or(0),
    }
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
    let (mut starts, mut ends, mut from_the_start) = (Vec::new(), Vec::new(), false);
    for row in target.rows(what, &sql).await? {
        let [Some(is_start), Some(key)] = row.as_slice() else {
            continue;
        };
        match (is_start == "t", key_from_json(key)?) {
            (true, Some(key)) => starts.push(key),
            (true, None) => from_the_start = true,
            (false, Some(key)) => ends.push(key),
            (false, None) => {}
        }
    }
    if starts.len() + usize::from(from_the_start) != ends.len() {
        return Err(Error::new(Side::Target, Kind::Ledger, format!("cannot {what}"))
            .because("its ranges do not join up: rows of longhaul.batches were changed by hand"));
    }
    let starts = cursor::sort_keys(source, plan, starts).await?;
    let ends = cursor::sort_keys(source, plan, ends).await?;
    let first = from_the_start.then_some(None);
    let starts = first.into_iter().chain(starts.into_iter().map(Some));
    Ok(starts
        .zip(ends)
        .map(|(low, high)| KeyRange { low, high })
        .collect())
}

/// `None` for the empty key, which is the start of the table, and for SQL's null.
pub(in crate::postgres) fn key_from_json(text: &str) -> Result<Option<Key>> {
    let values: Option<Vec<String>> = serde_json::from_str(text).map_err(|_| {
        Error::new(
            Side::Target,
            Kind::Ledger,
            "a key in the target's ledger holds a null",
        )
    })?;
    Ok(values.filter(|values| !values.is_empty()).map(Key))
}
