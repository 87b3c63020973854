//! What is lost of a run's rows does not go unnoticed.

use temporalio_protos::temporal::api::command::v1::ScheduleActivityTaskCommandAttributes;
use temporalio_protos::temporal::api::common::v1::ActivityType;

use super::super::history::{FormerFields, RunRecord};
use super::super::inventory::Inventory;
use super::super::journal::{Record, Table, listed_prefix, place_of, row_range, table_range};
use super::super::stored::read_run;
use super::super::transaction::hash;
use super::*;

fn scheduled(activity_id: usize) -> Do {
    Do::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
        activity_id: activity_id.to_string(),
        activity_type: Some(ActivityType { name: "A".into() }),
        start_to_close_timeout: duration(10_000),
        ..Default::default()
    })
}

/// A run with rows of every kind that a run that waits can have.
async fn with_rows(lab: &Lab) -> Vec<Record> {
    let service = lab.open().unwrap();
    let run_id = start(&service).await;
    let task = poll(&service).await;
    signal(&service, "w", |request| request.request_id = "twice".into()).await;
    let timer = StartTimerCommandAttributes {
        timer_id: "t".into(),
        start_to_fire_timeout: duration(600_000),
    };
    let commands = [scheduled(1), scheduled(2), Do::StartTimerCommandAttributes(timer)];
    answer(&service, &task, commands.into()).await;
    poll(&service).await;
    signal(&service, "w", |_| ()).await;
    let (low, high) = row_range(&run_id);
    lab.journal.scan(&low, &high, 100).unwrap()
}

#[tokio::test]
async fn a_journal_that_lost_a_row_is_refused_and_so_is_one_with_an_older_row_or_one_more() {
    let rows = with_rows(&Lab::new()).await;
    let kinds: std::collections::BTreeSet<u8> = rows.iter().map(|(key, _)| key[38]).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<u8>>(),
        b"abqt",
        "rows of all these kinds"
    );
    for (number, _) in rows.iter().enumerate() {
        for change in ["lost", "older", "moved"] {
            let lab = Lab::new();
            let (key, value) = with_rows(&lab).await.swap_remove(number);
            let store = Store::open(Arc::clone(&lab.journal) as Arc<dyn Journal>).unwrap();
            let write = match change {
                "lost" => Write::Delete(key),
                // Both decode: a message in protobuf without a field is one.
                "older" => Write::Put(key, Vec::new()),
                _ => Write::Put([key.as_slice(), b"\0\0\0\0\0\0\0\x01"].concat(), value),
            };
            store.apply(vec![write]).unwrap();
            drop(store);
            let error = lab
                .open()
                .err()
                .unwrap_or_else(|| panic!("row {number}, {change}, opens"));
            assert!(error.is_damage(), "{error}");
        }
    }
}

/// The journal as the first format had it: all runs in one table, what are rows now in their records, one inventory.
fn in_the_first_format(lab: &Lab) {
    let store = Store::open(Arc::clone(&lab.journal) as Arc<dyn Journal>).unwrap();
    let mut writes = vec![Write::Put(b"mformat".to_vec(), 1_u32.to_le_bytes().to_vec())];
    let mut inventory = Inventory::default();
    for table in [Table::Run, Table::Closed] {
        let (low, high) = table_range(table);
        for (key, record) in store.scan(&low, &high, 10).unwrap() {
            let run = read_run(&store, &key, &record).unwrap();
            let former = FormerFields {
                activities: run.activities.values().cloned().collect(),
                timers: run.timers.values().cloned().collect(),
                buffered: run.buffered.values().cloned().collect(),
                updates: run.updates.values().cloned().collect(),
                completed_updates: run.completed_updates.values().cloned().collect(),
                request_ids: run.request_ids.values().map(|it| it.id.clone()).collect(),
            };
            let record = RunRecord {
                rows: 0,
                rows_sum: 0,
                ..run.record().clone()
            };
            // A message is its fields, in any order.
            let record = [record.encode_to_vec(), former.encode_to_vec()].concat();
            writes.push(Write::Put(run_key(&run.run_id), record));
            inventory.add_run(&run.run_id);
        }
    }
    for table in [
        Table::Row,
        Table::Closed,
        Table::Listed,
        Table::Indexed,
        Table::Outdated,
    ] {
        let keys = records(lab, table).into_iter().map(|(key, _)| key);
        writes.extend(keys.map(Write::Delete));
    }
    let inventory = [inventory.count.to_le_bytes(), inventory.sum.to_le_bytes()].concat();
    writes.push(Write::Put(b"minventory".to_vec(), inventory));
    store.apply(writes).unwrap();
}

