//! `check`, and the look that `migrate` and `sync` begin with: both sides are looked at, and all that is in the way is told
//! at once, each thing with the place where it was given.

use std::time::Duration;

use super::super::exit::ExitStatus;
use super::super::report::{self, Checked, Outcome, Report};
use super::super::settings::{Setting, Settings};
use super::Context;
use super::ends::{Connections, Refusal, of_side, parse, patiently, spoken};
use crate::job::JobSpec;
use crate::job::status::JobKind;
use crate::observe::figures;
use crate::postgres::{
    Ask, Error, Kind, Session, Side, Survey, Trial, connect as connect_to, look_at_one, read_some, survey,
};
use crate::workflow::batch_rows;

/// Of fewer rows the time to read them says nothing of many.
const ROWS_FOR_SPEED: u64 = 1000;

/// Looks, says what would be done, and ends with what is in the way. Writes nothing.
pub async fn check(context: &Context<'_>, kind: JobKind, restart: bool, json: bool) -> Outcome {
    let mut checked = Checked {
        kind: Some(kind),
        ..Checked::default()
    };
    let report = match asked_for(context.settings, kind) {
        Ok((spec, ends)) => {
            // Whatever else is wrong with it is found when it is made.
            context.has_state()?;
            checked.job = Some(spec.name.to_string());
            wait_for(context, &spec, &ends).await;
            spoken(
                context,
                look_for(context.settings, &spec, &ends, restart, &mut checked),
            )
            .await
        }
        Err(report) => Some(report),
    };
    checked.troubles = report.iter().flat_map(Report::troubles).collect();
    checked.ready = report.is_none();
    if json {
        context.printer.json(&checked)?;
    } else {
        context.printer.data(&report::check(&checked))?;
    }
    report.map_or(Ok(ExitStatus::Done), Err)
}

/// The job that the settings make, and its two ends; or all that is missing or wrong in them.
pub fn asked_for(settings: &Settings, kind: JobKind) -> Result<(JobSpec, Connections), Report> {
    let (source, target, _) = settings.needed()?;
    let read = |text: &str, side| {
        let setting = connection(side);
        parse(text, side).map_err(|report| report.given_by(settings.place(setting)))
    };
    let (source, target) = (
        read(source.expose(), Side::Source),
        read(target.expose(), Side::Target),
    );
    let ends = match (source, target) {
        (Ok(source), Ok(target)) => Connections { source, target },
        (source, target) => {
            let reports = [source.err(), target.err()].into_iter().flatten();
            return Err(Report::all(reports).unwrap_or_else(|| Report::of("no ends", ExitStatus::Usage)));
        }
    };
    let (source, target) = ends.names();
    let spec = settings.job_spec(kind, source, target)?;
    spec.validate()?;
    Ok((spec, ends))
}

/// Waits for servers that are not there yet, as long as the operator says. What is in the way after that the look tells.
async fn wait_for(context: &Context<'_>, spec: &JobSpec, ends: &Connections) {
    if context.settings.wait.left(Duration::ZERO).is_none() {
        return;
    }
    let attempt = async || {
        let (source, target) = connect_both(spec, ends).await;
        let errors = [source.err(), target.err()].into_iter().flatten();
        let troubles: Vec<_> = errors.map(|error| (Phase::Connecting, error)).collect();
        match troubles.is_empty() {
            true => Ok(()),
            false => Err(Refusal::Postgres(troubles)),
        }
    };
    _ = patiently(context, attempt).await;
}

async fn connect_both(
    spec: &JobSpec,
    ends: &Connections,
) -> (Result<Session, Error>, Result<Session, Error>) {
    let application = format!("longhaul {}", spec.name);
    tokio::join!(
        connect_to(&ends.source, Side::Source, &application),
        connect_to(&ends.target, Side::Target, &application)
    )
}

/// What is in the way where a side, or both, cannot be reached.
pub async fn look_at_the_other(
    spec: &JobSpec,
    source: Result<Session, Error>,
    target: Result<Session, Error>,
) -> (Vec<Told>, Survey) {
    let mut found = Survey::default();
    let mut troubles = Vec::new();
    for reached in [source, target] {
        match reached {
            Ok(session) => found = look_at_one(&session, &spec.table_spec()).await,
            Err(error) => troubles.push((Phase::Connecting, error)),
        }
    }
    troubles.extend(found.troubles.drain(..).map(|error| (Phase::Looking, error)));
    // The source's first, whichever it is.
    troubles.sort_by_key(|(_, error)| error.side() == Side::Target);
    (troubles, found)
}

