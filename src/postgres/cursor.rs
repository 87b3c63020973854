//! Finds keys along a table's index: where a batch ends, where the table ends, what lies a few rows back.
//!
//! Keys go out as their types' output functions write them and come back as literals cast to those types, so that they
//! survive any journal exactly. Only the source compares keys: its collations decide.

use super::comparison::{Strategy, compare, literals, operand, row};
use super::connect::{Session, TextRow};
use super::copy::{filtered, under_path_of_expressions};
use super::error::{Error, Kind, Result, Side};
use super::identifier::{quote_identifier, quote_table};
use super::places;
use crate::table::{Key, KeyColumn, KeyRange, Plan, SourceKind};

/// More keys than this are sorted in several statements' worth of memory; a ledger has far fewer segments.
const SORT_LIMIT: usize = 100_000;

/// The key that ends the next batch of at most `rows` rows above `low`.
///
/// With `stop`, no key above it is given, and where fewer rows remain it is `stop` itself, whether a row has it or not,
/// so that ranges meet. `None`: no row is left, and no `stop` is given (or `low` has reached or passed it).
///
/// # Errors
/// What goes wrong in asking the source.
pub async fn next_range_end(
    source: &Session,
    plan: &Plan,
    low: Option<&Key>,
    stop: Option<&Key>,
    rows: u64,
) -> Result<Option<Key>> {
    if stop.is_some() && low == stop {
        return Ok(None);
    }
    if plan.key_basis.is_places() && source.side() == Side::Source {
        return places::next_range_end(source, plan, low, stop, rows).await;
    }
    if let Some(key) = nth_key(source, plan, low, stop, rows).await? {
        return Ok(Some(key));
    }
    let condition = where_between(source.side(), plan, low, stop);
    let what = format!("find the next batch of source table {}", plan.source);
    match stop {
        // Of the target only walks up to its own highest key are asked for, in its own order: the end is never below `low`.
        Some(stop) if source.side() == Side::Target => Ok(Some(stop.clone())),
        Some(stop) => {
            // The greatest row may have been deleted: then the end lies below where we are.
            let ends = low.into_iter().chain([stop]).cloned().collect();
            let greatest = sort_keys(source, plan, ends).await?.pop();
            Ok(greatest.filter(|greatest| greatest == stop))
        }
        None => last_key(source, plan, &what, &condition, 0).await,
    }
}

/// What lies before all rows of a table without a key.
#[must_use]
pub fn before_all(plan: &Plan) -> Key {
    places::before_all(plan)
}

/// The key of the row of that number, from 1, of those above `low` and not above `stop`; `None` where there are fewer.
///
/// # Errors
/// What goes wrong in asking.
pub async fn nth_key(
    session: &Session,
    plan: &Plan,
    low: Option<&Key>,
    stop: Option<&Key>,
    number: u64,
) -> Result<Option<Key>> {
    let side = session.side();
    let sql = nth_key_sql(side, plan, &where_between(side, plan, low, stop), number);
    let what = format!("find the next batch of source table {}", plan.source);
    let found = session.rows_locked(&what, &lock_of(side, plan), &sql).await?;
    let found = found.into_iter().next();
    found.map(|row| key_of(side, plan, row)).transpose()
}

fn nth_key_sql(side: Side, plan: &Plan, condition: &str, number: u64) -> String {
    let (keys, order) = (key_outputs(side, plan, "t"), key_list(side, plan, ""));
    let (from, offset) = (table_of(side, plan), number.max(1) - 1);
    format!("SELECT {keys} FROM {from}{condition} ORDER BY {order} OFFSET {offset} LIMIT 1")
}

/// The key of the row that is `rows`-th in a range of one side, of the rows that are copied; `None` where there are not so many.
///
/// # Errors
/// What goes wrong in asking.
pub(super) async fn key_within(
    session: &Session,
    plan: &Plan,
    range: &KeyRange,
    rows: u64,
) -> Result<Option<Key>> {
    let side = session.side();
    let condition = filtered(side, plan, &where_range(side, plan, range));
    let sql = nth_key_sql(side, plan, &condition, rows);
    let sql = under_path_of_expressions(side, plan, &sql);
    let what = format!("halve a range of the {side} table");
    let found = session.rows_locked(&what, &lock_of(side, plan), &sql).await?;
    let found = found.into_iter().next();
    found.map(|row| key_of(side, plan, row)).transpose()
}

/// The greatest key that is visible now; `None` where the table is empty.
///
/// # Errors
/// What goes wrong in asking the source.
pub async fn highest_key(session: &Session, plan: &Plan) -> Result<Option<Key>> {
    let side = session.side();
    if plan.key_basis.is_places() {
        return match side {
            Side::Source => places::last(session, plan).await,
            Side::Target => Ok(None),
        };
    }
    let table = match side {
        Side::Source => &plan.source,
        Side::Target => &plan.target,
    };
    let what = format!("find the highest key of {side} table {table}");
    let condition = where_between(side, plan, None, None);
    last_key(session, plan, &what, &condition, 0).await
}

