//! The life of a workflow task: scheduled, started, then completed (`command`), failed or timed out.
//!
//! Attempts after the first are transient, as on a Temporal server: their events are shown to the worker, and written only
//! when one completes, so that a workflow that fails for an hour does not fill its history. They are written as they were
//! shown: the time of the started event is what the workflow takes for its own. So is a speculative task, which is there for
//! updates alone: if the workflow refuses all of them, nothing has happened.

use temporalio_protos::temporal::api::common::v1::WorkerVersionStamp;
use temporalio_protos::temporal::api::enums::v1::{TaskQueueKind, TimeoutType};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    HistoryEvent, WorkflowTaskFailedEventAttributes, WorkflowTaskScheduledEventAttributes,
    WorkflowTaskStartedEventAttributes, WorkflowTaskTimedOutEventAttributes,
};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;

use super::super::Caller;
use super::super::clock::duration;
use super::event::unnumbered;
use super::update::SUGGEST_CONTINUE_AS_NEW_UPDATES;
use super::{
    Change, Dispatch, HistoryError, IsDead, MAX_EVENTS, MAX_HISTORY_BYTES, SUGGEST_CONTINUE_AS_NEW_BYTES,
    SUGGEST_CONTINUE_AS_NEW_EVENTS, WorkflowTaskState,
};

/// The longest pause between two attempts at a workflow task that keeps failing.
const MAX_BACKOFF_MS: i64 = 60_000;

/// A speculative task that nobody takes for so long becomes an ordinary one, as on a Temporal server.
const SPECULATIVE_SCHEDULE_TO_START_MS: i64 = 5000;

/// A workflow task that a worker takes.
pub struct WorkflowTaskStart {
    pub identity: String,
    pub request_id: String,
    pub caller: Caller,
    /// Its build.
    pub worker_version: Option<WorkerVersionStamp>,
}

impl Change {
    pub(super) fn workflow_task_is_out(&self) -> bool {
        self.state
            .workflow_task
            .as_ref()
            .is_some_and(|task| task.started_event_id != 0)
    }

    /// The workflow task with that started event, at that attempt: attempts that failed have left no event, and share it.
    pub fn workflow_task_that_is_out(
        &self,
        (started_event_id, attempt): (i64, i32),
    ) -> Result<WorkflowTaskState, HistoryError> {
        let is_meant = |task: &&WorkflowTaskState| {
            started_event_id != 0 && (task.started_event_id, task.attempt) == (started_event_id, attempt)
        };
        let task = self.state.workflow_task.as_ref().filter(is_meant);
        task.filter(|_| !self.is_closed())
            .cloned()
            .ok_or(HistoryError::NotFound("workflow task not found"))
    }

    /// Schedules a workflow task unless there is one, it is too early for the first, or the run is closed.
    pub(super) fn schedule_workflow_task(&mut self) {
        self.schedule_task(false);
    }

    /// A workflow task that has no event, and leaves none if the worker refuses the updates that it carries.
    pub(super) fn schedule_speculative_task(&mut self) {
        self.schedule_task(true);
    }

