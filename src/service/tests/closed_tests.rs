//! Closed runs are in the journal only: they are listed, described and read there, and leave it in time.

use temporalio_protos::temporal::api::command::v1::{
    ContinueAsNewWorkflowExecutionCommandAttributes, FailWorkflowExecutionCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::RetryPolicy;
use temporalio_protos::temporal::api::workflow::v1::WorkflowExecutionInfo;

use super::super::journal::{Table, closed_key, table_range};
use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;

pub(super) async fn start_as(service: &Service, workflow_id: &str) -> String {
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: workflow_id.into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        ..Default::default()
    };
    let started: StartWorkflowExecutionResponse =
        call(service, "StartWorkflowExecution", request).await.unwrap();
    started.run_id
}

async fn run_and_end(service: &Service, workflow_id: &str) -> String {
    let run_id = start_as(service, workflow_id).await;
    let complete = CompleteWorkflowExecutionCommandAttributes::default();
    let commands = vec![Do::CompleteWorkflowExecutionCommandAttributes(complete)];
    answer(service, &poll(service).await, commands).await;
    run_id
}

/// All pages of a list.
async fn list(service: &Service, query: &str, page_size: i32) -> Vec<WorkflowExecutionInfo> {
    let mut executions = Vec::new();
    let mut next_page_token = Vec::new();
    loop {
        let request = ListWorkflowExecutionsRequest {
            namespace: NAMESPACE.into(),
            query: query.into(),
            page_size,
            next_page_token,
        };
        let page: ListWorkflowExecutionsResponse =
            call(service, "ListWorkflowExecutions", request).await.unwrap();
        assert!(page.executions.len() <= usize::try_from(page_size).unwrap());
        executions.extend(page.executions);
        next_page_token = page.next_page_token;
        if next_page_token.is_empty() {
            return executions;
        }
    }
}

async fn count(service: &Service, query: &str) -> i64 {
    let request = CountWorkflowExecutionsRequest {
        namespace: NAMESPACE.into(),
        query: query.into(),
    };
    let counted: CountWorkflowExecutionsResponse =
        call(service, "CountWorkflowExecutions", request).await.unwrap();
    counted.count
}

fn ids(executions: &[WorkflowExecutionInfo]) -> Vec<String> {
    let id = |it: &WorkflowExecutionInfo| it.execution.clone().unwrap_or_default().workflow_id;
    executions.iter().map(id).collect()
}

#[tokio::test]
async fn the_open_runs_come_first_and_then_those_that_closed_last() {
    let lab = Lab::new();
    let mut service = lab.open().unwrap();
    let mut expected = Vec::new();
    for number in 0..23 {
        let id = format!("w{number}");
        if number % 3 == 0 {
            // It stays: its task is taken, so that nobody else gets it.
            start_as(&service, &id).await;
            poll(&service).await;
        } else {
            run_and_end(&service, &id).await;
        }
        lab.now.fetch_add(number % 2, Ordering::SeqCst);
        expected.push(id);
    }
    expected.sort();
    for _ in 0..2 {
        assert_eq!(service.core().runs.len(), 8, "only open ones are in memory");
        for page_size in [1, 2, 7, 23, 100] {
            let all = list(&service, "", page_size).await;
            assert!(all.is_sorted_by_key(|it| {
                let [close, start] = [it.close_time, it.start_time]
                    .map(|time| time.map_or((i64::MAX, 0), |time| (time.seconds, time.nanos)));
                std::cmp::Reverse((close, start))
            }));
            let mut found = ids(&all);
            found.sort();
            assert_eq!(found, expected, "in pages of {page_size}");
            let open = list(&service, "ExecutionStatus = 'Running'", page_size).await;
            assert_eq!(open.len(), 8);
            let closed = list(&service, "ExecutionStatus = 'Completed'", page_size).await;
            assert_eq!(closed.len(), 15);
            assert!(closed.iter().all(|it| it.close_time.is_some()));
        }
        assert_eq!(ids(&list(&service, "WorkflowId = 'w7'", 10).await), ["w7"]);
        assert_eq!(count(&service, "").await, 23);
        assert_eq!(count(&service, "ExecutionStatus = 'Completed'").await, 15);
        drop(service);
        service = lab.open().unwrap();
    }
}

