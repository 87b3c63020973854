//! Looks at a table on both sides, before any row moves, and decides how it is copied, or says why it cannot be.
//!
//! A pure read of both catalogs. Everything that would fail at the millionth row and can be known now is an error here:
//! missing tables, columns and rights, types that differ, values that would be cut, a missing key, triggers that change
//! rows, one and the same table on both sides. What was read belongs to a digest, which every batch compares.

mod columns;
mod compare;
mod digest;
mod fields;
mod growth;
mod key;
mod order;
mod server;
mod structure;
mod table;
mod triggers;

use super::connect::Session;
use super::cursor::rows_of;
use super::error::{Error, Kind, Result, Side};
use super::words::plain;
use crate::table::{DatabaseIdentity, OnConflict, Plan, PlanDigest, TableName, TableSpec};
use server::ServerIdentity;
use table::Relation;

pub(super) use digest::{digest_sql, files_sql};
pub use growth::check_sequence;

/// How often both catalogs are read before tables that change all the time are left alone for now.
const ATTEMPTS: u32 = 5;

/// Decides how the table is copied. Reads only; repeatable.
///
/// The plan's digest belongs to what was read: both sides had it before the catalogs were read, and after.
///
/// # Errors
/// The first reason why it cannot be copied, with a hint; or what goes wrong in reading the catalogs.
pub async fn examine(source: &Session, target: &Session, spec: &TableSpec) -> Result<Plan> {
    let (read, written) = tokio::join!(
        table::resolve(source, &spec.source_table),
        table::resolve(target, &spec.target_table)
    );
    let (read, written) = (read?, written?);
    let mut before = read_state(source, target, &read, &written).await?;
    for _ in 0..ATTEMPTS {
        let decided = decide(source, target, spec, (&read, &written)).await;
        let after = read_state(source, target, &read, &written).await?;
        if before == after {
            return Ok(Plan {
                digest: after.digest,
                source_files: after.source_files,
                target_files: after.target_files,
                ..decided?
            });
        }
        before = after;
    }
    Err(Error::new(
        Side::Source,
        Kind::Transient,
        format!("source table {read} or target table {written} changed each time while its catalog was read"),
    ))
}

/// Both tables as they are at a moment.
#[derive(PartialEq, Eq)]
struct State {
    digest: PlanDigest,
    source_files: String,
    target_files: String,
}

async fn read_state(
    source: &Session,
    target: &Session,
    read: &TableName,
    written: &TableName,
) -> Result<State> {
    let ask = async |session: &Session, table: &TableName| {
        let what = format!("read how {} table {table} is", session.side());
        let sql = format!("{}; {}", digest_sql(table), files_sql(table));
        let rows = session.rows(&what, &sql).await?;
        let mut texts = rows.into_iter().map(|row| row.into_iter().next().flatten());
        match (texts.next().flatten(), texts.next().flatten()) {
            (Some(digest), Some(files)) => Ok((digest, files)),
            _ => Err(Error::new(
                session.side(),
                Kind::UndefinedObject,
                format!("table {table} does not exist on the {} any more", session.side()),
            )),
        }
    };
    let (from, to) = tokio::join!(ask(source, read), ask(target, written));
    let ((source_digest, source_files), (target_digest, target_files)) = (from?, to?);
    Ok(State {
        digest: PlanDigest {
            source: source_digest,
            target: target_digest,
        },
        source_files,
        target_files,
    })
}

