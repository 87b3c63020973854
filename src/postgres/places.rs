//! Rows of a table without a key, gone over where they lie: block after block, partition after partition.
//!
//! A place is what PostgreSQL calls a ctid, `(block,number)`, and numbers begin with 1: so a range from `(10,0)` to `(20,0)`
//! is all of the blocks 10 to 19. It holds the same rows for as long as nobody writes to the table and nobody rewrites it.
//! Of a partitioned table the partition's number stands before the place.

use super::connect::Session;
use super::copy::filtered;
use super::cursor::{lock_of, rows_of};
use super::error::{Error, Kind, Result, Side};
use super::identifier::{quote_literal, quote_table};
use crate::table::{Key, KeyBasis, KeyRange, Leaf, Plan};

/// A range has at most so many blocks, however few rows they seem to hold: 64 MB, without what is stored out of line.
const BLOCKS_MAX: u64 = 8192;
/// Where each place is named: some 300 in each block.
const NAMED_BLOCKS_MAX: u64 = 1024;
/// So many blocks are looked at to see how many rows are in one.
const BLOCKS_SAMPLED: u64 = 8;

/// A place at the beginning of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// By its place among the leaves.
    leaf: usize,
    block: u64,
}

/// The tables that hold the rows, and whether each place is named; `None` where the plan has a key.
fn leaves(plan: &Plan) -> Option<(&[Leaf], bool)> {
    match &plan.key_basis {
        KeyBasis::Places { leaves, by_place, .. } => Some((leaves, *by_place)),
        KeyBasis::Index | KeyBasis::Rows { .. } => None,
    }
}

/// What a table without any row is gone over to.
pub(super) fn before_all(plan: &Plan) -> Key {
    key_of(
        plan,
        leaves(plan).map_or(&[], |(leaves, _)| leaves),
        Place { leaf: 0, block: 0 },
    )
}

fn key_of(plan: &Plan, leaves: &[Leaf], place: Place) -> Key {
    let number = leaves.get(place.leaf).map_or(0, |leaf| leaf.oid);
    let block = format!("({},0)", place.block);
    match plan.key.len() {
        1 => Key(vec![block]),
        _ => Key(vec![number.to_string(), block]),
    }
}

fn place_of(plan: &Plan, leaves: &[Leaf], key: &Key) -> Result<Place> {
    let read = || {
        let (number, place) = match key.0.as_slice() {
            [place] => (None, place),
            [number, place] => (Some(number.parse::<u32>().ok()?), place),
            _ => return None,
        };
        let leaf = match number {
            None => 0,
            Some(number) => leaves.iter().position(|leaf| leaf.oid == number)?,
        };
        let block = place.strip_prefix('(')?.strip_suffix(",0)")?.parse().ok()?;
        Some(Place { leaf, block })
    };
    read().ok_or_else(|| {
        let words = format!("source table {} has no place {}", plan.source, key.shown());
        Error::new(Side::Source, Kind::Ledger, words)
    })
}

/// A SELECT of some values, of the rows called `t` that lie in a range and that the operator's condition takes.
pub(super) fn select(plan: &Plan, values: &str, range: &KeyRange) -> Result<String> {
    let (leaves, _) = leaves(plan).unwrap_or_default();
    let low = range
        .low
        .as_ref()
        .map(|low| place_of(plan, leaves, low))
        .transpose()?;
    let low = low.unwrap_or(Place { leaf: 0, block: 0 });
    let high = place_of(plan, leaves, &range.high)?;
    let parts: Vec<_> = (low.leaf..=high.leaf)
        .filter_map(|number| {
            let from = if number == low.leaf { low.block } else { 0 };
            let to = (number == high.leaf).then_some(high.block);
            let leaf = leaves.get(number)?;
            Some(filtered(
                Side::Source,
                plan,
                &select_blocks(plan, leaf, values, from, to),
            ))
        })
        .collect();
    Ok(match parts.as_slice() {
        [] => format!(
            "SELECT {values} FROM {} AS t WHERE false",
            rows_of(Side::Source, plan)
        ),
        parts => parts.join(" UNION ALL "),
    })
}

/// Rows of one table, from a block on, up to another one or to the end.
fn select_blocks(plan: &Plan, leaf: &Leaf, values: &str, from: u64, to: Option<u64>) -> String {
    let by_place = leaves(plan).is_some_and(|(_, by_place)| by_place);
    let table = quote_table(&leaf.table);
    let condition = if by_place {
        let end = match to {
            Some(to) => to.to_string(),
            None => format!(
                "pg_catalog.pg_relation_size({}::pg_catalog.oid::pg_catalog.regclass) / pg_catalog.current_setting('block_size')::pg_catalog.int8",
                leaf.oid
            ),
        };
        // A row's header and its line pointer take 28 bytes.
        format!(
            "t.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(
                 SELECT pg_catalog.format('(%s,%s)', b, n)::pg_catalog.tid
                 FROM pg_catalog.generate_series({from}::pg_catalog.int8, {end} - 1) b,
                      pg_catalog.generate_series(1, pg_catalog.current_setting('block_size')::pg_catalog.int4 / 28) n))"
        )
    } else {
        let low = format!("t.ctid OPERATOR(pg_catalog.>) '({from},0)'::pg_catalog.tid");
        match to {
            Some(to) => format!("{low} AND t.ctid OPERATOR(pg_catalog.<=) '({to},0)'::pg_catalog.tid"),
            None => low,
        }
    };
    format!("SELECT {values} FROM ONLY {table} AS t WHERE {condition}")
}

