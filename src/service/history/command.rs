//! A workflow task comes back: its commands become events, in their order, in one transaction.

use std::collections::HashMap;

use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::command::v1::{
    Command, ContinueAsNewWorkflowExecutionCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{
    Memo, MeteringMetadata, SearchAttributes, WorkerVersionStamp,
};
use temporalio_protos::temporal::api::enums::v1::WorkflowTaskFailedCause as Cause;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    HistoryEvent, MarkerRecordedEventAttributes, TimerCanceledEventAttributes, TimerStartedEventAttributes,
    UpsertWorkflowSearchAttributesEventAttributes, WorkflowPropertiesModifiedEventAttributes,
    WorkflowTaskCompletedEventAttributes,
};
use temporalio_protos::temporal::api::protocol::v1::Message;
use temporalio_protos::temporal::api::sdk::v1::WorkflowTaskCompletedMetadata;
use temporalio_protos::temporal::api::update::v1::Request;

use super::super::clock::span_ms;
use super::super::search_attributes;
use super::state::{StickyState, TimerState, WorkflowTaskState};
use super::update::is_rejection;
use super::{Change, HistoryError, check_id, check_size, merged, retry};

/// How many events a speculative task may tell of and be forgotten; they are told again with the next one.
const MAX_DISCARDED_EVENTS: i64 = 10;

/// What a worker answers a workflow task with.
#[derive(Default)]
pub struct Completion {
    pub commands: Vec<Command>,
    pub messages: Vec<Message>,
    pub identity: String,
    pub sdk_metadata: Option<WorkflowTaskCompletedMetadata>,
    pub metering_metadata: Option<MeteringMetadata>,
    /// The build of the worker, and how older workers name theirs.
    pub worker_version: Option<WorkerVersionStamp>,
    pub binary_checksum: String,
    /// Queue and schedule-to-start timeout.
    pub sticky: Option<(String, i64)>,
    /// The worker asks for more time, and goes on with another task.
    pub force_new_task: bool,
    /// There are updates that no worker has seen.
    pub updates_wait: bool,
    /// Whether the worker can go back behind a speculative task that told it of events.
    pub can_discard_events: bool,
    /// The id of the run that follows, should the workflow continue as new.
    pub new_run_id: String,
    /// The updates that were sent and not answered.
    pub update_requests: HashMap<String, Request>,
}

impl Change {
    /// Carries out what the worker decided. `Err(BadCommand)`: drop this change and fail the task with that cause. Where the
    /// task leaves no event, gives the event that the worker is to go back to.
    pub fn complete_workflow_task(
        &mut self,
        out: (i64, i32),
        mut completion: Completion,
    ) -> Result<Option<i64>, HistoryError> {
        let task = self.workflow_task_that_is_out(out)?;
        self.state.workflow_task = None;
        let discarded = task.speculative && self.leaves_no_event(&completion);
        let completed_event_id = if discarded {
            0
        } else {
            self.append_completed(&task, &mut completion)
        };
        self.state.workflow_task_attempt = 1;
        self.state.sticky = completion
            .sticky
            .take()
            .map(|(queue, schedule_to_start_ms)| StickyState {
                queue,
                schedule_to_start_ms,
            });
        self.apply_commands(&mut completion, completed_event_id)?;
        if !completion.force_new_task && !self.is_closed() {
            self.refuse_unanswered(&completion.update_requests);
        }
        let news = !self.is_closed() && self.flush_buffered();
        if news || self.wants_workflow_task || completion.force_new_task {
            self.schedule_workflow_task();
        } else if completion.updates_wait {
            self.schedule_speculative_task();
        }
        if let Some(next) = self.state.workflow_task.as_mut() {
            next.heartbeat = completion.force_new_task;
        }
        Ok(discarded.then_some(self.state.last_completed_started_event_id))
    }

    /// Whether a speculative task has changed nothing: the workflow refused every update that came with it.
    fn leaves_no_event(&self, completion: &Completion) -> bool {
        // The started and the completed event of the task before: what follows them, this one has told.
        let told = self.state.last_event_id() - self.state.last_completed_started_event_id - 1;
        let most = if completion.can_discard_events {
            MAX_DISCARDED_EVENTS
        } else {
            0
        };
        completion.commands.is_empty()
            && !completion.force_new_task
            && told <= most
            && completion.messages.iter().all(is_rejection)
    }

    #[expect(deprecated, reason = "a server hands on what a worker says of its build")]
    fn append_completed(&mut self, task: &WorkflowTaskState, completion: &mut Completion) -> i64 {
        self.write_shown(task);
        self.state.last_completed_started_event_id = task.started_event_id;
        let worker_version = completion.worker_version.take();
        let build_id = worker_version
            .as_ref()
            .map_or_else(String::new, |it| it.build_id.clone());
        let id = self.append(Attributes::WorkflowTaskCompletedEventAttributes(
            WorkflowTaskCompletedEventAttributes {
                scheduled_event_id: task.scheduled_event_id,
                started_event_id: task.started_event_id,
                identity: completion.identity.clone(),
                binary_checksum: completion.binary_checksum.clone(),
                worker_version,
                sdk_metadata: completion.sdk_metadata.take(),
                metering_metadata: completion.metering_metadata,
                ..Default::default()
            },
        ));
        self.note_build(&build_id, &completion.binary_checksum, id);
        id
    }

