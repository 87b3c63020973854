//! Taking a job's table over: who may, whether what was copied is still right and still there, and from where it goes on.

use super::rewritten::must_have_rows;
use super::segments::{key_from_json, key_of, read_position};
use super::{in_transaction, lock_key, of_table, partitions};
use crate::failpoint::failpoint;
use crate::postgres::connect::Session;
use crate::postgres::cursor::{rows_of, where_range};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_literal, quote_text_array};
use crate::table::{Key, KeyRange, Lost, Plan, Position, TableSpec, Tally};

/// So long a take-over waits for the batches in flight of the run before; then their sessions are ended.
const BATCHES_END_WITHIN: &str = "10s";
/// So many epochs of before are remembered: as many attempts to take the table over may fail, and a run still finds its own.
const EPOCHS_KEPT: usize = 16;
/// So many ranges are probed in one statement.
const PROBED_AT_ONCE: usize = 200;

/// What the ledger has of a job's table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Whether the job was there before.
    pub known: bool,
    /// What its batches did.
    pub tally: Tally,
}

/// The ledger's row of a job's table.
pub(super) struct Entry {
    plan: Option<Plan>,
    pub(super) target_files: Option<String>,
    pub(super) settled: Option<Key>,
}

/// Looks what the ledger has of the job, and whether it may go on from there. Takes nothing over, writes nothing.
///
/// # Errors
/// As [`take_over`].
pub async fn inspect(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Found> {
    let mine = of_table(spec, plan);
    in_transaction(target, async || {
        let entry = read_entry(target, spec, plan).await?;
        let (tally, _) = super::segments::read_tally(target, &mine).await?;
        let Some(entry) = entry else {
            return Ok(Found { known: false, tally });
        };
        check_entry(target, spec, plan, &entry, &mine).await?;
        Ok(Found { known: true, tally })
    })
    .await
}

/// Takes the table over: a new epoch, the plan of now, and what is done so far.
///
/// The ledger must be there ([`ensure`](super::ensure)). Waits for batches of an older epoch that are committing, and ends
/// the sessions of those that do not end. Each call raises the epoch, and so ends every other run of the job.
///
/// # Errors
/// `Ledger` where the job's name belongs to another source, table or key; `Incompatible` where rows that were copied are
/// not right any more; `Emptied` where they are not there any more; or what goes wrong in asking.
pub async fn take_over(
    target: &Session,
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
) -> Result<Position> {
    let mine = of_table(spec, plan);
    let position = in_transaction(target, async || {
        lock_alone(target, spec, plan).await?;
        let entry = read_entry(target, spec, plan).await?;
        if let Some(entry) = &entry {
            check_entry(target, spec, plan, entry, &mine).await?;
            warn_of_rewrite(spec, plan, entry);
        }
        let (epoch, begun) = write_entry(target, spec, plan).await?;
        let position = read_position(target, source, plan, &mine).await?;
        let mut settled = entry.as_ref().and_then(|entry| entry.settled.clone());
        let earlier = entry.as_ref().and_then(|entry| entry.plan.as_ref());
        if let (Some(earlier), Some(end)) = (earlier, position.end()) {
            let passed = partitions::passed_by(source, plan, earlier, end).await?;
            if !passed.is_empty() {
                warn_of_partitions(spec, plan, &passed);
                partitions::unsettle(target, spec, plan, Some(epoch)).await?;
                settled = None;
            }
        }
        Ok(Position {
            epoch,
            begun,
            settled,
            ..position
        })
    })
    .await?;
    failpoint!("ledger::after_take_over");
    Ok(position)
}

/// How the ledger says that a job's table was copied.
///
/// # Errors
/// `Ledger` where it does not know the job, or an earlier version of longhaul kept no plan; or what goes wrong in asking.
pub async fn stored_plan(target: &Session, spec: &TableSpec) -> Result<Plan> {
    super::ensure(target, spec.ledger_owner.as_deref()).await?;
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!(
        "SELECT plan FROM longhaul.tables WHERE job = {}",
        quote_literal(&spec.job)
    );
    let wrong = |words: &str| {
        Error::new(Side::Target, Kind::Ledger, format!("cannot {what}"))
            .because(words)
            .hinted("hold the target against the source: --against source")
    };
    let Some(row) = target.rows(&what, &sql).await?.pop() else {
        return Err(wrong("it is not there"));
    };
    let Some(text) = row.into_iter().next().flatten() else {
        return Err(wrong("an earlier version of longhaul wrote it, and kept no plan"));
    };
    let plan = plan_from_json(&text).ok_or_else(|| wrong("its plan cannot be read"))?;
    crate::postgres::catalog::with_order_of_target(target, plan).await
}

/// Refuses a ledger whose account of the job begins before what an earlier run knew.
///
/// # Errors
/// `Emptied`: the ledger, and the rows with it, are of a time before the job was begun anew.
pub fn check_begun(spec: &TableSpec, known: &Position, now: &Position) -> Result<()> {
    if now.begun == 0 || now.begun >= known.begun {
        return Ok(());
    }
    let words = format!(
        "the target was restored to an older state than job {} was started over in (--restart): the rows and the ledger \
         that are there are of the time before",
        spec.job
    );
    Err(Error::new(Side::Target, Kind::Emptied, words))
}

/// What the target had confirmed by `known` and does not have `now`.
///
/// # Errors
/// `Emptied` where the ledger is of a time before the job was begun anew; or what goes wrong in asking since when.
pub async fn lost(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    known: &Position,
    now: &Position,
) -> Result<Option<Lost>> {
    check_begun(spec, known, now)?;
    let batches = known.tally.batches.saturating_sub(now.tally.batches);
    let rows = known.tally.rows.saturating_sub(now.tally.rows);
    // Fewer batches with the same rows: a repair has joined their receipts. Of a run that has ended all that is known is how
    // far it came: where the ledger comes as far, it was a repair that found rows gone from the source as well.
    let is_of_the_past = known.epoch == 0;
    if rows == 0 || (is_of_the_past && now.copied == known.copied && now.beyond.is_empty()) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT pg_catalog.to_char(max(committed_at), 'YYYY-MM-DD HH24:MI:SS \"UTC\"') FROM longhaul.batches WHERE {}",
        of_table(spec, plan)
    );
    let row = target
        .row("read the newest entry of the target's ledger", &sql)
        .await?;
    Ok(Some(Lost {
        batches,
        rows,
        since: row.into_iter().next().flatten(),
    }))
}

