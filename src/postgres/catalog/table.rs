//! Reads one side's catalog about a table: which one a name means, what it is, and what its user may do with it.

use super::columns::{Attribute, UniqueIndex, read_columns, read_indexes};
use super::digest::PARTS;
use super::fields::Fields;
use crate::postgres::connect::{Session, TO_USERS_PATH};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_literal, quote_table};
use crate::table::{KeyChoice, KeyColumn, SourceKind, TableName, is_obeyed};

/// How like two names must be for one to be offered in place of the other.
pub(super) const LIKENESS: f64 = 0.6;

/// A table as one side's catalog describes it.
#[derive(Debug)]
pub(super) struct Relation {
    pub oid: u32,
    pub name: TableName,
    /// `r` for an ordinary table, `p` for a partitioned one; of a source also `v`, `m`, `f`: a view, a materialized one, a
    /// foreign table.
    pub kind: char,
    /// Whether it, or a partition of it, is.
    pub is_unlogged: bool,
    pub has_children: bool,
    /// Who owns it, a partition, a type or a function of it, where we are a superuser and they are not.
    pub owner_below_us: Option<String>,
    pub row_security_hides: bool,
    pub may_select: bool,
    pub may_insert: bool,
    pub may_update: bool,
    pub may_delete: bool,
    pub rows_estimate: Option<u64>,
    pub bytes_estimate: Option<u64>,
    pub columns: Vec<Attribute>,
    pub indexes: Vec<UniqueIndex>,
    /// The tables that hold its rows, in the order of their numbers: itself, or its partitions.
    pub leaves: Vec<HeldIn>,
    /// The server's version as a number: 150004 for 15.4.
    pub server_version: u32,
}

/// A table that holds rows of its own.
#[derive(Debug)]
pub(super) struct HeldIn {
    pub oid: u32,
    pub table: TableName,
    /// Whether its rows lie in blocks, each in its place.
    pub is_heap: bool,
    /// What it takes on disk, with what is stored out of line.
    pub bytes: u64,
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Attribute> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The unique indexes on exactly these columns.
    pub(super) fn unique_indexes_on(&self, key: &[KeyColumn]) -> impl Iterator<Item = &UniqueIndex> {
        self.indexes.iter().filter(|index| {
            index.columns.len() == key.len()
                && key
                    .iter()
                    .all(|column| index.columns.iter().any(|name| name == column.name_on_target()))
        })
    }

    /// Whether one of them finds the row that is in the way: one that is deferrable cannot.
    pub(super) fn finds_rows_by(&self, key: &[KeyColumn]) -> bool {
        self.unique_indexes_on(key).any(|index| index.is_immediate)
    }

    /// What it is, as a source.
    pub(super) fn source_kind(&self) -> SourceKind {
        match self.kind {
            'v' => SourceKind::View,
            'm' => SourceKind::MaterializedView,
            'f' => SourceKind::ForeignTable,
            _ => SourceKind::Table,
        }
    }
}

/// Gives the functions that run when rows of table `c` or of a partition of it are read, and on the target written: those that
/// its indexes are made with, and its defaults and checks, and those of its triggers. What they call in turn no catalog tells.
fn functions(side: Side) -> String {
    let is_written = side == Side::Target;
    format!(
        "WITH part(oid) AS (SELECT c.oid UNION ALL
             SELECT t.relid FROM pg_catalog.pg_partition_tree(CASE c.relkind WHEN 'p' THEN c.oid END) t)
         SELECT g.tgfoid FROM part JOIN pg_catalog.pg_trigger g ON g.tgrelid = part.oid
         WHERE {is_written} AND NOT g.tgisinternal AND g.tgenabled <> 'D'
         UNION ALL
         SELECT d.refobjid FROM pg_catalog.pg_depend d JOIN (
             SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, e.indexrelid
                 FROM part JOIN pg_catalog.pg_index e ON e.indrelid = part.oid
             UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid, e.oid
                 FROM part JOIN pg_catalog.pg_attrdef e ON e.adrelid = part.oid WHERE {is_written}
             UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid, e.oid
                 FROM part JOIN pg_catalog.pg_constraint e ON e.conrelid = part.oid WHERE {is_written}) o(class, oid)
             ON d.classid = o.class AND d.objid = o.oid
         WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid"
    )
}

/// The table's name with its schema: which one it is, the user's own search path decides, whatever the session's is.
pub(super) async fn resolve(session: &Session, wanted: &TableName, key: &KeyChoice) -> Result<TableName> {
    let what = about(session, wanted);
    let regclass = format!(
        "SELECT pg_catalog.to_regclass({})::pg_catalog.oid",
        quote_literal(&quote_table(wanted))
    );
    let sql = match wanted.schema {
        Some(_) => regclass,
        None => under_users_path(&regclass),
    };
    let oid = session.row(&what, &sql).await?.pop().flatten();
    let Some(oid) = oid else {
        return Err(unknown_table(session, wanted).await?);
    };
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}"
    );
    let Some(mut row) = session.rows(&what, &sql).await?.pop().map(Fields::of) else {
        return Err(unknown_table(session, wanted).await?);
    };
    let name = TableName {
        schema: Some(row.text()),
        name: row.text(),
    };
    if [&name.name]
        .into_iter()
        .chain(&name.schema)
        .any(|part| part.chars().any(is_obeyed))
    {
        let words = format!(
            "table {name} on the {} has a name with control characters, which no terminal and no log can be trusted with",
            session.side()
        );
        return Err(Error::new(session.side(), Kind::Unsupported, words).hinted("rename it"));
    }
    // Said before anything that the other side lacks: nobody shall make a table there for what is none here.
    check_kind(session.side(), &name, row.letter(), key)?;
    Ok(name)
}