    fn apply_commands(
        &mut self,
        completion: &mut Completion,
        completed_event_id: i64,
    ) -> Result<(), HistoryError> {
        let had_news = !self.state.buffered.is_empty();
        self.in_commands = true;
        let mut messages = std::mem::take(&mut completion.messages);
        for command in std::mem::take(&mut completion.commands) {
            if self.is_closed() {
                return Err(bad(
                    Cause::UnhandledCommand,
                    "a command follows the one that closes the run",
                ));
            }
            // A timer that was canceled takes its news with it.
            if closes(&command) && had_news && !self.state.buffered.is_empty() {
                return Err(bad(Cause::UnhandledCommand, ""));
            }
            self.apply_command(command, completed_event_id, &mut messages, completion)?;
        }
        for message in &messages {
            // Of a run that has closed nothing can be accepted any more: its updates go on with the run that follows, or end.
            if !self.is_closed() || is_rejection(message) {
                self.update_message(message, &completion.update_requests)?;
            }
        }
        self.in_commands = false;
        Ok(())
    }

    fn apply_command(
        &mut self,
        command: Command,
        completed: i64,
        messages: &mut Vec<Message>,
        completion: &Completion,
    ) -> Result<(), HistoryError> {
        (self.user_metadata, self.event_groups) = (command.user_metadata, command.event_group_markers);
        match command
            .attributes
            .ok_or_else(|| bad(Cause::Unspecified, "a command has no attributes"))?
        {
            Do::ScheduleActivityTaskCommandAttributes(it) => {
                let id = self.schedule_activity(it, completed)?;
                self.dispatch_activity(id);
            }
            Do::RequestCancelActivityTaskCommandAttributes(it) => {
                self.request_cancel_activity(it.scheduled_event_id, completed, &completion.identity)?;
            }
            Do::StartTimerCommandAttributes(it) => {
                let bad_timer = |what: String| bad(Cause::BadStartTimerAttributes, &what);
                check_id("a timer's id", &it.timer_id).map_err(bad_timer)?;
                let takes_ms = span_ms(it.start_to_fire_timeout).map_err(bad_timer)?;
                let fire_ms = self.now_ms.saturating_add(takes_ms);
                if self.state.timers.contains_key(&it.timer_id) {
                    return Err(bad(Cause::StartTimerDuplicateId, "a timer's id is taken"));
                }
                let attributes = TimerStartedEventAttributes {
                    timer_id: it.timer_id.clone(),
                    start_to_fire_timeout: it.start_to_fire_timeout,
                    workflow_task_completed_event_id: completed,
                };
                let started_event_id =
                    self.append_command(Attributes::TimerStartedEventAttributes(attributes));
                let timer = TimerState {
                    timer_id: it.timer_id.clone(),
                    started_event_id,
                    fire_ms,
                };
                self.state.timers.insert(it.timer_id, timer);
            }
            Do::CancelTimerCommandAttributes(it) => {
                self.cancel_timer(it.timer_id, completed, &completion.identity)?
            }
            Do::CompleteWorkflowExecutionCommandAttributes(it) => {
                check_size("the result", &it)
                    .map_err(|what| bad(Cause::BadCompleteWorkflowExecutionAttributes, &what))?;
                self.complete(it.result, completed);
            }
            Do::FailWorkflowExecutionCommandAttributes(it) => self.fail(it.failure, completed),
            Do::CancelWorkflowExecutionCommandAttributes(it) => self.cancel(it.details, completed),
            Do::ContinueAsNewWorkflowExecutionCommandAttributes(it) => {
                refuse_unknown(&it)?;
                search_attributes::check(it.search_attributes.as_ref())
                    .map_err(|what| bad(Cause::BadSearchAttributes, &what))?;
                self.continue_as_new(it, completion.new_run_id.clone(), completed);
            }
            Do::RecordMarkerCommandAttributes(it) => {
                check_id("a marker's name", &it.marker_name)
                    .and_then(|()| check_size("a marker", &it))
                    .map_err(|what| bad(Cause::BadRecordMarkerAttributes, &what))?;
                let attributes = MarkerRecordedEventAttributes {
                    marker_name: it.marker_name,
                    details: it.details,
                    workflow_task_completed_event_id: completed,
                    header: it.header,
                    failure: it.failure,
                };
                self.append_command(Attributes::MarkerRecordedEventAttributes(attributes));
            }
            Do::UpsertWorkflowSearchAttributesCommandAttributes(it) => {
                search_attributes::check(it.search_attributes.as_ref())
                    .map_err(|what| bad(Cause::BadSearchAttributes, &what))?;
                self.upsert_search_attributes(it.search_attributes, completed)
            }
            Do::ModifyWorkflowPropertiesCommandAttributes(it) => {
                check_size("the memo", &it)
                    .map_err(|what| bad(Cause::BadModifyWorkflowPropertiesAttributes, &what))?;
                self.upsert_memo(it.upserted_memo, completed)
            }
            Do::ProtocolMessageCommandAttributes(it) => {
                let index = messages.iter().position(|message| message.id == it.message_id);
                let index = index.ok_or_else(|| {
                    bad(
                        Cause::BadUpdateWorkflowExecutionMessage,
                        "a command names a message that is not there",
                    )
                })?;
                let message = messages.remove(index);
                // Whatever is said of it is said of no event.
                (self.user_metadata, self.event_groups) = (None, Vec::new());
                self.update_message(&message, &completion.update_requests)?;
            }
            other => {
                // Debug names the command; its values stay out of the message.
                let name = format!("{other:?}");
                let name = name
                    .split('(')
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches("CommandAttributes")
                    .to_owned();
                return Err(bad(
                    Cause::Unspecified,
                    &format!("this service does not carry out {name}"),
                ));
            }
        }
        Ok(())
    }

