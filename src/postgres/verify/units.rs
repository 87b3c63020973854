//! The ledger's ranges as a verification walks them: one after the other, along the chain that they make.
//!
//! A unit is one range of the ledger or several in a row, so that no later look straddles its ends: then the receipts in it
//! add up to what must be there.

use crate::postgres::comparison::{Strategy, cast, compare};
use crate::postgres::connect::Session;
use crate::postgres::error::{Result, Side};
use crate::postgres::identifier::{quote_literal, quote_text_array};
use crate::postgres::ledger::{self, key_of};
use crate::table::{CopyFormat, Key, KeyRange, Plan, TableSpec, Tally};

/// What the receipts of a unit add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The sum of its receipts.
    pub tally: Tally,
    /// The format of which they speak; `None` where they are of two, or of a version that did not keep it.
    pub format: Option<CopyFormat>,
}

/// The key that ends the unit which begins after `low`, of at least `rows` rows where there are so many; `None` where no
/// range of the ledger begins there.
///
/// # Errors
/// What goes wrong in asking.
pub async fn next_unit(
    target: &Session,
    plan: &Plan,
    spec: &TableSpec,
    low: Option<&Key>,
    rows: u64,
) -> Result<Option<Key>> {
    let mine = ledger::of_table(spec, plan);
    let low = quote_text_array(low.map(|key| key.0.as_slice()).unwrap_or_default());
    // Each step finds the range that begins where the last one ends, by the hash's index.
    let sql = format!(
        "WITH RECURSIVE chain AS (
             SELECT high, rows, 1 AS step FROM longhaul.batches WHERE {mine} AND pass = 0 AND low_hash = {} AND low = {low}
             UNION ALL
             SELECT b.high, c.rows + b.rows, c.step + 1 FROM chain c JOIN longhaul.batches b
                 ON {mine} AND b.pass = 0 AND b.low_hash = {} AND b.low = c.high
             WHERE c.rows < {rows} OR EXISTS (SELECT FROM longhaul.batches l WHERE {mine} AND l.pass > 0 AND {}))
         SELECT to_json(high) FROM chain ORDER BY step DESC LIMIT 1",
        ledger::low_hash(&low),
        ledger::low_hash("c.high"),
        straddles(plan, "l", "c.high"),
    );
    let found = target
        .rows("walk the ranges of the target's ledger", &sql)
        .await?;
    let found = found.into_iter().filter_map(|mut row| row.pop().flatten()).next();
    found.map_or(Ok(None), |text| key_of(plan, &text))
}

/// The key at which the ledger's chain ends that begins after `low`.
///
/// # Errors
/// What goes wrong in asking.
pub async fn end_of_units(
    target: &Session,
    plan: &Plan,
    spec: &TableSpec,
    low: Option<&Key>,
) -> Result<Option<Key>> {
    next_unit(target, plan, spec, low, i64::MAX.cast_unsigned()).await
}

/// Puts one receipt in the place of a unit's: what was read back after rows of it were put right. Within a transaction.
pub(super) fn replace_sql(plan: &Plan, spec: &TableSpec, range: &KeyRange, tally: &Tally) -> String {
    let (low, high) = ledger::bounds(range);
    let (mine, mine_b) = (ledger::of_table(spec, plan), mine_of("b", spec, plan));
    format!(
        "WITH RECURSIVE chain AS (
             SELECT b.batch, b.high FROM longhaul.batches b WHERE {mine} AND pass = 0 AND low_hash = {hash} AND low = {low}
             UNION ALL
             SELECT b.batch, b.high FROM chain c JOIN longhaul.batches b
                 ON {mine_b} AND b.pass = 0 AND b.low_hash = {next} AND b.low = c.high
             WHERE c.high <> {high}),
         looks AS (SELECT b.batch FROM longhaul.batches b WHERE {mine_b} AND b.pass > 0 AND {within}),
         kept AS (SELECT min(batch) AS batch FROM chain),
         gone AS (DELETE FROM longhaul.batches b USING (SELECT batch FROM chain UNION ALL SELECT batch FROM looks) old
                  WHERE {mine_b} AND b.batch = old.batch AND b.batch <> (SELECT batch FROM kept))
         UPDATE longhaul.batches b SET high = {high}, format = {format}, rows = {rows}, rows_written = {rows},
             bytes = {bytes}, checksum = {checksum}, committed_at = now()
         WHERE {mine_b} AND b.batch = (SELECT batch FROM kept) RETURNING 1",
        hash = ledger::low_hash(&low),
        next = ledger::low_hash("c.high"),
        within = within(plan, "b", &low, &high),
        format = quote_literal(plan.format.name()),
        rows = tally.rows,
        bytes = tally.bytes,
        checksum = tally.checksum.cast_signed(),
    )
}