#[tokio::test]
async fn a_filter_sees_of_closed_runs_what_it_sees_of_open_ones() {
    let lab = Lab::new();
    let mut service = lab.open().unwrap();
    let mut runs = Vec::new();
    for id in ["a", "b", "c"] {
        // Each starts a second after the one before, and ends half a second later.
        runs.push(start_as(&service, id).await);
        let task = poll(&service).await;
        lab.now.fetch_add(500, Ordering::SeqCst);
        if id != "c" {
            let complete = CompleteWorkflowExecutionCommandAttributes::default();
            let commands = vec![Do::CompleteWorkflowExecutionCommandAttributes(complete)];
            answer(&service, &task, commands).await;
        }
        lab.now.fetch_add(500, Ordering::SeqCst);
    }
    let by_run = format!("RunId = '{}' OR RunId STARTS_WITH '{}'", runs[0], runs[2]);
    for _ in 0..2 {
        for (filter, expected) in [
            ("WorkflowId = 'a' OR WorkflowId = 'c'", "ca"),
            ("WorkflowId IN ('a', 'b') AND NOT WorkflowId = 'a'", "b"),
            ("TaskQueue = 'q' AND WorkflowType = 'T'", "cba"),
            (by_run.as_str(), "ca"),
            ("StartTime >= '1970-01-01T00:16:41Z'", "cb"),
            ("ExecutionTime < '1970-01-01T00:16:41Z'", "a"),
            ("CloseTime > '1970-01-01T00:16:41Z'", "b"),
            ("CloseTime IS NULL", "c"),
            ("CloseTime IS NOT NULL", "ba"),
            ("ExecutionStatus != 'Running' OR WorkflowId = 'c'", "cba"),
            ("ExecutionStatus = 'Completed'", "ba"),
            ("ExecutionStatus IN ('Failed', 'Completed', 'Running')", "cba"),
            ("ExecutionStatus = 'Completed' AND WorkflowId IN ('c', 'a')", "a"),
            (
                "WorkflowType IN ('S', 'T') AND CloseTime <= '1970-01-01T00:16:40.5Z'",
                "a",
            ),
            ("WorkflowType = 'S'", ""),
            (
                "CloseTime BETWEEN '1970-01-01T00:16:40.5Z' AND '1970-01-01T00:16:41.5Z'",
                "ba",
            ),
            (
                "CloseTime > '1970-01-01T00:16:40.5Z' AND CloseTime < '1970-01-01T00:16:41.5Z'",
                "",
            ),
            (
                "CloseTime = '1970-01-01T00:16:41.5Z' AND ExecutionStatus = 'Completed'",
                "b",
            ),
        ] {
            for page_size in [1, 10] {
                assert_eq!(
                    ids(&list(&service, filter, page_size).await).concat(),
                    expected,
                    "{filter}"
                );
            }
            let counted = usize::try_from(count(&service, filter).await).unwrap();
            assert_eq!(counted, expected.len(), "{filter}");
        }
        drop(service);
        service = lab.open().unwrap();
    }
}

#[tokio::test]
async fn counts_are_told_by_status() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    for id in ["a", "b"] {
        run_and_end(&service, id).await;
    }
    start_as(&service, "c").await;
    let counted = |query: &str| {
        let request = CountWorkflowExecutionsRequest {
            namespace: NAMESPACE.into(),
            query: query.into(),
        };
        call::<_, CountWorkflowExecutionsResponse>(&service, "CountWorkflowExecutions", request)
    };
    for (query, expected) in [
        (
            "GROUP BY ExecutionStatus",
            vec![("\"Running\"", 1), ("\"Completed\"", 2)],
        ),
        (
            "WorkflowId = 'a' group by ExecutionStatus",
            vec![("\"Completed\"", 1)],
        ),
        (
            "ExecutionStatus = 'Running' GROUP BY ExecutionStatus",
            vec![("\"Running\"", 1)],
        ),
        ("WorkflowId = 'GROUP BY'", vec![]),
    ] {
        let answer = counted(query).await.unwrap();
        let groups = answer.groups.iter().map(|group| {
            let [value] = group.group_values.as_slice() else {
                panic!("{query}: {group:?}");
            };
            assert_eq!(value.metadata["type"], b"Keyword");
            (std::str::from_utf8(&value.data).unwrap(), group.count)
        });
        assert_eq!(groups.collect::<Vec<_>>(), expected, "{query}");
        assert_eq!(answer.count, expected.iter().map(|(_, count)| count).sum::<i64>());
    }
    for refused in [
        "GROUP BY WorkflowType",
        "GROUP BY ExecutionStatus AND WorkflowId = 'a'",
        "GROUP BY",
    ] {
        assert_eq!(
            counted(refused).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{refused}"
        );
    }
}

