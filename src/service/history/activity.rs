//! The life of an activity: scheduled, started, heartbeats, retried with backoff, closed.
//!
//! As on a Temporal server, its started event is written only together with the closing one, since until then it may
//! have any number of attempts.

use temporalio_protos::temporal::api::command::v1::ScheduleActivityTaskCommandAttributes;
use temporalio_protos::temporal::api::common::v1::{ActivityType, Payload, Payloads, WorkerVersionStamp};
use temporalio_protos::temporal::api::enums::v1::{RetryState, TimeoutType, WorkflowTaskFailedCause};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    ActivityTaskCancelRequestedEventAttributes, ActivityTaskCanceledEventAttributes,
    ActivityTaskCompletedEventAttributes, ActivityTaskFailedEventAttributes,
    ActivityTaskScheduledEventAttributes, ActivityTaskStartedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
};

use super::super::Caller;
use super::super::clock::{duration, span_ms};
use super::close::capped;
use super::event::closes_activity;
use super::retry::{self, timeout_failure};
use super::{ActivityState, Change, Dispatch, HistoryError, IsDead, check_id, check_size};

const GONE: HistoryError =
    HistoryError::NotFound("activity task not found: it was closed, timed out or is at another attempt");

/// What a Temporal server says where an attempt times out and there is no time for another.
const NO_TIME_LEFT: &str =
    "Not enough time to schedule next retry before activity ScheduleToClose timeout, giving up retrying";
/// What it says of an activity that was canceled before any worker had it.
const NOT_STARTED: &[u8] = b"\"ACTIVITY_ID_NOT_STARTED\"";

/// An attempt at an activity that a worker takes.
pub struct ActivityStart {
    pub scheduled_event_id: i64,
    pub attempt: i32,
    pub identity: String,
    pub request_id: String,
    pub caller: Caller,
}

impl Change {
    #[expect(deprecated, reason = "a server hands on what a worker says of its build")]
    pub(super) fn schedule_activity(
        &mut self,
        command: ScheduleActivityTaskCommandAttributes,
        completed_event_id: i64,
    ) -> Result<i64, HistoryError> {
        let bad = |message: &str| HistoryError::BadCommand {
            cause: WorkflowTaskFailedCause::BadScheduleActivityAttributes as i32,
            message: format!("activity {}: {message}", command.activity_id),
        };
        let activity_type = command.activity_type.clone().filter(|it| !it.name.is_empty());
        let activity_type = activity_type.ok_or_else(|| bad("it has no type"))?;
        check_id("its id", &command.activity_id)
            .and_then(|()| check_id("its type", &activity_type.name))
            .and_then(|()| check_size("its input", &command))
            .map_err(|what| bad(&what))?;
        if self.state.activities.with_id(&command.activity_id).is_some() {
            return Err(bad("its id is taken by an open activity"));
        }
        let timeouts = Timeouts::of(&command, self.state.run_timeout_ms).map_err(|what| bad(&what))?;
        let retry_policy = retry::checked(command.retry_policy.clone()).map_err(|what| bad(&what))?;
        let queue = command
            .task_queue
            .as_ref()
            .map(|queue| queue.name.clone())
            .filter(|name| !name.is_empty());
        let queue = queue.unwrap_or_else(|| self.state.task_queue.clone());
        let scheduled = ActivityTaskScheduledEventAttributes {
            activity_id: command.activity_id.clone(),
            activity_type: Some(activity_type.clone()),
            task_queue: command.task_queue,
            header: command.header,
            input: command.input,
            schedule_to_close_timeout: Some(duration(timeouts.schedule_to_close_ms).unwrap_or_default()),
            schedule_to_start_timeout: Some(duration(timeouts.schedule_to_start_ms).unwrap_or_default()),
            start_to_close_timeout: duration(timeouts.start_to_close_ms),
            heartbeat_timeout: Some(duration(timeouts.heartbeat_ms).unwrap_or_default()),
            use_workflow_build_id: command.use_workflow_build_id,
            workflow_task_completed_event_id: completed_event_id,
            retry_policy: Some(retry_policy.clone()),
            priority: command.priority,
        };
        let id = self.append_command(Attributes::ActivityTaskScheduledEventAttributes(scheduled));
        self.state.activities.insert(ActivityState {
            scheduled_event_id: id,
            activity_id: command.activity_id,
            activity_type: activity_type.name,
            queue,
            attempt: 1,
            scheduled_ms: self.now_ms,
            attempt_scheduled_ms: self.now_ms,
            schedule_to_close_ms: timeouts.schedule_to_close_ms,
            schedule_to_start_ms: timeouts.schedule_to_start_ms,
            start_to_close_ms: timeouts.start_to_close_ms,
            heartbeat_timeout_ms: timeouts.heartbeat_ms,
            retry_policy: Some(retry_policy),
            ..Default::default()
        });
        Ok(id)
    }

