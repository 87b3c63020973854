//! `history`: what a job has done, read from the events of its workflow; all runs of it that the service still has.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use temporalio_client::{Client, WorkflowFetchHistoryOptions};
use temporalio_protos::temporal::api::common::v1::Payloads;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    ActivityTaskScheduledEventAttributes, ActivityTaskStartedEventAttributes, HistoryEvent,
};

use super::super::args::HistoryArgs;
use super::super::exit::ExitStatus;
use super::super::report::{self, HistoryRow, Outcome, Report, Step, What};
use super::inspect::{asking, unknown};
use super::jobs::{self, Job};
use super::{Context, refused};
use crate::job::TuningChange;
use crate::table::{Batch, Position, Tally};
use crate::workflow::JobInput;

pub async fn history(context: &Context<'_>, args: &HistoryArgs) -> Outcome {
    let name = &args.job;
    let only_current = args.json || args.events;
    let found = asking(context, async |connected| {
        let job = jobs::named(&connected.client, name).await?;
        let events = job
            .handle
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .into_events()
            .await;
        let events = events.map_err(|error| refused(&error))?;
        let (runs, is_whole) = match only_current {
            true => (vec![events], true),
            false => all_runs(&connected.client, &job, events).await?,
        };
        Ok((job, runs, is_whole))
    });
    let (job, runs, is_whole) = found.await?.ok_or_else(|| unknown(name))?;
    let events = runs.last().map(Vec::as_slice).unwrap_or_default();
    if args.json {
        for event in events {
            context.printer.json(&report::event_json(event))?;
        }
    } else if args.events {
        let rows: Vec<_> = events.iter().map(row).collect();
        context.printer.data(report::events(&rows).trim_end())?;
    } else {
        if !is_whole {
            context
                .printer
                .talk("what was done before the first line is not in the journal any more; the ledger on the target has it");
        }
        context
            .printer
            .data(&report::history(before(&runs), &steps(&what(&job), &runs)))?;
    }
    Ok(ExitStatus::Done)
}

/// The events of the current run, after those of the runs that it continues; and whether none of them is missing.
async fn all_runs(
    client: &Client,
    job: &Job,
    current: Vec<HistoryEvent>,
) -> Result<(Vec<Vec<HistoryEvent>>, bool), Report> {
    let mut runs = vec![current];
    while let Some(before) = runs.last().and_then(|run| continued(run)) {
        let mut info = job.handle.info().clone();
        info.run_id = Some(before);
        let fetched = info
            .bind_untyped(client.clone())
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .into_events()
            .await;
        match fetched {
            Ok(events) if !events.is_empty() => runs.push(events),
            Ok(_) | Err(temporalio_client::errors::WorkflowInteractionError::NotFound(_)) => {
                runs.reverse();
                return Ok((runs, false));
            }
            Err(error) => return Err(refused(&error)),
        }
    }
    runs.reverse();
    Ok((runs, true))
}

/// The run that this one continues.
fn continued(run: &[HistoryEvent]) -> Option<String> {
    match run.first()?.attributes.as_ref()? {
        Attributes::WorkflowExecutionStartedEventAttributes(started) => {
            Some(started.continued_execution_run_id.clone()).filter(|run| !run.is_empty())
        }
        _ => None,
    }
}

/// Which table goes where.
fn what(job: &Job) -> String {
    format!("{} -> {}", job.spec.source_table, job.spec.target_table)
}

/// What was on the target before the first event: what the runs brought that it continues and that are gone.
fn before(runs: &[Vec<HistoryEvent>]) -> Tally {
    let started = runs.first().and_then(|run| run.first()?.attributes.as_ref());
    let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) = started else {
        return Tally::default();
    };
    let input = first::<JobInput>(started.input.as_ref());
    input
        .and_then(|input| input.state)
        .map_or(Tally::default(), |state| state.position.tally)
}

fn steps(what: &str, runs: &[Vec<HistoryEvent>]) -> Vec<Step> {
    let mut reader = Reader::default();
    for run in runs {
        // Ids begin anew with each run.
        (reader.scheduled, reader.started) = (HashMap::new(), HashMap::new());
        for event in run {
            reader.read(what, event);
        }
    }
    reader.steps
}

