//! `migrate`, `sync` and `resume`: everything that comes before the first row, then the job in the foreground.

use temporalio_client::{
    NamespacedClient, WorkflowExecutionStatus, WorkflowSignalOptions, WorkflowStartOptions,
    WorkflowTerminateOptions,
};

use super::super::args::{CopyArgs, ResumeArgs};
use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::super::resources;
use super::super::settings::Setting;
use super::check::{self, Phase};
use super::ends::{self, By, Connections, Refusal, of_side};
use super::jobs::{self, Job, Workers};
use super::kept;
use super::run::{self, Ready};
use super::service::unknown;
use super::{Context, refused, unreachable};
use crate::connect::{Connected, JobLock, Place};
use crate::job::status::JobKind;
use crate::job::{Ends, JobName, JobSpec, Kind, TuningChange};
use crate::postgres::{Look, Session, Side, cursor, ledger, look};
use crate::service::Mode;
use crate::table::{Growth, Position, Tally};
use crate::worker;
use crate::workflow::{CopyTable, JobInput};

/// How a job that may exist already is begun again.
#[derive(Clone, Copy)]
struct Again {
    restart: bool,
    by: By,
    /// Left to others, once it has begun.
    detach: bool,
}

/// What was found before the first row moves.
struct Found {
    source: Session,
    target: Session,
    /// What is asked for, with the databases that answered.
    spec: JobSpec,
    look: Look,
}

pub async fn copy(context: &Context<'_>, kind: JobKind, args: &CopyArgs) -> Outcome {
    let (spec, connections) = check::asked_for(context.settings, kind)?;
    if args.detach && context.settings.cluster().is_none() {
        let words = "--detach leaves a job to the workers of a Temporal cluster, and none is asked for";
        return Err(Report::of(words, ExitStatus::Usage)
            .with_hint("give --temporal; here a job runs where its command does".to_owned()));
    }
    let connected = context.serve().await?;
    let lock = take(&connected, &spec.name)?;
    let mut known = jobs::find(&connected.client, spec.name.as_str()).await?;
    if let Some(job) = &mut known {
        ends::follow(job).await?;
        if !args.restart {
            must_do_the_same(job, &spec)?;
        }
    }
    let again = Again {
        restart: args.restart,
        by: By::Command,
        detach: args.detach,
    };
    begin(context, connected, lock, spec, connections, known, again).await
}

pub async fn resume(context: &Context<'_>, args: &ResumeArgs) -> Outcome {
    let Some(connected) = context.reach(Mode::Inspect).await? else {
        return args
            .job
            .as_deref()
            .map_or_else(|| nothing_to_resume(context), |name| Err(unknown(name)));
    };
    let mut job = match &args.job {
        Some(name) => jobs::named(&connected, name).await?,
        None => match only_open_job(&connected).await? {
            Some(job) => job,
            None => return nothing_to_resume(context),
        },
    };
    let runner = connected.runner_of(job.spec.name.as_str());
    if let Some(pid) = runner.map_err(|error| unreachable(&error))? {
        return unpause(context, &job, pid, args).await;
    }
    let is_pointed_elsewhere = args.connections.source.is_some() || args.connections.target.is_some();
    if let (Workers::Cluster(workers), false) =
        (jobs::answering(&connected, &job).await?, is_pointed_elsewhere)
        && job.is_open()
        && !workers.is_empty()
    {
        send_resume(&job).await?;
        let on = workers.join(", ");
        context
            .printer
            .talk(&format!("job {} continues, on {on}", job.spec.name));
        return Ok(ExitStatus::Done);
    }
    ends::follow(&mut job).await?;
    let mut spec = job.spec.clone();
    if context.settings.is_explicit(Setting::GiveUpAfter) {
        spec.give_up_after_ms = context.settings.give_up_after.ms;
    }
    ends::trust(context, &connected, &mut spec, args.allow_sql)?;
    let is_done = job.status == WorkflowExecutionStatus::Completed;
    if is_done {
        context.printer.talk(&format!(
            "job {} has ended, complete: there is nothing to resume (its own command looks whether the target still has it)",
            spec.name
        ));
        return Ok(ExitStatus::Done);
    }
    // Asked for in vain, the journal must be open for writing before the job can run.
    drop((job, connected));
    let connections = ends::of_job(context, &spec)?;
    let connected = context.serve().await?;
    let lock = take(&connected, &spec.name)?;
    let mut known = jobs::find(&connected.client, spec.name.as_str()).await?;
    if let Some(job) = &mut known {
        ends::follow(job).await?;
    }
    let again = Again {
        restart: false,
        by: By::Name,
        detach: false,
    };
    begin(context, connected, lock, spec, connections, known, again).await
}

