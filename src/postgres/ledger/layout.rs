//! The ledger's tables: how they are made, and brought from an earlier layout to this one.
//!
//! Layout 1 had one table a job, its key by name, and no plan. Layout 2 has `longhaul.tables` with the plan, and knows a
//! range by a hash of where it begins, so that a key may be as long as it likes. What layout 1 did not keep stays null.

use super::trust;
use crate::postgres::catalog::Right;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::quote_identifier;
use serde::Serialize;

/// The layout that this version writes; a ledger of a later one is refused, one of an earlier one is upgraded.
pub const FORMAT: u32 = 2;

/// Serializes creation and upgrade among processes: "longhaul" in ASCII.
const CREATION_LOCK: i64 = 0x6c6f_6e67_6861_756c;

const SCHEMA: &str = "
CREATE SCHEMA IF NOT EXISTS longhaul;
COMMENT ON SCHEMA longhaul IS 'longhaul''s ledger: what each job has copied. Rows here keep rows from coming twice.';
";

/// What layout 2 brought.
macro_rules! tables {
    () => {
        "
CREATE TABLE IF NOT EXISTS longhaul.tables (
    job text NOT NULL,
    table_name text NOT NULL,
    target_table text NOT NULL,
    key_columns text[] NOT NULL,
    plan jsonb,
    target_files text,
    epoch bigint NOT NULL,
    runs bigint NOT NULL DEFAULT 1,
    settled text[],
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, table_name));
"
    };
}

const TABLES: &str = concat!(
    "
CREATE TABLE IF NOT EXISTS longhaul.format (version integer NOT NULL);
INSERT INTO longhaul.format SELECT 2 WHERE NOT EXISTS (SELECT FROM longhaul.format);
CREATE TABLE IF NOT EXISTS longhaul.jobs (
    job text PRIMARY KEY,
    source_system text,
    source_database text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now());
",
    tables!(),
    "
CREATE TABLE IF NOT EXISTS longhaul.batches (
    job text NOT NULL,
    table_name text NOT NULL,
    batch bigint NOT NULL,
    pass smallint NOT NULL,
    format text,
    low text[] NOT NULL,
    high text[] NOT NULL,
    low_hash text NOT NULL,
    rows bigint NOT NULL,
    rows_written bigint NOT NULL,
    bytes bigint NOT NULL,
    checksum bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, table_name, batch));
CREATE UNIQUE INDEX IF NOT EXISTS batches_low ON longhaul.batches (job, table_name, low_hash) WHERE pass = 0;
COMMENT ON COLUMN longhaul.batches.low IS 'the key before the first of the range; {} is the start of the table';
COMMENT ON COLUMN longhaul.batches.rows IS 'rows that were sent; in passes after the first, those that were missing';
COMMENT ON COLUMN longhaul.batches.format IS 'the COPY format of which bytes and checksum speak';
"
);

const FROM_1: &str = concat!(
    "
",
    tables!(),
    "
INSERT INTO longhaul.tables (job, table_name, target_table, key_columns, epoch, runs, settled, updated_at)
    SELECT job, source_table, target_table, key_columns, epoch, runs, settled, updated_at FROM longhaul.jobs;
ALTER TABLE longhaul.jobs DROP COLUMN source_table, DROP COLUMN target_table, DROP COLUMN key_columns,
    DROP COLUMN epoch, DROP COLUMN runs, DROP COLUMN settled;
ALTER TABLE longhaul.batches ADD COLUMN format text, ADD COLUMN low_hash text;
UPDATE longhaul.batches SET low_hash =
    pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(low::text, pg_catalog.getdatabaseencoding())), 'hex');
ALTER TABLE longhaul.batches ALTER COLUMN low_hash SET NOT NULL;
DROP INDEX longhaul.batches_low;
CREATE UNIQUE INDEX batches_low ON longhaul.batches (job, table_name, low_hash) WHERE pass = 0;
UPDATE longhaul.format SET version = 2;
"
);

