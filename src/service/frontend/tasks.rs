//! What workers call: polls, answers, heartbeats. A task token names the run, the event and the attempt, so that an answer
//! that comes too late finds nothing and changes nothing.

use std::time::Duration;

use prost::Message;
use temporalio_protos::temporal::api::common::v1::WorkflowExecution;
use temporalio_protos::temporal::api::common::v1::WorkflowType;
use temporalio_protos::temporal::api::enums::v1::{EventType, TaskQueueKind, WorkflowTaskFailedCause};
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{Failure, ServerFailureInfo};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{History, HistoryEvent};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollActivityTaskQueueRequest, PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest,
    PollWorkflowTaskQueueResponse, RecordActivityTaskHeartbeatRequest, RecordActivityTaskHeartbeatResponse,
    RespondActivityTaskCanceledRequest, RespondActivityTaskCanceledResponse,
    RespondActivityTaskCompletedRequest, RespondActivityTaskCompletedResponse,
    RespondActivityTaskFailedRequest, RespondActivityTaskFailedResponse, RespondWorkflowTaskCompletedRequest,
    RespondWorkflowTaskCompletedResponse, RespondWorkflowTaskFailedRequest,
    RespondWorkflowTaskFailedResponse,
};
use tonic::Status;

use crate::failpoint::failpoint;

use super::super::clock::{duration, millis, timestamp};
use super::super::history::{
    ActivityStart, ActivityState, Change, Completion, Dispatch, HistoryError, RunState, WorkflowTaskStart,
};
use super::super::matching::{QueueKind, Task};
use super::super::{Caller, Mode, Service, journal_status};
use super::{check_id, check_namespace, check_payload};

/// An empty answer after so long; the worker polls again.
const LONG_POLL: Duration = Duration::from_secs(60);

/// How long a task waits in a sticky queue, where the worker does not say.
const STICKY_SCHEDULE_TO_START_MS: i64 = 10_000;

#[derive(Clone, PartialEq, prost::Message)]
struct TaskToken {
    #[prost(string, tag = "1")]
    run_id: String,
    /// Of an activity: its scheduled event; of a workflow task: its started event.
    #[prost(int64, tag = "2")]
    event_id: i64,
    #[prost(int32, tag = "3")]
    attempt: i32,
}

fn token(bytes: &[u8]) -> Result<TaskToken, Status> {
    let token = TaskToken::decode(bytes)
        .map_err(|_| Status::invalid_argument("the task token is not one of this service"))?;
    check_id("the task token's run", &token.run_id)?;
    Ok(token)
}

impl Service {
    /// The next task of a queue: a hint, to be asked of its run. `None` when the long poll is over.
    async fn next_task(
        &self,
        (kind, queue, identity): (QueueKind, &str, &str),
        end: tokio::time::Instant,
    ) -> Result<Option<Task>, Status> {
        check_id("task queue", queue)?;
        loop {
            let polled = self.core().matching.poll(kind, queue, identity, self.now_ms());
            let arrived = match polled {
                Ok(task) => return Ok(Some(task)),
                Err(arrived) => arrived,
            };
            let _waiting = WaitingPoll::new(self, kind, queue, identity);
            if tokio::time::timeout_at(end, arrived.notified()).await.is_err() {
                return Ok(None);
            }
        }
    }