/// Statements that give who wrote each row, of some blocks each: all of them, up to the end of each table.
pub(super) async fn parts(source: &Session, plan: &Plan, blocks_at_once: u64) -> Result<Vec<String>> {
    let (leaves, by_place) = leaves(plan).unwrap_or_default();
    let at_once = if by_place {
        NAMED_BLOCKS_MAX
    } else {
        blocks_at_once
    };
    let what = format!("find the end of source table {}", plan.source);
    let part =
        |leaf: &Leaf, from, to| filtered(Side::Source, plan, &select_blocks(plan, leaf, "t.xmin", from, to));
    let mut parts = Vec::new();
    for leaf in leaves {
        let blocks = blocks_of(source, plan, &what, leaf).await?;
        let mut from = 0;
        while from + at_once < blocks {
            parts.push(part(leaf, from, Some(from + at_once)));
            from += at_once;
        }
        // Whatever has come behind it meanwhile, too.
        parts.push(part(leaf, from, None));
    }
    Ok(parts)
}

/// The place that ends the next range after `low`, of about `rows` rows. As [`cursor::next_range_end`](super::cursor).
pub(super) async fn next_range_end(
    source: &Session,
    plan: &Plan,
    low: Option<&Key>,
    stop: Option<&Key>,
    rows: u64,
) -> Result<Option<Key>> {
    let (leaves, by_place) = leaves(plan).unwrap_or_default();
    let what = format!("find the next batch of source table {}", plan.source);
    let low = low.map(|low| place_of(plan, leaves, low)).transpose()?;
    let stop = stop.map(|stop| place_of(plan, leaves, stop)).transpose()?;
    let mut at = low.unwrap_or(Place { leaf: 0, block: 0 });
    if stop.is_some_and(|stop| at >= stop) {
        return Ok(None);
    }
    while let Some(leaf) = leaves.get(at.leaf) {
        let blocks = blocks_of(source, plan, &what, leaf).await?;
        if at.block >= blocks {
            at = Place {
                leaf: at.leaf + 1,
                block: 0,
            };
            continue;
        }
        let density = density(source, plan, &what, leaf, at.block).await?;
        let most = if by_place { NAMED_BLOCKS_MAX } else { BLOCKS_MAX };
        let step = (rows / density.max(1)).clamp(1, most);
        let end = Place {
            leaf: at.leaf,
            block: blocks.min(at.block + step),
        };
        let end = stop.map_or(end, |stop| end.min(stop));
        return Ok(Some(key_of(plan, leaves, end)));
    }
    Ok(stop.map(|stop| key_of(plan, leaves, stop)))
}

/// The place after the last block of the last table; `None` where there is no block at all.
pub(super) async fn last(source: &Session, plan: &Plan) -> Result<Option<Key>> {
    let (leaves, _) = leaves(plan).unwrap_or_default();
    let what = format!("find the end of source table {}", plan.source);
    let (mut last, mut is_empty) = (None, true);
    for (number, leaf) in leaves.iter().enumerate() {
        let block = blocks_of(source, plan, &what, leaf).await?;
        is_empty &= block == 0;
        last = Some(Place { leaf: number, block });
    }
    let last = last.filter(|_| !is_empty);
    Ok(last.map(|last| key_of(plan, leaves, last)))
}

async fn blocks_of(source: &Session, plan: &Plan, what: &str, leaf: &Leaf) -> Result<u64> {
    let sql = format!(
        "SELECT pg_catalog.pg_relation_size(pg_catalog.to_regclass({})) / pg_catalog.current_setting('block_size')::pg_catalog.int8",
        quote_literal(&quote_table(&leaf.table))
    );
    number(source, plan, what, &sql).await
}

/// Rows in a block, by some that lie there.
async fn density(source: &Session, plan: &Plan, what: &str, leaf: &Leaf, from: u64) -> Result<u64> {
    let some = select_blocks(plan, leaf, "1", from, Some(from + BLOCKS_SAMPLED));
    let sql = format!("SELECT pg_catalog.count(*) FROM ({some}) s");
    Ok(number(source, plan, what, &sql).await?.div_ceil(BLOCKS_SAMPLED))
}

async fn number(source: &Session, plan: &Plan, what: &str, sql: &str) -> Result<u64> {
    let rows = source
        .rows_locked(what, &lock_of(Side::Source, plan), sql)
        .await?;
    let text = rows.into_iter().flatten().flatten().next();
    // A table that is gone has no size; that it is gone the digest tells.
    Ok(text.and_then(|text| text.parse().ok()).unwrap_or(0))
}
