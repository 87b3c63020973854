//! The ledger: what each job has put on the target, kept on the target, in the schema `longhaul`.
//!
//! A batch's entry commits in the transaction of its rows, so that the ledger is never wrong about what is there. It
//! outlives the journal: a job that finds itself here goes on from it. Each run takes a job over with a new epoch, and a
//! batch commits only under the epoch that still holds, so that a forgotten process cannot write behind our back.

use super::connect::Session;
use super::cursor;
use super::error::{Error, Kind, Result, Side};
use super::identifier::{quote_literal, quote_text_array};
use crate::failpoint::failpoint;
use crate::table::{Key, KeyRange, LedgerState, Receipt, TablePlan};

/// The layout that this version writes; a ledger of a later one is refused.
pub const FORMAT: u32 = 1;

/// Serializes the first creation among processes: "longhaul" in ASCII.
const CREATION_LOCK: i64 = 0x6c6f_6e67_6861_756c;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS longhaul.format (version integer NOT NULL);
INSERT INTO longhaul.format SELECT 1 WHERE NOT EXISTS (SELECT FROM longhaul.format);
CREATE TABLE IF NOT EXISTS longhaul.jobs (
    job text PRIMARY KEY,
    source_system text,
    source_database text NOT NULL,
    source_table text NOT NULL,
    target_table text NOT NULL,
    key_columns text[] NOT NULL,
    epoch bigint NOT NULL,
    runs bigint NOT NULL DEFAULT 1,
    settled text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS longhaul.batches (
    job text NOT NULL,
    table_name text NOT NULL,
    batch bigint NOT NULL,
    pass smallint NOT NULL,
    low text[] NOT NULL,
    high text[] NOT NULL,
    rows bigint NOT NULL,
    rows_written bigint NOT NULL,
    bytes bigint NOT NULL,
    checksum bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, table_name, batch));
CREATE UNIQUE INDEX IF NOT EXISTS batches_low ON longhaul.batches (job, table_name, low) WHERE pass = 0;
COMMENT ON SCHEMA longhaul IS 'longhaul''s ledger: what each job has copied. Rows here keep rows from coming twice.';
COMMENT ON COLUMN longhaul.batches.low IS 'the key before the first of the range; {} is the start of the table';
COMMENT ON COLUMN longhaul.batches.rows IS 'rows of the range; in passes after the first, those newly written';
";

/// Creates the ledger where it is not there yet. Safe to race and to repeat.
///
/// # Errors
/// `Privilege`, with the SQL that an administrator can run; `Ledger` where a later version wrote it.
pub async fn ensure(target: &Session) -> Result<()> {
    let what = "look for the ledger (schema longhaul) on the target";
    let sql = "SELECT pg_catalog.to_regnamespace('longhaul') IS NOT NULL,
                      (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.relname IN ('format', 'jobs', 'batches')
                       AND c.relnamespace = pg_catalog.to_regnamespace('longhaul')), current_user";
    let found = target.row(what, sql).await?;
    let field = |number: usize| found.get(number).and_then(Option::as_deref).unwrap_or_default();
    if field(1) != "3" {
        create(target, field(0) == "t", field(2)).await?;
    }
    let version = target
        .row(
            "read the ledger's version on the target",
            "SELECT max(version) FROM longhaul.format",
        )
        .await?;
    let version: u32 = version
        .into_iter()
        .next()
        .flatten()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if version == FORMAT {
        return Ok(());
    }
    Err(Error::new(
        Side::Target,
        Kind::Ledger,
        format!(
            "the ledger on the target has format {version}; this version of longhaul knows format {FORMAT}"
        ),
    )
    .hinted("use the version of longhaul that wrote it, or a later one"))
}

