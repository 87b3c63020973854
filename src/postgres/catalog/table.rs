//! Reads one side's catalog: the table, its columns, its unique indexes, and which server this is.

use crate::postgres::connect::{Session, TextRow};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_literal, quote_table};
use crate::table::{KeyColumn, TableName};

/// A table as one side's catalog describes it.
#[derive(Debug)]
pub(super) struct Relation {
    pub side: Side,
    pub oid: u32,
    pub name: TableName,
    /// `r` for an ordinary table, `p` for a partitioned one.
    pub kind: char,
    pub is_unlogged: bool,
    pub has_children: bool,
    pub has_row_triggers: bool,
    pub row_security_hides: bool,
    pub may_select: bool,
    pub may_insert: bool,
    pub may_update: bool,
    pub rows_estimate: Option<u64>,
    pub bytes_estimate: Option<u64>,
    pub columns: Vec<Attribute>,
    pub indexes: Vec<UniqueIndex>,
}

/// A column as one side's catalog describes it.
#[derive(Debug)]
pub(super) struct Attribute {
    pub name: String,
    pub type_oid: u32,
    /// As SQL spells it, with its length: for people.
    pub shown: String,
    /// Quoted and qualified, without its length: for casts.
    pub castable: String,
    /// The type's bare name: what types of users are compared by.
    pub type_name: String,
    pub modifier: i32,
    pub not_null: bool,
    pub has_default: bool,
    pub is_generated: bool,
    pub has_identity: bool,
    /// `b` base, `r` range, `e` enum, `d` domain, `c` composite.
    pub type_kind: char,
    pub can_binary: bool,
    pub collation: Option<String>,
    /// Values that one session may take from the column's sequence ahead of their use.
    pub sequence_cache: Option<i64>,
}

/// A unique, valid, immediate index over columns only.
#[derive(Debug)]
pub(super) struct UniqueIndex {
    pub is_primary: bool,
    /// The key columns' names, in the index's order.
    pub columns: Vec<String>,
    /// A btree whose order is that of `ORDER BY`, with the columns' own collations, over not-null columns.
    pub is_ordered: bool,
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Attribute> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(super) fn has_unique_index_on(&self, key: &[KeyColumn]) -> bool {
        self.indexes.iter().any(|index| {
            index.columns.len() == key.len() && key.iter().all(|column| index.columns.contains(&column.name))
        })
    }
}

/// Fields of a row that the catalog always fills.
struct Fields(std::vec::IntoIter<Option<String>>);

impl Fields {
    fn text(&mut self) -> String {
        self.0.next().flatten().unwrap_or_default()
    }

    fn optional(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    fn flag(&mut self) -> bool {
        self.text() == "t"
    }

    fn letter(&mut self) -> char {
        self.text().chars().next().unwrap_or(' ')
    }

    fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.text().parse().unwrap_or_default()
    }
}

fn fields(row: TextRow) -> Fields {
    Fields(row.into_iter())
}

