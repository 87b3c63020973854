//! The jobs of a service, as a client sees them: found by name, described, asked how far they are.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt;
use temporalio_client::errors::WorkflowInteractionError;
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowFetchHistoryOptions, WorkflowHandle,
    WorkflowListOptions, WorkflowQueryOptions,
};
use temporalio_protos::temporal::api::failure::v1::Failure as FailureProto;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::workflowservice::v1::DescribeWorkflowExecutionResponse;

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::super::spelling::nearest;
use super::standing::Standing;
use super::{deserted, refused, unreachable};
use crate::connect::{Connected, Place, pid_of};
use crate::job::JobSpec;
use crate::job::status::{JobState, JobStatus, TableStatus};
use crate::table::{Position, Tally, plain};
use crate::worker::{self, Failure};
use crate::workflow::{CopyTable, JobInput, Phase, Progress};

/// A workflow that does not answer within this time is described without its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// One that has ended has nothing else to do.
const ANSWER_OF_CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// The type of a job's workflow.
const WORKFLOW: &str = "CopyTable";
/// What it was called by versions whose runs cannot be taken up: their jobs go on from the ledger.
const EARLIER_WORKFLOW: &str = "MigrateTable";

/// A handle on a job's workflow.
pub type Handle = WorkflowHandle<Client, CopyTable>;

/// A job that the journal knows.
pub struct Job {
    pub spec: JobSpec,
    pub status: WorkflowExecutionStatus,
    pub handle: Handle,
    /// What is on the target as far as the current run was told when it began.
    told_at_start: Tally,
    described: DescribeWorkflowExecutionResponse,
}

/// Who works on a job now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// Nobody.
    None,
    /// A process on this machine.
    Process(u32),
    /// Those that poll its task queue on a cluster, by their identities; perhaps nobody.
    Cluster(Vec<String>),
}

impl Workers {
    /// Whether that process is among them, as far as its id tells.
    pub fn have(&self, process: u32) -> bool {
        match self {
            Self::None => false,
            Self::Process(pid) => *pid == process,
            Self::Cluster(identities) => identities
                .iter()
                .any(|identity| pid_of(identity) == Some(process)),
        }
    }

    /// Whether there is one that would answer.
    pub fn are_some(&self) -> bool {
        match self {
            Self::None => false,
            Self::Process(_) => true,
            Self::Cluster(identities) => !identities.is_empty(),
        }
    }
}

/// Who works on a job now.
pub async fn workers(connected: &Connected, job: &Job) -> Result<Workers, Report> {
    if let Place::Cluster(_) = connected.place {
        let polling = worker::polling(&connected.client, job.task_queue()).await;
        return polling.map(Workers::Cluster).map_err(|error| refused(&error));
    }
    let runner = connected.runner_of(job.spec.name.as_str());
    let runner = runner.map_err(|error| unreachable(&error))?;
    Ok(runner.map_or(Workers::None, Workers::Process))
}

/// The same, but for those who have polled a cluster not long ago, and are gone: who lives answers.
pub async fn answering(connected: &Connected, job: &Job) -> Result<Workers, Report> {
    let workers = workers(connected, job).await?;
    match &workers {
        Workers::Cluster(some) if !some.is_empty() && job.progress().await.is_none() => {
            Ok(Workers::Cluster(Vec::new()))
        }
        _ => Ok(workers),
    }
}

/// All jobs, by name.
pub async fn all(connected: &Connected) -> Result<Vec<Job>, Report> {
    let found = all_and_unreadable(connected).await?;
    Ok(found.into_iter().filter_map(Result::ok).collect())
}

