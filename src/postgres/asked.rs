//! What of a key no index vouches for, and is asked of the source's rows: that none has a null in it, that no two are alike.
//!
//! Asked before the first row moves and after the last one, so that what appears meanwhile is an error which names it. A row
//! without a key lies in no range: it is not copied, and whoever goes over the ranges does not see it.

use super::connect::Session;
use super::copy::{filtered, under_path_of_expressions};
use super::cursor::{lock_of, quote_column, table_of};
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use crate::table::{KeyBasis, Plan, TableSpec};

/// Asks the source whether the plan's key is one, where its index does not say so. Reads only.
///
/// # Errors
/// `NoKey`, with how many rows lack a key, or that two have the same; or what goes wrong in asking.
pub async fn check_key(source: &Session, plan: &Plan) -> Result<()> {
    let KeyBasis::Rows { nullable, repeatable } = &plan.key_basis else {
        return Ok(());
    };
    if !nullable.is_empty() {
        refuse_nulls(source, plan, nullable).await?;
    }
    if *repeatable {
        refuse_repeated(source, plan).await?;
    }
    Ok(())
}

/// The same for a job that runs: where rows without a key have appeared, the ledger is told that nothing is settled. The next
/// run then looks at all rows again, whatever keys they have got by then.
///
/// # Errors
/// As [`check_key`]; or what goes wrong in writing.
pub async fn check_key_again(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
) -> Result<()> {
    let checked = check_key(source, plan).await;
    if checked.as_ref().is_err_and(|error| error.kind() == Kind::NoKey) {
        ledger::unsettle(target, spec, plan, None).await?;
    }
    checked
}

async fn refuse_nulls(source: &Session, plan: &Plan, nullable: &[String]) -> Result<()> {
    let what = format!("ask source table {} for nulls in its key", plan.source);
    // IS NULL, which an index serves, is also true of a row's type whose fields are null.
    let any = nullable.iter().map(|name| {
        let column = quote_column(name);
        format!("({column} IS NULL AND {column} IS NOT DISTINCT FROM NULL)")
    });
    // Of the rows that are copied: others may be as they are.
    let condition = format!(" WHERE ({})", any.collect::<Vec<_>>().join(" OR "));
    let sql = format!(
        "SELECT pg_catalog.count(*) FROM {}{}",
        table_of(Side::Source, plan),
        filtered(Side::Source, plan, &condition)
    );
    let sql = under_path_of_expressions(Side::Source, plan, &sql);
    let rows = source
        .rows_locked(&what, &lock_of(Side::Source, plan), &sql)
        .await?;
    let count = rows.into_iter().flatten().flatten().next();
    let words = match count.as_deref() {
        None | Some("0") => return Ok(()),
        Some("1") => "1 row".to_owned(),
        Some(count) => format!("{count} rows"),
    };
    let words = format!(
        "{words} of source table {} with a null in the key ({})",
        plan.source,
        plan.key_names()
    );
    Err(Error::new(Side::Source, Kind::NoKey, words).hinted(
        "give them a value, or delete them, and run the same command again; or name another key: --key COLUMNS",
    ))
}

async fn refuse_repeated(source: &Session, plan: &Plan) -> Result<()> {
    let what = format!("ask whether the key of source table {} is unique", plan.source);
    let columns: Vec<_> = plan.key.iter().map(|column| quote_column(&column.name)).collect();
    let sql = format!(
        "SELECT 1 FROM {}{} GROUP BY {} HAVING pg_catalog.count(*) > 1 LIMIT 1",
        table_of(Side::Source, plan),
        filtered(Side::Source, plan, ""),
        columns.join(", ")
    );
    let sql = under_path_of_expressions(Side::Source, plan, &sql);
    let found = source
        .rows_locked(&what, &lock_of(Side::Source, plan), &sql)
        .await;
    let refused = |words: String| Error::new(Side::Source, Kind::NoKey, words);
    match found {
        Ok(rows) if rows.is_empty() => Ok(()),
        Ok(_) => Err(refused(format!(
            "two rows of source table {} have the same key ({})",
            plan.source,
            plan.key_names()
        ))
        .hinted("name columns that tell all of its rows apart: --key a,b")),
        // 42883: such values have no order, or nothing that compares them.
        Err(error) if error.sqlstate() == Some("42883") => Err(refused(format!(
            "the key ({}) of source table {} has a column of a type that has no order",
            plan.key_names(),
            plan.source
        ))
        .hinted("name columns whose values PostgreSQL can sort: --key a,b")),
        Err(error) => Err(error),
    }
}
