//! Through a connection pooler.

use crate::pooler::pooler;
use crate::servers::{pair, value};
use longhaul::postgres::{Kind, Retry, Side, connect};

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_gives_the_server_away_is_refused_and_left_as_it_was() {
    let server = &tokio::task::spawn_blocking(pair).await.unwrap().0;
    let port = pooler(server.port(), "postgres", true).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    for side in [Side::Source, Side::Target] {
        let error = connect(&url.parse().unwrap(), side, "longhaul test")
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.retry()), (Kind::Unsupported, Retry::Never));
        let words = format!("the connection pooler at 127.0.0.1:{port}/postgres");
        assert!(error.chain().contains(&words), "{}", error.chain());
        assert!(error.hint().contains("session mode"), "{}", error.hint());
    }
    // Others use that server after us: it is not read-only, and speaks as it did.
    assert_eq!(value(&url, "SHOW default_transaction_read_only").await, "off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_keeps_a_session_its_server_is_fine() {
    let server = &tokio::task::spawn_blocking(pair).await.unwrap().0;
    let port = pooler(server.port(), "postgres", false).await;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    for side in [Side::Source, Side::Target] {
        let connected = connect(&url.parse().unwrap(), side, "longhaul test").await;
        connected.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
}