async fn create(target: &Session, schema_exists: bool, user: &str) -> Result<()> {
    let schema = if schema_exists {
        ""
    } else {
        "CREATE SCHEMA IF NOT EXISTS longhaul;"
    };
    let sql =
        format!("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({CREATION_LOCK}); {schema} {TABLES} COMMIT");
    let created = target
        .rows("create the ledger (schema longhaul) on the target", &sql)
        .await;
    let Err(error) = created else { return Ok(()) };
    if !target.is_closed() {
        target.rows("roll back on the target", "ROLLBACK").await?;
    }
    if error.kind() == Kind::Privilege {
        let user = super::identifier::quote_identifier(user);
        return Err(error.hinted(format!(
            "an administrator of the target can run: CREATE SCHEMA longhaul AUTHORIZATION {user}; (or, if it is there: \
             GRANT USAGE, CREATE ON SCHEMA longhaul TO {user};)"
        )));
    }
    Err(error)
}

/// Takes the job over: a new epoch, and what is done so far. Waits for batches of an older epoch that are committing.
///
/// The ledger must be there ([`ensure`]). Each call raises the epoch, and so ends every other run of the job.
///
/// # Errors
/// `Ledger` where the job's name belongs to another source, table or key; or what goes wrong in asking.
pub async fn open(target: &Session, source: &Session, job: &str, plan: &TablePlan) -> Result<LedgerState> {
    let what = format!("take over job {job} in the target's ledger");
    let mut row = match target.rows(&what, &take_over_sql(job, plan)).await?.pop() {
        Some(row) => row.into_iter(),
        None => return Err(belongs_to_another(target, job, plan).await?),
    };
    let mut next = || row.next().flatten();
    let damaged =
        |words: &str| Error::new(Side::Target, Kind::Ledger, format!("cannot {what}")).because(words);
    let epoch = next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| damaged("it has no epoch"))?;
    let found = next().as_deref() == Some("t");
    let settled = next().map(|text| key_from_json(&text)).transpose()?.flatten();
    failpoint!("ledger::after_take_over");
    let mine = of_job(job, plan);
    let totals = format!(
        "SELECT coalesce(sum(rows), 0), coalesce(sum(bytes), 0), count(*), coalesce(max(batch) + 1, 0)
         FROM longhaul.batches WHERE {mine}"
    );
    let totals = target.row(&what, &totals).await?;
    let total = |number: usize| {
        totals
            .get(number)
            .and_then(Option::as_deref)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let segments = read_segments(target, source, &what, &mine, plan).await?;
    Ok(LedgerState {
        epoch,
        found,
        segments,
        rows: total(0),
        bytes: total(1),
        batches: total(2),
        next_batch: total(3),
        settled,
    })
}

