//! Partitions of the source that were not there when the job last looked: one that was detached meanwhile, and attached again,
//! has rows where the job has come by without them.

use super::{of_table, take_over::table_numbers};
use crate::postgres::connect::Session;
use crate::postgres::cursor::where_range;
use crate::postgres::error::{Kind, Result, Side};
use crate::table::{Key, KeyRange, Plan, TableSpec};

/// Those of the partitions that `earlier` did not have and that have a row up to `end`, by their names. One look by the index
/// each.
pub(super) async fn passed_by(
    source: &Session,
    plan: &Plan,
    earlier: &Plan,
    end: &Key,
) -> Result<Vec<String>> {
    let before = table_numbers(&earlier.source_files);
    let mut new = table_numbers(&plan.source_files);
    new.retain(|number| !before.contains(number));
    // Rows that are gone over where they lie have no order in which one comes by.
    if !plan.source_is_partitioned || plan.key_basis.is_places() || before.is_empty() || new.is_empty() {
        return Ok(Vec::new());
    }
    let what = format!("look at the partitions of source table {}", plan.source);
    let sql = format!(
        "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid IN ({}) AND c.relkind IN ('r', 'f')",
        new.join(", ")
    );
    let range = KeyRange {
        low: None,
        high: end.clone(),
    };
    let condition = where_range(Side::Source, plan, &range);
    let mut passed = Vec::new();
    for name in source.rows(&what, &sql).await?.into_iter().flatten().flatten() {
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {name} AS t{condition})");
        let has_rows = match source.row(&what, &sql).await {
            Ok(row) => row.first().and_then(Option::as_deref) == Some("t"),
            // Who may read the table alone cannot tell.
            Err(error) if error.kind() == Kind::Privilege => true,
            Err(error) => return Err(error),
        };
        if has_rows {
            passed.push(name);
        }
    }
    Ok(passed)
}

/// Notes in the ledger that nothing of the table is settled, whatever its key: `{}`, as the start of the table. A job looks
/// again at all that it has until another key is kept there, however often it is begun meanwhile. With it stands the epoch from
/// which on that holds: that of a take-over, or the next one.
///
/// # Errors
/// What goes wrong in writing.
pub async fn unsettle(target: &Session, spec: &TableSpec, plan: &Plan, epoch: Option<u64>) -> Result<()> {
    let epoch = epoch.map_or_else(|| "epoch + 1".to_owned(), |epoch| epoch.to_string());
    let what = format!("write the settled key of job {} to the target's ledger", spec.job);
    let sql = format!(
        "UPDATE longhaul.tables SET settled = '{{}}', plan = pg_catalog.jsonb_set(plan, '{{unsettled_at}}', to_jsonb({epoch})) WHERE {}",
        of_table(spec, plan)
    );
    target.rows(&what, &sql).await.map(drop)
}

/// Whether the ledger says that nothing is settled, and that it must be looked at again from the start.
///
/// # Errors
/// What goes wrong in asking.
pub async fn is_unsettled(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<bool> {
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!(
        "SELECT settled = '{{}}' FROM longhaul.tables WHERE {}",
        of_table(spec, plan)
    );
    let row = target.rows(&what, &sql).await?.pop();
    Ok(row.and_then(|row| row.into_iter().next().flatten()).as_deref() == Some("t"))
}
