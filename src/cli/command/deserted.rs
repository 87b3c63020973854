//! A job on a cluster that no worker answers for: what its history tells all the same, and how it gets a worker.

use std::collections::BTreeSet;

use serde::Deserialize;
use temporalio_client::WorkflowFetchHistoryOptions;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::jobs::Job;
use crate::table::{Position, Tally};

/// What only its workflow could answer is not answered.
pub fn refused(job: &Job) -> Report {
    let name = &job.spec.name;
    let words = format!("no worker polls the task queue of job {name}, so nobody takes it in");
    Report::of(words, ExitStatus::Failed).with_hint(format!(
        "begin one: longhaul worker --source URL --target URL, or longhaul resume {name}"
    ))
}

/// What is on the target by the current run's history, which began with `told`.
pub async fn tally(job: &Job, told: Tally) -> Tally {
    let history = job.handle.fetch_history(WorkflowFetchHistoryOptions::default());
    match history.into_events().await {
        Ok(events) => count(&events, told),
        Err(_) => told,
    }
}

/// What the ledger had when the table was prepared last, and what batches have done since.
fn count(events: &[HistoryEvent], told: Tally) -> Tally {
    let (mut prepares, mut copies) = (BTreeSet::new(), BTreeSet::new());
    let mut tally = told;
    for event in events {
        match event.attributes.as_ref() {
            Some(Attributes::ActivityTaskScheduledEventAttributes(it)) => {
                match it.activity_type.as_ref().map(|kind| kind.name.as_str()) {
                    Some("prepare") => prepares.insert(event.event_id),
                    Some("copy_batch") => copies.insert(event.event_id),
                    _ => false,
                };
            }
            Some(Attributes::ActivityTaskCompletedEventAttributes(it)) => {
                let result = it.result.as_ref().and_then(|result| result.payloads.first());
                let Some(result) = result else { continue };
                let scheduled = &it.scheduled_event_id;
                if prepares.contains(scheduled)
                    && let Ok(prepared) = serde_json::from_slice::<Prepared>(&result.data)
                {
                    tally = prepared.position.tally;
                } else if copies.contains(scheduled)
                    && let Ok(done) = serde_json::from_slice::<Tally>(&result.data)
                {
                    tally += done;
                }
            }
            _ => {}
        }
    }
    tally
}

/// Of what `prepare` answers, that.
#[derive(Deserialize)]
struct Prepared {
    position: Position,
}
