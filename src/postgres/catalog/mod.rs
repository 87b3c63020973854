//! Looks at a table on both sides, before any row moves, and decides how it is copied, or says why it cannot be.
//!
//! A pure read of both catalogs. Everything that would fail at the millionth row and can be known now is an error here:
//! missing tables, columns and rights, types that differ, values that would be cut, a missing key, triggers that change
//! rows, one and the same table on both sides. What was read belongs to a digest, which every batch compares.

mod columns;
mod compare;
mod digest;
mod encodings;
mod expressions;
mod fields;
mod growth;
mod key;
mod order;
mod pairing;
mod server;
mod structure;
mod survey;
mod table;
mod triggers;
mod widen;

use super::connect::Session;
use super::cursor::rows_of;
use super::error::{Error, Kind, Result, Side};
use super::words::plain;
use crate::table::{DatabaseIdentity, Growth, KeyChoice, Plan, PlanDigest, Shape, TableName, TableSpec};
use key::Chosen;
use server::ServerIdentity;
use table::Relation;
use xxhash_rust::xxh3::xxh3_64;

pub(super) use digest::{digest_sql, files_sql};
pub use growth::check_growth;
pub(super) use growth::need_not_grow;
pub use pairing::LeftOut;
pub(super) use survey::Purpose;
pub use survey::{Read, Right, Survey};
pub use triggers::check_repair;

const FILTERED_SYNC: &str = "--where is asked of each row when its key is passed: a row that comes to fit later is not found by this \
                             sync (longhaul verify --against source names it)";

/// How often both catalogs are read before tables that change all the time are left alone for now.
const ATTEMPTS: u32 = 5;

/// Decides how the table is copied. Reads only; repeatable.
///
/// The plan's digest belongs to what was read: both sides had it before the catalogs were read, and after.
///
/// # Errors
/// The first reason why it cannot be copied, with a hint; or what goes wrong in reading the catalogs.
pub async fn examine(source: &Session, target: &Session, spec: &TableSpec) -> Result<Plan> {
    survey(source, target, spec, Purpose::Copy).await.into_plan()
}

/// The same for a verification: what would stop or change only what is written is passed over. [`check_repair`] asks for that.
///
/// # Errors
/// As [`examine`].
pub async fn examine_to_read(source: &Session, target: &Session, spec: &TableSpec) -> Result<Plan> {
    survey(source, target, spec, Purpose::Verify).await.into_plan()
}

/// The same, with all the reasons, and with what is needed.
pub(super) async fn survey(source: &Session, target: &Session, spec: &TableSpec, purpose: Purpose) -> Survey {
    let mut survey = Survey::default();
    let (read, written) = tokio::join!(
        table::resolve(source, &spec.source_table, &spec.key),
        table::resolve(target, &spec.target_table, &spec.key)
    );
    let (read, written) = match (read, written) {
        (Ok(read), Ok(written)) => (read, written),
        (read, written) => {
            let alone = match (&read, &written) {
                (Ok(read), Err(_)) => Some((source, read.clone())),
                (Err(_), Ok(written)) => Some((target, written.clone())),
                _ => None,
            };
            survey.troubles = unresolved(spec, read.err(), written.err());
            if let Some((session, name)) = alone {
                let found = survey_one(session, &name, spec).await;
                survey.keep(found).into_iter().for_each(|one| survey.add(one));
            }
            return survey;
        }
    };
    let found = settle(source, target, spec, (&read, &written), purpose).await;
    survey.keep(found).unwrap_or(survey)
}

/// What one misspelt name leads to is said once: where both sides take the same name, the source's trouble is the cause.
fn unresolved(spec: &TableSpec, read: Option<Error>, written: Option<Error>) -> Vec<Error> {
    let follows = |read: &Error, written: &Error| {
        spec.source_table == spec.target_table
            && matches!(read.kind(), Kind::UndefinedObject | Kind::NotATable)
            && written.kind() == Kind::UndefinedObject
    };
    match (read, written) {
        (Some(read), Some(written)) if follows(&read, &written) => vec![read],
        (read, written) => read.into_iter().chain(written).collect(),
    }
}

/// What can be said of a table when the other side's is not known.
async fn survey_one(session: &Session, name: &TableName, spec: &TableSpec) -> Result<Survey> {
    let mut survey = Survey::default();
    let table = table::read(session, name, &spec.key).await?;
    survey.need_table(&table, session.side(), spec.on_conflict, Purpose::Copy);
    if session.side() == Side::Source {
        survey.keep(key::choose(&table, &table, &spec.key, &Shape::default()));
    }
    Ok(survey)
}

