//! What was seen of a source, kept beside the cursor it is of: fields of the plan's JSON, which no layout needs to know.

use super::{fenced, of_table};
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_literal;
use crate::table::{Plan, SnapshotHeld, SourceClock, SourceSeen, StillSince, TableSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the job has seen of its source; `None` where the ledger does not know it, or an earlier version wrote it.
///
/// # Errors
/// `Ledger` where it cannot be read; or what goes wrong in asking.
pub async fn source_seen(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<SourceSeen>> {
    read_field(target, spec, plan, "source_seen").await
}

/// What the source's clock showed when the settled key of the ledger was settled; `None` where that is not known.
///
/// # Errors
/// As [`source_seen`].
pub async fn source_clock(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<SourceClock>> {
    read_field(target, spec, plan, "source_clock").await
}

/// Since when nobody may have written to the source; `None` where its rows have keys.
///
/// # Errors
/// As [`source_seen`].
pub async fn still_since(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<StillSince>> {
    read_field(target, spec, plan, "still_since").await
}

/// The snapshot in which the source's rows were read last; `None` where they were not read in one.
///
/// # Errors
/// As [`source_seen`].
pub async fn snapshot(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<SnapshotHeld>> {
    read_field(target, spec, plan, "snapshot").await
}

/// Keeps the snapshot in which the source's rows are read. Idempotent.
///
/// # Errors
/// As [`set_source_seen`].
pub async fn set_snapshot(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    held: &SnapshotHeld,
) -> Result<()> {
    write_field(target, spec, plan, epoch, "snapshot", held).await
}

async fn read_field<T: DeserializeOwned>(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    field: &str,
) -> Result<Option<T>> {
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!(
        "SELECT pg_catalog.jsonb_extract_path(plan, '{field}') FROM longhaul.tables WHERE {}",
        of_table(spec, plan)
    );
    let row = target.rows(&what, &sql).await?.pop();
    let Some(text) = row.and_then(|row| row.into_iter().next().flatten()) else {
        return Ok(None);
    };
    serde_json::from_str(&text).map(Some).map_err(|_| {
        Error::new(Side::Target, Kind::Ledger, format!("cannot {what}"))
            .because("what it has seen of its source cannot be read")
    })
}

/// Keeps what the job has seen of its source. Idempotent.
///
/// # Errors
/// `Fenced` where a later run has taken over.
pub async fn set_source_seen(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    seen: &SourceSeen,
) -> Result<()> {
    write_field(target, spec, plan, epoch, "source_seen", seen).await
}

/// Keeps since when nobody may write to the source. Idempotent.
///
/// # Errors
/// As [`set_source_seen`].
pub async fn set_still_since(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    since: StillSince,
) -> Result<()> {
    write_field(target, spec, plan, epoch, "still_since", &since).await
}

async fn write_field<T: Serialize>(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    field: &str,
    value: &T,
) -> Result<()> {
    let what = format!("write job {} to the target's ledger", spec.job);
    let written = serde_json::to_string(value).map_err(|error| {
        Error::new(Side::Target, Kind::Ledger, format!("cannot {what}")).because(error.to_string())
    })?;
    let sql = format!(
        "UPDATE longhaul.tables SET plan = pg_catalog.jsonb_set(plan, '{{{field}}}', {}), updated_at = now()
         WHERE {} AND epoch = {epoch} RETURNING 1",
        quote_literal(&written),
        of_table(spec, plan)
    );
    match target.rows(&what, &sql).await?.len() {
        1 => Ok(()),
        _ => Err(fenced(spec, None)),
    }
}