/// How the ledger on the target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not there: the first job makes it.
    Absent,
    /// Of an earlier layout: the next job upgrades it.
    Earlier,
    /// There, and of this version's layout.
    Current,
}

/// What was found of the ledger without writing anything.
#[derive(Debug)]
pub struct Probe {
    /// How it is; `None` where the rights to ask are missing.
    pub state: Option<State>,
    /// The rights that a job needs to make it, or to write to it.
    pub rights: Vec<Right>,
    /// What an administrator can run where one is missing.
    pub hint: String,
}

/// What a job does with each table of the ledger.
const USES: [(&str, &[&str]); 4] = [
    ("format", &["SELECT"]),
    ("jobs", &["SELECT", "INSERT", "UPDATE"]),
    ("tables", &["SELECT", "INSERT", "UPDATE"]),
    ("batches", &["SELECT", "INSERT"]),
];

/// Looks whether the ledger is there and may be written to, or could be made. Reads only.
///
/// # Errors
/// `Ledger` where a later version wrote it, or it is not to be trusted; or what goes wrong in asking.
pub async fn probe(target: &Session, owner: Option<&str>) -> Result<Probe> {
    trust::check(target, owner).await?;
    let what = "look for the ledger (schema longhaul) on the target";
    let sql = "SELECT n.oid IS NOT NULL, current_user, pg_catalog.has_database_privilege(current_database(), 'CREATE'),
                      pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.has_schema_privilege(n.oid, 'CREATE')
               FROM (SELECT pg_catalog.to_regnamespace('longhaul')::pg_catalog.oid) n(oid)";
    let row = target.row(what, sql).await?;
    let field = |number: usize| row.get(number).and_then(Option::as_deref).unwrap_or_default();
    let right = |right, on: &str, granted: bool| Right {
        side: Side::Target,
        right,
        on: on.to_owned(),
        granted,
    };
    let is_there = |granted: &str| granted == "t";
    let hint = grants(field(1));
    if field(0) != "t" {
        let database = format!(
            "database {}, where the ledger is made (schema longhaul)",
            target.database()
        );
        let rights = vec![right("CREATE", &database, is_there(field(2)))];
        let state = Some(State::Absent);
        return Ok(Probe { state, rights, hint });
    }
    let schema = "schema longhaul, the ledger's";
    let mut rights = vec![right("USAGE", schema, is_there(field(3)))];
    let mut found = Vec::new();
    for (table, uses) in USES {
        let asked: Vec<_> = uses
            .iter()
            .map(|right| format!("pg_catalog.has_table_privilege(c.oid, '{right}')"))
            .collect();
        let sql = format!(
            "SELECT {} FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.relname = '{table}'
             AND c.relnamespace = pg_catalog.to_regnamespace('longhaul')",
            asked.join(", ")
        );
        let Some(row) = target.rows(what, &sql).await?.pop() else {
            continue;
        };
        found.push(table);
        let on = format!("table longhaul.{table}");
        rights.extend(
            uses.iter()
                .zip(row)
                .map(|(name, granted)| right(*name, &on, granted.as_deref() == Some("t"))),
        );
    }
    if !["format", "jobs", "batches"]
        .iter()
        .all(|table| found.contains(table))
    {
        rights.push(right("CREATE", schema, is_there(field(4))));
        return Ok(Probe {
            state: Some(State::Absent),
            rights,
            hint,
        });
    }
    if rights.iter().any(|right| !right.granted) {
        return Ok(Probe {
            state: None,
            rights,
            hint,
        });
    }
    let state = match version(target).await? {
        FORMAT => State::Current,
        1 => State::Earlier,
        version => return Err(unknown_version(version)),
    };
    Ok(Probe {
        state: Some(state),
        rights,
        hint,
    })
}

