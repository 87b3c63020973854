//! The state machine of one run: what an RPC or a deadline does to its state and its events.
//!
//! A [`Change`] is one transaction on one run: it works on a copy of the state and collects events; the service writes
//! both as one atomic batch, or drops them. Pure: no I/O, no locks, no time but the one given. Events, their order, ids
//! and attributes are what a Temporal server would write; an order that cannot be is a [`HistoryError`], not a panic.

mod activity;
mod chain;
mod close;
mod command;
mod deadline;
mod event;
mod payload;
mod reset_points;
mod retry;
mod rows;
mod state;
#[cfg(test)]
mod tests;
mod update;
mod workflow_task;

use temporalio_protos::temporal::api::enums::v1::WorkflowExecutionStatus;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;
use temporalio_protos::temporal::api::sdk::v1::{EventGroupMarker, UserMetadata};
use xxhash_rust::xxh3::Xxh3;

use super::Caller;
pub use activity::ActivityStart;
pub use chain::NextAttempt;
pub use close::StartRun;
pub use command::Completion;
pub use deadline::Deadline;
pub use event::is_close_event;
pub use payload::merged;
pub use retry::checked;
pub use state::{ActivityState, FormerFields, RunRecord, RunState, UpdateState, WorkflowTaskState};
pub use workflow_task::WorkflowTaskStart;

/// At so many events in a run the workflow is asked to continue as new, as Temporal's servers do.
pub const SUGGEST_CONTINUE_AS_NEW_EVENTS: i64 = 4 * 1024;
/// At so many bytes of history likewise.
pub const SUGGEST_CONTINUE_AS_NEW_BYTES: i64 = 4 << 20;
/// At so many events a run that did not is terminated.
pub const MAX_EVENTS: i64 = 51_200;
/// At so many bytes of history likewise.
pub const MAX_HISTORY_BYTES: i64 = 50 << 20;
/// No payload may be larger, as on a Temporal server.
pub const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// No id or name may be longer, as on a Temporal server.
const MAX_ID_BYTES: usize = 1000;
/// How long a closed run is kept that is not the last of its workflow.
pub const RETENTION_MS: i64 = 30 * 24 * 3600 * 1000;

/// An RPC that does not fit the state of its run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The task is no longer out: it timed out, was answered before, or its run is closed.
    #[error("{0}")]
    NotFound(&'static str),
    /// The request contradicts itself or the state of the run.
    #[error("{0}")]
    Invalid(String),
    /// The run has no room for it.
    #[error("{0}")]
    NotNow(String),
    /// The commands of a workflow task cannot be carried out: the task is failed with this cause.
    #[error("{message}")]
    BadCommand {
        /// A `WorkflowTaskFailedCause`.
        cause: i32,
        /// What is wrong.
        message: String,
    },
}

/// Whether a worker is dead, by its identity, and by how it asked for its task.
pub type IsDead<'a> = dyn Fn(&str, Caller) -> bool + 'a;

/// A task that is to be put into its queue once the change that made it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dispatch {
    /// The run's workflow task.
    WorkflowTask {
        /// Normal or sticky.
        queue: String,
    },
    /// One attempt of an activity.
    ActivityTask {
        /// The queue of the activity.
        queue: String,
        /// Which activity.
        scheduled_event_id: i64,
        /// Which attempt of it.
        attempt: i32,
    },
}

/// An event with its id given, and the bytes that stand for it in the journal and in the checksum. They are made once: its
/// maps have no order, so encoding it again may give others.
#[derive(Debug, Clone)]
pub struct Appended {
    /// What was encoded.
    pub event: HistoryEvent,
    /// To be stored as they are.
    pub bytes: Vec<u8>,
}

/// One transaction on one run.
pub struct Change {
    /// The run as it will be.
    pub state: RunState,
    /// Events to be written.
    pub events: Vec<Appended>,
    /// Tasks to be handed out.
    pub dispatch: Vec<Dispatch>,
    /// When this happens.
    pub now_ms: i64,
    /// The run that follows this one, if the change continues it as new.
    pub successor: Option<Box<Change>>,
    /// Whether the run begins with it.
    pub begins: bool,
    /// What the next attempt at the workflow would be made of, where it has a retry policy.
    pub next_attempt: Option<NextAttempt>,
    /// Updates of which clients wait to hear: id and what became of it.
    pub update_news: Vec<(String, update::UpdateNews)>,
    /// While commands are carried out, a workflow task is only noted: it comes after all of their events.
    in_commands: bool,
    wants_workflow_task: bool,
    /// What the command that is carried out belongs to, as its worker says, until its event is written.
    event_groups: Vec<EventGroupMarker>,
    /// What its worker says about it.
    user_metadata: Option<UserMetadata>,
}

pub use update::{UpdateNews, outlived};

impl Change {
    /// Begins a change of a run that is there.
    pub fn of(state: RunState, now_ms: i64) -> Self {
        let (events, dispatch) = (Vec::new(), Vec::new());
        Self {
            state,
            events,
            dispatch,
            now_ms,
            successor: None,
            begins: false,
            next_attempt: None,
            update_news: Vec::new(),
            in_commands: false,
            wants_workflow_task: false,
            event_groups: Vec::new(),
            user_metadata: None,
        }
    }

    /// Whether the run takes no more events.
    pub fn is_closed(&self) -> bool {
        self.state.is_closed()
    }
}

impl RunRecord {
    /// Whether the run takes no more events.
    pub fn is_closed(&self) -> bool {
        self.status != WorkflowExecutionStatus::Running as i32
    }

    /// The id of the last event.
    pub fn last_event_id(&self) -> i64 {
        self.next_event_id - 1
    }
}

/// What may be the id or the name of something.
pub fn check_id(what: &str, id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err(format!("{what} is not set")),
        1..=MAX_ID_BYTES => Ok(()),
        _ => Err(format!("{what} is longer than {MAX_ID_BYTES} bytes")),
    }
}

/// What may be kept of what somebody sends.
pub fn check_size(what: &str, message: &impl prost::Message) -> Result<(), String> {
    let bytes = message.encoded_len();
    if bytes <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    Err(format!("{what} has {bytes} bytes, more than {MAX_PAYLOAD_BYTES}"))
}

/// The checksum after one more event, over the bytes that are stored.
pub fn chain(checksum: u64, event: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&checksum.to_le_bytes());
    hasher.update(event);
    hasher.digest()
}
