//! The same service for other processes: gRPC on a Unix socket in the state directory. Bytes in, bytes out: what the
//! messages mean is the frontend's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status};

use super::{Caller, Service};

/// A connection that has asked nothing for so long is closed; one that waits for an answer is not.
const IDLE_FOR: Duration = Duration::from_secs(60);
/// A client that is stopped or gone is noticed after these two, whatever it waits for.
const ASK_EVERY: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why nobody can reach the service.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the socket {}", .path.display())]
pub struct ListenError {
    path: PathBuf,
    source: std::io::Error,
}

/// Answers on a Unix socket until the returned guard is dropped. A socket that a dead process left is replaced: the caller
/// holds the lock of the state directory.
pub fn listen(service: Service, path: &Path) -> Result<Listening, ListenError> {
    let failed = |source| ListenError {
        path: path.to_owned(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    let left = Arc::new(Notify::new());
    let task = tokio::spawn(accept(service, listener, Arc::clone(&left)));
    Ok(Listening {
        task,
        path: path.to_owned(),
        left,
    })
}

/// The listening socket; dropping it ends the listening and removes the file.
pub struct Listening {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
    /// Tells that a client has gone away.
    pub left: Arc<Notify>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a process of that user may be spoken to: it is this one's user, or root, who can do as much without a socket.
#[must_use]
pub fn is_trusted(user_id: u32) -> bool {
    user_id == rustix::process::geteuid().as_raw() || user_id == 0
}

async fn accept(service: Service, listener: UnixListener, left: Arc<Notify>) {
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the socket failed");
                // Out of file descriptors, most likely: it passes, but not at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Before a byte is read.
        match stream.peer_cred() {
            Ok(peer) if is_trusted(peer.uid()) => {
                let served = serve(service.clone(), stream, IDLE_FOR);
                let left = Arc::clone(&left);
                connections.spawn(async move {
                    served.await;
                    left.notify_one();
                });
            }
            Ok(peer) => tracing::warn!(
                user_id = peer.uid(),
                "another user was turned away from the socket"
            ),
            Err(error) => tracing::warn!(%error, "somebody unknown was turned away from the socket"),
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one client, until it goes away or has been idle for too long.
async fn serve(service: Service, stream: UnixStream, idle_for: Duration) {
    let (waiting, mut is_busy) = watch::channel(0_usize);
    let respond = hyper::service::service_fn(move |request| {
        let waits = Waits::begin(&waiting);
        let answer = respond(service.clone(), request);
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
        .serve_connection(TokioIo::new(stream), respond);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a client went away");
            }
        }
        () = idles(&mut is_busy, idle_for) => tracing::debug!("an idle client was sent away"),
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

async fn respond(
    service: Service,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<tonic::body::Body>, std::convert::Infallible> {
    let rpc = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut grpc = tonic::server::Grpc::new(BytesCodec);
    Ok(grpc
        .unary(Unary { service, rpc }, request.map(tonic::body::Body::new))
        .await)
}

struct Unary {
    service: Service,
    rpc: String,
}

impl tonic::server::UnaryService<Bytes> for Unary {
    type Response = Bytes;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (service, rpc) = (self.service.clone(), self.rpc.clone());
        Box::pin(async move {
            let answer = service.call(Caller::Remote, &rpc, &request.into_inner()).await?;
            Ok(Response::new(answer.into()))
        })
    }
}

/// Passes messages on as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
    use temporalio_protos::temporal::api::workflowservice::v1::PollWorkflowTaskQueueRequest;
    use tokio::io::AsyncReadExt;

    use super::super::journal::{MemoryJournal, Store};
    use super::super::{Clock, Mode, NAMESPACE};
    use super::*;

    const IDLE: Duration = Duration::from_millis(300);

    fn served() -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        let store = Store::open(Arc::new(MemoryJournal::default())).expect("a journal");
        let service = Service::open(store, Clock::System, Mode::Serve).expect("a service");
        (ours, tokio::spawn(serve(service, theirs, IDLE)))
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_sent_away() {
        let (mut client, served) = served();
        let mut heard = Vec::new();
        let read = tokio::time::timeout(10 * IDLE, client.read_to_end(&mut heard));
        read.await
            .expect("the connection is closed")
            .expect("and not broken");
        served.await.expect("it has ended");
    }

    #[tokio::test]
    async fn a_client_that_waits_for_an_answer_is_left_to_wait() {
        let (client, served) = served();
        let client = std::sync::Mutex::new(Some(client));
        let connector = tower::service_fn(move |_| {
            let stream = client.lock().expect("nobody panicked").take();
            async move { stream.map(TokioIo::new).ok_or(std::io::Error::other("used")) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://socket");
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .expect("connected");
        let poll = PollWorkflowTaskQueueRequest {
            namespace: NAMESPACE.into(),
            task_queue: Some(TaskQueue {
                name: "q".into(),
                ..Default::default()
            }),
            identity: "1@host".into(),
            ..Default::default()
        };
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.expect("ready");
        let path = http::uri::PathAndQuery::from_static("/WorkflowService/PollWorkflowTaskQueue");
        let request = Request::new(Bytes::from(prost::Message::encode_to_vec(&poll)));
        let long_poll = grpc.unary(request, path, BytesCodec);
        let answer = tokio::time::timeout(4 * IDLE, long_poll).await;
        assert!(answer.is_err(), "it still waits: {answer:?}");
        // Let go of, it is idle.
        tokio::time::timeout(10 * IDLE, served)
            .await
            .expect("closed")
            .expect("it has ended");
    }

    #[test]
    fn this_user_and_root_are_trusted_and_nobody_else_is() {
        let us = rustix::process::geteuid().as_raw();
        assert!(is_trusted(us) && is_trusted(0));
        assert!(!is_trusted(us + 1));
    }
}
