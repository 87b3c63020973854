//! `migrate`, `sync` and `resume`: everything that comes before the first row, then the job in the foreground.

use temporalio_client::{WorkflowSignalOptions, WorkflowStartOptions, WorkflowTerminateOptions};

use super::super::args::{CopyArgs, ResumeArgs};
use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::super::resources;
use super::check;
use super::inspect::unknown;
use super::jobs::{self, Job};
use super::run::{self, Ready};
use super::{Context, refused, unreachable};
use crate::connect::{self, ConnectError, Connected, Place};
use crate::job::status::JobKind;
use crate::job::{ConnectionName, JobSpec, TuningChange};
use crate::postgres::{ConnectionString, Error, Kind, Look, Retry, Session, Side, ledger, look};
use crate::service::Mode;
use crate::worker;
use crate::workflow::{CopyTable, JobInput};

/// Both ends, with their secrets.
pub(super) struct Ends {
    pub source: ConnectionString,
    pub target: ConnectionString,
}

pub async fn copy(context: &Context<'_>, kind: JobKind, args: &CopyArgs) -> Outcome {
    let (spec, ends) = check::asked_for(context.settings, kind)?;
    for warning in context.state_dir.prepare()? {
        context.printer.warn(&warning);
    }
    let connected = own(context).await?;
    let known = jobs::find(&connected.client, spec.name.as_str()).await?;
    if let Some(job) = &known {
        must_be_the_same(job, &spec)?;
    }
    begin(context, connected, spec, ends, known, args.restart).await
}

pub async fn resume(context: &Context<'_>, args: &ResumeArgs) -> Outcome {
    if !context.state_dir.exists()? {
        return args
            .job
            .as_deref()
            .map_or_else(|| nothing_to_resume(context), |name| Err(unknown(name)));
    }
    let connected = connect::reach(context.path(), Mode::Inspect)
        .await
        .map_err(|error| unreachable(&error))?;
    let job = match &args.job {
        Some(name) => jobs::named(&connected.client, name).await?,
        None => match only_open_job(&connected).await? {
            Some(job) => job,
            None => return nothing_to_resume(context),
        },
    };
    if let Place::Process(pid) = connected.place {
        return unpause(context, &connected, &job, pid).await;
    }
    let spec = job.spec.clone();
    let is_done = job.status == temporalio_client::WorkflowExecutionStatus::Completed;
    if is_done {
        context.printer.talk(&format!(
            "job {} has ended, complete: there is nothing to resume (its own command looks whether the target still has it)",
            spec.name
        ));
        return Ok(ExitStatus::Done);
    }
    // Asked for in vain, the journal must be open for writing before the job can run.
    drop((job, connected));
    let ends = Ends {
        source: resolve(
            &spec.source,
            context.settings.source().ok().map(|secret| secret.expose()),
            Side::Source,
        )?,
        target: resolve(
            &spec.target,
            context.settings.target().ok().map(|secret| secret.expose()),
            Side::Target,
        )?,
    };
    let connected = own(context).await?;
    let known = jobs::find(&connected.client, spec.name.as_str()).await?;
    if let Some(job) = known.as_ref().filter(|job| job.is_open() && !job.is_earlier()) {
        let resumed = job
            .handle
            .signal(CopyTable::resume, (), WorkflowSignalOptions::default())
            .await;
        resumed.map_err(|error| refused(&error))?;
    }
    begin(context, connected, spec, ends, known, false).await
}

fn nothing_to_resume(context: &Context<'_>) -> Outcome {
    context.printer.talk("no job is open: there is nothing to resume");
    Ok(ExitStatus::Done)
}

async fn only_open_job(connected: &Connected) -> Result<Option<Job>, Report> {
    let mut open: Vec<_> = jobs::all(&connected.client)
        .await?
        .into_iter()
        .filter(Job::is_open)
        .collect();
    if open.len() > 1 {
        let names: Vec<_> = open.iter().map(|job| job.spec.name.as_str()).collect();
        let words = format!("{} jobs are open: {}", open.len(), names.join(", "));
        return Err(
            Report::of(words, ExitStatus::Usage).with_hint(format!("name one: longhaul resume {}", names[0]))
        );
    }
    Ok(open.pop())
}

