//! Passes the SDK client's calls on, byte for byte, through the Unix socket of the process that owns the journal.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use temporalio_client::callback_based::{GrpcRequest, GrpcSuccessResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Callback;
use crate::service::BytesCodec;

/// Connects to the socket.
pub(super) async fn connect(path: &Path) -> Result<Callback, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://socket")
        .connect_with_connector(connector)
        .await?;
    Ok(Arc::new(move |request: GrpcRequest| {
        Box::pin(forward(channel.clone(), request))
    }))
}

async fn forward(channel: Channel, request: GrpcRequest) -> Result<GrpcSuccessResponse, Status> {
    let path = format!("/{}/{}", request.service, request.rpc);
    let path = path
        .parse()
        .map_err(|_| Status::internal("an RPC's name is no path"))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = grpc.unary(Request::new(request.proto), path, BytesCodec).await?;
    Ok(GrpcSuccessResponse {
        headers: http::HeaderMap::new(),
        proto: answer.into_inner().to_vec(),
    })
}
