//! Updates: a message to the workflow with an answer. A worker rejects one (no event) or accepts it (an event), and
//! later completes it (an event). What was accepted survives the process; what only waits is the client's to repeat.

use std::collections::HashMap;

use prost::Message as _;
use temporalio_protos::temporal::api::enums::v1::WorkflowTaskFailedCause;
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::history::v1::{
    WorkflowExecutionUpdateAcceptedEventAttributes, WorkflowExecutionUpdateCompletedEventAttributes,
};
use temporalio_protos::temporal::api::protocol::v1::Message;
use temporalio_protos::temporal::api::update::v1::{Acceptance, Outcome, Rejection, Request, Response};

use super::{Change, HistoryError, UpdateState};

/// What became of an update.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateNews {
    /// The workflow took it on.
    Accepted,
    /// It is done, well or not.
    Completed(Outcome),
    /// The workflow's validator refused it.
    Rejected(Failure),
    /// The run ended before it was done.
    Abandoned,
}

/// How many completed updates a run remembers, so that a client can ask again.
const MAX_COMPLETED: usize = 256;

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
                self.update_news.push((
                    update_id,
                    UpdateNews::Rejected(rejection.failure.unwrap_or_default()),
                ));
                Ok(())
            }
            "temporal.api.update.v1.Response" => {
                let response = Response::decode(body.value.as_slice()).map_err(broken)?;
                let update = self.state.updates.remove(&update_id);
                let update = update.ok_or_else(|| bad("it was not accepted".to_owned()))?;
                self.complete_update(update, response);
                Ok(())
            }
            other => Err(bad(format!("`{other}` is no message about an update"))),
        }
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
        if self.state.completed_updates.len() > MAX_COMPLETED {
            let oldest = self
                .state
                .completed_updates
                .values()
                .min_by_key(|it| it.completed_event_id);
            let oldest = oldest.map(|it| it.update_id.clone());
            oldest.and_then(|id| self.state.completed_updates.remove(&id));
        }
    }

    /// A workflow task for an update that a client has sent.
    pub fn admit_update(&mut self) -> Result<(), HistoryError> {
        if self.is_closed() {
            return Err(HistoryError::NotFound("workflow execution already completed"));
        }
        self.schedule_workflow_task();
        Ok(())
    }
}
