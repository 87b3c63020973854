//! The same service for other processes: gRPC on a Unix socket in the state directory, and on TCP where that is asked for.
//! Bytes in, bytes out: what the messages mean is the frontend's.
//!
//! This file serves one connection, wherever it comes from; `unix` and `tcp` accept them, `tls` and `api_key` say whose
//! they may be, `grpc` answers one request.

mod api_key;
mod grpc;
mod health;
mod reflection;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod unix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::Status;

use super::{Caller, Service};

#[cfg(test)]
pub(super) use reflection::DESCRIPTORS;

pub use api_key::{ApiKeyError, ApiKeys};
pub use grpc::{BytesCodec, CALLER};
pub use tcp::{ListeningOnTcp, TcpOptions, listen_on_tcp};
pub use tls::{Tls, TlsError};
pub use unix::{Listening, is_trusted, listen};

/// A connection that has asked nothing for so long is closed; one that waits for an answer is not.
const IDLE_FOR: Duration = Duration::from_secs(60);
/// A client that is stopped or gone is noticed after these two, whatever it waits for.
const ASK_EVERY: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A connection that is sent away has so long for what is being answered.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Why nobody can reach the service.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The Unix socket cannot be made.
    #[error("cannot listen on the socket {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Others reach the address, and nothing would keep them out.
    #[error("{address} is reached from other machines, and {missing}")]
    Unprotected {
        /// The address.
        address: SocketAddr,
        /// What would keep them out.
        missing: &'static str,
    },
}

/// What is behind a door: the service, or the way to whoever serves now.
pub trait Behind: Send + Sync + 'static {
    /// Answers one RPC, named by its path as in gRPC. Dropped, the answer is wanted no more.
    fn call<'a>(
        &'a self,
        caller: Caller,
        path: &'a str,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>>;

    /// Whether it acts on what it is told.
    fn acts(&self) -> bool;
}

impl Behind for Service {
    fn call<'a>(
        &'a self,
        caller: Caller,
        path: &'a str,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Status>> {
        Box::pin(async move { Self::call(self, caller, path, &request).await.map(Bytes::from) })
    }

    fn acts(&self) -> bool {
        self.check().is_ok()
    }
}

/// What is behind a connection, and who may go in.
#[derive(Clone)]
struct Door {
    behind: Arc<dyn Behind>,
    /// Whoever comes in by it; at a door that is trusted, what it says of itself goes before.
    caller: Caller,
    /// `None` where whoever reaches the door may enter.
    keys: Option<Arc<ApiKeys>>,
    idle_for: Duration,
    /// Turns true when everybody is to leave.
    closing: watch::Receiver<bool>,
}

impl Door {
    /// Answers one client, until it goes away, has been idle for too long, or the door closes.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let (waiting, mut is_busy) = watch::channel(0_usize);
        let (idle_for, mut closing) = (self.idle_for, self.closing.clone());
        let respond = hyper::service::service_fn(move |request| {
            let waits = Waits::begin(&waiting);
            let answer = grpc::answer(self.clone(), request);
            async move {
                let answer = answer.await;
                drop(waits);
                answer
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(ASK_EVERY)
            .keep_alive_timeout(ANSWER_WITHIN)
            // As Temporal's servers: each long poll is a stream, and a client has as many as it waits for things.
            .max_concurrent_streams(None)
            .serve_connection(TokioIo::new(stream), respond);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = idles(&mut is_busy, idle_for) => None,
            // Whoever could open and close it is gone.
            _ = closing.wait_for(|closing| *closing) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // Says so first: a request that crosses it on the way is sent again by the client.
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(LEAVE_WITHIN, connection)
                    .await
                    .unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client went away");
        }
    }
}

/// Waits until nobody has waited for an answer for so long.
async fn idles(waiting: &mut watch::Receiver<usize>, idle_for: Duration) {
    loop {
        // The service that has the other end lives as long as the connection, beside which this waits.
        if waiting.wait_for(|waiting| *waiting == 0).await.is_err() {
            return std::future::pending().await;
        }
        if tokio::time::timeout(idle_for, waiting.changed()).await.is_err() {
            return;
        }
    }
}

/// A request that is being answered.
struct Waits(watch::Sender<usize>);

impl Waits {
    fn begin(waiting: &watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}
