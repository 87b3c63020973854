//! Errors with what SDKs read beside their code: a `google.rpc.Status` with one of Temporal's error details.

use prost::Message;
use tonic::{Code, Status};

const TYPES: &str = "type.googleapis.com/temporal.api.errordetails.v1";

/// An error with a detail, which is the message of that name in `temporal.api.errordetails.v1`.
pub fn detailed(code: Code, message: String, name: &str, detail: &impl Message) -> Status {
    let status = temporalio_protos::google::rpc::Status {
        code: code as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: format!("{TYPES}.{name}"),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, status.encode_to_vec().into())
}
