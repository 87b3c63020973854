//! The embedded service under Temporal's own SDK: a worker and a client that know nothing of it.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

#[path = "../support/directory.rs"]
mod directory;
mod workflows;

use std::time::Duration;

use directory::copy_directory;
use longhaul::connect::{self, Connected};
use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowDescribeOptions, WorkflowExecuteUpdateOptions,
    WorkflowFetchHistoryOptions, WorkflowGetResultOptions, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions, WorkflowTerminateOptions,
};
use temporalio_common::MemoValues;
use temporalio_protos::temporal::api::common::v1::{Header, Payload};
use temporalio_protos::temporal::api::enums::v1::EventType;
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use workflows::{Counting, Flaky, Long, Sample, Sleeping};

const QUEUE: &str = "test";
/// Ends a test that hangs. The longest one needs five seconds of a processor, of which a busy machine gives it a tenth.
const DEADLINE: Duration = Duration::from_secs(120);

/// A worker that runs until it is dropped.
struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn worker(client: &Client) -> Running {
    let options = WorkerOptions::new(QUEUE)
        .register_workflow::<Counting>()
        .unwrap()
        .register_workflow::<Sleeping>()
        .unwrap()
        .register_workflow::<Long>()
        .unwrap()
        .register_workflow::<Flaky>()
        .unwrap()
        .register_activities(Sample)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), options).unwrap();
    Running(tokio::task::spawn_local(async move {
        let _runtime = runtime;
        worker.run().await.unwrap();
    }))
}

/// Runs a test with a service on a journal of its own.
fn with_service(test: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let directory = private_directory();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let Connected {
            client,
            place: _place,
            ..
        } = connect::share(directory.path()).await.unwrap();
        tokio::time::timeout(DEADLINE, test(client))
            .await
            .expect("the test takes too long");
    });
}

fn start(id: &str) -> WorkflowStartOptions {
    WorkflowStartOptions::new(QUEUE, id).build()
}

async fn events(client: &Client, id: &str) -> Vec<EventType> {
    let handle = client.get_workflow_handle::<Counting>(id);
    let events = handle
        .fetch_history(WorkflowFetchHistoryOptions::default())
        .into_events()
        .await
        .unwrap();
    events.iter().map(|event| event.event_type()).collect()
}

#[test]
fn signals_queries_updates_timers_and_results_work() {
    with_service(async |client| {
        let _worker = worker(&client);
        let handle = client
            .start_workflow(Counting::run, 10, start("c"))
            .await
            .unwrap();
        handle
            .signal(Counting::add, 3, WorkflowSignalOptions::default())
            .await
            .unwrap();
        let before = handle
            .execute_update(Counting::set, 4, WorkflowExecuteUpdateOptions::default())
            .await
            .unwrap();
        assert_eq!(before, 3);
        let value = handle
            .query(Counting::value, (), WorkflowQueryOptions::default())
            .await
            .unwrap();
        assert_eq!(value, 4);
        let refused = handle
            .execute_update(Counting::set, -1, WorkflowExecuteUpdateOptions::default())
            .await;
        assert!(format!("{:?}", refused.unwrap_err()).contains("must not be negative"));
        handle
            .signal(Counting::add, 6, WorkflowSignalOptions::default())
            .await
            .unwrap();
        assert_eq!(
            handle
                .get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap(),
            10
        );
        let value = handle
            .query(Counting::value, (), WorkflowQueryOptions::default())
            .await
            .unwrap();
        assert_eq!(value, 10, "a closed workflow still answers");
        use EventType::*;
        let seen = events(&client, "c").await;
        assert_eq!(seen[..2], [WorkflowExecutionStarted, WorkflowTaskScheduled]);
        for expected in [
            WorkflowExecutionSignaled,
            WorkflowExecutionUpdateAccepted,
            WorkflowExecutionUpdateCompleted,
            TimerFired,
        ] {
            assert!(seen.contains(&expected), "{expected:?} is not in {seen:?}");
        }
        assert_eq!(seen.last(), Some(&WorkflowExecutionCompleted));
    });
}

#[test]
fn an_activity_is_retried_until_it_succeeds_and_leaves_one_started_event() {
    with_service(async |client| {
        let _worker = worker(&client);
        let handle = client.start_workflow(Flaky::run, 3, start("f")).await.unwrap();
        assert_eq!(
            handle
                .get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap(),
            3,
            "attempts"
        );
        use EventType::*;
        let seen = events(&client, "f").await;
        let expected = [
            WorkflowExecutionStarted,
            WorkflowTaskScheduled,
            WorkflowTaskStarted,
            WorkflowTaskCompleted,
            ActivityTaskScheduled,
            ActivityTaskStarted,
            ActivityTaskCompleted,
            WorkflowTaskScheduled,
            WorkflowTaskStarted,
            WorkflowTaskCompleted,
            WorkflowExecutionCompleted,
        ];
        assert_eq!(seen, expected);
    });
}

#[test]
fn an_error_that_must_not_be_retried_fails_the_workflow() {
    with_service(async |client| {
        let _worker = worker(&client);
        let handle = client.start_workflow(Flaky::run, -1, start("f")).await.unwrap();
        let error = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
        assert!(format!("{error:?}").contains("never"), "{error:?}");
    });
}

