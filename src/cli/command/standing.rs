//! How a job stands: one function decides its state, from what its workflow says, what is pending and whether a worker lives.
//! Whoever shows a job (status, list, the bar, lines of JSON) shows what is decided here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use temporalio_client::WorkflowExecutionStatus;
use temporalio_protos::temporal::api::enums::v1::PendingActivityState;
use temporalio_protos::temporal::api::workflow::v1::PendingActivityInfo;

use super::jobs::{Workers, innermost, rfc3339, time};
use crate::job::status::{JobState, PendingActivity, Retrying, Wait};
use crate::worker::{Beat, Failure, INTERRUPTED, PAUSED};
use crate::workflow::{Moved, Phase, Progress};

/// A step that takes longer than this is waited for. The first heartbeat comes after a second.
const STEP_TAKES_MS: u64 = 3000;

/// The activities that move rows.
const MOVERS: [&str; 2] = ["copy_batch", "verify_range"];

/// An activity that is out, or waits for its next attempt.
#[derive(Debug, Clone, Default)]
struct Pending {
    activity: String,
    attempt: u32,
    started: Option<SystemTime>,
    next_attempt: Option<SystemTime>,
    /// Why the last attempt failed; `None` where none has, or its process was interrupted.
    failure: Option<Failure>,
    /// When it was seen to fail by the process that runs it; `None` where only one has seen it that is dead.
    failing_since: Option<SystemTime>,
    /// What the attempt that runs has said last.
    beat: Option<Beat>,
}

impl Pending {
    fn of(info: &PendingActivityInfo, workers: &Workers) -> Self {
        let attempt = info.attempt.unsigned_abs();
        let beat = info.heartbeat_details.as_ref();
        let beat = beat.and_then(|details| details.payloads.first());
        let beat = beat.and_then(|payload| serde_json::from_slice::<Beat>(&payload.data).ok());
        let started = time(info.last_started_time);
        let scheduled = time(info.scheduled_time);
        // A cluster tells when the next attempt begins until then; which one has begun, until it ends.
        let is_due = attempt > 1 && info.state == PendingActivityState::Scheduled as i32;
        let next_attempt = time(info.next_attempt_schedule_time).or(scheduled.filter(|_| is_due));
        let failure = info.last_failure.as_ref().map(innermost);
        let failure = failure.filter(|failure| failure.kind != INTERRUPTED);
        let failing_since = failure.as_ref().and_then(|failure| {
            let noted = failure.since_ms.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
            match failure.process {
                Some(process) if !workers.have(process) => None,
                _ => noted.or(scheduled),
            }
        });
        Self {
            activity: info.activity_type.clone().unwrap_or_default().name,
            attempt,
            started,
            next_attempt,
            failure,
            failing_since,
            beat: beat.filter(|beat| beat.attempt == attempt && started.is_some()),
        }
    }

    /// Whether its last attempt failed, and the one that runs, if any, has not moved a row yet.
    fn is_failing(&self) -> bool {
        self.failure.is_some() && self.beat.as_ref().is_none_or(|beat| beat.rows == 0)
    }

    /// Whether an attempt of it works: what waits for its next one, or for the end of a pause, has nothing in flight.
    fn is_out(&self) -> bool {
        let is_held = self.beat.as_ref().is_some_and(|beat| beat.step == PAUSED);
        self.next_attempt.is_none() && !is_held
    }

    /// As a status shows it.
    fn shown(&self) -> PendingActivity {
        PendingActivity {
            activity_type: self.activity.clone(),
            attempt: self.attempt,
            last_failure: self.failure.as_ref().map(ToString::to_string),
            next_attempt_at: self.next_attempt.map(rfc3339),
            failing_since: self.failing_since.map(rfc3339),
        }
    }

    /// What the attempt that runs has moved so far.
    fn moved(&self) -> Option<Moved> {
        let beat = self.beat.as_ref().filter(|beat| beat.rows > 0)?;
        Some(Moved {
            began_ms: ms(self.started?),
            ended_ms: beat.moved_ms,
            rows: beat.rows,
            bytes: beat.bytes,
        })
    }
}