/// The table's lock, exclusively. Batches that hold it may end; a session that does not let go is ended.
async fn lock_alone(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<()> {
    let key = lock_key(spec, plan);
    let what = format!("take job {} over in the target's ledger", spec.job);
    let free = format!("SELECT pg_catalog.pg_try_advisory_xact_lock({key})");
    if target.row(&what, &free).await?.first().and_then(Option::as_deref) == Some("t") {
        return Ok(());
    }
    tracing::warn!(
        "job {} is held by another process, or what is left of one: waiting for its batches in flight ({}); those that do not \
         end within {BATCHES_END_WITHIN} are ended, and that process stops",
        spec.job,
        holders(target, &what, key).await?
    );
    let locked = format!(
        "SAVEPOINT waiting; SET LOCAL lock_timeout = '{BATCHES_END_WITHIN}';
         SELECT pg_catalog.pg_advisory_xact_lock({key}); RELEASE waiting; SET LOCAL lock_timeout = '60s'"
    );
    let Err(error) = target.rows(&what, &locked).await else {
        return Ok(());
    };
    if error.sqlstate() != Some("55P03") {
        return Err(error);
    }
    tracing::warn!(
        "the other process's batches of job {} do not end: their sessions are ended",
        spec.job
    );
    let ending = format!(
        "ROLLBACK TO waiting; SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_locks WHERE {}",
        held_by_others(key)
    );
    target.rows(&what, &ending).await?;
    target.rows(&what, &locked).await.map(drop)
}

/// Which of `pg_catalog.pg_locks` are others' on that advisory lock.
fn held_by_others(key: i64) -> String {
    let (high, low) = (key.cast_unsigned() >> 32, key.cast_unsigned() & 0xFFFF_FFFF);
    format!(
        "locktype = 'advisory' AND classid = {high}::pg_catalog.oid AND objid = {low}::pg_catalog.oid AND objsubid = 1
           AND granted AND pid <> pg_catalog.pg_backend_pid()
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    )
}

/// Whose sessions hold the lock, as the target knows them: `sessions 4711, 4712 from 10.0.0.5`.
async fn holders(target: &Session, what: &str, key: i64) -> Result<String> {
    let sql = format!(
        "SELECT coalesce(pg_catalog.string_agg(pid::text, ', ' ORDER BY pid), 'none any more'), coalesce((SELECT
           ' from ' || pg_catalog.string_agg(DISTINCT pg_catalog.host(a.client_addr), ', ')
           FROM pg_catalog.pg_stat_activity a WHERE a.pid IN (SELECT pid FROM pg_catalog.pg_locks WHERE {held})), '')
         FROM pg_catalog.pg_locks WHERE {held}",
        held = held_by_others(key)
    );
    let row = target.row(what, &sql).await?;
    let words: Vec<_> = row.into_iter().flatten().collect();
    Ok(format!("sessions {}", words.concat()))
}