/// All jobs, by name; of those that cannot be read, why: one that somebody else or another version began hides no other.
pub async fn all_and_unreadable(connected: &Connected) -> Result<Vec<Result<Job, Report>>, Report> {
    // Others' workflows may be there, too, and many.
    let query = match connected.place {
        Place::Cluster(_) => format!("WorkflowType = '{WORKFLOW}'"),
        Place::Here(_) | Place::Process(_) | Place::Shared(_) => String::new(),
    };
    let runs: Vec<_> = connected
        .client
        .list_workflows(query, WorkflowListOptions::default())
        .try_collect()
        .await
        .map_err(|error| refused(&error))?;
    // A job may have several runs: it is the current one that counts.
    let ours = runs
        .iter()
        .filter(|run| is_ours(run.workflow_type(), run.task_queue()));
    let names: BTreeSet<_> = ours.map(|run| run.id().to_owned()).collect();
    let mut jobs = Vec::new();
    for name in names {
        match find(&connected.client, &name).await {
            Ok(job) => jobs.extend(job.map(Ok)),
            Err(report) if report.status() == ExitStatus::Usage => jobs.push(Err(report)),
            Err(report) => return Err(report),
        }
    }
    Ok(jobs)
}

fn is_ours(workflow: &str, task_queue: &str) -> bool {
    [WORKFLOW, EARLIER_WORKFLOW].contains(&workflow) && task_queue.starts_with(worker::TASK_QUEUES)
}

/// The job of that name, if there is one.
pub async fn find(client: &Client, name: &str) -> Result<Option<Job>, Report> {
    let handle: Handle = client.get_workflow_handle(name);
    let described = match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(described) => described,
        Err(WorkflowInteractionError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(refused(&error)),
    };
    if !is_ours(described.workflow_type(), described.task_queue()) {
        let words = format!(
            "workflow {name} is no job of longhaul's but of type {}",
            described.workflow_type()
        );
        return Err(
            Report::of(words, ExitStatus::Usage).with_hint("name the job otherwise: --name".to_owned())
        );
    }
    let first = first_event(&handle).await?;
    let Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) =
        first.and_then(|event| event.attributes)
    else {
        return Err(Report::of(
            format!("job {name} has no first event"),
            ExitStatus::Service,
        ));
    };
    let input = started
        .input
        .and_then(|input| input.payloads.into_iter().next())
        .unwrap_or_default();
    let input: JobInput = serde_json::from_slice(&input.data).map_err(|error| {
        Report::of(
            format!("what job {name} was started with cannot be read: longhaul did not begin it, or another version did"),
            ExitStatus::Usage,
        )
        .caused_by(&error.to_string())
    })?;
    let status = described.status();
    let from_state = input.state.as_ref().map(|state| state.position.tally);
    let from_known = input.known.as_ref().map(|known| known.tally);
    Ok(Some(Job {
        told_at_start: from_state.or(input.found).or(from_known).unwrap_or_default(),
        spec: input.spec,
        status,
        handle,
        described: described.into_raw(),
    }))
}

/// The job of that name, or an error that knows the nearest one.
pub async fn named(connected: &Connected, name: &str) -> Result<Job, Report> {
    if let Some(job) = find(&connected.client, name).await? {
        return Ok(job);
    }
    let jobs = all(connected).await?;
    let names: Vec<_> = jobs.iter().map(|job| job.spec.name.as_str()).collect();
    let elsewhere = match &connected.place {
        Place::Cluster(cluster) => format!(
            " of namespace {} at {}; --namespace and --temporal say where else to look",
            cluster.namespace, cluster.address
        ),
        Place::Here(_) | Place::Process(_) | Place::Shared(_) => {
            "; --state-dir says where else to look".to_owned()
        }
    };
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? `longhaul list` shows all jobs"),
        None => format!("`longhaul list` shows all jobs{elsewhere}"),
    };
    Err(Report::of(format!("there is no job named {name}"), ExitStatus::Usage).with_hint(hint))
}

async fn first_event(handle: &Handle) -> Result<Option<HistoryEvent>, Report> {
    let mut history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    history.try_next().await.map_err(|error| refused(&error))
}

