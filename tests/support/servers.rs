//! What tests of the library and tests of the binary share: two servers for all of them, and a driver's session.

use longhaul::postgres::{ServerOptions, ThrowawayServer};
use std::process::Command;
use std::sync::OnceLock;

/// One server of each side, for as long as the tests run.
pub fn pair() -> &'static (ThrowawayServer, ThrowawayServer) {
    static PAIR: OnceLock<(ThrowawayServer, ThrowawayServer)> = OnceLock::new();
    PAIR.get_or_init(|| {
        let options = ServerOptions {
            fsync: false,
            ..ServerOptions::default()
        };
        let start = || ThrowawayServer::start(&options).expect("a server");
        let pair = (start(), start());
        // Statics are not dropped: what removes the servers is a shell that waits for this process to end.
        for server in [&pair.0, &pair.1] {
            let script = "while kill -0 $1 2>/dev/null; do sleep 0.2; done
                kill -QUIT $(head -1 $2/postmaster.pid); sleep 0.5; rm -rf ${2%/data}";
            let (pid, data) = (std::process::id().to_string(), server.data());
            let mut shell = Command::new("sh");
            shell.args([
                "-c",
                "setsid sh -c \"$1\" sh $2 $3 >/dev/null 2>&1 </dev/null &",
                "sh",
                script,
                &pid,
            ]);
            assert!(shell.arg(data).status().expect("a shell").success());
        }
        pair
    })
}

/// Runs SQL with a driver session of its own, each value as text.
pub async fn sql(url: &str, text: &str) -> Vec<Vec<Option<String>>> {
    try_sql(url, text)
        .await
        .unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

pub async fn try_sql(url: &str, text: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let client = client(url).await;
    let messages = client.simple_query(text).await?;
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

pub async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect(url);
    tokio::spawn(connection);
    client
}

pub async fn value(url: &str, text: &str) -> String {
    sql(url, text)
        .await
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next().flatten())
        .unwrap_or_default()
}
