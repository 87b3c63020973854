//! A network between client and server that fails at the worst moment: when COMMIT comes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What a proxy does once COMMIT has come by.
#[derive(Clone, Copy, PartialEq)]
pub enum Cut {
    /// The server gets COMMIT; its answer is lost.
    Answer,
    /// COMMIT is lost.
    Request,
}

/// A proxy in front of a server; cuts every connection once `armed` and COMMIT comes by.
pub async fn proxy(port: u16, armed: Arc<AtomicBool>, cut: Cut) -> u16 {
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
