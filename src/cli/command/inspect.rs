//! `status`, `list`, `history`: questions to the service of a live process, or to the journal where there is none.

use temporalio_client::WorkflowFetchHistoryOptions;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::super::exit::ExitStatus;
use super::super::report::{self, HistoryRow, Outcome, Report};
use super::jobs::{self, Job};
use super::{Context, refused, unreachable};
use crate::connect::{self, Connected, Place};
use crate::job::status::JobStatus;
use crate::service::Mode;
use crate::worker;

/// A connection for questions, and who is asked. `None`: nothing was ever journaled here.
async fn connect(context: &Context<'_>) -> Result<Option<Connected>, Report> {
    if !context.state_dir.exists()? {
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

pub async fn list(context: &Context<'_>, json: bool) -> Outcome {
    let statuses = statuses(context, None).await?;
    print(context, &statuses, json, report::list)
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

pub async fn history(context: &Context<'_>, name: &str, json: bool) -> Outcome {
    let connected = connect(context).await?.ok_or_else(|| unknown(name))?;
    let job = jobs::named(&connected.client, name).await?;
    let events = job
        .handle
        .fetch_history(WorkflowFetchHistoryOptions::default())
        .into_events()
        .await;
    let events = events.map_err(|error| refused(&error))?;
    if json {
        for event in &events {
            context.printer.json(&report::event_json(event))?;
        }
    } else {
        let rows: Vec<_> = events.iter().map(row).collect();
        context.printer.data(report::history(&rows).trim_end())?;
    }
    Ok(ExitStatus::Done)
}

pub fn unknown(name: &str) -> Report {
    Report::of(format!("there is no job named {name}"), ExitStatus::Usage).with_hint(
        "nothing was ever run from this state directory; --state-dir says where else to look".to_owned(),
    )
}

fn row(event: &HistoryEvent) -> HistoryRow {
    HistoryRow {
        event_id: event.event_id.unsigned_abs(),
        time: jobs::time(event.event_time).map(jobs::rfc3339),
        event_type: format!("{:?}", event.event_type()),
        detail: detail(event).unwrap_or_default(),
    }
}

fn detail(event: &HistoryEvent) -> Option<String> {
    Some(match event.attributes.as_ref()? {
        Attributes::ActivityTaskScheduledEventAttributes(it) => it.activity_type.clone()?.name,
        Attributes::ActivityTaskStartedEventAttributes(it) if it.attempt > 1 => {
            let failure = it
                .last_failure
                .as_ref()
                .map(|failure| format!(" after: {}", jobs::innermost(failure)));
            format!("attempt {}{}", it.attempt, failure.unwrap_or_default())
        }
        Attributes::ActivityTaskFailedEventAttributes(it) => {
            jobs::innermost(it.failure.as_ref()?).to_string()
        }
        Attributes::ActivityTaskTimedOutEventAttributes(it) => it.failure.as_ref()?.message.clone(),
        Attributes::WorkflowExecutionFailedEventAttributes(it) => {
            jobs::innermost(it.failure.as_ref()?).to_string()
        }
        Attributes::WorkflowTaskFailedEventAttributes(it) => it.failure.as_ref()?.message.clone(),
        Attributes::WorkflowExecutionSignaledEventAttributes(it) => it.signal_name.clone(),
        Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(it) => {
            it.accepted_request.clone()?.input?.name
        }
        Attributes::WorkflowExecutionTerminatedEventAttributes(it) => it.reason.clone(),
        Attributes::TimerStartedEventAttributes(it) => {
            let duration = std::time::Duration::try_from(it.start_to_fire_timeout?).ok()?;
            humantime::format_duration(duration).to_string()
        }
        _ => return None,
    })
}
