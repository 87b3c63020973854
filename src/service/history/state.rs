//! What the service knows of one run beside its events: the record that is written with every change of it.
//!
//! All of it could be derived from the events but for attempts, heartbeats and who has a task; it is kept so that a run is
//! opened by reading one record. Tags are forever: a field is added, never reused. Times are milliseconds of Unix time.

use temporalio_protos::temporal::api::common::v1::{Memo, Payloads, Priority, RetryPolicy, SearchAttributes};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::sdk::v1::UserMetadata;

/// One run of a workflow.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RunState {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    pub workflow_id: String,
    #[prost(string, tag = "3")]
    pub run_id: String,
    #[prost(string, tag = "4")]
    pub workflow_type: String,
    #[prost(string, tag = "5")]
    pub task_queue: String,
    /// The first run of the chain of continue-as-new.
    #[prost(string, tag = "6")]
    pub first_run_id: String,
    #[prost(int64, tag = "7")]
    pub start_ms: i64,
    /// 0 while the run is open.
    #[prost(int64, tag = "8")]
    pub close_ms: i64,
    /// A `WorkflowExecutionStatus`.
    #[prost(int32, tag = "9")]
    pub status: i32,
    /// One more than the number of events.
    #[prost(int64, tag = "10")]
    pub next_event_id: i64,
    #[prost(int64, tag = "11")]
    pub history_bytes: i64,
    /// XXH3-64 over the checksum before and the event's bytes, event by event: the proof that none is missing.
    #[prost(fixed64, tag = "12")]
    pub events_checksum: u64,
    #[prost(message, optional, tag = "13")]
    pub workflow_task: Option<WorkflowTaskState>,
    /// The WorkflowTaskStarted event of the last completed workflow task; 0 before the first.
    #[prost(int64, tag = "14")]
    pub last_completed_started_event_id: i64,
    #[prost(message, optional, tag = "15")]
    pub sticky: Option<StickyState>,
    #[prost(message, repeated, tag = "16")]
    pub activities: Vec<ActivityState>,
    #[prost(message, repeated, tag = "17")]
    pub timers: Vec<TimerState>,
    /// Events that came while a workflow task was out; they get their ids when it is back.
    #[prost(message, repeated, tag = "18")]
    pub buffered: Vec<HistoryEvent>,
    /// Updates that were accepted and not completed. Those of a closed run never will be.
    #[prost(message, repeated, tag = "19")]
    pub updates: Vec<UpdateState>,
    #[prost(bool, tag = "20")]
    pub cancel_requested: bool,
    #[prost(message, optional, tag = "21")]
    pub memo: Option<Memo>,
    #[prost(message, optional, tag = "22")]
    pub search_attributes: Option<SearchAttributes>,
    #[prost(int64, tag = "23")]
    pub workflow_task_timeout_ms: i64,
    #[prost(int64, tag = "24")]
    pub run_timeout_ms: i64,
    #[prost(int64, tag = "25")]
    pub run_expires_ms: i64,
    #[prost(string, tag = "26")]
    pub start_request_id: String,
    /// The last few request ids of signals and cancels, so that a repeated RPC adds no second event.
    #[prost(string, repeated, tag = "27")]
    pub request_ids: Vec<String>,
    /// The run before this one, if it was continued as new.
    #[prost(string, tag = "28")]
    pub continued_run_id: String,
    /// The attempt of the next workflow task: 1, or more after failures in a row.
    #[prost(int32, tag = "29")]
    pub workflow_task_attempt: i32,
    /// Updates that were completed: their ids and the events that hold their outcomes.
    #[prost(message, repeated, tag = "30")]
    pub completed_updates: Vec<UpdateState>,
    /// When the chain of runs expires as a whole; 0 is never.
    #[prost(int64, tag = "31")]
    pub execution_expires_ms: i64,
    /// When the first run of the chain was started.
    #[prost(int64, tag = "32")]
    pub first_start_ms: i64,
    /// When the first workflow task is to be scheduled, while it is held back; 0 is not, or no longer.
    #[prost(int64, tag = "33")]
    pub first_task_ms: i64,
    /// When the run was to begin: later than its start where its first task was held back. 0 in journals before that could be.
    #[prost(int64, tag = "34")]
    pub execution_ms: i64,
    #[prost(int64, tag = "35")]
    pub execution_timeout_ms: i64,
    #[prost(message, optional, tag = "36")]
    pub retry_policy: Option<RetryPolicy>,
    /// Which attempt of the workflow this run is; 0 in journals before there were others than the first.
    #[prost(int32, tag = "37")]
    pub attempt: i32,
    #[prost(message, optional, tag = "38")]
    pub priority: Option<Priority>,
    #[prost(message, optional, tag = "39")]
    pub user_metadata: Option<UserMetadata>,
}

