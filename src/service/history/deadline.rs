//! Everything about a run that happens because time passes. Deadlines are a pure function of the state, so that they
//! need no records of their own and are all there again after a restart.

use std::collections::HashMap;

use temporalio_protos::temporal::api::enums::v1::TimeoutType;
use temporalio_protos::temporal::api::history::v1::TimerFiredEventAttributes;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::{ActivityState, Change, Dispatch, RunRecord, RunState, workflow_task};

/// What is due at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// A workflow task that was backed off may be handed out.
    WorkflowTaskReady,
    /// Nobody took the workflow task from the sticky queue, or the speculative one.
    WorkflowTaskScheduleToStart,
    /// The worker that has the workflow task did not answer.
    WorkflowTaskStartToClose,
    /// An activity's next attempt may be handed out.
    ActivityReady(i64),
    /// One of the timeouts of an activity is over.
    Activity(i64, ActivityTimeout),
    /// A timer of the workflow.
    Timer(String),
    /// The run, or the chain of runs, has taken too long.
    RunExpired,
    /// The first workflow task was held back until now.
    FirstWorkflowTask,
}

impl Deadline {
    /// Whether it puts a task into its queue and changes nothing.
    pub fn only_hands_out(&self) -> bool {
        matches!(self, Self::WorkflowTaskReady | Self::ActivityReady(_))
    }
}

/// Which of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActivityTimeout {
    ScheduleToStart,
    ScheduleToClose,
    StartToClose,
    Heartbeat,
}

impl RunRecord {
    /// What is due when of what a run has one of.
    fn deadlines(&self, due: &mut Vec<(i64, Deadline)>) {
        if self.is_closed() {
            return;
        }
        if let Some(task) = &self.workflow_task {
            if task.started_event_id != 0 {
                due.push((
                    task.started_ms + self.workflow_task_timeout_ms,
                    Deadline::WorkflowTaskStartToClose,
                ));
            } else if task.schedule_to_start_ms > 0 {
                due.push((
                    task.scheduled_ms + task.schedule_to_start_ms,
                    Deadline::WorkflowTaskScheduleToStart,
                ));
            } else if task.attempt > 1 {
                due.push((task.scheduled_ms, Deadline::WorkflowTaskReady));
            }
        }
        if self.first_task_ms > 0 {
            due.push((self.first_task_ms, Deadline::FirstWorkflowTask));
        }
        for expires in [self.run_expires_ms, self.execution_expires_ms] {
            due.extend((expires > 0).then_some((expires, Deadline::RunExpired)));
        }
    }
}

impl RunState {
    /// What is due when, in milliseconds of Unix time.
    pub fn deadlines(&self) -> Vec<(i64, Deadline)> {
        self.deadlines_among(self.activities.keys(), self.timers.keys())
    }

    /// As `deadlines`, but of the rows only those that a draft has touched: the others' are what they were.
    pub fn deadlines_beside(&self, draft: &Self) -> Vec<(i64, Deadline)> {
        self.deadlines_among(draft.activities.touched(), draft.timers.touched())
    }

    fn deadlines_among<'a>(
        &self,
        activities: impl Iterator<Item = &'a i64>,
        timers: impl Iterator<Item = &'a String>,
    ) -> Vec<(i64, Deadline)> {
        let mut due = Vec::new();
        self.record().deadlines(&mut due);
        for it in activities.filter_map(|id| self.activities.get(id)) {
            it.deadlines(&mut due);
        }
        let timers = timers.filter_map(|id| self.timers.get(id));
        due.extend(timers.map(|it| (it.fire_ms, Deadline::Timer(it.timer_id.clone()))));
        due
    }

    /// When a deadline is due, if there is such a one.
    fn due_ms(&self, deadline: &Deadline) -> Option<i64> {
        let (activity, timer) = match deadline {
            Deadline::ActivityReady(id) | Deadline::Activity(id, _) => (Some(id), None),
            Deadline::Timer(id) => (None, Some(id)),
            _ => (None, None),
        };
        let due = self.deadlines_among(activity.into_iter(), timer.into_iter());
        let like = due.into_iter().filter(|(_, it)| it == deadline);
        like.map(|(at_ms, _)| at_ms).min()
    }
}

impl ActivityState {
    fn deadlines(&self, due: &mut Vec<(i64, Deadline)>) {
        let id = self.scheduled_event_id;
        let mut add = |from_ms: i64, timeout_ms: i64, timeout| {
            due.extend((timeout_ms > 0).then_some((from_ms + timeout_ms, Deadline::Activity(id, timeout))));
        };
        add(
            self.scheduled_ms,
            self.schedule_to_close_ms,
            ActivityTimeout::ScheduleToClose,
        );
        if self.started_ms == 0 {
            add(
                self.attempt_scheduled_ms,
                self.schedule_to_start_ms,
                ActivityTimeout::ScheduleToStart,
            );
            if self.attempt > 1 {
                due.push((self.attempt_scheduled_ms, Deadline::ActivityReady(id)));
            }
        } else {
            add(
                self.started_ms,
                self.start_to_close_ms,
                ActivityTimeout::StartToClose,
            );
            add(
                self.heartbeat_ms,
                self.heartbeat_timeout_ms,
                ActivityTimeout::Heartbeat,
            );
        }
    }
}

