//! How runs begin and end: started, completed, failed, canceled, terminated, timed out, continued as new.

use temporalio_protos::temporal::api::command::v1::ContinueAsNewWorkflowExecutionCommandAttributes;
use temporalio_protos::temporal::api::common::v1::{Header, Memo, Payloads, SearchAttributes, WorkflowType};
use temporalio_protos::temporal::api::enums::v1::{
    ContinueAsNewInitiator, RetryState, TaskQueueKind, WorkflowExecutionStatus as Status,
    WorkflowTaskFailedCause,
};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    WorkflowExecutionCancelRequestedEventAttributes, WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCompletedEventAttributes, WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes, WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes, WorkflowExecutionTerminatedEventAttributes,
    WorkflowExecutionTimedOutEventAttributes,
};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;

use super::super::clock::{duration, millis, timestamp};
use super::update::UpdateNews;
use super::{Change, HistoryError, MAX_REQUEST_IDS, RunState};

/// What a worker has to answer a workflow task, where the client does not say.
const DEFAULT_WORKFLOW_TASK_TIMEOUT_MS: i64 = 10_000;

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
}

impl Change {
    /// Begins a run: its first event, and its first workflow task.
    pub fn start(start: StartRun, now_ms: i64) -> Self {
        let task_timeout = start.workflow_task_timeout_ms;
        let task_timeout = if task_timeout > 0 {
            task_timeout
        } else {
            DEFAULT_WORKFLOW_TASK_TIMEOUT_MS
        };
        let first_run_id = if start.first_run_id.is_empty() {
            start.run_id.clone()
        } else {
            start.first_run_id
        };
        let expires = |timeout_ms: i64| if timeout_ms > 0 { now_ms + timeout_ms } else { 0 };
        let execution_expires_ms = start
            .execution_expires_ms
            .max(expires(start.execution_timeout_ms));
        let state = RunState {
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
            run_timeout_ms: start.run_timeout_ms,
            run_expires_ms: expires(start.run_timeout_ms),
            execution_expires_ms,
            start_request_id: start.request_id,
            continued_run_id: start.continued_run_id.clone(),
            workflow_task_attempt: 1,
            ..Default::default()
        };
        let mut change = Self::of(state, now_ms);
        let continued = !start.continued_run_id.is_empty();
        let initiator = if continued {
            ContinueAsNewInitiator::Workflow
        } else {
            ContinueAsNewInitiator::Unspecified
        };
        change.append(Attributes::WorkflowExecutionStartedEventAttributes(
            WorkflowExecutionStartedEventAttributes {
                workflow_type: Some(WorkflowType {
                    name: start.workflow_type,
                }),
                task_queue: Some(normal_queue(start.task_queue)),
                input: start.input,
                workflow_execution_timeout: Some(duration(start.execution_timeout_ms).unwrap_or_default()),
                workflow_run_timeout: Some(duration(start.run_timeout_ms).unwrap_or_default()),
                workflow_task_timeout: duration(task_timeout),
                continued_execution_run_id: start.continued_run_id,
                initiator: initiator as i32,
                last_completion_result: start.last_completion_result,
                original_execution_run_id: start.run_id,
                identity: start.identity,
                first_execution_run_id: first_run_id,
                attempt: 1,
                workflow_execution_expiration_time: (execution_expires_ms > 0)
                    .then(|| timestamp(execution_expires_ms))
                    .flatten(),
                first_workflow_task_backoff: Some(prost_types::Duration::default()),
                memo: start.memo,
                search_attributes: start.search_attributes,
                header: start.header,
                workflow_id: start.workflow_id,
                ..Default::default()
            },
        ));
        change.schedule_workflow_task();
        change
    }

    /// A signal: durable before it is acknowledged, given to the workflow with its next task.
    pub fn signal(
        &mut self,
        attributes: WorkflowExecutionSignaledEventAttributes,
    ) -> Result<(), HistoryError> {
        self.must_be_open()?;
        if self.is_repeated(&attributes.request_id) {
            return Ok(());
        }
        self.append_news(Attributes::WorkflowExecutionSignaledEventAttributes(attributes));
        Ok(())
    }

    /// Asks the workflow to cancel. One that has ended needs no asking.
    pub fn request_cancel(
        &mut self,
        cause: String,
        identity: String,
        request_id: &str,
    ) -> Result<(), HistoryError> {
        if self.is_closed() || self.state.cancel_requested || self.is_repeated(request_id) {
            return Ok(());
        }
        self.state.cancel_requested = true;
        self.append_news(Attributes::WorkflowExecutionCancelRequestedEventAttributes(
            WorkflowExecutionCancelRequestedEventAttributes {
                cause,
                identity,
                ..Default::default()
            },
        ));
        Ok(())
    }

    /// Ends the run without asking the workflow.
    pub fn terminate(
        &mut self,
        reason: String,
        details: Option<Payloads>,
        identity: String,
    ) -> Result<(), HistoryError> {
        self.must_be_open()?;
        self.abandon_workflow_task();
        self.append(Attributes::WorkflowExecutionTerminatedEventAttributes(
            WorkflowExecutionTerminatedEventAttributes {
                reason,
                details,
                identity,
            },
        ));
        self.close(Status::Terminated);
        Ok(())
    }

