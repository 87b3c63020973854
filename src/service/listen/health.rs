//! `grpc.health.v1`: whether the service acts on what it is told, which it does until its journal fails.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use temporalio_protos::grpc::health::v1::health_check_response::ServingStatus;
use temporalio_protos::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tonic::body::Body;
use tonic::{Request, Response, Status};

use super::super::WORKFLOW_SERVICE;
use super::Behind;
use super::grpc::{BytesCodec, server};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// How soon who watches hears of a failure.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether an RPC is of this service.
pub(super) fn is_asked(path: &str) -> bool {
    path == CHECK || path == WATCH
}

pub(super) async fn answer(
    behind: Arc<dyn Behind>,
    path: &str,
    request: http::Request<Body>,
) -> http::Response<Body> {
    let health = Health(behind);
    match path {
        WATCH => server(BytesCodec).server_streaming(health, request).await,
        _ => server(BytesCodec).unary(health, request).await,
    }
}

struct Health(Arc<dyn Behind>);

impl Health {
    fn status(behind: &dyn Behind) -> ServingStatus {
        match behind.acts() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        }
    }
}

fn is_known(request: &Bytes) -> Result<bool, Status> {
    let request = HealthCheckRequest::decode(request.clone())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    // Without a name the process as a whole is meant.
    Ok(request.service.is_empty() || request.service == WORKFLOW_SERVICE)
}

fn encoded(status: ServingStatus) -> Bytes {
    let status = status.into();
    HealthCheckResponse { status }.encode_to_vec().into()
}

impl tonic::server::UnaryService<Bytes> for Health {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(match is_known(request.get_ref()) {
            Ok(true) => Ok(Response::new(encoded(Self::status(&*self.0)))),
            Ok(false) => Err(Status::not_found("this process has no service of that name")),
            Err(status) => Err(status),
        })
    }
}

impl tonic::server::ServerStreamingService<Bytes> for Health {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let is_known = match is_known(request.get_ref()) {
            Ok(is_known) => is_known,
            Err(status) => return std::future::ready(Err(status)),
        };
        let behind = Arc::clone(&self.0);
        let look = move || match is_known {
            true => Self::status(&*behind),
            false => ServingStatus::ServiceUnknown,
        };
        let changes = futures_util::stream::unfold((look, None), |(look, said)| async move {
            let mut status = look();
            while Some(status) == said {
                tokio::time::sleep(LOOK_EVERY).await;
                status = look();
            }
            Some((Ok(encoded(status)), (look, Some(status))))
        });
        std::future::ready(Ok(Response::new(Box::pin(changes))))
    }
}
