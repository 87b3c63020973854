//! A job in the foreground: shown, waited for, and left in order when the operator interrupts it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use temporalio_client::WorkflowExecutionStatus;
use temporalio_client::errors::WorkflowInteractionError;
use tokio::task::JoinHandle;

use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::arrived;
use super::ends::Connections;
use super::jobs::{self, Job, Workers};
use super::service::{Away, may_pass};
use super::trouble::{Said, Trouble};
use super::{Context, refused};
use crate::connect::{Connected, JobLock, Place};
use crate::job::status::{JobState, JobStatus};
use crate::job::{JobName, JobSpec, Kind, Tuning};
use crate::observe::figures;
use crate::observe::progress::Progress;
use crate::table::Key;
use crate::worker::{self, Activities, Capacity, Jobs, Running, Sql, Trust};

/// How often the workflow is asked how far it is; on a cluster, whose owner may pay for each question.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_THERE_EVERY: Duration = Duration::from_secs(1);

/// What is done at a time here of the jobs of a cluster.
const AT_A_TIME: usize = 64;

/// So long the last look at an interrupted job may take, and so long its workflow has to hear what became of its batches.
const LAST_LOOK_WITHIN: Duration = Duration::from_millis(500);

/// A worker that has begun.
pub struct Ready {
    _lock: Option<JobLock>,
    worker: Running,
    jobs: Arc<Jobs>,
    job: String,
    connections: Connections,
    /// On a cluster, where it may meet other jobs as well, and others the same one.
    tuned: Option<JoinHandle<()>>,
}

impl Ready {
    /// Starts the worker of a job, whose attempts begin once the workflow was asked whether it is paused.
    pub fn start(
        connected: &Connected,
        lock: Option<JobLock>,
        task_queue: &str,
        spec: &JobSpec,
        connections: Connections,
    ) -> Result<Self, Report> {
        let Connections { source, target } = connections.clone();
        let trust = Trust {
            ledger_owner: spec.ledger_owner.clone(),
            fire_triggers: spec.fire_triggers,
            // Typed by the operator, or looked at before (`ends::trust`).
            sql: Sql::Of(spec.shape.clone()),
        };
        let activities = Activities::new(source, target, trust);
        let (jobs, client) = (activities.jobs(), &connected.client);
        let on_cluster = matches!(connected.place, Place::Cluster(_));
        let capacity = match on_cluster {
            true => Capacity::shared(AT_A_TIME),
            false => Capacity::ALONE,
        };
        let worker = worker::start(client, task_queue, Some(activities), capacity);
        let ready = Self {
            _lock: lock,
            worker: worker.map_err(|error| refused(&error))?,
            tuned: on_cluster
                .then(|| worker::keep_tuned(client.clone(), task_queue.to_owned(), Arc::clone(&jobs))),
            jobs,
            job: spec.name.to_string(),
            connections,
        };
        ready.limit(&spec.tuning);
        let patience = spec.give_up_after_ms.map(Duration::from_millis);
        ready.jobs.set_patience(&ready.job, patience);
        Ok(ready)
    }

    /// A look at the workflow begins, which [`answer`](Self::answer) ends.
    fn ask(&self) -> u64 {
        match self.tuned {
            None => self.jobs.hold(&self.job).ask(),
            Some(_) => 0,
        }
    }

    /// What the workflow answered to that look. On a cluster the worker asks for itself.
    fn answer(&self, asked: u64, paused: bool) {
        if self.tuned.is_none() {
            self.jobs.hold(&self.job).answer(asked, paused);
        }
    }

    /// Sets the speed limit. On a cluster the worker is told its share of it.
    pub fn limit(&self, tuning: &Tuning) {
        if self.tuned.is_none() {
            let limit = tuning.max_rate_bytes_per_second.and_then(NonZeroU64::new);
            self.jobs.set_limit(&self.job, limit);
        }
    }

    /// How to look at both ends, where a migrate has ended well and this process has not seen its end: it goes by the word of
    /// others. On a cluster also where the end is all that it has seen.
    fn unseen_end(&self, connected: &Connected, job: &Job, spec: &JobSpec) -> Option<Connections> {
        let is_of_others =
            matches!(connected.place, Place::Cluster(_)) || !self.jobs.has_concluded(&self.job);
        (job.is_complete() && spec.kind == Kind::Migrate && is_of_others).then(|| self.connections.clone())
    }

