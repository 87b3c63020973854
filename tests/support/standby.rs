//! What tests of a failover wait for.

use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the standby has replayed all that its server has committed by now.
pub async fn until_received(server: &str, standby: &str) {
    let position = ask(server, "SELECT pg_current_wal_flush_lsn()::text").await;
    let query = format!("SELECT (pg_last_wal_replay_lsn() >= '{position}')::text");
    let end = Instant::now() + DEADLINE;
    while ask(standby, &query).await != "true" {
        assert!(
            Instant::now() < end,
            "the standby is not at {position} within {DEADLINE:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn ask(url: &str, query: &str) -> String {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect(url);
    tokio::spawn(connection);
    client.query_one(query, &[]).await.expect(query).get(0)
}
