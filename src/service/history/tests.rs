//! The state machine of a run, step by step, on a clock that the test moves.

use crate::service::Caller;
use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::command::v1::{
    CancelTimerCommandAttributes, Command, CompleteWorkflowExecutionCommandAttributes,
    RequestCancelActivityTaskCommandAttributes, ScheduleActivityTaskCommandAttributes,
    StartTimerCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{ActivityType, RetryPolicy};
use temporalio_protos::temporal::api::enums::v1::EventType::{self, *};
use temporalio_protos::temporal::api::enums::v1::RetryState;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure};
use temporalio_protos::temporal::api::history::v1::WorkflowExecutionSignaledEventAttributes;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::super::clock::duration;
use super::*;

/// A run whose changes are taken over at once.
struct Run {
    state: RunState,
    events: Vec<HistoryEvent>,
    /// What was chained so far, event by event.
    checksum: u64,
    dispatch: Vec<Dispatch>,
    now_ms: i64,
}

impl Run {
    fn started() -> Self {
        let start = StartRun {
            namespace: "default".into(),
            workflow_id: "w".into(),
            run_id: "r".into(),
            workflow_type: "T".into(),
            task_queue: "q".into(),
            ..Default::default()
        };
        let change = Change::start(start, 1000);
        let mut run = Self {
            state: RunState::default(),
            events: vec![],
            checksum: 0,
            dispatch: vec![],
            now_ms: 1000,
        };
        run.take(change);
        run
    }

    fn take(&mut self, change: Change) {
        self.state = change.state;
        for it in change.events {
            self.checksum = chain(self.checksum, &it.bytes);
            self.events.push(it.event);
        }
        self.dispatch = change.dispatch;
    }

    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Change) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        let mut draft = Change::of(self.state.clone(), self.now_ms);
        let value = change(&mut draft)?;
        self.take(draft);
        Ok(value)
    }

    fn begin_task(&mut self) -> i64 {
        let start = WorkflowTaskStart {
            identity: "w1".into(),
            request_id: "p".into(),
            worker_version: None,
            caller: Caller::Embedded,
        };
        self.change(|change| change.start_workflow_task(start))
            .expect("there is a workflow task");
        self.state
            .workflow_task
            .as_ref()
            .map_or(0, |task| task.started_event_id)
    }

    fn answer(&mut self, started_event_id: i64, commands: Vec<Do>) -> Result<(), HistoryError> {
        let command = |attributes| Command {
            attributes: Some(attributes),
            ..Default::default()
        };
        let commands = commands.into_iter().map(command).collect();
        let completion = Completion {
            commands,
            new_run_id: "r2".into(),
            ..Default::default()
        };
        let attempt = self.state.workflow_task.as_ref().map_or(0, |task| task.attempt);
        self.change(|change| change.complete_workflow_task((started_event_id, attempt), completion))
            .map(drop)
    }

    fn decide(&mut self, commands: Vec<Do>) {
        let started = self.begin_task();
        self.answer(started, commands).expect("good commands");
    }

    fn fail_task(&mut self) {
        let fail = |change: &mut Change| {
            change.fail_workflow_task(1, None, "w1");
            Ok(())
        };
        self.change(fail).expect("the task is out");
    }

    fn activity(&self) -> &ActivityState {
        self.state.activities.values().next().expect("there is one")
    }

    fn begin_activity(&mut self) -> (i64, i32) {
        let it = self.activity().clone();
        let start = ActivityStart {
            scheduled_event_id: it.scheduled_event_id,
            attempt: it.attempt,
            identity: "w1".into(),
            request_id: "p".into(),
            caller: Caller::Embedded,
        };
        self.change(|change| change.start_activity(start))
            .expect("the activity waits");
        (it.scheduled_event_id, it.attempt)
    }

    /// Lets time pass, and everything happen that is due then.
    fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
        let mut due = self.state.deadlines();
        due.sort();
        for (at_ms, deadline) in due {
            if at_ms <= self.now_ms {
                self.change(|change| {
                    change.on_deadline(&deadline);
                    Ok(())
                })
                .expect("a deadline does not fail");
            }
        }
    }

    fn types(&self) -> Vec<EventType> {
        self.events.iter().map(HistoryEvent::event_type).collect()
    }

    fn last(&self) -> &Attributes {
        self.events
            .last()
            .and_then(|event| event.attributes.as_ref())
            .expect("an event")
    }
}