#[test]
fn a_canceled_workflow_hears_of_it_and_a_terminated_one_does_not() {
    with_service(async |client| {
        let _worker = worker(&client);
        let canceled = client
            .start_workflow(Counting::run, 10, start("canceled"))
            .await
            .unwrap();
        canceled
            .signal(Counting::add, 1, WorkflowSignalOptions::default())
            .await
            .unwrap();
        canceled.cancel(WorkflowCancelOptions::default()).await.unwrap();
        canceled
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
        assert_eq!(
            events(&client, "canceled").await.last(),
            Some(&EventType::WorkflowExecutionCanceled)
        );
        let ended = client
            .start_workflow(Counting::run, 10, start("terminated"))
            .await
            .unwrap();
        ended
            .terminate(WorkflowTerminateOptions::default())
            .await
            .unwrap();
        ended
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
        assert_eq!(
            events(&client, "terminated").await.last(),
            Some(&EventType::WorkflowExecutionTerminated)
        );
    });
}

#[test]
fn a_canceled_workflow_is_woken_from_its_timer() {
    with_service(async |client| {
        let _worker = worker(&client);
        let sleeping = client
            .start_workflow(Sleeping::run, (), start("sleeping"))
            .await
            .unwrap();
        while !events(&client, "sleeping")
            .await
            .contains(&EventType::TimerStarted)
        {
            tokio::task::yield_now().await;
        }
        sleeping.cancel(WorkflowCancelOptions::default()).await.unwrap();
        sleeping
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap_err();
        use EventType::*;
        let seen = events(&client, "sleeping").await;
        assert_eq!(
            seen[seen.len() - 3..],
            [WorkflowTaskCompleted, TimerCanceled, WorkflowExecutionCanceled]
        );
    });
}

#[test]
fn a_long_workflow_continues_as_new_before_its_runs_grow_long() {
    with_service(async |client| {
        let _worker = worker(&client);
        let handle = client
            .start_workflow(Long::run, (0, 2500), start("long"))
            .await
            .unwrap();
        assert_eq!(
            handle
                .get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap(),
            2500
        );
        let current = client.get_workflow_handle::<Long>("long");
        let description = current
            .describe(WorkflowDescribeOptions::default())
            .await
            .unwrap();
        assert!(
            description.history_length() < 4200,
            "{} events",
            description.history_length()
        );
    });
}

#[test]
fn a_workflow_goes_on_where_it_was_when_its_process_died() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let directory = private_directory();
    let copy = private_directory();
    let first = runtime();
    tokio::task::LocalSet::new().block_on(&first, async {
        let Connected {
            client,
            place: _place,
            ..
        } = connect::share(directory.path()).await.unwrap();
        let _worker = worker(&client);
        let handle = client
            .start_workflow(Counting::run, 10, start("c"))
            .await
            .unwrap();
        handle
            .signal(Counting::add, 3, WorkflowSignalOptions::default())
            .await
            .unwrap();
        while handle
            .query(Counting::value, (), WorkflowQueryOptions::default())
            .await
            .unwrap_or(0)
            != 3
        {
            tokio::task::yield_now().await;
        }
        // What a killed process leaves: the files as they are, nothing said goodbye to.
        copy_directory(directory.path(), copy.path());
    });
    drop(first);
    let second = runtime();
    tokio::task::LocalSet::new().block_on(&second, async {
        let Connected {
            client,
            place: _place,
            ..
        } = connect::share(copy.path()).await.unwrap();
        let _worker = worker(&client);
        let handle = client.get_workflow_handle::<Counting>("c");
        let value = handle
            .query(Counting::value, (), WorkflowQueryOptions::default())
            .await
            .unwrap();
        assert_eq!(value, 3, "what was signaled is remembered");
        handle
            .signal(Counting::add, 7, WorkflowSignalOptions::default())
            .await
            .unwrap();
        assert_eq!(
            handle
                .get_result(WorkflowGetResultOptions::default())
                .await
                .unwrap(),
            10
        );
    });
}

/// As [`start`], with maps of more keys than would come back in the same order by chance.
fn start_with_maps(id: &str) -> WorkflowStartOptions {
    let keys = || (0..8_u8).map(|key| (format!("key {key}"), key));
    let mut memo = MemoValues::new();
    for (name, value) in keys() {
        memo.insert(name, value);
    }
    let payload = |value| Payload {
        data: vec![value],
        ..Default::default()
    };
    let fields = keys().map(|(name, value)| (name, payload(value))).collect();
    WorkflowStartOptions::new(QUEUE, id)
        .memo(memo)
        .header(Header { fields })
        .build()
}

#[test]
fn an_open_and_a_closed_workflow_with_maps_are_there_after_every_start() {
    let mut directory = private_directory();
    for process in 0..8 {
        let copy = private_directory();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let Connected {
                client,
                place: _place,
                ..
            } = connect::share(directory.path()).await.unwrap();
            let _worker = worker(&client);
            if process == 0 {
                for (id, wanted) in [("open", 100), ("closed", 0)] {
                    client
                        .start_workflow(Counting::run, wanted, start_with_maps(id))
                        .await
                        .unwrap();
                }
            }
            let closed = client.get_workflow_handle::<Counting>("closed");
            let result = closed.get_result(WorkflowGetResultOptions::default()).await;
            assert_eq!(result.unwrap(), 0);
            let open = client.get_workflow_handle::<Counting>("open");
            open.signal(Counting::add, 1, WorkflowSignalOptions::default())
                .await
                .unwrap();
            while open
                .query(Counting::value, (), WorkflowQueryOptions::default())
                .await
                .unwrap_or(0)
                != process + 1
            {
                tokio::task::yield_now().await;
            }
            copy_directory(directory.path(), copy.path());
        });
        directory = copy;
    }
}

/// A directory for this user alone.
fn private_directory() -> tempfile::TempDir {
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}