/// The key `rows` rows before `key` (which itself need not exist any more); `None` where there are not so many.
///
/// # Errors
/// What goes wrong in asking the source.
pub async fn key_before(source: &Session, plan: &Plan, key: &Key, rows: u64) -> Result<Option<Key>> {
    let condition = where_between(source.side(), plan, None, Some(key));
    last_key(
        source,
        plan,
        &format!("look back in source table {}", plan.source),
        &condition,
        rows,
    )
    .await
}

/// The keys in the source's order.
///
/// # Errors
/// What goes wrong in asking the source; more than 100,000 keys are refused.
pub async fn sort_keys(source: &Session, plan: &Plan, keys: Vec<Key>) -> Result<Vec<Key>> {
    if keys.len() < 2 {
        return Ok(keys);
    }
    let what = format!("sort keys of source table {}", plan.source);
    if keys.len() > SORT_LIMIT {
        return Err(Error::new(
            source.side(),
            Kind::Ledger,
            format!("cannot {what}: {} are too many", keys.len()),
        ));
    }
    let values: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(number, key)| {
            format!(
                "({number}, {})",
                literals(source.side(), &plan.key, key).join(", ")
            )
        })
        .collect();
    let names: Vec<_> = (0..plan.key.len()).map(|number| format!("k{number}")).collect();
    let order: Vec<_> = names
        .iter()
        .zip(&plan.key)
        .map(|(name, column)| collated(name, column))
        .collect();
    let sql = format!(
        "SELECT number FROM (VALUES {}) AS v(number, {}) ORDER BY {}",
        values.join(", "),
        names.join(", "),
        order.join(", ")
    );
    let rows = source.rows(&what, &sql).await?;
    let numbers = rows
        .into_iter()
        .filter_map(|mut row| row.pop()??.parse::<usize>().ok());
    Ok(numbers.filter_map(|number| keys.get(number).cloned()).collect())
}

fn collated(name: &str, column: &KeyColumn) -> String {
    match &column.collation {
        Some(collation) => format!("{name} COLLATE {collation}"),
        None => name.to_owned(),
    }
}

async fn last_key(
    session: &Session,
    plan: &Plan,
    what: &str,
    condition: &str,
    offset: u64,
) -> Result<Option<Key>> {
    let side = session.side();
    let (keys, order) = (key_outputs(side, plan, "t"), key_list(side, plan, " DESC"));
    let from = table_of(session.side(), plan);
    let sql = format!("SELECT {keys} FROM {from}{condition} ORDER BY {order} OFFSET {offset} LIMIT 1");
    session
        .rows_locked(what, &lock_of(session.side(), plan), &sql)
        .await?
        .pop()
        .map(|row| key_of(session.side(), plan, row))
        .transpose()
}

/// A key of its columns' texts.
///
/// # Errors
/// `Unsupported` where one is null: such a row lies in no range.
pub(super) fn key_of(side: Side, plan: &Plan, row: TextRow) -> Result<Key> {
    let values: Option<Vec<_>> = row.into_iter().collect();
    values.map(Key).ok_or_else(|| {
        let table = match side {
            Side::Source => &plan.source,
            Side::Target => &plan.target,
        };
        let words = format!(
            "a row of {side} table {table} has a null in its key ({})",
            plan.key_shown()
        );
        Error::new(side, Kind::Unsupported, words).hinted("delete it, or give it a key")
    })
}

/// One side's table in a FROM clause, as `t`.
///
/// Columns are always written `t."name"`: a bare name in ORDER BY would be an output column's first.
pub(super) fn table_of(side: Side, plan: &Plan) -> String {
    format!("{} AS t", rows_of(side, plan))
}

/// One side's table with its partitions, and without what inherits from it: as FROM takes it, and LOCK TABLE.
pub(super) fn rows_of(side: Side, plan: &Plan) -> String {
    let (table, is_partitioned) = match side {
        Side::Source => (&plan.source, plan.source_is_partitioned),
        Side::Target => (&plan.target, plan.target_is_partitioned),
    };
    let only = if is_partitioned { "" } else { "ONLY " };
    format!("{only}{}", quote_table(table))
}

