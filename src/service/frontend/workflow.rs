//! What clients call about workflows that are there: signal, cancel, terminate, describe, history.

use temporalio_protos::temporal::api::common::v1::{WorkflowExecution, WorkflowType};
use temporalio_protos::temporal::api::enums::v1::{
    HistoryEventFilterType, PendingActivityState, PendingWorkflowTaskState, WorkflowExecutionStatus,
};
use temporalio_protos::temporal::api::history::v1::{History, WorkflowExecutionSignaledEventAttributes};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflow::v1::{
    PendingActivityInfo, PendingWorkflowTaskInfo, WorkflowExecutionConfig, WorkflowExecutionExtendedInfo,
    WorkflowExecutionInfo,
};
use temporalio_protos::temporal::api::workflowservice::v1::{
    DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryResponse, RequestCancelWorkflowExecutionRequest,
    RequestCancelWorkflowExecutionResponse, SignalWorkflowExecutionRequest, SignalWorkflowExecutionResponse,
    TerminateWorkflowExecutionRequest, TerminateWorkflowExecutionResponse,
};
use tonic::Status;

use super::super::Service;
use super::super::clock::{duration, timestamp};
use super::super::history::{ActivityState, Change, RunRecord, is_close_event};
use super::{check_id, check_optional_id, check_payload};

/// An empty page after so long; the client asks again with its token.
const LONG_POLL: std::time::Duration = std::time::Duration::from_secs(20);
/// Events on a page, unless the client wants fewer.
const MAX_PAGE: usize = 1000;

impl Service {
    pub(super) async fn signal_workflow_execution(
        &self,
        request: SignalWorkflowExecutionRequest,
    ) -> Result<SignalWorkflowExecutionResponse, Status> {
        check_payload("the signal's input", request.input.as_ref())?;
        check_optional_id("the request's id", &request.request_id)?;
        let attributes = WorkflowExecutionSignaledEventAttributes {
            signal_name: check_id("signal name", &request.signal_name)?.to_owned(),
            input: request.input,
            identity: request.identity,
            header: request.header,
            request_id: request.request_id,
            ..Default::default()
        };
        self.change_found(&request.namespace, request.workflow_execution, "", |change| {
            change.signal(attributes, request.links)
        })
        .await?;
        Ok(SignalWorkflowExecutionResponse::default())
    }

    pub(super) async fn request_cancel_workflow_execution(
        &self,
        request: RequestCancelWorkflowExecutionRequest,
    ) -> Result<RequestCancelWorkflowExecutionResponse, Status> {
        check_optional_id("the request's id", &request.request_id)?;
        let (reason, identity) = (request.reason, request.identity);
        let cancel =
            |change: &mut Change| change.request_cancel(reason, identity, &request.request_id, request.links);
        let first_run_id = &request.first_execution_run_id;
        self.change_found(
            &request.namespace,
            request.workflow_execution,
            first_run_id,
            cancel,
        )
        .await?;
        Ok(RequestCancelWorkflowExecutionResponse::default())
    }

    pub(super) async fn terminate_workflow_execution(
        &self,
        request: TerminateWorkflowExecutionRequest,
    ) -> Result<TerminateWorkflowExecutionResponse, Status> {
        // A server gives the same reason where a client gives none.
        let reason = Some(request.reason).filter(|reason| !reason.is_empty());
        let reason = reason.unwrap_or_else(|| "terminated by user via frontend".to_owned());
        let terminate =
            |change: &mut Change| change.terminate(reason, request.details, request.identity, request.links);
        let first_run_id = &request.first_execution_run_id;
        self.change_found(
            &request.namespace,
            request.workflow_execution,
            first_run_id,
            terminate,
        )
        .await?;
        Ok(TerminateWorkflowExecutionResponse {})
    }

    pub(super) async fn describe_workflow_execution(
        &self,
        request: DescribeWorkflowExecutionRequest,
    ) -> Result<DescribeWorkflowExecutionResponse, Status> {
        let run = self.find_run(&request.namespace, &request.execution.unwrap_or_default())?;
        self.settled().await?;
        let task = run.workflow_task.as_ref().map(|task| PendingWorkflowTaskInfo {
            state: match task.started_event_id {
                0 => PendingWorkflowTaskState::Scheduled as i32,
                _ => PendingWorkflowTaskState::Started as i32,
            },
            scheduled_time: timestamp(task.scheduled_ms),
            original_scheduled_time: timestamp(task.scheduled_ms),
            started_time: (task.started_ms > 0)
                .then(|| timestamp(task.started_ms))
                .flatten(),
            attempt: task.attempt,
        });
        Ok(DescribeWorkflowExecutionResponse {
            execution_config: Some(WorkflowExecutionConfig {
                task_queue: Some(TaskQueue {
                    name: run.task_queue.clone(),
                    ..Default::default()
                }),
                workflow_execution_timeout: duration(run.execution_timeout_ms),
                workflow_run_timeout: duration(run.run_timeout_ms),
                default_workflow_task_timeout: duration(run.workflow_task_timeout_ms),
                user_metadata: run.user_metadata.clone(),
            }),
            pending_activities: run.activities.values().map(pending_activity).collect(),
            pending_workflow_task: task,
            workflow_extended_info: Some(WorkflowExecutionExtendedInfo {
                cancel_requested: run.cancel_requested,
                original_start_time: timestamp(run.first_start_ms),
                ..Default::default()
            }),
            workflow_execution_info: Some(execution_info(&run)),
            ..Default::default()
        })
    }

    /// A page of events; with `wait_new_event` the page comes when there is news, with the close filter when it closes.
    pub(super) async fn get_workflow_execution_history(
        &self,
        request: GetWorkflowExecutionHistoryRequest,
    ) -> Result<GetWorkflowExecutionHistoryResponse, Status> {
        let page = self.history_page(request).await?;
        self.settled().await?;
        Ok(page)
    }

