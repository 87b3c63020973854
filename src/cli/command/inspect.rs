//! `status` and `list`: questions to the service of a live process, or to the journal where there is none.

use std::time::{Duration, SystemTime};

use super::super::exit::ExitStatus;
use super::super::report::{self, Outcome, Report};
use super::jobs::{self, Job};
use super::{Context, refused, unreachable};
use crate::connect::{self, Connected, Place};
use crate::job::status::JobStatus;
use crate::service::Mode;
use crate::worker;

/// A connection for questions, and who is asked. `None`: nothing was ever journaled here.
async fn connect(context: &Context<'_>) -> Result<Option<Connected>, Report> {
    if !context.has_state()? {
        return Ok(None);
    }
    connect::reach(context.path(), Mode::Inspect)
        .await
        .map(Some)
        .map_err(|error| unreachable(&error))
}

/// Asks a job's workflow; where no worker would answer, this process brings one that only decides and answers.
async fn ask(connected: &Connected, job: &Job) -> Result<JobStatus, Report> {
    let pid = match connected.place {
        Place::Process(_) => jobs::worker_pid(&connected.client, &job.spec.name).await?,
        Place::Here(_) => None,
    };
    if pid.is_some() {
        return Ok(job.to_status(pid).await);
    }
    let worker = worker::start(&connected.client, &job.spec.name, None).map_err(|error| refused(&error))?;
    let status = job.to_status(None).await;
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
    let connected = connect(context).await?;
    let (Some(connected), name) = (connected, name) else {
        return name.map_or(Ok(Vec::new()), |name| Err(unknown(name)));
    };
    let jobs = match name {
        Some(name) => vec![jobs::named(&connected.client, name).await?],
        None => jobs::all(&connected.client).await?,
    };
    let mut statuses = Vec::new();
    for job in &jobs {
        statuses.push(ask(&connected, job).await?);
    }
    Ok(statuses)
}

pub fn unknown(name: &str) -> Report {
    Report::of(format!("there is no job named {name}"), ExitStatus::Usage).with_hint(
        "nothing was ever run from this state directory; --state-dir says where else to look".to_owned(),
    )
}