/// A journal that counts the records that are read.
#[derive(Default)]
struct Counting {
    journal: MemoryJournal,
    read: std::sync::atomic::AtomicUsize,
}

impl Journal for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        self.read.fetch_add(1, Ordering::SeqCst);
        self.journal.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<journal::Record>, JournalError> {
        let records = self.journal.scan(from, to, limit)?;
        self.read.fetch_add(records.len(), Ordering::SeqCst);
        Ok(records)
    }

    fn apply(&self, writes: &[Write]) -> Result<(), JournalError> {
        self.journal.apply(writes)
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.journal.flush()
    }

    fn mark(&self, sequence: u64) -> Result<(), JournalError> {
        self.journal.mark(sequence)
    }

    fn marked(&self) -> Result<Option<u64>, JournalError> {
        self.journal.marked()
    }

    fn path(&self) -> std::path::PathBuf {
        self.journal.path()
    }
}

#[tokio::test]
async fn what_a_filter_asks_for_by_id_type_status_or_end_is_read_and_little_else() {
    let counting = Arc::new(Counting::default());
    let lab = Lab::new();
    let store = Store::open(Arc::clone(&counting) as Arc<dyn Journal>).unwrap();
    let service = Service::open(store, Clock::Manual(Arc::clone(&lab.now)), Mode::Serve).unwrap();
    for number in 0..300 {
        run_and_end(&service, &format!("w{number}")).await;
        lab.now.fetch_add(1000, Ordering::SeqCst);
    }
    start_as(&service, "failing").await;
    let failed =
        Do::FailWorkflowExecutionCommandAttributes(FailWorkflowExecutionCommandAttributes::default());
    answer(&service, &poll(&service).await, vec![failed]).await;
    for (filter, expected) in [
        ("ExecutionStatus = 'Failed'", 1),
        ("WorkflowId IN ('w7', 'w200')", 2),
        ("WorkflowType = 'none'", 0),
        ("WorkflowType = 'T' AND WorkflowId = 'w9'", 1),
        ("CloseTime < '1970-01-01T00:16:43Z'", 3),
        ("WorkflowType = 'T' AND CloseTime >= '1970-01-01T00:21:40Z'", 1),
    ] {
        for is_count in [false, true] {
            let before = counting.read.load(Ordering::SeqCst);
            let found = match is_count {
                true => usize::try_from(count(&service, filter).await).unwrap(),
                false => list(&service, filter, 100).await.len(),
            };
            let read = counting.read.load(Ordering::SeqCst) - before;
            assert_eq!(found, expected, "{filter}");
            assert!(
                read <= 4 * expected,
                "{filter}: {read} records are read for {expected}"
            );
        }
    }
    let before = counting.read.load(Ordering::SeqCst);
    assert_eq!(count(&service, "ExecutionStatus = 'Completed'").await, 300);
    assert_eq!(
        counting.read.load(Ordering::SeqCst) - before,
        300,
        "a count reads the index alone"
    );
}

