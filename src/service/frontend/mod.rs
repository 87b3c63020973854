//! RPC dispatch: from a name and bytes to a typed request, and back. What is not here answers UNIMPLEMENTED, never an
//! empty message. Refuses what is too large or for another namespace before anything else happens.

#[cfg(test)]
mod absurd_tests;
mod activities;
mod delete;
mod namespace;
mod poll;
mod start;
mod tasks;
mod workflow;

pub(super) use workflow::execution_info;

use prost::Message;
use temporalio_protos::temporal::api::common::v1::WorkflowExecution;
use temporalio_protos::temporal::api::errordetails::v1::NamespaceNotFoundFailure;
use tonic::{Code, Status};

use super::detail::detailed;
use super::events::read_events;
use super::history::{self, Change, HistoryError, RunState};
use super::stored::prove_events;
use super::{Caller, NAMESPACE, Service, WORKFLOW_SERVICE, journal_status};
use temporalio_protos::temporal::api::history::v1::HistoryEvent;

/// No request may be larger; Temporal's servers refuse at the same size.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Asks the method of an RPC; what is for another namespace it never sees.
macro_rules! rpcs {
    ($service:expr, $caller:expr, $rpc:expr, $request:expr;
        of_all { $($all:literal => $all_method:ident),* $(,)? }
        of_namespace { $($name:literal => $method:ident),* $(,)? }
        of_namespace_by_caller { $($by_caller:literal => $by_caller_method:ident),* $(,)? }
        of_task { $($task:literal => $task_method:ident),* $(,)? }
        of_task_by_caller { $($task_by_caller:literal => $task_by_caller_method:ident),* $(,)? }
    ) => {
        match $rpc {
            $($all => Ok($service.$all_method(decode($request)?).await?.encode_to_vec()),)*
            $($name => {
                let request = like(|request| $service.$method(request), decode($request)?);
                check_namespace(&request.namespace)?;
                Ok($service.$method(request).await?.encode_to_vec())
            })*
            $($by_caller => {
                let request = like(|request| $service.$by_caller_method($caller, request), decode($request)?);
                check_namespace(&request.namespace)?;
                Ok($service.$by_caller_method($caller, request).await?.encode_to_vec())
            })*
            $($task => {
                let request = like(|request| $service.$task_method(request), decode($request)?);
                check_task_namespace(&request.namespace)?;
                Ok($service.$task_method(request).await?.encode_to_vec())
            })*
            $($task_by_caller => {
                let request = like(|request| $service.$task_by_caller_method($caller, request), decode($request)?);
                check_task_namespace(&request.namespace)?;
                Ok($service.$task_by_caller_method($caller, request).await?.encode_to_vec())
            })*
            other => Err(Status::unimplemented(format!("{other} is not implemented by this service"))),
        }
    };
}

/// Says of what type a request is: that of the method that takes it.
fn like<Q, A>(_: impl FnOnce(Q) -> A, request: Q) -> Q {
    request
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
        of_all {
            "GetSystemInfo" => get_system_info,
            "GetClusterInfo" => get_cluster_info,
            "DescribeNamespace" => describe_namespace,
            "ListNamespaces" => list_namespaces,
        }
        of_namespace {
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
            "UpdateWorkflowExecution" => update_workflow_execution,
            "PollWorkflowExecutionUpdate" => poll_workflow_execution_update,
            "RecordActivityTaskHeartbeatById" => record_activity_task_heartbeat_by_id,
            "RespondActivityTaskCompletedById" => respond_activity_task_completed_by_id,
            "RespondActivityTaskFailedById" => respond_activity_task_failed_by_id,
            "RespondActivityTaskCanceledById" => respond_activity_task_canceled_by_id,
        }
        of_namespace_by_caller {
            "PollWorkflowTaskQueue" => poll_workflow_task_queue,
            "PollActivityTaskQueue" => poll_activity_task_queue,
        }
        of_task {
            "RespondQueryTaskCompleted" => respond_query_task_completed,
            "RespondWorkflowTaskFailed" => respond_workflow_task_failed,
            "RecordActivityTaskHeartbeat" => record_activity_task_heartbeat,
            "RespondActivityTaskCompleted" => respond_activity_task_completed,
            "RespondActivityTaskFailed" => respond_activity_task_failed,
            "RespondActivityTaskCanceled" => respond_activity_task_canceled,
        }
        of_task_by_caller {
            "RespondWorkflowTaskCompleted" => respond_workflow_task_completed,
        }
    }
}

fn decode<M: Message + Default>(request: &[u8]) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn check_namespace(namespace: &str) -> Result<(), Status> {
    if namespace.is_empty() {
        return Err(Status::invalid_argument("the namespace is not set"));
    }
    if namespace == NAMESPACE {
        return Ok(());
    }
    let message = format!("Namespace {namespace} is not found: this service has only `{NAMESPACE}`");
    let detail = NamespaceNotFoundFailure {
        namespace: namespace.to_owned(),
    };
    Err(detailed(
        Code::NotFound,
        message,
        "NamespaceNotFoundFailure",
        &detail,
    ))
}

/// What a task's token names is of the namespace, whether or not the worker says it again.
fn check_task_namespace(namespace: &str) -> Result<(), Status> {
    if namespace.is_empty() {
        return Ok(());
    }
    check_namespace(namespace)
}

fn check_id<'a>(what: &str, id: &'a str) -> Result<&'a str, Status> {
    history::check_id(what, id)
        .map(|()| id)
        .map_err(Status::invalid_argument)
}

/// Of an id that need not be given.
fn check_optional_id(what: &str, id: &str) -> Result<(), Status> {
    if id.is_empty() {
        Ok(())
    } else {
        check_id(what, id).map(drop)
    }
}

fn check_payload(what: &str, message: Option<&impl Message>) -> Result<(), Status> {
    let size = message.map_or(Ok(()), |message| history::check_size(what, message));
    size.map_err(Status::invalid_argument)
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
