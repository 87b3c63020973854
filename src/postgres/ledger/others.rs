//! Other jobs that copy into the same table: without a unique index there, nothing but the ledger knows that a row came twice.

use crate::postgres::error::{Error, Kind, Side};
use crate::postgres::identifier::quote_literal;
use crate::table::{Plan, TableSpec};

/// No job has more batches in flight, so that what it has committed last is among so many of its newest numbers.
const NEWEST: u32 = 200;
/// A batch that was on its way when this job found the table empty: its entry is that much older, at most, than this job's.
const ON_ITS_WAY: &str = "1 minute";

/// The name of a job that has copied rows into the same table since this one began; null where there is none, and not asked
/// where the table's own index keeps rows from coming twice.
pub(super) fn other_sql(spec: &TableSpec, plan: &Plan) -> String {
    if plan.target_key_is_unique {
        return "NULL".to_owned();
    }
    // A table that was emptied by TRUNCATE is in other files than those the other job knows.
    format!(
        "(SELECT o.job FROM longhaul.tables o
          WHERE o.target_table = {target} AND o.target_files = {files} AND NOT (o.job = {job} AND o.table_name = {source})
            AND EXISTS (SELECT FROM (SELECT b.rows, b.committed_at FROM longhaul.batches b
                                     WHERE b.job = o.job AND b.table_name = o.table_name ORDER BY b.batch DESC LIMIT {NEWEST}) b
                        WHERE b.rows > 0 AND b.committed_at > (SELECT j.created_at FROM longhaul.jobs j WHERE j.job = {job})
                            - '{ON_ITS_WAY}'::pg_catalog.interval)
          LIMIT 1)",
        target = quote_literal(&plan.target.to_string()),
        files = quote_literal(&plan.target_files),
        job = quote_literal(&spec.job),
        source = quote_literal(&plan.source.to_string()),
    )
}

/// Rows may be there twice.
pub(super) fn shared(spec: &TableSpec, plan: &Plan, other: &str) -> Error {
    let words = format!(
        "job {other} has copied into target table {} since job {} began, and the table has no unique index on the key: rows \
         may be there twice",
        plan.target, spec.job
    );
    Error::new(Side::Target, Kind::NotEmpty, words).hinted(format!(
        "let one job copy into it: cancel the other one, empty the table (TRUNCATE), and start the one over with --restart; a \
         unique index on the target's key ({}) keeps rows from coming twice",
        plan.key_shown()
    ))
}