/// Goes over events in their order, and puts together what belongs together.
#[derive(Default)]
struct Reader<'a> {
    scheduled: HashMap<i64, (Option<SystemTime>, &'a ActivityTaskScheduledEventAttributes)>,
    started: HashMap<i64, &'a ActivityTaskStartedEventAttributes>,
    paused_at: Option<SystemTime>,
    steps: Vec<Step>,
}

/// As much of a batch's input as is told.
#[derive(Deserialize)]
struct CopyInput {
    batch: Batch,
}

/// As much of what a look at both sides has found.
#[derive(Deserialize)]
struct Prepared {
    position: Position,
}

impl<'a> Reader<'a> {
    fn read(&mut self, what: &str, event: &'a HistoryEvent) {
        let time = jobs::time(event.event_time);
        let Some(attributes) = event.attributes.as_ref() else {
            return;
        };
        match attributes {
            Attributes::ActivityTaskScheduledEventAttributes(it) => {
                self.scheduled.insert(event.event_id, (time, it));
            }
            Attributes::ActivityTaskStartedEventAttributes(it) => {
                self.started.insert(it.scheduled_event_id, it);
            }
            Attributes::ActivityTaskCompletedEventAttributes(it) => {
                self.completed(time, it.scheduled_event_id, it.result.as_ref());
            }
            Attributes::ActivityTaskFailedEventAttributes(it) => {
                let why = it
                    .failure
                    .as_ref()
                    .map(|failure| jobs::innermost(failure).to_string());
                self.failed(time, it.scheduled_event_id, &why.unwrap_or_default());
            }
            Attributes::ActivityTaskTimedOutEventAttributes(it) => {
                self.failed(time, it.scheduled_event_id, "it did not answer in time");
            }
            Attributes::WorkflowExecutionStartedEventAttributes(it) => {
                if it.continued_execution_run_id.is_empty() {
                    self.say(time, format!("begun: {what}"));
                }
            }
            Attributes::WorkflowExecutionSignaledEventAttributes(it) => self.signaled(time, &it.signal_name),
            Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(it) => {
                let input = it
                    .accepted_request
                    .as_ref()
                    .and_then(|request| request.input.as_ref());
                let change = input.and_then(|input| first::<TuningChange>(input.args.as_ref()));
                self.say(time, tuned(change));
            }
            Attributes::TimerStartedEventAttributes(it) => {
                let span = it
                    .start_to_fire_timeout
                    .and_then(|span| Duration::try_from(span).ok());
                let span = span.map_or(String::new(), |span| format!(" {}", report::seconds(span)));
                self.say(time, format!("waiting{span} before the next round or attempt"));
            }
            _ => self.read_end(time, attributes),
        }
    }

    fn read_end(&mut self, time: Option<SystemTime>, attributes: &Attributes) {
        match attributes {
            Attributes::WorkflowExecutionCancelRequestedEventAttributes(_) => {
                self.say(time, "cancel was asked for".to_owned());
            }
            Attributes::WorkflowExecutionCompletedEventAttributes(_) => {
                self.say(time, "completed".to_owned());
            }
            Attributes::WorkflowExecutionCanceledEventAttributes(_) => {
                self.say(time, "canceled".to_owned());
            }
            Attributes::WorkflowExecutionFailedEventAttributes(it) => {
                let why = it
                    .failure
                    .as_ref()
                    .map(|failure| jobs::innermost(failure).to_string());
                self.say(
                    time,
                    format!("failed: {}", why.unwrap_or_default().replace('\n', " ")),
                );
            }
            Attributes::WorkflowExecutionTerminatedEventAttributes(it) => {
                self.say(time, format!("ended from outside: {}", it.reason));
            }
            _ => {}
        }
    }

    fn say(&mut self, time: Option<SystemTime>, words: String) {
        self.steps.push(Step {
            time,
            took: None,
            what: What::Words(words),
            retried: None,
        });
    }

