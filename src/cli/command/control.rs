//! `pause`, `cancel`, `tune`: a word to a job, whether a live process runs it or not. Durable when the command returns; with
//! `--wait` it returns when nothing of the job is in flight any more.

use std::time::{Duration, Instant, SystemTime};

use temporalio_client::errors::WorkflowUpdateError;
use temporalio_client::{WorkflowCancelOptions, WorkflowExecuteUpdateOptions, WorkflowSignalOptions};

use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::deserted;
use super::inspect;
use super::jobs::{self, Job, Workers};
use super::kept;
use super::service::unknown;
use super::{Context, refused};
use crate::connect::{Connected, Place};
use crate::job::status::{JobState, JobStatus};
use crate::job::{Kind, TuningChange};
use crate::observe::progress::{state_in_words, waiting_in_words};
use crate::service::Mode;
use crate::worker::{self, Capacity, Running};
use crate::workflow::CopyTable;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What keeps it is said when it changes, and so often.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// How long `cancel` waits for the batches in flight; a job that takes longer ends without being watched.
const CANCELED_WITHIN: Duration = Duration::from_secs(10);

/// A job that is open, who works on it, and a worker of ours that decides for it if no live process does.
struct Spoken {
    connected: Connected,
    job: Job,
    workers: Workers,
    worker: Option<Running>,
}

async fn speak_to(context: &Context<'_>, name: &str) -> Result<Spoken, Report> {
    let connected = context.reach(Mode::Serve).await?;
    let connected = connected.ok_or_else(|| unknown(name))?;
    let job = jobs::named(&connected, name).await?;
    if !job.is_open() {
        let state = format!("{:?}", job.status).to_lowercase();
        return Err(Report::of(
            format!("job {name} is {state}: it does not run, and there is nothing to change"),
            ExitStatus::Failed,
        )
        .with_hint(format!(
            "to run it again: longhaul resume {name}, or its own command"
        )));
    }
    if job.is_earlier() {
        let words = format!("an earlier version of longhaul began job {name}");
        return Err(Report::of(words, ExitStatus::Failed)
            .with_hint("run its own command again: it continues from the ledger on the target".to_owned()));
    }
    let workers = jobs::answering(&connected, &job).await?;
    let worker = match (&connected.place, &workers) {
        (Place::Here(_) | Place::Process(_) | Place::Shared(_), Workers::None) => {
            let worker = worker::start(&connected.client, job.task_queue(), None, Capacity::ALONE);
            Some(worker.map_err(|error| refused(&error))?)
        }
        _ => None,
    };
    Ok(Spoken {
        connected,
        job,
        worker,
        workers,
    })
}

impl Spoken {
    fn is_live(&self) -> bool {
        self.workers.are_some()
    }

    /// Lets go of the journal, which others may want to ask.
    async fn end(self) -> Result<(), Report> {
        match self.worker {
            Some(worker) => worker.shut_down().await.map_err(|error| refused(&error)),
            None => Ok(()),
        }
    }
}

pub async fn pause(context: &Context<'_>, name: &str, wait: bool) -> Outcome {
    let spoken = speak_to(context, name).await?;
    let signaled = spoken
        .job
        .handle
        .signal(CopyTable::pause, (), WorkflowSignalOptions::default())
        .await;
    signaled.map_err(|error| refused(&error))?;
    let is_live = spoken.is_live();
    // An answer comes after the signal was taken in; a worker of ours must not end before, or `status` would not see it.
    if spoken.is_live() || spoken.worker.is_some() {
        _ = spoken.job.progress().await;
    }
    spoken.end().await?;
    let talk = |words: String| context.printer.talk(&words);
    let goes_on = format!(
        "go on with: longhaul resume {name}{}",
        context.settings.cluster_flags()
    );
    if !is_live {
        talk(format!(
            "job {name} is paused (no process runs it now); {goes_on}"
        ));
        return Ok(ExitStatus::Done);
    }
    let mut status = look(context, name).await?;
    if status.state == JobState::Pausing {
        let words = waiting_in_words(&status, SystemTime::now()).unwrap_or_default();
        talk(format!("job {name} is pausing: {words}; {goes_on}"));
        if !wait {
            return Ok(ExitStatus::Done);
        }
    }
    if wait {
        let is_over = |status: &JobStatus| status.state == JobState::Paused || !status.state.is_open();
        let said = Some(Keeps::of(&status));
        status = until(context, name, said, is_over).await?;
    }
    match status.state {
        state if state.is_open() => talk(format!("job {name} is paused; {goes_on}")),
        state => talk(format!("job {name} has ended before: it is {}", state.word())),
    }
    Ok(ExitStatus::Done)
}

/// How the job stands now, whoever runs it.
async fn look(context: &Context<'_>, name: &str) -> Result<JobStatus, Report> {
    let statuses = inspect::statuses(context, Some(name)).await?;
    statuses.into_iter().next().ok_or_else(|| unknown(name))
}

