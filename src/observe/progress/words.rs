//! What a job waits for, in words: the same ones in a status, beside a bar and in a line of a log.

use std::time::{Duration, SystemTime};

use crate::job::status::{JobState, JobStatus, Retrying};
use crate::observe::figures::{count, counted, span};

/// A worker that lives takes what is due within this time.
const BEGUN_WITHIN: Duration = Duration::from_secs(3);

/// The state, and for one that is at work the step that is not the usual one: `running, preparing`.
pub fn state_in_words(job: &JobStatus) -> String {
    let unusual = job
        .phase
        .as_deref()
        .filter(|phase| !["copying", "sleeping", "done"].contains(phase));
    match (job.state, unusual) {
        (JobState::Running, Some(phase)) => format!("{}, {phase}", job.state.word()),
        (state, _) => state.word().to_owned(),
    }
}

/// What the job waits for, since when, and what comes next; `None` where rows move, and where nobody runs it.
pub fn waiting_in_words(job: &JobStatus, now: SystemTime) -> Option<String> {
    let trouble = job
        .retrying
        .as_ref()
        .map(|retrying| retrying_in_words(retrying, now));
    match job.state {
        JobState::Pausing => {
            let end = if job.draining == 1 { "ends" } else { "end" };
            let draining = format!(
                "{} in flight {end} first",
                counted(job.draining.into(), in_flight(job))
            );
            Some(trouble.map_or(draining.clone(), |trouble| format!("{draining}; {trouble}")))
        }
        JobState::Paused => Some(format!("go on with: longhaul resume {}", job.job)),
        JobState::Retrying => trouble,
        JobState::Sleeping => Some(sleeping_in_words(job, now)),
        JobState::Running => {
            let wait = job.waiting_for.as_ref()?;
            Some(format!("{}, for {}", wait.what, since(&wait.since, now)))
        }
        JobState::Interrupted
        | JobState::Completed
        | JobState::Failed
        | JobState::Canceled
        | JobState::Terminated => None,
    }
}

/// What is in flight: batches, or ranges of a verification, else a step of another kind.
fn in_flight(job: &JobStatus) -> &'static str {
    let pending = &job.pending_activities;
    let is_out = |kind: &str| pending.iter().any(|it| it.activity_type == kind);
    match (is_out("copy_batch"), is_out("verify_range")) {
        (false, true) => "range",
        (false, false) if !pending.is_empty() => "step",
        _ => "batch",
    }
}

/// `target not reached for 14s, attempt 6, next in 8s: connection refused`.
pub fn retrying_in_words(retrying: &Retrying, now: SystemTime) -> String {
    let what = trouble_in_words(retrying);
    let next = match &retrying.next_attempt_at {
        Some(time) => match until(time, now) {
            Some(seconds) => format!("next in {}", span(seconds)),
            None => match overdue(time, now) {
                Some(seconds) => format!("next one waits for a worker for {}", span(seconds)),
                None => "next at once".to_owned(),
            },
        },
        None => "trying now".to_owned(),
    };
    let failure = one_line(&retrying.last_failure);
    let lasts = match since(&retrying.since, now).as_str() {
        "0s" => String::new(),
        lasts => format!(" for {lasts}"),
    };
    let attempt = count(retrying.attempt.into());
    format!("{what}{lasts}, attempt {attempt}, {next}: {failure}")
}

/// What is wrong, in two or three words: `target not reached`, `target refuses`.
pub fn trouble_in_words(retrying: &Retrying) -> String {
    match (retrying.side.as_str(), retrying.unreachable) {
        ("job", _) => format!("{} fails", retrying.activity),
        (side, true) => format!("{side} not reached"),
        (side, false) => format!("{side} in trouble"),
    }
}

fn sleeping_in_words(job: &JobStatus, now: SystemTime) -> String {
    let in_step = match job.held_back_by.is_empty() {
        true => "in step".to_owned(),
        false => "in step but for the newest keys, which are looked at again".to_owned(),
    };
    match &job.next_run_at {
        Some(time) => {
            let wait = until(time, now).map_or(String::new(), |seconds| format!(", in {}", span(seconds)));
            format!("{in_step}; looks again at {}{wait}", clock(time))
        }
        None => in_step,
    }
}