/// During what an error came, and so which setting it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connecting,
    Looking,
}

pub type Told = (Phase, Error);

/// Errors of both sides as one report.
pub fn of_sides<'a>(settings: &Settings, troubles: impl Iterator<Item = &'a Told>) -> Report {
    let reports = troubles.map(|(phase, error)| report_of(settings, *phase, error));
    Report::all(reports).unwrap_or_else(|| Report::of("nothing is in the way", ExitStatus::Failed))
}

/// An error with the place of the setting that names what it is about.
fn report_of(settings: &Settings, phase: Phase, error: &Error) -> Report {
    let of_table = |side| match side {
        Side::Target if settings.is_explicit(Setting::TargetTable) => Setting::TargetTable,
        _ => Setting::Table,
    };
    let setting = match (phase, error.kind()) {
        (Phase::Connecting, _) => Some(connection(error.side())),
        (Phase::Looking, Kind::UndefinedObject | Kind::NotATable | Kind::NoKey | Kind::SameTable) => {
            Some(of_table(error.side()))
        }
        (Phase::Looking, Kind::NotEmpty) => Some(Setting::OnConflict),
        (Phase::Looking, _) => None,
    };
    of_side(error).given_by(setting.and_then(|setting| settings.place(setting)))
}

fn connection(side: Side) -> Setting {
    match side {
        Side::Source => Setting::Source,
        Side::Target => Setting::Target,
    }
}

/// Looks at both sides; what was found is told in `checked`, what is in the way in the report.
async fn look_for(
    settings: &Settings,
    spec: &JobSpec,
    ends: &Connections,
    restart: bool,
    checked: &mut Checked,
) -> Option<Report> {
    let (source, target) = match connect_both(spec, ends).await {
        (Ok(source), Ok(target)) => (source, target),
        (source, target) => {
            let (troubles, found) = look_at_the_other(spec, source, target).await;
            checked.rights = found.rights;
            return Some(of_sides(settings, troubles.iter()));
        }
    };
    let mut found = survey(&source, &target, &spec.table_spec(), &ask(spec, restart)).await;
    let mut trial = None;
    let may_read = found
        .rights
        .iter()
        .all(|right| right.side == Side::Target || right.granted);
    if let (Some(plan), true) = (&found.plan, may_read) {
        match read_some(&source, plan).await {
            Ok(read) => trial = read,
            Err(error) => found.troubles.push(error),
        }
    }
    tell(spec, &found, trial, checked);
    let told: Vec<_> = found
        .troubles
        .into_iter()
        .map(|error| (Phase::Looking, error))
        .collect();
    (!told.is_empty()).then(|| of_sides(settings, told.iter()))
}

/// What the job is going to do with the table.
pub fn ask(spec: &JobSpec, restart: bool) -> Ask {
    Ask {
        sync: spec.kind.label() == JobKind::Sync,
        lookback: spec.lookback_keys.is_some(),
        restart,
    }
}

fn tell(spec: &JobSpec, found: &Survey, trial: Option<Trial>, checked: &mut Checked) {
    checked.rights = found.rights.clone();
    checked.ledger = found.ledger;
    (checked.rows_done, checked.batches_done) = (found.found.rows, found.found.batches);
    let Some(plan) = &found.plan else { return };
    checked.source = Some(plan.source.to_string());
    checked.target = Some(plan.target.to_string());
    checked.key = plan.key.iter().map(|column| column.name.clone()).collect();
    checked.key_reason = Some(found.key_reason.clone());
    checked.columns = plan.columns.iter().map(|column| column.name.clone()).collect();
    checked.filter = plan.filter.as_ref().map(ToString::to_string);
    checked.readings.clone_from(&found.readings);
    checked.columns_left_out.clone_from(&found.left_out);
    checked.format = Some(plan.format);
    checked.text_reason = found.text_reason.clone();
    checked.on_conflict = Some(plan.on_conflict);
    checked.warnings = plan.warnings.clone();
    checked.concurrency = Some(spec.tuning.concurrency);
    checked.rows_estimate = plan.rows_estimate;
    estimate(spec, trial, checked);
}

