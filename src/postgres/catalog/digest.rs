//! How a table is now, as one short text: what a plan is made from has changed where the text is another.
//!
//! One statement without parameters, for the prepared statement of every batch on either side. Types are read from the
//! catalogs' own columns, never as PostgreSQL spells them, so that no setting of a session has a say in it; and each row is
//! looked up by its number, so that the size of the catalogs does not count. Whoever runs it holds a lock on the table.

use super::super::identifier::{quote_literal, quote_table};
use crate::table::TableName;

/// The table itself and all of its partitions, by number; empty where there is no such table.
const TREE: &str = "self(oid) AS MATERIALIZED (
        SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass({table})),
    tree(oid) AS MATERIALIZED (
        SELECT s.oid FROM self s
        UNION SELECT t.relid::pg_catalog.oid FROM self s, LATERAL pg_catalog.pg_partition_tree(s.oid) t)";

/// Of an unlogged table also since when its server has run without a crash, which would have emptied it. A crash of one
/// server process leaves the start time as it is, and always throws the server's statistics away.
const FILES: &str = "SELECT pg_catalog.string_agg(
            (SELECT ROW(c.oid, c.relfilenode, CASE c.relpersistence WHEN 'u' THEN ROW(
                 EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()),
                 EXTRACT(epoch FROM pg_catalog.pg_stat_get_bgwriter_stat_reset_time()))::pg_catalog.text END)::pg_catalog.text
             FROM pg_catalog.pg_class c WHERE c.oid = t.oid), ' ' ORDER BY t.oid)
        FROM tree t";

/// Kind, bounds, row security, triggers and rules of the table and its partitions. What PostgreSQL itself makes for a
/// constraint is no trigger of a user; what it clones for a partition is one, whatever the clone is marked as.
const RELATIONS: &str = "SELECT pg_catalog.string_agg(
            (SELECT ROW(c.oid, c.relkind, c.relpersistence, c.relpartbound, c.relrowsecurity, c.relforcerowsecurity,
                 CASE WHEN c.relhastriggers THEN
                     (SELECT pg_catalog.string_agg(ROW(g.tgname, g.tgtype, g.tgenabled, g.tgfoid)::pg_catalog.text, ' '
                                                   ORDER BY g.tgname)
                      FROM pg_catalog.pg_trigger g
                      WHERE g.tgrelid = c.oid AND (NOT g.tgisinternal OR g.tgconstrindid = '0'::pg_catalog.oid)) END,
                 CASE WHEN c.relhasrules THEN
                     (SELECT pg_catalog.string_agg(ROW(r.rulename, r.ev_type, r.ev_enabled, r.is_instead, r.ev_action)::pg_catalog.text,
                                                   ' ' ORDER BY r.rulename)
                      FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid) END)::pg_catalog.text
             FROM pg_catalog.pg_class c WHERE c.oid = t.oid), ' ' ORDER BY t.oid)
        FROM tree t";

const COLUMNS: &str = "SELECT pg_catalog.string_agg(
            ROW(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attidentity, a.attgenerated,
                CASE WHEN a.atthasdef THEN (SELECT d.adbin FROM pg_catalog.pg_attrdef d
                                            WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END)::pg_catalog.text,
            ' ' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = s.oid AND a.attnum > '0'::pg_catalog.int2 AND NOT a.attisdropped";

/// Since version 18 a column can be not null for new rows only.
const NOT_NULL_FROM_NOW_ON: &str =
    "SELECT pg_catalog.string_agg(n.conkey::pg_catalog.text, ' ' ORDER BY n.conkey)
        FROM pg_catalog.pg_constraint n WHERE n.conrelid = s.oid AND n.contype = 'n' AND NOT n.convalidated";

/// The sequences behind identities and defaults: whether keys grow depends on them.
const SEQUENCES: &str = "SELECT pg_catalog.string_agg(
            (SELECT ROW(q.seqrelid, q.seqincrement, q.seqcache, q.seqcycle)::pg_catalog.text
             FROM pg_catalog.pg_sequence q WHERE q.seqrelid = d.oid), ' ' ORDER BY d.oid)
        FROM (SELECT i.objid FROM pg_catalog.pg_depend i
              WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.refobjid = s.oid
                AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.deptype = 'i'
              UNION
              SELECT n.refobjid FROM pg_catalog.pg_attrdef f, LATERAL
                  (SELECT e.refobjid FROM pg_catalog.pg_depend e
                   WHERE e.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND e.objid = f.oid
                     AND e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.deptype = 'n' OFFSET 0) n
              WHERE f.adrelid = s.oid) d(oid)";

/// The index's own number is left out: it is another after REINDEX CONCURRENTLY.
const UNIQUE_INDEXES: &str = "SELECT pg_catalog.string_agg(x.shown, ' ' ORDER BY x.shown COLLATE pg_catalog.\"C\")
        FROM (SELECT ROW(i.indkey, i.indnkeyatts, i.indclass, i.indoption, i.indcollation, i.indisprimary, i.indimmediate,
                         i.indisvalid, i.indisready, i.indpred, i.indexprs,
                         (SELECT c.relam FROM pg_catalog.pg_class c WHERE c.oid = i.indexrelid))::pg_catalog.text
              FROM pg_catalog.pg_index i WHERE i.indrelid = s.oid AND i.indisunique) x(shown)";

