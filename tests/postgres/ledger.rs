//! The ledger knows what is there, whoever asks, and lets only the last run write.

use crate::servers::{Databases, key, range, request, session, sql, try_sql, value};
use longhaul::postgres::{CopyMode, Kind, Side, Unmetered, copy_range, ledger};
use longhaul::table::KeyRange;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";
const ROWS: &str = "INSERT INTO t SELECT i, 'x' || i FROM generate_series(1, 1000) i";

#[tokio::test(flavor = "multi_thread")]
async fn gaps_between_ranges_are_seen_in_the_sources_order() {
    let databases = Databases::new(TABLE, ROWS).await;
    let (plan, epoch) = databases.opened("t").await;
    // As text, 1000 < 200 < 9: the target must not be asked which is greater.
    for (batch, low, high) in [
        (0, None, "9"),
        (1, Some("9"), "30"),
        (2, Some("200"), "300"),
        (3, Some("100"), "110"),
        (7, Some("300"), "999"),
    ] {
        let request = request(epoch, batch, range(low, high), CopyMode::Append);
        copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered)
            .await
            .unwrap();
    }
    let state = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap();
    assert_eq!(
        state.segments,
        [
            range(None, "30"),
            range(Some("100"), "110"),
            range(Some("200"), "999")
        ]
    );
    assert!(state.found && state.epoch == epoch + 1);
    assert_eq!(
        (state.rows, state.batches, state.next_batch),
        (30 + 10 + 799, 5, 8)
    );
    // Fill the gaps, ending where the next range begins.
    let mut batch = state.next_batch;
    let stops = [
        (Some("30"), Some("100")),
        (Some("110"), Some("200")),
        (Some("999"), None),
    ];
    for (low, stop) in stops {
        let (mut low, stop) = (low.map(|low| key(&[low])), stop.map(|stop| key(&[stop])));
        while let Some(high) = longhaul::postgres::cursor::next_range_end(
            &databases.source,
            &plan,
            low.as_ref(),
            stop.as_ref(),
            40,
        )
        .await
        .unwrap()
        {
            let request = request(
                state.epoch,
                batch,
                KeyRange {
                    low,
                    high: high.clone(),
                },
                CopyMode::Append,
            );
            copy_range(&databases.source, &databases.target, &plan, &request, &Unmetered)
                .await
                .unwrap();
            (low, batch) = (Some(high), batch + 1);
        }
    }
    databases.assert_same("t").await;
    let state = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap();
    assert_eq!((state.segments, state.rows), (vec![range(None, "1000")], 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_of_an_older_epoch_is_waited_for_and_then_refused() {
    let databases = Databases::new(TABLE, ROWS).await;
    let (plan, epoch) = databases.opened("t").await;
    // A forgotten process in the middle of a batch.
    let zombie = crate::servers::client(&databases.target_url).await;
    zombie
        .batch_execute(&format!(
            "BEGIN; SELECT FROM longhaul.jobs WHERE job = 'j' AND epoch = {epoch} FOR SHARE"
        ))
        .await
        .unwrap();
    zombie.batch_execute("INSERT INTO t VALUES (1, 'x1'); INSERT INTO longhaul.batches VALUES ('j', 'public.t', 0, 0, '{}', '{1}', 1, 1, 9, 9)").await.unwrap();
    let opening = ledger::open(&databases.target, &databases.source, "j", &plan);
    tokio::pin!(opening);
    let waits = tokio::time::timeout(std::time::Duration::from_millis(300), &mut opening).await;
    assert!(waits.is_err(), "the batch of the older epoch is not over");
    zombie.batch_execute("COMMIT").await.unwrap();
    let state = opening.await.unwrap();
    assert_eq!(
        (state.rows, state.segments),
        (1, vec![range(None, "1")]),
        "what it committed is seen"
    );
    let old = request(epoch, 1, range(Some("1"), "5"), CopyMode::Append);
    let error = copy_range(&databases.source, &databases.target, &plan, &old, &Unmetered)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{}", error.chain());
    assert_eq!(
        ledger::set_settled(&databases.target, "j", epoch, None)
            .await
            .unwrap_err()
            .kind(),
        Kind::Fenced
    );
    assert_eq!(value(&databases.target_url, "SELECT count(*) FROM t").await, "1");
    // The session of the refused batch serves the next.
    let new = request(state.epoch, 1, range(Some("1"), "5"), CopyMode::Append);
    let source = session(&databases.source_url, Side::Source).await;
    copy_range(&source, &databases.target, &plan, &new, &Unmetered)
        .await
        .unwrap();
    assert_eq!(value(&databases.target_url, "SELECT count(*) FROM t").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_table_is_not_taken_over() {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)",
        "",
    )
    .await;
    databases.opened("t").await;
    let plan = databases.examine("other").await.unwrap();
    let error = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Ledger);
    assert!(
        error.to_string().contains("public.t") && error.to_string().contains("public.other"),
        "{error}"
    );
    ledger::forget(&databases.target, "j").await.unwrap();
    let state = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap();
    assert!(
        !state.found && state.segments.is_empty() && state.next_batch == 0,
        "{state:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_a_forgotten_job_never_comes_again() {
    let databases = Databases::new(TABLE, ROWS).await;
    let (plan, epoch) = databases.opened("t").await;
    ledger::forget(&databases.target, "j").await.unwrap();
    let state = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap();
    assert!(state.epoch > epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_kept() {
    let databases = Databases::new("CREATE TABLE t (a text, b int, PRIMARY KEY (a, b))", "").await;
    let (plan, epoch) = databases.opened("t").await;
    let settled = key(&["it's {a,\"b\"} \\ NULL", "7"]);
    ledger::set_settled(&databases.target, "j", epoch, Some(&settled))
        .await
        .unwrap();
    let state = ledger::open(&databases.target, &databases.source, "j", &plan)
        .await
        .unwrap();
    assert_eq!(state.settled, Some(settled));
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_the_ledger_can_be_raced() {
    let databases = Databases::new("", "").await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(session(&databases.target_url, Side::Target).await);
    }
    let results = futures_util::future::join_all(sessions.iter().map(ledger::ensure)).await;
    for result in results {
        result.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM longhaul.format").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_later_version_is_refused() {
    let databases = Databases::new("", "").await;
    ledger::ensure(&databases.target).await.unwrap();
    sql(&databases.target_url, "UPDATE longhaul.format SET version = 99").await;
    let error = ledger::ensure(&databases.target).await.unwrap_err();
    assert!(
        error.kind() == Kind::Ledger && error.to_string().contains("99"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_create_it_the_error_says_what_to_run() {
    let databases = Databases::new("", "").await;
    // Another test may have made the role.
    _ = try_sql(&databases.target_url, "CREATE ROLE poor LOGIN").await;
    let url = databases.target_url.replace("postgres@", "poor@");
    let poor = session(&url, Side::Target).await;
    let error = ledger::ensure(&poor).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Privilege, "{}", error.chain());
    assert!(
        error
            .hint()
            .contains("CREATE SCHEMA longhaul AUTHORIZATION \"poor\""),
        "{}",
        error.hint()
    );
    sql(&databases.target_url, "CREATE SCHEMA longhaul AUTHORIZATION poor").await;
    ledger::ensure(&poor)
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}