impl Job {
    /// Looks again how the workflow stands.
    pub async fn refresh(&mut self) -> Result<(), WorkflowInteractionError> {
        let described = self.handle.describe(WorkflowDescribeOptions::default()).await?;
        self.status = described.status();
        self.described = described.into_raw();
        Ok(())
    }

    /// Where its tasks are.
    pub fn task_queue(&self) -> &str {
        let info = self.described.workflow_execution_info.as_ref();
        info.map_or("", |info| &info.task_queue)
    }

    /// Whether the workflow goes on.
    pub fn is_open(&self) -> bool {
        self.status == WorkflowExecutionStatus::Running
    }

    /// Whether it has ended well.
    pub fn is_complete(&self) -> bool {
        self.status == WorkflowExecutionStatus::Completed
    }

    /// Whether an earlier version of longhaul began it, whose runs this one cannot take up.
    pub fn is_earlier(&self) -> bool {
        let info = self.described.workflow_execution_info.as_ref();
        info.and_then(|info| info.r#type.as_ref())
            .is_some_and(|it| it.name == EARLIER_WORKFLOW)
    }

    /// How far the workflow says it is; `None` where no worker answers, or it has not begun.
    pub async fn progress(&self) -> Option<Progress> {
        if self.is_earlier() {
            return None;
        }
        let query = self
            .handle
            .query(CopyTable::progress, (), WorkflowQueryOptions::default());
        let within = match self.is_open() {
            true => ANSWER_WITHIN,
            false => ANSWER_OF_CLOSED_WITHIN,
        };
        match tokio::time::timeout(within, query).await {
            Ok(Ok(progress)) => Some(progress),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the workflow was asked for its progress");
                None
            }
            Err(_) => None,
        }
    }

    /// What the job was told is on the target, as far as its workflow says; a worker must answer for it.
    pub async fn told(&self) -> Option<Position> {
        self.progress().await.map(told_by)
    }

    /// The last event's failure, of a job that failed.
    pub async fn failure(&self) -> Option<Failure> {
        let events = self
            .handle
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .into_events()
            .await
            .ok()?;
        match events.into_iter().next_back()?.attributes? {
            Attributes::WorkflowExecutionFailedEventAttributes(failed) => {
                failed.failure.map(|failure| innermost(&failure))
            }
            _ => None,
        }
    }

    /// What a job that is complete has ended with, where no worker can be asked.
    pub(super) async fn result(&self) -> Option<Progress> {
        let history = self.handle.fetch_history(WorkflowFetchHistoryOptions::default());
        let events = history.into_events().await.ok()?;
        let Attributes::WorkflowExecutionCompletedEventAttributes(completed) =
            events.into_iter().next_back()?.attributes?
        else {
            return None;
        };
        let result = completed.result?.payloads.into_iter().next()?;
        Some(Progress::of_result(
            self.spec.clone(),
            serde_json::from_slice(&result.data).ok()?,
        ))
    }