/// What orders the unique indexes: a collation may be made anew under its name, and with another version of a library order
/// in another way. The actual version of a database's default one is told from version 16 on.
const COLLATIONS: &str = "SELECT pg_catalog.string_agg(
            (SELECT ROW(pg_catalog.to_jsonb(co), pg_catalog.pg_collation_actual_version(co.oid),
                 CASE co.collprovider WHEN 'd' THEN
                     (SELECT ROW(db.datcollate, j ->> 'datlocprovider', j ->> 'datlocale', j ->> 'daticulocale', j ->> 'daticurules',
                                 j ->> 'datcollversion')::pg_catalog.text
                      FROM pg_catalog.pg_database db, LATERAL pg_catalog.to_jsonb(db) AS d(j)
                      WHERE db.datname = pg_catalog.current_database()) END)::pg_catalog.text
             FROM pg_catalog.pg_collation co WHERE co.oid = k.oid), ' ' ORDER BY k.oid)
        FROM (SELECT DISTINCT u.oid FROM pg_catalog.pg_index i, LATERAL pg_catalog.unnest(i.indcollation::pg_catalog.oid[]) u(oid)
              WHERE i.indrelid = s.oid AND i.indisunique AND u.oid <> '0'::pg_catalog.oid) k(oid)";

/// Every type behind the columns that is not the same on every server.
const TYPES: &str = "SELECT pg_catalog.string_agg(
            (SELECT ROW(y.oid, y.typname, y.typtype, y.typbasetype, y.typtypmod, y.typnotnull, y.typelem, y.typcollation,
                 CASE y.typtype
                     WHEN 'e' THEN (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ' ' ORDER BY e.enumsortorder)
                                    FROM pg_catalog.pg_enum e WHERE e.enumtypid = y.oid)
                     WHEN 'c' THEN (SELECT pg_catalog.string_agg(ROW(a.attname, a.atttypid, a.atttypmod, a.attcollation)::pg_catalog.text,
                                                                 ' ' ORDER BY a.attnum)
                                    FROM pg_catalog.pg_attribute a
                                    WHERE a.attrelid = y.typrelid AND a.attnum > '0'::pg_catalog.int2 AND NOT a.attisdropped)
                     WHEN 'r' THEN (SELECT ROW(r.rngsubtype, r.rngcollation, r.rngsubopc, r.rngcanonical)::pg_catalog.text
                                    FROM pg_catalog.pg_range r WHERE r.rngtypid = y.oid) END)::pg_catalog.text
             FROM pg_catalog.pg_type y WHERE y.oid = w.oid), ' ' ORDER BY w.oid)
        FROM type w";

/// The types that the types called `w` are made of. A multirange is known by a column that version 14 brought.
pub(super) const PARTS: &str = "LATERAL (
        SELECT y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = w.oid
        UNION ALL SELECT y.typelem FROM pg_catalog.pg_type y WHERE y.oid = w.oid
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = w.oid
        UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_type y, pg_catalog.pg_range r
            WHERE y.oid = w.oid AND y.typtype = 'm'
              AND (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid = y.oid
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_type y, pg_catalog.pg_attribute a
            WHERE y.oid = w.oid AND y.typtype = 'c' AND a.attrelid = y.typrelid
              AND a.attnum > '0'::pg_catalog.int2 AND NOT a.attisdropped) p(oid)";

/// One row, one text: how the table is now; null where there is no such table.
///
/// Its lock should be held, so that what is found holds for as long as the transaction; types of users have no such lock.
pub(in crate::postgres) fn digest_sql(table: &TableName) -> String {
    let tree = tree(table);
    let parts = [
        FILES,
        RELATIONS,
        COLUMNS,
        NOT_NULL_FROM_NOW_ON,
        SEQUENCES,
        UNIQUE_INDEXES,
        COLLATIONS,
        TYPES,
    ]
    .map(|part| format!("({part})"));
    // Types below 10000 are the same on every server, and never change.
    format!(
        "WITH RECURSIVE {tree},
    type(oid) AS (
        SELECT a.atttypid FROM self s, pg_catalog.pg_attribute a
        WHERE a.attrelid = s.oid AND a.attnum > '0'::pg_catalog.int2 AND NOT a.attisdropped
          AND a.atttypid >= '10000'::pg_catalog.oid
        UNION SELECT p.oid FROM type w, {PARTS} WHERE p.oid >= '10000'::pg_catalog.oid)
    SELECT (SELECT {} FROM self s)",
        hash(&format!("ROW({})::pg_catalog.text", parts.join(", ")))
    )
}

/// One row, one text: which files the table and its partitions are in, as `(oid,file,..)` between spaces, in the order of
/// the oids; null where there is no such table.
pub(in crate::postgres) fn files_sql(table: &TableName) -> String {
    format!("WITH {} SELECT ({FILES})", tree(table))
}

fn tree(table: &TableName) -> String {
    TREE.replace("{table}", &quote_literal(&quote_table(table)))
}

/// Not md5: servers that keep to FIPS have none.
fn hash(text: &str) -> String {
    format!(
        "pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({text}, pg_catalog.getdatabaseencoding())), 'hex'), 32)"
    )
}