fn activity() -> ScheduleActivityTaskCommandAttributes {
    ScheduleActivityTaskCommandAttributes {
        activity_id: "1".into(),
        activity_type: Some(ActivityType { name: "copy".into() }),
        start_to_close_timeout: duration(10_000),
        retry_policy: Some(RetryPolicy {
            initial_interval: duration(100),
            maximum_attempts: 3,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn schedule(it: ScheduleActivityTaskCommandAttributes) -> Do {
    Do::ScheduleActivityTaskCommandAttributes(it)
}

fn failure(non_retryable: bool) -> Failure {
    let info = ApplicationFailureInfo {
        non_retryable,
        r#type: "Odd".into(),
        ..Default::default()
    };
    Failure {
        failure_info: Some(FailureInfo::ApplicationFailureInfo(info)),
        ..Default::default()
    }
}

fn signal(request_id: &str) -> WorkflowExecutionSignaledEventAttributes {
    WorkflowExecutionSignaledEventAttributes {
        request_id: request_id.into(),
        ..Default::default()
    }
}

#[test]
fn the_ids_of_events_have_no_gap_and_the_checksum_follows_them() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    let task = run.begin_activity();
    run.change(|change| change.complete_activity(task, None, "w1".into()))
        .unwrap();
    let ids: Vec<_> = run.events.iter().map(|event| event.event_id).collect();
    assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>());
    assert_eq!(
        (run.checksum, run.state.next_event_id),
        (run.state.events_checksum, ids.len() as i64 + 1)
    );
}

#[test]
fn attempts_back_off_leave_no_event_and_end_where_the_policy_says() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    for pause in [100, 200] {
        let task = run.begin_activity();
        run.change(|change| change.fail_activity(task, failure(false), "w1".into()))
            .unwrap();
        assert!(run.dispatch.is_empty(), "not before the pause is over");
        run.pass(pause - 1);
        assert!(run.dispatch.is_empty());
        run.pass(1);
        assert_eq!(run.dispatch.len(), 1);
    }
    let task = run.begin_activity();
    assert_eq!(task.1, 3);
    run.change(|change| change.fail_activity(task, failure(false), "w1".into()))
        .unwrap();
    assert_eq!(
        run.types()[5..],
        [ActivityTaskStarted, ActivityTaskFailed, WorkflowTaskScheduled]
    );
    let Attributes::ActivityTaskFailedEventAttributes(failed) = run.events[6].attributes.clone().unwrap()
    else {
        panic!()
    };
    assert_eq!(failed.retry_state, RetryState::MaximumAttemptsReached as i32);
}

#[test]
fn an_error_that_says_so_is_not_retried() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    let task = run.begin_activity();
    run.change(|change| change.fail_activity(task, failure(true), "w1".into()))
        .unwrap();
    assert!(run.types().contains(&ActivityTaskFailed));
    assert!(
        run.change(|change| change.complete_activity(task, None, "w1".into()))
            .is_err(),
        "too late"
    );
}

#[test]
fn a_silent_activity_is_retried_and_a_heartbeat_keeps_it() {
    let mut run = Run::started();
    run.decide(vec![schedule(ScheduleActivityTaskCommandAttributes {
        heartbeat_timeout: duration(1000),
        ..activity()
    })]);
    let task = run.begin_activity();
    run.pass(900);
    run.change(|change| change.heartbeat(task, None)).unwrap();
    run.pass(900);
    assert_eq!(run.activity().attempt, 1);
    run.pass(200);
    assert_eq!(run.activity().attempt, 2);
    assert!(
        run.change(|change| change.heartbeat(task, None)).is_err(),
        "the old attempt is told"
    );
}

#[test]
fn start_to_close_is_for_one_attempt_and_schedule_to_close_for_all() {
    let mut run = Run::started();
    let it = ScheduleActivityTaskCommandAttributes {
        schedule_to_close_timeout: duration(15_000),
        ..activity()
    };
    run.decide(vec![schedule(it)]);
    run.begin_activity();
    run.pass(10_000);
    assert_eq!(run.activity().attempt, 2, "one attempt was too long");
    run.pass(100);
    run.begin_activity();
    run.pass(5_000);
    let types = run.types();
    assert_eq!(
        types[types.len() - 3..],
        [ActivityTaskStarted, ActivityTaskTimedOut, WorkflowTaskScheduled]
    );
    assert!(run.state.activities.is_empty());
}

