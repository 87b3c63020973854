//! Passes the SDK client's calls on, byte for byte, through the Unix socket of the process that owns the journal.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use temporalio_client::callback_based::GrpcRequest;
use tokio::net::UnixStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::{Callback, Directory, SOCKET, path_of, response};
use crate::service::{BytesCodec, CALLER, Caller, is_trusted};

/// A process that is stopped is noticed after these two.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The way to the process that serves. Once it is gone, calls fail with `code`, which says whether the SDK's client tries
/// them again.
#[derive(Clone)]
pub(super) struct Forward {
    channel: Channel,
    pid: u32,
    code: Code,
}

/// Connects to the socket of process `pid`.
pub(super) async fn connect(
    directory: &Arc<Directory>,
    pid: u32,
    code: Code,
) -> Result<Forward, tonic::transport::Error> {
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
    Ok(Forward { channel, pid, code })
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

impl Forward {
    /// Passes one call on, and says whether it came by TCP to this process.
    pub(super) async fn call(&self, caller: Caller, path: &str, request: Bytes) -> Result<Bytes, Status> {
        let path = path
            .parse()
            .map_err(|_| Status::internal("an RPC's name is no path"))?;
        // What the service answers it has bounded itself.
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|_| self.gone())?;
        let mut request = Request::new(request);
        if caller == Caller::Remote {
            let metadata = request.metadata_mut();
            metadata.insert(CALLER, MetadataValue::from_static("tcp"));
        }
        let answer = grpc.unary(request, path, BytesCodec).await;
        // What the service itself answers has no source: it came as words.
        let answer = answer.map_err(|status| match status.source() {
            Some(_) => self.gone(),
            None => status,
        })?;
        Ok(answer.into_inner())
    }

    /// For the SDK's client of this process.
    pub(super) fn callback(self) -> Callback {
        Arc::new(move |request: GrpcRequest| {
            let forward = self.clone();
            Box::pin(async move {
                let answer = forward
                    .call(Caller::Process, &path_of(&request), request.proto)
                    .await?;
                Ok(response(answer))
            })
        })
    }

    /// The connection is lost.
    fn gone(&self) -> Status {
        let words = format!("process {} has ended, or does not answer", self.pid);
        Status::new(self.code, words)
    }
}