fn nothing_to_resume(context: &Context<'_>) -> Outcome {
    context.printer.talk("no job is open: there is nothing to resume");
    Ok(ExitStatus::Done)
}

/// A process that runs is not pointed elsewhere.
fn must_stay_where_it_is(args: &ResumeArgs, job: &Job, owner: u32) -> Result<(), Report> {
    if args.connections.source.is_none() && args.connections.target.is_none() {
        return Ok(());
    }
    let words = format!(
        "process {owner} runs job {}, on the connections that it was given",
        job.spec.name
    );
    Err(Report::of(words, ExitStatus::Usage).with_hint(
        "to point the job elsewhere, interrupt that process (Ctrl-C), then give this command again"
            .to_owned(),
    ))
}

async fn only_open_job(connected: &Connected) -> Result<Option<Job>, Report> {
    let mut open: Vec<_> = jobs::all(connected)
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

async fn send_resume(job: &Job) -> Result<(), Report> {
    let options = WorkflowSignalOptions::default();
    let resumed = job.handle.signal(CopyTable::resume, (), options).await;
    resumed.map_err(|error| refused(&error))
}

async fn unpause(context: &Context<'_>, job: &Job, runner: u32, args: &ResumeArgs) -> Outcome {
    let name = &job.spec.name;
    must_stay_where_it_is(args, job, runner)?;
    send_resume(job).await?;
    context
        .printer
        .talk(&format!("job {name} continues, in process {runner}"));
    Ok(ExitStatus::Done)
}

/// Takes a job, so that no other process of this state directory runs it.
pub(super) fn take(connected: &Connected, job: &JobName) -> Result<Option<JobLock>, Report> {
    let taken = connected.run(job.as_str()).map_err(|error| unreachable(&error))?;
    taken.map_err(|pid| {
        let words = format!("job {job} is run by process {pid}");
        Report::of(words, ExitStatus::Service).with_hint(format!(
            "look at it: longhaul status {job}; to have it run here, interrupt that process (Ctrl-C), then give this command again"
        ))
    })
}

/// The same name must mean the same tables and kind; whether the databases are the same, they say themselves. The kind of
/// a job that has ended may change: a sync goes on from a migrate's ledger.
fn must_do_the_same(job: &Job, spec: &JobSpec) -> Result<(), Report> {
    let mut asked = spec.clone();
    asked.move_to(job.spec.ends());
    if !job.is_open() {
        asked.kind = job.spec.kind;
    }
    Ok(job.spec.same_job_as(&asked)?)
}

/// Looks at both ends, then runs the job in the foreground.
async fn begin(
    context: &Context<'_>,
    connected: Connected,
    lock: Option<JobLock>,
    spec: JobSpec,
    connections: Connections,
    known: Option<Job>,
    again: Again,
) -> Outcome {
    resources::must_suffice_for(spec.tuning.concurrency)?;
    let restart = again.restart;
    let job = known.as_ref().filter(|_| !restart);
    let attempt = async || look_at(&connections, &spec, job, again).await;
    let Found {
        source,
        target,
        spec,
        look,
    } = ends::patiently(context, attempt).await?;
    for warning in &look.plan.warnings {
        context.printer.warn(warning);
    }
    let task_queue = task_queue(&connected, &spec, &source, &target).await?;
    let mut known = known;
    let goes_on = |job: &Job| !must_begin_anew(job, &spec) && job.task_queue() == task_queue;
    let open = known.take_if(|job| job.is_open() && !restart && goes_on(job));
    let before = known;
    if let Some(job) = before.as_ref().filter(|job| job.is_open()) {
        end_the_one_before(job, restart).await?;
    }
    if restart {
        ledger::forget(&target, &spec.table_spec(), &look.plan)
            .await
            .map_err(|error| of_side(&error))?;
    }
    // On a cluster others tell how far it is; what was there is known before they do.
    let highest = match (&connected.place, &open) {
        (Place::Cluster(_), None) => cursor::highest_key(&source, &look.plan).await,
        _ => Ok(None),
    };
    let highest = highest.map_err(|error| of_side(&error))?;
    drop((source, target));
    if let Some(job) = &open {
        ends::tell(job, &spec).await?;
        if again.by == By::Name {
            send_resume(job).await?;
        }
    }
    let ready = Ready::start(&connected, lock, &task_queue, &spec, connections)?;
    // Asked of the worker that has just begun: of an open job, and of one that has ended.
    let current = match open.as_ref().or(before.as_ref()).filter(|_| !restart) {
        Some(job) => job.progress().await,
        None => None,
    };
    let is_paused = current.as_ref().is_some_and(|it| it.paused) && open.is_some();
    let begins = match (&open, &before) {
        (Some(_), _) if is_paused => Begins::Paused,
        (Some(_), _) => Begins::Continues,
        (None, Some(job)) if !restart => Begins::Again(job.status),
        (None, _) => Begins::First,
    };
    say_where_it_begins(context, &spec, &look, &begins);
    let given = given_tuning(context, &spec);
    let mut spec = spec;
    // A job that has completed is over, and so is what it was tuned to.
    let is_over = matches!(begins, Begins::Again(WorkflowExecutionStatus::Completed));
    let current_spec = current.as_ref().filter(|_| !is_over).map(|it| &it.spec);
    let kept = current_spec.map(|current| kept::keep(current, &mut spec, &given));
    if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
        context
            .printer
            .talk(&format!("it works with {}", kept.join(", ")));
    }
    ready.limit(&spec.tuning);
    if let Some(job) = &open {
        apply_tuning(job, given).await?;
    }
    let ready = match again.detach {
        // It would take a task only to give it back.
        true => ready.end().await.map(|()| None)?,
        false => Some(ready),
    };
    if open.is_none() {
        let known = current.map(jobs::told_by).filter(|_| !restart);
        let found = Some(look.found).filter(|found| !restart && found.batches > 0);
        start(&connected, &task_queue, &spec, known, found).await?;
    }
    match ready {
        Some(ready) => run::to_the_end(context, connected, &spec, ready, highest, false).await,
        None => leave(context, &connected, &task_queue, &spec).await,
    }
}

