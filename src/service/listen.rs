//! The same service for other processes: gRPC on a Unix socket in the state directory. Bytes in, bytes out: what the
//! messages mean is the frontend's.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status};

use super::{Caller, Service};

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
    let task = tokio::spawn(accept(service, listener));
    Ok(Listening {
        task,
        path: path.to_owned(),
    })
}

/// The listening socket; dropping it ends the listening and removes the file.
pub struct Listening {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(service: Service, listener: UnixListener) {
    // Dropped with this task, and its connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the socket failed");
                // Out of file descriptors, most likely: it passes, but not at once.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        connections.spawn(async move {
            let respond = hyper::service::service_fn(move |request| respond(service.clone(), request));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), respond).await {
                tracing::debug!(%error, "a client went away");
            }
        });
        while connections.try_join_next().is_some() {}
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
