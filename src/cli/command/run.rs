//! A job in the foreground: shown, waited for, and left in order when the operator interrupts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use temporalio_client::WorkflowExecutionStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::jobs::{self, Job};
use super::{Context, refused};
use crate::connect::{Connected, Place};
use crate::job::status::JobStatus;
use crate::job::{JobName, JobSpec};
use crate::observe::figures;
use crate::observe::progress::{Live, Progress};
use crate::worker::{self, Activities, Gauge, Running};

/// How often the workflow is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A worker that has begun, and what it shows of itself.
pub struct Ready {
    worker: Running,
    gauge: Arc<Gauge>,
    ending: Arc<AtomicBool>,
}

impl Ready {
    /// Starts the worker of a job.
    pub fn start(connected: &Connected, job: &JobName, activities: Activities) -> Result<Self, Report> {
        let (gauge, ending) = (activities.gauge(), activities.ending());
        let worker =
            worker::start(&connected.client, job, Some(activities)).map_err(|error| refused(&error))?;
        Ok(Self {
            worker,
            gauge,
            ending,
        })
    }
}

/// Ctrl-C, and what a service manager sends.
struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Report> {
        let listen = |kind| signal(kind).map_err(|error| Report::new(&error, ExitStatus::Failed));
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.int.recv() => (), _ = self.term.recv() => () }
    }
}

/// Shows the job until it ends or is interrupted.
pub async fn to_the_end(
    context: &Context<'_>,
    connected: Connected,
    spec: &JobSpec,
    ready: Ready,
) -> Outcome {
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new(context.settings.progress, context.printer.terminal());
    let began = std::time::Instant::now();
    loop {
        let job = look(&connected, spec, &ready).await?;
        let status = job.to_status(Some(std::process::id())).await;
        let live = live(&ready.gauge, &status);
        if !job.is_open() {
            progress.finish(&status, live);
            drop(progress);
            ready.worker.shut_down().await.map_err(|error| refused(&error))?;
            return ended(context, spec, &job, &status, began.elapsed()).await;
        }
        progress.update(&status, live);
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = interrupts.next() => return interrupted(context, connected, spec, ready, progress, interrupts).await,
        }
    }
}

async fn look(connected: &Connected, spec: &JobSpec, ready: &Ready) -> Result<Job, Report> {
    if let Place::Here(owner) = &connected.place {
        owner.service.check().map_err(|error| {
            Report::new(&error, ExitStatus::Service).with_hint(
                "nothing is lost: make room or mend the disk, then run the same command again".to_owned(),
            )
        })?;
    }
    if ready.worker.has_ended() {
        return Err(Report::of("the worker has ended by itself", ExitStatus::Service));
    }
    let job = jobs::find(&connected.client, spec.name.as_str()).await?;
    job.ok_or_else(|| {
        Report::of(
            format!("job {} has vanished from the journal", spec.name),
            ExitStatus::Service,
        )
    })
}

fn live(gauge: &Gauge, status: &JobStatus) -> Live {
    let (rows_in_flight, bytes_in_flight) = gauge.in_flight();
    let retries = status
        .pending_activities
        .iter()
        .map(|activity| u64::from(activity.attempt.saturating_sub(1)))
        .sum();
    Live {
        rows_in_flight,
        bytes_in_flight,
        retries,
    }
}

/// Lets what is in flight finish or roll back; asked once more, ends at once.
async fn interrupted(
    context: &Context<'_>,
    connected: Connected,
    spec: &JobSpec,
    ready: Ready,
    progress: Progress,
    mut interrupts: Interrupts,
) -> Outcome {
    drop(progress);
    let name = &spec.name;
    context
        .printer
        .talk("interrupted: batches in flight finish or roll back (once more: stop at once)");
    ready.ending.store(true, Ordering::SeqCst);
    tokio::select! {
        ended = ready.worker.shut_down() => ended.map_err(|error| refused(&error))?,
        () = interrupts.next() => context.printer.talk("stopped at once: batches in flight are rolled back by the target"),
    }
    drop(connected);
    context.printer.talk(&format!(
        "go on with: longhaul resume {name}   (or the same command again)"
    ));
    Ok(ExitStatus::Interrupted)
}

async fn ended(
    context: &Context<'_>,
    spec: &JobSpec,
    job: &Job,
    status: &JobStatus,
    took: Duration,
) -> Outcome {
    let name = &spec.name;
    let (rows, bytes, batches) = status.tables.first().map_or((0, 0, 0), |table| {
        (table.rows_done, table.bytes_done, table.batches_done)
    });
    let done = format!(
        "{} rows, {}, {} batches",
        figures::count(rows),
        figures::bytes(bytes as f64),
        figures::count(batches)
    );
    match job.status {
        WorkflowExecutionStatus::Completed => {
            let took = humantime::format_duration(Duration::from_millis(
                u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ));
            context
                .printer
                .talk(&format!("job {name} is complete: {done}, in {took}"));
            Ok(ExitStatus::Done)
        }
        WorkflowExecutionStatus::Canceled => {
            context
                .printer
                .talk(&format!("job {name} was canceled: {done} stay on the target"));
            Ok(ExitStatus::Failed)
        }
        WorkflowExecutionStatus::Failed => {
            let failure = job.failure().await;
            let report = Report::of(format!("job {name} failed after {done}"), ExitStatus::Failed);
            Err(match failure {
                Some(failure) => report
                    .caused_by(&failure.message)
                    .with_hint(Some(failure.hint).filter(|hint| !hint.is_empty()))
                    .with_hint(
                        "nothing is lost: once the cause is mended, the same command goes on from here"
                            .to_owned(),
                    ),
                None => report,
            })
        }
        other => Err(Report::of(
            format!("job {name} was ended from outside ({other:?}) after {done}"),
            ExitStatus::Failed,
        )),
    }
}
