//! What `longhaul status --json` prints: one object a job. Its shape is a promise to scripts; fields are only ever added.

use super::Tuning;
use crate::table::{Findings, plain};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a job stands: one word, the same wherever a job is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// A live process runs it, and none of the next four is so.
    Running,
    /// Paused by the operator; something that was begun before still has to end, [`JobStatus::draining`] batches for one.
    Pausing,
    /// Paused by the operator, and nothing is in flight; an attempt that failed is not tried again. `worker_pid` says whether a live process has it.
    Paused,
    /// An attempt has failed, and the next one waits or has not moved a row yet: see [`JobStatus::retrying`].
    Retrying,
    /// A sync job between two rounds.
    Sleeping,
    /// Open, not paused, and no live process runs it: its own command or `resume` goes on with it.
    Interrupted,
    /// Ended well.
    Completed,
    /// Ended by an error that no retry can mend.
    Failed,
    /// Ended by `longhaul cancel`.
    Canceled,
    /// Ended from outside, without a word to the workflow.
    Terminated,
}

impl JobState {
    /// The state as people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Retrying => "retrying",
            Self::Sleeping => "sleeping",
            Self::Interrupted => "interrupted",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Terminated => "terminated",
        }
    }

    /// Whether the job goes on, now or when somebody runs it.
    #[must_use]
    pub fn is_open(self) -> bool {
        !matches!(
            self,
            Self::Completed | Self::Failed | Self::Canceled | Self::Terminated
        )
    }
}

/// Whether the job ends or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Copies what is there, and ends.
    Migrate,
    /// Copies what is there, then what is new, round after round.
    Sync,
    /// Holds what is on the target against receipts or source, and ends.
    Verify,
}

/// One job, as `status --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job's name.
    pub job: String,
    /// Whether it ends or goes on.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// What it is at: `preparing`, `copying`, `looking`, `concluding`, `verifying`, `sleeping`; `None` where that is not known.
    #[serde(default)]
    pub phase: Option<String>,
    /// What was begun before a pause and still has to end: batches, or one step of another kind. 0 but in PAUSING.
    #[serde(default)]
    pub draining: u32,
    /// What fails and is tried again; `None` but in RETRYING and PAUSING.
    #[serde(default)]
    pub retrying: Option<Retrying>,
    /// What takes its time, and since when; `None` while rows move.
    #[serde(default)]
    pub waiting_for: Option<Wait>,
    /// Where the rows are: the connection without its password.
    #[serde(default)]
    pub source: String,
    /// Where the rows go: the connection without its password.
    #[serde(default)]
    pub target: String,
    /// The process that runs it now, if any.
    pub worker_pid: Option<u32>,
    /// Who polls the task queue of a job on a Temporal cluster, each as `pid@host`; empty for other jobs.
    #[serde(default)]
    pub workers: Vec<String>,
    /// The task queue of a job on a Temporal cluster; `None` for other jobs.
    #[serde(default)]
    pub task_queue: Option<String>,
    /// The workflow's id in the service.
    pub workflow_id: String,
    /// The current (or last) run of that workflow.
    pub run_id: String,
    /// Events in that run's history.
    pub history_length: u64,
    /// When the job was started, RFC 3339.
    pub started_at: Option<String>,
    /// When it ended, RFC 3339.
    pub closed_at: Option<String>,
    /// When a sleeping sync job begins its next round, RFC 3339.
    pub next_run_at: Option<String>,
    /// The last error, of the job or of an attempt that is being retried.
    pub last_failure: Option<String>,
    /// Activities that are out, or wait for their next attempt.
    pub pending_activities: Vec<PendingActivity>,
    /// Who keeps a sync job's newest keys from being settled (open transactions on the source); empty otherwise.
    #[serde(default)]
    pub held_back_by: Vec<String>,
    /// How hard the job works now; `None` where the workflow does not answer.
    #[serde(default)]
    pub tuning: Option<Tuning>,
    /// The wait between two rounds of a sync, in milliseconds; `None` for other kinds.
    #[serde(default)]
    pub interval_ms: Option<u64>,
    /// Rows of the batches in flight that were sent and are not committed.
    #[serde(default)]
    pub rows_in_flight: u64,
    /// Their wire bytes.
    #[serde(default)]
    pub bytes_in_flight: u64,
    /// What a verification has found so far; `None` where nothing is verified.
    #[serde(default)]
    pub findings: Option<Findings>,
    /// The tables of the job.
    pub tables: Vec<TableStatus>,
}

