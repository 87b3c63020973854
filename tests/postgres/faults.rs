//! The network and the servers fail at the worst moment; every row is there once all the same.

use crate::muting::muting_proxy;
use crate::proxy::{Cut, proxy};
use crate::servers::{Databases, Run, batch, client, range, session, spec, sql, value};
use longhaul::postgres::{
    Kind, Meter, Pool, Retry, ServerOptions, Session, Side, StopMode, ThrowawayServer, Unmetered, copy_batch,
};
use longhaul::table::OnConflict;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

async fn lose(cut: Cut, committed: &str) {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, repeat('x', i % 99) FROM generate_series(1, 5000) i",
    )
    .await;
    let run = databases.opened("t").await;
    let (server, database) = databases.target_url.rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
    let armed = Arc::new(AtomicBool::new(true));
    let port = proxy(port, Arc::clone(&armed), cut).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let target = session(&url, Side::Target).await;
    let wanted = batch(0, range(None, "5000"));
    let error = run
        .copy(&databases.source, &target, &wanted, false)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (Kind::Transient, Retry::Retry),
        "{}",
        error.chain()
    );
    assert!(!armed.load(Ordering::SeqCst), "the proxy has cut");
    assert_eq!(
        value(&databases.target_url, "SELECT count(*) FROM t").await,
        committed
    );
    let target = session(&url, Side::Target).await;
    let tally = run.copy(&databases.source, &target, &wanted, true).await.unwrap();
    assert_eq!((tally.rows, tally.written(), tally.batches), (5000, 5000, 1));
    assert_eq!(
        value(
            &databases.target_url,
            "SELECT sum(rows) || ' ' || count(*) FROM longhaul.batches"
        )
        .await,
        "5000 1"
    );
    databases.assert_same("t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_in_the_ledger() {
    lose(Cut::Answer, "5000").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_lost_is_done_again() {
    lose(Cut::Request, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_and_comes_back_has_every_row_once() {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let start = move || ThrowawayServer::start(&options).expect("a server");
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i",
    )
    .await;
    let url = server.url("postgres");
    sql(&url, "CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let target = session(&url, Side::Target).await;
    let run = crate::servers::run(&databases.source, &target, spec("t", OnConflict::Error))
        .await
        .unwrap();
    let first = batch(0, range(None, "500"));
    run.copy(&databases.source, &target, &first, false).await.unwrap();
    server.stop(StopMode::Immediate).unwrap();
    let second = batch(1, range(Some("500"), "1000"));
    let error = run
        .copy(&databases.source, &target, &second, false)
        .await
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Retry, "{}", error.chain());
    let error = longhaul::postgres::connect(&url.parse().unwrap(), Side::Target, "x")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (Kind::Unreachable, Retry::Retry),
        "{}",
        error.chain()
    );
    server.restart().unwrap();
    let target = session(&url, Side::Target).await;
    for batch in [first, second] {
        run.copy(&databases.source, &target, &batch, true).await.unwrap();
    }
    assert_eq!(
        value(
            &url,
            "SELECT count(*) || ' ' || (SELECT sum(rows) FROM longhaul.batches) FROM t"
        )
        .await,
        "1000 1000"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_dropped_meanwhile_is_no_transient_error() {
    for on_source in [true, false] {
        let databases =
            Databases::new("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)").await;
        let run = databases.opened("t").await;
        sql(
            if on_source {
                &databases.source_url
            } else {
                &databases.target_url
            },
            "DROP TABLE t",
        )
        .await;
        let error = databases
            .copy(&run, &batch(0, range(None, "1")))
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.side() == Side::Source),
            (Kind::UndefinedObject, on_source),
            "{}",
            error.chain()
        );
    }
}

/// Mutes a proxy once some rows have passed.
struct Mutes(Arc<AtomicBool>);

impl Meter for Mutes {
    fn pass<'a>(&'a self, _: u64, _: u64) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.0.store(true, Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    }
}

/// A batch whose connection to one side falls silent half-way: the error comes soon, and what it held is let go.
async fn fall_silent(side: Side) {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, repeat('x', 999) FROM generate_series(1, 20000) i",
    )
    .await;
    let run = databases.opened("t").await;
    let direct = match side {
        Side::Source => &databases.source_url,
        Side::Target => &databases.target_url,
    };
    let (server, database) = direct.rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
    let muted = Arc::new(AtomicBool::new(false));
    let port = muting_proxy(port, Arc::clone(&muted)).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let name = format!("longhaul silent {side}");
    let pool = Pool::new(url.parse().unwrap(), side, name.clone(), 1);
    let lease = pool.acquire().await.unwrap();
    let (source, target): (&Session, &Session) = match side {
        Side::Source => (&lease, &databases.target),
        Side::Target => (&databases.source, &lease),
    };
    let Run {
        spec, plan, fence, ..
    } = &run;
    let (wanted, meter) = (batch(0, range(None, "20000")), Mutes(muted));
    let copied = copy_batch(source, target, plan, spec, fence, &wanted, false, &meter);
    // Before version 14 a server notices nothing itself, and is asked later.
    let bound = match databases.source.server_version() {
        140_000.. => 50,
        _ => 120,
    };
    let copied = tokio::time::timeout(Duration::from_secs(bound), copied).await;
    let error = copied.expect("it ends").unwrap_err();
    assert_eq!((error.side(), error.kind()), (side, Kind::Transient));
    assert!(error.chain().contains("waits for this side"), "{}", error.chain());
    let holding = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND xact_start IS NOT NULL"
    );
    assert_eq!(value(direct, &holding).await, "1", "the server has not noticed");
    drop(lease);
    let lease = pool.acquire().await.unwrap();
    assert_eq!(
        value(direct, &holding).await,
        "0",
        "it was ended before another attempt"
    );
    let (source, target): (&Session, &Session) = match side {
        Side::Source => (&lease, &databases.target),
        Side::Target => (&databases.source, &lease),
    };
    let copied = copy_batch(source, target, plan, spec, fence, &wanted, true, &Unmetered).await;
    assert_eq!(
        copied.unwrap_or_else(|error| panic!("{}", error.chain())).rows,
        20000
    );
    databases.assert_same("t").await;
}

/// Whoever waits for a lock brings no byte either, for as long as it takes.
async fn wait_for_a_lock() {
    let databases = Databases::new("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (7)").await;
    let plan = databases.examine("t").await.unwrap();
    let blocker = client(&databases.source_url).await;
    blocker.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let highest = longhaul::postgres::cursor::highest_key(&databases.source, &plan);
    let (highest, ()) = tokio::join!(highest, async {
        tokio::time::sleep(Duration::from_secs(35)).await;
        blocker.batch_execute("COMMIT").await.unwrap();
    });
    assert!(
        highest
            .unwrap_or_else(|error| panic!("{}", error.chain()))
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_answers_is_cut_and_one_that_works_is_not() {
    tokio::join!(
        fall_silent(Side::Source),
        fall_silent(Side::Target),
        wait_for_a_lock()
    );
}