    /// Everything that can be said of it now.
    pub async fn to_status(&self, workers: &Workers) -> JobStatus {
        let answer = match workers {
            // Nobody would answer.
            Workers::Cluster(identities) if identities.is_empty() => None,
            _ => self.progress().await,
        };
        // A cluster remembers for a while who polled and is gone: who lives answers.
        let is_deserted = matches!(workers, Workers::Cluster(_)) && answer.is_none();
        let nobody = Workers::Cluster(Vec::new());
        let workers = if is_deserted { &nobody } else { workers };
        let progress = match answer {
            None if self.is_complete() => self.result().await,
            answer => answer,
        };
        let told = match is_deserted && progress.is_none() {
            true => deserted::tally(self, self.told_at_start).await,
            false => self.told_at_start,
        };
        let info = self.described.workflow_execution_info.clone().unwrap_or_default();
        let execution = info.execution.clone().unwrap_or_default();
        // The job's own start: a run that continues another began later.
        let started = self
            .described
            .workflow_extended_info
            .as_ref()
            .and_then(|it| it.original_start_time);
        let pending = &self.described.pending_activities;
        let stands = Standing::of(self.status, progress.as_ref(), pending, workers);
        let state = stands.state;
        let last_failure = match state {
            JobState::Failed => self.failure().await.map(|failure| failure.to_string()),
            _ if self.is_earlier() && state.is_open() => Some(
                "an earlier version of longhaul began it; its own command continues from the ledger on the target".to_owned(),
            ),
            _ => stands.pending.iter().find_map(|activity| activity.last_failure.clone()),
        };
        let spec = progress.as_ref().map_or(&self.spec, |progress| &progress.spec);
        let tuning = progress.as_ref().map(|progress| progress.spec.tuning);
        let (rows_in_flight, bytes_in_flight) = stands.in_flight;
        let findings = progress.as_ref().and_then(|progress| progress.findings.clone());
        let mut table = self.table_status(state, progress.clone(), told);
        (table.rows_per_second, table.bytes_per_second) = stands.speed.unzip();
        table.eta_seconds = eta_seconds(&table, rows_in_flight);
        JobStatus {
            job: self.spec.name.to_string(),
            kind: self.spec.kind.label(),
            state,
            phase: progress.as_ref().map(|progress| progress.phase.word().to_owned()),
            draining: stands.draining,
            retrying: stands.retrying,
            waiting_for: stands.waiting_for,
            source: spec.source.to_string(),
            target: spec.target.to_string(),
            worker_pid: match workers {
                Workers::Process(pid) => Some(*pid),
                Workers::None | Workers::Cluster(_) => None,
            },
            workers: match workers {
                Workers::Cluster(identities) => identities.clone(),
                Workers::None | Workers::Process(_) => Vec::new(),
            },
            task_queue: matches!(workers, Workers::Cluster(_)).then(|| self.task_queue().to_owned()),
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
            history_length: info.history_length.unsigned_abs(),
            started_at: time(started).map(rfc3339),
            closed_at: time(info.close_time).map(rfc3339),
            next_run_at: progress
                .as_ref()
                .and_then(|progress| next_run(progress, SystemTime::now()))
                .map(rfc3339),
            last_failure,
            pending_activities: stands.pending,
            held_back_by: progress
                .as_ref()
                .map(|progress| progress.held_back_by.clone())
                .unwrap_or_default(),
            tuning,
            interval_ms: spec.kind.interval_ms(),
            rows_in_flight,
            bytes_in_flight,
            findings,
            tables: vec![table],
        }
        .plain()
    }

    /// `told` is what is shown where the workflow says nothing.
    fn table_status(&self, state: JobState, progress: Option<Progress>, told: Tally) -> TableStatus {
        let Some(progress) = progress else {
            return TableStatus {
                source: self.spec.source_table.to_string(),
                target: self.spec.target_table.to_string(),
                state,
                rows_done: told.rows,
                rows_skipped: told.skipped,
                rows_total: None,
                rows_total_is_estimate: true,
                bytes_done: told.bytes,
                batches_done: told.batches,
                batches_lost: 0,
                rows_lost: 0,
                lost_since: None,
                cursor: None,
                settled: None,
                copies_up_to: None,
                looked_up_to: None,
                looks_up_to: None,
                rows_per_second: None,
                bytes_per_second: None,
                eta_seconds: None,
            };
        };
        let is_done = state == JobState::Completed;
        let tally = progress.tally;
        let rows_total = if is_done {
            Some(tally.rows)
        } else {
            progress.rows_estimate
        };
        TableStatus {
            source: progress.source_table.to_string(),
            target: progress.target_table.to_string(),
            state,
            rows_done: tally.rows,
            rows_skipped: tally.skipped,
            rows_total,
            rows_total_is_estimate: !is_done,
            bytes_done: tally.bytes,
            batches_done: tally.batches,
            batches_lost: progress.lost.batches,
            rows_lost: progress.lost.rows,
            lost_since: progress.lost.since,
            cursor: progress.copied.map(|key| key.0),
            settled: progress.settled.map(|key| key.0),
            copies_up_to: progress.until.map(|key| key.0),
            looked_up_to: progress.looked_to.map(|key| key.0),
            looks_up_to: progress.looks_to.map(|key| key.0),
            rows_per_second: None,
            bytes_per_second: None,
            eta_seconds: None,
        }
    }
}

