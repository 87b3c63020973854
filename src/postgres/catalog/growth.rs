//! Whether new rows of the source have keys above those that are there: only then does a look above the last key find them.

use super::fields::Fields;
use super::table::Relation;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_literal, quote_table};
use crate::table::{Growth, Key, KeyColumn, Plan};

/// Calls of the server's clock as PostgreSQL spells them.
const CLOCKS: [&str; 5] = [
    "now()",
    "CURRENT_TIMESTAMP",
    "transaction_timestamp()",
    "statement_timestamp()",
    "clock_timestamp()",
];

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

/// Refuses a source whose sequence stands below the highest key: it was set back, or rows were inserted with keys of their
/// own, and new rows come where a sync does not look any more.
///
/// `highest` was read before the call: a key that is taken in between is then not above the sequence.
/// Nothing is said of a key that no sequence fills, nor of a sequence that this user may not read.
///
/// # Errors
/// `Unsupported`; or what goes wrong in asking.
pub async fn check_sequence(source: &Session, plan: &Plan, highest: Option<&Key>) -> Result<()> {
    let [key] = plan.key.as_slice() else { return Ok(()) };
    if plan.growth != Growth::Grows {
        return Ok(());
    }
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