/// The statement that locks one side's table against whoever would rewrite or empty it.
///
/// Of a materialized view and a foreign table, which LOCK TABLE does not take, any statement that reads it does so.
pub(super) fn lock_of(side: Side, plan: &Plan) -> String {
    let rows = rows_of(side, plan);
    match (side, plan.source_kind) {
        (Side::Source, SourceKind::MaterializedView | SourceKind::ForeignTable) => {
            format!("SELECT FROM {rows} LIMIT 0")
        }
        _ => format!("LOCK TABLE {rows} IN ACCESS SHARE MODE"),
    }
}

/// ` WHERE ...` for a range of one side's table.
pub(super) fn where_range(side: Side, plan: &Plan, range: &KeyRange) -> String {
    where_between(side, plan, range.low.as_ref(), Some(&range.high))
}

fn where_between(side: Side, plan: &Plan, low: Option<&Key>, high: Option<&Key>) -> String {
    let columns = operands(side, plan, "t");
    let condition = |strategy: Strategy, key: &Key| {
        compare(
            side,
            &plan.key,
            strategy,
            &columns,
            &literals(side, &plan.key, key),
        )
    };
    // A row with a null in its key lies in no range, and is none that was copied: that none is there is asked for.
    let nullable = match side {
        Side::Source => plan.key_basis.nullable(),
        Side::Target => &[],
    };
    let no_nulls = nullable
        .iter()
        .map(|column| format!("{} IS DISTINCT FROM NULL", quote_column(column)));
    let ends = [
        low.map(|key| condition(Strategy::Greater, key)),
        high.map(|key| condition(Strategy::LessOrEqual, key)),
    ];
    let conditions: Vec<_> = ends.into_iter().flatten().chain(no_nulls).collect();
    match conditions.as_slice() {
        [] => String::new(),
        all => format!(" WHERE {}", all.join(" AND ")),
    }
}

/// The key's columns of the rows called `alias`, as they are compared.
pub(super) fn operands(side: Side, plan: &Plan, alias: &str) -> Vec<String> {
    let operands = plan.key.iter().map(|column| {
        operand(
            side,
            column,
            &format!("{alias}.{}", quote_identifier(name_on(side, column))),
        )
    });
    operands.collect()
}

/// The key's columns as their types' output functions write them (a cast to text may be something else), a null as a null.
pub(super) fn key_outputs(side: Side, plan: &Plan, alias: &str) -> String {
    let outputs = plan.key.iter().map(|column| {
        let column = format!("{alias}.{}", quote_identifier(name_on(side, column)));
        // A null would come out as an empty text. IS NULL says something else of a row's type.
        format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {column}) END")
    });
    outputs.collect::<Vec<_>>().join(", ")
}

/// ` WHERE ...` for the rows of some keys of one side's table; there must be one.
pub(super) fn where_keys(side: Side, plan: &Plan, keys: &[Key]) -> String {
    let lists = keys.iter().map(|key| literals(side, &plan.key, key));
    let columns = operands(side, plan, "t");
    if let ([column], Some(equal)) = (columns.as_slice(), Strategy::Equal.of(side, &plan.key))
        && !may_be_array(&plan.key[0])
    {
        let values: Vec<_> = lists.flatten().collect();
        return format!(" WHERE {column} {equal} ANY (ARRAY[{}])", values.join(", "));
    }
    let values = lists
        .map(|list| format!("({})", list.join(", ")))
        .collect::<Vec<_>>()
        .join(", ");
    match Strategy::Equal.of(side, &plan.key) {
        Some(equal) => format!(" WHERE {} {equal} ANY (VALUES {values})", row(&columns)),
        None => {
            let names: Vec<_> = (0..plan.key.len()).map(|number| format!("k{number}")).collect();
            let those: Vec<_> = names.iter().map(|name| format!("v.{name}")).collect();
            format!(
                " WHERE EXISTS (SELECT FROM (VALUES {values}) AS v({}) WHERE {})",
                names.join(", "),
                compare(side, &plan.key, Strategy::Equal, &columns, &those)
            )
        }
    }
}

/// Whether an array of its values would be taken for one of its elements' values.
fn may_be_array(column: &KeyColumn) -> bool {
    [Some(&column.type_name), column.target_type.as_ref()]
        .into_iter()
        .flatten()
        .any(|name| name.ends_with("[]") || name.contains("._") || name.contains(".\"_"))
}

/// A column of the key, by its name on one side.
pub(super) fn name_on(side: Side, column: &KeyColumn) -> &str {
    match side {
        Side::Source => &column.name,
        Side::Target => column.name_on_target(),
    }
}

fn key_list(side: Side, plan: &Plan, suffix: &str) -> String {
    let columns = plan
        .key
        .iter()
        .map(|column| format!("{}{suffix}", quote_column(name_on(side, column))));
    columns.collect::<Vec<_>>().join(", ")
}

/// A column of the table called `t`.
pub(super) fn quote_column(name: &str) -> String {
    format!("t.{}", quote_identifier(name))
}
