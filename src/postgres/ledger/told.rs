//! What of that which a run was told the ledger still has, after a take-over: from there on the new epoch guards it.

use super::of_table;
use crate::postgres::connect::Session;
use crate::postgres::error::Result;
use crate::table::{Plan, TableSpec};

/// What the ledger still has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The epoch under which the run took the table over: all that it was told before is there too.
    pub epoch: bool,
    /// Those of the batches that were asked for.
    pub batches: Vec<u64>,
    /// Whether it was noted since that epoch that nothing of the table is settled.
    pub is_unsettled: bool,
}

/// Asks the ledger for an epoch of before and for batches. Reads only.
///
/// # Errors
/// What goes wrong in asking.
pub async fn told(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    batches: &[u64],
) -> Result<Told> {
    let what = format!("read job {} in the target's ledger", spec.job);
    let mine = of_table(spec, plan);
    let numbers: Vec<_> = batches.iter().map(ToString::to_string).collect();
    let asked = match numbers.is_empty() {
        true => String::new(),
        false => format!(
            "UNION ALL SELECT batch, NULL, NULL FROM longhaul.batches WHERE {mine} AND batch IN ({})",
            numbers.join(", ")
        ),
    };
    let sql = format!(
        "SELECT NULL::bigint, coalesce(plan -> 'epochs' @> '[{epoch}]', false),
                coalesce((plan ->> 'unsettled_at')::bigint > {epoch}, false)
         FROM longhaul.tables WHERE {mine} {asked}"
    );
    let mut told = Told::default();
    for row in target.rows(&what, &sql).await? {
        let field = |number: usize| row.get(number).and_then(Option::as_deref);
        match field(0) {
            Some(batch) => told.batches.extend(batch.parse::<u64>()),
            None => (told.epoch, told.is_unsettled) = (field(1) == Some("t"), field(2) == Some("t")),
        }
    }
    Ok(told)
}