    /// Ends it; what is in flight finishes or rolls back.
    pub async fn end(self) -> Result<(), Report> {
        if let Some(tuned) = self.tuned {
            tuned.abort();
        }
        self.worker.shut_down().await.map_err(|error| refused(&error))
    }
}

/// Shows the job until it ends or is interrupted.
pub async fn to_the_end(
    context: &Context<'_>,
    connected: Connected,
    spec: &JobSpec,
    ready: Ready,
    mut until: Option<Key>,
    json: bool,
) -> Outcome {
    let mut goes_on = goes_on_with(&spec.name, None);
    context.interrupts.attend(goes_on.clone());
    let mut progress = Progress::new(context.settings.progress, context.printer.terminal());
    let began = Instant::now();
    let known = jobs::find(&connected.client, spec.name.as_str()).await?;
    let mut told = Told::default();
    let mut job = known.ok_or_else(|| Report::of("the job was not journaled", ExitStatus::Service))?;
    let look_every = match connected.place {
        Place::Here(_) | Place::Process(_) | Place::Shared(_) => LOOK_EVERY,
        Place::Cluster(_) => LOOK_THERE_EVERY,
    };
    loop {
        // A workflow that is busy may take a while to answer.
        let asked = ready.ask();
        let looked = tokio::select! {
            looked = look(context, &mut job, &connected, &ready, &mut told) => looked?,
            () = context.interrupts.heard(1) => break,
        };
        let Some(status) = looked else {
            // What is in flight goes on meanwhile, and is reported when it can be.
            tokio::select! {
                () = tokio::time::sleep(look_every) => continue,
                () = context.interrupts.heard(1) => break,
            }
        };
        if let Some(tuning) = status.tuning {
            ready.limit(&tuning);
            let paused = matches!(status.state, JobState::Pausing | JobState::Paused);
            ready.answer(asked, paused);
        }
        told.tell(context, spec, &status);
        let copies_up_to = || status.tables.first().and_then(|table| table.copies_up_to.clone());
        until = until.or_else(|| copies_up_to().map(Key));
        goes_on = goes_on_with(&spec.name, Some(status.state));
        context.interrupts.attend(goes_on.clone());
        if !job.is_open() {
            progress.finish(&status);
            drop(progress);
            let unseen = ready.unseen_end(&connected, &job, spec);
            ready.end().await?;
            if let Some(connections) = unseen {
                arrived::must_be(context, &connections, spec, &job, &until).await?;
            }
            return ended(context, spec, &job, &status, began.elapsed(), json).await;
        }
        progress.update(&status);
        tokio::select! {
            () = tokio::time::sleep(look_every) => {}
            () = context.interrupts.heard(1) => break,
        }
    }
    // What happened since the last look is still to be said.
    if let Ok(status) = tokio::time::timeout(LAST_LOOK_WITHIN, job.to_status(&Workers::None)).await {
        told.tell(context, spec, &status);
        goes_on = goes_on_with(&spec.name, Some(status.state));
    }
    interrupted(context, connected, &job, &goes_on, ready, progress).await
}

/// How the job stands; `None` while whoever serves it does not answer.
async fn look(
    context: &Context<'_>,
    job: &mut Job,
    connected: &Connected,
    ready: &Ready,
    told: &mut Told,
) -> Result<Option<JobStatus>, Report> {
    let refreshed = job.refresh().await;
    must_be_well(connected, ready)?;
    let workers = if let Place::Cluster(cluster) = &connected.place {
        let status = match &refreshed {
            Err(WorkflowInteractionError::Rpc(status)) if may_pass(status) => Some(status),
            _ => None,
        };
        let error = status.map(|status| status as &dyn std::fmt::Display);
        told.away.look(context, cluster, error);
        if status.is_some() {
            return Ok(None);
        }
        let workers = jobs::workers(connected, job).await;
        workers.unwrap_or(Workers::Cluster(Vec::new()))
    } else {
        if told.must_wait_for(context, connected, refreshed.as_ref().err()) {
            return Ok(None);
        }
        Workers::Process(std::process::id())
    };
    refreshed.map_err(|error| refused(&error))?;
    Ok(Some(job.to_status(&workers).await))
}

/// The last line of an interrupted job: one that is paused stays so under its own command.
fn goes_on_with(job: &JobName, state: Option<JobState>) -> String {
    match state {
        Some(JobState::Pausing | JobState::Paused) => {
            format!("job {job} is paused; go on with: longhaul resume {job}")
        }
        _ => format!("go on with: longhaul resume {job}   (or the same command again)"),
    }
}