/// All that follows from what a workflow says, what is pending and who runs it.
#[derive(Debug)]
pub struct Standing {
    pub state: JobState,
    pub draining: u32,
    pub retrying: Option<Retrying>,
    pub waiting_for: Option<Wait>,
    /// Rows and wire bytes.
    pub in_flight: (u64, u64),
    /// Rows and wire bytes a second.
    pub speed: Option<(f64, f64)>,
    pub pending: Vec<PendingActivity>,
}

impl Standing {
    pub fn of(
        status: WorkflowExecutionStatus,
        progress: Option<&Progress>,
        pending: &[PendingActivityInfo],
        workers: &Workers,
    ) -> Self {
        let pending: Vec<_> = pending.iter().map(|info| Pending::of(info, workers)).collect();
        Self::at(status, progress, &pending, workers.are_some(), SystemTime::now())
    }

    fn at(
        status: WorkflowExecutionStatus,
        progress: Option<&Progress>,
        pending: &[Pending],
        runs: bool,
        now: SystemTime,
    ) -> Self {
        let state = decide(status, progress, pending, runs);
        // A cluster goes on telling what was pending when a run was ended from outside.
        let pending = if state.is_open() { pending } else { &[] };
        let is_running = state == JobState::Running;
        let waiting_for = waiting_for(progress, pending, now).filter(|_| is_running);
        let moves = waiting_for.is_none();
        let (is_pausing, is_retrying) = (state == JobState::Pausing, state == JobState::Retrying);
        Self {
            state,
            draining: if is_pausing {
                draining(progress, pending)
            } else {
                0
            },
            retrying: retrying(pending, now).filter(|_| is_pausing || is_retrying),
            waiting_for,
            // What a process had in flight was rolled back when it ended.
            in_flight: if runs { in_flight(pending) } else { (0, 0) },
            speed: speed(state, progress, pending, now).filter(|_| moves),
            pending: pending.iter().map(Pending::shown).collect(),
        }
    }
}

/// How a job stands.
///
/// `progress` is what its workflow answers, if it does; `runs`: whether a live process runs it.
fn decide(
    status: WorkflowExecutionStatus,
    progress: Option<&Progress>,
    pending: &[Pending],
    runs: bool,
) -> JobState {
    match status {
        WorkflowExecutionStatus::Completed => return JobState::Completed,
        WorkflowExecutionStatus::Failed | WorkflowExecutionStatus::TimedOut => return JobState::Failed,
        WorkflowExecutionStatus::Canceled => return JobState::Canceled,
        WorkflowExecutionStatus::Terminated => return JobState::Terminated,
        _ => {}
    }
    let is_paused = progress.is_some_and(|progress| progress.paused);
    if is_paused {
        // What nobody runs has nothing in flight: it was rolled back.
        let drains = runs && draining(progress, pending) > 0;
        return if drains {
            JobState::Pausing
        } else {
            JobState::Paused
        };
    }
    if !runs {
        JobState::Interrupted
    } else if pending.iter().any(Pending::is_failing) {
        JobState::Retrying
    } else if progress.is_some_and(|progress| progress.phase == Phase::Sleeping) {
        JobState::Sleeping
    } else {
        JobState::Running
    }
}

/// What is in flight: batches, else whatever else is.
fn draining(progress: Option<&Progress>, pending: &[Pending]) -> u32 {
    let out = || pending.iter().filter(|it| it.is_out());
    let movers = out().filter(|it| MOVERS.contains(&it.activity.as_str()));
    let in_flight = progress.map_or(0, |progress| progress.in_flight);
    // The two were asked one after the other: a batch that is in one of them only has just ended, or will be told next.
    match in_flight.min(u32::try_from(movers.count()).unwrap_or(u32::MAX)) {
        0 => u32::try_from(out().count()).unwrap_or(u32::MAX),
        batches => batches,
    }
}

