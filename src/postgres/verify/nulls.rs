//! Rows of the target with a null in their key: in no range, equal to nothing, and so seen by no comparison.
//!
//! No row of the source is like that. The target may have some where nothing forbids it, a unique index no more than none.

use crate::postgres::connect::Session;
use crate::postgres::cursor::{lock_of, quote_column, rows_of, table_of};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_literal, quote_table};
use crate::table::Plan;

/// That the target has no row with a null in its key. Counts only where a column of the key can be null there.
///
/// # Errors
/// `Unsupported`, with their number and the statement that deletes them; or what goes wrong in asking.
pub async fn refuse_null_keys(target: &Session, plan: &Plan) -> Result<()> {
    let columns = columns_that_can_be_null(target, plan).await?;
    if columns.is_empty() {
        return Ok(());
    }
    let any = |quote: fn(&str) -> String, operator: &str| {
        let parts = columns
            .iter()
            .map(|column| format!("{} {operator} NULL", quote(column)));
        parts.collect::<Vec<_>>().join(" OR ")
    };
    // IS NULL would also be true of a row's type whose fields are null.
    let sql = format!(
        "SELECT pg_catalog.count(*) FROM {} WHERE {}",
        table_of(Side::Target, plan),
        any(quote_column, "IS NOT DISTINCT FROM")
    );
    let what = format!("count rows of target table {}", plan.target);
    let rows = target
        .rows_locked(&what, &lock_of(Side::Target, plan), &sql)
        .await?;
    let count = rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next().flatten());
    let words = match count.as_deref() {
        None | Some("0") => return Ok(()),
        Some("1") => "1 row".to_owned(),
        Some(count) => format!("{count} rows"),
    };
    let words = format!(
        "{words} of target table {} with a null in the key ({}): no row of the source can be like that, and none can be compared",
        plan.target,
        columns.join(", ")
    );
    Err(Error::new(Side::Target, Kind::Unsupported, words).hinted(format!(
        "delete them on the target: DELETE FROM {} WHERE {}",
        rows_of(Side::Target, plan),
        any(quote_identifier, "IS")
    )))
}

async fn columns_that_can_be_null(target: &Session, plan: &Plan) -> Result<Vec<String>> {
    let names = plan
        .key
        .iter()
        .map(|column| quote_literal(column.name_on_target()));
    // Since version 18 a column can be not null for new rows only.
    let sql = format!(
        "SELECT a.attname FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = pg_catalog.to_regclass({}) AND a.attnum > 0 AND a.attname IN ({})
           AND (NOT a.attnotnull OR EXISTS (SELECT FROM pg_catalog.pg_constraint n
                WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)))",
        quote_literal(&quote_table(&plan.target)),
        names.collect::<Vec<_>>().join(", ")
    );
    let what = format!("read the columns of target table {}", plan.target);
    let rows = target.rows(&what, &sql).await?;
    let found: Vec<_> = rows
        .into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .collect();
    let key = plan.key.iter().map(|column| column.name_on_target().to_owned());
    Ok(key.filter(|name| found.contains(name)).collect())
}
