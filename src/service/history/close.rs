//! How runs begin and end: started, completed, failed, canceled, terminated, timed out. What follows an end is in `chain`.

use temporalio_protos::temporal::api::common::v1::{
    Header, Link, Memo, Payloads, Priority, RetryPolicy, SearchAttributes, WorkflowType,
};
use temporalio_protos::temporal::api::enums::v1::{
    ContinueAsNewInitiator, RetryState, TaskQueueKind, TimeoutType, WorkflowExecutionStatus as Status,
    WorkflowTaskFailedCause,
};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    HistoryEvent, WorkflowExecutionCancelRequestedEventAttributes, WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes, WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionSignaledEventAttributes, WorkflowExecutionStartedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes, WorkflowExecutionTimedOutEventAttributes,
};
use temporalio_protos::temporal::api::sdk::v1::UserMetadata;
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflow::v1::{ResetPointInfo, ResetPoints};

use super::super::clock::{duration, timestamp};
use super::event::unnumbered;
use super::retry::timeout_failure;
use super::update::{UpdateNews, outlived};
use super::{Change, HistoryError, RunRecord, RunState};

/// What a worker has to answer a workflow task, where the client does not say.
const DEFAULT_WORKFLOW_TASK_TIMEOUT_MS: i64 = 10_000;

/// More than this it never gets.
const MAX_WORKFLOW_TASK_TIMEOUT_MS: i64 = 120_000;

/// What a run is started with.
#[derive(Debug, Clone, Default)]
pub struct StartRun {
    pub namespace: String,
    pub workflow_id: String,
    pub run_id: String,
    pub workflow_type: String,
    pub task_queue: String,
    pub input: Option<Payloads>,
    pub header: Option<Header>,
    pub memo: Option<Memo>,
    pub search_attributes: Option<SearchAttributes>,
    pub identity: String,
    pub request_id: String,
    pub workflow_task_timeout_ms: i64,
    pub run_timeout_ms: i64,
    pub execution_timeout_ms: i64,
    /// When the chain of runs expires; for a run that continues another.
    pub execution_expires_ms: i64,
    pub first_run_id: String,
    pub continued_run_id: String,
    pub last_completion_result: Option<Payloads>,
    /// How long the first workflow task is held back.
    pub first_task_backoff_ms: i64,
    pub retry_policy: Option<RetryPolicy>,
    /// 0 is the first.
    pub attempt: i32,
    /// A `ContinueAsNewInitiator`.
    pub initiator: i32,
    /// What the run before it failed with.
    pub continued_failure: Option<Failure>,
    pub priority: Option<Priority>,
    pub user_metadata: Option<UserMetadata>,
    pub links: Vec<Link>,
    pub reset_points: Vec<ResetPointInfo>,
    /// A signal that comes with the start.
    pub signal: Option<WorkflowExecutionSignaledEventAttributes>,
}

