//! Looks at a table on both sides, before any row moves, and decides how it is copied, or says why it cannot be.
//!
//! A pure read of both catalogs. Everything that would fail at the millionth row and can be known now is an error here:
//! missing tables, columns and rights, types that differ, values that would be cut, a missing key, one and the same table
//! on both sides.

mod compare;
mod key;
mod table;

use super::connect::Session;
use super::error::{Error, Kind, Result, Side};
use super::identifier::quote_table;
use crate::table::{OnConflict, SourceIdentity, TableName, TablePlan};
use table::{Relation, ServerIdentity};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExamineRequest {
    /// The table on the source, its schema optional.
    pub source_table: TableName,
    /// The table on the target, its schema optional.
    pub target_table: TableName,
    /// What happens to a row whose key is on the target already.
    pub on_conflict: OnConflict,
}

/// Decides how the table is copied. Reads only; repeatable.
///
/// # Errors
/// The first reason why it cannot be copied, with a hint; or what goes wrong in reading the catalogs.
pub async fn examine(source: &Session, target: &Session, request: &ExamineRequest) -> Result<TablePlan> {
    let (read, written) = tokio::join!(
        table::read(source, &request.source_table),
        table::read(target, &request.target_table)
    );
    let (read, written) = (read?, written?);
    let (from, to) = tokio::join!(table::read_identity(source), table::read_identity(target));
    let (from, to) = (from?, to?);
    check_not_same(&read, &written, &from, &to)?;
    check_rights(&read, &written, &to, request.on_conflict)?;
    let columns = compare::columns_to_copy(&read, &written)?;
    let key = key::choose(&read)?;
    key::check_on_target(&written, &columns, &key.columns)?;
    let target_key_is_unique = written.has_unique_index_on(&key.columns);
    if request.on_conflict != OnConflict::Error && !target_key_is_unique {
        let names: Vec<_> = key.columns.iter().map(|column| column.name.as_str()).collect();
        return Err(Error::new(
            Side::Target,
            Kind::Unsupported,
            format!(
                "target table {} has no unique index on exactly {}",
                written.name,
                names.join(", ")
            ),
        )
        .hinted("add that index to the target table: it is how --on-conflict finds the row"));
    }
    let format = compare::format(&read, &written, &columns);
    Ok(TablePlan {
        warnings: compare::warnings(&read, &written, target_key_is_unique, &key),
        source_identity: SourceIdentity {
            system_identifier: from.system_identifier,
            database: from.database,
        },
        format,
        columns,
        key_ascends: key.ascends,
        key: key.columns,
        on_conflict: request.on_conflict,
        target_key_is_unique,
        source_is_partitioned: read.kind == 'p',
        source_is_standby: from.is_standby,
        rows_estimate: read.rows_estimate,
        bytes_estimate: read.bytes_estimate,
        source: read.name,
        target: written.name,
    })
}

/// Whether the target table has no row.
///
/// # Errors
/// What goes wrong in asking.
pub async fn target_is_empty(target: &Session, plan: &TablePlan) -> Result<bool> {
    let sql = format!("SELECT 1 FROM {} LIMIT 1", quote_table(&plan.target));
    let rows = target
        .rows(&format!("look for rows in target table {}", plan.target), &sql)
        .await?;
    Ok(rows.is_empty())
}

fn check_not_same(
    read: &Relation,
    written: &Relation,
    from: &ServerIdentity,
    to: &ServerIdentity,
) -> Result<()> {
    if read.oid != written.oid || from.database_oid != to.database_oid || !from.is_same_server(to) {
        return Ok(());
    }
    Err(Error::new(
        Side::Target,
        Kind::SameTable,
        format!(
            "source and target are the same table, {} in database {}",
            read.name, from.database
        ),
    ))
}

fn check_rights(
    read: &Relation,
    written: &Relation,
    to: &ServerIdentity,
    on_conflict: OnConflict,
) -> Result<()> {
    let missing = |side: Side, right: &str, on: String| {
        let hint = format!("GRANT {right} ON {on} TO the user that connects to the {side}");
        Err(Error::new(
            side,
            Kind::Privilege,
            format!("the {side}'s user lacks {right} on {on}"),
        )
        .hinted(hint))
    };
    if !read.may_select {
        return missing(Side::Source, "SELECT", format!("table {}", read.name));
    }
    if !written.may_select {
        return missing(Side::Target, "SELECT", format!("table {}", written.name));
    }
    if !written.may_insert {
        return missing(Side::Target, "INSERT", format!("table {}", written.name));
    }
    if on_conflict == OnConflict::Update && !written.may_update {
        return missing(Side::Target, "UPDATE", format!("table {}", written.name));
    }
    if on_conflict != OnConflict::Error && !to.may_create_temporary {
        return missing(Side::Target, "TEMPORARY", format!("database {}", to.database));
    }
    for (relation, side) in [(read, Side::Source), (written, Side::Target)] {
        if relation.row_security_hides {
            return Err(Error::new(
                side,
                Kind::Privilege,
                format!(
                    "row security on {side} table {} hides rows from this user",
                    relation.name
                ),
            )
            .hinted("connect as the table's owner or as a role with BYPASSRLS, so that no row is missed"));
        }
    }
    Ok(())
}