    /// Puts the current attempt into its queue, if its time has come.
    pub(super) fn dispatch_activity(&mut self, scheduled_event_id: i64) {
        let now_ms = self.now_ms;
        if let Some(it) = self.state.activities.get(&scheduled_event_id)
            && it.started_ms == 0
            && it.attempt_scheduled_ms <= now_ms
        {
            let (queue, attempt) = (it.queue.clone(), it.attempt);
            self.dispatch.push(Dispatch::ActivityTask {
                queue,
                scheduled_event_id,
                attempt,
            });
        }
    }

    /// A worker takes the current attempt.
    pub fn start_activity(&mut self, start: ActivityStart) -> Result<ActivityState, HistoryError> {
        let now_ms = self.now_ms;
        if self.is_closed() {
            return Err(GONE);
        }
        let it = self.state.activities.get_mut(start.scheduled_event_id);
        let it = it
            .filter(|it| it.attempt == start.attempt && it.started_ms == 0)
            .ok_or(GONE)?;
        if it.attempt_scheduled_ms > now_ms {
            return Err(GONE);
        }
        (it.started_ms, it.heartbeat_ms) = (now_ms, now_ms);
        (it.identity, it.request_id, it.caller) = (start.identity, start.request_id, start.caller.into());
        it.worker_version = None;
        Ok(it.clone())
    }

    /// The build of the worker that answers, which a server writes down only of those that completed or failed an activity.
    pub fn note_worker(&mut self, scheduled_event_id: i64, worker_version: Option<WorkerVersionStamp>) {
        if let Some(it) = self.state.activities.get_mut(scheduled_event_id) {
            it.worker_version = worker_version;
        }
    }

    /// The attempt that is out or waits at an activity that a client names by its id.
    pub fn activity_with_id(&self, activity_id: &str) -> Result<(i64, i32), HistoryError> {
        let it = self.state.activities.with_id(activity_id);
        it.filter(|_| !self.is_closed())
            .map(|it| (it.scheduled_event_id, it.attempt))
            .ok_or(GONE)
    }

    /// A client says how an activity ended, whether or not a worker has begun with it.
    pub fn complete_activity_by_id(
        &mut self,
        activity_id: &str,
        result: Option<Payloads>,
        identity: String,
    ) -> Result<(), HistoryError> {
        let task = self.activity_with_id(activity_id)?;
        if let Some(it) = self
            .state
            .activities
            .get_mut(task.0)
            .filter(|it| it.started_ms == 0)
        {
            it.started_ms = self.now_ms;
            (it.identity, it.request_id, it.worker_version) = (identity.clone(), String::new(), None);
        }
        self.complete_activity(task, result, identity)
    }

    /// The attempt that `scheduled_event_id` and `attempt` name, which must be out.
    fn take_started(&mut self, scheduled_event_id: i64, attempt: i32) -> Result<ActivityState, HistoryError> {
        if self.is_closed() {
            return Err(GONE);
        }
        let it = self.state.activities.get(&scheduled_event_id);
        it.filter(|it| it.attempt == attempt && it.started_ms != 0)
            .ok_or(GONE)?;
        self.state.activities.remove(scheduled_event_id).ok_or(GONE)
    }

