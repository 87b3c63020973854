//! What the service knows of one run beside its events: a record, and rows of what it has many of. A change writes the
//! record and the rows that it touched.
//!
//! All of it could be derived from the events but for attempts, heartbeats and who has a task; it is kept so that a run is
//! opened without reading them. Tags are forever: a field is added, never reused. Times are milliseconds of Unix time.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use temporalio_protos::temporal::api::common::v1::{
    Memo, Payloads, Priority, RetryPolicy, SearchAttributes, WorkerVersionStamp,
};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::sdk::v1::UserMetadata;
use temporalio_protos::temporal::api::workflow::v1::ResetPointInfo;

use super::super::Caller;
use super::super::inventory::Inventory;
use super::rows::{Activities, RequestIds, RowChange, RowKind, Rows};

/// One run of a workflow. A clone shares all of it, and copies what it changes.
#[derive(Debug, Clone, Default)]
pub struct RunState {
    record: Arc<RunRecord>,
    pub activities: Activities,
    /// Started, and neither fired nor canceled.
    pub timers: Rows<String, TimerState>,
    /// Events that came while a workflow task was out; they get their ids when it is back.
    pub buffered: Rows<i64, HistoryEvent>,
    /// Updates that were accepted and not completed. Those of a closed run never will be.
    pub updates: Rows<String, UpdateState>,
    /// Updates that were completed, and the events that hold their outcomes.
    pub completed_updates: Rows<String, UpdateState>,
    /// Those of signals and cancels, so that a repeated RPC adds no second event.
    pub request_ids: RequestIds,
}

impl Deref for RunState {
    type Target = RunRecord;

    fn deref(&self) -> &RunRecord {
        &self.record
    }
}

impl DerefMut for RunState {
    fn deref_mut(&mut self) -> &mut RunRecord {
        Arc::make_mut(&mut self.record)
    }
}

impl RunState {
    /// A run without rows.
    pub fn of(record: RunRecord) -> Self {
        Self {
            record: Arc::new(record),
            ..Self::default()
        }
    }

    /// Its record as it is.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// The rows that are to be written, and the record brought in line with them.
    pub fn changes(&mut self) -> Vec<RowChange> {
        let before = self.rows_inventory();
        let (mut inventory, mut changes) = (before, Vec::new());
        let to = (&mut inventory, &mut changes);
        self.activities.rows_mut().changes(RowKind::Activity, to.0, to.1);
        self.timers.changes(RowKind::Timer, to.0, to.1);
        self.buffered.changes(RowKind::Buffered, to.0, to.1);
        self.updates.changes(RowKind::Update, to.0, to.1);
        self.completed_updates
            .changes(RowKind::CompletedUpdate, to.0, to.1);
        self.request_ids
            .rows_mut()
            .changes(RowKind::RequestId, to.0, to.1);
        if inventory != before {
            (self.rows, self.rows_sum) = (inventory.count, inventory.sum);
        }
        changes
    }

    /// What was touched is stored.
    pub fn settle(&mut self) {
        self.activities.rows_mut().settle();
        self.timers.settle();
        self.buffered.settle();
        self.updates.settle();
        self.completed_updates.settle();
        self.request_ids.rows_mut().settle();
    }

    /// Takes a row in as it was read: the byte of its kind, its key, its value. Gives its hash.
    pub fn load_row(&mut self, kind: u8, key: &[u8], value: &[u8]) -> Result<u64, String> {
        const UNKNOWN: &str = "its kind is unknown";
        let kinds = [
            RowKind::Activity,
            RowKind::Timer,
            RowKind::Buffered,
            RowKind::Update,
            RowKind::CompletedUpdate,
            RowKind::RequestId,
        ];
        match kinds.into_iter().find(|it| *it as u8 == kind).ok_or(UNKNOWN)? {
            RowKind::Activity => self.activities.load(key, value),
            RowKind::Timer => self.timers.load(RowKind::Timer, key, value),
            RowKind::Buffered => self.buffered.load(RowKind::Buffered, key, value),
            RowKind::Update => self.updates.load(RowKind::Update, key, value),
            RowKind::CompletedUpdate => self.completed_updates.load(RowKind::CompletedUpdate, key, value),
            RowKind::RequestId => self.request_ids.load(key, value),
        }
    }