impl Change {
    /// Begins a run: its first event, and its first workflow task.
    pub fn start(start: StartRun, now_ms: i64) -> Self {
        let run_timeout = capped(start.run_timeout_ms, start.execution_timeout_ms);
        let task_timeout = task_timeout_ms(start.workflow_task_timeout_ms, run_timeout);
        let first_run_id = if start.first_run_id.is_empty() {
            start.run_id.clone()
        } else {
            start.first_run_id
        };
        let expires = |timeout_ms: i64| if timeout_ms > 0 { now_ms + timeout_ms } else { 0 };
        let execution_expires_ms = start
            .execution_expires_ms
            .max(expires(start.execution_timeout_ms));
        let backoff_ms = start.first_task_backoff_ms;
        let run_expires_ms = capped(
            expires(run_timeout.saturating_add(backoff_ms * i64::from(run_timeout > 0))),
            execution_expires_ms,
        );
        let state = RunState::of(RunRecord {
            namespace: start.namespace,
            workflow_id: start.workflow_id.clone(),
            run_id: start.run_id.clone(),
            workflow_type: start.workflow_type.clone(),
            task_queue: start.task_queue.clone(),
            first_run_id: first_run_id.clone(),
            start_ms: now_ms,
            first_start_ms: now_ms,
            status: Status::Running as i32,
            next_event_id: 1,
            memo: start.memo.clone(),
            search_attributes: start.search_attributes.clone(),
            workflow_task_timeout_ms: task_timeout,
            run_timeout_ms: run_timeout,
            run_expires_ms,
            execution_expires_ms,
            first_task_ms: if backoff_ms > 0 { now_ms + backoff_ms } else { 0 },
            execution_ms: now_ms + backoff_ms,
            execution_timeout_ms: start.execution_timeout_ms,
            retry_policy: start.retry_policy.clone(),
            attempt: start.attempt.max(1),
            priority: start.priority.clone(),
            user_metadata: start.user_metadata.clone(),
            reset_points: start.reset_points.clone(),
            start_request_id: start.request_id,
            continued_run_id: start.continued_run_id.clone(),
            workflow_task_attempt: 1,
            ..Default::default()
        });
        let mut change = Self::of(state, now_ms);
        change.begins = true;
        // What is not set a server leaves out, but for one field here and one there.
        let by_workflow = start.initiator == ContinueAsNewInitiator::Workflow as i32;
        let started =
            Attributes::WorkflowExecutionStartedEventAttributes(WorkflowExecutionStartedEventAttributes {
                workflow_type: Some(WorkflowType {
                    name: start.workflow_type,
                }),
                task_queue: Some(normal_queue(start.task_queue)),
                input: start.input,
                workflow_execution_timeout: duration(start.execution_timeout_ms),
                workflow_run_timeout: duration(run_timeout)
                    .or_else(|| by_workflow.then(prost_types::Duration::default)),
                workflow_task_timeout: duration(task_timeout),
                continued_execution_run_id: start.continued_run_id,
                initiator: start.initiator,
                continued_failure: start.continued_failure,
                last_completion_result: start.last_completion_result,
                original_execution_run_id: start.run_id,
                identity: start.identity,
                first_execution_run_id: first_run_id,
                retry_policy: start.retry_policy,
                attempt: start.attempt.max(1),
                workflow_execution_expiration_time: (execution_expires_ms > 0)
                    .then(|| timestamp(execution_expires_ms))
                    .flatten(),
                first_workflow_task_backoff: duration(backoff_ms)
                    .or_else(|| (!by_workflow).then(prost_types::Duration::default)),
                memo: start.memo,
                search_attributes: start.search_attributes,
                header: start.header,
                workflow_id: start.workflow_id,
                priority: start.priority,
                prev_auto_reset_points: Some(start.reset_points)
                    .filter(|points| !points.is_empty())
                    .map(|points| ResetPoints { points }),
                ..Default::default()
            });
        change.write(HistoryEvent {
            user_metadata: start.user_metadata,
            links: start.links,
            ..unnumbered(started, now_ms)
        });
        if let Some(signal) = start.signal {
            change.is_repeated(&signal.request_id);
            change.append(Attributes::WorkflowExecutionSignaledEventAttributes(signal));
        }
        change.schedule_workflow_task();
        change
    }

    /// A signal: durable before it is acknowledged, given to the workflow with its next task.
    pub fn signal(
        &mut self,
        attributes: WorkflowExecutionSignaledEventAttributes,
        links: Vec<Link>,
    ) -> Result<(), HistoryError> {
        self.must_be_open()?;
        if self.is_repeated(&attributes.request_id) {
            return Ok(());
        }
        self.append_linked_news(
            Attributes::WorkflowExecutionSignaledEventAttributes(attributes),
            links,
        );
        Ok(())
    }

    /// Asks the workflow to cancel. One that has ended needs no asking.
    pub fn request_cancel(
        &mut self,
        cause: String,
        identity: String,
        request_id: &str,
        links: Vec<Link>,
    ) -> Result<(), HistoryError> {
        if self.is_closed() || self.state.cancel_requested || self.is_repeated(request_id) {
            return Ok(());
        }
        self.state.cancel_requested = true;
        // It hears of it at once, also where it is held back.
        self.state.first_task_ms = 0;
        let requested = WorkflowExecutionCancelRequestedEventAttributes {
            cause,
            identity,
            ..Default::default()
        };
        self.append_linked_news(
            Attributes::WorkflowExecutionCancelRequestedEventAttributes(requested),
            links,
        );
        Ok(())
    }

    /// Ends the run without asking the workflow.
    pub fn terminate(
        &mut self,
        reason: String,
        details: Option<Payloads>,
        identity: String,
        links: Vec<Link>,
    ) -> Result<(), HistoryError> {
        self.must_be_open()?;
        self.abandon_workflow_task();
        let terminated = WorkflowExecutionTerminatedEventAttributes {
            reason,
            details,
            identity,
        };
        let attributes = Attributes::WorkflowExecutionTerminatedEventAttributes(terminated);
        self.write(HistoryEvent {
            links,
            ..unnumbered(attributes, self.now_ms)
        });
        self.close(Status::Terminated);
        Ok(())
    }