#[test]
fn an_activity_that_nobody_takes_times_out() {
    let mut run = Run::started();
    run.decide(vec![schedule(ScheduleActivityTaskCommandAttributes {
        schedule_to_start_timeout: duration(50),
        ..activity()
    })]);
    run.pass(50);
    assert_eq!(run.types()[5..], [ActivityTaskTimedOut, WorkflowTaskScheduled]);
}

#[test]
fn news_that_comes_while_a_task_is_out_waits_and_keeps_the_run_open() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    let task = run.begin_activity();
    run.change(|change| change.signal(signal("a"), vec![])).unwrap();
    let started = run.begin_task();
    run.change(|change| change.complete_activity(task, None, "w1".into()))
        .unwrap();
    assert_eq!(
        run.types().last(),
        Some(&WorkflowTaskStarted),
        "nothing comes between a task's start and its end"
    );
    let complete = || {
        vec![Do::CompleteWorkflowExecutionCommandAttributes(
            CompleteWorkflowExecutionCommandAttributes::default(),
        )]
    };
    let refused = run.answer(started, complete());
    assert!(
        matches!(refused, Err(HistoryError::BadCommand { .. })),
        "{refused:?}"
    );
    run.fail_task();
    let types = run.types();
    let tail = [
        WorkflowTaskFailed,
        ActivityTaskStarted,
        ActivityTaskCompleted,
        WorkflowTaskScheduled,
    ];
    assert_eq!(types[types.len() - 4..], tail);
    let Attributes::ActivityTaskCompletedEventAttributes(completed) =
        run.events[run.events.len() - 2].attributes.clone().unwrap()
    else {
        panic!()
    };
    assert_eq!(
        completed.started_event_id,
        run.events[run.events.len() - 3].event_id
    );
    run.decide(complete());
    assert!(run.state.is_closed());
}

#[test]
fn a_task_that_keeps_failing_fills_no_history_and_backs_off() {
    let mut run = Run::started();
    for _ in 0..5 {
        let before = run.events.len();
        run.begin_task();
        run.fail_task();
        assert!(run.events.len() <= before + 3);
        run.pass(60_000);
    }
    assert_eq!(run.events.len(), 4, "{:?}", run.types());
    let started = run.begin_task();
    run.answer(started, vec![]).unwrap();
    assert_eq!(
        run.types()[4..],
        [WorkflowTaskScheduled, WorkflowTaskStarted, WorkflowTaskCompleted]
    );
}

#[test]
fn a_timer_fires_when_it_is_due_and_a_canceled_one_never() {
    let timer = |id: &str| {
        Do::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: id.into(),
            start_to_fire_timeout: duration(500),
        })
    };
    let mut run = Run::started();
    run.decide(vec![timer("a"), timer("b")]);
    run.change(|change| change.signal(signal("wake"), vec![]))
        .unwrap();
    run.decide(vec![Do::CancelTimerCommandAttributes(
        CancelTimerCommandAttributes { timer_id: "b".into() },
    )]);
    run.pass(499);
    assert!(!run.types().contains(&TimerFired));
    run.pass(1);
    assert_eq!(run.types().iter().filter(|it| **it == TimerFired).count(), 1);
    assert!(run.state.timers.is_empty());
}

#[test]
fn a_cancellation_and_a_timer_after_it_are_news_of_one_task_in_their_order() {
    let timer = || {
        Do::StartTimerCommandAttributes(StartTimerCommandAttributes {
            timer_id: "a".into(),
            start_to_fire_timeout: duration(500),
        })
    };
    let cancel = |run: &mut Run| {
        run.change(|change| change.request_cancel("enough".into(), "c1".into(), "r1", vec![]))
            .unwrap();
    };
    // The task waits for a worker.
    let mut run = Run::started();
    run.decide(vec![timer()]);
    cancel(&mut run);
    run.pass(500);
    run.begin_task();
    let news = [
        WorkflowExecutionCancelRequested,
        WorkflowTaskScheduled,
        TimerFired,
        WorkflowTaskStarted,
    ];
    assert_eq!(run.types()[5..], news);
    // A task is out.
    let mut run = Run::started();
    run.decide(vec![timer()]);
    run.change(|change| change.signal(signal("wake"), vec![]))
        .unwrap();
    let started = run.begin_task();
    cancel(&mut run);
    run.pass(500);
    run.answer(started, vec![]).unwrap();
    run.begin_task();
    let news = [
        WorkflowTaskCompleted,
        WorkflowExecutionCancelRequested,
        TimerFired,
        WorkflowTaskScheduled,
        WorkflowTaskStarted,
    ];
    assert_eq!(run.types()[8..], news);
}