    async fn history_page(
        &self,
        request: GetWorkflowExecutionHistoryRequest,
    ) -> Result<GetWorkflowExecutionHistoryResponse, Status> {
        let (mut execution, mut from) = (request.execution.unwrap_or_default(), 1);
        if let Some((run_id, next)) = page_token(&request.next_page_token)? {
            (execution.run_id, from) = (run_id, next);
        }
        let close_only = request.history_event_filter_type == HistoryEventFilterType::CloseEvent as i32;
        let limit = usize::try_from(request.maximum_page_size)
            .ok()
            .filter(|size| (1..MAX_PAGE).contains(size))
            .unwrap_or(MAX_PAGE);
        let end = tokio::time::Instant::now() + LONG_POLL;
        loop {
            let run = self.find_run(&request.namespace, &execution)?;
            execution.run_id.clone_from(&run.run_id);
            let changed = self.core().watch(&run.run_id);
            let mut notified = std::pin::pin!(changed.notified());
            notified.as_mut().enable();
            // Once the bell is armed, what was missed is read again.
            let run = self.find_run(&request.namespace, &execution)?;
            let nothing_yet = if close_only {
                !run.is_closed()
            } else {
                run.next_event_id <= from
            };
            if request.wait_new_event && !run.is_closed() && nothing_yet {
                if tokio::time::timeout_at(end, notified).await.is_err() {
                    return Ok(page(Vec::new(), Some((&run.run_id, from))));
                }
                continue;
            }
            if close_only {
                let last = self.events(&run, run.last_event_id(), 1)?;
                return Ok(page(
                    last.into_iter()
                        .filter(|event| run.is_closed() && is_close_event(event))
                        .collect(),
                    None,
                ));
            }
            let events = self.events(&run, from, limit)?;
            let next = from + i64::try_from(events.len()).unwrap_or(0);
            let more = next < run.next_event_id || (request.wait_new_event && !run.is_closed());
            return Ok(page(events, more.then_some((run.run_id.as_str(), next))));
        }
    }
}

fn page(
    events: Vec<temporalio_protos::temporal::api::history::v1::HistoryEvent>,
    next: Option<(&str, i64)>,
) -> GetWorkflowExecutionHistoryResponse {
    let next_page_token = next
        .map(|(run_id, from)| format!("{run_id}/{from}").into_bytes())
        .unwrap_or_default();
    GetWorkflowExecutionHistoryResponse {
        history: Some(History { events }),
        next_page_token,
        ..Default::default()
    }
}

fn page_token(token: &[u8]) -> Result<Option<(String, i64)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(token)
        .ok()
        .and_then(|text| text.split_once('/'));
    let parsed = parsed.and_then(|(run_id, from)| Some((run_id.to_owned(), from.parse().ok()?)));
    parsed
        .map(Some)
        .ok_or_else(|| Status::invalid_argument("the page token is not one of this service"))
}

pub(in super::super) fn execution_info(run: &RunRecord) -> WorkflowExecutionInfo {
    let closed = (run.status != WorkflowExecutionStatus::Running as i32)
        .then(|| timestamp(run.close_ms))
        .flatten();
    WorkflowExecutionInfo {
        execution: Some(WorkflowExecution {
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id.clone(),
        }),
        r#type: Some(WorkflowType {
            name: run.workflow_type.clone(),
        }),
        start_time: timestamp(run.start_ms),
        execution_time: timestamp(run.execution_ms.max(run.start_ms)),
        close_time: closed,
        execution_duration: closed.and_then(|_| duration(run.close_ms - run.start_ms)),
        status: run.status,
        history_length: run.last_event_id(),
        history_size_bytes: run.history_bytes,
        memo: run.memo.clone(),
        search_attributes: run.search_attributes.clone(),
        task_queue: run.task_queue.clone(),
        first_run_id: run.first_run_id.clone(),
        priority: run.priority.clone(),
        ..Default::default()
    }
}

fn pending_activity(it: &ActivityState) -> PendingActivityInfo {
    let state = match (it.cancel_requested_event_id, it.started_ms) {
        (0, 0) => PendingActivityState::Scheduled,
        (0, _) => PendingActivityState::Started,
        _ => PendingActivityState::CancelRequested,
    };
    let at = |ms: i64| (ms > 0).then(|| timestamp(ms)).flatten();
    let waits = it.started_ms == 0 && it.attempt > 1;
    PendingActivityInfo {
        activity_id: it.activity_id.clone(),
        activity_type: it.type_proto(),
        state: state as i32,
        heartbeat_details: it.heartbeat_details.clone(),
        // From the beginning of an attempt on it is counted, as if there had been one.
        last_heartbeat_time: at(it.heartbeat_ms).filter(|_| it.heartbeat_ms != it.started_ms),
        last_started_time: at(it.started_ms),
        attempt: it.attempt,
        maximum_attempts: it
            .retry_policy
            .as_ref()
            .map_or(0, |policy| policy.maximum_attempts),
        scheduled_time: at(it.scheduled_ms),
        expiration_time: (it.schedule_to_close_ms > 0)
            .then(|| timestamp(it.scheduled_ms + it.schedule_to_close_ms))
            .flatten(),
        last_failure: it.last_failure.clone(),
        last_worker_identity: it.identity.clone(),
        last_attempt_complete_time: at(it.last_attempt_complete_ms),
        current_retry_interval: waits
            .then(|| duration(it.attempt_scheduled_ms - it.last_attempt_complete_ms))
            .flatten(),
        next_attempt_schedule_time: waits.then(|| timestamp(it.attempt_scheduled_ms)).flatten(),
        ..Default::default()
    }
}