    pub(super) fn time_out_run(&mut self) {
        self.abandon_workflow_task();
        let failure = timeout_failure("workflow timeout", TimeoutType::StartToClose);
        let expires_ms = self.state.execution_expires_ms;
        let next = if expires_ms > 0 && expires_ms <= self.now_ms {
            Err(RetryState::Timeout)
        } else {
            self.next_run(&failure)
        };
        let (retry_state, new_execution_run_id) = Self::outcome_of(&next);
        self.append(Attributes::WorkflowExecutionTimedOutEventAttributes(
            WorkflowExecutionTimedOutEventAttributes {
                retry_state,
                new_execution_run_id,
            },
        ));
        self.close(Status::TimedOut);
        self.hand_over(next.ok());
    }

    /// A run that ends from outside takes its task back first, and writes down what it had kept back.
    fn abandon_workflow_task(&mut self) {
        if self.workflow_task_is_out() {
            let cause = WorkflowTaskFailedCause::ForceCloseCommand;
            self.in_commands = true;
            self.fail_workflow_task(cause as i32, None, "history-service");
            self.in_commands = false;
        }
        self.state.workflow_task = None;
    }

    pub(super) fn complete(&mut self, result: Option<Payloads>, completed_event_id: i64) {
        self.append_command(Attributes::WorkflowExecutionCompletedEventAttributes(
            WorkflowExecutionCompletedEventAttributes {
                result,
                workflow_task_completed_event_id: completed_event_id,
                ..Default::default()
            },
        ));
        self.close(Status::Completed);
    }

    pub(super) fn fail(&mut self, failure: Option<Failure>, completed_event_id: i64) {
        let next = self.next_run(&failure.clone().unwrap_or_default());
        let (retry_state, new_execution_run_id) = Self::outcome_of(&next);
        self.append_command(Attributes::WorkflowExecutionFailedEventAttributes(
            WorkflowExecutionFailedEventAttributes {
                failure,
                retry_state,
                workflow_task_completed_event_id: completed_event_id,
                new_execution_run_id,
            },
        ));
        self.close(Status::Failed);
        self.hand_over(next.ok());
    }

    pub(super) fn cancel(&mut self, details: Option<Payloads>, completed_event_id: i64) {
        self.append_command(Attributes::WorkflowExecutionCanceledEventAttributes(
            WorkflowExecutionCanceledEventAttributes {
                workflow_task_completed_event_id: completed_event_id,
                details,
            },
        ));
        self.close(Status::Canceled);
    }

    pub(super) fn close(&mut self, status: Status) {
        self.state.status = status as i32;
        self.state.close_ms = self.now_ms;
        self.state.workflow_task = None;
        self.state.activities.clear();
        self.state.timers.take_all();
        self.state.buffered.take_all();
        self.dispatch.clear();
        let accepted = self.state.updates.keys().cloned();
        self.update_news
            .extend(accepted.map(|id| (id, UpdateNews::Completed(outlived()))));
    }

    pub fn must_be_open(&self) -> Result<(), HistoryError> {
        if self.is_closed() {
            Err(HistoryError::NotFound("workflow execution already completed"))
        } else {
            Ok(())
        }
    }

    fn is_repeated(&mut self, request_id: &str) -> bool {
        !request_id.is_empty() && !self.state.request_ids.insert(request_id.to_owned())
    }
}

/// Of two spans or times the shorter, where 0 is for ever.
pub(super) fn capped(it: i64, limit: i64) -> i64 {
    match (it, limit) {
        (it, 0) => it,
        (0, limit) => limit,
        (it, limit) => it.min(limit),
    }
}

/// What a worker has to answer a workflow task: no longer than the run may take.
pub(super) fn task_timeout_ms(asked_ms: i64, run_timeout_ms: i64) -> i64 {
    let asked_ms = if asked_ms > 0 {
        asked_ms
    } else {
        DEFAULT_WORKFLOW_TASK_TIMEOUT_MS
    };
    capped(asked_ms.min(MAX_WORKFLOW_TASK_TIMEOUT_MS), run_timeout_ms)
}

pub(super) fn normal_queue(name: String) -> TaskQueue {
    TaskQueue {
        name,
        kind: TaskQueueKind::Normal as i32,
        normal_name: String::new(),
    }
}
