//! A throwaway server loses by a failover, and by going back, what it says that it loses, and nothing else.

use crate::shared::{sql, value};
use crate::standby::until_received;
use longhaul::postgres::{ServerOptions, ThrowawayServer};
use tokio::task::block_in_place;

const NUMBERS: &str = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t";
const IDENTIFIER: &str = "SELECT system_identifier FROM pg_control_system()";

/// A server with a table that holds a 1.
async fn server() -> ThrowawayServer {
    let options = ServerOptions {
        fsync: false,
        ..ServerOptions::default()
    };
    let server = block_in_place(|| ThrowawayServer::start(&options)).unwrap();
    sql(&server.url("postgres"), "CREATE TABLE t AS SELECT 1 AS n").await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_what_the_standby_had_not_received() {
    let mut server = server().await;
    let url = server.url("postgres");
    let standby = block_in_place(|| server.standby()).unwrap();
    let standby_url = standby.url("postgres");
    assert_eq!(value(&standby_url, NUMBERS).await, "1", "committed before");
    sql(&url, "INSERT INTO t VALUES (2)").await;
    until_received(&url, &standby_url).await;
    block_in_place(|| standby.stop_receiving()).unwrap();
    sql(&url, "INSERT INTO t VALUES (3)").await;
    let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
    assert_eq!(value(&standby_url, receivers).await, "0");
    assert_eq!(value(&standby_url, NUMBERS).await, "1 2");
    assert_eq!(value(&url, NUMBERS).await, "1 2 3");

    let identifier = value(&url, IDENTIFIER).await;
    block_in_place(|| server.fail_over_to(standby)).unwrap();
    assert_eq!(server.url("postgres"), url, "the port is the same");
    assert_eq!(value(&url, NUMBERS).await, "1 2");
    assert_eq!(value(&url, IDENTIFIER).await, identifier);
    let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(value(&url, timeline).await, "2");
    sql(&url, "INSERT INTO t VALUES (4)").await;
    assert_eq!(value(&url, NUMBERS).await, "1 2 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_back_has_what_was_committed_before_its_backup() {
    let server = server().await;
    let url = server.url("postgres");
    let backup = block_in_place(|| server.backup()).unwrap();
    sql(&url, "INSERT INTO t VALUES (2)").await;
    let identifier = value(&url, IDENTIFIER).await;
    block_in_place(|| server.restore(backup)).unwrap();
    assert_eq!(value(&url, NUMBERS).await, "1");
    assert_eq!(value(&url, IDENTIFIER).await, identifier);
    sql(&url, "INSERT INTO t VALUES (3)").await;
    assert_eq!(value(&url, NUMBERS).await, "1 3");
}
