//! Whether new rows of the source have keys above those that are there: only then does a look above the last key find them.

use super::fields::Fields;
use super::table::Relation;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_literal, quote_table};
use crate::table::{Growth, Key, KeyColumn, Plan, TableName};

/// Calls of the server's clock as PostgreSQL spells them.
const CLOCKS: [&str; 5] = [
    "now()",
    "CURRENT_TIMESTAMP",
    "transaction_timestamp()",
    "statement_timestamp()",
    "clock_timestamp()",
];

/// The first version in which the partitions of a table share its identity.
const SHARED_IDENTITIES: u32 = 170_000;

const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;

/// What hands out a column's values.
struct Sequence {
    increment: i64,
    cache: i64,
    cycles: bool,
}

pub(super) async fn read(session: &Session, table: &Relation, key: &[KeyColumn]) -> Result<Growth> {
    let unknown = |why: String| Ok(Growth::Unknown(why));
    let [column] = key else {
        return unknown(format!("it has {} columns", key.len()));
    };
    if table.kind == 'p'
        && let Some(why) = filled_otherwise(session, &table.name, &column.name).await?
    {
        return unknown(why);
    }
    let Some(column) = table.column(&column.name) else {
        return unknown("its column is gone".to_owned());
    };
    let expression = column
        .expression
        .as_deref()
        .filter(|_| column.generated.is_none());
    let expression = expression.unwrap_or_default();
    let is_clock = CLOCKS.contains(&expression) || expression == "LOCALTIMESTAMP";
    match column.structure.base_oid() {
        Some(TIMESTAMPTZ) if is_clock => return Ok(Growth::Grows),
        Some(TIMESTAMP) if is_clock => {
            return unknown(
                "it has no time zone: its values go back when clocks do, and differ between sessions"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let is_numbered = column.identity.is_some()
        || (expression.starts_with("nextval('") && expression.ends_with("'::regclass)"));
    let nothing =
        "nothing on the source fills it with growing values (a sequence, an identity, a default of now())";
    if !is_numbered {
        return unknown(nothing.to_owned());
    }
    let Some(sequence) = read_sequence(session, table, column.number).await? else {
        return unknown(nothing.to_owned());
    };
    Ok(match sequence {
        Sequence { increment, .. } if increment <= 0 => {
            Growth::Unknown(format!("its sequence counts down (INCREMENT {increment})"))
        }
        Sequence { cycles: true, .. } => {
            Growth::Unknown("its sequence starts again at its end (CYCLE)".to_owned())
        }
        Sequence { cache, .. } if cache > 1 => Growth::Unknown(format!(
            "its sequence hands out {cache} values at a time (CACHE {cache})"
        )),
        _ => Growth::Grows,
    })
}

/// Refuses a source on which new rows may get keys below the highest one, where a sync does not look any more: its sequence
/// was set back, rows were inserted with keys of their own, a partition fills the key in another way by now.
///
/// `highest` was read before the call: a key that is taken in between is then not above the sequence, nor the clock.
/// Nothing is said of a key that need not grow, nor of a sequence that this user may not read.
///
/// # Errors
/// `Unsupported`; or what goes wrong in asking.
pub async fn check_growth(source: &Session, plan: &Plan, highest: Option<&Key>) -> Result<()> {
    let [key] = plan.key.as_slice() else { return Ok(()) };
    if plan.growth != Growth::Grows {
        return Ok(());
    }
    if plan.source_is_partitioned
        && let Some(why) = filled_otherwise(source, &plan.source, &key.name).await?
    {
        return Err(need_not_grow(plan, &why));
    }
    match (plan.is_stamped(), highest) {
        (_, None) => Ok(()),
        (true, Some(highest)) => check_clock(source, plan, highest).await,
        (false, highest) => check_sequence(source, plan, key, highest).await,
    }
}

/// That a sync cannot find the new rows by this key.
pub(in crate::postgres) fn need_not_grow(plan: &Plan, why: &str) -> Error {
    let words = format!(
        "a sync finds new rows by their key, and the key ({}) of {} need not grow: {why}",
        plan.key_shown(),
        plan.source
    );
    Error::new(Side::Source, Kind::Unsupported, words).hinted(
        "if new keys are never more than a number of keys below the highest one, say so: --lookback KEYS",
    )
}

/// Refuses a highest key in the future: until then every row that the clock stamps comes below it.
async fn check_clock(source: &Session, plan: &Plan, highest: &Key) -> Result<()> {
    let what = format!(
        "hold the highest key of source table {} against the clock",
        plan.source
    );
    // Of few digits the clock's values are rounded, and so up as well.
    let types = plan
        .columns
        .iter()
        .map(|column| (column.name_on_source(), &column.type_name));
    let types = types.chain(
        plan.key
            .iter()
            .map(|column| (column.name.as_str(), &column.type_name)),
    );
    let mut rounded = types
        .filter(|(name, shown)| *name == plan.key[0].name && shown.starts_with("timestamp("))
        .map(|(_, shown)| shown.as_str());
    let stamp = rounded.next().unwrap_or("timestamp with time zone");
    let sql = format!(
        "SELECT c.now, {}::timestamp with time zone > c.now FROM (SELECT pg_catalog.clock_timestamp()::{stamp}) c(now)",
        quote_literal(&highest.0.join(""))
    );
    let mut row = Fields::of(source.row(&what, &sql).await?);
    let (now, is_ahead) = (row.text(), row.flag());
    if !is_ahead {
        return Ok(());
    }
    let words = format!(
        "the highest key of source table {}, {}, lies in the future of the source's clock ({now}): new rows get keys below it, \
         where a sync does not look any more",
        plan.source,
        highest.0.join("")
    );
    Err(Error::new(Side::Source, Kind::Unsupported, words).hinted(
        "let the sync look back more keys than come until then, or in a round (--lookback KEYS), or give that row a key of its \
         time on both sides; rows that have come below it already are named by longhaul verify --against source",
    ))
}

async fn check_sequence(source: &Session, plan: &Plan, key: &KeyColumn, highest: Option<&Key>) -> Result<()> {
    let highest = highest.and_then(|key| key.0.first()?.parse::<i64>().ok());
    let Some(highest) = highest else { return Ok(()) };
    let sql = format!(
        "SELECT pg_catalog.pg_sequence_last_value(q.seqrelid), q.seqrelid::pg_catalog.regclass
         FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_depend e ON e.deptype IN ('i', 'n') AND e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
             AND ((e.deptype = 'i' AND e.classid = e.refclassid AND e.refobjid = a.attrelid AND e.refobjsubid = a.attnum)
               OR (e.deptype = 'n' AND e.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND e.objid IN
                      (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum)))
         JOIN pg_catalog.pg_sequence q ON q.seqrelid = CASE e.deptype WHEN 'i' THEN e.objid ELSE e.refobjid END
         WHERE a.attrelid = pg_catalog.to_regclass({}) AND a.attname = {}
           AND pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT, USAGE')",
        quote_literal(&quote_table(&plan.source)),
        quote_literal(&key.name)
    );
    let what = format!("ask where the sequence of source table {} stands", plan.source);
    let Some(row) = source.rows(&what, &sql).await?.pop() else {
        return Ok(());
    };
    let mut row = Fields::of(row);
    // Not called yet: the first value is still to come.
    let (last, sequence) = (
        row.optional().and_then(|text| text.parse().ok()).unwrap_or(0),
        row.text(),
    );
    if last >= highest {
        return Ok(());
    }
    let words = format!(
        "the sequence {sequence} of source table {} stands at {last}, below the highest key, {highest}: new rows get keys below \
         it, where a sync does not look any more",
        plan.source
    );
    Err(Error::new(Side::Source, Kind::Unsupported, words).hinted(format!(
        "let the sync look back a number of keys (--lookback KEYS), or let the sequence continue above them: \
         SELECT setval({}, {highest}); rows that have come below it already are named by longhaul verify --against source",
        quote_literal(&sequence)
    )))
}

/// Which partition fills the key in another way than the table does, in words: rows that are inserted straight into it get
/// keys that grow apart from the table's. A partition without a default gives no key.
async fn filled_otherwise(session: &Session, table: &TableName, column: &str) -> Result<Option<String>> {
    let what = format!("read how the partitions of source table {table} fill its key");
    // Since version 17 a partition shares the identity of its table, and has none of its own.
    let own_identity = match session.server_version() >= SHARED_IDENTITIES {
        true => "false",
        false => "p.attidentity <> '' AND p.attrelid <> s.oid",
    };
    let sql = format!(
        "SELECT n.nspname, c.relname, coalesce(p.shown, 'an identity of its own')
         FROM (SELECT pg_catalog.to_regclass({table})) s(oid), LATERAL pg_catalog.pg_partition_tree(s.oid) t
         JOIN pg_catalog.pg_class c ON c.oid = t.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
              LATERAL (SELECT a.attrelid, a.attidentity, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
                       FROM pg_catalog.pg_attribute a
                       LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                       WHERE a.attrelid = t.relid AND a.attname = {column}) p(attrelid, attidentity, shown)
         WHERE ({own_identity}) OR p.shown IS DISTINCT FROM (
                   SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attribute a
                   JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                   WHERE a.attrelid = s.oid AND a.attname = {column}) AND p.shown IS NOT NULL
         ORDER BY 1, 2 LIMIT 1",
        table = quote_literal(&quote_table(table)),
        column = quote_literal(column)
    );
    let Some(row) = session.rows(&what, &sql).await?.pop() else {
        return Ok(None);
    };
    let mut row = Fields::of(row);
    let partition = TableName {
        schema: Some(row.text()),
        name: row.text(),
    };
    Ok(Some(format!(
        "partition {partition} fills it in a way of its own ({})",
        row.text()
    )))
}

/// The only sequence behind a column: its identity's, or the one that its default names.
async fn read_sequence(session: &Session, table: &Relation, column: i16) -> Result<Option<Sequence>> {
    let what = format!(
        "read the sequence behind the key of {} table {}",
        session.side(),
        table.name
    );
    let oid = table.oid;
    let sql = format!(
        "SELECT q.seqincrement, q.seqcache, q.seqcycle
         FROM (SELECT i.objid FROM pg_catalog.pg_depend i
               WHERE i.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.refobjid = {oid} AND i.refobjsubid = {column}
                 AND i.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.deptype = 'i'
               UNION
               SELECT e.refobjid FROM pg_catalog.pg_attrdef f
               JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND e.objid = f.oid
                 AND e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.deptype = 'n'
               WHERE f.adrelid = {oid} AND f.adnum = {column}) d(oid)
         JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.oid"
    );
    let mut rows = session.rows(&what, &sql).await?;
    let (Some(row), true) = (rows.pop(), rows.is_empty()) else {
        return Ok(None);
    };
    let mut row = Fields::of(row);
    Ok(Some(Sequence {
        increment: row.number(),
        cache: row.number(),
        cycles: row.flag(),
    }))
}
