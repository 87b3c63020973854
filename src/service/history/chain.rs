//! The run that follows a run: continued as new by its workflow, or the next attempt at one that failed.

use temporalio_protos::temporal::api::command::v1::ContinueAsNewWorkflowExecutionCommandAttributes;
use temporalio_protos::temporal::api::common::v1::WorkflowType;
use temporalio_protos::temporal::api::enums::v1::{
    ContinueAsNewInitiator, RetryState, WorkflowExecutionStatus as Status,
};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    WorkflowExecutionContinuedAsNewEventAttributes, WorkflowExecutionStartedEventAttributes,
};

use super::super::clock::{duration, millis};
use super::close::{StartRun, capped, normal_queue, task_timeout_ms};
use super::{Change, retry};

/// From the beginning of one run to that of the next, so that a workflow that does nothing but continue does not spin.
const MIN_RUN_MS: i64 = 1000;

/// What the next attempt at a workflow is made of.
#[derive(Debug, Clone, Default)]
pub struct NextAttempt {
    /// The first event of the run.
    pub started: WorkflowExecutionStartedEventAttributes,
    pub run_id: String,
}

impl Change {
    #[expect(deprecated, reason = "a server hands on what a worker says of its build")]
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
        let either = |given_ms: i64, ours_ms: i64| if given_ms > 0 { given_ms } else { ours_ms };
        let run_timeout = either(millis(command.workflow_run_timeout), self.state.run_timeout_ms);
        let run_timeout_ms = capped(run_timeout, self.state.execution_timeout_ms);
        let task_timeout = either(
            millis(command.workflow_task_timeout),
            self.state.workflow_task_timeout_ms,
        );
        let initiator = match command.initiator {
            0 => ContinueAsNewInitiator::Workflow as i32,
            initiator => initiator,
        };
        let asked_ms = millis(command.backoff_start_interval);
        let start = StartRun {
            workflow_type: given(command.workflow_type.map(|it| it.name), &self.state.workflow_type),
            task_queue: given(command.task_queue.map(|it| it.name), &self.state.task_queue),
            input: command.input,
            header: command.header,
            memo: command.memo.or_else(|| self.state.memo.clone()),
            search_attributes: command
                .search_attributes
                .or_else(|| self.state.search_attributes.clone()),
            workflow_task_timeout_ms: task_timeout_ms(task_timeout, run_timeout_ms),
            run_timeout_ms,
            last_completion_result: command.last_completion_result,
            first_task_backoff_ms: self.backoff_ms(asked_ms),
            retry_policy: command
                .retry_policy
                .map(|policy| retry::with_defaults(Some(policy))),
            initiator,
            continued_failure: command.failure,
            ..self.successor_of(new_run_id)
        };
        self.append_command(Attributes::WorkflowExecutionContinuedAsNewEventAttributes(
            WorkflowExecutionContinuedAsNewEventAttributes {
                new_execution_run_id: start.run_id.clone(),
                workflow_type: Some(WorkflowType {
                    name: start.workflow_type.clone(),
                }),
                task_queue: Some(normal_queue(start.task_queue.clone())),
                input: start.input.clone(),
                workflow_run_timeout: Some(duration(start.run_timeout_ms).unwrap_or_default()),
                workflow_task_timeout: duration(start.workflow_task_timeout_ms),
                workflow_task_completed_event_id: completed_event_id,
                backoff_start_interval: command.backoff_start_interval,
                initiator: command.initiator,
                inherit_build_id: command.inherit_build_id,
                last_completion_result: start.last_completion_result.clone(),
                header: start.header.clone(),
                memo: start.memo.clone(),
                search_attributes: start.search_attributes.clone(),
                ..Default::default()
            },
        ));
        self.close(Status::ContinuedAsNew);
        let next = self.follow(start);
        self.hand_over(Some(next));
    }

    /// What follows a run that has closed, if anything does.
    pub(super) fn hand_over(&mut self, next: Option<Self>) {
        self.successor = next.map(|mut next| {
            self.state.successor_run_id.clone_from(&next.state.run_id);
            let oldest = [&self.state.oldest_kept_run_id, &self.state.run_id];
            let oldest = oldest.into_iter().find(|run_id| !run_id.is_empty());
            next.state.oldest_kept_run_id = oldest.cloned().unwrap_or_default();
            next.state.kept_runs = self.state.kept_runs + 1;
            next.state.kept_bytes = self.state.kept_bytes + self.state.history_bytes;
            Box::new(next)
        });
    }

    /// The run that is the next attempt after a failure, or why there is none.
    pub(super) fn next_run(&self, failure: &Failure) -> Result<Self, RetryState> {
        let policy = self.state.retry_policy.as_ref();
        let policy = policy.ok_or(RetryState::RetryPolicyNotSet)?;
        let attempt = self.state.attempt.max(1);
        let pause_ms = retry::pause_ms(policy, attempt, failure)?;
        let begins_ms = self.now_ms.saturating_add(pause_ms);
        let expires_ms = self.state.execution_expires_ms;
        if expires_ms > 0 && begins_ms > expires_ms {
            return Err(RetryState::Timeout);
        }
        let next = self.next_attempt.clone().ok_or(RetryState::InternalServerError)?;
        let started = next.started;
        Ok(self.follow(StartRun {
            workflow_type: self.state.workflow_type.clone(),
            task_queue: self.state.task_queue.clone(),
            input: started.input,
            header: started.header,
            memo: started.memo,
            search_attributes: started.search_attributes,
            workflow_task_timeout_ms: self.state.workflow_task_timeout_ms,
            run_timeout_ms: self.state.run_timeout_ms,
            last_completion_result: started.last_completion_result,
            first_task_backoff_ms: self.backoff_ms(pause_ms),
            retry_policy: Some(policy.clone()),
            attempt: attempt + 1,
            initiator: ContinueAsNewInitiator::Retry as i32,
            continued_failure: Some(failure.clone()),
            ..self.successor_of(next.run_id)
        }))
    }

    /// How it stands in the event that closes the run: the state of its retries, and the run that follows.
    pub(super) fn outcome_of(next: &Result<Self, RetryState>) -> (i32, String) {
        match next {
            Ok(next) => (RetryState::InProgress as i32, next.state.run_id.clone()),
            Err(retry_state) => (*retry_state as i32, String::new()),
        }
    }

    /// What every run has from the one before it.
    fn successor_of(&self, run_id: String) -> StartRun {
        StartRun {
            namespace: self.state.namespace.clone(),
            workflow_id: self.state.workflow_id.clone(),
            run_id,
            execution_timeout_ms: self.state.execution_timeout_ms,
            execution_expires_ms: self.state.execution_expires_ms,
            first_run_id: self.state.first_run_id.clone(),
            continued_run_id: self.state.run_id.clone(),
            priority: self.state.priority.clone(),
            reset_points: self.points_to_hand_on(),
            ..Default::default()
        }
    }

    fn follow(&self, start: StartRun) -> Self {
        let mut next = Self::start(start, self.now_ms);
        // The job, not the run, is what was started.
        next.state.start_request_id = self.state.start_request_id.clone();
        next.state.first_start_ms = self.state.first_start_ms;
        next
    }

    /// How long the next run's first task is held back.
    fn backoff_ms(&self, asked_ms: i64) -> i64 {
        let began_ms = self.state.execution_ms.max(self.state.start_ms);
        let lifetime_ms = self.now_ms - began_ms;
        if lifetime_ms.saturating_add(asked_ms) < MIN_RUN_MS {
            MIN_RUN_MS - lifetime_ms
        } else {
            asked_ms
        }
    }
}
