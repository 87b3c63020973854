//! The network and the servers fail at the worst moment; every row is there once all the same.

use crate::servers::{Databases, range, request, session, sql, value};
use longhaul::postgres::{
    CopyMode, CopyRequest, Kind, Retry, ServerOptions, Side, StopMode, ThrowawayServer, Unmetered, copy_range,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What a proxy does once COMMIT has come by.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// The server gets COMMIT; its answer is lost.
    Answer,
    /// COMMIT is lost.
    Request,
}

/// A proxy in front of a server; cuts every connection once `armed` and COMMIT comes by.
async fn proxy(port: u16, armed: Arc<AtomicBool>, cut: Cut) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(forward(client, server, Arc::clone(&armed), cut));
        }
    });
    own
}

async fn forward(client: TcpStream, server: TcpStream, armed: Arc<AtomicBool>, cut: Cut) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (deaf, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (is_deaf, has_committed) = (Arc::clone(&deaf), Arc::clone(&committed));
    let back = tokio::spawn(async move {
        let (mut buffer, mut kept) = (vec![0; 1 << 16], Vec::new());
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if is_deaf.load(Ordering::SeqCst) {
                // The answer is kept from the client; that it came is what the cut waits for.
                kept.extend_from_slice(&buffer[..length]);
                if kept.windows(7).any(|window| window == b"COMMIT\0") {
                    has_committed.notify_one();
                }
            } else if to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    });
    let (mut buffer, mut tail) = (vec![0; 1 << 16], Vec::new());
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let seen = &buffer[..length];
        tail.extend_from_slice(seen);
        let commits = tail.windows(9).any(|window| window == b"; COMMIT\0");
        if commits && armed.swap(false, Ordering::SeqCst) {
            if cut == Cut::Answer {
                deaf.store(true, Ordering::SeqCst);
                to_server.write_all(seen).await.unwrap();
                committed.notified().await;
            }
            break;
        }
        tail.drain(..tail.len().saturating_sub(8));
        if to_server.write_all(seen).await.is_err() {
            break;
        }
    }
    back.abort();
}

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
