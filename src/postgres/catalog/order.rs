//! How one side compares a key's values: by which operators, known by their schema and not by a search path.
//!
//! Whoever may make objects in some schema can make operators there that fit better than PostgreSQL's own. PostgreSQL's own
//! are always meant for its own types, and for enums, arrays, ranges and rows of any; for an extension's type it is those
//! of the type's own index order.

use super::columns::{Attribute, FIRST_UNPINNED_OID};
use super::fields::Fields;
use super::key::literal_type;
use super::table::Relation;
use crate::postgres::connect::Session;
use crate::postgres::cursor::name_on;
use crate::postgres::error::Result;
use crate::table::{KeyColumn, Order};
use std::collections::HashMap;

/// Notes in the key how both sides compare its values.
pub(super) async fn read(
    (source, read): (&Session, &Relation),
    (target, written): (&Session, &Relation),
    key: &mut [KeyColumn],
) -> Result<()> {
    let (here, there) = tokio::try_join!(orders(source, read, key), orders(target, written, key))?;
    for column in key {
        column.source_order = order_of(&here, read, &column.name);
        column.target_order = order_of(&there, written, column.name_on_target());
    }
    Ok(())
}

/// The same of the target alone.
pub(super) async fn read_target(target: &Session, written: &Relation, key: &mut [KeyColumn]) -> Result<()> {
    let there = orders(target, written, key).await?;
    for column in key {
        let type_name = written.column(column.name_on_target()).map(literal_type);
        column.target_type = type_name.filter(|name| *name != column.type_name);
        column.target_order = order_of(&there, written, column.name_on_target());
    }
    Ok(())
}

fn order_of(orders: &HashMap<u32, Order>, table: &Relation, column: &str) -> Option<Order> {
    let oid = table.column(column).and_then(extension_type)?;
    orders.get(&oid).cloned()
}

/// The number of an extension's type, which has an order of its own.
fn extension_type(column: &Attribute) -> Option<u32> {
    column
        .structure
        .base_oid()
        .filter(|oid| *oid >= FIRST_UNPINNED_OID)
}

async fn orders(session: &Session, table: &Relation, key: &[KeyColumn]) -> Result<HashMap<u32, Order>> {
    let names = key.iter().map(|column| name_on(session.side(), column));
    let columns = names.filter_map(|name| table.column(name));
    let types: Vec<_> = columns
        .filter_map(extension_type)
        .map(|oid| oid.to_string())
        .collect();
    if types.is_empty() {
        return Ok(HashMap::new());
    }
    let what = format!("read how {} table {} orders its key", session.side(), table.name);
    let sql = format!(
        "SELECT o.opcintype, pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname),
                pg_catalog.json_agg('OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || p.oprname || ')' ORDER BY a.amopstrategy)
         FROM pg_catalog.pg_opclass o
         JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree'
         JOIN pg_catalog.pg_amop a ON a.amopfamily = o.opcfamily AND a.amoplefttype = o.opcintype
             AND a.amoprighttype = o.opcintype AND a.amoppurpose = 's'
         JOIN pg_catalog.pg_operator p ON p.oid = a.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
         JOIN pg_catalog.pg_type t ON t.oid = o.opcintype JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
         WHERE o.opcdefault AND o.opcintype IN ({}) GROUP BY 1, 2",
        types.join(", ")
    );
    let rows = session.rows(&what, &sql).await?.into_iter().map(Fields::of);
    let orders = rows.filter_map(|mut row| {
        let (oid, type_name) = (row.number(), row.text());
        let operators: Vec<String> = row.json();
        let operators = operators.try_into().ok()?;
        Some((oid, Order { type_name, operators }))
    });
    Ok(orders.collect())
}
