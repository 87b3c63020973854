//! `status` and `list`: questions to the service of a live process, to the journal where there is none, or to a cluster.

use std::time::{Duration, SystemTime};

use super::super::exit::ExitStatus;
use super::super::report::{self, Outcome, Report};
use super::jobs::{self, Job, Workers};
use super::service::unknown;
use super::{Context, refused};
use crate::connect::{Connected, Place};
use crate::job::status::JobStatus;
use crate::service::Mode;
use crate::worker::{self, Capacity};

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
    let texts = |statuses: &[JobStatus]| {
        statuses
            .iter()
            .map(report::status)
            .collect::<Vec<_>>()
            .join("\n\n")
    };
    print(context, &statuses, json, texts)
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
            let texts: Vec<_> = statuses.iter().map(report::status).collect();
            context.printer.screen(&texts.join("\n\n"))?;
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
    let connected = context.reach(Mode::Inspect).await?;
    let (Some(connected), name) = (connected, name) else {
        return name.map_or(Ok(Vec::new()), |name| Err(unknown(name)));
    };
    let jobs = match name {
        Some(name) => vec![jobs::named(&connected, name).await?],
        None => jobs::all(&connected).await?,
    };
    let mut statuses = Vec::new();
    for job in &jobs {
        statuses.push(ask(&connected, job).await?);
    }
    Ok(statuses)
}