/// What is to come, as far as the catalog's statistics and some rows that were read tell.
fn estimate(spec: &JobSpec, trial: Option<Trial>, checked: &mut Checked) {
    let rows_to_come = checked
        .rows_estimate
        .map(|rows| rows.saturating_sub(checked.rows_done));
    let trial = trial.filter(|trial| trial.rows > 0);
    let row_bytes = trial.map(|trial| trial.bytes as f64 / trial.rows as f64);
    checked.rows_read = trial.map_or(0, |trial| trial.rows);
    // Saturates: the conversion does.
    let bytes_of = |rows: u64| row_bytes.map(|bytes| (rows as f64 * bytes).round() as u64);
    checked.bytes_estimate = checked.rows_estimate.and_then(bytes_of);
    let in_a_batch = batch_rows(&spec.tuning, row_bytes.map(|bytes| bytes.ceil() as u64)).max(1);
    checked.batch_rows = Some(in_a_batch);
    checked.batches_estimate = rows_to_come.map(|rows| rows.div_ceil(in_a_batch));
    let limit = spec.tuning.max_rate_bytes_per_second.map(|rate| rate as f64);
    let read = trial
        .filter(|trial| trial.rows >= ROWS_FOR_SPEED && trial.took > Duration::ZERO)
        .map(|trial| (trial.bytes as f64 / trial.took.as_secs_f64(), trial.rows));
    let (speed, reason) = match (limit, read) {
        (Some(limit), read) if read.is_none_or(|(speed, _)| limit <= speed) => {
            (limit, "the speed limit".to_owned())
        }
        (_, Some((speed, rows))) => (
            speed,
            format!(
                "the speed at which one session read {} from the source; the target was not measured",
                figures::counted(rows, "row")
            ),
        ),
        _ => return,
    };
    checked.bytes_per_second = Some(speed);
    checked.speed_reason = Some(reason);
    checked.seconds_estimate = rows_to_come
        .and_then(bytes_of)
        .filter(|_| speed > 0.0)
        .map(|bytes| (bytes as f64 / speed).ceil() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{ConnectionName, Kind as JobKindOf, Tuning};

    fn spec(limit: Option<u64>) -> JobSpec {
        let name = ConnectionName::without_password("postgres://h/d");
        JobSpec {
            name: "j".parse().expect("a name"),
            kind: JobKindOf::Migrate,
            source: name.clone(),
            target: name,
            source_table: "t".parse().expect("a table"),
            target_table: "t".parse().expect("a table"),
            tuning: Tuning {
                concurrency: 4,
                batch_rows: Some(1000),
                max_rate_bytes_per_second: limit,
            },
            on_conflict: Default::default(),
            fire_triggers: false,
            ledger_owner: None,
            key: Default::default(),
            give_up_after_ms: None,
            shape: Default::default(),
            source_database: None,
            target_database: None,
            verify: None,
            lookback_keys: None,
        }
    }

    #[test]
    fn estimates_are_of_what_is_left_at_the_slower_of_limit_and_reading() {
        let trial = Trial {
            rows: 1000,
            bytes: 100_000,
            took: Duration::from_secs(1),
        };
        let estimated = |limit, rows_estimate, trial| {
            let mut checked = Checked {
                rows_estimate,
                rows_done: 5000,
                ..Checked::default()
            };
            estimate(&spec(limit), trial, &mut checked);
            checked
        };
        let read = estimated(None, Some(25_500), Some(trial));
        assert_eq!(
            (read.bytes_estimate, read.batches_estimate),
            (Some(2_550_000), Some(21))
        );
        assert_eq!((read.seconds_estimate, read.rows_read), (Some(21), 1000));
        assert!(
            read.speed_reason
                .expect("told")
                .contains("one session read 1,000 rows")
        );
        let limited = estimated(Some(10_000), Some(25_500), Some(trial));
        assert_eq!(limited.seconds_estimate, Some(205));
        assert_eq!(limited.speed_reason.as_deref(), Some("the speed limit"));
        let slow = estimated(Some(10_000_000), Some(25_500), Some(trial));
        assert_eq!(slow.seconds_estimate, Some(21), "the limit is never reached");
        let few = Trial { rows: 999, ..trial };
        assert_eq!(estimated(None, Some(25_500), Some(few)).seconds_estimate, None);
        let unknown = estimated(None, None, Some(trial));
        assert_eq!((unknown.batches_estimate, unknown.seconds_estimate), (None, None));
        let empty = estimated(None, Some(0), None);
        assert_eq!((empty.batches_estimate, empty.seconds_estimate), (Some(0), None));
    }
}
