//! The jobs of a service, as a client sees them: found by name, described, asked how far they are.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt;
use temporalio_client::tonic::IntoRequest;
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowFetchHistoryOptions, WorkflowHandle,
    WorkflowListOptions, WorkflowQueryOptions,
};
use temporalio_protos::temporal::api::enums::v1::TaskQueueType;
use temporalio_protos::temporal::api::failure::v1::Failure as FailureProto;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflow::v1::PendingActivityInfo;
use temporalio_protos::temporal::api::workflowservice::v1::{
    DescribeTaskQueueRequest, DescribeWorkflowExecutionResponse,
};

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::super::spelling::nearest;
use super::refused;
use crate::connect::pid_of;
use crate::job::status::{JobState, JobStatus, PendingActivity, TableStatus};
use crate::job::{JobName, JobSpec};
use crate::service::NAMESPACE;
use crate::worker::{self, Failure};
use crate::workflow::{MigrateInput, MigrateTable, Phase, Progress};

/// A workflow that does not answer within this time is described without its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// A handle on a job's workflow.
pub type Handle = WorkflowHandle<Client, MigrateTable>;

/// A job that the journal knows.
pub struct Job {
    pub spec: JobSpec,
    pub status: WorkflowExecutionStatus,
    pub handle: Handle,
    described: DescribeWorkflowExecutionResponse,
}

/// All jobs, by name.
pub async fn all(client: &Client) -> Result<Vec<Job>, Report> {
    let runs: Vec<_> = client
        .list_workflows("", WorkflowListOptions::default())
        .try_collect()
        .await
        .map_err(|error| refused(&error))?;
    // A job may have several runs: it is the current one that counts.
    let ours = runs.iter().filter(|run| run.workflow_type() == "MigrateTable");
    let names: BTreeSet<_> = ours.map(|run| run.id().to_owned()).collect();
    let mut jobs = Vec::new();
    for name in names {
        jobs.extend(find(client, &name).await?);
    }
    Ok(jobs)
}

/// The job of that name, if there is one.
pub async fn find(client: &Client, name: &str) -> Result<Option<Job>, Report> {
    let handle: Handle = client.get_workflow_handle(name);
    let described = match handle.describe(WorkflowDescribeOptions::default()).await {
        Ok(described) => described,
        Err(temporalio_client::errors::WorkflowInteractionError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(refused(&error)),
    };
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
    let input: MigrateInput = serde_json::from_slice(&input.data).map_err(|error| {
        Report::of(
            format!("what job {name} was started with cannot be read"),
            ExitStatus::Service,
        )
        .caused_by(&error.to_string())
    })?;
    let status = described.status();
    Ok(Some(Job {
        spec: input.spec,
        status,
        handle,
        described: described.into_raw(),
    }))
}

/// The job of that name, or an error that knows the nearest one.
pub async fn named(client: &Client, name: &str) -> Result<Job, Report> {
    if let Some(job) = find(client, name).await? {
        return Ok(job);
    }
    let jobs = all(client).await?;
    let names: Vec<_> = jobs.iter().map(|job| job.spec.name.as_str()).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? `longhaul list` shows all jobs"),
        None => "`longhaul list` shows all jobs; --state-dir says where else to look".to_owned(),
    };
    Err(Report::of(format!("there is no job named {name}"), ExitStatus::Usage).with_hint(hint))
}

async fn first_event(handle: &Handle) -> Result<Option<HistoryEvent>, Report> {
    let mut history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    history.try_next().await.map_err(|error| refused(&error))
}

/// Who polls for a job's workflow tasks now.
pub async fn worker_pid(client: &Client, name: &JobName) -> Result<Option<u32>, Report> {
    let request = DescribeTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: Some(TaskQueue {
            name: worker::task_queue(name),
            ..Default::default()
        }),
        task_queue_type: TaskQueueType::Activity as i32,
        ..Default::default()
    };
    let mut service = client.connection().workflow_service();
    let described = service.describe_task_queue(request.into_request()).await;
    let described = described.map_err(|error| refused(&error))?.into_inner();
    Ok(described
        .pollers
        .first()
        .and_then(|poller| pid_of(&poller.identity)))
}

impl Job {
    /// Whether the workflow goes on.
    pub fn is_open(&self) -> bool {
        self.status == WorkflowExecutionStatus::Running
    }

    /// How far the workflow says it is; `None` where no worker answers, or it has not begun.
    pub async fn progress(&self) -> Option<Progress> {
        let query = self
            .handle
            .query(MigrateTable::progress, (), WorkflowQueryOptions::default());
        match tokio::time::timeout(ANSWER_WITHIN, query).await {
            Ok(Ok(progress)) => Some(progress),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the workflow was asked for its progress");
                None
            }
            Err(_) => None,
        }
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