fn unknown_version(version: u32) -> Error {
    let words = format!(
        "the ledger on the target has format {version}; this version of longhaul knows formats up to {FORMAT}"
    );
    Error::new(Side::Target, Kind::Ledger, words)
        .hinted("use the version of longhaul that wrote it, or a later one")
}

/// Creates the ledger where it is not there yet, and upgrades one of an earlier layout. Safe to race and to repeat.
///
/// It must belong to this user, to a superuser, or to the role that the operator names: `owner`.
///
/// # Errors
/// `Privilege`, with the SQL that an administrator can run; `Ledger` where a later version wrote it, or somebody whom
/// nobody has named.
pub async fn ensure(target: &Session, owner: Option<&str>) -> Result<()> {
    trust::check(target, owner).await?;
    let what = "look for the ledger (schema longhaul) on the target";
    let sql = "SELECT pg_catalog.to_regnamespace('longhaul') IS NOT NULL,
                      (SELECT count(*) FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.relname IN ('format', 'jobs', 'batches')
                       AND c.relnamespace = pg_catalog.to_regnamespace('longhaul')), current_user";
    let found = target.row(what, sql).await?;
    let field = |number: usize| found.get(number).and_then(Option::as_deref).unwrap_or_default();
    if field(1) != "3" {
        let what = "create the ledger (schema longhaul) on the target";
        if field(0) != "t" {
            let made = change(target, what, SCHEMA).await;
            made.map_err(|error| with_grants(error, field(2)))?;
            // Somebody else may have been quicker.
            trust::check(target, owner).await?;
        }
        let made = change(target, what, TABLES).await;
        made.map_err(|error| with_grants(error, field(2)))?;
    }
    match version(target).await? {
        FORMAT => Ok(()),
        1 => upgrade(target).await,
        version => Err(unknown_version(version)),
    }
}

async fn version(target: &Session) -> Result<u32> {
    let what = "read the ledger's version on the target";
    let row = target
        .row(what, "SELECT max(version) FROM longhaul.format")
        .await?;
    let version = row.into_iter().next().flatten();
    Ok(version.and_then(|text| text.parse().ok()).unwrap_or(0))
}

async fn upgrade(target: &Session) -> Result<()> {
    // Whoever comes second finds the upgrade done: the condition is looked at under the lock.
    let sql = format!(
        "DO $upgrade$ BEGIN IF (SELECT max(version) FROM longhaul.format) = 1 THEN {FROM_1} END IF; END $upgrade$;"
    );
    let upgraded = change(target, "bring the ledger on the target to format 2", &sql).await;
    upgraded.map_err(|error| match error.kind() {
        Kind::Privilege => error.hinted("run longhaul once as the owner of the tables in schema longhaul"),
        _ => error,
    })
}

/// Runs statements in one transaction, one process at a time.
async fn change(target: &Session, what: &str, statements: &str) -> Result<()> {
    let sql = format!("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({CREATION_LOCK}); {statements} COMMIT");
    let Err(error) = target.rows(what, &sql).await else {
        return Ok(());
    };
    if !target.is_closed() {
        target.rows("roll back on the target", "ROLLBACK").await?;
    }
    Err(error)
}

fn with_grants(error: Error, user: &str) -> Error {
    match error.kind() {
        Kind::Privilege => error.hinted(grants(user)),
        _ => error,
    }
}

/// What lets a user make the ledger, or work with it.
fn grants(user: &str) -> String {
    let user = quote_identifier(user);
    format!(
        "an administrator of the target can run: CREATE SCHEMA longhaul AUTHORIZATION {user}; (or, if it is there and \
         belongs to another role: GRANT USAGE, CREATE ON SCHEMA longhaul TO {user}; GRANT SELECT, INSERT, UPDATE, DELETE \
         ON ALL TABLES IN SCHEMA longhaul TO {user}; and you name that role: --ledger-owner ROLE)"
    )
}