/// Leaves a job to others, and says whether there are any.
async fn leave(context: &Context<'_>, connected: &Connected, task_queue: &str, spec: &JobSpec) -> Outcome {
    let polling = worker::polling(&connected.client, task_queue).await;
    let mut others = polling.map_err(|error| refused(&error))?;
    others.retain(|identity| *identity != connected.client.identity());
    let name = &spec.name;
    let by = match others.is_empty() {
        true => "waits for a worker: longhaul worker --source URL --target URL".to_owned(),
        false => format!("is left to {}", others.join(", ")),
    };
    context
        .printer
        .talk(&format!("job {name} {by}; see longhaul status {name}"));
    Ok(ExitStatus::Done)
}

/// Who may take the job's tasks: here its own worker, on a cluster all that have been to both databases as these roles.
pub(super) async fn task_queue(
    connected: &Connected,
    spec: &JobSpec,
    source: &Session,
    target: &Session,
) -> Result<String, Report> {
    match connected.place {
        Place::Here(_) | Place::Process(_) | Place::Shared(_) => Ok(worker::of_job(&spec.name)),
        Place::Cluster(_) => ends::task_queue(&spec.ends(), source, target).await,
    }
}

async fn end_the_one_before(job: &Job, restart: bool) -> Result<(), Report> {
    let reason = if restart {
        "--restart"
    } else if job.is_earlier() {
        "an earlier version of longhaul began it: it continues from the ledger"
    } else {
        "its settings were changed"
    };
    let options = WorkflowTerminateOptions::builder().reason(reason).build();
    let ended = job.handle.terminate(options).await;
    ended.map_err(|error| refused(&error))
}

/// Starts a job's workflow; `known` is what an earlier run was told is on the target, `found` what the ledger has.
pub(super) async fn start(
    connected: &Connected,
    task_queue: &str,
    spec: &JobSpec,
    known: Option<Position>,
    found: Option<Tally>,
) -> Result<(), Report> {
    let options = WorkflowStartOptions::new(task_queue, spec.name.to_string()).build();
    let input = JobInput {
        spec: spec.clone(),
        paused: false,
        state: None,
        verifying: None,
        known,
        found,
    };
    let started = connected
        .client
        .start_workflow(CopyTable::run, input, options)
        .await;
    started.map(drop).map_err(|error| refused(&error))
}

/// The tuning that was given by flag, environment or job file; an interval only to a sync.
pub(super) fn given_tuning(context: &Context<'_>, spec: &JobSpec) -> TuningChange {
    let given = context.settings.tuning_change();
    TuningChange {
        interval_ms: given.interval_ms.filter(|_| spec.kind.label() == JobKind::Sync),
        ..given
    }
}