/// Adds the receipts of a unit up.
pub(super) async fn read(target: &Session, plan: &Plan, spec: &TableSpec, range: &KeyRange) -> Result<Unit> {
    let mine = ledger::of_table(spec, plan);
    let (low, high) = ledger::bounds(range);
    let within = within(plan, "b", &low, &high);
    let sql = format!(
        "WITH RECURSIVE chain AS (
             SELECT b.* FROM longhaul.batches b WHERE {mine} AND pass = 0 AND low_hash = {} AND low = {low}
             UNION ALL
             SELECT b.* FROM chain c JOIN longhaul.batches b
                 ON {mine_b} AND b.pass = 0 AND b.low_hash = {} AND b.low = c.high
             WHERE c.high <> {high}),
         receipts AS (SELECT * FROM chain UNION ALL
             SELECT b.* FROM longhaul.batches b WHERE {mine_b} AND b.pass > 0 AND b.rows > 0 AND {within})
         SELECT coalesce(sum(rows), 0), coalesce(sum(rows - rows_written), 0), coalesce(sum(bytes), 0), count(*),
                coalesce(sum(checksum), 0), CASE WHEN bool_and(format IS NOT NULL) AND count(DISTINCT format) = 1 THEN min(format) END
         FROM receipts WHERE rows > 0",
        ledger::low_hash(&low),
        ledger::low_hash("c.high"),
        mine_b = mine_of("b", spec, plan),
    );
    let what = "add up the receipts of the target's ledger";
    let row = target.row(what, &sql).await?;
    let tally = ledger::tally_of(&row)?;
    let format = match row.get(5).and_then(Option::as_deref) {
        Some("binary") => Some(CopyFormat::Binary),
        Some("text") => Some(CopyFormat::Text),
        // No row: every format tells of it.
        _ if tally.batches == 0 => Some(plan.format),
        _ => None,
    };
    Ok(Unit { tally, format })
}

fn mine_of(alias: &str, spec: &TableSpec, plan: &Plan) -> String {
    format!(
        "{alias}.job = {} AND {alias}.table_name = {}",
        quote_literal(&spec.job),
        quote_literal(&plan.source.to_string())
    )
}

/// A comparison of two keys by the target, each a `text[]`.
fn holds(plan: &Plan, one: &str, strategy: Strategy, other: &str) -> String {
    let parts = |array: &str| -> Vec<_> {
        let parts = plan.key.iter().enumerate();
        let parts =
            parts.map(|(index, column)| cast(Side::Target, column, &format!("({array})[{}]", index + 1)));
        parts.collect()
    };
    compare(Side::Target, &plan.key, strategy, &parts(one), &parts(other))
}

/// Whether a later look begins before a key and ends after it.
fn straddles(plan: &Plan, look: &str, key: &str) -> String {
    let (low, high) = (format!("{look}.low"), format!("{look}.high"));
    format!(
        "({low} = '{{}}' OR {}) AND {}",
        holds(plan, &low, Strategy::Less, key),
        holds(plan, &high, Strategy::Greater, key)
    )
}

/// Whether a later look lies within two keys, the first of which may be the start of the table.
///
/// Where the target has another order it cannot tell, and the range is all that there is.
fn within(plan: &Plan, look: &str, low: &str, high: &str) -> String {
    if !plan.same_order {
        return "true".to_owned();
    }
    let (begin, end) = (format!("{look}.low"), format!("{look}.high"));
    format!(
        "({low} = '{{}}' OR ({begin} <> '{{}}' AND {})) AND {}",
        holds(plan, &begin, Strategy::GreaterOrEqual, low),
        holds(plan, &end, Strategy::LessOrEqual, high)
    )
}