    fn schedule_task(&mut self, speculative: bool) {
        if self.is_closed() || self.state.workflow_task.is_some() || self.state.first_task_ms > 0 {
            return;
        }
        if self.in_commands {
            self.wants_workflow_task = true;
            return;
        }
        let attempt = self.state.workflow_task_attempt.max(1);
        let sticky = self.state.sticky.clone().filter(|_| attempt == 1);
        let is_sticky = sticky.is_some();
        let schedule_to_start_ms = match &sticky {
            Some(sticky) => sticky.schedule_to_start_ms,
            None if speculative => SPECULATIVE_SCHEDULE_TO_START_MS,
            None => 0,
        };
        let queue = sticky.map_or_else(|| self.state.task_queue.clone(), |it| it.queue);
        let has_event = attempt == 1 && !speculative;
        let scheduled_event_id = if has_event {
            self.append(self.scheduled(&queue, is_sticky, attempt))
        } else {
            0
        };
        let ready_ms = self.now_ms + backoff_ms(attempt);
        self.state.workflow_task = Some(WorkflowTaskState {
            scheduled_event_id,
            attempt,
            scheduled_ms: ready_ms,
            after_event_id: self.state.last_event_id(),
            queue: queue.clone(),
            sticky: is_sticky,
            schedule_to_start_ms,
            speculative: speculative && attempt == 1,
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
        (task.identity, task.request_id, task.caller) =
            (start.identity, start.request_id, start.caller.into());
        task.worker_version = start.worker_version;
        task.started_ms = self.now_ms;
        task.suggest_continue_as_new = self.state.next_event_id
            >= crate::failpoint::renew_after(SUGGEST_CONTINUE_AS_NEW_EVENTS)
            || self.state.history_bytes >= SUGGEST_CONTINUE_AS_NEW_BYTES
            || self.state.update_count() >= SUGGEST_CONTINUE_AS_NEW_UPDATES;
        let has_event = task.scheduled_event_id != 0;
        if !has_event && task.after_event_id == self.state.last_event_id() {
            (task.scheduled_event_id, task.started_event_id) =
                (self.state.next_event_id, self.state.next_event_id + 1);
            task.shown = self.unwritten(&task);
            self.state.workflow_task = Some(task.clone());
            return Ok(task.shown);
        }
        if !has_event {
            // There is news that no failed attempt has seen: this is the first attempt at it.
            task.attempt = 1;
            task.scheduled_event_id = self.append(self.scheduled(&task.queue, false, 1));
        }
        task.started_event_id = self.append(started(&task, self.state.history_bytes));
        self.state.workflow_task = Some(task);
        Ok(Vec::new())
    }

    /// The events of a task that has none in the journal, with the ids that they will have if they are written next.
    fn unwritten(&self, task: &WorkflowTaskState) -> Vec<HistoryEvent> {
        let scheduled = unnumbered(
            self.scheduled(&task.queue, task.sticky, task.attempt),
            task.scheduled_ms,
        );
        let started = unnumbered(started(task, self.state.history_bytes), task.started_ms);
        let ids = [task.scheduled_event_id, task.started_event_id];
        let numbered = [scheduled, started].into_iter().zip(ids);
        numbered
            .map(|(event, event_id)| HistoryEvent {
                event_id,
                task_id: event_id,
                ..event
            })
            .collect()
    }

    /// Writes the events that were only shown to the worker.
    pub(super) fn write_shown(&mut self, task: &WorkflowTaskState) {
        let mut shown = task.shown.clone();
        if shown.is_empty() && task.attempt > 1 {
            // It was handed out by a version that did not keep them.
            shown = self.unwritten(task);
        }
        for event in shown {
            self.write(event);
        }
    }

    /// Anything that is written while a speculative task is there makes it an ordinary one, whose events come first.
    pub(super) fn settle_speculative_task(&mut self) {
        if let Some(mut task) = self.state.workflow_task.take_if(|task| task.speculative) {
            self.write_speculative(&mut task);
            self.state.workflow_task = Some(task);
        }
    }

    fn write_speculative(&mut self, task: &mut WorkflowTaskState) {
        if !std::mem::take(&mut task.speculative) {
            return;
        }
        if task.started_event_id != 0 {
            self.write_shown(task);
            task.shown.clear();
        } else {
            let scheduled = self.scheduled(&task.queue, task.sticky, task.attempt);
            task.scheduled_event_id = self.write(unnumbered(scheduled, task.scheduled_ms));
        }
    }

    /// The worker could not carry the task out, or answered nonsense.
    pub fn fail_workflow_task(&mut self, cause: i32, failure: Option<Failure>, identity: &str) {
        let Some(mut task) = self.state.workflow_task.take() else {
            return;
        };
        self.write_speculative(&mut task);
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
        let Some(mut task) = self.state.workflow_task.take() else {
            return;
        };
        self.write_speculative(&mut task);
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
        // A worker that had the run in its cache may be what failed: the next one gets the whole history, as a first attempt.
        let was_sticky = self.state.sticky.take().is_some();
        self.state.workflow_task_attempt = if was_sticky { 1 } else { attempt + 1 };
        if self.flush_buffered() {
            self.state.workflow_task_attempt = 1;
        }
        self.schedule_workflow_task();
    }

    /// The worker that had the workflow task is dead: hand it out again, at once.
    pub fn recover_workflow_task(&mut self, is_dead: &IsDead) {
        let now_ms = self.now_ms;
        let Some(task) = self.state.workflow_task.clone() else {
            return;
        };
        if task.started_event_id != 0 && is_dead(&task.identity, task.caller()) {
            self.time_out_workflow_task(TimeoutType::StartToClose);
            // A death is no failure of the workflow's code: no pause before the next attempt.
            if let Some(next) = self
                .state
                .workflow_task
                .as_mut()
                .filter(|next| next.scheduled_ms > now_ms)
            {
                next.scheduled_ms = now_ms;
                let queue = next.queue.clone();
                self.dispatch.push(Dispatch::WorkflowTask { queue });
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

#[expect(deprecated, reason = "a server hands on what a worker says of its build")]
fn started(task: &WorkflowTaskState, history_bytes: i64) -> Attributes {
    Attributes::WorkflowTaskStartedEventAttributes(WorkflowTaskStartedEventAttributes {
        scheduled_event_id: task.scheduled_event_id,
        identity: task.identity.clone(),
        request_id: task.request_id.clone(),
        suggest_continue_as_new: task.suggest_continue_as_new,
        history_size_bytes: history_bytes,
        worker_version: task.worker_version.clone(),
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
