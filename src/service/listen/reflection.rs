//! `grpc.reflection`, both versions of it: what the services here are, for grpcurl and its like.

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic_reflection::server::Builder;

use super::super::WORKFLOW_SERVICE;

/// The whole API, as temporalio-protos has it.
pub(in super::super) const DESCRIPTORS: &[u8] = include_bytes!(env!("TEMPORAL_DESCRIPTORS"));
const ALPHA: &str = "/grpc.reflection.v1alpha.";

/// Whether an RPC is of this service.
pub(super) fn is_asked(path: &str) -> bool {
    path.starts_with("/grpc.reflection.v1.") || path.starts_with(ALPHA)
}

/// Made anew each time: it is asked for by people, and is large.
pub(super) async fn answer(path: &str, request: http::Request<Body>) -> http::Response<Body> {
    let told = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .with_service_name(WORKFLOW_SERVICE)
        .with_service_name("grpc.health.v1.Health");
    let answer = if path.starts_with(ALPHA) {
        match told.build_v1alpha() {
            Ok(mut service) => service.call(request).await,
            Err(error) => return Status::internal(error.to_string()).into_http(),
        }
    } else {
        match told.build_v1() {
            Ok(mut service) => service.call(request).await,
            Err(error) => return Status::internal(error.to_string()).into_http(),
        }
    };
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}