/// What can be found of one side alone, where the other cannot be reached.
pub async fn look_at_one(session: &Session, spec: &TableSpec) -> Survey {
    let wanted = match session.side() {
        Side::Source => &spec.source_table,
        Side::Target => &spec.target_table,
    };
    let mut survey = Survey::default();
    if let Some(name) = survey.keep(table::resolve(session, wanted, &spec.key).await) {
        let found = survey_one(session, &name, spec).await;
        survey.keep(found).into_iter().for_each(|one| survey.add(one));
    }
    survey
}

/// Reads both catalogs until they hold still.
async fn settle(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    (read, written): (&TableName, &TableName),
    purpose: Purpose,
) -> Result<Survey> {
    let mut before = read_state(source, target, read, written).await?;
    for _ in 0..ATTEMPTS {
        let decided = decide(source, target, spec, (read, written), purpose).await;
        let after = read_state(source, target, read, written).await?;
        if before == after {
            let mut survey = decided?;
            if let Some(plan) = &mut survey.plan {
                plan.digest = PlanDigest {
                    shape: shape_digest(plan),
                    ..after.digest
                };
                plan.source_files = after.source_files;
                plan.target_files = after.target_files;
            }
            return Ok(survey);
        }
        before = after;
    }
    Err(Error::new(
        Side::Source,
        Kind::Transient,
        format!("source table {read} or target table {written} changed each time while its catalog was read"),
    ))
}

/// What is read of both tables, as a short text: empty where all rows are copied as they are, as it always was.
fn shape_digest(plan: &Plan) -> String {
    match plan.shape_shown() {
        shown if shown.is_empty() => shown,
        shown => format!("{:016x}", xxh3_64(shown.as_bytes())),
    }
}

/// Both tables as they are at a moment.
#[derive(PartialEq, Eq)]
struct State {
    digest: PlanDigest,
    source_files: String,
    target_files: String,
}

async fn read_state(
    source: &Session,
    target: &Session,
    read: &TableName,
    written: &TableName,
) -> Result<State> {
    let ask = async |session: &Session, table: &TableName| {
        let what = format!("read how {} table {table} is", session.side());
        let sql = format!("{}; {}", digest_sql(table), files_sql(table));
        let rows = session.rows(&what, &sql).await?;
        let mut texts = rows.into_iter().map(|row| row.into_iter().next().flatten());
        match (texts.next().flatten(), texts.next().flatten()) {
            (Some(digest), Some(files)) => Ok((digest, files)),
            _ => Err(Error::new(
                session.side(),
                Kind::UndefinedObject,
                format!("table {table} does not exist on the {} any more", session.side()),
            )),
        }
    };
    let (from, to) = tokio::join!(ask(source, read), ask(target, written));
    let ((source_digest, source_files), (target_digest, target_files)) = (from?, to?);
    Ok(State {
        digest: PlanDigest {
            source: source_digest,
            target: target_digest,
            shape: String::new(),
        },
        source_files,
        target_files,
    })
}