#[tokio::test]
async fn the_attempts_at_a_workflow_are_kept_also_the_first() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        retry_policy: Some(RetryPolicy {
            maximum_attempts: 4,
            ..Default::default()
        }),
        ..Default::default()
    };
    let first: StartWorkflowExecutionResponse =
        call(&service, "StartWorkflowExecution", request).await.unwrap();
    for _ in 0..4 {
        let failed = FailWorkflowExecutionCommandAttributes::default();
        let commands = vec![Do::FailWorkflowExecutionCommandAttributes(failed)];
        answer(&service, &poll(&service).await, commands).await;
        lab.now.fetch_add(60_000, Ordering::SeqCst);
        service.fire_due();
    }
    assert_eq!(list(&service, "ExecutionStatus = 'Failed'", 10).await.len(), 4);
    let request = GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: Some(WorkflowExecution {
            workflow_id: "w".into(),
            run_id: first.run_id,
        }),
        ..Default::default()
    };
    let page: GetWorkflowExecutionHistoryResponse = call(&service, "GetWorkflowExecutionHistory", request)
        .await
        .unwrap();
    assert_eq!(page.history.unwrap_or_default().events.len(), 5);
    drop(service);
    assert_eq!(count(&lab.open().unwrap(), "").await, 4);
}

#[tokio::test]
async fn of_a_long_chain_the_last_hundred_runs_are_kept_and_less_of_large_ones() {
    // So many runs, each with so many bytes; how many stay, the open one among them.
    for (runs, bytes, stay) in [(130, 10, 101), (12, 1 << 20, 13), (40, 1 << 20, 32)] {
        let lab = Lab::new();
        let mut service = lab.open().unwrap();
        start(&service).await;
        for number in 0..runs {
            let details = Payloads {
                payloads: vec![payload(vec![7; bytes])],
            };
            let marker = RecordMarkerCommandAttributes {
                marker_name: "large".into(),
                details: [("d".to_owned(), details)].into(),
                ..Default::default()
            };
            let commands = vec![
                Do::RecordMarkerCommandAttributes(marker),
                Do::ContinueAsNewWorkflowExecutionCommandAttributes(Default::default()),
            ];
            answer(&service, &poll(&service).await, commands).await;
            lab.now.fetch_add(1000, Ordering::SeqCst);
            service.fire_due();
            if number == runs / 2 {
                drop(service);
                service = lab.open().unwrap();
            }
        }
        assert_eq!(count(&service, "").await, stay, "of {runs} with {bytes} bytes");
    }
}

#[tokio::test]
async fn a_closed_run_is_described_and_read_as_before_and_takes_no_change() {
    let lab = Lab::new();
    run_and_end(&lab.open().unwrap(), "w").await;
    let service = lab.open().unwrap();
    let request = DescribeWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        execution: workflow(),
    };
    let described: DescribeWorkflowExecutionResponse = call(&service, "DescribeWorkflowExecution", request)
        .await
        .unwrap();
    assert_eq!(
        described
            .workflow_execution_info
            .unwrap_or_default()
            .history_length,
        5
    );
    assert_eq!(history(&service, "w").await.len(), 5);
    let request = SignalWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_execution: workflow(),
        signal_name: "s".into(),
        ..Default::default()
    };
    let signaled: Result<SignalWorkflowExecutionResponse, _> =
        call(&service, "SignalWorkflowExecution", request).await;
    assert_eq!(signaled.unwrap_err().code(), Code::NotFound);
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.into(),
        workflow_id: "w".into(),
        workflow_type: Some(WorkflowType { name: "T".into() }),
        task_queue: queue(),
        workflow_id_reuse_policy: 3,
        ..Default::default()
    };
    let again: Result<StartWorkflowExecutionResponse, _> =
        call(&service, "StartWorkflowExecution", request).await;
    assert_eq!(
        again.unwrap_err().code(),
        Code::AlreadyExists,
        "duplicates are to be rejected"
    );
}

#[tokio::test]
async fn what_is_lost_of_closed_runs_is_missed_at_the_start_or_when_it_is_read() {
    for table in [Table::Listed, Table::Indexed, Table::Current] {
        let lab = Lab::new();
        run_and_end(&lab.open().unwrap(), "w").await;
        let (low, high) = table_range(table);
        let key = lab.journal.scan(&low, &high, 1).unwrap().swap_remove(0).0;
        lab.journal.apply(&[Write::Delete(key)]).unwrap();
        let error = lab.open().err().expect("it must not open");
        assert!(error.is_damage(), "{error}");
    }
    for event in [false, true] {
        let lab = Lab::new();
        let run_id = run_and_end(&lab.open().unwrap(), "w").await;
        let key = if event {
            event_key(&run_id, 4)
        } else {
            closed_key(&run_id)
        };
        lab.journal.apply(&[Write::Delete(key)]).unwrap();
        let request = GetWorkflowExecutionHistoryRequest {
            namespace: NAMESPACE.into(),
            execution: workflow(),
            ..Default::default()
        };
        let service = lab.open().unwrap();
        let read: Result<GetWorkflowExecutionHistoryResponse, _> =
            call(&service, "GetWorkflowExecutionHistory", request).await;
        assert_eq!(read.unwrap_err().code(), Code::DataLoss);
    }
}