    fn signaled(&mut self, time: Option<SystemTime>, signal: &str) {
        match signal {
            "pause" => {
                self.paused_at = time;
                self.say(time, "paused".to_owned());
            }
            "resume" => {
                let after = span(self.paused_at.take(), time)
                    .map_or(String::new(), |span| format!(" after {}", report::seconds(span)));
                self.say(time, format!("resumed{after}"));
            }
            other => self.say(time, format!("signal {other}")),
        }
    }

    fn completed(&mut self, time: Option<SystemTime>, scheduled: i64, result: Option<&Payloads>) {
        let Some((began, activity)) = self.scheduled.remove(&scheduled) else {
            return;
        };
        let (took, retried) = (span(began, time), self.failed_attempts(scheduled));
        let kind = activity.activity_type.as_ref().map_or("", |it| it.name.as_str());
        let what = match kind {
            "copy_batch" => {
                let input = first::<CopyInput>(activity.input.as_ref());
                match (input, first::<Tally>(result)) {
                    // A look that found nothing missing has written nothing.
                    (Some(_), Some(tally)) if tally.batches == 0 && retried.is_none() => return,
                    (Some(input), Some(tally)) => What::Copied(input.batch, tally),
                    // An earlier version kept them in another form.
                    _ => What::Words("a batch committed".to_owned()),
                }
            }
            "verify_range" => match first(result) {
                Some(findings) => What::Verified(findings),
                None => return,
            },
            "prepare" => match first::<Prepared>(result) {
                Some(Prepared { position }) => What::Found(position.tally),
                None => What::Words("looked at both tables and the ledger".to_owned()),
            },
            "prepare_verify" => What::Words("looked at what there is to verify".to_owned()),
            "conclude" => What::Words("checked that all of it is on the target".to_owned()),
            // Their like comes before each batch and each round: told where something went wrong.
            _ if retried.is_none() => return,
            "next_batch" | "next_range" => What::Words("found where the next batch ends".to_owned()),
            "note_writers" => What::Words("asked who writes on the source".to_owned()),
            other => What::Words(other.to_owned()),
        };
        self.steps.push(Step {
            time,
            took,
            what,
            retried,
        });
    }

    fn failed(&mut self, time: Option<SystemTime>, scheduled: i64, why: &str) {
        let Some((began, activity)) = self.scheduled.remove(&scheduled) else {
            return;
        };
        let kind = activity.activity_type.as_ref().map_or("", |it| it.name.as_str());
        let number = first::<CopyInput>(activity.input.as_ref()).map(|input| input.batch.number);
        let what = match number {
            Some(number) => format!("batch {number}"),
            None => kind.to_owned(),
        };
        let (took, retried) = (span(began, time), self.failed_attempts(scheduled));
        self.steps.push(Step {
            time,
            took,
            what: What::Words(format!("{what} failed: {}", why.replace('\n', " "))),
            retried,
        });
    }

    /// How many attempts failed before the last one, and why the last of them did.
    fn failed_attempts(&mut self, scheduled: i64) -> Option<(u32, String)> {
        let started = self.started.remove(&scheduled)?;
        let failed = started.attempt.unsigned_abs().saturating_sub(1);
        let why = started.last_failure.as_ref();
        let why = why.map_or("its process ended".to_owned(), |failure| {
            jobs::innermost(failure).to_string()
        });
        (failed > 0).then_some((failed, why))
    }
}

/// From when it was asked for to its end: with every attempt, and what lay between them.
fn span(began: Option<SystemTime>, ended: Option<SystemTime>) -> Option<Duration> {
    let (began, ended) = began.zip(ended)?;
    ended.duration_since(began).ok()
}

/// The first payload, if it is one of these.
fn first<T: for<'de> Deserialize<'de>>(payloads: Option<&Payloads>) -> Option<T> {
    serde_json::from_slice(&payloads?.payloads.first()?.data).ok()
}

