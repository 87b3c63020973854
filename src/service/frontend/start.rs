//! Starting workflows, and what happens when one with the same id is there.

use prost::Message;
use temporalio_protos::temporal::api::enums::v1::{
    WorkflowExecutionStatus as Status_, WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
};
use temporalio_protos::temporal::api::errordetails::v1::WorkflowExecutionAlreadyStartedFailure;
use temporalio_protos::temporal::api::history::v1::WorkflowExecutionSignaledEventAttributes;
use temporalio_protos::temporal::api::workflowservice::v1::{
    SignalWithStartWorkflowExecutionRequest, SignalWithStartWorkflowExecutionResponse,
    StartWorkflowExecutionRequest, StartWorkflowExecutionResponse,
};
use tonic::{Code, Status};

use super::super::clock::millis;
use super::super::core::Pending;
use super::super::history::{Change, RunState, StartRun};
use super::super::{Service, journal_status, status_of};
use super::{check_id, check_namespace, check_payload};

impl Service {
    pub(super) async fn start_workflow_execution(
        &self,
        request: StartWorkflowExecutionRequest,
    ) -> Result<StartWorkflowExecutionResponse, Status> {
        let conflict = request.workflow_id_conflict_policy;
        let reuse = request.workflow_id_reuse_policy;
        let start = validated(request)?;
        let (run_id, started, pending) = self.start_or_find(start, None, conflict, reuse)?;
        self.release(pending).await?;
        let status = Status_::Running as i32;
        Ok(StartWorkflowExecutionResponse {
            run_id,
            started,
            status,
            ..Default::default()
        })
    }

    pub(super) async fn signal_with_start_workflow_execution(
        &self,
        request: SignalWithStartWorkflowExecutionRequest,
    ) -> Result<SignalWithStartWorkflowExecutionResponse, Status> {
        let signal = WorkflowExecutionSignaledEventAttributes {
            signal_name: check_id("signal name", &request.signal_name)?.to_owned(),
            input: request.signal_input,
            identity: request.identity.clone(),
            header: request.header.clone(),
            request_id: request.request_id.clone(),
            ..Default::default()
        };
        let start = validated(StartWorkflowExecutionRequest {
            namespace: request.namespace,
            workflow_id: request.workflow_id,
            workflow_type: request.workflow_type,
            task_queue: request.task_queue,
            input: request.input,
            workflow_execution_timeout: request.workflow_execution_timeout,
            workflow_run_timeout: request.workflow_run_timeout,
            workflow_task_timeout: request.workflow_task_timeout,
            identity: request.identity,
            request_id: request.request_id,
            retry_policy: request.retry_policy,
            cron_schedule: request.cron_schedule,
            memo: request.memo,
            search_attributes: request.search_attributes,
            header: request.header,
            workflow_start_delay: request.workflow_start_delay,
            ..Default::default()
        })?;
        let conflict = WorkflowIdConflictPolicy::UseExisting as i32;
        let (run_id, started, pending) =
            self.start_or_find(start, Some(signal), conflict, request.workflow_id_reuse_policy)?;
        self.release(pending).await?;
        Ok(SignalWithStartWorkflowExecutionResponse {
            run_id,
            started,
            ..Default::default()
        })
    }