    fn cancel_timer(&mut self, timer_id: String, completed: i64, identity: &str) -> Result<(), HistoryError> {
        let started_event_id = match self.state.timers.remove(&timer_id) {
            Some(timer) => timer.started_event_id,
            // It fired while the task that cancels it was out: the workflow has decided first, so it has not fired.
            None => self
                .take_buffered_fire(&timer_id)
                .ok_or_else(|| bad(Cause::BadCancelTimerAttributes, "no such timer"))?,
        };
        self.append_command(Attributes::TimerCanceledEventAttributes(
            TimerCanceledEventAttributes {
                timer_id,
                started_event_id,
                workflow_task_completed_event_id: completed,
                identity: identity.to_owned(),
            },
        ));
        Ok(())
    }

    /// Takes a timer's fired event out of the buffer. Gives the event that started the timer.
    fn take_buffered_fire(&mut self, timer_id: &str) -> Option<i64> {
        let fired = |event: &HistoryEvent| match &event.attributes {
            Some(Attributes::TimerFiredEventAttributes(fired)) if fired.timer_id == timer_id => {
                Some(fired.started_event_id)
            }
            _ => None,
        };
        let found = |(number, event): (&i64, &HistoryEvent)| Some((*number, fired(event)?));
        let (number, started_event_id) = self.state.buffered.iter().find_map(found)?;
        self.state.buffered.remove(&number);
        Some(started_event_id)
    }

    fn upsert_search_attributes(&mut self, upserted: Option<SearchAttributes>, completed: i64) {
        let all = self.state.search_attributes.get_or_insert_default();
        let change = upserted.clone().unwrap_or_default().indexed_fields;
        all.indexed_fields = merged(std::mem::take(&mut all.indexed_fields), change);
        self.append_command(Attributes::UpsertWorkflowSearchAttributesEventAttributes(
            UpsertWorkflowSearchAttributesEventAttributes {
                workflow_task_completed_event_id: completed,
                search_attributes: upserted,
            },
        ));
    }

    fn upsert_memo(&mut self, upserted: Option<Memo>, completed: i64) {
        let all = self.state.memo.get_or_insert_default();
        let change = upserted.clone().unwrap_or_default().fields;
        all.fields = merged(std::mem::take(&mut all.fields), change);
        self.append_command(Attributes::WorkflowPropertiesModifiedEventAttributes(
            WorkflowPropertiesModifiedEventAttributes {
                workflow_task_completed_event_id: completed,
                upserted_memo: upserted,
            },
        ));
    }
}

fn closes(command: &Command) -> bool {
    matches!(
        command.attributes,
        Some(
            Do::CompleteWorkflowExecutionCommandAttributes(_)
                | Do::FailWorkflowExecutionCommandAttributes(_)
                | Do::CancelWorkflowExecutionCommandAttributes(_)
                | Do::ContinueAsNewWorkflowExecutionCommandAttributes(_)
        )
    )
}

/// What a run that follows could be asked for and does not get here.
fn refuse_unknown(it: &ContinueAsNewWorkflowExecutionCommandAttributes) -> Result<(), HistoryError> {
    let refused = |what: &str| Err(bad(Cause::BadContinueAsNewAttributes, what));
    if !it.cron_schedule.is_empty() {
        return refused("this service does not know cron schedules");
    }
    let policy = it.retry_policy.as_ref().map_or(Ok(()), retry::check);
    let spans = [
        it.workflow_run_timeout,
        it.workflow_task_timeout,
        it.backoff_start_interval,
    ];
    policy
        .and_then(|()| spans.into_iter().try_for_each(|span| span_ms(span).map(drop)))
        .and_then(|()| check_size("the input", it))
        .or_else(|what| refused(&what))
}

fn bad(cause: Cause, message: &str) -> HistoryError {
    HistoryError::BadCommand {
        cause: cause as i32,
        message: message.to_owned(),
    }
}
