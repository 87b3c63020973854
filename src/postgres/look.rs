//! The look before a job starts, and once more when it does: everything that can be found wrong before a row moves, all of
//! it at once.
//!
//! Reads both catalogs, sees to it that the ledger is there, and holds what it says against what the target has. Moves
//! nothing; the one thing that [`look`] may write is the empty ledger, and [`survey`] writes nothing at all.

use super::asked::check_key;
use super::catalog::{self, Purpose, Right, Survey, check_growth, need_not_grow, target_is_empty};
use super::connect::Session;
use super::cursor;
use super::error::{Error, Kind, Result, Side};
use super::ledger::{self, State};
use super::rewind;
use crate::table::{Growth, OnConflict, Plan, TableSpec, Tally};

/// What the job is going to do with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ask {
    /// Whether it goes on for ever, along keys that grow.
    pub sync: bool,
    /// Whether the operator lets a sync look back a number of keys.
    pub lookback: bool,
    /// Whether the ledger's account of it will be forgotten before it starts.
    pub restart: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How the table is copied.
    pub plan: Plan,
    /// What the ledger's batches did.
    pub found: Tally,
    /// Whether the ledger knows the job.
    pub known: bool,
}

/// What stands in the way of a job: at least one thing.
#[derive(Debug)]
pub struct Troubles {
    first: Error,
    others: Vec<Error>,
}

impl Troubles {
    /// All of them, where there is one.
    #[must_use]
    pub fn of(troubles: Vec<Error>) -> Option<Self> {
        let mut troubles = troubles.into_iter();
        Some(Self {
            first: troubles.next()?,
            others: troubles.collect(),
        })
    }

    /// The first that was found.
    #[must_use]
    pub fn first(&self) -> &Error {
        &self.first
    }

    /// All of them, to be kept.
    #[must_use]
    pub fn into_vec(self) -> Vec<Error> {
        std::iter::once(self.first).chain(self.others).collect()
    }