/// A statement under the search path that the user would have: both in one message, and so in one transaction, after which
/// the path is the session's own again.
fn under_users_path(statement: &str) -> String {
    format!("{TO_USERS_PATH}; {statement}")
}

/// All about a table whose name has a schema.
pub(super) async fn read(session: &Session, name: &TableName, key: &KeyChoice) -> Result<Relation> {
    let side = session.side();
    let what = about(session, name);
    let sql = format!(
        "SELECT c.oid, c.relkind, e.is_unlogged, c.relhassubclass,
                (SELECT pg_catalog.string_agg(DISTINCT o.rolname, ', ') FROM pg_catalog.pg_roles o, pg_catalog.pg_roles u
                 WHERE NOT o.rolsuper AND u.rolname = current_user AND u.rolsuper AND o.oid IN (
                     SELECT p.relowner FROM pg_catalog.pg_class p WHERE p.oid IN (SELECT c.oid UNION ALL
                         SELECT t.relid FROM pg_catalog.pg_partition_tree(CASE c.relkind WHEN 'p' THEN c.oid END) t)
                     UNION ALL
                     SELECT f.proowner FROM pg_catalog.pg_proc f WHERE f.oid IN ({})
                     UNION ALL
                     (WITH RECURSIVE type(oid) AS (
                         SELECT a.atttypid FROM pg_catalog.pg_attribute a
                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                         UNION SELECT p.oid FROM type w, {PARTS} WHERE p.oid <> '0'::pg_catalog.oid)
                      SELECT y.typowner FROM type w JOIN pg_catalog.pg_type y ON y.oid = w.oid))),
                pg_catalog.row_security_active(c.oid),
                pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.has_table_privilege(c.oid, 'INSERT'),
                pg_catalog.has_table_privilege(c.oid, 'UPDATE'), pg_catalog.has_table_privilege(c.oid, 'DELETE'),
                e.rows, e.bytes
         FROM pg_catalog.pg_class c,
              LATERAL (SELECT CASE WHEN pg_catalog.bool_or(p.relkind IN ('r', 'm') AND (p.reltuples < 0::pg_catalog.float4
                                            OR (p.relpages = 0 AND pg_catalog.pg_relation_size(p.oid) > 0)))
                                   THEN NULL
                                   ELSE pg_catalog.round(pg_catalog.sum(p.reltuples::pg_catalog.numeric / greatest(p.relpages, 1)
                                       * (pg_catalog.pg_relation_size(p.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int4))
                                       FILTER (WHERE p.relkind IN ('r', 'm'))) END AS rows,
                              pg_catalog.sum(pg_catalog.pg_relation_size(p.oid)) FILTER (WHERE p.relkind IN ('r', 'm')) AS bytes,
                              pg_catalog.bool_or(p.relpersistence = 'u') AS is_unlogged
                       FROM pg_catalog.pg_class p
                       WHERE p.oid IN (SELECT c.oid UNION ALL
                             SELECT t.relid FROM pg_catalog.pg_partition_tree(CASE c.relkind WHEN 'p' THEN c.oid END) t)) e
         WHERE c.oid = pg_catalog.to_regclass({})",
        functions(side),
        quote_literal(&quote_table(name))
    );
    let Some(row) = session.rows(&what, &sql).await?.pop() else {
        return Err(unknown_table(session, name).await?);
    };
    let mut row = Fields::of(row);
    let (oid, kind) = (row.number(), row.letter());
    check_kind(side, name, kind, key)?;
    Ok(Relation {
        oid,
        name: name.clone(),
        kind,
        is_unlogged: row.flag(),
        has_children: row.flag(),
        owner_below_us: row.optional(),
        row_security_hides: row.flag(),
        may_select: row.flag(),
        may_insert: row.flag(),
        may_update: row.flag(),
        may_delete: row.flag(),
        rows_estimate: row.optional().and_then(|text| text.parse().ok()),
        bytes_estimate: row.optional().and_then(|text| text.parse().ok()),
        columns: read_columns(session, &what, oid).await?,
        indexes: read_indexes(session, &what, oid).await?,
        leaves: read_leaves(session, &what, oid).await?,
        server_version: session.server_version(),
    })
}

async fn read_leaves(session: &Session, what: &str, table: u32) -> Result<Vec<HeldIn>> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, coalesce(am.amname = 'heap', false), pg_catalog.pg_table_size(c.oid)
         FROM (SELECT {table}::pg_catalog.oid UNION
               SELECT t.relid FROM pg_catalog.pg_partition_tree({table}::pg_catalog.oid::pg_catalog.regclass) t) l(oid)
         JOIN pg_catalog.pg_class c ON c.oid = l.oid AND c.relkind NOT IN ('p', 'v')
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam ORDER BY c.oid"
    );
    let rows = session.rows(what, &sql).await?.into_iter().map(Fields::of);
    let leaves = rows.map(|mut row| HeldIn {
        oid: row.number(),
        table: TableName {
            schema: Some(row.text()),
            name: row.text(),
        },
        is_heap: row.flag(),
        bytes: row.number(),
    });
    Ok(leaves.collect())
}