/// The journal as the second format had it: the list of closed runs in the order of their starts, and no index of it.
fn in_the_second_format(lab: &Lab) {
    let store = Store::open(Arc::clone(&lab.journal) as Arc<dyn Journal>).unwrap();
    let mut writes = vec![Write::Put(b"mformat".to_vec(), 2_u32.to_le_bytes().to_vec())];
    let mut listed = Inventory::default();
    let prefix = listed_prefix(NAMESPACE);
    let (low, high) = table_range(Table::Listed);
    for (key, value) in store.scan(&low, &high, 10).unwrap() {
        let (_, start_ms, run_id) = place_of(&prefix, &key).unwrap();
        let order = (i64::MAX - start_ms).to_be_bytes();
        let former = [prefix.as_slice(), &order, run_id.as_bytes()].concat();
        listed.add(hash(&former, &value));
        writes.extend([Write::Delete(key), Write::Put(former, value)]);
    }
    let index = records(lab, Table::Indexed);
    writes.extend(index.into_iter().map(|(key, _)| Write::Delete(key)));
    let inventory = store.get(b"minventory").unwrap().unwrap();
    let listed = [listed.count.to_le_bytes(), listed.sum.to_le_bytes()].concat();
    let inventory = [&inventory[..16], &listed, &inventory[32..48]].concat();
    writes.push(Write::Put(b"minventory".to_vec(), inventory));
    store.apply(writes).unwrap();
}

fn records(lab: &Lab, table: Table) -> Vec<Record> {
    let (low, high) = table_range(table);
    lab.journal.scan(&low, &high, usize::MAX).unwrap()
}

#[tokio::test]
async fn journals_of_the_formats_before_are_brought_over_and_have_what_they_had() {
    let lab = Lab::new();
    let service = lab.open().unwrap();
    for _ in 0..2 {
        start(&service).await;
        let task = poll(&service).await;
        signal(&service, "w", |request| request.request_id = "twice".into()).await;
        answer(&service, &task, vec![]).await;
        let complete = CompleteWorkflowExecutionCommandAttributes::default();
        let complete = Do::CompleteWorkflowExecutionCommandAttributes(complete);
        answer(&service, &poll(&service).await, vec![complete]).await;
    }
    drop(service);
    with_rows(&lab).await;
    // What the first start hands out again is out once more in both.
    drop(lab.open().unwrap());
    let tables = [
        Table::Run,
        Table::Row,
        Table::Closed,
        Table::Listed,
        Table::Indexed,
        Table::Outdated,
        Table::Current,
        Table::Event,
    ];
    let all = || tables.map(|table| records(&lab, table));
    let before = all();
    assert_eq!(before.each_ref().map(Vec::len), [1, 6, 2, 2, 6, 2, 1, 31]);
    for bring_back in [in_the_first_format, in_the_second_format] {
        bring_back(&lab);
        assert!(records(&lab, Table::Indexed).is_empty());
        for _ in 0..2 {
            drop(lab.open().unwrap());
            assert!(all() == before, "other records than before");
        }
    }
    in_the_second_format(&lab);
    let (key, _) = records(&lab, Table::Listed).swap_remove(0);
    lab.journal.apply(&[Write::Delete(key)]).unwrap();
    assert!(lab.open().err().expect("it must not open").is_damage());
}

#[tokio::test]
async fn what_is_read_back_is_what_was_there_and_a_heartbeat_writes_its_row_only() {
    let lab = Lab::new();
    let rows = with_rows(&lab).await;
    let (low, high) = (vec![0], vec![u8::MAX]);
    // The first start hands out again what was out, and so changes rows; the second changes nothing.
    drop(lab.open().unwrap());
    let before = lab.journal.scan(&low, &high, 1000).unwrap();
    let service = lab.open().unwrap();
    assert_eq!(before.len(), lab.journal.scan(&low, &high, 1000).unwrap().len());
    let request = PollActivityTaskQueueRequest {
        namespace: NAMESPACE.into(),
        task_queue: queue(),
        ..Default::default()
    };
    let task: PollActivityTaskQueueResponse = call(&service, "PollActivityTaskQueue", request).await.unwrap();
    let before = lab.journal.scan(&low, &high, 1000).unwrap();
    lab.now.fetch_add(1, Ordering::SeqCst);
    let request = RecordActivityTaskHeartbeatRequest {
        task_token: task.task_token,
        ..Default::default()
    };
    let _: RecordActivityTaskHeartbeatResponse = call(&service, "RecordActivityTaskHeartbeat", request)
        .await
        .unwrap();
    let after = lab.journal.scan(&low, &high, 1000).unwrap();
    let mut written: Vec<u8> = after
        .iter()
        .filter(|it| !before.contains(it))
        .map(|(key, _)| key[0])
        .collect();
    written.sort_unstable();
    assert_eq!(
        written, b"mrw",
        "the number of the batch, the run's record, the row"
    );
    assert!(!rows.is_empty());
}