/// What has been said once, and need not be said again.
#[derive(Default)]
struct Told {
    waits: bool,
    up_to: bool,
    batches_lost: u64,
    rows_lost: u64,
    trouble: Trouble,
    away: Away,
}

impl Told {
    /// Whether another process serves the journal and does not answer: it stands still, and nobody can take its place.
    fn must_wait_for(
        &mut self,
        context: &Context<'_>,
        connected: &Connected,
        error: Option<&WorkflowInteractionError>,
    ) -> bool {
        let waits = error.is_some() && connected.is_served_elsewhere();
        if waits && !self.waits {
            let who = connected.served_by().map_or_else(
                || "no process serves the journal of the state directory".to_owned(),
                |pid| {
                    format!("process {pid}, which serves the journal of the state directory, does not answer")
                },
            );
            context
                .printer
                .warn(&format!("{who}: the job stands still until it does, or ends"));
        } else if self.waits && !waits {
            context
                .printer
                .talk("the journal is served again: the job goes on");
        }
        self.waits = waits;
        waits
    }

    fn tell(&mut self, context: &Context<'_>, spec: &JobSpec, status: &JobStatus) {
        for said in self.trouble.look(status, SystemTime::now()) {
            match said {
                Said::Warning(words) => context.printer.warn(&words),
                Said::Over(words) => context.printer.talk(&words),
            }
        }
        let Some(table) = status.tables.first() else {
            return;
        };
        if let (false, Some(key)) = (self.up_to, &table.copies_up_to) {
            self.up_to = true;
            context.printer.talk(&format!(
                "it copies up to key ({}), the highest when it began",
                Key(key.clone()).shown()
            ));
        }
        if table.batches_lost > self.batches_lost {
            let since = table.lost_since.as_deref().unwrap_or("its beginning");
            context.printer.warn(&format!(
                "the target has lost {} ({}) of job {} that it had confirmed after {since}: it was failed over or \
                 restored to an older state; what was lost is copied again",
                figures::counted(table.batches_lost - self.batches_lost, "batch"),
                figures::counted(table.rows_lost - self.rows_lost, "row"),
                spec.name
            ));
            (self.batches_lost, self.rows_lost) = (table.batches_lost, table.rows_lost);
        }
    }
}

/// What was looked at before a job was called complete.
fn checked(name: &JobName, status: &JobStatus) -> String {
    if let Some(findings) = &status.findings {
        let were = if findings.rows == 1 { "was" } else { "were" };
        let read = format!(
            "{} {were} read back from the target",
            figures::counted(findings.rows, "row")
        );
        let ranges = figures::counted(findings.ranges, "range");
        return match findings.ranges_unproved {
            0 if findings.rows == 1 => format!("checked: {read}, and is what was sent"),
            0 => format!("checked: all {read}, and are what was sent"),
            unproved => format!(
                "checked: {read}; in {unproved} of {ranges} rows were there before, and stayed as \
                 they were, so of those only the number was compared (longhaul verify {name} --against source compares all of \
                 it)"
            ),
        };
    }
    format!(
        "checked on the target: its ledger has every batch, without a gap, and the table was not emptied, rewritten or created \
         again since; to read the rows back: longhaul verify {name}"
    )
}

/// What the same command does once the cause is fixed; `None` where only another one helps, which the failure names.
fn goes_on(job: Kind, failure: &str) -> Option<&'static str> {
    match failure {
        _ if job == Kind::Verify => Some("once the cause is fixed, the same command verifies again"),
        "Different" | "Emptied" | "Incompatible" | "Fenced" | "SourceRewound" => None,
        _ => Some("once the cause is fixed, the same command continues from here"),
    }
}

/// Without its journal or its worker a job stands still.
fn must_be_well(connected: &Connected, ready: &Ready) -> Result<(), Report> {
    if let Place::Shared(member) = &connected.place {
        member.check().map_err(|error| {
            Report::new(&error, ExitStatus::Service).with_hint(
                "nothing is lost: make room or repair the disk, then run the same command again".to_owned(),
            )
        })?;
    }
    if ready.worker.has_ended() {
        return Err(Report::of("the worker has ended by itself", ExitStatus::Service));
    }
    Ok(())
}

