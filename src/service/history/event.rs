//! Appending events: ids, times, the running checksum, and the buffer that keeps an event back while a workflow task is
//! out, so that a worker never misses one.

use std::collections::HashMap;

use prost::Message;
use temporalio_protos::temporal::api::common::v1::Link;
use temporalio_protos::temporal::api::enums::v1::EventType;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::super::clock::timestamp;
use super::{Appended, Change, chain};

impl Change {
    /// Appends an event and gives its id.
    pub(super) fn append(&mut self, attributes: Attributes) -> i64 {
        self.write(unnumbered(attributes, self.now_ms))
    }

    /// Appends the event of a command, with what the worker says of it beside.
    pub(super) fn append_command(&mut self, attributes: Attributes) -> i64 {
        let event = HistoryEvent {
            user_metadata: self.user_metadata.take(),
            event_group_markers: std::mem::take(&mut self.event_groups),
            ..unnumbered(attributes, self.now_ms)
        };
        self.write(event)
    }

    /// Appends an event that a worker must hear of: kept back while a workflow task is out, or until all of its commands are
    /// events; else with a workflow task.
    pub(super) fn append_news(&mut self, attributes: Attributes) {
        self.append_linked_news(attributes, Vec::new());
    }

    /// As `append_news`, with what else has to do with it.
    pub(super) fn append_linked_news(&mut self, attributes: Attributes, links: Vec<Link>) {
        let event = HistoryEvent {
            links,
            ..unnumbered(attributes, self.now_ms)
        };
        if self.workflow_task_is_out() || self.in_commands {
            self.settle_speculative_task();
            self.state.buffered.push(event);
        } else {
            self.write(event);
            self.schedule_workflow_task();
        }
    }

    /// Gives the buffered events their ids; what ends an activity comes after the rest, as on a Temporal server. Returns
    /// whether there were any.
    pub(super) fn flush_buffered(&mut self) -> bool {
        let mut buffered = self.state.buffered.take_all();
        let any = !buffered.is_empty();
        buffered.sort_by_key(ends_activity);
        // An activity's started event is buffered right before its closing event, which must name it.
        let mut started = HashMap::new();
        for mut event in buffered {
            let scheduled = match event.attributes.as_mut() {
                Some(Attributes::ActivityTaskStartedEventAttributes(it)) => Some(it.scheduled_event_id),
                Some(attributes) => {
                    if let Some((scheduled, id)) = started_event_id_of(attributes)
                        && let Some(started) = started.get(&scheduled)
                    {
                        *id = *started;
                    }
                    None
                }
                None => None,
            };
            let id = self.write(event);
            if let Some(scheduled) = scheduled {
                started.insert(scheduled, id);
            }
        }
        any
    }

    /// Gives an event its id, and appends it with the time that it has.
    pub(super) fn write(&mut self, mut event: HistoryEvent) -> i64 {
        self.settle_speculative_task();
        event.event_id = self.state.next_event_id;
        event.task_id = event.event_id;
        self.state.next_event_id += 1;
        let bytes = event.encode_to_vec();
        self.state.history_bytes += i64::try_from(bytes.len()).unwrap_or(0);
        self.state.events_checksum = chain(self.state.events_checksum, &bytes);
        let id = event.event_id;
        self.events.push(Appended { event, bytes });
        id
    }
}

fn ends_activity(event: &HistoryEvent) -> bool {
    matches!(
        event.event_type(),
        EventType::ActivityTaskCompleted
            | EventType::ActivityTaskFailed
            | EventType::ActivityTaskTimedOut
            | EventType::ActivityTaskCanceled
    )
}

/// An event that has no id yet.
pub(super) fn unnumbered(attributes: Attributes, at_ms: i64) -> HistoryEvent {
    HistoryEvent {
        event_time: timestamp(at_ms),
        event_type: event_type(&attributes) as i32,
        attributes: Some(attributes),
        ..Default::default()
    }
}