    pub(super) async fn poll_workflow_task_queue(
        &self,
        caller: Caller,
        request: PollWorkflowTaskQueueRequest,
    ) -> Result<PollWorkflowTaskQueueResponse, Status> {
        check_namespace(&request.namespace)?;
        let queue = request.task_queue.unwrap_or_default();
        let sticky = queue.kind == TaskQueueKind::Sticky as i32;
        let poll = (
            QueueKind::Workflow,
            queue.name.as_str(),
            request.identity.as_str(),
        );
        let end = tokio::time::Instant::now() + LONG_POLL;
        while let Some(task) = self.next_task(poll, end).await? {
            let taken = match task {
                Task::Workflow { run_id } => {
                    self.start_workflow_task(caller, &run_id, &request.identity, sticky)
                        .await?
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
        caller: Caller,
        run_id: &str,
        identity: &str,
        sticky: bool,
    ) -> Result<Option<PollWorkflowTaskQueueResponse>, Status> {
        let start = WorkflowTaskStart {
            identity: identity.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            caller,
        };
        let started = {
            let mut core = self.core();
            let started = self.apply_to(&mut core, run_id, |change| {
                let transient = change.start_workflow_task(start)?;
                Ok((change.state.clone(), transient))
            });
            started.map(|((run, transient), pending)| {
                // Here, and not once it is durable: what is asked after a signal must not go out with a task that began
                // before it.
                let task = run.workflow_task.clone().unwrap_or_default();
                let queries = core.queries.attached(run_id);
                let messages = core.updates.send(run_id, &task);
                (run, transient, task, queries, messages, pending)
            })
        };
        let (run, transient, task, queries, messages, pending) = match started {
            Ok(started) => started,
            // Taken by another poll, timed out, or closed meanwhile.
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        self.release(pending).await?;
        let from = if sticky {
            run.last_completed_started_event_id + 1
        } else {
            1
        };
        let mut events = self.events(&run, from, usize::MAX)?;
        events.extend(transient);
        let task_token = TaskToken {
            run_id: run_id.to_owned(),
            event_id: task.started_event_id,
            attempt: task.attempt,
        };
        Ok(Some(PollWorkflowTaskQueueResponse {
            task_token: task_token.encode_to_vec(),
            started_event_id: task.started_event_id,
            attempt: task.attempt,
            history: Some(History { events }),
            scheduled_time: timestamp(task.scheduled_ms),
            started_time: timestamp(task.started_ms),
            queries,
            messages,
            ..about(&run)
        }))
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
        let token = token(&request.task_token)?;
        let eager: Vec<String> = request.commands.iter().filter_map(eager_activity).collect();
        let sticky = request.sticky_attributes.and_then(|sticky| {
            let timeout_ms = match millis(sticky.schedule_to_start_timeout) {
                0 => STICKY_SCHEDULE_TO_START_MS,
                timeout_ms => timeout_ms,
            };
            sticky
                .worker_task_queue
                .map(|queue| (queue.name, timeout_ms))
                .filter(|(name, _)| !name.is_empty())
        });
        let identity = request.identity.clone();
        let mut completion = Completion {
            commands: request.commands,
            messages: request.messages,
            identity: request.identity,
            sdk_metadata: request.sdk_metadata,
            sticky,
            force_new_task: request.force_create_new_workflow_task,
            can_discard_events: request
                .capabilities
                .is_some_and(|it| it.discard_speculative_workflow_task_with_events),
            new_run_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        let mut bad_command = None;
        let applied = {
            let mut core = self.core();
            completion.update_requests = core.updates.sent(&token.run_id);
            // Under the same lock: an update that comes in between would find a task that is out, and get none of its own.
            completion.updates_wait = core.updates.has_unsent(&token.run_id);
            self.apply_to(&mut core, &token.run_id, |change| {
                let completed = change.complete_workflow_task((token.event_id, token.attempt), completion);
                if let Err(HistoryError::BadCommand { cause, message }) = &completed {
                    bad_command = Some((*cause, message.clone()));
                }
                completed.map(|back_to| (back_to, start_eagerly(change, &eager, caller, &identity)))
            })
        };
        if let Some((cause, message)) = bad_command {
            return self.refuse_workflow_task(&token, cause, message, &identity).await;
        }
        let ((back_to, started), pending) = applied?;
        self.release(pending).await?;
        failpoint!("service::after_workflow_task");
        self.core().queries.answer_all(request.query_results);
        let activity_tasks = started
            .iter()
            .map(|(run, activity)| self.activity_task(run, activity))
            .collect::<Result<_, _>>()?;
        Ok(RespondWorkflowTaskCompletedResponse {
            activity_tasks,
            reset_history_event_id: back_to.unwrap_or_default(),
            ..Default::default()
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
            change.workflow_task_that_is_out((token.event_id, token.attempt))?;
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
            change.workflow_task_that_is_out((token.event_id, token.attempt))?;
            change.fail_workflow_task(request.cause, request.failure, &request.identity);
            Ok(())
        };
        self.change(&token.run_id, fail).await?;
        Ok(RespondWorkflowTaskFailedResponse {})
    }

    pub(super) async fn poll_activity_task_queue(
        &self,
        caller: Caller,
        request: PollActivityTaskQueueRequest,
    ) -> Result<PollActivityTaskQueueResponse, Status> {
        check_namespace(&request.namespace)?;
        let queue = request.task_queue.unwrap_or_default();
        let poll = (
            QueueKind::Activity,
            queue.name.as_str(),
            request.identity.as_str(),
        );
        let end = tokio::time::Instant::now() + LONG_POLL;
        while let Some(task) = self.next_task(poll, end).await? {
            let Task::Activity {
                run_id,
                scheduled_event_id,
                attempt,
            } = task
            else {
                continue;
            };
            let start = ActivityStart {
                scheduled_event_id,
                attempt,
                identity: request.identity.clone(),
                request_id: uuid::Uuid::new_v4().to_string(),
                caller,
            };
            let started = self.change(&run_id, |change| {
                let activity = change.start_activity(start)?;
                Ok((change.state.clone(), activity))
            });
            match started.await {
                Ok((run, activity)) => return self.activity_task(&run, &activity),
                // Taken by another poll, timed out, or closed meanwhile.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        Ok(PollActivityTaskQueueResponse::default())
    }

    fn activity_task(
        &self,
        run: &RunState,
        activity: &ActivityState,
    ) -> Result<PollActivityTaskQueueResponse, Status> {
        let scheduled = self
            .events(run, activity.scheduled_event_id, 1)?
            .pop()
            .and_then(|event| event.attributes);
        let Some(Attributes::ActivityTaskScheduledEventAttributes(scheduled)) = scheduled else {
            return Err(Status::internal("an activity's scheduled event is none"));
        };
        let event_id = activity.scheduled_event_id;
        let task_token = TaskToken {
            run_id: run.run_id.clone(),
            event_id,
            attempt: activity.attempt,
        };
        Ok(PollActivityTaskQueueResponse {
            task_token: task_token.encode_to_vec(),
            workflow_namespace: run.namespace.clone(),
            workflow_type: Some(WorkflowType {
                name: run.workflow_type.clone(),
            }),
            workflow_execution: Some(execution(run)),
            activity_type: activity.type_proto(),
            activity_id: activity.activity_id.clone(),
            header: scheduled.header,
            input: scheduled.input,
            heartbeat_details: activity.heartbeat_details.clone(),
            scheduled_time: timestamp(activity.scheduled_ms),
            current_attempt_scheduled_time: timestamp(activity.attempt_scheduled_ms),
            started_time: timestamp(activity.started_ms),
            attempt: activity.attempt,
            schedule_to_close_timeout: Some(duration(activity.schedule_to_close_ms).unwrap_or_default()),
            start_to_close_timeout: Some(duration(activity.start_to_close_ms).unwrap_or_default()),
            heartbeat_timeout: Some(duration(activity.heartbeat_timeout_ms).unwrap_or_default()),
            retry_policy: activity.retry_policy.clone(),
            priority: scheduled.priority,
            ..Default::default()
        })
    }

    pub(super) async fn record_activity_task_heartbeat(
        &self,
        request: RecordActivityTaskHeartbeatRequest,
    ) -> Result<RecordActivityTaskHeartbeatResponse, Status> {
        let token = token(&request.task_token)?;
        check_payload("the heartbeat's details", request.details.as_ref())?;
        let cancel_requested = self
            .change(&token.run_id, |change| {
                change.heartbeat((token.event_id, token.attempt), request.details)
            })
            .await?;
        Ok(RecordActivityTaskHeartbeatResponse {
            cancel_requested,
            ..Default::default()
        })
    }

    pub(super) async fn respond_activity_task_completed(
        &self,
        request: RespondActivityTaskCompletedRequest,
    ) -> Result<RespondActivityTaskCompletedResponse, Status> {
        let token = token(&request.task_token)?;
        check_payload("the result", request.result.as_ref())?;
        let task = (token.event_id, token.attempt);
        self.change(&token.run_id, |change| {
            change.complete_activity(task, request.result, request.identity)
        })
        .await?;
        failpoint!("service::before_activity_answer");
        Ok(RespondActivityTaskCompletedResponse {})
    }

    pub(super) async fn respond_activity_task_failed(
        &self,
        request: RespondActivityTaskFailedRequest,
    ) -> Result<RespondActivityTaskFailedResponse, Status> {
        let token = token(&request.task_token)?;
        let task = (token.event_id, token.attempt);
        let failure = request.failure.unwrap_or_default();
        let fail = |change: &mut Change| {
            if let Some(details) = request.last_heartbeat_details {
                change.heartbeat(task, Some(details))?;
            }
            change.fail_activity(task, failure, request.identity)
        };
        self.change(&token.run_id, fail).await?;
        Ok(RespondActivityTaskFailedResponse::default())
    }

    pub(super) async fn respond_activity_task_canceled(
        &self,
        request: RespondActivityTaskCanceledRequest,
    ) -> Result<RespondActivityTaskCanceledResponse, Status> {
        let token = token(&request.task_token)?;
        let task = (token.event_id, token.attempt);
        self.change(&token.run_id, |change| {
            change.cancel_activity(task, request.details, request.identity)
        })
        .await?;
        Ok(RespondActivityTaskCanceledResponse {})
    }
}

/// Counts a poll as waiting for as long as it lives.
struct WaitingPoll<'a> {
    service: &'a Service,
    kind: QueueKind,
    queue: &'a str,
    identity: &'a str,
}

impl<'a> WaitingPoll<'a> {
    fn new(service: &'a Service, kind: QueueKind, queue: &'a str, identity: &'a str) -> Self {
        service
            .core()
            .matching
            .wait(kind, queue, identity, service.now_ms(), true);
        Self {
            service,
            kind,
            queue,
            identity,
        }
    }
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        let now_ms = self.service.now_ms();
        self.service
            .core()
            .matching
            .wait(self.kind, self.queue, self.identity, now_ms, false);
    }
}

fn eager_activity(command: &temporalio_protos::temporal::api::command::v1::Command) -> Option<String> {
    use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
    match &command.attributes {
        Some(Do::ScheduleActivityTaskCommandAttributes(it)) if it.request_eager_execution => {
            Some(it.activity_id.clone())
        }
        _ => None,
    }
}

/// Starts, within the same change, the activities that the worker wants to have back with the answer.
fn start_eagerly(
    change: &mut Change,
    eager: &[String],
    caller: Caller,
    identity: &str,
) -> Vec<(RunState, ActivityState)> {
    let mut started = Vec::new();
    for activity_id in eager {
        let found = change.state.activities.with_id(activity_id);
        let found = found.filter(|it| it.started_ms == 0);
        let Some((scheduled_event_id, attempt)) = found.map(|it| (it.scheduled_event_id, it.attempt)) else {
            continue;
        };
        let start = ActivityStart {
            scheduled_event_id,
            attempt,
            identity: identity.to_owned(),
            request_id: uuid::Uuid::new_v4().to_string(),
            caller,
        };
        if let Ok(activity) = change.start_activity(start) {
            change.dispatch.retain(|it| !matches!(it, Dispatch::ActivityTask { scheduled_event_id: id, .. } if *id == scheduled_event_id));
            started.push(activity);
        }
    }
    let run = change.state.clone();
    started
        .into_iter()
        .map(|activity| (run.clone(), activity))
        .collect()
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

fn execution(run: &RunState) -> WorkflowExecution {
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