fn about(session: &Session, table: &TableName) -> String {
    format!("read the catalog of the {} about table {table}", session.side())
}

/// What a foreign server does with rows is in no transaction of the target's: they may be kept out, or stay. The trouble
/// with a partition that is there.
pub(super) async fn foreign_partition(target: &Session, table: &Relation) -> Result<Option<Error>> {
    if table.kind != 'p' {
        return Ok(None);
    }
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_partition_tree({}::pg_catalog.oid::pg_catalog.regclass) p
         JOIN pg_catalog.pg_class c ON c.oid = p.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'f' ORDER BY 1, 2 LIMIT 1",
        table.oid
    );
    let Some(row) = target.rows(&about(target, &table.name), &sql).await?.pop() else {
        return Ok(None);
    };
    let mut row = Fields::of(row);
    let partition = TableName {
        schema: Some(row.text()),
        name: row.text(),
    };
    let words = format!(
        "partition {partition} of target table {} is a foreign table: its rows are in no transaction of the target's",
        table.name
    );
    let trouble = Error::new(Side::Target, Kind::Unsupported, words)
        .hinted("copy into the foreign server itself, or detach the partition for the time of the copy");
    Ok(Some(trouble))
}

/// What would do more than take rows away, if those of the target were deleted: a trigger, a rule, a foreign key of another
/// table. The trouble with it.
pub(super) async fn deletes_more(target: &Session, table: &Relation) -> Result<Option<Error>> {
    let sql = format!(
        "SELECT 'trigger ' || g.tgname FROM pg_catalog.pg_trigger g
         WHERE g.tgenabled <> 'D' AND g.tgtype::pg_catalog.int4 & 8 <> 0 AND g.tgrelid IN (
             SELECT {oid}::pg_catalog.oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree({oid}::pg_catalog.oid::pg_catalog.regclass) t)
         UNION ALL
         SELECT 'rule ' || r.rulename FROM pg_catalog.pg_rewrite r WHERE r.ev_class = {oid} AND r.ev_type = '4' AND r.ev_enabled <> 'D'
         ORDER BY 1 LIMIT 1",
        oid = table.oid
    );
    let Some(mut row) = target
        .rows(&about(target, &table.name), &sql)
        .await?
        .pop()
        .map(Fields::of)
    else {
        return Ok(None);
    };
    let words = format!(
        "{} of target table {} does more than take rows away where they are deleted: --snapshot-below deletes what an interrupted \
         job has copied",
        row.text(),
        table.name
    );
    Ok(Some(Error::new(Side::Target, Kind::Unsupported, words).hinted(
        "drop it for the time of the copy (of a foreign key: of the table that refers to this one)",
    )))
}

/// A source may be other than a table where there is a key to go along: a materialized view has indexes, of the others it
/// must be named.
fn check_kind(side: Side, name: &TableName, kind: char, key: &KeyChoice) -> Result<()> {
    let is_named = key.columns.is_some();
    let is = match kind {
        'r' | 'p' => return Ok(()),
        'm' if side == Side::Source => return Ok(()),
        'v' | 'f' if side == Side::Source && is_named => return Ok(()),
        'v' => "a view",
        'm' => "a materialized view",
        'f' => "a foreign table",
        'S' => "a sequence",
        'i' | 'I' => "an index",
        'c' => "a composite type",
        _ => "something else",
    };
    let words = format!("{name} on the {side} is {is}, not a table");
    let error = Error::new(side, Kind::NotATable, words);
    Err(match (side, kind) {
        (Side::Source, 'v' | 'f') => {
            error.hinted("name the columns that tell its rows apart, and it is copied along them: --key a,b")
        }
        _ => error,
    })
}

async fn unknown_table(session: &Session, wanted: &TableName) -> Result<Error> {
    let side = session.side();
    let what = format!("list the tables of the {side}");
    let schemas = under_users_path("SELECT pg_catalog.current_schemas(false)");
    let schemas = session.row(&what, &schemas).await?.pop().flatten();
    let sql = format!(
        "SELECT n.nspname, c.relname, n.nspname = ANY ({}::pg_catalog.name[])
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
           AND n.nspname NOT IN ('information_schema', 'longhaul')",
        quote_literal(schemas.as_deref().unwrap_or("{}"))
    );
    let rows = session.rows(&what, &sql).await?;
    let candidates = rows.into_iter().map(Fields::of).map(|mut row| {
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
