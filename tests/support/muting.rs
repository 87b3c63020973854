//! A network that falls silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of a server, such as a balancer that has lost it: once `muted`, what is connected stays open, takes
/// what is sent, and gets nothing through. New connections work.
pub async fn muting_proxy(port: u16, muted: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let may_mute = !muted.load(Ordering::SeqCst);
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let muted = may_mute.then(|| Arc::clone(&muted));
            tokio::spawn(pass_on(from_client, to_server, muted.clone()));
            tokio::spawn(pass_on(from_server, to_client, muted));
        }
    });
    own
}

async fn pass_on(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    muted: Option<Arc<AtomicBool>>,
) {
    let is_muted = || muted.as_ref().is_some_and(|muted| muted.load(Ordering::SeqCst));
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if !is_muted() && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The other end is not told that this one has gone.
    if is_muted() {
        std::future::pending::<()>().await;
    }
}
