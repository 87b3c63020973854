//! The life of a workflow task: scheduled, started, then completed (`command`), failed or timed out.
//!
//! Attempts after the first are transient, as on a Temporal server: their events are written only when one completes,
//! so that a workflow that fails for an hour does not fill its history.

use temporalio_protos::temporal::api::enums::v1::{TaskQueueKind, TimeoutType};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    HistoryEvent, WorkflowTaskFailedEventAttributes, WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes, WorkflowTaskTimedOutEventAttributes,
};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;

use super::super::clock::duration;
use super::{
    Change, Dispatch, HistoryError, IsDead, MAX_EVENTS, MAX_HISTORY_BYTES, SUGGEST_CONTINUE_AS_NEW_BYTES,
    SUGGEST_CONTINUE_AS_NEW_EVENTS, WorkflowTaskState,
};

/// The longest pause between two attempts at a workflow task that keeps failing.
const MAX_BACKOFF_MS: i64 = 60_000;

/// A workflow task that a worker takes.
pub struct WorkflowTaskStart {
    pub identity: String,
    pub request_id: String,
    /// Whether the worker lives in the process that owns the journal.
    pub embedded: bool,
}

impl Change {
    pub(super) fn workflow_task_is_out(&self) -> bool {
        self.state
            .workflow_task
            .as_ref()
            .is_some_and(|task| task.started_event_id != 0)
    }

    /// Schedules a workflow task unless there is one or the run is closed.
    pub(super) fn schedule_workflow_task(&mut self) {
        if self.is_closed() || self.state.workflow_task.is_some() {
            return;
        }
        if self.in_commands {
            self.wants_workflow_task = true;
            return;
        }
        let attempt = self.state.workflow_task_attempt.max(1);
        let sticky = self
            .state
            .sticky
            .as_ref()
            .filter(|_| attempt == 1)
            .map(|sticky| sticky.queue.clone());
        let is_sticky = sticky.is_some();
        let queue = sticky.unwrap_or_else(|| self.state.task_queue.clone());
        let scheduled_event_id = if attempt == 1 {
            self.append(self.scheduled(&queue, is_sticky, attempt))
        } else {
            0
        };
        let ready_ms = self.now_ms + backoff_ms(attempt);
        self.state.workflow_task = Some(WorkflowTaskState {
            scheduled_event_id,
            attempt,
            scheduled_ms: ready_ms,
            queue: queue.clone(),
            sticky: is_sticky,
            ..Default::default()
        });
        if ready_ms <= self.now_ms {
            self.dispatch.push(Dispatch::WorkflowTask { queue });
        }
    }

    fn scheduled(&self, queue: &str, sticky: bool, attempt: i32) -> Attributes {
        let kind = if sticky {
            TaskQueueKind::Sticky
        } else {
            TaskQueueKind::Normal
        };
        let normal_name = if sticky {
            self.state.task_queue.clone()
        } else {
            String::new()
        };
        Attributes::WorkflowTaskScheduledEventAttributes(WorkflowTaskScheduledEventAttributes {
            task_queue: Some(TaskQueue {
                name: queue.to_owned(),
                kind: kind as i32,
                normal_name,
            }),
            start_to_close_timeout: duration(self.state.workflow_task_timeout_ms),
            attempt,
        })
    }

    /// A worker takes the workflow task. Gives the events that are not in the journal yet (of a transient task).
    pub fn start_workflow_task(
        &mut self,
        start: WorkflowTaskStart,
    ) -> Result<Vec<HistoryEvent>, HistoryError> {
        const GONE: HistoryError = HistoryError::NotFound("workflow task not found");
        let mut task = self.state.workflow_task.clone().ok_or(GONE)?;
        if task.started_event_id != 0 || self.is_closed() || task.scheduled_ms > self.now_ms {
            return Err(GONE);
        }
        (task.identity, task.request_id, task.embedded) = (start.identity, start.request_id, start.embedded);
        task.started_ms = self.now_ms;
        task.suggest_continue_as_new = self.state.next_event_id
            >= crate::failpoint::renew_after(SUGGEST_CONTINUE_AS_NEW_EVENTS)
            || self.state.history_bytes >= SUGGEST_CONTINUE_AS_NEW_BYTES;
        if task.attempt > 1 {
            // Transient: the events are made for the worker and dropped; completing the task writes them.
            let mut trial = Self::of(self.state.clone(), self.now_ms);
            let first = trial.state.next_event_id;
            (task.scheduled_event_id, task.started_event_id) = (first, first + 1);
            trial.write_transient(&task);
            self.state.workflow_task = Some(task);
            return Ok(trial.events.into_iter().map(|it| it.event).collect());
        }
        task.started_event_id = self.append(started(&task, self.state.history_bytes));
        self.state.workflow_task = Some(task);
        Ok(Vec::new())
    }