    /// Starts a run, or finds the one there is where the policies say so. Under one lock: two starts make one run.
    fn start_or_find(
        &self,
        start: StartRun,
        signal: Option<WorkflowExecutionSignaledEventAttributes>,
        conflict: i32,
        reuse: i32,
    ) -> Result<(String, bool, Pending), Status> {
        let store = &self.inner.store;
        let mut core = self.core();
        let now_ms = self.now_ms();
        let mut changes = Vec::new();
        let existing = core.find(store, &start.namespace, &start.workflow_id, "");
        if let Some(existing) = existing.map_err(|error| journal_status(&error))? {
            let same_request = !start.request_id.is_empty() && existing.start_request_id == start.request_id;
            let use_existing =
                !existing.is_closed() && conflict == WorkflowIdConflictPolicy::UseExisting as i32;
            if same_request || use_existing {
                let mut draft = core
                    .begin(store, &existing.run_id, now_ms)
                    .map_err(|error| journal_status(&error))?
                    .ok_or_else(|| Status::internal("a run has vanished"))?;
                if let Some(signal) = signal {
                    draft.signal(signal).map_err(status_of)?;
                }
                let pending = core
                    .commit(store, vec![draft])
                    .map_err(|error| journal_status(&error))?;
                return Ok((existing.run_id.clone(), same_request, pending));
            }
            let terminate = conflict == WorkflowIdConflictPolicy::TerminateExisting as i32;
            if !existing.is_closed() && terminate {
                let mut draft = core
                    .begin(store, &existing.run_id, now_ms)
                    .map_err(|error| journal_status(&error))?
                    .ok_or_else(|| Status::internal("a run has vanished"))?;
                let reason = "terminated by a new start with the same id".to_owned();
                draft
                    .terminate(reason, None, "history-service".to_owned())
                    .map_err(status_of)?;
                changes.push(draft);
            } else if !may_reuse(&existing, reuse) {
                return Err(already_started(&start, &existing));
            }
        }
        let run_id = start.run_id.clone();
        let mut draft = Change::start(start, now_ms);
        if let Some(signal) = signal {
            draft.signal(signal).map_err(status_of)?;
        }
        changes.push(draft);
        let pending = core
            .commit(store, changes)
            .map_err(|error| journal_status(&error))?;
        self.inner.timer_wake.notify_one();
        Ok((run_id, true, pending))
    }
}

fn validated(request: StartWorkflowExecutionRequest) -> Result<StartRun, Status> {
    check_namespace(&request.namespace)?;
    check_id("workflow id", &request.workflow_id)?;
    let workflow_type = request.workflow_type.unwrap_or_default().name;
    check_id("workflow type", &workflow_type)?;
    let task_queue = request.task_queue.unwrap_or_default().name;
    check_id("task queue", &task_queue)?;
    check_payload("the input", request.input.as_ref())?;
    check_payload("the memo", request.memo.as_ref())?;
    if request.retry_policy.is_some()
        || !request.cron_schedule.is_empty()
        || millis(request.workflow_start_delay) > 0
    {
        return Err(Status::unimplemented(
            "this service does not know retry policies, cron or start delays of workflows",
        ));
    }
    Ok(StartRun {
        namespace: request.namespace,
        workflow_id: request.workflow_id,
        run_id: uuid::Uuid::new_v4().to_string(),
        workflow_type,
        task_queue,
        input: request.input,
        header: request.header,
        memo: request.memo,
        search_attributes: request.search_attributes,
        identity: request.identity,
        request_id: request.request_id,
        workflow_task_timeout_ms: millis(request.workflow_task_timeout),
        run_timeout_ms: millis(request.workflow_run_timeout),
        execution_timeout_ms: millis(request.workflow_execution_timeout),
        last_completion_result: request.last_completion_result,
        ..Default::default()
    })
}

fn may_reuse(existing: &RunState, policy: i32) -> bool {
    if !existing.is_closed() {
        return false;
    }
    match WorkflowIdReusePolicy::try_from(policy) {
        Ok(WorkflowIdReusePolicy::RejectDuplicate) => false,
        Ok(WorkflowIdReusePolicy::AllowDuplicateFailedOnly) => existing.status != Status_::Completed as i32,
        _ => true,
    }
}

fn already_started(start: &StartRun, existing: &RunState) -> Status {
    let failure = WorkflowExecutionAlreadyStartedFailure {
        start_request_id: existing.start_request_id.clone(),
        run_id: existing.run_id.clone(),
        ..Default::default()
    };
    let message = format!(
        "workflow {} is already started, as run {}",
        start.workflow_id, existing.run_id
    );
    let details = temporalio_protos::google::rpc::Status {
        code: Code::AlreadyExists as i32,
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url:
                "type.googleapis.com/temporal.api.errordetails.v1.WorkflowExecutionAlreadyStartedFailure"
                    .to_owned(),
            value: failure.encode_to_vec(),
        }],
    };
    Status::with_details(Code::AlreadyExists, message, details.encode_to_vec().into())
}