impl ActivityState {
    /// Takes all its times back by as much as what has happened lies in the future.
    fn keep_up_with_the_clock(&mut self, now_ms: i64) {
        let happened = [
            self.scheduled_ms,
            self.started_ms,
            self.heartbeat_ms,
            self.last_attempt_complete_ms,
        ];
        let ahead_ms = happened.into_iter().max().unwrap_or_default() - now_ms;
        if ahead_ms <= 0 {
            return;
        }
        for time in [
            &mut self.scheduled_ms,
            &mut self.attempt_scheduled_ms,
            &mut self.started_ms,
            &mut self.heartbeat_ms,
            &mut self.last_attempt_complete_ms,
        ] {
            // 0 is never.
            if *time != 0 {
                *time -= ahead_ms;
            }
        }
    }
}

impl Change {
    /// Does what is due, if it still is.
    pub fn on_deadline(&mut self, deadline: &Deadline) {
        if self
            .state
            .due_ms(deadline)
            .is_none_or(|at_ms| at_ms > self.now_ms)
        {
            return;
        }
        match deadline {
            Deadline::WorkflowTaskReady => {
                let queue = self.state.task_queue.clone();
                self.dispatch.push(Dispatch::WorkflowTask { queue });
            }
            Deadline::WorkflowTaskScheduleToStart => {
                self.time_out_workflow_task(TimeoutType::ScheduleToStart)
            }
            Deadline::WorkflowTaskStartToClose => self.time_out_workflow_task(TimeoutType::StartToClose),
            Deadline::ActivityReady(id) => self.dispatch_activity(*id),
            Deadline::Activity(id, timeout) => self.time_out_activity(
                *id,
                match timeout {
                    ActivityTimeout::ScheduleToStart => TimeoutType::ScheduleToStart,
                    ActivityTimeout::ScheduleToClose => TimeoutType::ScheduleToClose,
                    ActivityTimeout::StartToClose => TimeoutType::StartToClose,
                    ActivityTimeout::Heartbeat => TimeoutType::Heartbeat,
                },
            ),
            Deadline::Timer(timer_id) => self.fire_timer(timer_id),
            Deadline::RunExpired => self.time_out_run(),
            Deadline::FirstWorkflowTask => {
                self.state.first_task_ms = 0;
                self.schedule_workflow_task();
            }
        }
    }

    /// After a restart: where the wall clock was set back meanwhile, nothing waits longer than it was to wait from its beginning.
    ///
    /// `timers_ms` says how long a timer takes, by the event that started it.
    pub fn keep_up_with_the_clock(&mut self, timers_ms: &HashMap<i64, i64>) {
        let now_ms = self.now_ms;
        let timers: Vec<String> = self.state.timers.keys().cloned().collect();
        for id in timers {
            if let Some(timer) = self.state.timers.get_mut(&id)
                && let Some(takes_ms) = timers_ms.get(&timer.started_event_id)
            {
                timer.fire_ms = timer.fire_ms.min(now_ms.saturating_add(*takes_ms));
            }
        }
        let activities: Vec<i64> = self.state.activities.keys().copied().collect();
        for id in activities {
            if let Some(it) = self.state.activities.get_mut(id) {
                it.keep_up_with_the_clock(now_ms);
            }
        }
        if let Some(task) = &mut self.state.workflow_task {
            let latest_ms = now_ms + workflow_task::backoff_ms(task.attempt);
            task.scheduled_ms = task.scheduled_ms.min(latest_ms);
            task.started_ms = task.started_ms.min(now_ms);
        }
    }

    /// Hands out everything that waits and may be handed out now: after a restart the queues are empty.
    pub fn dispatch_all(&mut self) {
        let task = self.state.workflow_task.as_ref();
        if let Some(task) = task.filter(|task| task.started_event_id == 0 && task.scheduled_ms <= self.now_ms)
        {
            let queue = if task.sticky {
                task.queue.clone()
            } else {
                self.state.task_queue.clone()
            };
            self.dispatch.push(Dispatch::WorkflowTask { queue });
        }
        let ids: Vec<i64> = self.state.activities.keys().copied().collect();
        for id in ids {
            self.dispatch_activity(id);
        }
    }

    fn fire_timer(&mut self, timer_id: &str) {
        let Some(timer) = self.state.timers.remove(timer_id) else {
            return;
        };
        self.append_news(Attributes::TimerFiredEventAttributes(TimerFiredEventAttributes {
            timer_id: timer.timer_id,
            started_event_id: timer.started_event_id,
        }));
    }
}
