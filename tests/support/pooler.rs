//! A connection pooler as pgbouncer is one: it answers log-ins itself and makes up a process number. In transaction mode
//! all clients share one server, which each has until its transaction ends; in session mode each has one of its own.

use crate::hostile::{message, welcome};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// The port of a pooler in front of a server's database.
pub async fn pooler(port: u16, database: &'static str, by_transaction: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let shared = Arc::new(Mutex::new(server(port, database).await));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut client = welcomed(client).await?;
                if by_transaction {
                    return take_turns(client, &shared).await;
                }
                let mut server = server(port, database).await;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    own
}

async fn welcomed(mut client: TcpStream) -> Option<TcpStream> {
    loop {
        let length = client.read_u32().await.ok()?;
        let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
        client.read_exact(&mut startup).await.ok()?;
        if startup == [4, 210, 22, 47] {
            client.write_all(b"N").await.ok()?;
            continue;
        }
        client.write_all(&welcome(1_999_999_999)).await.ok()?;
        return Some(client);
    }
}

/// A server connection, logged in.
async fn server(port: u16, database: &str) -> TcpStream {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let body = format!("\0\x03\0\0user\0postgres\0database\0{database}\0\0");
    let startup = message(b'-', body.as_bytes());
    server.write_all(&startup[1..]).await.unwrap();
    while read(&mut server).await.unwrap()[0] != b'Z' {}
    server
}

async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let tag = stream.read_u8().await.ok()?;
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).await.ok()?;
    Some(message(tag, &body))
}

/// Simple queries only.
async fn take_turns(mut client: TcpStream, shared: &Mutex<TcpStream>) -> Option<(u64, u64)> {
    loop {
        let mut query = read(&mut client).await?;
        let mut server = shared.lock().await;
        while query[0] == b'Q' {
            server.write_all(&query).await.unwrap();
            let status = loop {
                let answer = read(&mut server).await.unwrap();
                client.write_all(&answer).await.ok()?;
                if answer[0] == b'Z' {
                    break answer[5];
                }
            };
            if status == b'I' {
                break;
            }
            query = read(&mut client).await?;
        }
    }
}
