//! Passes the SDK client's calls on, byte for byte, through the Unix socket of the process that owns the journal.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use temporalio_client::callback_based::{GrpcRequest, GrpcSuccessResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{Callback, Directory, SOCKET};
use crate::service::{BytesCodec, is_trusted};

/// A process that is stopped is noticed after these two.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Connects to the socket of process `pid`. Once it is gone, calls fail with `code`, which says whether the SDK's client
/// tries them again.
pub(super) async fn connect(
    directory: &Arc<Directory>,
    pid: u32,
    code: Code,
) -> Result<Callback, tonic::transport::Error> {
    let directory = Arc::clone(directory);
    let connector = tower::service_fn(move |_| {
        let directory = Arc::clone(&directory);
        async move { reach(&directory).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://socket")
        .http2_keep_alive_interval(ASK_EVERY)
        .keep_alive_timeout(ANSWER_WITHIN)
        .connect_with_connector(connector)
        .await?;
    Ok(Arc::new(move |request: GrpcRequest| {
        Box::pin(forward(channel.clone(), pid, code, request))
    }))
}

/// The stream to whoever listens, if that is this user or root.
async fn reach(directory: &Directory) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(directory.socket_path(SOCKET)).await?;
    let peer = stream.peer_cred()?.uid();
    match is_trusted(peer) {
        true => Ok(stream),
        false => Err(io::Error::other(format!("user {peer} listens on the socket"))),
    }
}

async fn forward(
    channel: Channel,
    pid: u32,
    code: Code,
    request: GrpcRequest,
) -> Result<GrpcSuccessResponse, Status> {
    let path = format!("/{}/{}", request.service, request.rpc);
    let path = path
        .parse()
        .map_err(|_| Status::internal("an RPC's name is no path"))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|_| gone(pid, code))?;
    let answer = grpc.unary(Request::new(request.proto), path, BytesCodec).await;
    // What the service itself answers has no source: it came as words.
    let answer = answer.map_err(|status| match status.source() {
        Some(_) => gone(pid, code),
        None => status,
    })?;
    Ok(GrpcSuccessResponse {
        headers: http::HeaderMap::new(),
        proto: answer.into_inner().to_vec(),
    })
}

/// The connection is lost.
fn gone(pid: u32, code: Code) -> Status {
    Status::new(code, format!("process {pid} has ended, or does not answer"))
}