/// What fails and is tried again: of several activities the one that fails longest.
fn retrying(pending: &[Pending], now: SystemTime) -> Option<Retrying> {
    let since = |it: &Pending| it.failing_since.unwrap_or(now);
    let failing = pending.iter().filter(|it| it.is_failing());
    let it = failing.min_by_key(|it| (since(it), std::cmp::Reverse(it.attempt)))?;
    let failure = it.failure.as_ref()?;
    Some(Retrying {
        activity: it.activity.clone(),
        side: failure.side.clone(),
        unreachable: failure.kind == "Unreachable",
        since: rfc3339(since(it)),
        attempt: it.attempt,
        next_attempt_at: it.next_attempt.map(rfc3339),
        last_failure: failure.to_string(),
    })
}

/// The step that takes longest, unless rows move.
fn waiting_for(progress: Option<&Progress>, pending: &[Pending], now: SystemTime) -> Option<Wait> {
    let now_ms = ms(now);
    let stands = |since_ms: u64| now_ms.saturating_sub(since_ms) >= STEP_TAKES_MS;
    let wait = |what: String, since_ms: u64| Wait {
        what,
        since: rfc3339(UNIX_EPOCH + Duration::from_millis(since_ms)),
    };
    let beats = || {
        pending
            .iter()
            .filter_map(|it| it.beat.as_ref().map(|beat| (it, beat)))
    };
    if beats().any(|(_, beat)| beat.rows > 0 && !stands(beat.moved_ms)) {
        return None;
    }
    // Batches that come back all the time are too short for a heartbeat.
    let came_back = progress.and_then(|progress| progress.pace.moved.back());
    if came_back.is_some_and(|moved| !stands(moved.ended_ms)) {
        return None;
    }
    let since_ms = |beat: &Beat| beat.since_ms.max(beat.moved_ms);
    let standing = beats().filter(|(_, beat)| stands(since_ms(beat)) && !beat.step.is_empty());
    let (it, beat) = standing.min_by_key(|(_, beat)| since_ms(beat))?;
    let moves_rows = MOVERS.contains(&it.activity.as_str()) && !beat.step.starts_with("connecting");
    let step = &beat.step;
    let what = match (moves_rows, beat.moved_ms, beat.silent.as_str()) {
        (true, 0, "source") => format!("{step}: the source has sent no row yet (a lock, or a slow query)"),
        (true, _, "source") => format!("{step}: the source has sent nothing"),
        (true, _, "target") => format!("{step}: the target has not answered (a lock, or slow triggers)"),
        (true, 0, _) => format!("{step}: no row yet (a lock, or a slow query)"),
        (true, ..) => format!("{step}: no row moves"),
        (false, _, "source" | "target") if !step.contains(&beat.silent) => {
            format!("{step}: the {} has not answered", beat.silent)
        }
        (false, ..) => step.clone(),
    };
    Some(wait(what, since_ms(beat)))
}

/// Rows and wire bytes of the attempts that run.
fn in_flight(pending: &[Pending]) -> (u64, u64) {
    let moved = pending.iter().filter_map(Pending::moved);
    moved.fold((0, 0), |sum, moved| (sum.0 + moved.rows, sum.1 + moved.bytes))
}

