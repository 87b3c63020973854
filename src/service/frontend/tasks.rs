//! What workers call about workflow tasks. A task token names the run, the event and the attempt, so that an answer
//! that comes too late finds nothing and changes nothing.

use std::collections::HashMap;

use prost::Message;
use temporalio_protos::temporal::api::common::v1::{
    WorkerVersionCapabilities, WorkerVersionStamp, WorkflowExecution, WorkflowType,
};
use temporalio_protos::temporal::api::deployment::v1::WorkerDeploymentOptions;
use temporalio_protos::temporal::api::enums::v1::{
    EventType, TaskQueueKind, WorkerVersioningMode, WorkflowTaskFailedCause,
};
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{Failure, ServerFailureInfo};
use temporalio_protos::temporal::api::history::v1::{History, HistoryEvent};
use temporalio_protos::temporal::api::protocol::v1::Message as ProtocolMessage;
use temporalio_protos::temporal::api::query::v1::WorkflowQuery;
use temporalio_protos::temporal::api::taskqueue::v1::{StickyExecutionAttributes, TaskQueue};
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse, RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse, RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
};
use tonic::Status;

use crate::failpoint::failpoint;

use super::super::clock::{millis, timestamp};
use super::super::core::Core;
use super::super::history::{Change, Completion, Dispatch, HistoryError, RunState, WorkflowTaskStart};
use super::super::matching::{QueueKind, Task};
use super::super::{Caller, Mode, Service, journal_status};
use super::activities::{eager_activity, start_eagerly};
use super::check_id;
use super::poll::LONG_POLL;