    pub(super) fn time_out_run(&mut self) {
        self.abandon_workflow_task();
        self.append(Attributes::WorkflowExecutionTimedOutEventAttributes(
            WorkflowExecutionTimedOutEventAttributes {
                retry_state: RetryState::Timeout as i32,
                ..Default::default()
            },
        ));
        self.close(Status::TimedOut);
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
        self.append(Attributes::WorkflowExecutionCompletedEventAttributes(
            WorkflowExecutionCompletedEventAttributes {
                result,
                workflow_task_completed_event_id: completed_event_id,
                ..Default::default()
            },
        ));
        self.close(Status::Completed);
    }

    pub(super) fn fail(&mut self, failure: Option<Failure>, completed_event_id: i64) {
        self.append(Attributes::WorkflowExecutionFailedEventAttributes(
            WorkflowExecutionFailedEventAttributes {
                failure,
                retry_state: RetryState::RetryPolicyNotSet as i32,
                workflow_task_completed_event_id: completed_event_id,
                ..Default::default()
            },
        ));
        self.close(Status::Failed);
    }

    pub(super) fn cancel(&mut self, details: Option<Payloads>, completed_event_id: i64) {
        self.append(Attributes::WorkflowExecutionCanceledEventAttributes(
            WorkflowExecutionCanceledEventAttributes {
                workflow_task_completed_event_id: completed_event_id,
                details,
            },
        ));
        self.close(Status::Canceled);
    }

    pub(super) fn continue_as_new(
        &mut self,
        command: ContinueAsNewWorkflowExecutionCommandAttributes,
        new_run_id: String,
        completed_event_id: i64,
    ) {
        let given = |name: Option<String>, ours: &str| {
            name.filter(|name| !name.is_empty())
                .unwrap_or_else(|| ours.to_owned())
        };
        let workflow_type = given(command.workflow_type.map(|it| it.name), &self.state.workflow_type);
        let task_queue = given(command.task_queue.map(|it| it.name), &self.state.task_queue);
        let either = |given_ms: i64, ours_ms: i64| if given_ms > 0 { given_ms } else { ours_ms };
        let task_timeout = either(
            millis(command.workflow_task_timeout),
            self.state.workflow_task_timeout_ms,
        );
        let run_timeout = either(millis(command.workflow_run_timeout), self.state.run_timeout_ms);
        let memo = command.memo.or_else(|| self.state.memo.clone());
        let search_attributes = command
            .search_attributes
            .or_else(|| self.state.search_attributes.clone());
        self.append(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(
            WorkflowExecutionContinuedAsNewEventAttributes {
                new_execution_run_id: new_run_id.clone(),
                workflow_type: Some(WorkflowType {
                    name: workflow_type.clone(),
                }),
                task_queue: Some(normal_queue(task_queue.clone())),
                input: command.input.clone(),
                workflow_run_timeout: Some(duration(run_timeout).unwrap_or_default()),
                workflow_task_timeout: duration(task_timeout),
                workflow_task_completed_event_id: completed_event_id,
                initiator: ContinueAsNewInitiator::Workflow as i32,
                header: command.header.clone(),
                memo: memo.clone(),
                search_attributes: search_attributes.clone(),
                ..Default::default()
            },
        ));
        let start = StartRun {
            namespace: self.state.namespace.clone(),
            workflow_id: self.state.workflow_id.clone(),
            run_id: new_run_id,
            workflow_type,
            task_queue,
            input: command.input,
            header: command.header,
            memo,
            search_attributes,
            workflow_task_timeout_ms: task_timeout,
            run_timeout_ms: run_timeout,
            execution_expires_ms: self.state.execution_expires_ms,
            first_run_id: self.state.first_run_id.clone(),
            continued_run_id: self.state.run_id.clone(),
            last_completion_result: command.last_completion_result,
            ..Default::default()
        };
        let mut next = Self::start(start, self.now_ms);
        // The job, not the run, is what was started.
        next.state.start_request_id = self.state.start_request_id.clone();
        next.state.first_start_ms = self.state.first_start_ms;
        self.successor = Some(Box::new(next));
        self.close(Status::ContinuedAsNew);
    }

    fn close(&mut self, status: Status) {
        self.state.status = status as i32;
        self.state.close_ms = self.now_ms;
        self.state.workflow_task = None;
        self.state.activities.clear();
        self.state.timers.clear();
        self.state.buffered.clear();
        self.dispatch.clear();
        for update in std::mem::take(&mut self.state.updates) {
            self.update_news.push((update.update_id, UpdateNews::Abandoned));
        }
    }

    pub fn must_be_open(&self) -> Result<(), HistoryError> {
        if self.is_closed() {
            Err(HistoryError::NotFound("workflow execution already completed"))
        } else {
            Ok(())
        }
    }

    fn is_repeated(&mut self, request_id: &str) -> bool {
        if request_id.is_empty() {
            return false;
        }
        if self.state.request_ids.iter().any(|it| it == request_id) {
            return true;
        }
        self.state.request_ids.push(request_id.to_owned());
        let excess = self.state.request_ids.len().saturating_sub(MAX_REQUEST_IDS);
        self.state.request_ids.drain(..excess);
        false
    }
}

fn normal_queue(name: String) -> TaskQueue {
    TaskQueue {
        name,
        kind: TaskQueueKind::Normal as i32,
        normal_name: String::new(),
    }
}
