//! Rows of both sides, side by side: few at a time, as texts, compared by key and column.

use super::Sides;
use crate::postgres::connect::Session;
use crate::postgres::copy::{filtered, under_path_of_expressions, values_of};
use crate::postgres::cursor::{key_of, key_outputs, lock_of, table_of, where_keys, where_range};
use crate::postgres::error::{Result, Side};
use crate::table::{CopyFormat, Difference, Key, KeyRange, Plan};
use std::collections::BTreeMap;

/// A row's values in text, without those of its key.
type Values = Vec<Option<String>>;
/// By key; the target may have several rows of one, where it has no unique index on it.
type Rows = BTreeMap<Vec<String>, Vec<Values>>;

/// Compares all rows of a range that both sides cut out alike.
pub(super) async fn compare_range(sides: Sides<'_>, range: &KeyRange) -> Result<Vec<Difference>> {
    let condition = |side: Side| where_range(side, sides.plan, range);
    let (here, there) = sides.read(condition).await?;
    Ok(differences(sides.plan, here, there))
}

/// Compares the rows that one side has in a range with those of the same keys on the other. Also gives the rows and bytes of the
/// first.
pub(super) async fn compare_keys(
    sides: Sides<'_>,
    side: Side,
    range: &KeyRange,
) -> Result<((u64, u64), Vec<Difference>)> {
    let (one, other) = match side {
        Side::Source => (sides.source, sides.target),
        Side::Target => (sides.target, sides.source),
    };
    let (found, rows, bytes) = read(one, sides.plan, &where_range(side, sides.plan, range)).await?;
    if found.is_empty() {
        return Ok(((0, 0), Vec::new()));
    }
    sides.meter.pass(rows, bytes).await;
    let keys: Vec<_> = found.keys().cloned().map(Key).collect();
    let condition = where_keys(other.side(), sides.plan, &keys);
    let (others, rows_of_others, bytes_of_others) = read(other, sides.plan, &condition).await?;
    sides.meter.pass(rows_of_others, bytes_of_others).await;
    let (here, there) = match side {
        Side::Source => (found, others),
        Side::Target => (others, found),
    };
    Ok(((rows, bytes), differences(sides.plan, here, there)))
}

/// Compares the rows of some keys.
pub(super) async fn compare_some(sides: Sides<'_>, keys: &[Key]) -> Result<Vec<Difference>> {
    let condition = |side: Side| where_keys(side, sides.plan, keys);
    let (here, there) = sides.read(condition).await?;
    Ok(differences(sides.plan, here, there))
}

/// The key of a row that differs; `None` for a whole range.
pub(super) fn key_of_row(difference: Difference) -> Option<Key> {
    match difference {
        Difference::Missing { key } | Difference::Extra { key } | Difference::Changed { key, .. } => {
            Some(key)
        }
        Difference::Range { .. } => None,
    }
}

impl Sides<'_> {
    /// The rows of both sides that each side's condition takes.
    async fn read(self, condition: impl Fn(Side) -> String) -> Result<(Rows, Rows)> {
        let (here, there) = (condition(Side::Source), condition(Side::Target));
        let ((here, ..), (there, ..)) = tokio::try_join!(
            read(self.source, self.plan, &here),
            read(self.target, self.plan, &there)
        )?;
        Ok((here, there))
    }
}

/// The rows, how many they are, and their bytes as COPY would have sent them, but for what it escapes in text.
async fn read(session: &Session, plan: &Plan, condition: &str) -> Result<(Rows, u64, u64)> {
    let side = session.side();
    let table = match side {
        Side::Source => &plan.source,
        Side::Target => &plan.target,
    };
    let values = values_of(side, &plan.columns);
    // A record has its count of columns in four bytes, where COPY has two, and four more for the type of each.
    let wire = match plan.format {
        CopyFormat::Binary => format!(
            "pg_catalog.octet_length(pg_catalog.record_send(ROW({values}))) - {}",
            2 + 4 * plan.columns.len()
        ),
        CopyFormat::Text => "NULL".to_owned(),
    };
    let sql = format!(
        "SELECT {}, {values}, {wire} FROM {}{}",
        key_outputs(side, plan, "t"),
        table_of(side, plan),
        filtered(side, plan, condition)
    );
    let sql = under_path_of_expressions(side, plan, &sql);
    let what = format!("compare rows of {side} table {table}");
    let rows = session.rows_locked(&what, &lock_of(side, plan), &sql).await?;
    let (mut by_key, number, mut bytes) = (Rows::new(), rows.len() as u64, 0);
    for mut row in rows {
        let mut values = row.split_off(plan.key.len().min(row.len()));
        let wire = values.pop().flatten().and_then(|wire| wire.parse().ok());
        bytes += wire.unwrap_or_else(|| in_text(&values));
        let key = key_of(side, plan, row)?;
        by_key.entry(key.0).or_default().push(values);
    }
    Ok((by_key, number, bytes))
}

/// The bytes of a row in text: each value, or \N, and the tab or the line's end after it.
fn in_text(values: &Values) -> u64 {
    let length = |value: &Option<String>| 1 + value.as_ref().map_or(2, |value| value.len() as u64);
    values.iter().map(length).sum()
}

fn differences(plan: &Plan, here: Rows, mut there: Rows) -> Vec<Difference> {
    let mut found = Vec::new();
    for (key, rows) in here {
        let mut others = there.remove(&key).unwrap_or_default();
        for values in rows {
            // One that is the same, if there is one.
            let same = others.iter().position(|other| *other == values);
            let Some(other) = same.or((!others.is_empty()).then_some(0)) else {
                found.push(Difference::Missing {
                    key: Key(key.clone()),
                });
                continue;
            };
            let other = others.swap_remove(other);
            let pairs = plan.columns.iter().zip(values.iter().zip(&other));
            let columns: Vec<_> = pairs
                .filter(|(_, (one, other))| one != other)
                .map(|(column, _)| column.name.clone())
                .collect();
            if !columns.is_empty() {
                found.push(Difference::Changed {
                    key: Key(key.clone()),
                    columns,
                });
            }
        }
        found.extend(others.iter().map(|_| Difference::Extra {
            key: Key(key.clone()),
        }));
    }
    for (key, rows) in there {
        found.extend(rows.iter().map(|_| Difference::Extra {
            key: Key(key.clone()),
        }));
    }
    found
}