    /// The worker carried it out.
    pub fn complete_activity(
        &mut self,
        (scheduled_event_id, attempt): (i64, i32),
        result: Option<Payloads>,
        identity: String,
    ) -> Result<(), HistoryError> {
        let it = self.take_started(scheduled_event_id, attempt)?;
        let started_event_id = self.append_started(&it);
        self.append_news(Attributes::ActivityTaskCompletedEventAttributes(
            ActivityTaskCompletedEventAttributes {
                result,
                scheduled_event_id,
                started_event_id,
                identity,
                ..Default::default()
            },
        ));
        Ok(())
    }

    /// The worker reports an error: another attempt, or the end of it.
    pub fn fail_activity(
        &mut self,
        (scheduled_event_id, attempt): (i64, i32),
        failure: Failure,
        identity: String,
    ) -> Result<(), HistoryError> {
        let it = self.take_started(scheduled_event_id, attempt)?;
        let Err(ended) = self.retry_activity(it, &failure) else {
            return Ok(());
        };
        let (it, retry_state) = *ended;
        let started_event_id = self.append_started(&it);
        self.append_news(Attributes::ActivityTaskFailedEventAttributes(
            ActivityTaskFailedEventAttributes {
                failure: Some(failure),
                scheduled_event_id,
                started_event_id,
                identity,
                retry_state: retry_state as i32,
                ..Default::default()
            },
        ));
        Ok(())
    }

    /// The worker ended it because it was asked to.
    pub fn cancel_activity(
        &mut self,
        (scheduled_event_id, attempt): (i64, i32),
        details: Option<Payloads>,
        identity: String,
    ) -> Result<(), HistoryError> {
        let it = self.state.activities.get(&scheduled_event_id);
        if !self.is_closed() && it.is_none_or(|it| it.cancel_requested_event_id == 0) {
            return Err(HistoryError::Invalid(
                "activity task was not asked to cancel".to_owned(),
            ));
        }
        let it = self.take_started(scheduled_event_id, attempt)?;
        self.append_canceled(it, details, identity);
        Ok(())
    }

    fn append_canceled(&mut self, it: ActivityState, details: Option<Payloads>, identity: String) {
        let started_event_id = if it.started_ms != 0 {
            self.append_started(&it)
        } else {
            0
        };
        self.append_news(Attributes::ActivityTaskCanceledEventAttributes(
            ActivityTaskCanceledEventAttributes {
                details,
                latest_cancel_requested_event_id: it.cancel_requested_event_id,
                scheduled_event_id: it.scheduled_event_id,
                started_event_id,
                identity,
                ..Default::default()
            },
        ));
    }

    /// The worker lives. Returns whether the activity was asked to cancel.
    pub fn heartbeat(
        &mut self,
        (scheduled_event_id, attempt): (i64, i32),
        details: Option<Payloads>,
    ) -> Result<bool, HistoryError> {
        let mut it = self.take_started(scheduled_event_id, attempt)?;
        it.heartbeat_ms = self.now_ms;
        it.heartbeat_details = details;
        let cancel_requested = it.cancel_requested_event_id != 0;
        self.state.activities.insert(it);
        Ok(cancel_requested)
    }

