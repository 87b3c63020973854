//! Retry policies, of activities and of workflows: whether there is another attempt, and after which pause.

use temporalio_protos::temporal::api::common::v1::RetryPolicy;
use temporalio_protos::temporal::api::enums::v1::{RetryState, TimeoutType};
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{Failure, TimeoutFailureInfo};

use super::super::clock::{duration, millis, span_ms};

/// In a list of errors that are not retried: before the name of a timeout.
const TIMEOUT_PREFIX: &str = "TemporalTimeout:";

/// From one attempt to the next, where a policy does not say.
const DEFAULT_INTERVAL_MS: i64 = 1000;

/// The policy that a Temporal server fills in.
pub fn with_defaults(policy: Option<RetryPolicy>) -> RetryPolicy {
    let mut policy = policy.unwrap_or_default();
    if millis(policy.initial_interval) == 0 {
        policy.initial_interval = duration(DEFAULT_INTERVAL_MS);
    }
    if policy.backoff_coefficient < 1.0 {
        policy.backoff_coefficient = 2.0;
    }
    if millis(policy.maximum_interval) == 0 {
        policy.maximum_interval = duration(millis(policy.initial_interval).saturating_mul(100));
    }
    policy
}

/// The policy of an activity, with what a server fills in, or what is wrong with it.
pub fn checked(policy: Option<RetryPolicy>) -> Result<RetryPolicy, String> {
    let policy = policy.unwrap_or_default();
    check(&policy)?;
    Ok(with_defaults(Some(policy)))
}

/// Says what is wrong with a policy, as a Temporal server would.
pub fn check(policy: &RetryPolicy) -> Result<(), String> {
    if policy.maximum_attempts == 1 {
        // It is not used.
        return Ok(());
    }
    let (initial_ms, maximum_ms) = (
        span_ms(policy.initial_interval)?,
        span_ms(policy.maximum_interval)?,
    );
    let wrong = if policy.backoff_coefficient != 0.0 && policy.backoff_coefficient.max(0.0) < 1.0 {
        "the backoff coefficient of its retry policy is less than 1"
    } else if maximum_ms > 0
        && maximum_ms
            < if initial_ms > 0 {
                initial_ms
            } else {
                DEFAULT_INTERVAL_MS
            }
    {
        "the maximum interval of its retry policy is less than the initial one"
    } else if policy.maximum_attempts < 0 {
        "the maximum of attempts of its retry policy is negative"
    } else {
        return policy
            .non_retryable_error_types
            .iter()
            .try_for_each(|it| check_timeout_name(it));
    };
    Err(wrong.to_owned())
}

fn check_timeout_name(error_type: &str) -> Result<(), String> {
    const NAMES: [&str; 4] = ["StartToClose", "ScheduleToStart", "ScheduleToClose", "Heartbeat"];
    match error_type.strip_prefix(TIMEOUT_PREFIX) {
        Some(name) if !NAMES.contains(&name) => Err(format!("its retry policy names the timeout {name}")),
        _ => Ok(()),
    }
}

/// How long to wait for the attempt after this one, which failed so, or why there is none.
pub fn pause_ms(policy: &RetryPolicy, attempt: i32, failure: &Failure) -> Result<i64, RetryState> {
    if !is_retryable(failure, &policy.non_retryable_error_types) {
        return Err(RetryState::NonRetryableFailure);
    }
    if policy.maximum_attempts > 0 && attempt >= policy.maximum_attempts {
        return Err(RetryState::MaximumAttemptsReached);
    }
    let asked_ms = match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => millis(info.next_retry_delay),
        _ => 0,
    };
    Ok(if asked_ms > 0 {
        asked_ms
    } else {
        backoff_ms(policy, attempt)
    })
}

fn is_retryable(failure: &Failure, non_retryable: &[String]) -> bool {
    match &failure.failure_info {
        Some(FailureInfo::ApplicationFailureInfo(info)) => {
            !info.non_retryable && !non_retryable.contains(&info.r#type)
        }
        Some(FailureInfo::TimeoutFailureInfo(info)) => {
            let timeout = TimeoutType::try_from(info.timeout_type).unwrap_or_default();
            matches!(timeout, TimeoutType::StartToClose | TimeoutType::Heartbeat)
                && !non_retryable.contains(&format!("{TIMEOUT_PREFIX}{timeout:?}"))
        }
        Some(FailureInfo::ServerFailureInfo(info)) => !info.non_retryable,
        Some(FailureInfo::TerminatedFailureInfo(_) | FailureInfo::CanceledFailureInfo(_)) => false,
        _ => true,
    }
}

fn backoff_ms(policy: &RetryPolicy, attempt: i32) -> i64 {
    let initial = millis(policy.initial_interval) as f64;
    let pause = initial * policy.backoff_coefficient.powi(attempt.saturating_sub(1));
    // Saturates where the power has left the range.
    pause.min(millis(policy.maximum_interval) as f64) as i64
}

/// A failure that is a timeout.
pub fn timeout_failure(message: &str, timeout: TimeoutType) -> Failure {
    Failure {
        message: message.to_owned(),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo {
            timeout_type: timeout as i32,
            last_heartbeat_details: None,
        })),
        ..Default::default()
    }
}
