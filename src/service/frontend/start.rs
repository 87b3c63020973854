//! Starting workflows, and what happens when one with the same id is there.

use temporalio_protos::temporal::api::common::v1::{Payload, Payloads, Priority};
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

use super::super::clock::{millis, span_ms};
use super::super::core::Pending;
use super::super::detail::detailed;
use super::super::history::{Change, RunState, StartRun, checked};
use super::super::{Service, journal_status, search_attributes, status_of};
use super::{check_id, check_optional_id, check_payload};

impl Service {
    pub(super) async fn start_workflow_execution(
        &self,
        request: StartWorkflowExecutionRequest,
    ) -> Result<StartWorkflowExecutionResponse, Status> {
        let policies = Policies::of(
            request.workflow_id_reuse_policy,
            request.workflow_id_conflict_policy,
            WorkflowIdConflictPolicy::Fail,
        )?;
        let start = validated(request)?;
        let (run_id, started, pending) = self.start_or_find(start, policies)?;
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
        let policies = Policies::of(
            request.workflow_id_reuse_policy,
            request.workflow_id_conflict_policy,
            WorkflowIdConflictPolicy::UseExisting,
        )?;
        if policies.conflict == WorkflowIdConflictPolicy::Fail {
            return Err(Status::invalid_argument(
                "a signal with start cannot fail where the workflow runs: it signals it",
            ));
        }
        let mut start = validated(StartWorkflowExecutionRequest {
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
            user_metadata: request.user_metadata,
            links: request.links,
            versioning_override: request.versioning_override,
            time_skipping_config: request.time_skipping_config,
            priority: request.priority,
            ..Default::default()
        })?;
        start.signal = Some(signal);
        let (run_id, started, pending) = self.start_or_find(start, policies)?;
        self.release(pending).await?;
        Ok(SignalWithStartWorkflowExecutionResponse {
            run_id,
            started,
            ..Default::default()
        })
    }

    /// Starts a run, or finds the one there is where the policies say so. Under one lock: two starts make one run.
    fn start_or_find(&self, start: StartRun, policies: Policies) -> Result<(String, bool, Pending), Status> {
        let store = &self.inner.store;
        let mut core = self.core();
        let now_ms = self.now_ms();
        let mut changes = Vec::new();
        let existing = core.find(store, &start.namespace, &start.workflow_id, "");
        if let Some(existing) = existing.map_err(|error| journal_status(&error))? {
            let same_request = !start.request_id.is_empty() && existing.start_request_id == start.request_id;
            let use_existing =
                !existing.is_closed() && policies.conflict == WorkflowIdConflictPolicy::UseExisting;
            if same_request || use_existing {
                let mut draft = core
                    .begin(store, &existing.run_id, now_ms)
                    .map_err(|error| journal_status(&error))?
                    .ok_or_else(|| Status::internal("a run has vanished"))?;
                if let Some(signal) = start.signal.filter(|_| !existing.is_closed()) {
                    draft.signal(signal, start.links).map_err(status_of)?;
                }
                let pending = core
                    .commit(store, vec![draft])
                    .map_err(|error| journal_status(&error))?;
                return Ok((existing.run_id.clone(), same_request, pending));
            }
            let terminate = policies.conflict == WorkflowIdConflictPolicy::TerminateExisting;
            if !existing.is_closed() && terminate {
                let mut draft = core
                    .begin(store, &existing.run_id, now_ms)
                    .map_err(|error| journal_status(&error))?
                    .ok_or_else(|| Status::internal("a run has vanished"))?;
                draft
                    .terminate(
                        REPLACED.to_owned(),
                        Some(replaced_by(&start.run_id)),
                        "history-service".to_owned(),
                        Vec::new(),
                    )
                    .map_err(status_of)?;
                // Who waits for the run that ends hears of it with the start of the next.
                changes.push(draft);
            } else if !may_reuse(&existing, policies.reuse) {
                return Err(already_started(&start, &existing));
            }
        }
        let run_id = start.run_id.clone();
        changes.push(Change::start(start, now_ms));
        let pending = core
            .commit(store, changes)
            .map_err(|error| journal_status(&error))?;
        self.inner.timer_wake.notify_one();
        Ok((run_id, true, pending))
    }
}

/// What happens where the id is taken: by a run that is closed, by one that is open.
#[derive(Clone, Copy)]
struct Policies {
    reuse: WorkflowIdReusePolicy,
    conflict: WorkflowIdConflictPolicy,
}

