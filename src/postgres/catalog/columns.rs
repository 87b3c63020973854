//! Reads one side's columns and unique indexes.

use super::fields::Fields;
use super::structure::{self, Structure};
use crate::postgres::connect::Session;
use crate::postgres::error::Result;
use crate::table::CollationDefinition;

/// Types whose OID is below this have the same number and the same binary form on every server.
pub(super) const FIRST_UNPINNED_OID: u32 = 10_000;

/// A column as one side's catalog describes it.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    /// As SQL spells it, with its length: for people.
    pub shown: String,
    /// Quoted and qualified, without its length: for casts.
    pub castable: String,
    /// The type's bare name.
    pub type_name: String,
    pub modifier: i32,
    /// Whether a new row must have a value.
    pub not_null: bool,
    /// Whether every row has one: since version 18 a column can be not null for new rows only.
    pub never_null: bool,
    pub has_default: bool,
    /// Its default, or what it is generated from, as SQL spells it.
    pub expression: Option<String>,
    pub generated: Option<Generated>,
    pub identity: Option<Identity>,
    pub can_binary: bool,
    pub collation: Option<Collation>,
    /// What is behind its type.
    pub structure: Structure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generated {
    Stored,
    Virtual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Always,
    ByDefault,
}

/// How a column's values are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collation {
    /// Quoted and qualified.
    pub name: String,
    /// Whether only equal bytes are equal.
    pub is_deterministic: bool,
    /// Whether values are ordered by their bytes, on every server alike.
    pub is_bytewise: bool,
    /// What it is, whatever it is called.
    pub definition: Option<CollationDefinition>,
}

/// A unique, valid index over columns only.
#[derive(Debug)]
pub(super) struct UniqueIndex {
    pub is_primary: bool,
    /// Whether it refuses a second row at once. Else there may be two within a transaction, and never among committed rows.
    pub is_immediate: bool,
    /// The key columns' names, in the index's order.
    pub columns: Vec<String>,
    /// A btree whose order is that of `ORDER BY`, with the columns' own collations.
    pub is_ordered: bool,
    /// Whether only equal bytes are equal to it, where its columns have collations.
    pub is_deterministic: bool,
}

/// Whether the collation called `co` orders by bytes, on every server alike: not what the C library calls C.UTF-8.
/// Providers: c (the C library), i (ICU), b (PostgreSQL's own, since version 17), d (the database's default).
const IS_BYTEWISE: &str = "CASE co.collprovider
    WHEN 'b' THEN true
    WHEN 'c' THEN co.collcollate IN ('C', 'POSIX')
    WHEN 'd' THEN (SELECT CASE coalesce(pg_catalog.to_jsonb(db) ->> 'datlocprovider', 'c')
                              WHEN 'b' THEN true WHEN 'c' THEN db.datcollate IN ('C', 'POSIX') ELSE false END
                   FROM pg_catalog.pg_database db WHERE db.datname = pg_catalog.current_database())
    ELSE false END";

/// The first version in which a database's own collation has a version.
const VERSIONED_DATABASES: u32 = 150_000;

/// What the collation called `co` is, as JSON. Columns that only some versions have are asked for by their names in JSON.
fn definition_sql(server_version: u32) -> String {
    let of_database = match server_version >= VERSIONED_DATABASES {
        true => "pg_catalog.pg_database_collation_actual_version(db.oid)",
        false => "NULL",
    };
    format!(
        "(SELECT pg_catalog.json_build_object('provider', x.provider, 'locale', x.locale, 'rules', coalesce(x.rules, ''),
                     'deterministic', co.collisdeterministic, 'version', x.version, 'actual_version', x.actual)
          FROM (SELECT co.collprovider::pg_catalog.text, coalesce(j ->> 'colllocale', j ->> 'colliculocale', j ->> 'collcollate'),
                       j ->> 'collicurules', j ->> 'collversion', pg_catalog.pg_collation_actual_version(co.oid)
                FROM pg_catalog.to_jsonb(co) AS t(j) WHERE co.collprovider <> 'd'
                UNION ALL
                SELECT coalesce(j ->> 'datlocprovider', 'c'),
                       CASE coalesce(j ->> 'datlocprovider', 'c') WHEN 'c' THEN j ->> 'datcollate'
                           ELSE coalesce(j ->> 'datlocale', j ->> 'daticulocale') END,
                       j ->> 'daticurules', j ->> 'datcollversion', {of_database}
                FROM pg_catalog.pg_database db, LATERAL pg_catalog.to_jsonb(db) AS t(j)
                WHERE co.collprovider = 'd' AND db.datname = pg_catalog.current_database()
               ) x(provider, locale, rules, version, actual))"
    )
}

