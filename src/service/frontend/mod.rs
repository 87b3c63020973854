//! RPC dispatch: from a name and bytes to a typed request, and back. What is not here answers UNIMPLEMENTED, never an
//! empty message. Refuses what is too large or for another namespace before anything else happens.

#[cfg(test)]
mod absurd_tests;
mod delete;
mod namespace;
mod start;
mod tasks;
mod workflow;

pub(super) use workflow::execution_info;

use prost::Message;
use temporalio_protos::temporal::api::common::v1::WorkflowExecution;
use tonic::Status;

use super::events::read_events;
use super::history::{Change, HistoryError, RunState};
use super::stored::prove_events;
use super::{Caller, NAMESPACE, Service, WORKFLOW_SERVICE, journal_status};
use temporalio_protos::temporal::api::history::v1::HistoryEvent;

/// No request may be larger; Temporal's servers refuse at the same size.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// No payload may be larger, as on a Temporal server.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// No id or name may be longer, as on a Temporal server.
const MAX_ID_BYTES: usize = 1000;

macro_rules! rpcs {
    ($service:expr, $caller:expr, $rpc:expr, $request:expr; plain { $($name:literal => $method:ident),* $(,)? } with_caller { $($cname:literal => $cmethod:ident),* $(,)? }) => {
        match $rpc {
            $($name => Ok($service.$method(decode($request)?).await?.encode_to_vec()),)*
            $($cname => Ok($service.$cmethod($caller, decode($request)?).await?.encode_to_vec()),)*
            other => Err(Status::unimplemented(format!("{other} is not implemented by this service"))),
        }
    };
}

pub(super) async fn dispatch(
    service: &Service,
    caller: Caller,
    path: &str,
    request: &[u8],
) -> Result<Vec<u8>, Status> {
    let rpc = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let Some((WORKFLOW_SERVICE, rpc)) = rpc else {
        return Err(Status::unimplemented(format!(
            "{path} is not an RPC of {WORKFLOW_SERVICE}"
        )));
    };
    if request.len() > MAX_REQUEST_BYTES {
        // In the words by which SDKs know that it will not help to ask again.
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({} vs. {MAX_REQUEST_BYTES}) in {rpc}",
            request.len()
        )));
    }
    service.check().map_err(|error| journal_status(&error))?;
    rpcs! { service, caller, rpc, request;
        plain {
            "GetSystemInfo" => get_system_info,
            "GetClusterInfo" => get_cluster_info,
            "DescribeNamespace" => describe_namespace,
            "ListNamespaces" => list_namespaces,
            "DescribeTaskQueue" => describe_task_queue,
            "ShutdownWorker" => shutdown_worker,
            "ResetStickyTaskQueue" => reset_sticky_task_queue,
            "StartWorkflowExecution" => start_workflow_execution,
            "SignalWithStartWorkflowExecution" => signal_with_start_workflow_execution,
            "SignalWorkflowExecution" => signal_workflow_execution,
            "RequestCancelWorkflowExecution" => request_cancel_workflow_execution,
            "TerminateWorkflowExecution" => terminate_workflow_execution,
            "DeleteWorkflowExecution" => delete_workflow_execution,
            "DescribeWorkflowExecution" => describe_workflow_execution,
            "GetWorkflowExecutionHistory" => get_workflow_execution_history,
            "ListWorkflowExecutions" => list_workflow_executions,
            "CountWorkflowExecutions" => count_workflow_executions,
            "QueryWorkflow" => query_workflow,
            "RespondQueryTaskCompleted" => respond_query_task_completed,
            "UpdateWorkflowExecution" => update_workflow_execution,
            "PollWorkflowExecutionUpdate" => poll_workflow_execution_update,
            "RespondWorkflowTaskFailed" => respond_workflow_task_failed,
            "RecordActivityTaskHeartbeat" => record_activity_task_heartbeat,
            "RespondActivityTaskCompleted" => respond_activity_task_completed,
            "RespondActivityTaskFailed" => respond_activity_task_failed,
            "RespondActivityTaskCanceled" => respond_activity_task_canceled,
        }
        with_caller {
            "PollWorkflowTaskQueue" => poll_workflow_task_queue,
            "RespondWorkflowTaskCompleted" => respond_workflow_task_completed,
            "PollActivityTaskQueue" => poll_activity_task_queue,
        }
    }
}

fn decode<M: Message + Default>(request: &[u8]) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn check_namespace(namespace: &str) -> Result<(), Status> {
    if namespace == NAMESPACE {
        return Ok(());
    }
    Err(Status::not_found(format!(
        "namespace {namespace} is not found: this service has only `{NAMESPACE}`"
    )))
}

fn check_id<'a>(what: &str, id: &'a str) -> Result<&'a str, Status> {
    match id.len() {
        0 => Err(Status::invalid_argument(format!("{what} is not set"))),
        1..=MAX_ID_BYTES => Ok(id),
        _ => Err(Status::invalid_argument(format!(
            "{what} is longer than {MAX_ID_BYTES} bytes"
        ))),
    }
}

fn check_payload(what: &str, message: Option<&impl Message>) -> Result<(), Status> {
    let bytes = message.map_or(0, Message::encoded_len);
    if bytes <= MAX_PAYLOAD_BYTES {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "{what} has {bytes} bytes, more than {MAX_PAYLOAD_BYTES}"
    )))
}

fn not_found(workflow_id: &str) -> Status {
    Status::not_found(format!("workflow execution {workflow_id} is not found"))
}

impl Service {
    /// The run that a client means, as it stands.
    pub(super) fn find_run(
        &self,
        namespace: &str,
        execution: &WorkflowExecution,
    ) -> Result<RunState, Status> {
        check_namespace(namespace)?;
        let workflow_id = check_id("workflow id", &execution.workflow_id)?;
        let found = self
            .core()
            .find(&self.inner.store, namespace, workflow_id, &execution.run_id);
        let found = found.map_err(|error| journal_status(&error))?;
        found.ok_or_else(|| not_found(workflow_id))
    }

    /// Changes the run that a client means, under the lock under which it is found: a run that is continued as new meanwhile
    /// is not missed. With a first run, the current run of that run's chain is meant, and none of another chain.
    async fn change_found<T>(
        &self,
        namespace: &str,
        execution: Option<WorkflowExecution>,
        first_run_id: &str,
        change: impl FnOnce(&mut Change) -> Result<T, HistoryError>,
    ) -> Result<T, Status> {
        check_namespace(namespace)?;
        let execution = execution.unwrap_or_default();
        let workflow_id = check_id("workflow id", &execution.workflow_id)?;
        let run_id = if first_run_id.is_empty() {
            execution.run_id.as_str()
        } else {
            ""
        };
        let (value, pending) = {
            let mut core = self.core();
            let found = core.find(&self.inner.store, namespace, workflow_id, run_id);
            let found = found.map_err(|error| journal_status(&error))?;
            let found = found.filter(|run| first_run_id.is_empty() || run.first_run_id == first_run_id);
            let run_id = found.ok_or_else(|| not_found(workflow_id))?.run_id.clone();
            self.apply_to(&mut core, &run_id, change)?
        };
        self.release(pending).await?;
        Ok(value)
    }

    /// A closed run is proved whole when its first event is read: it was not when the journal was opened.
    fn events(&self, run: &RunState, from: i64, limit: usize) -> Result<Vec<HistoryEvent>, Status> {
        if run.is_closed() && from == 1 {
            prove_events(&self.inner.store, run).map_err(|error| journal_status(&error))?;
        }
        read_events(&self.inner.store, run, from, limit).map_err(|error| journal_status(&error))
    }
}