    /// All of them, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl From<Error> for Troubles {
    fn from(first: Error) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

impl From<Troubles> for Error {
    /// The first: where one is enough to end an attempt.
    fn from(troubles: Troubles) -> Self {
        troubles.first
    }
}

/// Looks at both sides, and sees to it that the ledger is there.
///
/// # Errors
/// Everything that stands in the way, each thing named, with its hint.
pub async fn look(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    ask: &Ask,
) -> std::result::Result<Look, Troubles> {
    let mut survey = survey(source, target, spec, ask).await;
    if let (Some(plan), true, false) = (&survey.plan, survey.known, ask.restart)
        && survey
            .troubles
            .iter()
            .any(|trouble| trouble.kind() == Kind::NoKey)
    {
        // Rows that have lost their keys since it began may get others, where it has come by.
        let noted = ledger::unsettle(target, spec, plan, None).await;
        survey.keep(noted);
    }
    if survey.troubles.is_empty() {
        let ensured = ledger::ensure(target, spec.ledger_owner.as_deref()).await;
        survey.keep(ensured);
        if survey.ledger == Some(State::Earlier) {
            inspect(source, target, spec, ask, &mut survey).await;
        }
    }
    let Survey {
        plan,
        found,
        known,
        troubles,
        ..
    } = survey;
    match (Troubles::of(troubles), plan) {
        (None, Some(plan)) => Ok(Look { plan, found, known }),
        (Some(troubles), _) => Err(troubles),
        (None, None) => Err(Error::new(Side::Source, Kind::Unknown, "no plan could be made").into()),
    }
}

/// Looks at both sides and finds all that stands in the way. Writes nothing.
pub async fn survey(source: &Session, target: &Session, spec: &TableSpec, ask: &Ask) -> Survey {
    let purpose = if ask.sync { Purpose::Sync } else { Purpose::Copy };
    let mut survey = catalog::survey(source, target, spec, purpose).await;
    if let (Some(plan), true) = (&survey.plan, ask.sync && ask.lookback)
        && plan.key_basis.is_places()
        && let Growth::Unknown(why) = &plan.growth
    {
        survey
            .troubles
            .push(need_not_grow(plan, why).hinted("copy it once: longhaul migrate"));
    }
    if let (Some(plan), true, false) = (&survey.plan, ask.sync, ask.lookback) {
        let refused = refuse_sync(plan);
        let may_read = |right: &Right| right.side == Side::Target || right.granted;
        let behind = match survey.rights.iter().all(may_read) {
            true if plan.growth == Growth::Grows => grows(source, plan).await,
            // That it may not be read, or need not grow, is told already.
            _ => Ok(()),
        };
        survey.keep(refused);
        survey.keep(behind);
    }
    let probed = ledger::probe(target, spec.ledger_owner.as_deref()).await;
    if let Some(probe) = survey.keep(probed) {
        survey.ledger = probe.state;
        survey.need(probe.rights, |_, _| probe.hint.clone());
        // The layout before it kept less; what it has is looked at once it is upgraded.
        if probe.state == Some(State::Absent) || probe.state == Some(State::Current) {
            inspect(source, target, spec, ask, &mut survey).await;
        }
    }
    ask_rows(source, &mut survey).await;
    survey
        .troubles
        .sort_by_key(|trouble| trouble.side() == Side::Target);
    survey
}

/// What no index vouches for is asked of the rows, where they may be read.
async fn ask_rows(source: &Session, survey: &mut Survey) {
    let mut rights = survey.rights.iter();
    if rights.all(|right| right.side == Side::Target || right.granted)
        && let Some(plan) = &survey.plan
    {
        let checked = check_key(source, plan).await;
        survey.keep(checked);
    }
}

/// Holds the ledger, where there is one, against the plan, and the target against both.
async fn inspect(source: &Session, target: &Session, spec: &TableSpec, ask: &Ask, survey: &mut Survey) {
    let Some(plan) = survey.plan.clone() else {
        return;
    };
    let is_there = survey.ledger != Some(State::Absent);
    if is_there && !ask.restart && !survey.troubles.is_empty() {
        // Tables that do not fit are not what was copied either, and that need not be said twice.
        let found = ledger::tally(target, spec, &plan).await;
        let Some(found) = survey.keep(found) else { return };
        survey.found = found;
    } else if is_there && !ask.restart {
        let found = ledger::inspect(target, spec, &plan).await;
        let Some(found) = survey.keep(found) else { return };
        (survey.found, survey.known) = (found.tally, found.known);
        // In a snapshot that is gone the table starts again, whatever it is by now.
        if !ask.sync && !plan.key_basis.is_in_snapshot() {
            let checked = ledger::check_source(source, target, spec, &plan).await;
            survey.keep(checked);
            let told = look_again(source, target, spec, &plan, survey).await;
            survey.keep(told);
        }
        let rewound = rewind::check(source, target, spec, &plan).await;
        survey.keep(rewound);
    }
    if let (Some(planned), OnConflict::Update, 1..) =
        (&mut survey.plan, plan.on_conflict, survey.found.skipped)
    {
        planned.warnings.push(format!(
            "{} rows of ranges that were copied with --on-conflict skip keep what target table {} had: an update is of the ranges \
             that are still to come (--restart --on-conflict update copies all of them again)",
            survey.found.skipped, plan.target
        ));
    }
    let must_be_empty = survey.found.batches == 0 && plan.on_conflict == OnConflict::Error;
    let may_look = |survey: &Survey| {
        let mut rights = survey.rights.iter();
        rights.all(|right| right.side == Side::Source || right.right != "SELECT" || right.granted)
    };
    if must_be_empty && may_look(survey) {
        let refused = refuse_rows(target, spec, &plan, ask).await;
        survey.keep(refused);
    }
}

/// Says which of its keys a migrate looks at again, and why; what that takes is asked for.
async fn look_again(
    source: &Session,
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    survey: &mut Survey,
) -> Result<()> {
    let Some(range) = ledger::to_look_at(target, source, spec, plan).await? else {
        return Ok(());
    };
    if plan.on_conflict == OnConflict::Error {
        let sql = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')";
        let row = target
            .row("ask for a right on the target's database", sql)
            .await?;
        let granted = row.first().and_then(Option::as_deref) == Some("t");
        survey.need_temporary(target.database(), granted);
    }
    let job = &spec.job;
    let (table, high) = (&plan.source, range.high.shown());
    let words = match range.low {
        Some(low) => format!(
            "job {job} looks again at the keys of {table} after ({}) up to ({high}), for rows that were committed after it had come by",
            low.shown()
        ),
        None => format!(
            "job {job} looks again at all keys of {table} that it has copied, up to ({high}), for rows that were committed after it \
             had come by: its ledger does not say up to which key there can be none (as one of an earlier version does not, or one \
             of a job beside which transactions were open)"
        ),
    };
    survey
        .plan
        .iter_mut()
        .for_each(|plan| plan.warnings.push(words.clone()));
    Ok(())
}

/// Rows that this job did not put there would be in its way, or be taken for its own.
async fn refuse_rows(target: &Session, spec: &TableSpec, plan: &Plan, ask: &Ask) -> Result<()> {
    if target_is_empty(target, plan).await? {
        return Ok(());
    }
    let why = match ask.restart {
        true => format!("--restart starts job {} over", spec.job),
        false => format!("the ledger has no batch of job {}", spec.job),
    };
    let words = format!("target table {} is not empty, and {why}", plan.target);
    Err(Error::new(Side::Target, Kind::NotEmpty, words))
}

async fn grows(source: &Session, plan: &Plan) -> Result<()> {
    let highest = cursor::highest_key(source, plan).await?;
    check_growth(source, plan, highest.as_ref()).await
}

fn refuse_sync(plan: &Plan) -> Result<()> {
    if plan.source_is_standby {
        return Err(Error::new(
            Side::Source,
            Kind::Unsupported,
            "the source is a standby, which does not know who is writing",
        )
        .hinted("connect to its primary, or let the sync look back a number of keys: --lookback KEYS"));
    }
    let Growth::Unknown(why) = &plan.growth else {
        return Ok(());
    };
    Err(need_not_grow(plan, why))
}
