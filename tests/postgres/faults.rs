//! The network and the servers fail at the worst moment; every row is there once all the same.

use crate::proxy::{Cut, proxy};
use crate::servers::{Databases, range, request, session, sql, value};
use longhaul::postgres::{
    CopyMode, CopyRequest, Kind, Retry, ServerOptions, Side, StopMode, ThrowawayServer, Unmetered, copy_range,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

async fn lose(cut: Cut, committed: &str) {
    let databases = Databases::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, repeat('x', i % 99) FROM generate_series(1, 5000) i",
    )
    .await;
    let (plan, epoch) = databases.opened("t").await;
    let (server, database) = databases.target_url.rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1.parse().unwrap();
    let armed = Arc::new(AtomicBool::new(true));
    let port = proxy(port, Arc::clone(&armed), cut).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let target = session(&url, Side::Target).await;
    let wanted = request(epoch, 0, range(None, "5000"), CopyMode::Append);
    let error = copy_range(&databases.source, &target, &plan, &wanted, &Unmetered)
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
    let again = CopyRequest {
        repeat: true,
        ..wanted
    };
    let receipt = copy_range(&databases.source, &target, &plan, &again, &Unmetered)
        .await
        .unwrap();
    assert_eq!((receipt.rows, receipt.rows_written), (5000, 5000));
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
    longhaul::postgres::ledger::ensure(&target).await.unwrap();
    let table: longhaul::table::TableName = "t".parse().unwrap();
    let wanted = longhaul::postgres::ExamineRequest {
        source_table: table.clone(),
        target_table: table,
        on_conflict: Default::default(),
    };
    let plan = longhaul::postgres::examine(&databases.source, &target, &wanted)
        .await
        .unwrap();
    let epoch = longhaul::postgres::ledger::open(&target, &databases.source, "j", &plan)
        .await
        .unwrap()
        .epoch;
    let first = request(epoch, 0, range(None, "500"), CopyMode::Append);
    copy_range(&databases.source, &target, &plan, &first, &Unmetered)
        .await
        .unwrap();
    server.stop(StopMode::Immediate).unwrap();
    let second = request(epoch, 1, range(Some("500"), "1000"), CopyMode::Append);
    let error = copy_range(&databases.source, &target, &plan, &second, &Unmetered)
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
    for (batch, repeat) in [(first, true), (second, true)] {
        copy_range(
            &databases.source,
            &target,
            &plan,
            &CopyRequest { repeat, ..batch },
            &Unmetered,
        )
        .await
        .unwrap();
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
        let (plan, epoch) = databases.opened("t").await;
        sql(
            if on_source {
                &databases.source_url
            } else {
                &databases.target_url
            },
            "DROP TABLE t",
        )
        .await;
        let wanted = request(epoch, 0, range(None, "1"), CopyMode::Append);
        let error = copy_range(&databases.source, &databases.target, &plan, &wanted, &Unmetered)
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