pub(super) async fn read_entry(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<Option<Entry>> {
    let what = format!("read job {} in the target's ledger", spec.job);
    let sql = format!(
        "SELECT coalesce(j.source_system, ''), j.source_database, t.table_name, t.target_table, to_json(t.key_columns),
                t.plan, t.target_files, to_json(t.settled)
         FROM longhaul.jobs j JOIN longhaul.tables t ON t.job = j.job WHERE j.job = {}",
        quote_literal(&spec.job)
    );
    let Some(row) = target.rows(&what, &sql).await?.pop() else {
        return Ok(None);
    };
    let field = |number: usize| row.get(number).and_then(Option::as_deref);
    let keys = field(4).map(key_from_json).transpose()?.flatten();
    let there = Identity {
        system: field(0).filter(|system| !system.is_empty()),
        database: field(1).unwrap_or_default(),
        source: field(2).unwrap_or_default().to_owned(),
        target: field(3).unwrap_or_default().to_owned(),
        key: keys.map(|key| key.0).unwrap_or_default(),
    };
    let here = Identity::of(plan);
    if !there.is_same_as(&here) {
        return Err(Error::new(
            Side::Target,
            Kind::Ledger,
            format!(
                "job {} in the target's ledger copies {there}, and this one copies {here}",
                spec.job
            ),
        ));
    }
    let unreadable = || {
        let words = format!(
            "the plan of job {} in the target's ledger cannot be read",
            spec.job
        );
        Error::new(Side::Target, Kind::Ledger, words)
    };
    Ok(Some(Entry {
        plan: field(5)
            .map(|text| plan_from_json(text).ok_or_else(unreadable))
            .transpose()?,
        target_files: field(6).map(str::to_owned),
        settled: field(7).map(|text| key_of(plan, text)).transpose()?.flatten(),
    }))
}

/// A plan as it was written; `None` where it is none, or one without a key.
pub(in crate::postgres) fn plan_from_json(text: &str) -> Option<Plan> {
    let plan: Option<Plan> = serde_json::from_str(text).ok();
    plan.filter(|plan| !plan.key.is_empty())
}

/// What a job copies: what must be the same for one to go on where another was.
struct Identity<'a> {
    system: Option<&'a str>,
    database: &'a str,
    source: String,
    target: String,
    key: Vec<String>,
}

impl<'a> Identity<'a> {
    fn of(plan: &'a Plan) -> Self {
        Self {
            system: plan.source_identity.system_identifier.as_deref(),
            database: &plan.source_identity.database,
            source: plan.source.to_string(),
            target: plan.target.to_string(),
            key: plan.key.iter().map(|column| column.name.clone()).collect(),
        }
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let system = self.system.is_none() || other.system.is_none() || self.system == other.system;
        system
            && self.database == other.database
            && self.source == other.source
            && self.target == other.target
            && self.key == other.key
    }
}

impl std::fmt::Display for Identity<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of database {} (cluster {}) to {} along ({})",
            self.source,
            self.database,
            self.system.unwrap_or("?"),
            self.target,
            self.key.join(", ")
        )
    }
}

