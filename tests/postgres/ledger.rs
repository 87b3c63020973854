//! The ledger knows what is there, whoever asks, and lets only the last run write.

use crate::servers::{Databases, batch, key, range, session, spec, sql, try_sql, until_waiting, value};
use longhaul::postgres::{Kind, Side, cursor, ledger};
use longhaul::table::{KeyRange, OnConflict};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 1000) i";

#[tokio::test(flavor = "multi_thread")]
async fn gaps_between_ranges_are_seen_in_the_sources_order() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    // As text, 1000 < 200 < 9: the target must not be asked which is greater.
    for (number, low, high) in [
        (0, None, "9"),
        (1, Some("9"), "30"),
        (2, Some("200"), "300"),
        (3, Some("100"), "110"),
        (7, Some("300"), "999"),
    ] {
        databases
            .copy(&run, &batch(number, range(low, high)))
            .await
            .unwrap();
    }
    let again = databases.opened("t").await;
    let position = &again.position;
    assert_eq!(position.copied, Some(key(&["30"])));
    assert_eq!(
        position.beyond,
        [range(Some("100"), "110"), range(Some("200"), "999")]
    );
    assert_eq!(position.end(), Some(&key(&["999"])));
    assert!(position.epoch > run.position.epoch);
    assert_eq!(
        (position.tally.rows, position.tally.batches, position.next_batch),
        (30 + 10 + 799, 5, 8)
    );
    // Fill the gaps, ending where the next range begins.
    let mut number = position.next_batch;
    let stops = [
        (Some("30"), Some("100")),
        (Some("110"), Some("200")),
        (Some("999"), None),
    ];
    for (low, stop) in stops {
        let (mut low, stop) = (low.map(|low| key(&[low])), stop.map(|stop| key(&[stop])));
        while let Some(high) =
            cursor::next_range_end(&databases.source, &again.plan, low.as_ref(), stop.as_ref(), 40)
                .await
                .unwrap()
        {
            let range = KeyRange {
                low,
                high: high.clone(),
            };
            databases.copy(&again, &batch(number, range)).await.unwrap();
            (low, number) = (Some(high), number + 1);
        }
    }
    databases.assert_same("t").await;
    let position = databases.position(&again).await;
    assert_eq!(
        (position.copied, position.beyond, position.tally.rows),
        (Some(key(&["1000"])), Vec::new(), 1000)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_ledger_can_hold_is_refused_in_words() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    for (number, low, high) in [(0, None, "9"), (1, Some("9"), "30")] {
        databases
            .copy(&run, &batch(number, range(low, high)))
            .await
            .unwrap();
    }
    for (absurd, back) in [
        ("rows = -rows", "rows = -rows"),
        ("rows_written = rows + 1", "rows_written = rows"),
        ("bytes = -bytes", "bytes = -bytes"),
        ("high = high || '7'::text", "high = high[1:1]"),
        ("high = '{NULL}'", "high = '{30}'"),
        ("low = '{11}'", "low = '{9}'"),
    ] {
        let change = |set: &str| format!("UPDATE longhaul.batches SET {set} WHERE batch = 1");
        sql(&databases.target_url, &change(absurd)).await;
        let read = ledger::read(&databases.target, &databases.source, &run.spec, &run.plan).await;
        let found = read.map(|position| (position.copied, position.beyond));
        if absurd == "low = '{11}'" {
            // A gap is no nonsense.
            assert_eq!(found.unwrap(), (Some(key(&["9"])), vec![range(Some("11"), "30")]));
        } else {
            let error = found.expect_err(absurd);
            assert_eq!(error.kind(), Kind::Ledger, "{absurd}: {}", error.chain());
        }
        sql(&databases.target_url, &change(back)).await;
    }
    // No calendar has that year.
    sql(
        &databases.target_url,
        "UPDATE longhaul.tables SET epoch = 9223372036854775806",
    )
    .await;
    let checked = ledger::check(&databases.target, &run.spec, &run.plan, &run.fence).await;
    assert_eq!(checked.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_of_an_older_epoch_is_waited_for_and_then_refused() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    // A forgotten process in the middle of a batch: it waits for a row that is not ours to let go.
    let (other, zombie) = (
        crate::servers::client(&databases.target_url).await,
        session(&databases.target_url, Side::Target).await,
    );
    other
        .batch_execute("BEGIN; INSERT INTO t VALUES (1, 'x1')")
        .await
        .unwrap();
    let first = batch(0, range(None, "1"));
    let copying = run.copy(&databases.source, &zombie, &first, false);
    let opening = async {
        until_waiting(&databases.target_url, 1).await;
        let opening = databases.opened("t");
        tokio::pin!(opening);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(300), &mut opening).await;
        assert!(waits.is_err(), "the batch of the older epoch is not over");
        other.batch_execute("ROLLBACK").await.unwrap();
        opening.await
    };
    let (copied, now) = tokio::join!(copying, opening);
    assert_eq!(copied.unwrap().rows, 1);
    assert_eq!(
        (
            now.position.tally.rows,
            now.position.copied.clone(),
            now.position.next_batch
        ),
        (1, Some(key(&["1"])), 1),
        "what it committed is seen"
    );
    let next = batch(1, range(Some("1"), "5"));
    let error = databases.copy(&run, &next).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
    let settling = ledger::set_settled(
        &databases.target,
        &run.spec,
        &run.plan,
        run.fence.epoch,
        None,
        None,
    );
    assert_eq!(settling.await.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(databases.kept("t").await, "1 1");
    // The session of the refused batch serves the next.
    let source = session(&databases.source_url, Side::Source).await;
    now.copy(&source, &databases.target, &next, false).await.unwrap();
    assert_eq!(databases.kept("t").await, "5 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_table_is_not_taken_over() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)",
        "",
    )
    .await;
    let run = databases.opened("t").await;
    let other = spec("other", OnConflict::Error);
    let error = databases.try_run(other.clone()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Ledger);
    assert!(
        error.to_string().contains("public.t") && error.to_string().contains("public.other"),
        "{error}"
    );
    ledger::forget(&databases.target, &run.spec, &run.plan)
        .await
        .unwrap();
    let plan = databases.examine("other").await.unwrap();
    let found = ledger::inspect(&databases.target, &other, &plan).await.unwrap();
    assert_eq!(found, ledger::Found::default());
    let position = databases.run(other).await.position;
    assert!(
        position.end().is_none() && position.next_batch == 0,
        "{position:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_a_forgotten_job_never_comes_again() {
    let databases = Databases::new(TABLE, ROWS).await;
    let run = databases.opened("t").await;
    ledger::forget(&databases.target, &run.spec, &run.plan)
        .await
        .unwrap();
    assert!(databases.opened("t").await.fence.epoch > run.fence.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_kept() {
    let databases = Databases::new("CREATE TABLE t (a text, b int, PRIMARY KEY (a, b))", "").await;
    let run = databases.opened("t").await;
    assert_eq!(run.position.settled, None);
    let settled = key(&["it's {a,\"b\"} \\ NULL", "7"]);
    ledger::set_settled(
        &databases.target,
        &run.spec,
        &run.plan,
        run.fence.epoch,
        Some(&settled),
        None,
    )
    .await
    .unwrap();
    assert_eq!(databases.opened("t").await.position.settled, Some(settled));
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_the_ledger_can_be_raced() {
    let databases = Databases::new("", "").await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(session(&databases.target_url, Side::Target).await);
    }
    let results =
        futures_util::future::join_all(sessions.iter().map(|session| ledger::ensure(session, None))).await;
    for result in results {
        result.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM longhaul.format").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_create_it_the_error_says_what_to_run() {
    let databases = Databases::new("", "").await;
    // Another test may have made the role.
    _ = try_sql(&databases.target_url, "CREATE ROLE poor LOGIN").await;
    let url = databases.target_url.replace("postgres@", "poor@");
    let poor = session(&url, Side::Target).await;
    let error = ledger::ensure(&poor, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Privilege, "{}", error.chain());
    assert!(
        error
            .hint()
            .contains("CREATE SCHEMA longhaul AUTHORIZATION \"poor\""),
        "{}",
        error.hint()
    );
    sql(&databases.target_url, "CREATE SCHEMA longhaul AUTHORIZATION poor").await;
    ledger::ensure(&poor, None)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}