pub(super) async fn read(session: &Session, wanted: &TableName) -> Result<Relation> {
    let side = session.side();
    let what = format!("read the catalog of the {side} about table {wanted}");
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', c.relhassubclass,
                EXISTS (SELECT FROM pg_catalog.pg_trigger t
                        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 5 = 5),
                pg_catalog.row_security_active(c.oid),
                pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.has_table_privilege(c.oid, 'INSERT'),
                pg_catalog.has_table_privilege(c.oid, 'UPDATE'),
                e.rows, e.bytes
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
              LATERAL (SELECT CASE WHEN bool_or(p.reltuples < 0 OR (p.relpages = 0 AND pg_catalog.pg_relation_size(p.oid) > 0))
                                   THEN NULL
                                   ELSE round(sum(p.reltuples::numeric / greatest(p.relpages, 1)
                                       * (pg_catalog.pg_relation_size(p.oid) / pg_catalog.current_setting('block_size')::int))) END AS rows,
                              sum(pg_catalog.pg_relation_size(p.oid)) AS bytes
                       FROM pg_catalog.pg_class p
                       WHERE p.relkind = 'r' AND p.oid IN (SELECT c.oid UNION ALL
                             SELECT t.relid FROM pg_catalog.pg_partition_tree(CASE c.relkind WHEN 'p' THEN c.oid END) t)) e
         WHERE c.oid = pg_catalog.to_regclass({})",
        quote_literal(&quote_table(wanted))
    );
    let Some(row) = session.rows(&what, &sql).await?.pop() else {
        return Err(unknown_table(session, wanted).await?);
    };
    let mut row = fields(row);
    let oid = row.number();
    let name = TableName {
        schema: Some(row.text()),
        name: row.text(),
    };
    let kind = row.letter();
    check_kind(side, &name, kind)?;
    Ok(Relation {
        side,
        oid,
        name,
        kind,
        is_unlogged: row.flag(),
        has_children: row.flag(),
        has_row_triggers: row.flag(),
        row_security_hides: row.flag(),
        may_select: row.flag(),
        may_insert: row.flag(),
        may_update: row.flag(),
        rows_estimate: row.optional().and_then(|text| text.parse().ok()),
        bytes_estimate: row.optional().and_then(|text| text.parse().ok()),
        columns: read_columns(session, &what, oid).await?,
        indexes: read_indexes(session, &what, oid).await?,
    })
}

fn check_kind(side: Side, name: &TableName, kind: char) -> Result<()> {
    let is = match kind {
        'r' | 'p' => return Ok(()),
        'v' => "a view",
        'm' => "a materialized view",
        'f' => "a foreign table",
        'S' => "a sequence",
        'i' | 'I' => "an index",
        'c' => "a composite type",
        _ => "no table",
    };
    Err(Error::new(
        side,
        Kind::NotATable,
        format!("{name} on the {side} is {is}, not a table"),
    ))
}

async fn read_columns(session: &Session, what: &str, oid: u32) -> Result<Vec<Attribute>> {
    let sql = format!(
        "SELECT a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),
                CASE WHEN tn.nspname = 'pg_catalog' THEN pg_catalog.format_type(a.atttypid, -1)
                     ELSE pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(t.typname) END,
                t.typname, a.atttypmod, a.attnotnull, a.atthasdef, a.attgenerated <> '', a.attidentity <> '', t.typtype,
                t.typsend <> 0 AND t.typreceive <> 0,
                (SELECT pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname)
                 FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
                 WHERE co.oid = a.attcollation),
                (SELECT max(s.seqcache) FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
                 WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid
                   AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i'))
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    );
    let rows = session.rows(what, &sql).await?;
    let attributes = rows.into_iter().map(fields).map(|mut row| Attribute {
        name: row.text(),
        type_oid: row.number(),
        shown: row.text(),
        castable: row.text(),
        type_name: row.text(),
        modifier: row.number(),
        not_null: row.flag(),
        has_default: row.flag(),
        is_generated: row.flag(),
        has_identity: row.flag(),
        type_kind: row.letter(),
        can_binary: row.flag(),
        collation: row.optional(),
        sequence_cache: row.optional().and_then(|text| text.parse().ok()),
    });
    Ok(attributes.collect())
}