/// How long a task waits in a sticky queue, where the worker does not say.
const STICKY_SCHEDULE_TO_START_MS: i64 = 10_000;
/// How a server names the poll that an answer stands for.
const REQUEST_OF_AN_ANSWER: &str = "request-from-RespondWorkflowTaskCompleted";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TaskToken {
    #[prost(string, tag = "1")]
    pub run_id: String,
    /// Of an activity: its scheduled event; of a workflow task: its started event.
    #[prost(int64, tag = "2")]
    pub event_id: i64,
    #[prost(int32, tag = "3")]
    pub attempt: i32,
    /// Of a workflow task: which poll took it. A start that a crash has taken back has the event and the attempt of the next.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

pub(super) fn token(bytes: &[u8]) -> Result<TaskToken, Status> {
    let token = TaskToken::decode(bytes)
        .map_err(|_| Status::invalid_argument("the task token is not one of this service"))?;
    check_id("the task token's run", &token.run_id)?;
    Ok(token)
}

/// That the workflow task of a token is out, and not another of the same number.
fn must_be_out(change: &Change, token: &TaskToken) -> Result<(), HistoryError> {
    let task = change.workflow_task_that_is_out((token.event_id, token.attempt))?;
    // One that a version gave out which did not name the poll is of a start that was durable.
    if !token.request_id.is_empty() && token.request_id != task.request_id {
        return Err(HistoryError::NotFound("workflow task not found"));
    }
    Ok(())
}

impl Service {
    #[expect(deprecated, reason = "workers still say their build so")]
    pub(super) async fn poll_workflow_task_queue(
        &self,
        caller: Caller,
        request: PollWorkflowTaskQueueRequest,
    ) -> Result<PollWorkflowTaskQueueResponse, Status> {
        refuse_versioning(
            request.deployment_options.as_ref(),
            request.worker_version_capabilities.as_ref(),
        )?;
        let queue = request.task_queue.unwrap_or_default();
        let sticky = queue.kind == TaskQueueKind::Sticky as i32;
        let poll = (
            QueueKind::Workflow,
            queue.name.as_str(),
            request.identity.as_str(),
        );
        let worker_version = stamp(request.worker_version_capabilities);
        let end = tokio::time::Instant::now() + LONG_POLL;
        while let Some(task) = self.next_task(poll, end).await? {
            let taken = match task {
                Task::Workflow { run_id } => {
                    let start = WorkflowTaskStart {
                        identity: request.identity.clone(),
                        request_id: uuid::Uuid::new_v4().to_string(),
                        caller,
                        worker_version: worker_version.clone(),
                    };
                    self.start_workflow_task(&run_id, start, sticky).await?
                }
                Task::Query { query_id } => self.start_query(&query_id, sticky)?,
                Task::Activity { .. } => None,
            };
            if let Some(taken) = taken {
                return Ok(taken);
            }
        }
        Ok(PollWorkflowTaskQueueResponse::default())
    }

    async fn start_workflow_task(
        &self,
        run_id: &str,
        start: WorkflowTaskStart,
        sticky: bool,
    ) -> Result<Option<PollWorkflowTaskQueueResponse>, Status> {
        let started = {
            let mut core = self.core();
            let written = core.written(run_id);
            let started = self.apply_to(&mut core, run_id, |change| {
                let transient = change.start_workflow_task(start)?;
                Ok((change.state.clone(), transient))
            });
            started.map(|((run, transient), pending)| {
                let started = Started::of(&mut core, run, transient, sticky);
                (started, pending, written)
            })
        };
        let (started, pending, written) = match started {
            Ok(started) => started,
            // Taken by another poll, timed out, or closed meanwhile.
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        if pending.hands_out_nothing() {
            // Its start need not be durable: whatever the worker makes of it comes in a later batch, which is lost with it, and
            // then its token is one of no task. What it shows beside its start must be.
            self.release_later(pending);
            self.durable(written).await?;
        } else {
            self.release(pending).await?;
        }
        self.workflow_task(started).map(Some)
    }

    /// A workflow task that has been started, as its worker gets it.
    fn workflow_task(&self, started: Started) -> Result<PollWorkflowTaskQueueResponse, Status> {
        let run = started.run;
        let task = run.workflow_task.clone().unwrap_or_default();
        let from = if started.in_cache {
            run.last_completed_started_event_id + 1
        } else {
            1
        };
        let mut events = self.events(&run, from, usize::MAX)?;
        events.extend(started.transient);
        let task_token = TaskToken {
            run_id: run.run_id.clone(),
            event_id: task.started_event_id,
            attempt: task.attempt,
            request_id: task.request_id.clone(),
        };
        Ok(PollWorkflowTaskQueueResponse {
            task_token: task_token.encode_to_vec(),
            started_event_id: task.started_event_id,
            attempt: task.attempt,
            history: Some(History { events }),
            scheduled_time: timestamp(task.scheduled_ms),
            started_time: timestamp(task.started_ms),
            queries: started.queries,
            messages: started.messages,
            ..about(&run)
        })
    }

    fn start_query(
        &self,
        query_id: &str,
        sticky: bool,
    ) -> Result<Option<PollWorkflowTaskQueueResponse>, Status> {
        let Some((run_id, query)) = self.core().queries.get(query_id) else {
            return Ok(None);
        };
        let run = self.core().get(&self.inner.store, &run_id);
        let Some(run) = run.map_err(|error| journal_status(&error))? else {
            return Ok(None);
        };
        let mut events = Vec::new();
        if !sticky {
            events = self.events(&run, 1, usize::MAX)?;
            if self.inner.mode == Mode::Inspect && !run.is_closed() {
                events = seen_by_the_workflow(events);
            }
        }
        Ok(Some(PollWorkflowTaskQueueResponse {
            task_token: query_id.as_bytes().to_vec(),
            attempt: 1,
            history: Some(History { events }),
            query: Some(query),
            ..about(&run)
        }))
    }

    pub(super) async fn respond_workflow_task_completed(
        &self,
        caller: Caller,
        request: RespondWorkflowTaskCompletedRequest,
    ) -> Result<RespondWorkflowTaskCompletedResponse, Status> {
        if request.intermediate_page || request.page_number > 0 {
            return Err(Status::unimplemented(
                "this service does not take the answer to a workflow task in pages",
            ));
        }
        let token = token(&request.task_token)?;
        let eager: Vec<String> = request.commands.iter().filter_map(eager_activity).collect();
        let (identity, query_results) = (request.identity.clone(), request.query_results.clone());
        let worker = WorkflowTaskStart {
            identity: request.identity.clone(),
            request_id: REQUEST_OF_AN_ANSWER.to_owned(),
            caller,
            worker_version: request_stamp(&request),
        };
        let returns_next = request.return_new_workflow_task;
        let mut completion = completion(request);
        let mut bad_command = None;
        let applied: Result<_, Status> = {
            let mut core = self.core();
            completion.update_requests = core.updates.sent(&token.run_id);
            // Under the same lock: an update that comes in between would find a task that is out, and get none of its own.
            completion.updates_wait = core.updates.has_unsent(&token.run_id);
            let applied = self.apply_to(&mut core, &token.run_id, |change| {
                must_be_out(change, &token)?;
                let completed = change.complete_workflow_task((token.event_id, token.attempt), completion);
                if let Err(HistoryError::BadCommand { cause, message }) = &completed {
                    bad_command = Some((*cause, message.clone()));
                }
                let back_to = completed?;
                let activities = start_eagerly(change, &eager, &worker);
                let next = returns_next.then(|| start_next(change, worker)).flatten();
                Ok((back_to, activities, next))
            });
            applied.map(|((back_to, activities, next), pending)| {
                let next = next.map(|(run, transient)| Started::of(&mut core, run, transient, true));
                (back_to, activities, next, pending)
            })
        };
        if let Some((cause, message)) = bad_command {
            return self.refuse_workflow_task(&token, cause, message, &identity).await;
        }
        let (back_to, activities, next, pending) = applied?;
        self.release(pending).await?;
        failpoint!("service::after_workflow_task");
        self.core().queries.answer_all(query_results);
        let activity_tasks = activities
            .iter()
            .map(|(run, activity)| self.activity_task(run, activity))
            .collect::<Result<_, _>>()?;
        Ok(RespondWorkflowTaskCompletedResponse {
            activity_tasks,
            workflow_task: next.map(|next| self.workflow_task(next)).transpose()?,
            reset_history_event_id: back_to.unwrap_or_default(),
        })
    }

    async fn refuse_workflow_task(
        &self,
        token: &TaskToken,
        cause: i32,
        message: String,
        identity: &str,
    ) -> Result<RespondWorkflowTaskCompletedResponse, Status> {
        let name = WorkflowTaskFailedCause::try_from(cause).unwrap_or_default();
        let message = if message.is_empty() {
            format!("{name:?}")
        } else {
            format!("{name:?}: {message}")
        };
        let failure = Failure {
            message: message.clone(),
            failure_info: Some(FailureInfo::ServerFailureInfo(ServerFailureInfo::default())),
            ..Default::default()
        };
        let fail = |change: &mut Change| {
            must_be_out(change, token)?;
            change.fail_workflow_task(cause, Some(failure), identity);
            Ok(())
        };
        self.change(&token.run_id, fail).await?;
        Err(Status::invalid_argument(message))
    }

    pub(super) async fn respond_workflow_task_failed(
        &self,
        request: RespondWorkflowTaskFailedRequest,
    ) -> Result<RespondWorkflowTaskFailedResponse, Status> {
        let token = token(&request.task_token)?;
        let fail = |change: &mut Change| {
            must_be_out(change, &token)?;
            change.fail_workflow_task(request.cause, request.failure, &request.identity);
            Ok(())
        };
        self.change(&token.run_id, fail).await?;
        Ok(RespondWorkflowTaskFailedResponse {})
    }
}

/// A workflow task that a worker is about to get, as it was when it was started.
struct Started {
    run: RunState,
    /// Events that are not in the journal.
    transient: Vec<HistoryEvent>,
    queries: HashMap<String, WorkflowQuery>,
    messages: Vec<ProtocolMessage>,
    /// Whether the worker has the run in its cache.
    in_cache: bool,
}

impl Started {
    /// Under the lock under which it was started, and not once it is durable: what is asked after a signal must not go out
    /// with a task that began before it.
    fn of(core: &mut Core, run: RunState, transient: Vec<HistoryEvent>, in_cache: bool) -> Self {
        let task = run.workflow_task.clone().unwrap_or_default();
        Self {
            queries: core.queries.attached(&run.run_id),
            messages: core.updates.send(&run.run_id, &task, in_cache),
            run,
            transient,
            in_cache,
        }
    }
}

/// Starts, within the same change, the workflow task that follows the one that is answered, if one does and may be handed out.
fn start_next(change: &mut Change, start: WorkflowTaskStart) -> Option<(RunState, Vec<HistoryEvent>)> {
    let transient = change.start_workflow_task(start).ok()?;
    change
        .dispatch
        .retain(|it| !matches!(it, Dispatch::WorkflowTask { .. }));
    Some((change.state.clone(), transient))
}

fn completion(request: RespondWorkflowTaskCompletedRequest) -> Completion {
    let worker_version = request_stamp(&request);
    Completion {
        worker_version,
        binary_checksum: binary_checksum(&request),
        commands: request.commands,
        messages: request.messages,
        identity: request.identity,
        sdk_metadata: request.sdk_metadata,
        metering_metadata: request.metering_metadata,
        sticky: request.sticky_attributes.and_then(sticky),
        force_new_task: request.force_create_new_workflow_task,
        can_discard_events: request
            .capabilities
            .is_some_and(|it| it.discard_speculative_workflow_task_with_events),
        new_run_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    }
}

/// The queue that a worker wants the next task in, and for how long at most.
fn sticky(attributes: StickyExecutionAttributes) -> Option<(String, i64)> {
    let timeout_ms = match millis(attributes.schedule_to_start_timeout) {
        0 => STICKY_SCHEDULE_TO_START_MS,
        timeout_ms => timeout_ms,
    };
    let queue = attributes
        .worker_task_queue
        .filter(|queue| !queue.name.is_empty());
    queue.map(|queue| (queue.name, timeout_ms))
}

#[expect(deprecated, reason = "workers still say their build so")]
fn request_stamp(request: &RespondWorkflowTaskCompletedRequest) -> Option<WorkerVersionStamp> {
    request
        .worker_version_stamp
        .clone()
        .filter(|it| !it.use_versioning)
}

#[expect(deprecated, reason = "older workers name their build by a checksum")]
fn binary_checksum(request: &RespondWorkflowTaskCompletedRequest) -> String {
    request.binary_checksum.clone()
}

/// The build of a worker that polls, if it says one.
fn stamp(capabilities: Option<WorkerVersionCapabilities>) -> Option<WorkerVersionStamp> {
    let named = capabilities.filter(|it| !it.build_id.is_empty());
    named.map(|it| WorkerVersionStamp {
        build_id: it.build_id,
        use_versioning: it.use_versioning,
    })
}

/// A worker that wants to get only what is for its version would get everything.
pub(super) fn refuse_versioning(
    options: Option<&WorkerDeploymentOptions>,
    capabilities: Option<&WorkerVersionCapabilities>,
) -> Result<(), Status> {
    let versioned =
        |it: &WorkerDeploymentOptions| it.worker_versioning_mode == WorkerVersioningMode::Versioned as i32;
    if options.is_some_and(versioned) || capabilities.is_some_and(|it| it.use_versioning) {
        return Err(Status::unimplemented(
            "this service does not know versions of workers: it hands out tasks to all of them",
        ));
    }
    Ok(())
}

/// What every workflow task says of its run.
fn about(run: &RunState) -> PollWorkflowTaskQueueResponse {
    PollWorkflowTaskQueueResponse {
        workflow_execution: Some(execution(run)),
        workflow_type: Some(WorkflowType {
            name: run.workflow_type.clone(),
        }),
        previous_started_event_id: run.last_completed_started_event_id,
        workflow_execution_task_queue: Some(TaskQueue {
            name: run.task_queue.clone(),
            kind: TaskQueueKind::Normal as i32,
            normal_name: String::new(),
        }),
        ..Default::default()
    }
}

pub(super) fn execution(run: &RunState) -> WorkflowExecution {
    WorkflowExecution {
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id.clone(),
    }
}

/// The events that the last completed workflow task knew or made: what came later, no worker has acted on.
fn seen_by_the_workflow(mut events: Vec<HistoryEvent>) -> Vec<HistoryEvent> {
    let completed = events
        .iter()
        .rposition(|event| event.event_type() == EventType::WorkflowTaskCompleted);
    let Some(completed) = completed else { return events };
    let made = events[completed + 1..].iter().take_while(|event| {
        matches!(
            event.event_type(),
            EventType::ActivityTaskScheduled
                | EventType::ActivityTaskCancelRequested
                | EventType::TimerStarted
                | EventType::TimerCanceled
                | EventType::MarkerRecorded
                | EventType::UpsertWorkflowSearchAttributes
                | EventType::WorkflowPropertiesModified
                | EventType::WorkflowExecutionUpdateAccepted
                | EventType::WorkflowExecutionUpdateCompleted
        )
    });
    let kept = completed + 1 + made.count();
    events.truncate(kept);
    events
}