/// A plan without digest and files, with all that stands in its way.
///
/// # Errors
/// What goes wrong in reading the catalogs: then nothing is known.
async fn decide(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    (source_name, target_name): (&TableName, &TableName),
    purpose: Purpose,
) -> Result<Survey> {
    let mut survey = Survey::default();
    let (read, written) = tokio::join!(
        table::read(source, source_name, &spec.key),
        table::read(target, target_name, &spec.key)
    );
    let (read, written) = (read?, written?);
    let (from, to) = tokio::join!(server::read_identity(source), server::read_identity(target));
    let (from, to) = (from?, to?);
    if survey.keep(check_not_same(&read, &written, &from, &to)).is_none() {
        return Ok(survey);
    }
    survey.need_all(&read, &written, &to, spec.on_conflict, purpose);
    let foreign = table::foreign_partition(target, &written).await?;
    survey.troubles.extend(foreign);
    let described = expressions::describe(source, &read, &spec.shape, &mut survey.troubles).await?;
    let pairing = pairing::pair(&read, &written, &spec.shape, &described, &mut survey.troubles);
    let pairs = &pairing.pairs;
    survey.keep(compare::check_money(pairs, &from, &to));
    let mut reactions = triggers::Reactions::default();
    if purpose.writes() {
        reactions = triggers::read(target, &written, spec.on_conflict).await?;
    }
    let mut chosen = survey.keep(key::choose(&read, &written, &spec.key, &spec.shape));
    if let Some(chosen) = &mut chosen {
        order::read((source, &read), (target, &written), &mut chosen.key).await?;
        if !chosen.basis.is_places() {
            match pairing::check_key(&read, &chosen.key, &pairing) {
                Ok(()) => _ = survey.keep(key::check_on_target(&written, pairs, &chosen.key)),
                Err(error) => survey.troubles.push(error),
            }
        }
        if purpose.writes() {
            let updates = compare::check_updates(&written, pairs, &chosen.key, spec.on_conflict);
            survey.keep(updates);
            survey.keep(key::check_unique(&written, chosen, spec.on_conflict));
            if chosen.basis.is_in_snapshot() {
                survey.need_delete(&written);
                let more = table::deletes_more(target, &written).await?;
                survey.troubles.extend(more);
            }
        }
    }
    let checked = reactions.check(&written, spec.on_conflict, spec.fire_triggers);
    survey.troubles.extend(checked);
    let Some(Chosen { key, basis, reason }) = chosen else {
        return Ok(survey);
    };
    // That nothing but the ledger keeps rows single, a table without a key is told with the rest.
    let is_single = basis.is_places() || written.unique_indexes_on(&key).next().is_some();
    let mut warnings = reactions.warnings(&written);
    warnings.extend(compare::warnings(&read, &written, pairs, is_single));
    warnings.extend(key::warning(&read, &basis));
    warnings.extend(encodings::warning(&from, &to, pairs));
    if spec.shape.filter.is_some() && purpose == Purpose::Sync {
        warnings.push(FILTERED_SYNC.to_owned());
    }
    survey.key_reason = reason;
    survey.text_reason = compare::text_reason(&read, &written, pairs);
    survey.readings = survey::readings(pairs);
    // Of the rows that are chosen, where some are.
    let rows_estimate = described.rows.or(read.rows_estimate);
    let bytes_estimate = match (read.bytes_estimate, read.rows_estimate, described.rows) {
        (Some(bytes), Some(all), Some(some)) => bytes.checked_div(all).map(|each| each.saturating_mul(some)),
        (bytes, _, _) => bytes,
    };
    survey.left_out = pairing.left_out;
    survey.plan = Some(Plan {
        growth: match basis.is_places() {
            true => Growth::Unknown("the table has none".to_owned()),
            false => growth::read(source, &read, &key).await?,
        },
        same_order: key::same_order(&read, &written, &key, from.encoding == to.encoding),
        source_identity: DatabaseIdentity {
            system_identifier: from.system_identifier,
            database: from.database,
        },
        digest: PlanDigest::default(),
        source_files: String::new(),
        target_files: String::new(),
        format: compare::format(&read, &written, pairs),
        columns: pairing.pairs.into_iter().map(|pair| pair.column).collect(),
        filter: spec.shape.filter.clone(),
        target_key_is_unique: written.finds_rows_by(&key),
        key,
        key_basis: basis,
        source_kind: read.source_kind(),
        on_conflict: spec.on_conflict,
        source_is_partitioned: read.kind == 'p',
        target_is_partitioned: written.kind == 'p',
        source_is_standby: from.is_standby,
        target_fires_triggers: reactions.fires(),
        rows_estimate,
        bytes_estimate,
        warnings: warnings.iter().map(|warning| plain(warning)).collect(),
        source: read.name,
        target: written.name,
    });
    Ok(survey)
}

/// Which database a session is connected to.
///
/// # Errors
/// What goes wrong in asking.
pub async fn identify(session: &Session) -> Result<DatabaseIdentity> {
    let found = server::read_identity(session).await?;
    Ok(DatabaseIdentity {
        system_identifier: found.system_identifier,
        database: found.database,
    })
}

/// The role that a session is of.
///
/// # Errors
/// What goes wrong in asking.
pub async fn role(session: &Session) -> Result<String> {
    let what = format!("ask the {} which role this is", session.side());
    let row = session.row(&what, "SELECT current_user").await?;
    Ok(row.into_iter().next().flatten().unwrap_or_default())
}

/// The plan with the order of the target's key as it is now: of a plan from long ago, or of types that moved since.
pub(super) async fn with_order_of_target(target: &Session, plan: Plan) -> Result<Plan> {
    let written = table::read(target, &plan.target, &KeyChoice::default()).await?;
    let mut key = plan.key;
    order::read_target(target, &written, &mut key).await?;
    Ok(Plan { key, ..plan })
}

/// Whether the target table has no row.
///
/// # Errors
/// What goes wrong in asking.
pub async fn target_is_empty(target: &Session, plan: &Plan) -> Result<bool> {
    let sql = format!("SELECT 1 FROM {} LIMIT 1", rows_of(Side::Target, plan));
    let rows = target
        .rows(&format!("look for rows in target table {}", plan.target), &sql)
        .await?;
    Ok(rows.is_empty())
}

fn check_not_same(
    read: &Relation,
    written: &Relation,
    from: &ServerIdentity,
    to: &ServerIdentity,
) -> Result<()> {
    if read.oid != written.oid || from.database_oid != to.database_oid || !from.is_same_server(to) {
        return Ok(());
    }
    Err(Error::new(
        Side::Target,
        Kind::SameTable,
        format!(
            "source and target are the same table, {} in database {}",
            read.name, from.database
        ),
    ))
}