    /// The workflow asks an activity to cancel. One that no worker has is canceled at once.
    pub(super) fn request_cancel_activity(
        &mut self,
        scheduled_event_id: i64,
        completed_event_id: i64,
        identity: &str,
    ) -> Result<(), HistoryError> {
        let requested = Attributes::ActivityTaskCancelRequestedEventAttributes(
            ActivityTaskCancelRequestedEventAttributes {
                scheduled_event_id,
                workflow_task_completed_event_id: completed_event_id,
            },
        );
        if !self.state.activities.contains_key(&scheduled_event_id) {
            // It may have closed while the task that cancels it was out; its closing event is then buffered.
            if !self
                .state
                .buffered
                .values()
                .any(|it| closes_activity(it, scheduled_event_id))
            {
                return Err(HistoryError::BadCommand {
                    cause: WorkflowTaskFailedCause::BadRequestCancelActivityAttributes as i32,
                    message: format!("no activity is open that event {scheduled_event_id} scheduled"),
                });
            }
            self.append_command(requested);
            return Ok(());
        }
        let event_id = self.append_command(requested);
        let it = self.state.activities.get_mut(scheduled_event_id);
        let unstarted = it.is_some_and(|it| {
            it.cancel_requested_event_id = event_id;
            it.started_ms == 0
        });
        if unstarted && let Some(it) = self.state.activities.remove(scheduled_event_id) {
            let details = Payload {
                metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
                data: NOT_STARTED.to_vec(),
                ..Default::default()
            };
            let details = Payloads {
                payloads: vec![details],
            };
            self.append_canceled(it, Some(details), identity.to_owned());
        }
        Ok(())
    }

    /// One of the four timeouts is over.
    pub(super) fn time_out_activity(&mut self, scheduled_event_id: i64, timeout: TimeoutType) {
        let Some(it) = self.state.activities.remove(scheduled_event_id) else {
            return;
        };
        let mut failure = timeout_failure(&format!("activity {timeout:?} timeout"), timeout);
        let (it, retry_state) = match self.retry_activity(it, &failure) {
            Ok(()) => return,
            Err(ended) => *ended,
        };
        if retry_state == RetryState::Timeout && timeout != TimeoutType::ScheduleToStart {
            // The time for all attempts is over, or too short for another.
            failure = timeout_failure(NO_TIME_LEFT, TimeoutType::ScheduleToClose);
        }
        if let Some(FailureInfo::TimeoutFailureInfo(info)) = &mut failure.failure_info {
            info.last_heartbeat_details = it.heartbeat_details.clone();
        }
        failure.cause = it.last_failure.clone().map(Box::new);
        let started_event_id = if it.started_ms != 0 {
            self.append_started(&it)
        } else {
            0
        };
        self.append_news(Attributes::ActivityTaskTimedOutEventAttributes(
            ActivityTaskTimedOutEventAttributes {
                failure: Some(failure),
                scheduled_event_id,
                started_event_id,
                retry_state: retry_state as i32,
            },
        ));
    }

    /// The worker that had it is dead: hand out the next attempt at once.
    pub fn recover_activities(&mut self, is_dead: &IsDead) {
        let lost = |it: &&ActivityState| it.started_ms != 0 && is_dead(&it.identity, it.caller());
        let lost: Vec<i64> = self
            .state
            .activities
            .values()
            .filter(lost)
            .map(|it| it.scheduled_event_id)
            .collect();
        for scheduled_event_id in lost {
            self.time_out_activity(scheduled_event_id, TimeoutType::StartToClose);
            let now_ms = self.now_ms;
            if let Some(it) = self.state.activities.get_mut(scheduled_event_id) {
                it.attempt_scheduled_ms = now_ms;
                it.last_failure = Some(Failure {
                    message: "the process that ran it ended".to_owned(),
                    source: "Server".to_owned(),
                    failure_info: it.last_failure.take().and_then(|failure| failure.failure_info),
                    ..Default::default()
                });
            }
            self.dispatch_activity(scheduled_event_id);
        }
    }

