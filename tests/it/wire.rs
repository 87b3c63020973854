//! gRPC as a program of somebody else's speaks it, over TCP, compressed.

use bytes::Bytes;
use longhaul::service::BytesCodec;
use prost::Message;
use temporalio_protos::temporal::api::common::v1::{Payload, Payloads, WorkflowExecution, WorkflowType};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
};
use tonic::Status;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::{Channel, Endpoint};

pub struct Wire(Channel);

impl Wire {
    pub async fn to(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self(endpoint.connect().await.unwrap())
    }

    pub async fn call<A: Message + Default>(&self, rpc: &str, request: impl Message) -> Result<A, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone())
            .send_compressed(Gzip)
            .accept_compressed(Gzip)
            .max_decoding_message_size(64 << 20);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/temporal.api.workflowservice.v1.WorkflowService/{rpc}");
        let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
        let answer = grpc.unary(request, path.parse().unwrap(), BytesCodec).await?;
        Ok(A::decode(answer.into_inner()).unwrap())
    }

    /// The same where somebody else serves by and by.
    pub async fn call_until<A: Message + Default>(&self, rpc: &str, request: impl Message + Clone) -> A {
        let end = std::time::Instant::now() + crate::binary::DEADLINE;
        loop {
            match self.call(rpc, request.clone()).await {
                Ok(answer) => return answer,
                Err(status)
                    if status.code() == tonic::Code::Unavailable && std::time::Instant::now() < end => {}
                Err(status) => panic!("{rpc}: {status}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Starts a workflow with one argument, in JSON.
    pub async fn start(&self, workflow_type: &str, id: &str, queue: &str, input: &str) -> String {
        let payload = Payload {
            metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
            data: input.into(),
            ..Default::default()
        };
        let request = StartWorkflowExecutionRequest {
            namespace: "default".into(),
            workflow_id: id.into(),
            workflow_type: Some(WorkflowType {
                name: workflow_type.into(),
            }),
            task_queue: Some(task_queue(queue)),
            input: Some(Payloads {
                payloads: vec![payload],
            }),
            request_id: id.into(),
            ..Default::default()
        };
        let started: StartWorkflowExecutionResponse =
            self.call("StartWorkflowExecution", request).await.unwrap();
        started.run_id
    }

    /// A worker's long poll for a workflow task.
    pub async fn poll(&self, queue: &str, identity: &str) -> Result<PollWorkflowTaskQueueResponse, Status> {
        let request = PollWorkflowTaskQueueRequest {
            namespace: "default".into(),
            task_queue: Some(task_queue(queue)),
            identity: identity.into(),
            ..Default::default()
        };
        self.call("PollWorkflowTaskQueue", request).await
    }
}

pub fn task_queue(name: &str) -> TaskQueue {
    TaskQueue {
        name: name.into(),
        ..Default::default()
    }
}

pub fn execution(id: &str) -> Option<WorkflowExecution> {
    Some(WorkflowExecution {
        workflow_id: id.into(),
        run_id: String::new(),
    })
}