/// When a sync looks again. It waits no longer than its interval: where its workflow's clock says more, that was ahead once,
/// and never goes back.
fn next_run(progress: &Progress, now: SystemTime) -> Option<SystemTime> {
    let at = UNIX_EPOCH + Duration::from_millis(progress.next_run_ms?);
    let interval_ms = progress
        .spec
        .kind
        .interval_ms()
        .filter(|_| progress.phase == Phase::Sleeping);
    Some(interval_ms.map_or(at, |interval| at.min(now + Duration::from_millis(interval))))
}

/// The time to the end, at the speed of now; `None` where there is no speed, or more is done than was guessed.
fn eta_seconds(table: &TableStatus, rows_in_flight: u64) -> Option<u64> {
    let speed = table.rows_per_second.filter(|speed| *speed > 0.0)?;
    let left = table.rows_total?.checked_sub(table.rows_done)?;
    // Saturates: an estimate that is years away is as good as the greatest number.
    Some((left.saturating_sub(rows_in_flight) as f64 / speed).ceil() as u64)
}

/// What a job was told is on the target, by what its workflow says.
pub fn told_by(progress: Progress) -> Position {
    if let Some(told) = progress.told {
        return told;
    }
    Position {
        begun: progress.begun,
        copied: progress.copied,
        tally: progress.tally,
        ..Position::default()
    }
}

/// What lies at the bottom of a chain of failures: the activity's own words.
pub fn innermost(failure: &FailureProto) -> Failure {
    if let Some(cause) = &failure.cause {
        return innermost(cause);
    }
    if let Some(FailureInfo::ApplicationFailureInfo(info)) = &failure.failure_info
        && let Some(payload) = info.details.as_ref().and_then(|details| details.payloads.first())
        && let Ok(failure) = serde_json::from_slice::<Failure>(&payload.data)
    {
        let Failure { message, hint, .. } = &failure;
        return Failure {
            message: plain(message),
            hint: hint.lines().map(plain).collect::<Vec<_>>().join("\n"),
            ..failure
        };
    }
    Failure {
        side: "job".to_owned(),
        kind: String::new(),
        message: plain(&failure.message),
        hint: String::new(),
        prepare_again: false,
        since_ms: None,
        process: None,
    }
}

pub fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}

pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_sleeps_no_longer_than_its_interval_whatever_its_clock_was() {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "a", "kind": {"sync": {"interval_ms": 5000}}, "source": "h", "target": "h",
            "source_table": {"schema": null, "name": "t"}, "target_table": {"schema": null, "name": "t"},
            "tuning": {"concurrency": 1, "batch_rows": null, "max_rate_bytes_per_second": null},
        }))
        .expect("a job");
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut progress = Progress::of_result(spec, Tally::default());
        let in_ms = |progress: &Progress| {
            let at = next_run(progress, now).expect("it sleeps");
            at.duration_since(now).expect("it is to come").as_millis()
        };
        progress.phase = Phase::Sleeping;
        progress.next_run_ms = Some(1_000_003_000);
        assert_eq!(in_ms(&progress), 3000);
        // A day ahead.
        progress.next_run_ms = Some(1_086_400_000);
        assert_eq!(in_ms(&progress), 5000);
        progress.next_run_ms = None;
        assert_eq!(next_run(&progress, now), None);
    }
}