impl Policies {
    #[expect(deprecated, reason = "clients still say TERMINATE_IF_RUNNING")]
    fn of(reuse: i32, conflict: i32, default: WorkflowIdConflictPolicy) -> Result<Self, Status> {
        let unknown = |_| Status::invalid_argument("there is no such policy about workflow ids");
        let reuse = WorkflowIdReusePolicy::try_from(reuse).map_err(unknown)?;
        let conflict = WorkflowIdConflictPolicy::try_from(conflict).map_err(unknown)?;
        let given = conflict != WorkflowIdConflictPolicy::Unspecified;
        let contradict = match reuse {
            WorkflowIdReusePolicy::TerminateIfRunning => given,
            WorkflowIdReusePolicy::RejectDuplicate => conflict == WorkflowIdConflictPolicy::TerminateExisting,
            _ => false,
        };
        if contradict {
            return Err(Status::invalid_argument(
                "the policies about workflow ids contradict each other",
            ));
        }
        if reuse == WorkflowIdReusePolicy::TerminateIfRunning {
            // The older way to say it.
            return Ok(Self {
                reuse: WorkflowIdReusePolicy::AllowDuplicate,
                conflict: WorkflowIdConflictPolicy::TerminateExisting,
            });
        }
        let conflict = if given { conflict } else { default };
        Ok(Self { reuse, conflict })
    }
}

fn validated(request: StartWorkflowExecutionRequest) -> Result<StartRun, Status> {
    refuse_unknown(&request)?;
    check_id("workflow id", &request.workflow_id)?;
    let workflow_type = request.workflow_type.unwrap_or_default().name;
    check_id("workflow type", &workflow_type)?;
    let task_queue = request.task_queue.unwrap_or_default().name;
    check_id("task queue", &task_queue)?;
    check_optional_id("the request's id", &request.request_id)?;
    check_priority(request.priority.as_ref())?;
    let span = |span| span_ms(span).map_err(Status::invalid_argument);
    check_payload("the input", request.input.as_ref())?;
    check_payload("the memo", request.memo.as_ref())?;
    search_attributes::check(request.search_attributes.as_ref()).map_err(Status::invalid_argument)?;
    let retry_policy = request.retry_policy.map(|policy| checked(Some(policy)));
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
        workflow_task_timeout_ms: span(request.workflow_task_timeout)?,
        run_timeout_ms: span(request.workflow_run_timeout)?,
        execution_timeout_ms: span(request.workflow_execution_timeout)?,
        last_completion_result: request.last_completion_result,
        continued_failure: request.continued_failure,
        retry_policy: retry_policy.transpose().map_err(Status::invalid_argument)?,
        priority: request.priority,
        user_metadata: request.user_metadata,
        links: request.links,
        ..Default::default()
    })
}

fn check_priority(priority: Option<&Priority>) -> Result<(), Status> {
    let negative = |it: &Priority| it.priority_key < 0 || it.fairness_weight < 0.0;
    if priority.is_some_and(negative) {
        return Err(Status::invalid_argument("the priority is negative"));
    }
    Ok(())
}

/// What a start could ask for and would not get.
fn refuse_unknown(request: &StartWorkflowExecutionRequest) -> Result<(), Status> {
    let on_conflict = request.on_conflict_options.unwrap_or_default();
    let asked = [
        (!request.cron_schedule.is_empty(), "cron schedules of workflows"),
        (
            millis(request.workflow_start_delay) > 0,
            "start delays of workflows",
        ),
        (
            !request.completion_callbacks.is_empty(),
            "callbacks when a workflow completes",
        ),
        (request.versioning_override.is_some(), "versions of workers"),
        (
            on_conflict.attach_request_id
                || on_conflict.attach_completion_callbacks
                || on_conflict.attach_links,
            "attaching anything to a workflow that runs already",
        ),
        (
            request.time_skipping_config.as_ref().is_some_and(|it| it.enabled),
            "skipping of time",
        ),
    ];
    match asked.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(Status::unimplemented(format!(
            "this service does not know {what}"
        ))),
        None => Ok(()),
    }
}

/// What a server writes down of a run that a start with the same id has ended.
const REPLACED: &str = "TerminateIfRunning WorkflowIdReusePolicy";

fn replaced_by(run_id: &str) -> Payloads {
    let payload = Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data: format!("\"terminated by new runID: {run_id}\"").into_bytes(),
        ..Default::default()
    };
    Payloads {
        payloads: vec![payload],
    }
}

fn may_reuse(existing: &RunState, policy: WorkflowIdReusePolicy) -> bool {
    if !existing.is_closed() {
        return false;
    }
    match policy {
        WorkflowIdReusePolicy::RejectDuplicate => false,
        WorkflowIdReusePolicy::AllowDuplicateFailedOnly => existing.status != Status_::Completed as i32,
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
    detailed(
        Code::AlreadyExists,
        message,
        "WorkflowExecutionAlreadyStartedFailure",
        &failure,
    )
}