/// Lets what is in flight finish or roll back; asked once more, ends at once.
async fn interrupted(
    context: &Context<'_>,
    connected: Connected,
    job: &Job,
    goes_on: &str,
    ready: Ready,
    progress: Progress,
) -> Outcome {
    drop(progress);
    context
        .printer
        .talk("interrupted: batches in flight finish or roll back (once more: stop at once)");
    ready.jobs.end();
    let ends = async {
        ready.end().await?;
        take_in(&connected, job).await
    };
    tokio::select! {
        ended = ends => ended?,
        () = context.interrupts.heard(2) => context.printer.talk("stopped at once: batches in flight are rolled back by the target"),
    }
    drop(connected);
    context.printer.talk(goes_on);
    Ok(ExitStatus::Interrupted)
}

/// Lets the workflow hear of the batches that have ended since its worker takes no task: what is committed counts then, in
/// whatever is asked next.
async fn take_in(connected: &Connected, job: &Job) -> Result<(), Report> {
    if matches!(connected.place, Place::Cluster(_)) {
        // Its other workers do, or the next one.
        return Ok(());
    }
    let queue = worker::of_job(&job.spec.name);
    let worker = worker::start(&connected.client, &queue, None, Capacity::ALONE);
    let worker = worker.map_err(|error| refused(&error))?;
    // Its answer comes after it has taken in what the journal has. Where that takes longer, the next process does it.
    _ = tokio::time::timeout(LAST_LOOK_WITHIN, job.progress()).await;
    _ = tokio::time::timeout(LAST_LOOK_WITHIN, worker.shut_down()).await;
    Ok(())
}

async fn ended(
    context: &Context<'_>,
    spec: &JobSpec,
    job: &Job,
    status: &JobStatus,
    took: Duration,
    json: bool,
) -> Outcome {
    let name = &spec.name;
    let (rows, bytes, batches) = status.tables.first().map_or((0, 0, 0), |table| {
        (table.rows_done, table.bytes_done, table.batches_done)
    });
    let done = format!(
        "{}, {}, {}",
        figures::counted(rows, "row"),
        figures::bytes(bytes as f64),
        figures::counted(batches, "batch")
    );
    let skipped = match status.tables.first().map_or(0, |table| table.rows_skipped) {
        0 => String::new(),
        skipped => format!(
            " ({} of the rows were on the target before, and stayed as they were)",
            figures::count(skipped)
        ),
    };
    match job.status {
        WorkflowExecutionStatus::Completed if spec.kind == Kind::Verify => {
            let findings = status.findings.clone().unwrap_or_default();
            super::verify::ended(context, spec, &findings, took, json)
        }
        WorkflowExecutionStatus::Completed => {
            let took = humantime::format_duration(Duration::from_millis(
                u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ));
            context
                .printer
                .talk(&format!("job {name} is complete: {done}{skipped}, in {took}"));
            context.printer.talk(&checked(name, status));
            Ok(ExitStatus::Done)
        }
        WorkflowExecutionStatus::Canceled if spec.kind == Kind::Verify => {
            context
                .printer
                .talk(&format!("verification {name} was canceled: {done} were read"));
            Ok(ExitStatus::Failed)
        }
        WorkflowExecutionStatus::Canceled => {
            context
                .printer
                .talk(&format!("job {name} was canceled: {done} stay on the target"));
            Ok(ExitStatus::Failed)
        }
        WorkflowExecutionStatus::Failed => {
            // What came to light before it failed; of the rest nothing is known.
            if let (Kind::Verify, Some(findings)) = (spec.kind, &status.findings)
                && findings.differences() > 0
            {
                super::verify::tell(context, findings, json)?;
            }
            let failure = job.failure().await;
            let status = match &failure {
                Some(failure) if failure.kind == "SourceRewound" => ExitStatus::Source,
                _ => ExitStatus::Failed,
            };
            let report = Report::of(format!("job {name} failed after {done}"), status);
            Err(match failure {
                Some(failure) => report
                    .caused_by(&failure.message)
                    .with_hint(Some(failure.hint).filter(|hint| !hint.is_empty()))
                    .with_hint(goes_on(spec.kind, &failure.kind).map(str::to_owned)),
                None => report,
            })
        }
        other => Err(Report::of(
            format!("job {name} was ended from outside ({other:?}) after {done}"),
            ExitStatus::Failed,
        )),
    }
}
