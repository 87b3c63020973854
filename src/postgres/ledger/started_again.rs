//! A table that starts again: what a job has copied of it is taken away, rows and entries in one transaction.

use super::{fenced, in_transaction, lock_until_the_end, of_table, seen, segments};
use crate::postgres::connect::Session;
use crate::postgres::cursor::rows_of;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{Plan, SnapshotHeld, TableSpec};

/// Takes away what the job has copied, if anything, and keeps in which snapshot it is read from now on. Durable when it returns.
///
/// The target was empty when the job began: rows that it did not put there are not touched, nor any other then.
///
/// # Errors
/// `Fenced`; `NotEmpty` where the target has other rows; or what goes wrong in writing.
pub async fn start_again(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    epoch: u64,
    snapshot: &str,
) -> Result<()> {
    let mine = of_table(spec, plan);
    let what = format!(
        "take away what job {} has copied into target table {}",
        spec.job, plan.target
    );
    let held = SnapshotHeld {
        name: snapshot.to_owned(),
        is_over: false,
    };
    in_transaction(target, async || {
        // Batches of before that are in flight end first.
        lock_until_the_end(target, spec, plan).await?;
        let sql = format!("SELECT epoch FROM longhaul.tables WHERE {mine} FOR UPDATE");
        let now = target.rows(&what, &sql).await?.into_iter().flatten().flatten().next();
        if now != Some(epoch.to_string()) {
            return Err(fenced(spec, now.and_then(|now| now.parse().ok())));
        }
        let (tally, _) = segments::read_tally(target, &mine).await?;
        if tally.batches > 0 {
            let rows = rows_of(Side::Target, plan);
            let lock = format!("LOCK TABLE {rows} IN SHARE ROW EXCLUSIVE MODE; SELECT pg_catalog.count(*) FROM {rows}");
            let there = target.row(&what, &lock).await?.into_iter().next().flatten();
            if there != Some(tally.rows.to_string()) {
                return Err(others_rows(spec, plan, there.as_deref().unwrap_or("?"), tally.rows));
            }
            tracing::warn!(
                "job {} starts again, in another snapshot of source table {}: the {} rows that it had copied are taken away from \
                 target table {}",
                spec.job,
                plan.source,
                tally.rows,
                plan.target
            );
            let sql = format!("DELETE FROM {rows}; DELETE FROM longhaul.batches WHERE {mine}");
            target.rows(&what, &sql).await?;
        }
        seen::set_snapshot(target, spec, plan, epoch, &held).await
    })
    .await
}

fn others_rows(spec: &TableSpec, plan: &Plan, there: &str, copied: u64) -> Error {
    let words = format!(
        "job {} would start again, and target table {} has {there} rows, of which the job has put {copied} there",
        spec.job, plan.target
    );
    Error::new(Side::Target, Kind::NotEmpty, words)
        .hinted("empty the target table, and start over: --restart")
}
