//! Updates: a message to the workflow with an answer. A worker rejects one (no event) or accepts it (an event), and
//! later completes it (an event). What was accepted survives the process; what only waits is the client's to repeat.

use std::collections::HashMap;

use prost::Message as _;
use temporalio_protos::temporal::api::enums::v1::WorkflowTaskFailedCause;
use temporalio_protos::temporal::api::failure::v1::failure::FailureInfo;
use temporalio_protos::temporal::api::failure::v1::{ApplicationFailureInfo, Failure};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    WorkflowExecutionUpdateAcceptedEventAttributes, WorkflowExecutionUpdateCompletedEventAttributes,
};
use temporalio_protos::temporal::api::protocol::v1::Message;
use temporalio_protos::temporal::api::update::v1::{
    Acceptance, Outcome, Rejection, Request, Response, outcome,
};

use super::{Change, HistoryError, RunState, UpdateState, check_size};

/// What became of an update.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateNews {
    /// The workflow took it on.
    Accepted,
    /// It is done, well or not.
    Completed(Outcome),
    /// The workflow's validator refused it.
    Rejected(Failure),
}

/// How many updates a run takes in its life: it remembers the ids of all, so that none is carried out twice.
pub const MAX_UPDATES: usize = 2000;
/// At so many the workflow is asked to continue as new.
pub(super) const SUGGEST_CONTINUE_AS_NEW_UPDATES: usize = 1800;

/// The outcome of an update that a worker was given and did not answer.
fn unprocessed() -> Failure {
    refusal(
        "the update was not answered by the worker, which may not know updates",
        "UnprocessedUpdate",
    )
}

/// The outcome of an update that was accepted and not completed when its run ended.
pub fn outlived() -> Outcome {
    let failure = refusal(
        "the workflow ended before the update was completed",
        "AcceptedUpdateCompletedWorkflow",
    );
    Outcome {
        value: Some(outcome::Value::Failure(failure)),
    }
}

fn refusal(message: &str, kind: &str) -> Failure {
    let info = ApplicationFailureInfo {
        r#type: kind.to_owned(),
        non_retryable: true,
        ..Default::default()
    };
    Failure {
        message: message.to_owned(),
        source: "Server".to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(info)),
        ..Default::default()
    }
}

pub(super) fn is_rejection(message: &Message) -> bool {
    let body = message.body.as_ref();
    body.is_some_and(|body| body.type_url.ends_with("/temporal.api.update.v1.Rejection"))
}

impl Change {
    /// Carries out one message of a worker about an update.
    pub(super) fn update_message(
        &mut self,
        message: &Message,
        requests: &HashMap<String, Request>,
    ) -> Result<(), HistoryError> {
        let update_id = message.protocol_instance_id.clone();
        let bad = |what: String| HistoryError::BadCommand {
            cause: WorkflowTaskFailedCause::BadUpdateWorkflowExecutionMessage as i32,
            message: format!("update {update_id}: {what}"),
        };
        let body = message
            .body
            .as_ref()
            .ok_or_else(|| bad("the message has no body".to_owned()))?;
        let broken = |error: prost::DecodeError| bad(error.to_string());
        match body.type_url.rsplit('/').next().unwrap_or_default() {
            "temporal.api.update.v1.Acceptance" => {
                let acceptance = Acceptance::decode(body.value.as_slice()).map_err(broken)?;
                let request = acceptance
                    .accepted_request
                    .or_else(|| requests.get(&update_id).cloned());
                let request = request.ok_or_else(|| bad("nobody asked for it".to_owned()))?;
                if self.is_accepted(&update_id) {
                    return Err(bad("it was accepted before".to_owned()));
                }
                self.accept_update(
                    update_id,
                    acceptance.accepted_request_message_id,
                    acceptance.accepted_request_sequencing_event_id,
                    request,
                );
                Ok(())
            }
            "temporal.api.update.v1.Rejection" => {
                let rejection = Rejection::decode(body.value.as_slice()).map_err(broken)?;
                if self.is_accepted(&update_id) {
                    return Err(bad("it was accepted before it was rejected".to_owned()));
                }
                self.update_news.push((
                    update_id,
                    UpdateNews::Rejected(rejection.failure.unwrap_or_default()),
                ));
                Ok(())
            }
            "temporal.api.update.v1.Response" => {
                let response = Response::decode(body.value.as_slice()).map_err(broken)?;
                if response.outcome.as_ref().is_none_or(|it| it.value.is_none()) {
                    return Err(bad("it was completed without an outcome".to_owned()));
                }
                check_size("the outcome", &response).map_err(bad)?;
                let update = self.state.updates.remove(&update_id);
                let update = update.ok_or_else(|| bad("it was not accepted".to_owned()))?;
                self.complete_update(update, response);
                Ok(())
            }
            other => Err(bad(format!("`{other}` is no message about an update"))),
        }
    }

