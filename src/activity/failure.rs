//! What of an error crosses the journal: side, kind, text and hint, as a replay will return it. Also the one retry policy
//! of all activities, and which errors end it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use temporalio_sdk::ApplicationFailure;
use temporalio_sdk::activities::ActivityError;
use temporalio_workflow::common::error::IncomingError;
use temporalio_workflow::{ActivityCancellationType, ActivityExecutionError, ActivityOptions, RetryPolicy};

use super::attempts::Verdict;
use crate::postgres::{Error, Kind, Retry, Side};

/// The first pause after an error that passes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause: whoever mended the cause does not want to wait longer, and a try costs next to nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A worker that is silent for so long is taken for dead.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);

/// An activity's error in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `source`, `target` or `job`.
    pub side: String,
    /// The name of its kind, `TypeMismatch` for one.
    pub kind: String,
    /// The error and its causes, in one line. No row value, password or connection string is in it.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// No attempt can mend it, but preparing the table again may. Decided from the kind, and journaled with it: what a
    /// replay does must not change with what a later version thinks of that kind.
    #[serde(default)]
    pub prepare_again: bool,
    /// When the first of a row of failed attempts failed, in milliseconds of Unix time, as far as this worker has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The process that has seen it: what another one noted says nothing of the time in which neither lived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
}

/// The kind of an attempt that ended with its process: nothing is wrong.
pub const INTERRUPTED: &str = "Interrupted";

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// An error of PostgreSQL's.
    pub fn of(error: &Error) -> Self {
        Self {
            side: if error.side() == Side::Source {
                "source"
            } else {
                "target"
            }
            .to_owned(),
            kind: format!("{:?}", error.kind()),
            message: error.chain(),
            hint: error.hint().to_owned(),
            prepare_again: error.retry() == Retry::Again,
            since_ms: None,
            process: None,
        }
    }

    /// The process ends, and the next one goes on with what it had begun.
    #[must_use]
    pub fn interrupted() -> Self {
        Self {
            side: "job".to_owned(),
            kind: INTERRUPTED.to_owned(),
            message: "the process was interrupted".to_owned(),
            hint: "run the same command again".to_owned(),
            prepare_again: false,
            since_ms: None,
            process: None,
        }
    }

    /// Whether the table is to be prepared again: it was changed, or the target has lost what it had confirmed.
    #[must_use]
    pub fn asks_to_prepare_again(&self) -> bool {
        self.prepare_again
    }

    /// What an activity failed with; `None` where it did not fail by an error of ours, but timed out or was canceled.
    #[must_use]
    pub fn in_error(error: &ActivityExecutionError) -> Option<Self> {
        match error.reason() {
            Some(IncomingError::Application(failure)) => failure.details().ok().flatten(),
            _ => None,
        }
    }
}

/// What an activity answers with an error: another attempt, unless the verdict is that it was the last one.
///
/// `since` is when the first of a row of failed attempts failed.
pub(super) fn refuse(error: &Error, since: SystemTime, verdict: Verdict) -> ActivityError {
    let failure = judged(error, since, verdict);
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(failure.kind.clone())
        .non_retryable(verdict != Verdict::Again)
        .details(failure)
        .build();
    ActivityError::application(answer)
}

fn judged(error: &Error, since: SystemTime, verdict: Verdict) -> Failure {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut failure = Failure {
        since_ms: u64::try_from(since.as_millis()).ok(),
        process: Some(std::process::id()),
        ..Failure::of(error)
    };
    if let Verdict::GivenUp(waited) = verdict {
        let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
        failure.message = format!("given up after {waited} of trying again: {}", failure.message);
        if error.kind() == Kind::Transient {
            // No next attempt comes; how the job goes on is said of any that failed.
            failure.hint.clear();
        }
    }
    failure
}

/// An attempt that ended because this process is asked to end: the next process goes on with it, at once.
pub(super) fn interrupted() -> ActivityError {
    let failure = Failure::interrupted();
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(failure.kind.clone())
        .next_retry_delay(Duration::from_millis(1))
        .details(failure)
        .build();
    ActivityError::application(answer)
}

/// An attempt for a workflow that is somebody else's: no other attempt can do better.
pub(super) fn foreign() -> ActivityError {
    of_the_job("Foreign", "its workflow is no job of longhaul's", true)
}

/// An attempt that is given back, since nobody answers for its workflow.
pub(super) fn unanswered() -> ActivityError {
    of_the_job(
        "Unanswered",
        "its workflow does not answer, and so may not be known to be paused",
        false,
    )
}

fn of_the_job(kind: &str, message: &str, is_final: bool) -> ActivityError {
    let failure = Failure {
        kind: kind.to_owned(),
        message: message.to_owned(),
        hint: String::new(),
        ..Failure::interrupted()
    };
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(failure.kind.clone())
        .non_retryable(is_final)
        .details(failure)
        .build();
    ActivityError::application(answer)
}

/// How the workflow runs every activity: no limit on attempts, since an outage may last; what cannot pass is not retried.
pub(super) fn options(start_to_close: Duration) -> ActivityOptions {
    let retry = RetryPolicy::builder()
        .initial_interval(FIRST_PAUSE)
        .backoff_coefficient(2.0)
        .maximum_interval(LONGEST_PAUSE)
        .maximum_attempts(0)
        .build();
    ActivityOptions::with_start_to_close_timeout(start_to_close)
        .heartbeat_timeout(HEARTBEAT_TIMEOUT)
        .cancellation_type(ActivityCancellationType::WaitCancellationCompleted)
        .retry_policy(retry)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: Kind) -> Error {
        Error::new(Side::Target, kind, "something is wrong")
    }

    #[test]
    fn the_kind_alone_says_whether_to_prepare_again() {
        for kind in [Kind::TableChanged, Kind::TargetRewound] {
            assert!(Failure::of(&error(kind)).asks_to_prepare_again(), "{kind:?}");
        }
        for kind in [Kind::Transient, Kind::Fenced, Kind::Unknown] {
            assert!(!Failure::of(&error(kind)).asks_to_prepare_again(), "{kind:?}");
        }
    }

    #[test]
    fn an_answer_is_final_where_the_verdict_is_and_says_how_long_was_waited() {
        let answer = |verdict| match refuse(&error(Kind::Transient), UNIX_EPOCH, verdict) {
            ActivityError::Application(failure) => failure,
            other => panic!("{other:?}"),
        };
        assert!(!answer(Verdict::Again).is_non_retryable());
        assert!(answer(Verdict::Final).is_non_retryable());
        let given_up = answer(Verdict::GivenUp(Duration::from_millis(3_600_700)));
        let said = given_up.to_string();
        assert!(
            given_up.is_non_retryable() && said.contains("given up after 1h of trying again: something"),
            "{said}"
        );
        let hint = |verdict| judged(&error(Kind::Transient), UNIX_EPOCH, verdict).hint;
        assert_eq!(
            hint(Verdict::GivenUp(Duration::ZERO)),
            "",
            "no attempt comes by itself"
        );
        assert_ne!(hint(Verdict::Again), "");
    }

    #[test]
    fn a_failure_of_an_earlier_version_stays_readable() {
        let frozen = r#"{"side":"target","kind":"Fenced","message":"m","hint":"h"}"#;
        let failure: Failure = serde_json::from_str(frozen).expect("the first version's form");
        assert!(!failure.asks_to_prepare_again() && failure.since_ms.is_none());
    }
}