/// What keeps a job from standing as it should, without what changes from moment to moment.
#[derive(PartialEq, Eq)]
struct Keeps {
    state: JobState,
    draining: u32,
    trouble: Option<(String, String)>,
    wait: Option<String>,
}

impl Keeps {
    fn of(status: &JobStatus) -> Self {
        let trouble = status.retrying.as_ref();
        Self {
            state: status.state,
            draining: status.draining,
            trouble: trouble.map(|it| (it.side.clone(), it.last_failure.clone())),
            wait: status.waiting_for.as_ref().map(|wait| wait.what.clone()),
        }
    }
}

fn keeps_in_words(status: &JobStatus) -> String {
    let state = state_in_words(status);
    match waiting_in_words(status, SystemTime::now()) {
        Some(words) => format!("still {state}: {words}"),
        None => format!("still {state}"),
    }
}

/// Asks again and again how the job stands, whoever runs it meanwhile, until it stands so; says what keeps it, but for
/// what the caller has `said`.
async fn until(
    context: &Context<'_>,
    name: &str,
    said: Option<Keeps>,
    is_so: impl Fn(&JobStatus) -> bool,
) -> Result<JobStatus, Report> {
    let mut said = said.map(|keeps| (keeps, Instant::now()));
    loop {
        let status = look(context, name).await?;
        if is_so(&status) {
            return Ok(status);
        }
        let keeps = Keeps::of(&status);
        if said
            .as_ref()
            .is_none_or(|(before, at)| *before != keeps || at.elapsed() >= SAY_EVERY)
        {
            context
                .printer
                .talk(&format!("job {name}: {}", keeps_in_words(&status)));
            said = Some((keeps, Instant::now()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub async fn cancel(context: &Context<'_>, name: &str, wait: bool) -> Outcome {
    let spoken = speak_to(context, name).await?;
    spoken
        .job
        .handle
        .cancel(WorkflowCancelOptions::default())
        .await
        .map_err(|error| refused(&error))?;
    let end = tokio::time::Instant::now() + CANCELED_WITHIN;
    let mut ended = false;
    while !ended && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = jobs::find(&spoken.connected.client, name).await;
        ended = match found {
            Ok(found) => found.is_none_or(|job| !job.is_open()),
            // The process that ran it has ended: what became of the job is in the journal.
            Err(_) if spoken.is_live() => has_closed(context, name).await?,
            Err(report) => return Err(report),
        };
    }
    let stays = match spoken.job.spec.kind {
        Kind::Verify => "it has only read",
        Kind::Migrate | Kind::Sync { .. } => "what was copied stays on the target",
    };
    spoken.end().await?;
    if !ended {
        let words = format!("job {name} is being canceled: its batches in flight are finishing; {stays}");
        context.printer.talk(&words);
    }
    if ended || wait {
        // Also where the process that ran it has ended without a word: the journal knows.
        let is_over = |status: &JobStatus| !status.state.is_open();
        let state = match wait {
            true => until(context, name, None, is_over).await?.state,
            false => JobState::Canceled,
        };
        match state {
            JobState::Canceled => context.printer.talk(&format!("job {name} is canceled; {stays}")),
            state => context
                .printer
                .talk(&format!("job {name} has ended before: it is {}", state.word())),
        }
    }
    Ok(ExitStatus::Done)
}

/// Whether the journal says that the job is closed.
async fn has_closed(context: &Context<'_>, name: &str) -> Result<bool, Report> {
    let Some(connected) = context.reach(Mode::Inspect).await? else {
        return Ok(true);
    };
    let job = jobs::find(&connected.client, name).await?;
    Ok(job.is_none_or(|job| !job.is_open()))
}

pub async fn tune(context: &Context<'_>, name: &str, change: TuningChange) -> Outcome {
    let spoken = speak_to(context, name).await?;
    if spoken.workers == Workers::Cluster(Vec::new()) {
        return Err(deserted::refused(&spoken.job));
    }
    let tuned = spoken
        .job
        .handle
        .execute_update(CopyTable::tune, change, WorkflowExecuteUpdateOptions::default())
        .await;
    let tuning = tuned.map_err(|error| match error {
        WorkflowUpdateError::Failed(failure) => {
            Report::of(jobs::innermost(&failure).to_string(), ExitStatus::Usage)
        }
        error => refused(&error),
    })?;
    let rows = tuning
        .batch_rows
        .map_or("auto".to_owned(), |rows| rows.to_string());
    let interval = change.interval_ms.map_or(String::new(), |interval_ms| {
        format!(", interval {}", kept::interval(interval_ms))
    });
    context.printer.talk(&format!(
        "job {name}: concurrency {}, batch rows {rows}, max rate {}{interval}",
        tuning.concurrency,
        tuning.max_rate()
    ));
    spoken.end().await?;
    Ok(ExitStatus::Done)
}