async fn unpause(context: &Context<'_>, connected: &Connected, job: &Job, owner: u32) -> Outcome {
    let name = &job.spec.name;
    if !job.is_open() {
        let words = format!(
            "job {name} is {}, and process {owner} runs another one",
            format!("{:?}", job.status).to_lowercase()
        );
        return Err(Report::of(words, ExitStatus::Failed)
            .with_hint("wait for that process, then run it again".to_owned()));
    }
    if jobs::worker_pid(&connected.client, name).await?.is_none() {
        return Err(unreachable(&ConnectError::Owned {
            path: context.path().to_owned(),
            pid: owner,
        }));
    }
    let resumed = job
        .handle
        .signal(CopyTable::resume, (), WorkflowSignalOptions::default())
        .await;
    resumed.map_err(|error| refused(&error))?;
    context
        .printer
        .talk(&format!("job {name} continues, in process {owner}"));
    Ok(ExitStatus::Done)
}

/// Opens the journal; a damaged one is set aside, since the ledger on the target knows as much.
pub(super) async fn own(context: &Context<'_>) -> Result<Connected, Report> {
    let error = match connect::own(context.path()).await {
        Ok(connected) => return Ok(connected),
        Err(error) => error,
    };
    let damaged = matches!(&error, ConnectError::Journal(journal) if journal.is_damage());
    if !damaged {
        return Err(unreachable(&error));
    }
    let aside = connect::set_aside(context.path()).map_err(|error| unreachable(&error))?;
    context.printer.warn(&format!(
        "{error}; it is set aside as {}, and the jobs in it continue from the ledgers on their targets",
        aside.display()
    ));
    connect::own(context.path())
        .await
        .map_err(|error| unreachable(&error))
}

pub(super) fn parse(text: &str, side: Side) -> Result<ConnectionString, Report> {
    text.parse().map_err(|words: String| {
        Report::of(format!("--{side} is not understood: {words}"), ExitStatus::Usage).with_hint(
            "a URL is postgres://user@host:port/database; the other form is `host=... dbname=... user=...`"
                .to_owned(),
        )
    })
}

/// A job's connection again: what is given now, if it names the same database, else what the journal has (without password).
pub(super) fn resolve(
    name: &ConnectionName,
    given: Option<&str>,
    side: Side,
) -> Result<ConnectionString, Report> {
    if let Some(given) = given {
        let given = parse(given, side)?;
        if given.name() == name.as_str() {
            return Ok(given);
        }
        let words = format!(
            "the job's {side} is {name}, and the {side} given now is {}",
            given.name()
        );
        return Err(Report::of(words, ExitStatus::Usage).with_hint(format!(
            "leave --{side} and LONGHAUL_{} out, or give the job's",
            side.to_string().to_uppercase()
        )));
    }
    parse(name.as_str(), side)
}

/// The same name must mean the same job. The kind of one that has ended may change: a sync goes on from a migrate's ledger.
fn must_be_the_same(job: &Job, spec: &JobSpec) -> Result<(), Report> {
    let mut asked = spec.clone();
    if !job.is_open() {
        asked.kind = job.spec.kind;
    }
    Ok(job.spec.same_job_as(&asked)?)
}