/// The scheduled and the started event that an activity's closing event names.
fn started_event_id_of(attributes: &mut Attributes) -> Option<(i64, &mut i64)> {
    match attributes {
        Attributes::ActivityTaskCompletedEventAttributes(it) => {
            Some((it.scheduled_event_id, &mut it.started_event_id))
        }
        Attributes::ActivityTaskFailedEventAttributes(it) => {
            Some((it.scheduled_event_id, &mut it.started_event_id))
        }
        Attributes::ActivityTaskTimedOutEventAttributes(it) => {
            Some((it.scheduled_event_id, &mut it.started_event_id))
        }
        Attributes::ActivityTaskCanceledEventAttributes(it) => {
            Some((it.scheduled_event_id, &mut it.started_event_id))
        }
        _ => None,
    }
}

/// Whether an event ends the activity that was scheduled by another.
pub(super) fn closes_activity(event: &HistoryEvent, scheduled_event_id: i64) -> bool {
    let mut attributes = event.attributes.clone();
    let named = attributes.as_mut().and_then(started_event_id_of);
    named.is_some_and(|(scheduled, _)| scheduled == scheduled_event_id)
}

/// Whether an event is the last of its run.
pub fn is_close_event(event: &HistoryEvent) -> bool {
    matches!(
        event.event_type(),
        EventType::WorkflowExecutionCompleted
            | EventType::WorkflowExecutionFailed
            | EventType::WorkflowExecutionCanceled
            | EventType::WorkflowExecutionTerminated
            | EventType::WorkflowExecutionTimedOut
            | EventType::WorkflowExecutionContinuedAsNew
    )
}

fn event_type(attributes: &Attributes) -> EventType {
    macro_rules! types {
        ($($variant:ident => $event:ident),* $(,)?) => {
            match attributes {
                $(Attributes::$variant(_) => EventType::$event,)*
                _ => EventType::Unspecified,
            }
        };
    }
    types! {
        WorkflowExecutionStartedEventAttributes => WorkflowExecutionStarted,
        WorkflowExecutionCompletedEventAttributes => WorkflowExecutionCompleted,
        WorkflowExecutionFailedEventAttributes => WorkflowExecutionFailed,
        WorkflowExecutionTimedOutEventAttributes => WorkflowExecutionTimedOut,
        WorkflowExecutionCanceledEventAttributes => WorkflowExecutionCanceled,
        WorkflowExecutionTerminatedEventAttributes => WorkflowExecutionTerminated,
        WorkflowExecutionContinuedAsNewEventAttributes => WorkflowExecutionContinuedAsNew,
        WorkflowExecutionCancelRequestedEventAttributes => WorkflowExecutionCancelRequested,
        WorkflowExecutionSignaledEventAttributes => WorkflowExecutionSignaled,
        WorkflowExecutionUpdateAcceptedEventAttributes => WorkflowExecutionUpdateAccepted,
        WorkflowExecutionUpdateCompletedEventAttributes => WorkflowExecutionUpdateCompleted,
        WorkflowTaskScheduledEventAttributes => WorkflowTaskScheduled,
        WorkflowTaskStartedEventAttributes => WorkflowTaskStarted,
        WorkflowTaskCompletedEventAttributes => WorkflowTaskCompleted,
        WorkflowTaskTimedOutEventAttributes => WorkflowTaskTimedOut,
        WorkflowTaskFailedEventAttributes => WorkflowTaskFailed,
        ActivityTaskScheduledEventAttributes => ActivityTaskScheduled,
        ActivityTaskStartedEventAttributes => ActivityTaskStarted,
        ActivityTaskCompletedEventAttributes => ActivityTaskCompleted,
        ActivityTaskFailedEventAttributes => ActivityTaskFailed,
        ActivityTaskTimedOutEventAttributes => ActivityTaskTimedOut,
        ActivityTaskCancelRequestedEventAttributes => ActivityTaskCancelRequested,
        ActivityTaskCanceledEventAttributes => ActivityTaskCanceled,
        TimerStartedEventAttributes => TimerStarted,
        TimerFiredEventAttributes => TimerFired,
        TimerCanceledEventAttributes => TimerCanceled,
        MarkerRecordedEventAttributes => MarkerRecorded,
        UpsertWorkflowSearchAttributesEventAttributes => UpsertWorkflowSearchAttributes,
        WorkflowPropertiesModifiedEventAttributes => WorkflowPropertiesModified,
    }
}