/// Gets to both ends, sees that they are the job's, and looks at the table there.
async fn look_at(
    connections: &Connections,
    spec: &JobSpec,
    job: Option<&Job>,
    again: Again,
) -> Result<Found, Refusal> {
    let reached = tokio::join!(
        ends::reach(&connections.source, Side::Source, spec),
        ends::reach(&connections.target, Side::Target, spec)
    );
    let ((source, from), (target, to)) = match (reached, job) {
        ((Ok(source), Ok(target)), _) => (source, target),
        // Nobody there can say that it is the same database.
        ((Err(error), _) | (_, Err(error)), Some(job)) if ends::went_by_another_address(&job.spec, spec) => {
            let other = ends::other(&job.spec, spec, again.by);
            return Err(other.caused_by(&error.chain()).into());
        }
        ((source, target), _) => {
            let (source, target) = (
                source.map(|(session, _)| session),
                target.map(|(session, _)| session),
            );
            let (troubles, _) = check::look_at_the_other(spec, source, target).await;
            return Err(Refusal::Postgres(troubles));
        }
    };
    for session in [&source, &target] {
        let version = session.server_version();
        tracing::info!(
            "connected to the {}: PostgreSQL {}.{}, database {}",
            session.side(),
            version / 10_000,
            version % 10_000,
            session.database()
        );
    }
    let mut spec = spec.clone();
    spec.move_to(Ends {
        source: from,
        target: to,
    });
    let in_doubt = match job {
        Some(job) => ends::are_of(&job.spec, &spec, again.by)?,
        None => false,
    };
    let ask = check::ask(&spec, again.restart);
    let look = look(&source, &target, &spec.table_spec(), &ask).await;
    let look = look.map_err(|troubles| {
        let troubles = troubles.into_vec().into_iter();
        Refusal::Postgres(troubles.map(|error| (Phase::Looking, error)).collect())
    })?;
    if let Some(job) = job.filter(|_| in_doubt && !look.known) {
        return Err(ends::other(&job.spec, &spec, again.by).into());
    }
    Ok(Found {
        source,
        target,
        spec,
        look,
    })
}

/// Settings that a running workflow cannot take over: it ends, and a new run goes on from the ledger.
fn must_begin_anew(job: &Job, spec: &JobSpec) -> bool {
    let old = &job.spec;
    job.is_earlier()
        || old.kind.label() != spec.kind.label()
        || old.on_conflict != spec.on_conflict
        || old.lookback_keys != spec.lookback_keys
        || old.fire_triggers != spec.fire_triggers
        || old.ledger_owner != spec.ledger_owner
        || old.verify != spec.verify
        || old.key != spec.key
}

/// Tells an open job what was given now; the rest stays as it has it.
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

/// What a command that is given begins with.
enum Begins {
    /// An open job, which goes on.
    Continues,
    /// An open job that the operator has paused, and that stays so.
    Paused,
    /// A job that has ended that way.
    Again(WorkflowExecutionStatus),
    /// A job that nobody knows, but perhaps the ledger.
    First,
}

fn say_where_it_begins(context: &Context<'_>, spec: &JobSpec, look: &Look, begins: &Begins) {
    let counted = crate::observe::figures::counted;
    let place = format!("{} -> {}", look.plan.source, look.plan.target);
    let (rows, batches) = (
        counted(look.found.rows, "row"),
        counted(look.found.batches, "batch"),
    );
    let name = &spec.name;
    let from = match look.found.batches {
        0 => "begins".to_owned(),
        _ => format!("continues from the ledger found on the target ({rows} in {batches})"),
    };
    let words = match begins {
        Begins::Continues => format!("job {name} continues: {place}"),
        Begins::Paused => {
            format!("job {name} is paused, and stays so until: longhaul resume {name}   ({place})")
        }
        Begins::Again(WorkflowExecutionStatus::Completed) if look.found.batches > 0 => format!(
            "job {name} was complete, with {rows} in {batches}: looking whether it still is, and for new keys: {place}"
        ),
        Begins::Again(WorkflowExecutionStatus::Canceled) => {
            format!("job {name} was canceled, and is run again: it {from}: {place}")
        }
        Begins::Again(WorkflowExecutionStatus::Failed) => {
            format!("job {name} had failed, and is run again: it {from}: {place}")
        }
        Begins::Again(_) | Begins::First => format!("job {name} {from}: {place}"),
    };
    let is_same_run = matches!(begins, Begins::Continues | Begins::Paused);
    let not_looked_for = match &look.plan.growth {
        _ if is_same_run || look.found.batches == 0 || spec.kind != Kind::Migrate => String::new(),
        Growth::Grows if !look.plan.source_is_standby => String::new(),
        // That nobody has written is looked up at the end.
        _ if look.plan.key_basis.is_places() => String::new(),
        _ => format!(
            "; rows that have come below its last key since are not looked for (longhaul verify {name} --against source names them)"
        ),
    };
    context.printer.talk(&format!("{words}{not_looked_for}"));
}