    /// Everything that can be said of it now.
    pub async fn to_status(&self, worker_pid: Option<u32>) -> JobStatus {
        let progress = self.progress().await;
        let info = self.described.workflow_execution_info.clone().unwrap_or_default();
        let execution = info.execution.clone().unwrap_or_default();
        // The job's own start: a run that continues another began later.
        let started = self
            .described
            .workflow_extended_info
            .as_ref()
            .and_then(|it| it.original_start_time);
        let state = state(self.status, progress.as_ref(), worker_pid.is_some());
        let pending: Vec<_> = self
            .described
            .pending_activities
            .iter()
            .map(pending_activity)
            .collect();
        let last_failure = match state {
            JobState::Failed => self.failure().await.map(|failure| failure.to_string()),
            _ => pending.iter().find_map(|activity| activity.last_failure.clone()),
        };
        JobStatus {
            job: self.spec.name.to_string(),
            kind: self.spec.kind.label(),
            state,
            worker_pid,
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
            history_length: info.history_length.unsigned_abs(),
            started_at: time(started).map(rfc3339),
            closed_at: time(info.close_time).map(rfc3339),
            next_run_at: progress
                .as_ref()
                .and_then(|progress| progress.next_run_ms)
                .map(|ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms))),
            last_failure,
            pending_activities: pending,
            held_back_by: progress
                .as_ref()
                .map(|progress| progress.held_back_by.clone())
                .unwrap_or_default(),
            tables: vec![self.table_status(state, progress)],
        }
    }

    fn table_status(&self, state: JobState, progress: Option<Progress>) -> TableStatus {
        let Some(progress) = progress else {
            return TableStatus {
                source: self.spec.source_table.to_string(),
                target: self.spec.target_table.to_string(),
                state,
                rows_done: 0,
                rows_total: None,
                rows_total_is_estimate: true,
                bytes_done: 0,
                batches_done: 0,
                cursor: None,
                rows_per_second: None,
                bytes_per_second: None,
                eta_seconds: None,
            };
        };
        let is_done = state == JobState::Completed;
        let rows_total = if is_done {
            Some(progress.rows_done)
        } else {
            progress.rows_estimate
        };
        let left = rows_total.map(|total| total.saturating_sub(progress.rows_done));
        let speed = progress.rows_per_second.filter(|speed| *speed > 0.0);
        TableStatus {
            source: progress.source_table.to_string(),
            target: progress.target_table.to_string(),
            state,
            rows_done: progress.rows_done,
            rows_total,
            rows_total_is_estimate: !is_done,
            bytes_done: progress.bytes_done,
            batches_done: progress.batches_done,
            cursor: progress.cursor.map(|key| key.0),
            rows_per_second: progress.rows_per_second,
            bytes_per_second: progress.bytes_per_second,
            // Saturates: an estimate that is years away is as good as the greatest number.
            eta_seconds: left
                .zip(speed)
                .map(|(left, speed)| (left as f64 / speed).ceil() as u64),
        }
    }
}

fn state(status: WorkflowExecutionStatus, progress: Option<&Progress>, runs: bool) -> JobState {
    match status {
        WorkflowExecutionStatus::Completed => JobState::Completed,
        WorkflowExecutionStatus::Failed | WorkflowExecutionStatus::TimedOut => JobState::Failed,
        WorkflowExecutionStatus::Canceled => JobState::Canceled,
        WorkflowExecutionStatus::Terminated => JobState::Terminated,
        _ => match progress {
            Some(progress) if progress.paused && (progress.in_flight == 0 || !runs) => JobState::Paused,
            Some(progress) if progress.phase == Phase::Sleeping => JobState::Sleeping,
            _ => JobState::Running,
        },
    }
}

fn pending_activity(info: &PendingActivityInfo) -> PendingActivity {
    PendingActivity {
        activity_type: info.activity_type.clone().unwrap_or_default().name,
        attempt: info.attempt.unsigned_abs(),
        last_failure: info
            .last_failure
            .as_ref()
            .map(|failure| innermost(failure).to_string()),
        next_attempt_at: time(info.next_attempt_schedule_time).map(rfc3339),
    }
}

/// What lies at the bottom of a chain of failures: the activity's own words.
pub fn innermost(failure: &FailureProto) -> Failure {
    if let Some(cause) = &failure.cause {
        return innermost(cause);
    }
    if let Some(FailureInfo::ApplicationFailureInfo(info)) = &failure.failure_info
        && let Some(payload) = info.details.as_ref().and_then(|details| details.payloads.first())
        && let Ok(failure) = serde_json::from_slice(&payload.data)
    {
        return failure;
    }
    Failure {
        side: "job".to_owned(),
        kind: String::new(),
        message: failure.message.clone(),
        hint: String::new(),
    }
}

pub fn time(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}

pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
