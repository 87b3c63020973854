//! A job in the foreground: shown, waited for, and left in order when the operator interrupts it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use temporalio_client::WorkflowExecutionStatus;

use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::jobs::{self, Job};
use super::trouble::{Said, Trouble};
use super::{Context, refused};
use crate::connect::{Connected, JobLock, Place};
use crate::job::status::{JobState, JobStatus};
use crate::job::{JobName, JobSpec, Kind, Tuning};
use crate::observe::figures;
use crate::observe::progress::Progress;
use crate::table::Key;
use crate::worker::{self, Activities, Gauge, Hold, Running};

/// How often the workflow is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// So long the last look at an interrupted job may take, and so long its workflow has to hear what became of its batches.
const LAST_LOOK_WITHIN: Duration = Duration::from_millis(500);

/// A worker that has begun, and what it shows of itself.
pub struct Ready {
    _lock: JobLock,
    worker: Running,
    gauge: Arc<Gauge>,
    hold: Arc<Hold>,
    ending: Arc<AtomicBool>,
}

impl Ready {
    /// Starts the worker of a job, whose attempts begin once the workflow was asked whether it is paused.
    pub fn start(
        connected: &Connected,
        lock: JobLock,
        job: &JobName,
        activities: Activities,
    ) -> Result<Self, Report> {
        let (gauge, hold) = (activities.gauge(), activities.hold());
        let ending = activities.ending();
        let worker =
            worker::start(&connected.client, job, Some(activities)).map_err(|error| refused(&error))?;
        Ok(Self {
            _lock: lock,
            worker,
            gauge,
            hold,
            ending,
        })
    }

    /// Sets the speed limit.
    pub fn limit(&self, tuning: &Tuning) {
        let limit = tuning.max_rate_bytes_per_second.and_then(NonZeroU64::new);
        self.gauge.set_limit(limit);
    }
}

/// Shows the job until it ends or is interrupted.
pub async fn to_the_end(
    context: &Context<'_>,
    connected: Connected,
    spec: &JobSpec,
    ready: Ready,
    json: bool,
) -> Outcome {
    let mut goes_on = goes_on_with(&spec.name, None);
    context.interrupts.attend(goes_on.clone());
    let mut progress = Progress::new(context.settings.progress, context.printer.terminal());
    let began = std::time::Instant::now();
    let known = jobs::find(&connected.client, spec.name.as_str()).await?;
    let mut told = Told::default();
    let mut job = known.ok_or_else(|| Report::of("the job was not journaled", ExitStatus::Service))?;
    loop {
        // A workflow that is busy may take a while to answer.
        let look = ready.hold.ask();
        let looked = async {
            let refreshed = job.refresh().await;
            must_be_well(&connected, &ready)?;
            if told.must_wait_for(context, &connected, refreshed.as_ref().err()) {
                return Ok(None);
            }
            refreshed?;
            Ok::<_, Report>(Some(job.to_status(Some(std::process::id())).await))
        };
        let status = tokio::select! {
            status = looked => status?,
            () = context.interrupts.heard(1) => break,
        };
        // What is in flight goes on meanwhile, and is reported when it can be.
        let Some(status) = status else { continue };
        if let Some(tuning) = status.tuning {
            ready.limit(&tuning);
            let paused = matches!(status.state, JobState::Pausing | JobState::Paused);
            ready.hold.answer(look, paused);
        }
        told.tell(context, spec, &status);
        goes_on = goes_on_with(&spec.name, Some(status.state));
        context.interrupts.attend(goes_on.clone());
        if !job.is_open() {
            progress.finish(&status);
            drop(progress);
            ready.worker.shut_down().await.map_err(|error| refused(&error))?;
            return ended(context, spec, &job, &status, began.elapsed(), json).await;
        }
        progress.update(&status);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = context.interrupts.heard(1) => break,
        }
    }
    // What happened since the last look is still to be said.
    if let Ok(status) = tokio::time::timeout(LAST_LOOK_WITHIN, job.to_status(None)).await {
        told.tell(context, spec, &status);
        goes_on = goes_on_with(&spec.name, Some(status.state));
    }
    interrupted(context, connected, &job, &goes_on, ready, progress).await
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
}

impl Told {
    /// Whether another process serves the journal and does not answer: it stands still, and nobody can take its place.
    fn must_wait_for(
        &mut self,
        context: &Context<'_>,
        connected: &Connected,
        error: Option<&Report>,
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
    ready.ending.store(true, Ordering::SeqCst);
    let ends = async {
        ready.worker.shut_down().await.map_err(|error| refused(&error))?;
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
    let worker = worker::start(&connected.client, &job.spec.name, None).map_err(|error| refused(&error))?;
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
