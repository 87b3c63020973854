//! What workers call about activities, and clients that complete them in a worker's place. An answer names the attempt that it
//! is for by its token, or the activity by its id.

use prost::Message;
use temporalio_protos::temporal::api::command::v1::Command;
use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::common::v1::{Priority, WorkflowExecution, WorkflowType};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::workflowservice::v1::*;
use tonic::Status;

use crate::failpoint::failpoint;

use super::super::clock::{duration, timestamp};
use super::super::history::{ActivityStart, ActivityState, Change, Dispatch, RunState, WorkflowTaskStart};
use super::super::matching::{QueueKind, Task};
use super::super::{Caller, Service};
use super::poll::LONG_POLL;
use super::tasks::{TaskToken, execution, refuse_versioning, token};
use super::{check_id, check_payload};

impl Service {
    #[expect(deprecated, reason = "workers still say their build so")]
    pub(super) async fn poll_activity_task_queue(
        &self,
        caller: Caller,
        request: PollActivityTaskQueueRequest,
    ) -> Result<PollActivityTaskQueueResponse, Status> {
        refuse_versioning(
            request.deployment_options.as_ref(),
            request.worker_version_capabilities.as_ref(),
        )?;
        let queue = request.task_queue.unwrap_or_default();
        let poll = (
            QueueKind::Activity,
            queue.name.as_str(),
            request.identity.as_str(),
        );
        let end = tokio::time::Instant::now() + LONG_POLL;
        while let Some(task) = self.next_task(poll, end).await? {
            let Task::Activity {
                run_id,
                scheduled_event_id,
                attempt,
            } = task
            else {
                continue;
            };
            let start = ActivityStart {
                scheduled_event_id,
                attempt,
                identity: request.identity.clone(),
                request_id: uuid::Uuid::new_v4().to_string(),
                caller,
            };
            let started = self.change(&run_id, |change| {
                let activity = change.start_activity(start)?;
                Ok((change.state.clone(), activity))
            });
            match started.await {
                Ok((run, activity)) => return self.activity_task(&run, &activity),
                // Taken by another poll, timed out, or closed meanwhile.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        Ok(PollActivityTaskQueueResponse::default())
    }

    pub(super) fn activity_task(
        &self,
        run: &RunState,
        activity: &ActivityState,
    ) -> Result<PollActivityTaskQueueResponse, Status> {
        let scheduled = self
            .events(run, activity.scheduled_event_id, 1)?
            .pop()
            .and_then(|event| event.attributes);
        let Some(Attributes::ActivityTaskScheduledEventAttributes(scheduled)) = scheduled else {
            return Err(Status::internal("an activity's scheduled event is none"));
        };
        let event_id = activity.scheduled_event_id;
        let task_token = TaskToken {
            run_id: run.run_id.clone(),
            event_id,
            attempt: activity.attempt,
            ..Default::default()
        };
        Ok(PollActivityTaskQueueResponse {
            task_token: task_token.encode_to_vec(),
            workflow_namespace: run.namespace.clone(),
            workflow_type: Some(WorkflowType {
                name: run.workflow_type.clone(),
            }),
            workflow_execution: Some(execution(run)),
            activity_type: activity.type_proto(),
            activity_id: activity.activity_id.clone(),
            header: scheduled.header,
            input: scheduled.input,
            heartbeat_details: activity.heartbeat_details.clone(),
            scheduled_time: timestamp(activity.scheduled_ms),
            current_attempt_scheduled_time: timestamp(activity.attempt_scheduled_ms),
            started_time: timestamp(activity.started_ms),
            attempt: activity.attempt,
            schedule_to_close_timeout: Some(duration(activity.schedule_to_close_ms).unwrap_or_default()),
            start_to_close_timeout: Some(duration(activity.start_to_close_ms).unwrap_or_default()),
            heartbeat_timeout: Some(duration(activity.heartbeat_timeout_ms).unwrap_or_default()),
            retry_policy: activity.retry_policy.clone(),
            priority: priority(run.priority.as_ref(), scheduled.priority),
            ..Default::default()
        })
    }

    pub(super) async fn record_activity_task_heartbeat(
        &self,
        request: RecordActivityTaskHeartbeatRequest,
    ) -> Result<RecordActivityTaskHeartbeatResponse, Status> {
        let token = token(&request.task_token)?;
        check_payload("the heartbeat's details", request.details.as_ref())?;
        let cancel_requested = self
            .change(&token.run_id, |change| {
                change.heartbeat((token.event_id, token.attempt), request.details)
            })
            .await?;
        Ok(RecordActivityTaskHeartbeatResponse {
            cancel_requested,
            ..Default::default()
        })
    }

    #[expect(deprecated, reason = "workers still say their build so")]
    pub(super) async fn respond_activity_task_completed(
        &self,
        request: RespondActivityTaskCompletedRequest,
    ) -> Result<RespondActivityTaskCompletedResponse, Status> {
        let token = token(&request.task_token)?;
        check_payload("the result", request.result.as_ref())?;
        let task = (token.event_id, token.attempt);
        self.change(&token.run_id, |change| {
            change.note_worker(task.0, request.worker_version);
            change.complete_activity(task, request.result, request.identity)
        })
        .await?;
        failpoint!("service::before_activity_answer");
        Ok(RespondActivityTaskCompletedResponse {})
    }

    #[expect(deprecated, reason = "workers still say their build so")]
    pub(super) async fn respond_activity_task_failed(
        &self,
        request: RespondActivityTaskFailedRequest,
    ) -> Result<RespondActivityTaskFailedResponse, Status> {
        let token = token(&request.task_token)?;
        let task = (token.event_id, token.attempt);
        check_payload("the failure", request.failure.as_ref())?;
        check_payload("the heartbeat's details", request.last_heartbeat_details.as_ref())?;
        let failure = request.failure.unwrap_or_default();
        let fail = |change: &mut Change| {
            if let Some(details) = request
                .last_heartbeat_details
                .filter(|it| !it.payloads.is_empty())
            {
                change.heartbeat(task, Some(details))?;
            }
            change.note_worker(task.0, request.worker_version);
            change.fail_activity(task, failure, request.identity)
        };
        self.change(&token.run_id, fail).await?;
        Ok(RespondActivityTaskFailedResponse::default())
    }

    pub(super) async fn respond_activity_task_canceled(
        &self,
        request: RespondActivityTaskCanceledRequest,
    ) -> Result<RespondActivityTaskCanceledResponse, Status> {
        let token = token(&request.task_token)?;
        check_payload("the details", request.details.as_ref())?;
        let task = (token.event_id, token.attempt);
        self.change(&token.run_id, |change| {
            change.cancel_activity(task, request.details, request.identity)
        })
        .await?;
        Ok(RespondActivityTaskCanceledResponse {})
    }

    pub(super) async fn record_activity_task_heartbeat_by_id(
        &self,
        request: RecordActivityTaskHeartbeatByIdRequest,
    ) -> Result<RecordActivityTaskHeartbeatByIdResponse, Status> {
        check_payload("the heartbeat's details", request.details.as_ref())?;
        let (run, activity_id) = named(request.workflow_id, request.run_id, &request.activity_id)?;
        let heartbeat = |change: &mut Change| {
            let task = change.activity_with_id(activity_id)?;
            change.heartbeat(task, request.details)
        };
        let cancel_requested = self.change_found(&request.namespace, run, "", heartbeat).await?;
        Ok(RecordActivityTaskHeartbeatByIdResponse {
            cancel_requested,
            ..Default::default()
        })
    }

    pub(super) async fn respond_activity_task_completed_by_id(
        &self,
        request: RespondActivityTaskCompletedByIdRequest,
    ) -> Result<RespondActivityTaskCompletedByIdResponse, Status> {
        check_payload("the result", request.result.as_ref())?;
        let (run, activity_id) = named(request.workflow_id, request.run_id, &request.activity_id)?;
        let complete = |change: &mut Change| {
            change.complete_activity_by_id(activity_id, request.result, request.identity)
        };
        self.change_found(&request.namespace, run, "", complete).await?;
        Ok(RespondActivityTaskCompletedByIdResponse {})
    }

    pub(super) async fn respond_activity_task_failed_by_id(
        &self,
        request: RespondActivityTaskFailedByIdRequest,
    ) -> Result<RespondActivityTaskFailedByIdResponse, Status> {
        let (run, activity_id) = named(request.workflow_id, request.run_id, &request.activity_id)?;
        let fail = |change: &mut Change| {
            let task = change.activity_with_id(activity_id)?;
            if let Some(details) = request
                .last_heartbeat_details
                .filter(|it| !it.payloads.is_empty())
            {
                change.heartbeat(task, Some(details))?;
            }
            change.fail_activity(task, request.failure.unwrap_or_default(), request.identity)
        };
        self.change_found(&request.namespace, run, "", fail).await?;
        Ok(RespondActivityTaskFailedByIdResponse::default())
    }

    pub(super) async fn respond_activity_task_canceled_by_id(
        &self,
        request: RespondActivityTaskCanceledByIdRequest,
    ) -> Result<RespondActivityTaskCanceledByIdResponse, Status> {
        let (run, activity_id) = named(request.workflow_id, request.run_id, &request.activity_id)?;
        let cancel = |change: &mut Change| {
            let task = change.activity_with_id(activity_id)?;
            change.cancel_activity(task, request.details, request.identity)
        };
        self.change_found(&request.namespace, run, "", cancel).await?;
        Ok(RespondActivityTaskCanceledByIdResponse {})
    }
}

/// The run and the activity that a client names by their ids.
fn named(
    workflow_id: String,
    run_id: String,
    activity_id: &str,
) -> Result<(Option<WorkflowExecution>, &str), Status> {
    let execution = WorkflowExecution { workflow_id, run_id };
    Ok((Some(execution), check_id("activity id", activity_id)?))
}

/// What an activity's priority leaves open is that of its workflow.
fn priority(of_run: Option<&Priority>, own: Option<Priority>) -> Option<Priority> {
    let (Some(of_run), Some(own)) = (of_run, &own) else {
        return own.or_else(|| of_run.cloned());
    };
    let key_is_set = !own.fairness_key.is_empty();
    Some(Priority {
        priority_key: if own.priority_key == 0 {
            of_run.priority_key
        } else {
            own.priority_key
        },
        fairness_key: if key_is_set { own } else { of_run }.fairness_key.clone(),
        fairness_weight: if own.fairness_weight == 0.0 {
            of_run.fairness_weight
        } else {
            own.fairness_weight
        },
    })
}

/// The activity that a worker wants to have back with the answer to its workflow task.
pub(super) fn eager_activity(command: &Command) -> Option<String> {
    match &command.attributes {
        Some(Do::ScheduleActivityTaskCommandAttributes(it)) if it.request_eager_execution => {
            Some(it.activity_id.clone())
        }
        _ => None,
    }
}

/// Starts them within the same change.
pub(super) fn start_eagerly(
    change: &mut Change,
    eager: &[String],
    worker: &WorkflowTaskStart,
) -> Vec<(RunState, ActivityState)> {
    let mut started = Vec::new();
    for activity_id in eager {
        let found = change.state.activities.with_id(activity_id);
        let found = found.filter(|it| it.started_ms == 0);
        let Some((scheduled_event_id, attempt)) = found.map(|it| (it.scheduled_event_id, it.attempt)) else {
            continue;
        };
        let start = ActivityStart {
            scheduled_event_id,
            attempt,
            identity: worker.identity.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            caller: worker.caller,
        };
        if let Ok(activity) = change.start_activity(start) {
            change.dispatch.retain(|it| !matches!(it, Dispatch::ActivityTask { scheduled_event_id: id, .. } if *id == scheduled_event_id));
            started.push(activity);
        }
    }
    let run = change.state.clone();
    started
        .into_iter()
        .map(|activity| (run.clone(), activity))
        .collect()
}
