//! The network and the servers fail at the worst moment; every row is there once all the same.

use crate::proxy::{Cut, proxy};
use crate::servers::{Databases, batch, range, session, spec, sql, value};
use longhaul::postgres::{Kind, Retry, ServerOptions, Side, StopMode, ThrowawayServer};
use longhaul::table::OnConflict;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