impl JobStatus {
    /// The same in words that can be shown, each on one line: what a service says may come from anybody who may write there.
    /// Keys stay as they are; whoever shows one writes it out.
    #[must_use]
    pub fn plain(self) -> Self {
        const KEYS: [&str; 4] = ["cursor", "settled", "copies_up_to", "findings"];
        fn clean(value: &mut Value) {
            match value {
                Value::String(text) => *text = plain(text),
                Value::Array(values) => values.iter_mut().for_each(clean),
                Value::Object(fields) => {
                    let others = fields
                        .iter_mut()
                        .filter(|(name, _)| !KEYS.contains(&name.as_str()));
                    others.for_each(|(_, value)| clean(value));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) => {}
            }
        }
        let cleaned = serde_json::to_value(&self).and_then(|mut value| {
            clean(&mut value);
            serde_json::from_value(value)
        });
        cleaned.unwrap_or(self)
    }
}

/// What fails and is tried again: of several such activities the one that fails longest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrying {
    /// The activity's type, `copy_batch` for one.
    pub activity: String,
    /// `source`, `target`, or `job` where it is neither.
    pub side: String,
    /// Whether the server there cannot be reached at all.
    pub unreachable: bool,
    /// When its first attempt in a row failed, RFC 3339, as far as the process that runs it has seen.
    pub since: String,
    /// The attempt that runs or comes next, from 2.
    pub attempt: u32,
    /// When the next attempt begins, RFC 3339; `None` while one runs.
    pub next_attempt_at: Option<String>,
    /// Why the last attempt failed.
    pub last_failure: String,
}

/// What takes its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// What it is, in words.
    pub what: String,
    /// When it began, RFC 3339.
    pub since: String,
}

/// An activity that is out, or waits for its next attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingActivity {
    /// The activity's type, `copy_batch` for one.
    #[serde(rename = "type")]
    pub activity_type: String,
    /// The attempt that runs or comes next, from 1.
    pub attempt: u32,
    /// Why the last attempt failed.
    pub last_failure: Option<String>,
    /// When the next attempt begins, RFC 3339; `None` while one runs.
    pub next_attempt_at: Option<String>,
    /// When its first attempt in a row failed, RFC 3339, as far as the process that runs it has seen; `None` where it has not.
    #[serde(default)]
    pub failing_since: Option<String>,
}

/// One table of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// The table on the source, `schema.name`.
    pub source: String,
    /// The table on the target, `schema.name`.
    pub target: String,
    /// How the table stands; for a job of one table, as the job.
    pub state: JobState,
    /// Rows that were sent, and are on the target, committed.
    pub rows_done: u64,
    /// Those of them that were there before, and stayed as they were.
    #[serde(default)]
    pub rows_skipped: u64,
    /// Rows there are on the source, if anything is known.
    pub rows_total: Option<u64>,
    /// Whether `rows_total` comes from the catalog's statistics.
    pub rows_total_is_estimate: bool,
    /// Wire bytes copied.
    pub bytes_done: u64,
    /// Batches committed.
    pub batches_done: u64,
    /// Batches that the target had confirmed and lost again; they were copied once more, or will be.
    #[serde(default)]
    pub batches_lost: u64,
    /// The rows of those batches.
    #[serde(default)]
    pub rows_lost: u64,
    /// When the newest batch that was left then had been committed, in the target's words.
    #[serde(default)]
    pub lost_since: Option<String>,
    /// The key up to which everything that was there when it was read is on the target.
    pub cursor: Option<Vec<String>>,
    /// A sync: the key up to which no row can appear any more, so that everything up to it is on the target.
    #[serde(default)]
    pub settled: Option<Vec<String>>,
    /// The key up to which a migrate copies: the highest that was there when it began.
    #[serde(default)]
    pub copies_up_to: Option<Vec<String>>,
    /// While it looks again at what was copied before: up to where it has come; `None` at the start of the table.
    #[serde(default)]
    pub looked_up_to: Option<Vec<String>>,
    /// Where that look ends; `None` while there is none.
    #[serde(default)]
    pub looks_up_to: Option<Vec<String>>,
    /// Over the last seconds; `None` while nothing moves.
    pub rows_per_second: Option<f64>,
    /// Bytes per second over the last seconds; `None` while nothing moves.
    #[serde(default)]
    pub bytes_per_second: Option<f64>,
    /// Seconds to the end at that speed, batches in flight included; `None` where there is no speed or no total.
    pub eta_seconds: Option<u64>,
}