/// The one workflow task that a run may have.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkflowTaskState {
    /// 0 for a transient task (attempt > 1) that was not started: its events get their ids at the start.
    #[prost(int64, tag = "1")]
    pub scheduled_event_id: i64,
    /// 0 until a worker has it.
    #[prost(int64, tag = "2")]
    pub started_event_id: i64,
    #[prost(int32, tag = "3")]
    pub attempt: i32,
    /// When it may be handed out; in the future while it is backed off.
    #[prost(int64, tag = "4")]
    pub scheduled_ms: i64,
    #[prost(int64, tag = "5")]
    pub started_ms: i64,
    /// The queue it waits in, normal or sticky.
    #[prost(string, tag = "6")]
    pub queue: String,
    #[prost(bool, tag = "7")]
    pub sticky: bool,
    #[prost(string, tag = "8")]
    pub identity: String,
    #[prost(string, tag = "9")]
    pub request_id: String,
    /// Whether the worker that has it lives in the process that owned the journal then.
    #[prost(bool, tag = "10")]
    pub embedded: bool,
    /// Whether the WorkflowTaskStarted event suggested to continue as new.
    #[prost(bool, tag = "11")]
    pub suggest_continue_as_new: bool,
    /// The events that only the worker has seen; once it has answered they are written as they were shown.
    #[prost(message, repeated, tag = "12")]
    pub shown: Vec<HistoryEvent>,
    /// The last event when a task without a scheduled event was scheduled: with news after it, it needs one after all.
    #[prost(int64, tag = "13")]
    pub after_event_id: i64,
    /// How long it may wait, in a sticky queue or as a speculative task.
    #[prost(int64, tag = "14")]
    pub schedule_to_start_ms: i64,
    /// Whether it is for updates alone, and leaves no event if all of them are refused.
    #[prost(bool, tag = "15")]
    pub speculative: bool,
    /// Whether it goes on where its worker asked for more time: that worker still has the updates that it got.
    #[prost(bool, tag = "16")]
    pub heartbeat: bool,
}

/// Where the worker that has the run in its cache wants its next workflow task.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StickyState {
    #[prost(string, tag = "1")]
    pub queue: String,
    #[prost(int64, tag = "2")]
    pub schedule_to_start_ms: i64,
}

/// An activity that is scheduled and not closed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActivityState {
    #[prost(int64, tag = "1")]
    pub scheduled_event_id: i64,
    #[prost(string, tag = "2")]
    pub activity_id: String,
    #[prost(string, tag = "3")]
    pub activity_type: String,
    #[prost(string, tag = "4")]
    pub queue: String,
    #[prost(int32, tag = "5")]
    pub attempt: i32,
    #[prost(int64, tag = "6")]
    pub scheduled_ms: i64,
    /// When the current attempt may be handed out; in the future while it is backed off.
    #[prost(int64, tag = "7")]
    pub attempt_scheduled_ms: i64,
    /// 0 until a worker has the current attempt.
    #[prost(int64, tag = "8")]
    pub started_ms: i64,
    #[prost(int64, tag = "9")]
    pub heartbeat_ms: i64,
    #[prost(message, optional, tag = "10")]
    pub heartbeat_details: Option<Payloads>,
    #[prost(message, optional, tag = "11")]
    pub last_failure: Option<Failure>,
    #[prost(string, tag = "12")]
    pub identity: String,
    #[prost(string, tag = "13")]
    pub request_id: String,
    /// Whether the worker that has it lives in the process that owned the journal then.
    #[prost(bool, tag = "14")]
    pub embedded: bool,
    /// The ActivityTaskCancelRequested event; 0 if none.
    #[prost(int64, tag = "15")]
    pub cancel_requested_event_id: i64,
    /// The four timeouts; 0 is none.
    #[prost(int64, tag = "16")]
    pub schedule_to_close_ms: i64,
    #[prost(int64, tag = "17")]
    pub schedule_to_start_ms: i64,
    #[prost(int64, tag = "18")]
    pub start_to_close_ms: i64,
    #[prost(int64, tag = "19")]
    pub heartbeat_timeout_ms: i64,
    #[prost(message, optional, tag = "20")]
    pub retry_policy: Option<RetryPolicy>,
    #[prost(int64, tag = "21")]
    pub last_attempt_complete_ms: i64,
}

/// A timer that was started and has neither fired nor been canceled.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TimerState {
    #[prost(string, tag = "1")]
    pub timer_id: String,
    #[prost(int64, tag = "2")]
    pub started_event_id: i64,
    #[prost(int64, tag = "3")]
    pub fire_ms: i64,
}

/// An update that was accepted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateState {
    #[prost(string, tag = "1")]
    pub update_id: String,
    #[prost(int64, tag = "2")]
    pub accepted_event_id: i64,
    /// 0 until it is completed.
    #[prost(int64, tag = "3")]
    pub completed_event_id: i64,
}