    #[expect(deprecated, reason = "a server hands on what a worker says of its build")]
    fn append_started(&mut self, it: &ActivityState) -> i64 {
        let attributes = Attributes::ActivityTaskStartedEventAttributes(ActivityTaskStartedEventAttributes {
            scheduled_event_id: it.scheduled_event_id,
            identity: it.identity.clone(),
            request_id: it.request_id.clone(),
            attempt: it.attempt,
            last_failure: it.last_failure.clone(),
            worker_version: it.worker_version.clone(),
            ..Default::default()
        });
        if self.workflow_task_is_out() {
            // Its id is given, and named in the closing event, when the buffer is flushed.
            self.append_news(attributes);
            0
        } else {
            self.append(attributes)
        }
    }

    /// Schedules the next attempt, or gives the activity back with the reason why there is none.
    fn retry_activity(
        &mut self,
        mut it: ActivityState,
        failure: &Failure,
    ) -> Result<(), Box<(ActivityState, RetryState)>> {
        match next_attempt_ms(&it, failure, self.now_ms) {
            Err(retry_state) => Err(Box::new((it, retry_state))),
            Ok(at_ms) => {
                let scheduled_event_id = it.scheduled_event_id;
                it.attempt += 1;
                if it.heartbeat_ms == it.started_ms {
                    // It has sent none: its silence was counted from its start.
                    it.heartbeat_ms = 0;
                }
                (it.attempt_scheduled_ms, it.started_ms) = (at_ms, 0);
                it.last_failure = Some(failure.clone());
                it.last_attempt_complete_ms = self.now_ms;
                self.state.activities.insert(it);
                self.dispatch_activity(scheduled_event_id);
                Ok(())
            }
        }
    }
}

/// The timeouts of an activity, with those that are not given derived from the others. 0 is none.
struct Timeouts {
    schedule_to_close_ms: i64,
    schedule_to_start_ms: i64,
    start_to_close_ms: i64,
    heartbeat_ms: i64,
}

impl Timeouts {
    /// Errs where no attempt would ever end. None of them is longer than the run may take.
    fn of(command: &ScheduleActivityTaskCommandAttributes, run_timeout_ms: i64) -> Result<Self, String> {
        let (to_close_ms, given_ms) = (
            span_ms(command.schedule_to_close_timeout)?,
            span_ms(command.start_to_close_timeout)?,
        );
        if given_ms == 0 && to_close_ms == 0 {
            return Err("it has no close timeout".to_owned());
        }
        let schedule_to_close_ms = capped(to_close_ms, run_timeout_ms);
        let start_to_close_ms = capped(given_ms, schedule_to_close_ms);
        let heartbeat_ms = span_ms(command.heartbeat_timeout)?;
        let schedule_to_start_ms = capped(span_ms(command.schedule_to_start_timeout)?, schedule_to_close_ms);
        Ok(Self {
            schedule_to_close_ms,
            schedule_to_start_ms,
            start_to_close_ms,
            heartbeat_ms: heartbeat_ms.min(start_to_close_ms),
        })
    }
}

fn next_attempt_ms(it: &ActivityState, failure: &Failure, now_ms: i64) -> Result<i64, RetryState> {
    if it.cancel_requested_event_id != 0 {
        return Err(RetryState::CancelRequested);
    }
    if let Some(FailureInfo::TimeoutFailureInfo(info)) = &failure.failure_info
        && [
            TimeoutType::ScheduleToStart as i32,
            TimeoutType::ScheduleToClose as i32,
        ]
        .contains(&info.timeout_type)
    {
        return Err(RetryState::Timeout);
    }
    let policy = it.retry_policy.as_ref().ok_or(RetryState::RetryPolicyNotSet)?;
    let pause_ms = retry::pause_ms(policy, it.attempt, failure)?;
    let at_ms = now_ms.saturating_add(pause_ms);
    if it.schedule_to_close_ms > 0 && at_ms > it.scheduled_ms + it.schedule_to_close_ms {
        return Err(RetryState::Timeout);
    }
    Ok(at_ms)
}

impl ActivityState {
    /// The type as it stands in events and tasks.
    pub fn type_proto(&self) -> Option<ActivityType> {
        Some(ActivityType {
            name: self.activity_type.clone(),
        })
    }
}