/// Whether the rows that were copied are still right, and still there.
async fn check_entry(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    entry: &Entry,
    mine: &str,
) -> Result<()> {
    let ranges = ranges_with_rows(target, plan, mine).await?;
    // Where rows lie in other places by now, a range that had none may have some.
    let is_done = ranges.is_empty()
        && !(plan.key_basis.is_places() && super::segments::read_tally(target, mine).await?.0.batches > 0);
    if is_done {
        return Ok(());
    }
    if let Some(earlier) = &entry.plan {
        let differences = plan.differences_from(earlier);
        if !differences.is_empty() {
            let words = format!(
                "job {} has copied rows of {} as it was before: {}",
                spec.job,
                plan.source,
                differences.join("; ")
            );
            return Err(Error::new(Side::Source, Kind::Incompatible, words));
        }
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let moved = entry.target_files.as_ref() != Some(&plan.target_files);
    let without_rows = if moved && plan.same_order {
        count_empty(target, plan, &ranges).await?
    } else if crate::postgres::catalog::target_is_empty(target, plan).await? {
        ranges.len()
    } else {
        0
    };
    if without_rows == 0 {
        return match &entry.target_files {
            Some(before) if moved => count_rows(target, spec, plan, before, mine).await,
            _ => Ok(()),
        };
    }
    let words = format!(
        "target table {} has lost rows that job {} has copied: {without_rows} of {} ranges with rows have none any more; \
         it was emptied, or created again",
        plan.target,
        spec.job,
        ranges.len()
    );
    Err(Error::new(Side::Target, Kind::Emptied, words))
}

/// The numbers of a table and of its partitions, of the files that they are in.
pub(super) fn table_numbers(files: &str) -> Vec<String> {
    let number = |file: &str| {
        let number = file.trim_start_matches('(').split(',').next();
        number.unwrap_or_default().to_owned()
    };
    let numbers = files.split(' ').map(number);
    numbers.filter(|number| number.parse::<u32>().is_ok()).collect()
}

/// A partition that is gone or was emptied leaves rows in every range, of other partitions; a table that was created again may
/// have some of them: then all rows are counted.
async fn count_rows(target: &Session, spec: &TableSpec, plan: &Plan, before: &str, mine: &str) -> Result<()> {
    let now = table_numbers(&plan.target_files);
    // A batch that waited for a TRUNCATE of a partition has filled it again a little.
    let is_gone = |number| !now.contains(number);
    let suspicious = plan.target_is_partitioned || table_numbers(before).iter().any(is_gone);
    if !suspicious {
        return Ok(());
    }
    let (tally, _) = super::segments::read_tally(target, mine).await?;
    let cause = match plan.target_is_partitioned {
        true => "a partition was emptied, detached or dropped",
        false => "it was created again with fewer",
    };
    must_have_rows(target, spec, plan, tally.rows, cause).await
}

/// Whether the source still has rows where a migrate has copied some: one that was emptied on the way has none to finish with.
///
/// Asked where its files are others than they were: a TRUNCATE makes new ones, and so does a VACUUM FULL.
///
/// # Errors
/// `Emptied`; or what goes wrong in asking.
pub async fn check_source(source: &Session, target: &Session, spec: &TableSpec, plan: &Plan) -> Result<()> {
    let Some(earlier) = read_entry(target, spec, plan).await?.and_then(|entry| entry.plan) else {
        return Ok(());
    };
    if earlier.source_files == plan.source_files {
        return Ok(());
    }
    let ranges = ranges_with_rows(target, plan, &of_table(spec, plan)).await?;
    let empty = count_empty(source, plan, &ranges).await?;
    if empty == 0 {
        return Ok(());
    }
    let words = format!(
        "source table {} has no row any more in {empty} of {} ranges that job {} has copied rows of: it was emptied, or \
         filled again",
        plan.source,
        ranges.len(),
        spec.job
    );
    Err(Error::new(Side::Source, Kind::Emptied, words).hinted(
        "bring its rows back; or copy what is there now, over what was copied: --restart --on-conflict update",
    ))
}

fn warn_of_partitions(spec: &TableSpec, plan: &Plan, passed: &[String]) {
    tracing::warn!(
        "source table {} has partitions that were not there when job {} came by: {}. The job looks again at all that it has copied, \
         and adds the rows that are missing",
        plan.source,
        spec.job,
        passed.join(", ")
    );
}

/// Nobody can tell a VACUUM FULL of the source from a TRUNCATE that was followed by other rows.
fn warn_of_rewrite(spec: &TableSpec, plan: &Plan, entry: &Entry) {
    let before = entry.plan.as_ref().map(|earlier| &earlier.source_files);
    if before.is_some_and(|before| *before != plan.source_files) {
        tracing::warn!(
            "source table {} was rewritten, or emptied and filled again, since job {} last looked at it: rows that were \
             copied before that are as they were then (longhaul verify {} --against source tells whether they differ)",
            plan.source,
            spec.job,
            spec.job
        );
    }
}

/// The ranges of the ledger that brought rows.
async fn ranges_with_rows(target: &Session, plan: &Plan, mine: &str) -> Result<Vec<KeyRange>> {
    let sql = format!(
        "SELECT to_json(low), to_json(high) FROM longhaul.batches WHERE {mine} AND pass = 0 AND rows > 0 ORDER BY batch"
    );
    let rows = target
        .rows("read the ranges of the target's ledger", &sql)
        .await?;
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        if let [Some(low), Some(high)] = row.as_slice()
            && let (low, Some(high)) = (key_of(plan, low)?, key_of(plan, high)?)
        {
            ranges.push(KeyRange { low, high });
        }
    }
    Ok(ranges)
}