#[tokio::test]
async fn a_journal_whose_bytes_were_found_damaged_while_it_was_in_use_is_not_opened_again() {
    let lab = Lab::new();
    let run_id = run_and_end(&lab.open().unwrap(), "w").await;
    lab.journal
        .apply(&[Write::Put(event_key(&run_id, 4), b"nonsense".to_vec())])
        .unwrap();
    let service = lab.open().unwrap();
    let request = GetWorkflowExecutionHistoryRequest {
        namespace: NAMESPACE.into(),
        execution: workflow(),
        ..Default::default()
    };
    let read: Result<GetWorkflowExecutionHistoryResponse, _> =
        call(&service, "GetWorkflowExecutionHistory", request).await;
    assert_eq!(read.unwrap_err().code(), Code::DataLoss);
    // What is flushed afterwards does not cover it up.
    start_as(&service, "another").await;
    drop(service);
    let error = lab.open().err().expect("it must not open");
    assert!(error.is_damage(), "{error}");
}

#[tokio::test]
async fn a_year_of_runs_leaves_those_of_the_last_month_and_the_last_of_each_workflow() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    run_and_end(&service, "old").await;
    let mut most = 0;
    for day in 0..365 {
        for _ in 0..4 {
            run_and_end(&service, "w").await;
            lab.now.fetch_add(DAY_MS / 4, Ordering::SeqCst);
        }
        while service.remove_outdated().unwrap() {}
        service.settled().await.unwrap();
        let records = lab.journal.scan(&[0], &[u8::MAX], usize::MAX).unwrap().len();
        if day == 60 {
            most = records;
        }
        assert!(day <= 60 || records <= most, "{records} records on day {day}");
    }
    assert_eq!(
        list(&service, "WorkflowId = 'old'", 10).await.len(),
        1,
        "the last of its workflow"
    );
    assert_eq!(list(&service, "WorkflowId = 'w'", 1000).await.len(), 4 * 30);
    drop(service);
    lab.open().unwrap();
}

/// What `sync --interval 1m` does to the service, however long: a round a minute, and continued as new now and then.
#[tokio::test]
async fn rounds_without_end_leave_the_histories_of_a_hundred_runs_and_nothing_that_grows() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    start(&service).await;
    // Records when a run continues as new, and entries in memory.
    let mut sizes = Vec::new();
    for round in 1..=500 {
        let task = poll(&service).await;
        if round % 4 == 0 {
            let records = lab.journal.scan(&[0], &[u8::MAX], usize::MAX).unwrap().len();
            let in_memory = {
                let core = service.core();
                [
                    core.runs.len(),
                    core.current.len(),
                    core.written.len(),
                    core.deadlines.len(),
                ]
            };
            sizes.push((records, in_memory));
            let renewed = ContinueAsNewWorkflowExecutionCommandAttributes::default();
            let renewed = Do::ContinueAsNewWorkflowExecutionCommandAttributes(renewed);
            answer(&service, &task, vec![renewed]).await;
        } else {
            let timer = Do::StartTimerCommandAttributes(StartTimerCommandAttributes {
                timer_id: "interval".into(),
                start_to_fire_timeout: duration(60_000),
            });
            answer(&service, &task, vec![timer]).await;
        }
        lab.now.fetch_add(60_000, Ordering::SeqCst);
        service.fire_due();
        while service.remove_outdated().unwrap() {}
        service.settled().await.unwrap();
    }
    // From then on there are a hundred before the current one.
    assert!(sizes[101..].iter().all(|size| *size == sizes[101]), "{sizes:?}");
    assert_eq!(count(&service, "").await, 101);
}