/// How long ago a time was: `14s`, `3m 05s`.
pub fn since(rfc3339: &str, now: SystemTime) -> String {
    let then = humantime::parse_rfc3339_weak(rfc3339).unwrap_or(now);
    span(now.duration_since(then).unwrap_or_default().as_secs())
}

/// Whole seconds until a time, rounded up; `None` where it has come.
fn until(rfc3339: &str, now: SystemTime) -> Option<u64> {
    let then = humantime::parse_rfc3339_weak(rfc3339).ok()?;
    let wait = then
        .duration_since(now)
        .ok()
        .filter(|wait| *wait > Duration::ZERO)?;
    Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// Whole seconds since a time at which a worker should have begun; `None` where one may still do so at once.
fn overdue(rfc3339: &str, now: SystemTime) -> Option<u64> {
    let then = humantime::parse_rfc3339_weak(rfc3339).ok()?;
    let late = now
        .duration_since(then)
        .ok()
        .filter(|late| *late >= BEGUN_WITHIN)?;
    Some(late.as_secs())
}

/// The time of day of an RFC 3339 time, `13:00:00Z`.
pub fn clock(rfc3339: &str) -> String {
    let shown = humantime::parse_rfc3339_weak(rfc3339)
        .map(|time| humantime::format_rfc3339_seconds(time).to_string());
    match shown {
        Ok(text) => text
            .split_once('T')
            .map_or(text.clone(), |(_, clock)| clock.to_owned()),
        Err(_) => rfc3339.to_owned(),
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{at, retrying, running, sleeping};
    use super::*;
    use crate::job::status::PendingActivity;

    #[test]
    fn a_retry_says_since_when_how_often_when_next_and_why() {
        let mut job = retrying();
        let words = |job: &JobStatus| waiting_in_words(job, at("2026-11-21T12:49:52.5Z"));
        assert_eq!(
            words(&job).as_deref(),
            Some(
                "target not reached for 14s, attempt 6, next in 8s: cannot connect to the target 127.0.0.1:5432: \
                 connection refused, and more"
            )
        );
        let it = job.retrying.as_mut().expect("it is retrying");
        it.next_attempt_at = Some("2026-11-21T12:49:40Z".to_owned());
        assert!(
            words(&job)
                .is_some_and(|words| words.contains("attempt 6, next one waits for a worker for 12s: ")),
            "{job:?}"
        );
        let it = job.retrying.as_mut().expect("it is retrying");
        (it.next_attempt_at, it.unreachable, it.last_failure) = (None, false, "deadlock".to_owned());
        assert_eq!(
            words(&job).as_deref(),
            Some("target in trouble for 14s, attempt 6, trying now: deadlock")
        );
        (job.state, job.draining) = (JobState::Pausing, 1);
        assert_eq!(
            words(&job).as_deref(),
            Some("1 batch in flight ends first; target in trouble for 14s, attempt 6, trying now: deadlock")
        );
        job.pending_activities = vec![PendingActivity {
            activity_type: "prepare".to_owned(),
            attempt: 6,
            last_failure: None,
            next_attempt_at: None,
            failing_since: None,
        }];
        assert_eq!(
            words(&job).as_deref(),
            Some("1 step in flight ends first; target in trouble for 14s, attempt 6, trying now: deadlock")
        );
    }

    #[test]
    fn a_sleeping_sync_says_whether_it_is_in_step_and_when_it_looks_again() {
        let mut job = sleeping();
        let words = |job: &JobStatus| waiting_in_words(job, at("2026-11-21T12:55:55Z"));
        assert_eq!(
            words(&job).as_deref(),
            Some("in step; looks again at 13:00:00Z, in 4m 05s")
        );
        job.held_back_by = vec!["process 9".to_owned()];
        assert!(
            words(&job).is_some_and(|words| words.starts_with("in step but for the newest keys")),
            "{job:?}"
        );
    }

    #[test]
    fn a_job_whose_rows_move_waits_for_nothing() {
        assert_eq!(waiting_in_words(&running(), SystemTime::UNIX_EPOCH), None);
    }
}