    /// Writes the events of a transient task, which were only shown to the worker.
    pub(super) fn write_transient(&mut self, task: &WorkflowTaskState) {
        if task.attempt > 1 {
            let size = self.state.history_bytes;
            self.append(self.scheduled(&task.queue, false, task.attempt));
            self.append(started(task, size));
        }
    }

    /// The worker could not carry the task out, or answered nonsense.
    pub fn fail_workflow_task(&mut self, cause: i32, failure: Option<Failure>, identity: &str) {
        let Some(task) = self.state.workflow_task.take() else {
            return;
        };
        if task.attempt == 1 {
            self.append(Attributes::WorkflowTaskFailedEventAttributes(
                WorkflowTaskFailedEventAttributes {
                    scheduled_event_id: task.scheduled_event_id,
                    started_event_id: task.started_event_id,
                    cause,
                    failure,
                    identity: identity.to_owned(),
                    ..Default::default()
                },
            ));
        }
        self.retry_workflow_task(task.attempt);
    }

    /// The worker did not answer in time, or is gone.
    pub(super) fn time_out_workflow_task(&mut self, timeout: TimeoutType) {
        let Some(task) = self.state.workflow_task.take() else {
            return;
        };
        if task.attempt == 1 {
            self.append(Attributes::WorkflowTaskTimedOutEventAttributes(
                WorkflowTaskTimedOutEventAttributes {
                    scheduled_event_id: task.scheduled_event_id,
                    started_event_id: task.started_event_id,
                    timeout_type: timeout as i32,
                },
            ));
        }
        // A task that nobody took from the sticky queue has not failed: the next one is a first attempt again.
        self.retry_workflow_task(if timeout == TimeoutType::ScheduleToStart {
            0
        } else {
            task.attempt
        });
    }

    fn retry_workflow_task(&mut self, attempt: i32) {
        self.state.sticky = None;
        self.state.workflow_task_attempt = attempt + 1;
        if self.flush_buffered() {
            self.state.workflow_task_attempt = 1;
        }
        self.schedule_workflow_task();
    }

    /// The worker that had the workflow task is dead: hand it out again, at once.
    pub fn recover_workflow_task(&mut self, is_dead: &IsDead) {
        let Some(task) = self.state.workflow_task.clone() else {
            return;
        };
        if task.started_event_id != 0 && is_dead(&task.identity, task.embedded) {
            self.time_out_workflow_task(TimeoutType::StartToClose);
            // A death is no failure of the workflow's code: no pause before the next attempt.
            if let Some(next) = self.state.workflow_task.as_mut() {
                next.scheduled_ms = self.now_ms;
            }
        } else if task.started_event_id == 0 && task.sticky {
            self.time_out_workflow_task(TimeoutType::ScheduleToStart);
        }
    }

    /// Whether the history has grown past what a run may have.
    pub fn is_too_long(&self) -> bool {
        self.state.next_event_id > MAX_EVENTS || self.state.history_bytes > MAX_HISTORY_BYTES
    }
}

fn started(task: &WorkflowTaskState, history_bytes: i64) -> Attributes {
    Attributes::WorkflowTaskStartedEventAttributes(WorkflowTaskStartedEventAttributes {
        scheduled_event_id: task.scheduled_event_id,
        identity: task.identity.clone(),
        request_id: task.request_id.clone(),
        suggest_continue_as_new: task.suggest_continue_as_new,
        history_size_bytes: history_bytes,
        ..Default::default()
    })
}

pub(super) fn backoff_ms(attempt: i32) -> i64 {
    match attempt {
        ..=2 => 0,
        3..=8 => (1000 << (attempt - 3)).min(MAX_BACKOFF_MS),
        _ => MAX_BACKOFF_MS,
    }
}