fn take_over_sql(job: &str, plan: &TablePlan) -> String {
    let system = plan
        .source_identity
        .system_identifier
        .as_deref()
        .map_or("NULL".to_owned(), quote_literal);
    let keys: Vec<_> = plan.key.iter().map(|column| column.name.clone()).collect();
    // An epoch begins as microseconds since 1970, so that one of a forgotten job never comes again.
    format!(
        "INSERT INTO longhaul.jobs AS j (job, source_system, source_database, source_table, target_table, key_columns, epoch)
         VALUES ({}, {system}, {}, {}, {}, {}, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
         ON CONFLICT (job) DO UPDATE SET epoch = j.epoch + 1, runs = j.runs + 1, updated_at = now()
         WHERE coalesce(j.source_system = excluded.source_system, true) AND j.source_database = excluded.source_database
           AND j.source_table = excluded.source_table AND j.target_table = excluded.target_table
           AND j.key_columns = excluded.key_columns
         RETURNING j.epoch, j.runs > 1, to_json(j.settled)",
        quote_literal(job),
        quote_literal(&plan.source_identity.database),
        quote_literal(&plan.source.to_string()),
        quote_literal(&plan.target.to_string()),
        quote_text_array(&keys),
    )
}

async fn belongs_to_another(target: &Session, job: &str, plan: &TablePlan) -> Result<Error> {
    let sql = format!(
        "SELECT source_database, source_table, target_table, array_to_string(key_columns, ', '), coalesce(source_system, '?')
         FROM longhaul.jobs WHERE job = {}",
        quote_literal(job)
    );
    let row = target
        .row(&format!("read job {job} in the target's ledger"), &sql)
        .await?;
    let show = |database: &str, source: &str, target: &str, key: &str, system: &str| {
        format!("{source} of database {database} (cluster {system}) to {target} along ({key})")
    };
    let field = |number: usize| row.get(number).and_then(Option::as_deref).unwrap_or("?");
    let keys: Vec<_> = plan.key.iter().map(|column| column.name.as_str()).collect();
    let there = show(field(0), field(1), field(2), field(3), field(4));
    let here = show(
        &plan.source_identity.database,
        &plan.source.to_string(),
        &plan.target.to_string(),
        &keys.join(", "),
        plan.source_identity.system_identifier.as_deref().unwrap_or("?"),
    );
    Ok(Error::new(
        Side::Target,
        Kind::Ledger,
        format!("job {job} in the target's ledger copies {there}, and this one copies {here}"),
    ))
}

/// Chains of ranges, each from a low that nobody ends at to a high that nobody begins at.
///
/// The target compares for equality only; starts and ends are sorted by the source, and then pair up in order.
async fn read_segments(
    target: &Session,
    source: &Session,
    what: &str,
    mine: &str,
    plan: &TablePlan,
) -> Result<Vec<KeyRange>> {
    let sql = format!(
        "WITH b AS (SELECT low, high FROM longhaul.batches WHERE {mine} AND pass = 0)
         SELECT true, to_json(low) FROM b WHERE NOT EXISTS (SELECT FROM b p WHERE p.high = b.low)
         UNION ALL
         SELECT false, to_json(high) FROM b WHERE NOT EXISTS (SELECT FROM b n WHERE n.low = b.high)"
    );
    let (mut starts, mut ends, mut from_the_start) = (Vec::new(), Vec::new(), false);
    for row in target.rows(what, &sql).await? {
        let [Some(is_start), Some(key)] = row.as_slice() else {
            continue;
        };
        match (is_start == "t", key_from_json(key)?) {
            (true, Some(key)) => starts.push(key),
            (true, None) => from_the_start = true,
            (false, Some(key)) => ends.push(key),
            (false, None) => {}
        }
    }
    if starts.len() + usize::from(from_the_start) != ends.len() {
        return Err(Error::new(Side::Target, Kind::Ledger, format!("cannot {what}"))
            .because("its ranges do not join up: rows of longhaul.batches were changed by hand"));
    }
    let starts = cursor::sort_keys(source, plan, starts).await?;
    let ends = cursor::sort_keys(source, plan, ends).await?;
    let starts = from_the_start
        .then_some(None)
        .into_iter()
        .chain(starts.into_iter().map(Some));
    Ok(starts
        .zip(ends)
        .map(|(low, high)| KeyRange { low, high })
        .collect())
}

/// The receipt of a batch that has committed; `None` where it has not.
///
/// # Errors
/// `Ledger` where that number is another range's; or what goes wrong in asking.
pub async fn find(
    target: &Session,
    job: &str,
    plan: &TablePlan,
    batch: u64,
    range: &KeyRange,
) -> Result<Option<Receipt>> {
    let what = format!("look for batch {batch} of job {job} in the target's ledger");
    let (low, high) = bounds(range);
    let sql = format!(
        "SELECT rows, rows_written, bytes, checksum, low = {low} AND high = {high} FROM longhaul.batches
         WHERE {} AND (batch = {batch} OR (pass = 0 AND low = {low} AND high = {high})) ORDER BY 5 LIMIT 1",
        of_job(job, plan)
    );
    let Some(row) = target.rows(&what, &sql).await?.pop() else {
        return Ok(None);
    };
    let number = |column: usize| {
        row.get(column)
            .and_then(Option::as_deref)
            .and_then(|text| text.parse::<i64>().ok())
    };
    if row.get(4).and_then(Option::as_deref) != Some("t") {
        return Err(Error::new(
            Side::Target,
            Kind::Ledger,
            format!("batch {batch} of job {job} is another range in the target's ledger"),
        ));
    }
    let count = |column: usize| number(column).unwrap_or(0).cast_unsigned();
    Ok(Some(Receipt {
        rows: count(0),
        rows_written: count(1),
        bytes: count(2),
        checksum: count(3),
    }))
}

/// Keeps the key up to which nothing can appear any more. Idempotent.
///
/// # Errors
/// `Fenced` where a later run has taken over.
pub async fn set_settled(target: &Session, job: &str, epoch: u64, settled: Option<&Key>) -> Result<()> {
    let key = settled.map_or("NULL".to_owned(), |key| quote_text_array(&key.0));
    let sql = format!(
        "UPDATE longhaul.jobs SET settled = {key}, updated_at = now() WHERE job = {} AND epoch = {epoch} RETURNING 1",
        quote_literal(job)
    );
    let what = format!("write the settled key of job {job} to the target's ledger");
    match target.rows(&what, &sql).await?.len() {
        1 => Ok(()),
        _ => Err(fenced(job)),
    }
}

/// How many batches the ledger has of a job, and the rows they brought. Takes nothing over.
///
/// # Errors
/// What goes wrong in asking.
pub async fn totals(target: &Session, job: &str, plan: &TablePlan) -> Result<(u64, u64)> {
    let mine = of_job(job, plan);
    let sql = format!("SELECT count(*), coalesce(sum(rows), 0) FROM longhaul.batches WHERE {mine}");
    let what = format!("read job {job} in the target's ledger");
    let row = target.row(&what, &sql).await?;
    let number = |index: usize| {
        row.get(index)
            .and_then(Option::as_deref)
            .and_then(|text| text.parse().ok())
    };
    Ok((number(0).unwrap_or(0), number(1).unwrap_or(0)))
}

/// Removes the job from the ledger, so that it starts afresh; its rows stay. Waits for batches that are committing.
///
/// # Errors
/// What goes wrong in writing.
pub async fn forget(target: &Session, job: &str) -> Result<()> {
    let name = quote_literal(job);
    // One simple query is one transaction.
    let sql = format!(
        "DELETE FROM longhaul.jobs WHERE job = {name}; DELETE FROM longhaul.batches WHERE job = {name}"
    );
    target
        .rows(&format!("remove job {job} from the target's ledger"), &sql)
        .await
        .map(drop)
}

pub(super) fn fenced(job: &str) -> Error {
    Error::new(
        Side::Target,
        Kind::Fenced,
        format!("another run has taken over job {job}"),
    )
}

/// Holds the epoch for the rest of the transaction; no row where it is not ours any more.
pub(super) fn fence_sql(job: &str, epoch: u64, selected: &str) -> String {
    // FOR SHARE, since a new epoch is an update of no key column: FOR KEY SHARE would let it pass.
    format!(
        "SELECT {selected} FROM longhaul.jobs WHERE job = {} AND epoch = {epoch} FOR SHARE",
        quote_literal(job)
    )
}

pub(super) const BATCH_COLUMNS: &str =
    "job, table_name, batch, pass, low, high, rows, rows_written, bytes, checksum";

/// A range's bounds as literals of `text[]`.
pub(super) fn bounds(range: &KeyRange) -> (String, String) {
    let low = range.low.as_ref().map(|key| key.0.as_slice()).unwrap_or_default();
    (quote_text_array(low), quote_text_array(&range.high.0))
}

fn of_job(job: &str, plan: &TablePlan) -> String {
    format!(
        "job = {} AND table_name = {}",
        quote_literal(job),
        quote_literal(&plan.source.to_string())
    )
}

/// `None` for the empty key, which is the start of the table, and for SQL's null.
fn key_from_json(text: &str) -> Result<Option<Key>> {
    let values: Option<Vec<String>> = serde_json::from_str(text).map_err(|_| {
        Error::new(
            Side::Target,
            Kind::Ledger,
            "a key in the target's ledger holds a null",
        )
    })?;
    Ok(values.filter(|values| !values.is_empty()).map(Key))
}
