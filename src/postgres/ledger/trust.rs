//! Whether the ledger is ours: whoever owns a table decides what runs when a row is written to it, as the one who writes.
//!
//! A schema called `longhaul` can be made by anybody who may make schemas. It is trusted only if it and its tables belong
//! to this very user, to a superuser (who needs no trap), or to the role that the operator names, and if nothing is in them
//! that is not ours: no trigger, rule, constraint, default, index expression or column.

use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_literal;

/// Every column of the tables, of each layout.
const COLUMNS: &str = "'format.version',
    'jobs.job', 'jobs.source_system', 'jobs.source_database', 'jobs.created_at', 'jobs.updated_at',
    'jobs.source_table', 'jobs.target_table', 'jobs.key_columns', 'jobs.epoch', 'jobs.runs', 'jobs.settled',
    'tables.job', 'tables.table_name', 'tables.target_table', 'tables.key_columns', 'tables.plan', 'tables.target_files',
    'tables.epoch', 'tables.runs', 'tables.settled', 'tables.updated_at',
    'batches.job', 'batches.table_name', 'batches.batch', 'batches.pass', 'batches.format', 'batches.low', 'batches.high',
    'batches.low_hash', 'batches.rows', 'batches.rows_written', 'batches.bytes', 'batches.checksum', 'batches.committed_at'";

/// What in the schema is not as we make it, a row each: whether it is about an owner, and what in words.
fn strange_sql(owner: Option<&str>) -> String {
    let named = owner.map_or("NULL".to_owned(), quote_literal);
    format!(
        "WITH trusted AS (SELECT r.oid FROM pg_catalog.pg_roles r
             WHERE r.rolsuper OR r.rolname = current_user OR r.rolname = {named}),
         ledger AS (SELECT n.oid, n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'longhaul'),
         ours AS (SELECT c.* FROM pg_catalog.pg_class c JOIN ledger l ON c.relnamespace = l.oid
             WHERE c.relname IN ('format', 'jobs', 'tables', 'batches'))
         SELECT true, 'it belongs to role ' || pg_catalog.pg_get_userbyid(l.nspowner) FROM ledger l
             WHERE l.nspowner NOT IN (SELECT oid FROM trusted)
         UNION ALL
         SELECT true, 'table ' || c.relname || ' belongs to role ' || pg_catalog.pg_get_userbyid(c.relowner) FROM ours c
             WHERE c.relowner NOT IN (SELECT oid FROM trusted)
         UNION ALL
         SELECT false, c.relname || ' is not an ordinary table' FROM ours c
             WHERE c.relkind <> 'r' OR c.relrowsecurity
                OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))
         UNION ALL
         SELECT false, 'table ' || c.relname || ' has trigger ' || t.tgname FROM ours c
             JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid
         UNION ALL
         SELECT false, 'table ' || c.relname || ' has rule ' || r.rulename FROM ours c
             JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid WHERE c.relkind = 'r'
         UNION ALL
         SELECT false, 'table ' || c.relname || ' has constraint ' || k.conname FROM ours c
             JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid WHERE k.contype NOT IN ('p', 'n')
         UNION ALL
         SELECT false, 'table ' || c.relname || ' has index ' || x.relname FROM ours c
             JOIN pg_catalog.pg_index i ON i.indrelid = c.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             WHERE i.indexprs IS NOT NULL OR (i.indpred IS NOT NULL AND x.relname <> 'batches_low')
                OR EXISTS (SELECT FROM pg_catalog.unnest(i.indclass::pg_catalog.oid[]) k(oid)
                           JOIN pg_catalog.pg_opclass o ON o.oid = k.oid
                           WHERE o.opcnamespace <> 'pg_catalog'::pg_catalog.regnamespace)
         UNION ALL
         SELECT false, 'table ' || c.relname || ' has column ' || a.attname || ' of another kind' FROM ours c
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
             WHERE c.relname || '.' || a.attname NOT IN ({COLUMNS})
                OR y.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace OR a.attgenerated <> '' OR a.attidentity <> ''
                OR pg_catalog.pg_get_expr(d.adbin, d.adrelid) NOT IN ('now()', '1')"
    )
}

/// Refuses a ledger that is not ours. One that is not there yet is nobody's.
///
/// # Errors
/// `Ledger`, with what is strange about it; or what goes wrong in asking.
pub(super) async fn check(target: &Session, owner: Option<&str>) -> Result<()> {
    let what = "look whose the ledger (schema longhaul) on the target is";
    let found = target.rows(what, &strange_sql(owner)).await?;
    let Some(first) = found.first() else {
        return Ok(());
    };
    let field = |number: usize| first.get(number).and_then(Option::as_deref).unwrap_or_default();
    let words = format!(
        "the ledger (schema longhaul) on the target is not trusted: {}",
        field(1)
    );
    let error = Error::new(Side::Target, Kind::Ledger, words);
    Err(if field(0) == "t" {
        error.hinted(
            "its owner decides what runs with your rights when it is written to; if you trust that role, name it: \
             --ledger-owner ROLE, here and to each worker; or let an administrator drop the schema",
        )
    } else {
        error.hinted("longhaul did not make that: remove it, or let an administrator drop the schema")
    })
}

/// Whether there is a ledger, and it is ours.
///
/// # Errors
/// `Ledger` where it is not; or what goes wrong in asking.
pub async fn is_trusted(target: &Session, owner: Option<&str>) -> Result<bool> {
    check(target, owner).await?;
    let what = "look for the ledger (schema longhaul) on the target";
    let sql = "SELECT count(*) = 4 FROM pg_catalog.pg_class c WHERE c.relkind = 'r'
                   AND c.relname IN ('format', 'jobs', 'tables', 'batches')
                   AND c.relnamespace = pg_catalog.to_regnamespace('longhaul')";
    let found = target.row(what, sql).await?;
    Ok(found.first().and_then(Option::as_deref) == Some("t"))
}