    fn is_accepted(&self, update_id: &str) -> bool {
        self.state.updates.contains_key(update_id) || self.state.completed_updates.contains_key(update_id)
    }

    fn accept_update(
        &mut self,
        update_id: String,
        message_id: String,
        sequencing_event_id: i64,
        request: Request,
    ) {
        let attributes = WorkflowExecutionUpdateAcceptedEventAttributes {
            protocol_instance_id: update_id.clone(),
            accepted_request_message_id: message_id,
            accepted_request_sequencing_event_id: sequencing_event_id,
            accepted_request: Some(request),
        };
        let accepted_event_id = self.append(Attributes::WorkflowExecutionUpdateAcceptedEventAttributes(
            attributes,
        ));
        let update = UpdateState {
            update_id: update_id.clone(),
            accepted_event_id,
            completed_event_id: 0,
        };
        self.state.updates.insert(update_id.clone(), update);
        self.update_news.push((update_id, UpdateNews::Accepted));
    }

    fn complete_update(&mut self, mut update: UpdateState, response: Response) {
        let outcome = response.outcome.clone().unwrap_or_default();
        let attributes = WorkflowExecutionUpdateCompletedEventAttributes {
            meta: response.meta,
            accepted_event_id: update.accepted_event_id,
            outcome: response.outcome,
        };
        update.completed_event_id = self.append(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(
            attributes,
        ));
        self.update_news
            .push((update.update_id.clone(), UpdateNews::Completed(outcome)));
        self.state
            .completed_updates
            .insert(update.update_id.clone(), update);
    }

    /// A workflow task for an update that a client has sent.
    pub fn admit_update(&mut self) -> Result<(), HistoryError> {
        self.must_be_open()?;
        if self.state.update_count() >= MAX_UPDATES {
            return Err(HistoryError::NotNow(format!(
                "a run takes {MAX_UPDATES} updates, and this one has had them: it is to continue as new"
            )));
        }
        if self.state.first_task_ms > 0 {
            // It is held back no longer. A first task is not taken back, whatever becomes of the update.
            self.state.first_task_ms = 0;
            self.schedule_workflow_task();
        } else {
            self.schedule_speculative_task();
        }
        Ok(())
    }

    /// A worker that answers a workflow task, and not the updates that came with it, does not know updates.
    pub(super) fn refuse_unanswered(&mut self, sent: &HashMap<String, Request>) {
        let answered = |id: &String| self.update_news.iter().any(|(it, _)| it == id);
        let mut unanswered: Vec<_> = sent.keys().filter(|id| !answered(id)).cloned().collect();
        unanswered.sort();
        let refused = unanswered
            .into_iter()
            .map(|id| (id, UpdateNews::Rejected(unprocessed())));
        self.update_news.extend(refused);
    }
}

impl RunState {
    /// Updates that the run has accepted, completed or not.
    pub fn update_count(&self) -> usize {
        self.updates.len() + self.completed_updates.len()
    }
}