/// Looks at both ends, then runs the job in the foreground.
async fn begin(
    context: &Context<'_>,
    connected: Connected,
    spec: JobSpec,
    ends: Ends,
    known: Option<Job>,
    restart: bool,
) -> Outcome {
    resources::must_suffice_for(spec.tuning.concurrency)?;
    let (source, target) = check::sessions(context.settings, &spec, &ends).await?;
    let found = look_at(context, &source, &target, &spec, restart).await?;
    for warning in &found.plan.warnings {
        context.printer.warn(warning);
    }
    let was_complete = known.as_ref().is_some_and(Job::is_complete);
    let mut known = known;
    let open = known.take_if(|job| job.is_open() && !restart && !must_begin_anew(job, &spec));
    let before = known;
    if let Some(job) = before.as_ref().filter(|job| job.is_open()) {
        let reason = if restart {
            "--restart"
        } else if job.is_earlier() {
            "an earlier version of longhaul began it: it continues from the ledger"
        } else {
            "its settings were changed"
        };
        let options = WorkflowTerminateOptions::builder().reason(reason).build();
        job.handle
            .terminate(options)
            .await
            .map_err(|error| refused(&error))?;
    }
    if restart {
        ledger::forget(&target, &spec.table_spec(), &found.plan)
            .await
            .map_err(|error| of_side(&error))?;
    }
    say_where_it_begins(context, &spec, &found, open.is_some(), was_complete && !restart);
    drop((source, target));
    let activities = worker::activities(&spec, ends.source, ends.target);
    let ready = Ready::start(&connected, &spec.name, activities)?;
    let change = context.settings.tuning_change();
    match open {
        Some(job) => apply_tuning(&job, change).await?,
        None => {
            let options =
                WorkflowStartOptions::new(worker::task_queue(&spec.name), spec.name.to_string()).build();
            let input = JobInput {
                spec: spec.clone(),
                paused: false,
                state: None,
                verifying: None,
                known: match &before {
                    Some(job) if !restart => job.told().await,
                    _ => None,
                },
            };
            let started = connected
                .client
                .start_workflow(CopyTable::run, input, options)
                .await;
            started.map_err(|error| refused(&error))?;
        }
    }
    run::to_the_end(context, connected, &spec, ready, false).await
}

async fn look_at(
    context: &Context<'_>,
    source: &Session,
    target: &Session,
    spec: &JobSpec,
    restart: bool,
) -> Result<Look, Report> {
    let found = look(source, target, &spec.table_spec(), &check::ask(spec, restart)).await;
    found.map_err(|troubles| check::of_look(context.settings, &troubles))
}

/// An error of PostgreSQL's before the job starts: the side decides the exit status.
pub(super) fn of_side(error: &Error) -> Report {
    let status = match error.side() {
        _ if error.kind() == Kind::InvalidInput => ExitStatus::Usage,
        Side::Source => ExitStatus::Source,
        Side::Target => ExitStatus::Target,
    };
    let hint = match error.retry() {
        Retry::Retry if error.kind() == Kind::Transient => {
            "nothing was started: run the same command again".to_owned()
        }
        _ => error.hint().to_owned(),
    };
    Report::new(error, status).with_hint(hint)
}

/// Settings that a running workflow cannot take over: it ends, and a new run goes on from the ledger.
fn must_begin_anew(job: &Job, spec: &JobSpec) -> bool {
    let old = &job.spec;
    job.is_earlier()
        || old.kind != spec.kind
        || old.on_conflict != spec.on_conflict
        || old.lookback_keys != spec.lookback_keys
        || old.fire_triggers != spec.fire_triggers
        || old.ledger_owner != spec.ledger_owner
        || old.verify != spec.verify
}

pub(super) async fn apply_tuning(job: &Job, change: TuningChange) -> Result<(), Report> {
    if change.is_empty() {
        return Ok(());
    }
    let tuned = job
        .handle
        .execute_update(CopyTable::tune, change, Default::default())
        .await;
    tuned.map(drop).map_err(|error| refused(&error))
}

fn say_where_it_begins(
    context: &Context<'_>,
    spec: &JobSpec,
    found: &Look,
    is_open: bool,
    was_complete: bool,
) {
    let count = crate::observe::figures::count;
    let place = format!("{} -> {}", found.plan.source, found.plan.target);
    let (rows, batches) = (count(found.found.rows), count(found.found.batches));
    let name = &spec.name;
    let words = if is_open {
        format!("job {name} continues: {place}")
    } else if found.found.batches == 0 {
        format!("job {name} begins: {place}")
    } else if was_complete {
        format!(
            "job {name} was complete, with {rows} rows in {batches} batches: looking whether it still is, and for new keys: {place}"
        )
    } else {
        format!(
            "job {name} continues from the ledger found on the target ({rows} rows in {batches} batches): {place}"
        )
    };
    context.printer.talk(&words);
}