/// Rows and bytes a second, over the last seconds; `None` while nothing moves.
fn speed(
    state: JobState,
    progress: Option<&Progress>,
    pending: &[Pending],
    now: SystemTime,
) -> Option<(f64, f64)> {
    let moved: Vec<_> = pending.iter().filter_map(Pending::moved).collect();
    let progress = progress.filter(|_| state == JobState::Running)?;
    progress.pace.speed(&moved, ms(now))
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use temporalio_protos::temporal::api::common::v1::{Payload, Payloads};
    use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
    use temporalio_protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure as FailureProto};

    use super::*;
    use crate::table::Tally;

    const RUNS: bool = true;
    const OPEN: WorkflowExecutionStatus = WorkflowExecutionStatus::Running;

    fn progress(phase: Phase, paused: bool, in_flight: u32) -> Progress {
        let table = serde_json::json!({"name": "a"});
        let spec = serde_json::from_value(serde_json::json!({
            "name": "a", "kind": "migrate", "source": "host=a", "target": "host=b", "source_table": table,
            "target_table": table, "tuning": {"concurrency": 4},
        }));
        let spec = spec.expect("what has to be given");
        Progress {
            phase,
            paused,
            in_flight,
            ..Progress::of_result(spec, Tally::default())
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn batch() -> Pending {
        Pending {
            activity: "copy_batch".to_owned(),
            attempt: 1,
            started: Some(at(100)),
            ..Pending::default()
        }
    }

    fn failing(since: u64, attempt: u32) -> Pending {
        Pending {
            attempt,
            started: None,
            next_attempt: Some(at(200)),
            failure: Some(Failure {
                side: "target".to_owned(),
                kind: "Unreachable".to_owned(),
                message: "connection refused".to_owned(),
                hint: String::new(),
                prepare_again: false,
                since_ms: Some(since * 1000),
                process: Some(7),
            }),
            failing_since: Some(at(since)),
            ..batch()
        }
    }

    fn beating(attempt: u32, step: &str, since: u64, rows: u64, moved: u64) -> Option<Beat> {
        Some(Beat {
            attempt,
            step: step.to_owned(),
            since_ms: since * 1000,
            rows,
            bytes: rows * 100,
            moved_ms: moved * 1000,
            silent: String::new(),
        })
    }

    #[test]
    fn the_state_follows_from_the_workflow_what_is_pending_and_who_runs_it() {
        let copying = progress(Phase::Copying, false, 1);
        let pausing = progress(Phase::Copying, true, 2);
        let paused = progress(Phase::Copying, true, 0);
        let sleeping = progress(Phase::Sleeping, false, 0);
        let moving_again = Pending {
            started: Some(at(150)),
            next_attempt: None,
            beat: beating(3, "copying batch 1", 150, 10, 151),
            ..failing(110, 3)
        };
        let trying_again = Pending {
            beat: beating(3, "connecting to the target", 150, 0, 0),
            ..moving_again.clone()
        };
        let held = Pending {
            attempt: 2,
            beat: beating(2, PAUSED, 150, 0, 0),
            ..batch()
        };
        let two = [batch(), batch()];
        for (progress, pending, runs, state) in [
            (Some(&copying), &two[..1], RUNS, JobState::Running),
            (Some(&copying), &two[..1], !RUNS, JobState::Interrupted),
            (None, &[], RUNS, JobState::Running),
            (None, &[], !RUNS, JobState::Interrupted),
            (Some(&pausing), &two, RUNS, JobState::Pausing),
            (Some(&pausing), &two, !RUNS, JobState::Paused),
            (Some(&paused), &[], RUNS, JobState::Paused),
            (Some(&paused), &two[..1], RUNS, JobState::Pausing),
            (Some(&pausing), &[failing(110, 3)], RUNS, JobState::Paused),
            (
                Some(&pausing),
                &[failing(110, 3), held.clone()],
                RUNS,
                JobState::Paused,
            ),
            (Some(&pausing), &[held, batch()], RUNS, JobState::Pausing),
            (Some(&sleeping), &[], RUNS, JobState::Sleeping),
            (Some(&sleeping), &[], !RUNS, JobState::Interrupted),
            (
                Some(&copying),
                &[batch(), failing(110, 3)],
                RUNS,
                JobState::Retrying,
            ),
            (Some(&copying), &[failing(110, 3)], !RUNS, JobState::Interrupted),
            (Some(&copying), &[trying_again], RUNS, JobState::Retrying),
            (Some(&copying), &[moving_again], RUNS, JobState::Running),
        ] {
            assert_eq!(
                decide(OPEN, progress, pending, runs),
                state,
                "{progress:?} {pending:?} {runs}"
            );
        }
        for (status, state) in [
            (WorkflowExecutionStatus::Completed, JobState::Completed),
            (WorkflowExecutionStatus::Failed, JobState::Failed),
            (WorkflowExecutionStatus::Canceled, JobState::Canceled),
            (WorkflowExecutionStatus::Terminated, JobState::Terminated),
        ] {
            assert_eq!(decide(status, Some(&pausing), &two, RUNS), state);
        }
    }

    #[test]
    fn of_a_run_that_has_ended_nothing_is_pending() {
        let copying = progress(Phase::Copying, false, 1);
        let moving = Pending {
            beat: beating(1, "copying batch 7", 100, 1000, 110),
            ..batch()
        };
        let pending = [failing(110, 2), moving];
        let stands = |status| Standing::at(status, Some(&copying), &pending, RUNS, at(130));
        assert_eq!(stands(OPEN).pending.len(), 2);
        for status in [
            WorkflowExecutionStatus::Completed,
            WorkflowExecutionStatus::Failed,
            WorkflowExecutionStatus::Canceled,
            WorkflowExecutionStatus::Terminated,
        ] {
            let stands = stands(status);
            assert!(
                stands.pending.is_empty() && stands.retrying.is_none(),
                "{stands:?}"
            );
            assert_eq!(stands.in_flight, (0, 0));
        }
    }

    #[test]
    fn what_drains_is_counted_in_batches_where_there_are_any() {
        let looking = Pending {
            activity: "next_batch".to_owned(),
            ..batch()
        };
        let pausing = progress(Phase::Copying, true, 2);
        assert_eq!(draining(Some(&pausing), &[batch(), looking.clone(), batch()]), 2);
        let pausing = progress(Phase::Copying, true, 0);
        assert_eq!(draining(Some(&pausing), &[looking]), 1);
        assert_eq!(draining(Some(&pausing), &[]), 0);
    }

    #[test]
    fn of_several_failures_the_longest_is_told() {
        let told = retrying(&[failing(120, 3), batch(), failing(110, 6)], at(130)).expect("two fail");
        assert_eq!(
            (told.attempt, told.unreachable, told.side.as_str()),
            (6, true, "target")
        );
        assert_eq!(told.since, "1970-01-01T00:01:50.000Z");
        assert_eq!(told.next_attempt_at.as_deref(), Some("1970-01-01T00:03:20.000Z"));
        assert_eq!(retrying(&[batch()], at(130)), None);
    }

    /// As the service tells of a failure that process 7 has seen since second 110.
    fn told(kind: &str) -> PendingActivityInfo {
        let failure = Failure {
            kind: kind.to_owned(),
            ..failing(110, 2).failure.expect("it fails")
        };
        let payload = Payload {
            data: serde_json::to_vec(&failure).expect("plain data"),
            ..Payload::default()
        };
        let details = ApplicationFailureInfo {
            details: Some(Payloads {
                payloads: vec![payload],
            }),
            ..ApplicationFailureInfo::default()
        };
        PendingActivityInfo {
            attempt: 2,
            last_failure: Some(FailureProto {
                failure_info: Some(FailureInfo::ApplicationFailureInfo(details)),
                ..FailureProto::default()
            }),
            ..PendingActivityInfo::default()
        }
    }

    #[test]
    fn an_attempt_that_ended_with_its_process_has_not_failed() {
        let pending = |kind: &str| Pending::of(&told(kind), &Workers::Process(7));
        assert!(pending("Transient").is_failing());
        assert!(!pending(INTERRUPTED).is_failing());
        assert_eq!(pending(INTERRUPTED).shown().last_failure, None);
    }

    #[test]
    fn an_attempt_that_no_worker_has_begun_is_due_and_not_under_way() {
        let seen = |state: PendingActivityState| {
            let due = Some(at(95).into());
            let info = PendingActivityInfo {
                state: state as i32,
                scheduled_time: due,
                ..told("Transient")
            };
            Pending::of(&info, &Workers::Process(7))
        };
        let due = seen(PendingActivityState::Scheduled);
        assert_eq!((due.next_attempt, due.is_out()), (Some(at(95)), false));
        let begun = seen(PendingActivityState::Started);
        assert_eq!((begun.next_attempt, begun.is_out()), (None, true));
    }

    #[test]
    fn a_job_fails_for_no_longer_than_its_process_has_seen_it() {
        let told = told("Unreachable");
        let since = |workers: Workers| Pending::of(&told, &workers).failing_since;
        assert_eq!(since(Workers::Process(7)), Some(at(110)));
        assert_eq!(
            (since(Workers::Process(8)), since(Workers::None)),
            (None, None),
            "process 7 is dead"
        );
        let retrying = retrying(&[Pending::of(&told, &Workers::Process(8))], at(150)).expect("it fails");
        assert_eq!(retrying.since, "1970-01-01T00:02:30.000Z");
    }

    #[test]
    fn a_wait_names_the_side_that_is_silent() {
        let what = |moved, silent: &str, activity: &str, step: &str| {
            let mut beat = beating(1, step, 100, moved, moved).expect("a beat");
            beat.silent = silent.to_owned();
            let pending = Pending {
                activity: activity.to_owned(),
                beat: Some(beat),
                ..batch()
            };
            waiting_for(None, &[pending], at(150)).expect("it waits").what
        };
        let copying = |moved, silent| what(moved, silent, "copy_batch", "copying batch 7");
        assert_eq!(
            copying(110, "source"),
            "copying batch 7: the source has sent nothing"
        );
        assert_eq!(
            copying(0, "source"),
            "copying batch 7: the source has sent no row yet (a lock, or a slow query)"
        );
        assert_eq!(
            copying(110, "target"),
            "copying batch 7: the target has not answered (a lock, or slow triggers)"
        );
        let looking = "finding where the next batch ends";
        assert_eq!(
            what(0, "source", "next_batch", looking),
            format!("{looking}: the source has not answered")
        );
        let connecting = "connecting to the source";
        assert_eq!(what(0, "source", "next_batch", connecting), connecting);
    }

    #[test]
    fn a_step_that_takes_its_time_is_told_and_one_beside_rows_that_move_is_not() {
        let with = |beat| Pending { beat, ..batch() };
        let connecting = with(beating(1, "connecting to the target", 100, 0, 0));
        let wait =
            |pending: &[Pending], now| waiting_for(None, pending, at(now)).map(|it| (it.what, it.since));
        assert_eq!(
            wait(std::slice::from_ref(&connecting), 102),
            None,
            "it has just begun"
        );
        let told = wait(std::slice::from_ref(&connecting), 110).expect("it takes its time");
        assert_eq!(
            told,
            (
                "connecting to the target".to_owned(),
                "1970-01-01T00:01:40.000Z".to_owned()
            )
        );
        let locked = with(beating(1, "copying batch 7", 100, 0, 0));
        let told = wait(std::slice::from_ref(&locked), 110).expect("no row moves");
        assert_eq!(told.0, "copying batch 7: no row yet (a lock, or a slow query)");
        let copying = with(beating(1, "copying batch 7", 100, 10, 109));
        assert_eq!(wait(&[connecting, copying.clone()], 110), None, "rows move");
        let told = wait(&[copying], 140).expect("no row moves");
        assert_eq!(told.0, "copying batch 7: no row moves");
        assert_eq!(told.1, "1970-01-01T00:01:49.000Z");
    }

    #[test]
    fn what_waits_has_no_speed_though_rows_moved_a_few_seconds_ago() {
        let mut copying = progress(Phase::Copying, false, 1);
        copying.pace.since_ms = 90_000;
        copying.pace.moved.push_back(Moved {
            began_ms: 95_000,
            ended_ms: 100_000,
            rows: 500,
            bytes: 50_000,
        });
        let locked = Pending {
            beat: beating(1, "copying batch 7", 100, 0, 0),
            ..batch()
        };
        let stands = |seconds| {
            Standing::at(
                OPEN,
                Some(&copying),
                std::slice::from_ref(&locked),
                RUNS,
                at(seconds),
            )
        };
        assert!(stands(102).speed.is_some() && stands(102).waiting_for.is_none());
        assert!(stands(104).speed.is_none() && stands(104).waiting_for.is_some());
    }

    #[test]
    fn only_a_job_that_runs_has_a_speed_and_batches_in_flight_count() {
        let mut running = progress(Phase::Copying, false, 1);
        running.pace.since_ms = 100_000;
        let moving = Pending {
            beat: beating(1, "copying batch 7", 100, 1000, 110),
            ..batch()
        };
        let pending = [moving];
        let speed = |state, now| speed(state, Some(&running), &pending, at(now));
        assert_eq!(speed(JobState::Running, 110), Some((100.0, 10_000.0)));
        assert_eq!(speed(JobState::Running, 130), None, "nothing has moved lately");
        assert_eq!(speed(JobState::Retrying, 110), None);
        assert_eq!(in_flight(&pending), (1000, 100_000));
    }
}
