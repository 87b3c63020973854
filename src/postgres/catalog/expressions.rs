//! What the source makes of the operator's expressions: their types, how many rows they take, and whether they mean the same
//! whenever they are asked. Nothing of the table is read.
//!
//! They are looked at under the search path that the operator would have, as they will be read. A function that is volatile, or
//! that is about more than its own row, is refused: a batch that is tried again, or a verification, would find other values.

use super::columns::Attribute;
use super::fields::Fields;
use super::structure::{self, Structure};
use super::table::Relation;
use crate::postgres::connect::{Session, TO_PATH_OF_EXPRESSIONS};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_table;
use crate::table::{Expression, Shape};
use serde_json::Value;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Described {
    /// Each selected expression as if it were a column, by the target's column that takes its value.
    pub selections: BTreeMap<String, Attribute>,
    /// How many rows the filter takes, as the source's planner estimates.
    pub rows: Option<u64>,
}

/// Asks the source about all of them. What is wrong with one is a trouble.
///
/// # Errors
/// What goes wrong in asking.
pub(super) async fn describe(
    source: &Session,
    table: &Relation,
    shape: &Shape,
    troubles: &mut Vec<Error>,
) -> Result<Described> {
    let mut described = Described::default();
    // That it may not be read is told already, and nobody could tell more.
    if !table.may_select {
        return Ok(described);
    }
    if let Some(filter) = &shape.filter {
        let flag = "--where".to_owned();
        match rows_of(source, table, &flag, filter).await {
            Ok(rows) => described.rows = rows,
            Err(error) if error.kind() == Kind::InvalidInput => troubles.push(error),
            Err(error) => return Err(error),
        }
    }
    for (column, expression) in &shape.selections.0 {
        let flag = format!("--select {column}");
        match attribute_of(source, table, (&flag, column), expression).await {
            Ok(attribute) => _ = described.selections.insert(column.clone(), attribute),
            Err(error) if error.kind() == Kind::InvalidInput => troubles.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(described)
}

/// The rows that a filter takes, by estimate.
async fn rows_of(source: &Session, table: &Relation, flag: &str, filter: &Expression) -> Result<Option<u64>> {
    let sql = format!("SELECT FROM {} WHERE ({filter})", from(table));
    let plan = explain(source, table, flag, &sql).await?;
    must_be_of_one_row(source, table, flag, filter).await?;
    Ok(plan["Plan Rows"].as_u64())
}

/// An expression as if it were a column.
async fn attribute_of(
    source: &Session,
    table: &Relation,
    (flag, column): (&str, &str),
    expression: &Expression,
) -> Result<Attribute> {
    must_be_of_one_row(source, table, flag, expression).await?;
    let what = about(table, flag);
    let (oid, modifier) = type_of(source, &what, table, expression).await?;
    let sql = format!(
        "SELECT pg_catalog.format_type(t.oid, {modifier}),
                CASE WHEN n.nspname = 'pg_catalog' THEN pg_catalog.format_type(t.oid, -1)
                     ELSE pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) END,
                t.typname, t.typsend <> 0 AND t.typreceive <> 0
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = {oid}"
    );
    let mut row = Fields::of(source.row(&what, &sql).await?);
    let mut attribute = Attribute {
        number: 0,
        name: column.to_owned(),
        type_oid: oid,
        shown: row.text(),
        castable: row.text(),
        type_name: row.text(),
        modifier,
        not_null: false,
        never_null: false,
        has_default: false,
        expression: None,
        generated: None,
        identity: None,
        can_binary: row.flag(),
        collation: None,
        structure: Structure::Composite(Vec::new()),
    };
    let types = structure::read(source, &what, table.oid, &[oid]).await?;
    attribute.structure = types.of(Side::Source, &attribute)?;
    Ok(attribute)
}

/// The type of an expression, by number and modifier, as the server would announce it.
async fn type_of(
    source: &Session,
    what: &str,
    table: &Relation,
    expression: &Expression,
) -> Result<(u32, i32)> {
    let open = source.open();
    let begin = format!("BEGIN READ ONLY; {TO_PATH_OF_EXPRESSIONS}");
    let sql = format!("SELECT ({expression}) FROM {}", from(table));
    let failed = |error: &tokio_postgres::Error| Error::query(Side::Source, format!("cannot {what}"), error);
    let asked = async {
        source.client().batch_execute(&begin).await?;
        source.client().prepare(&sql).await
    };
    let prepared = source.awaited(asked).await;
    let ended = source.awaited(source.client().batch_execute("ROLLBACK")).await;
    let prepared = prepared.map_err(|error| failed(&error))?;
    ended.map_err(|error| failed(&error))?;
    open.ended();
    let column = prepared.columns().first();
    let found = column.map(|column| (column.type_().oid(), column.type_modifier()));
    found.ok_or_else(|| {
        Error::new(
            Side::Source,
            Kind::InvalidInput,
            format!("cannot {what}: it has no value"),
        )
    })
}

/// Refuses what is about other rows as well, gives several, or is another one each time.
async fn must_be_of_one_row(
    source: &Session,
    table: &Relation,
    flag: &str,
    expression: &Expression,
) -> Result<()> {
    // A subquery whose output is volatile is not pulled up, and the condition on it not pushed down.
    let probe = |sql: &str| {
        format!(
            "SELECT FROM (SELECT ({sql}) FROM {}) s(v) WHERE s.v IS DISTINCT FROM NULL",
            from(table)
        )
    };
    let nodes = node_types(&explain(source, table, flag, &probe(expression.sql())).await?);
    let has = |one: &[&str]| nodes.iter().any(|node| one.contains(&node.as_str()));
    let scans = |nodes: &[String]| nodes.iter().filter(|node| *node == "Subquery Scan").count();
    // A view may have some of its own.
    let own = match table.kind {
        'v' => node_types(&explain(source, table, flag, &probe("1")).await?),
        _ => Vec::new(),
    };
    let why = if has(&["ProjectSet"]) {
        "it gives several rows for one"
    } else if table.kind != 'v' && has(&["Aggregate", "WindowAgg", "Group"]) {
        "it is about several rows, which are others in each batch"
    } else if scans(&nodes) > scans(&own) {
        "a function in it is volatile: it may give another value each time"
    } else {
        return Ok(());
    };
    let words = format!("cannot {}", about(table, flag));
    Err(Error::new(Side::Source, Kind::InvalidInput, words)
        .because(why)
        .hinted(
            "an expression gives one value for one row, the same in each batch and each verification; a function that does is \
             marked so: ALTER FUNCTION .. STABLE",
        ))
}

async fn explain(source: &Session, table: &Relation, flag: &str, sql: &str) -> Result<Value> {
    // One message is one transaction, and so is the path.
    let sql = format!("{TO_PATH_OF_EXPRESSIONS}; EXPLAIN (FORMAT JSON) {sql}");
    let rows = source
        .rows(&about(table, flag), &sql)
        .await
        .map_err(of_operator)?;
    let lines: Vec<_> = rows.into_iter().flatten().flatten().collect();
    let plan: Option<Value> = serde_json::from_str(&lines.join("\n")).ok();
    Ok(plan.map_or(Value::Null, |plan| plan[0]["Plan"].clone()))
}

/// What the server finds wrong with it, the operator has typed.
fn of_operator(error: Error) -> Error {
    let is_typed = |state: &str| ["22", "42"].iter().any(|class| state.starts_with(class));
    match error.sqlstate() {
        // No right, or another lock than was wanted, is no mistake in the expression.
        Some("42501") => error,
        Some(state) if is_typed(state) => error
            .of_kind(Kind::InvalidInput)
            .hinted("columns are written by their bare names, functions as in a session of your own"),
        _ => error,
    }
}

/// What the plan's nodes are, those of subqueries left out.
fn node_types(plan: &Value) -> Vec<String> {
    let own = plan["Node Type"].as_str().map(str::to_owned);
    let children = plan["Plans"].as_array().into_iter().flatten();
    let children = children.filter(|child| {
        let relation = child["Parent Relationship"].as_str().unwrap_or_default();
        !matches!(relation, "SubPlan" | "InitPlan")
    });
    own.into_iter().chain(children.flat_map(node_types)).collect()
}

fn about(table: &Relation, flag: &str) -> String {
    format!("use the expression of {flag} on source table {}", table.name)
}

fn from(table: &Relation) -> String {
    let only = if table.kind == 'r' { "ONLY " } else { "" };
    format!("{only}{} AS t", quote_table(&table.name))
}