/// How many of the ranges have no row on one side, by its index.
async fn count_empty(session: &Session, plan: &Plan, ranges: &[KeyRange]) -> Result<usize> {
    let side = session.side();
    let table = match side {
        Side::Source => &plan.source,
        Side::Target => &plan.target,
    };
    let what = format!("look for the rows of {side} table {table}");
    let table = rows_of(side, plan);
    let mut empty = 0;
    for some in ranges.chunks(PROBED_AT_ONCE) {
        let probes = some.iter().map(|range| {
            format!(
                "(EXISTS (SELECT FROM {table} AS t{}))",
                where_range(side, plan, range)
            )
        });
        let sql = format!(
            "SELECT count(*) FROM (VALUES {}) AS probed(there) WHERE NOT there",
            probes.collect::<Vec<_>>().join(", ")
        );
        let row = session.row(&what, &sql).await?;
        let count = row.into_iter().next().flatten();
        empty += count.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    }
    Ok(empty)
}

/// Writes job and table, with a new epoch: the microseconds since 1970, so that one of a forgotten past never comes again.
///
/// Gives that epoch, and when the ledger's account of the job begins.
async fn write_entry(target: &Session, spec: &TableSpec, plan: &Plan) -> Result<(u64, u64)> {
    let what = format!("take job {} over in the target's ledger", spec.job);
    let system = plan.source_identity.system_identifier.as_deref();
    let keys: Vec<_> = plan.key.iter().map(|column| column.name.clone()).collect();
    let written = serde_json::to_string(plan).map_err(|error| {
        Error::new(Side::Target, Kind::Ledger, format!("cannot {what}")).because(error.to_string())
    })?;
    let sql = format!(
        "INSERT INTO longhaul.jobs (job, source_system, source_database) VALUES ({job}, {system}, {database})
         ON CONFLICT (job) DO UPDATE SET source_system = coalesce(jobs.source_system, excluded.source_system), updated_at = now();
         INSERT INTO longhaul.tables AS t (job, table_name, target_table, key_columns, plan, target_files, epoch)
         VALUES ({job}, {source}, {into}, {keys}, {plan}, {files}, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
         ON CONFLICT (job, table_name) DO UPDATE SET epoch = greatest(t.epoch + 1, excluded.epoch), runs = t.runs + 1,
             plan = excluded.plan || coalesce((SELECT pg_catalog.jsonb_object_agg(e.key, e.value) FROM pg_catalog.jsonb_each(t.plan) e
                 WHERE e.key IN ('source_seen', 'source_clock', 'unsettled_at', 'still_since', 'snapshot')), '{{}}')
                 || pg_catalog.jsonb_build_object('epochs',
                     (pg_catalog.jsonb_build_array(t.epoch) || coalesce(t.plan -> 'epochs', '[]')) - {EPOCHS_KEPT}),
             target_files = excluded.target_files, updated_at = now()
         RETURNING epoch, (SELECT (extract(epoch FROM created_at) * 1000000)::bigint FROM longhaul.jobs WHERE job = {job})",
        job = quote_literal(&spec.job),
        system = system.map_or("NULL".to_owned(), quote_literal),
        database = quote_literal(&plan.source_identity.database),
        source = quote_literal(&plan.source.to_string()),
        into = quote_literal(&plan.target.to_string()),
        keys = quote_text_array(&keys),
        plan = quote_literal(&written),
        files = quote_literal(&plan.target_files),
    );
    let row = target.row(&what, &sql).await?;
    let number = |field: usize| {
        row.get(field)
            .and_then(Option::as_deref)
            .and_then(|text| text.parse().ok())
    };
    let epoch = number(0).ok_or_else(|| {
        Error::new(Side::Target, Kind::Ledger, format!("cannot {what}")).because("it has no epoch")
    })?;
    Ok((epoch, number(1).unwrap_or(0)))
}