#[test]
fn an_activity_that_nobody_has_is_canceled_at_once_and_one_that_runs_is_asked() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    let id = run.activity().scheduled_event_id;
    let ask = || {
        Do::RequestCancelActivityTaskCommandAttributes(RequestCancelActivityTaskCommandAttributes {
            scheduled_event_id: id,
        })
    };
    let mut waiting = Run {
        state: run.state.clone(),
        events: run.events.clone(),
        checksum: run.checksum,
        dispatch: vec![],
        now_ms: run.now_ms,
    };
    waiting
        .change(|change| change.signal(signal("wake"), vec![]))
        .unwrap();
    waiting.decide(vec![ask()]);
    let types = waiting.types();
    assert_eq!(
        types[types.len() - 3..],
        [
            ActivityTaskCancelRequested,
            ActivityTaskCanceled,
            WorkflowTaskScheduled
        ]
    );
    let task = run.begin_activity();
    run.change(|change| change.signal(signal("wake"), vec![]))
        .unwrap();
    assert!(
        run.change(|change| change.cancel_activity(task, None, "w1".into()))
            .is_err(),
        "nobody asked"
    );
    run.decide(vec![ask()]);
    assert!(
        run.change(|change| change.heartbeat(task, None)).unwrap(),
        "the heartbeat tells it"
    );
    run.change(|change| change.cancel_activity(task, None, "w1".into()))
        .unwrap();
    assert!(run.types().contains(&ActivityTaskCanceled));
}

#[test]
fn a_repeated_signal_is_one_event() {
    let mut run = Run::started();
    run.change(|change| change.signal(signal("same"), vec![]))
        .unwrap();
    run.change(|change| change.signal(signal("same"), vec![]))
        .unwrap();
    assert_eq!(
        run.types()
            .iter()
            .filter(|it| **it == WorkflowExecutionSignaled)
            .count(),
        1
    );
}

#[test]
fn what_a_dead_process_had_is_handed_out_again_at_once() {
    let mut run = Run::started();
    run.decide(vec![schedule(activity())]);
    run.begin_activity();
    run.change(|change| change.signal(signal("a"), vec![])).unwrap();
    run.begin_task();
    run.change(|change| {
        change.recover_workflow_task(&|_, caller| caller == Caller::Embedded);
        change.recover_activities(&|_, caller| caller == Caller::Embedded);
        change.dispatch.clear();
        change.dispatch_all();
        Ok(())
    })
    .unwrap();
    assert_eq!(run.dispatch.len(), 2, "{:?}", run.dispatch);
    assert_eq!(run.activity().attempt, 2);
    assert_eq!(run.types().last(), Some(&WorkflowTaskTimedOut));
    run.begin_activity();
    run.begin_task();
}

#[test]
fn commands_that_make_no_sense_are_refused_with_their_cause() {
    let mut run = Run::started();
    let started = run.begin_task();
    let twice = vec![schedule(activity()), schedule(activity())];
    assert!(matches!(
        run.answer(started, twice),
        Err(HistoryError::BadCommand { .. })
    ));
    let nameless = vec![schedule(ScheduleActivityTaskCommandAttributes {
        activity_type: None,
        ..activity()
    })];
    assert!(matches!(
        run.answer(started, nameless),
        Err(HistoryError::BadCommand { .. })
    ));
    let unknown = vec![Do::CancelTimerCommandAttributes(CancelTimerCommandAttributes {
        timer_id: "none".into(),
    })];
    assert!(matches!(
        run.answer(started, unknown),
        Err(HistoryError::BadCommand { .. })
    ));
    run.answer(started, vec![])
        .expect("nothing of the refused answers was kept");
    assert!(matches!(
        run.last(),
        Attributes::WorkflowTaskCompletedEventAttributes(_)
    ));
}