async fn read_indexes(session: &Session, what: &str, oid: u32) -> Result<Vec<UniqueIndex>> {
    // One row a column; the primary key first, then the index of fewest columns, then the oldest.
    let sql = format!(
        "SELECT i.indexrelid, i.indisprimary, a.attname,
                am.amname = 'btree' AND a.attnotnull AND o.opcdefault AND i.indoption[k.n] = 0
                    AND i.indcollation[k.n] = a.attcollation
         FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am am ON am.oid = c.relam
         CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k(n)
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n]
         JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[k.n]
         WHERE i.indrelid = {oid} AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
           AND i.indpred IS NULL AND i.indexprs IS NULL
         ORDER BY NOT i.indisprimary, i.indnkeyatts, i.indexrelid, k.n"
    );
    let mut indexes: Vec<(u32, UniqueIndex)> = Vec::new();
    for row in session.rows(what, &sql).await? {
        let mut row = fields(row);
        let (id, is_primary, column, ordered): (u32, _, _, _) =
            (row.number(), row.flag(), row.text(), row.flag());
        match indexes.last_mut() {
            Some((last, index)) if *last == id => {
                index.columns.push(column);
                index.is_ordered &= ordered;
            }
            _ => indexes.push((
                id,
                UniqueIndex {
                    is_primary,
                    columns: vec![column],
                    is_ordered: ordered,
                },
            )),
        }
    }
    Ok(indexes.into_iter().map(|(_, index)| index).collect())
}

/// How like two names must be for one to be offered in place of the other.
pub(super) const LIKENESS: f64 = 0.6;

async fn unknown_table(session: &Session, wanted: &TableName) -> Result<Error> {
    let side = session.side();
    let sql = "SELECT n.nspname, c.relname, pg_catalog.pg_table_is_visible(c.oid)
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
                 AND n.nspname NOT IN ('information_schema', 'longhaul')";
    let rows = session
        .rows(&format!("list the tables of the {side}"), sql)
        .await?;
    let candidates = rows.into_iter().map(fields).map(|mut row| {
        let name = TableName {
            schema: Some(row.text()),
            name: row.text(),
        };
        let shown = if row.flag() && wanted.schema.is_none() {
            TableName {
                schema: None,
                name: name.name.clone(),
            }
            .to_string()
        } else {
            name.to_string()
        };
        let mut likeness = strsim::normalized_damerau_levenshtein(&wanted.name, &name.name);
        if wanted.schema.is_some() && wanted.schema != name.schema {
            likeness -= 0.05;
        }
        (likeness, shown)
    });
    let nearest = candidates
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let error = Error::new(
        side,
        Kind::UndefinedObject,
        format!(
            "table {wanted} does not exist on the {side} (database {})",
            session.database()
        ),
    );
    Ok(match (nearest, side) {
        (Some((_, name)), _) => error.hinted(format!("did you mean {name}?")),
        (None, Side::Target) => error.hinted("create it first, with `pg_dump --schema-only` for one"),
        (None, Side::Source) => error,
    })
}

/// Which server and database a session is connected to.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    pub system_identifier: Option<String>,
    pub database: String,
    pub database_oid: u32,
    pub is_standby: bool,
    pub may_create_temporary: bool,
    started_at: String,
    address: String,
}

impl ServerIdentity {
    /// Whether both are one server, or a server and its standby; a clone that was promoted is another server.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        let same_start = self.started_at == other.started_at;
        match (&self.system_identifier, &other.system_identifier) {
            (Some(one), Some(two)) => one == two && (same_start || self.is_standby || other.is_standby),
            _ => same_start && self.address == other.address,
        }
    }
}

pub(super) async fn read_identity(session: &Session) -> Result<ServerIdentity> {
    let what = format!("ask the {} which server it is", session.side());
    let sql = "SELECT pg_catalog.current_database(), d.oid, pg_catalog.pg_is_in_recovery(),
                      pg_catalog.has_database_privilege(d.oid, 'TEMPORARY'),
                      extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text,
                      pg_catalog.concat(pg_catalog.inet_server_addr(), ':', pg_catalog.inet_server_port()),
                      pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
               FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let mut row = fields(session.row(&what, sql).await?);
    let mut identity = ServerIdentity {
        system_identifier: None,
        database: row.text(),
        database_oid: row.number(),
        is_standby: row.flag(),
        may_create_temporary: row.flag(),
        started_at: row.text(),
        address: row.text(),
    };
    if row.flag() {
        let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
        identity.system_identifier = session.row(&what, sql).await?.into_iter().next().flatten();
    }
    Ok(identity)
}
