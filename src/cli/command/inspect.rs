//! `status` and `list`: questions to the service of a live process, to the journal where there is none, or to a cluster.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt};

use super::super::exit::ExitStatus;
use super::super::report::{self, Outcome, Report};
use super::jobs::{self, Job, Workers};
use super::service::unknown;
use super::{Context, refused};
use crate::connect::{Connected, Place};
use crate::job::status::JobStatus;
use crate::observe::Terminal;
use crate::service::Mode;
use crate::worker::{self, Capacity};

/// A process that is asked may be about to end: whoever comes after it is asked again, for so long.
const OWNER_ENDS_WITHIN: Duration = Duration::from_secs(5);
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// So many jobs are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// Asks whoever has the journal, and again where that process ended over the question. `None`: nothing was ever journaled here.
pub(super) async fn asking<T>(
    context: &Context<'_>,
    question: impl AsyncFn(&Connected) -> Result<T, Report>,
) -> Result<Option<T>, Report> {
    let end = tokio::time::Instant::now() + OWNER_ENDS_WITHIN;
    loop {
        let Some(connected) = context.reach(Mode::Inspect).await? else {
            return Ok(None);
        };
        let answer = question(&connected).await;
        let may_have_ended = connected.is_served_elsewhere()
            && matches!(&answer, Err(report) if report.status() == ExitStatus::Service)
            && tokio::time::Instant::now() < end;
        if !may_have_ended {
            return answer.map(Some);
        }
        drop(connected);
        tokio::time::sleep(ASKED_AGAIN_AFTER).await;
    }
}

/// Asks a job's workflow; where no worker would answer, this process brings one that only decides and answers. To a cluster
/// it brings none: who only asks there changes nothing.
async fn ask(connected: &Connected, job: &Job) -> Result<JobStatus, Report> {
    let workers = jobs::workers(connected, job).await?;
    if workers.are_some() || matches!(connected.place, Place::Cluster(_)) {
        return Ok(job.to_status(&workers).await);
    }
    let worker = worker::start(&connected.client, job.task_queue(), None, Capacity::ALONE);
    let worker = worker.map_err(|error| refused(&error))?;
    let status = job.to_status(&Workers::None).await;
    worker.shut_down().await.map_err(|error| refused(&error))?;
    Ok(status)
}

pub async fn status(context: &Context<'_>, name: Option<&str>, json: bool) -> Outcome {
    let statuses = statuses(context, name).await?;
    print(context, &statuses, json, texts)
}

/// As wide as the terminal, where stdout is one.
fn texts(statuses: &[JobStatus]) -> String {
    let columns = Terminal::columns_of_data();
    let text = |status| match columns {
        Some(columns) => report::status_within(status, columns),
        None => report::status(status),
    };
    statuses.iter().map(text).collect::<Vec<_>>().join("\n\n")
}

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Shows the status again and again, until every job that is shown has ended. Ctrl-C ends it as it ends any command.
pub async fn watch(context: &Context<'_>, name: Option<&str>, json: bool) -> Outcome {
    loop {
        let statuses = statuses(context, name).await?;
        if json || statuses.is_empty() {
            print(context, &statuses, json, |_| String::new())?;
        } else {
            context.printer.screen(&texts(&statuses))?;
        }
        let nobody_reads = context.printer.terminal().reader_is_gone();
        if nobody_reads || statuses.iter().all(|status| status.closed_at.is_some()) {
            return Ok(ExitStatus::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

pub async fn list(context: &Context<'_>, json: bool) -> Outcome {
    let statuses = statuses(context, None).await?;
    let color = context.printer.color_data();
    print(context, &statuses, json, |statuses| {
        report::list(statuses, SystemTime::now(), color)
    })
}

fn print(
    context: &Context<'_>,
    statuses: &[JobStatus],
    json: bool,
    text: impl FnOnce(&[JobStatus]) -> String,
) -> Outcome {
    if json {
        for status in statuses {
            context.printer.json(status)?;
        }
    } else if statuses.is_empty() {
        context.printer.talk("no jobs");
    } else {
        context.printer.data(text(statuses).trim_end())?;
    }
    Ok(ExitStatus::Done)
}

pub(super) async fn statuses(context: &Context<'_>, name: Option<&str>) -> Result<Vec<JobStatus>, Report> {
    let statuses = asking(context, async |connected| {
        let jobs = match name {
            Some(name) => vec![jobs::named(connected, name).await?],
            None => {
                let found = jobs::all_and_unreadable(connected).await?;
                let (jobs, unreadable): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
                // A line for each, once: who watches sees it when it comes.
                for report in unreadable.into_iter().filter_map(Result::err) {
                    context.warn_once(&report.in_a_line());
                }
                jobs.into_iter().filter_map(Result::ok).collect()
            }
        };
        // Side by side: a worker that stands still keeps each of its jobs waiting.
        let asked = futures_util::stream::iter(jobs.iter().map(|job| ask(connected, job)));
        asked.buffered(ASKED_AT_ONCE).try_collect().await
    })
    .await?;
    match (statuses, name) {
        (Some(statuses), _) => Ok(statuses),
        (None, Some(name)) => Err(unknown(name)),
        (None, None) => Ok(Vec::new()),
    }
}