pub(super) async fn read_columns(session: &Session, what: &str, table: u32) -> Result<Vec<Attribute>> {
    let sql = format!(
        "SELECT a.attnum, a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),
                CASE WHEN tn.nspname = 'pg_catalog' THEN pg_catalog.format_type(a.atttypid, -1)
                     ELSE pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname) END,
                t.typname, a.atttypmod, a.attnotnull OR t.typnotnull,
                a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint n
                    WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated AND a.attnum = ANY (n.conkey)),
                a.atthasdef OR t.typdefault IS NOT NULL,
                (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
                 WHERE a.atthasdef AND d.adrelid = a.attrelid AND d.adnum = a.attnum),
                a.attgenerated, a.attidentity, t.typsend <> 0 AND t.typreceive <> 0,
                pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname),
                co.collisdeterministic, {IS_BYTEWISE}, {}
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
         LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
         LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
         WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        definition_sql(session.server_version())
    );
    let types = structure::read(session, what, table, &[]).await?;
    let rows = session.rows(what, &sql).await?;
    let attributes = rows.into_iter().map(Fields::of).map(|mut row| {
        let mut attribute = attribute(&mut row);
        attribute.structure = types.of(session.side(), &attribute)?;
        Ok(attribute)
    });
    attributes.collect()
}

fn attribute(row: &mut Fields) -> Attribute {
    Attribute {
        number: row.number(),
        name: row.text(),
        type_oid: row.number(),
        shown: row.text(),
        castable: row.text(),
        type_name: row.text(),
        modifier: row.number(),
        not_null: row.flag(),
        never_null: row.flag(),
        has_default: row.flag(),
        expression: row.optional(),
        generated: match row.letter() {
            's' => Some(Generated::Stored),
            'v' => Some(Generated::Virtual),
            _ => None,
        },
        identity: match row.letter() {
            'a' => Some(Identity::Always),
            'd' => Some(Identity::ByDefault),
            _ => None,
        },
        can_binary: row.flag(),
        collation: row.optional().map(|name| Collation {
            name,
            is_deterministic: row.flag(),
            is_bytewise: row.flag(),
            definition: row.json(),
        }),
        structure: Structure::Composite(Vec::new()),
    }
}

pub(super) async fn read_indexes(session: &Session, what: &str, table: u32) -> Result<Vec<UniqueIndex>> {
    // One row a column; the primary key first, then the index of fewest columns, then the oldest.
    let sql = format!(
        "SELECT i.indexrelid, i.indisprimary, i.indimmediate, a.attname,
                am.amname = 'btree' AND o.opcdefault AND i.indoption[k.n] = 0 AND i.indcollation[k.n] = a.attcollation,
                coalesce(co.collisdeterministic, true)
         FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am am ON am.oid = c.relam
         CROSS JOIN LATERAL pg_catalog.generate_series(0, i.indnkeyatts - 1) AS k(n)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
         JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[k.n]
         LEFT JOIN pg_catalog.pg_collation co ON co.oid = i.indcollation[k.n]
         WHERE i.indrelid = {table} AND i.indisunique AND i.indisvalid AND i.indisready
           AND i.indpred IS NULL AND i.indexprs IS NULL
         ORDER BY NOT i.indisprimary, i.indnkeyatts, i.indexrelid, k.n"
    );
    let mut indexes: Vec<(u32, UniqueIndex)> = Vec::new();
    for row in session.rows(what, &sql).await? {
        let mut row = Fields::of(row);
        let (id, is_primary, is_immediate): (u32, _, _) = (row.number(), row.flag(), row.flag());
        let column = row.text();
        let (is_ordered, is_deterministic) = (row.flag(), row.flag());
        match indexes.last_mut() {
            Some((last, index)) if *last == id => {
                index.columns.push(column);
                index.is_ordered &= is_ordered;
                index.is_deterministic &= is_deterministic;
            }
            _ => indexes.push((
                id,
                UniqueIndex {
                    is_primary,
                    is_immediate,
                    columns: vec![column],
                    is_ordered,
                    is_deterministic,
                },
            )),
        }
    }
    Ok(indexes.into_iter().map(|(_, index)| index).collect())
}