/// A plan without digest and files.
async fn decide(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    (source_name, target_name): (&TableName, &TableName),
) -> Result<Plan> {
    let (read, written) = tokio::join!(table::read(source, source_name), table::read(target, target_name));
    let (read, written) = (read?, written?);
    let (from, to) = tokio::join!(server::read_identity(source), server::read_identity(target));
    let (from, to) = (from?, to?);
    check_not_same(&read, &written, &from, &to)?;
    check_rights(&read, &written, &to, spec.on_conflict)?;
    table::refuse_foreign_partitions(target, &written).await?;
    let columns = compare::columns_to_copy(&read, &written)?;
    compare::check_money(&read, &columns, &from, &to)?;
    let mut key = key::choose(&read, &written)?;
    order::read((source, &read), (target, &written), &mut key).await?;
    key::check_on_target(&written, &columns, &key)?;
    compare::check_updates(&written, &columns, &key, spec.on_conflict)?;
    let target_key_is_unique = written.unique_indexes_on(&key).next().is_some();
    if spec.on_conflict != OnConflict::Error && !target_key_is_unique {
        let names: Vec<_> = key.iter().map(|column| column.name.as_str()).collect();
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
    let reactions = triggers::read(target, &written, spec.on_conflict).await?;
    reactions.check(&written, spec.on_conflict, spec.fire_triggers)?;
    let mut warnings = reactions.warnings(&written);
    warnings.extend(compare::warnings(&read, &written, &columns, target_key_is_unique));
    Ok(Plan {
        growth: growth::read(source, &read, &key).await?,
        same_order: key::same_order(&read, &written, &key, from.encoding == to.encoding),
        source_identity: DatabaseIdentity {
            system_identifier: from.system_identifier,
            database: from.database,
        },
        digest: PlanDigest::default(),
        source_files: String::new(),
        target_files: String::new(),
        format: compare::format(&read, &written, &columns),
        columns,
        key,
        on_conflict: spec.on_conflict,
        target_key_is_unique,
        source_is_partitioned: read.kind == 'p',
        target_is_partitioned: written.kind == 'p',
        source_is_standby: from.is_standby,
        target_fires_triggers: reactions.fires(),
        rows_estimate: read.rows_estimate,
        bytes_estimate: read.bytes_estimate,
        warnings: warnings.iter().map(|warning| plain(warning)).collect(),
        source: read.name,
        target: written.name,
    })
}

/// Which database a session is connected to.
///
/// # Errors
/// What goes wrong in asking.
pub async fn identify(session: &Session) -> Result<DatabaseIdentity> {
    let found = server::read_identity(session).await?;
    Ok(DatabaseIdentity {
        system_identifier: found.system_identifier,
        database: found.database,
    })
}

/// The plan with the order of the target's key as it is now: of a plan from long ago, or of types that moved since.
pub(super) async fn with_order_of_target(target: &Session, plan: Plan) -> Result<Plan> {
    let written = table::read(target, &plan.target).await?;
    let mut key = plan.key;
    order::read_target(target, &written, &mut key).await?;
    Ok(Plan { key, ..plan })
}

/// That temporary tables can be made on the target: by way of them a sync finds out which rows are missing.
///
/// # Errors
/// `Privilege`; or what goes wrong in asking.
pub(super) async fn check_temporary(target: &Session) -> Result<()> {
    let to = server::read_identity(target).await?;
    if to.may_create_temporary {
        return Ok(());
    }
    Err(lacks(
        Side::Target,
        "TEMPORARY",
        &format!("database {}", to.database),
    ))
}

/// Whether the target table has no row.
///
/// # Errors
/// What goes wrong in asking.
pub async fn target_is_empty(target: &Session, plan: &Plan) -> Result<bool> {
    let sql = format!("SELECT 1 FROM {} LIMIT 1", rows_of(Side::Target, plan));
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

fn lacks(side: Side, right: &str, on: &str) -> Error {
    let hint = format!("GRANT {right} ON {on} TO the user that connects to the {side}");
    Error::new(
        side,
        Kind::Privilege,
        format!("the {side}'s user lacks {right} on {on}"),
    )
    .hinted(hint)
}

fn check_rights(
    read: &Relation,
    written: &Relation,
    to: &ServerIdentity,
    on_conflict: OnConflict,
) -> Result<()> {
    let missing = |side: Side, right: &str, on: String| Err(lacks(side, right, &on));
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