fn tuned(change: Option<TuningChange>) -> String {
    let Some(change) = change else {
        return "tuned".to_owned();
    };
    let parts = [
        change.concurrency.map(|number| format!("concurrency {number}")),
        change.batch_rows.map(|rows| format!("batch rows {rows}")),
        change.max_rate.map(|rate| format!("max rate {rate}")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!("tuned: {}", parts.join(", "))
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

#[cfg(test)]
mod tests {
    use temporalio_protos::temporal::api::common::v1::{ActivityType, Payload};
    use temporalio_protos::temporal::api::failure::v1::Failure;
    use temporalio_protos::temporal::api::history::v1::{
        ActivityTaskCompletedEventAttributes, WorkflowExecutionSignaledEventAttributes,
        WorkflowExecutionStartedEventAttributes,
    };

    use super::*;

    fn json(value: serde_json::Value) -> Option<Payloads> {
        let payload = Payload {
            data: value.to_string().into_bytes(),
            ..Payload::default()
        };
        Some(Payloads {
            payloads: vec![payload],
        })
    }

    fn event(event_id: i64, seconds: i64, attributes: Attributes) -> HistoryEvent {
        HistoryEvent {
            event_id,
            event_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            attributes: Some(attributes),
            ..HistoryEvent::default()
        }
    }

    /// An activity from second 10 to second 13, at its third attempt.
    fn retried(kind: &str, input: serde_json::Value, result: serde_json::Value) -> Vec<HistoryEvent> {
        let scheduled = ActivityTaskScheduledEventAttributes {
            activity_type: Some(ActivityType {
                name: kind.to_owned(),
            }),
            input: json(input),
            ..Default::default()
        };
        let started = ActivityTaskStartedEventAttributes {
            scheduled_event_id: 5,
            attempt: 3,
            last_failure: Some(Failure {
                message: "connection refused".to_owned(),
                ..Failure::default()
            }),
            ..Default::default()
        };
        let completed = ActivityTaskCompletedEventAttributes {
            scheduled_event_id: 5,
            result: json(result),
            ..Default::default()
        };
        vec![
            event(5, 10, Attributes::ActivityTaskScheduledEventAttributes(scheduled)),
            event(6, 13, Attributes::ActivityTaskStartedEventAttributes(started)),
            event(7, 13, Attributes::ActivityTaskCompletedEventAttributes(completed)),
        ]
    }

    fn signal(seconds: i64, name: &str) -> HistoryEvent {
        let attributes = WorkflowExecutionSignaledEventAttributes {
            signal_name: name.to_owned(),
            ..Default::default()
        };
        event(
            9,
            seconds,
            Attributes::WorkflowExecutionSignaledEventAttributes(attributes),
        )
    }

    fn begun(continues: &str) -> HistoryEvent {
        let attributes = WorkflowExecutionStartedEventAttributes {
            continued_execution_run_id: continues.to_owned(),
            ..Default::default()
        };
        event(
            1,
            1,
            Attributes::WorkflowExecutionStartedEventAttributes(attributes),
        )
    }

    #[test]
    fn batches_retries_and_pauses_are_read_from_all_runs() {
        let input = serde_json::json!({"batch": {"number": 7, "pass": "copy", "range": {"low": null, "high": ["9"]}}});
        let result = serde_json::json!({"rows": 9, "skipped": 0, "bytes": 90, "batches": 1, "checksum": 1});
        let mut first = vec![begun("")];
        first.extend(retried("copy_batch", input, result));
        first.extend([signal(20, "pause"), signal(81, "resume")]);
        let mut second = vec![begun("a run")];
        second.extend(retried(
            "next_batch",
            serde_json::json!({}),
            serde_json::json!(null),
        ));
        assert_eq!(continued(&first), None);
        assert_eq!(continued(&second).as_deref(), Some("a run"));
        assert_eq!(
            report::history(Tally::default(), &steps("t -> u", &[first, second])),
            "1970-01-01T00:00:01Z  begun: t -> u\n\
             1970-01-01T00:00:13Z  batch 7: 9 rows, 90 B, keys up to (9) in 3.0 s, after 2 failed attempts (connection refused)\n\
             1970-01-01T00:00:20Z  paused\n\
             1970-01-01T00:01:21Z  resumed after 1m 01s\n\
             1970-01-01T00:00:13Z  found where the next batch ends in 3.0 s, after 2 failed attempts (connection refused)\n\
             in all: 9 rows, 90 B in 1 batch; 4 attempts failed and were tried again"
        );
    }
}