    /// The rows that its record counts.
    pub fn rows_inventory(&self) -> Inventory {
        Inventory {
            count: self.rows,
            sum: self.rows_sum,
        }
    }
}

/// What a run has one of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RunRecord {
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
    /// The run before this one, if it was continued as new.
    #[prost(string, tag = "28")]
    pub continued_run_id: String,
    /// The attempt of the next workflow task: 1, or more after failures in a row.
    #[prost(int32, tag = "29")]
    pub workflow_task_attempt: i32,
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
    /// The first workflow task that each build of a worker has completed, in this run and those before it.
    #[prost(message, repeated, tag = "40")]
    pub reset_points: Vec<ResetPointInfo>,
    /// The run that follows this one, once it is closed.
    #[prost(string, tag = "41")]
    pub successor_run_id: String,
    /// Of the closed runs before this one in its chain that are kept: the oldest, how many, and the bytes of their histories.
    #[prost(string, tag = "42")]
    pub oldest_kept_run_id: String,
    #[prost(int64, tag = "43")]
    pub kept_runs: i64,
    #[prost(int64, tag = "44")]
    pub kept_bytes: i64,
    /// How many rows are stored, and the sum of their hashes: the proof that none is missing.
    #[prost(uint64, tag = "64")]
    pub rows: u64,
    #[prost(fixed64, tag = "65")]
    pub rows_sum: u64,
}

/// What was rows from the second format of the journal on: fields of the run's record in the first. Their tags are not
/// used again there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FormerFields {
    #[prost(message, repeated, tag = "16")]
    pub activities: Vec<ActivityState>,
    #[prost(message, repeated, tag = "17")]
    pub timers: Vec<TimerState>,
    #[prost(message, repeated, tag = "18")]
    pub buffered: Vec<HistoryEvent>,
    #[prost(message, repeated, tag = "19")]
    pub updates: Vec<UpdateState>,
    #[prost(string, repeated, tag = "27")]
    pub request_ids: Vec<String>,
    #[prost(message, repeated, tag = "30")]
    pub completed_updates: Vec<UpdateState>,
}

impl FormerFields {
    /// Makes them rows of their run.
    pub fn bring_over(self, run: &mut RunState) {
        let by_id = |it: UpdateState| (it.update_id.clone(), it);
        self.activities
            .into_iter()
            .for_each(|it| run.activities.insert(it));
        for it in self.timers {
            run.timers.insert(it.timer_id.clone(), it);
        }
        self.buffered.into_iter().for_each(|it| run.buffered.push(it));
        for (id, it) in self.updates.into_iter().map(by_id) {
            run.updates.insert(id, it);
        }
        for (id, it) in self.completed_updates.into_iter().map(by_id) {
            run.completed_updates.insert(id, it);
        }
        for id in self.request_ids {
            run.request_ids.insert(id);
        }
    }
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
    /// How the worker that has it asked for it.
    #[prost(enumeration = "Caller", tag = "10")]
    pub caller: i32,
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
    /// The build of the worker that has it.
    #[prost(message, optional, tag = "17")]
    pub worker_version: Option<WorkerVersionStamp>,
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
    /// How the worker that has it asked for it.
    #[prost(enumeration = "Caller", tag = "14")]
    pub caller: i32,
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
    /// The build of the worker that has it.
    #[prost(message, optional, tag = "22")]
    pub worker_version: Option<WorkerVersionStamp>,
}

/// Names a signal or a cancel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestId {
    #[prost(string, tag = "1")]
    pub id: String,
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
