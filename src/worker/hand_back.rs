//! Hands back what a worker was given in its last moment and will not do.
//!
//! A task may be on its way to a poll that is given up as the worker ends; the SDK drops it. To the cluster it has begun, and
//! nobody would get it before a minute has passed without a heartbeat. Nothing of it runs here by then.

use std::collections::HashMap;
use std::time::Duration;

use temporalio_client::tonic::IntoRequest;
use temporalio_client::{Client, NamespacedClient, WorkflowDescribeOptions, WorkflowHandle};
use temporalio_protos::temporal::api::common::v1::{Payload, Payloads};
use temporalio_protos::temporal::api::enums::v1::PendingActivityState;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure as FailureProto};
use temporalio_protos::temporal::api::workflowservice::v1::RespondActivityTaskFailedByIdRequest;

use super::Failure;
use crate::workflow::CopyTable;

/// A process that ends has not more time than that.
const WITHIN: Duration = Duration::from_secs(1);

/// Hands back what this process has of these jobs. Nothing of theirs runs here any more.
pub(super) async fn hand_back(client: &Client, jobs: &[String]) {
    let handing = async {
        for job in jobs {
            hand_back_of(client, job).await;
        }
    };
    // What is not handed back is missed in a minute.
    if tokio::time::timeout(WITHIN, handing).await.is_err() {
        tracing::debug!("not all tasks were handed back");
    }
}

async fn hand_back_of(client: &Client, job: &str) {
    let handle: WorkflowHandle<Client, CopyTable> = client.get_workflow_handle(job);
    let Ok(described) = handle.describe(WorkflowDescribeOptions::default()).await else {
        return;
    };
    let described = described.into_raw();
    let execution = described.workflow_execution_info.and_then(|info| info.execution);
    let run = execution.unwrap_or_default().run_id;
    for activity in described.pending_activities {
        let is_ours = activity.last_worker_identity == client.identity();
        if !is_ours || activity.state != PendingActivityState::Started as i32 {
            continue;
        }
        let request = RespondActivityTaskFailedByIdRequest {
            namespace: client.namespace(),
            workflow_id: job.to_owned(),
            run_id: run.clone(),
            activity_id: activity.activity_id,
            failure: Some(interrupted()),
            identity: client.identity(),
            ..Default::default()
        };
        let mut service = client.connection().workflow_service();
        let answer = service
            .respond_activity_task_failed_by_id(request.into_request())
            .await;
        tracing::debug!(is_taken = answer.is_ok(), "a task of job {job} was handed back");
    }
}

fn interrupted() -> FailureProto {
    let failure = Failure::interrupted();
    let details = Payload {
        metadata: HashMap::from([("encoding".to_owned(), b"json/plain".to_vec())]),
        data: serde_json::to_vec(&failure).unwrap_or_default(),
        ..Default::default()
    };
    FailureProto {
        message: failure.message,
        failure_info: Some(FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo {
            r#type: failure.kind,
            details: Some(Payloads {
                payloads: vec![details],
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}
