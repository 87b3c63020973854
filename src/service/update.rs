//! Updates that clients wait for: the message goes to the worker with the next workflow task, the answer comes back with
//! its completion (`history::update` makes the events).

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use temporalio_protos::temporal::api::common::v1::WorkflowExecution;
use temporalio_protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Lifecycle;
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::protocol::v1::{Message, message::SequencingId};
use temporalio_protos::temporal::api::update::v1::{Outcome, Request, UpdateRef, outcome};
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollWorkflowExecutionUpdateRequest, PollWorkflowExecutionUpdateResponse, UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
};
use tokio::sync::watch;
use tonic::Status;

use super::events::read_events;
use super::history::{RunState, UpdateNews};
use super::{Service, journal_status};

/// How long one RPC waits for an update to get on; the client asks again.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Updates of one run that may wait at the same time, as on a Temporal server.
const MAX_IN_FLIGHT: usize = 10;

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Admitted,
    Accepted,
    Completed(Box<Outcome>),
    Abandoned,
}

struct Waiting {
    request: Request,
    stage: watch::Sender<Stage>,
    /// The workflow task it was last sent with.
    sent_with: i64,
}

/// All updates that are not completed, by run and update id.
#[derive(Default)]
pub struct Updates {
    waiting: HashMap<(String, String), Waiting>,
}

impl Updates {
    /// The messages that go out with a workflow task.
    pub fn send(&mut self, run_id: &str, started_event_id: i64) -> Vec<Message> {
        let of_run = self
            .waiting
            .iter_mut()
            .filter(|((run, _), it)| run == run_id && *it.stage.borrow() == Stage::Admitted);
        let mut messages: Vec<Message> = of_run
            .map(|((_, update_id), waiting)| {
                waiting.sent_with = started_event_id;
                Message {
                    id: format!("{update_id}/request"),
                    protocol_instance_id: update_id.clone(),
                    body: Some(prost_types::Any {
                        type_url: "type.googleapis.com/temporal.api.update.v1.Request".to_owned(),
                        value: waiting.request.encode_to_vec(),
                    }),
                    sequencing_id: Some(SequencingId::EventId(started_event_id - 1)),
                }
            })
            .collect();
        messages.sort_by(|a, b| a.id.cmp(&b.id));
        messages
    }

    /// The requests that went out with a workflow task and were not answered before.
    pub fn sent_with(&self, run_id: &str, started_event_id: i64) -> HashMap<String, Request> {
        let sent = self
            .waiting
            .iter()
            .filter(|((run, _), it)| run == run_id && it.sent_with == started_event_id);
        sent.map(|((_, id), it)| (id.clone(), it.request.clone()))
            .collect()
    }

    /// Whether a run has updates that no worker has seen.
    pub fn has_unsent(&self, run_id: &str) -> bool {
        self.waiting
            .iter()
            .any(|((run, _), it)| run == run_id && it.sent_with == 0)
    }

    /// Tells those who wait.
    pub fn hear(&mut self, run_id: &str, update_id: &str, news: UpdateNews) {
        let key = (run_id.to_owned(), update_id.to_owned());
        let stage = match news {
            UpdateNews::Accepted => Stage::Accepted,
            UpdateNews::Completed(outcome) => Stage::Completed(Box::new(outcome)),
            UpdateNews::Rejected(failure) => {
                let value = Some(outcome::Value::Failure(failure));
                Stage::Completed(Box::new(Outcome { value }))
            }
            UpdateNews::Abandoned => Stage::Abandoned,
        };
        if stage == Stage::Accepted {
            if let Some(waiting) = self.waiting.get(&key) {
                waiting.stage.send_replace(stage);
            }
        } else if let Some(waiting) = self.waiting.remove(&key) {
            waiting.stage.send_replace(stage);
        }
    }

    /// A worker that answered a workflow task but not the updates that came with it does not know updates.
    pub fn refuse_unanswered(&mut self, run_id: &str, started_event_id: i64) {
        let unanswered = |(run, _): &&(String, String), it: &Waiting| {
            run == run_id && it.sent_with == started_event_id && *it.stage.borrow() == Stage::Admitted
        };
        let ids: Vec<_> = self
            .waiting
            .iter()
            .filter(|(key, it)| unanswered(key, it))
            .map(|(key, _)| key.1.clone())
            .collect();
        for update_id in ids {
            let message = "the worker did not answer the update".to_owned();
            self.hear(
                run_id,
                &update_id,
                UpdateNews::Rejected(Failure {
                    message,
                    ..Default::default()
                }),
            );
        }
    }

    /// The run is closed: none of its updates will be done.
    pub fn abandon(&mut self, run_id: &str) {
        let ids: Vec<_> = self
            .waiting
            .keys()
            .filter(|(run, _)| run == run_id)
            .map(|(_, id)| id.clone())
            .collect();
        ids.iter()
            .for_each(|id| self.hear(run_id, id, UpdateNews::Abandoned));
    }
}

impl Service {
    pub(super) async fn update_workflow_execution(
        &self,
        request: UpdateWorkflowExecutionRequest,
    ) -> Result<UpdateWorkflowExecutionResponse, Status> {
        let execution = request.workflow_execution.unwrap_or_default();
        let update = request
            .request
            .ok_or_else(|| Status::invalid_argument("the update is not set"))?;
        let update_id = update
            .meta
            .as_ref()
            .map(|meta| meta.update_id.clone())
            .filter(|id| !id.is_empty());
        let update_id = update_id.ok_or_else(|| Status::invalid_argument("the update has no id"))?;
        let run = self.find_run(&request.namespace, &execution)?;
        let first_run_id = request.first_execution_run_id;
        if !first_run_id.is_empty() && run.first_run_id != first_run_id {
            return Err(Status::not_found("workflow execution not found"));
        }
        let wanted = request.wait_policy.map_or(0, |policy| policy.lifecycle_stage);
        let receiver = self.admit(&run, &update_id, update).await?;
        let (stage, outcome) = self.wait_for_update(&run, &update_id, receiver, wanted).await?;
        let update_ref = Some(update_ref(&run, update_id));
        Ok(UpdateWorkflowExecutionResponse {
            update_ref,
            outcome,
            stage: stage as i32,
            ..Default::default()
        })
    }

    pub(super) async fn poll_workflow_execution_update(
        &self,
        request: PollWorkflowExecutionUpdateRequest,
    ) -> Result<PollWorkflowExecutionUpdateResponse, Status> {
        let reference = request.update_ref.unwrap_or_default();
        let run = self.find_run(
            &request.namespace,
            &reference.workflow_execution.unwrap_or_default(),
        )?;
        let wanted = request.wait_policy.map_or(0, |policy| policy.lifecycle_stage);
        let key = (run.run_id.clone(), reference.update_id.clone());
        let receiver = self
            .core()
            .updates
            .waiting
            .get(&key)
            .map(|waiting| waiting.stage.subscribe());
        let (stage, outcome) = self
            .wait_for_update(&run, &reference.update_id, receiver, wanted)
            .await?;
        let update_ref = Some(update_ref(&run, reference.update_id));
        Ok(PollWorkflowExecutionUpdateResponse {
            update_ref,
            outcome,
            stage: stage as i32,
        })
    }

    /// Takes an update in, unless it is there already.
    async fn admit(
        &self,
        run: &RunState,
        update_id: &str,
        request: Request,
    ) -> Result<Option<watch::Receiver<Stage>>, Status> {
        let known = |it: &super::history::UpdateState| it.update_id == update_id;
        let receiver = {
            let mut core = self.core();
            let key = (run.run_id.clone(), update_id.to_owned());
            if let Some(waiting) = core.updates.waiting.get(&key) {
                return Ok(Some(waiting.stage.subscribe()));
            }
            // As it is now: an update that is no longer waiting may have been completed since it was looked up.
            let run = core.runs.get(&run.run_id).cloned();
            let run = run.ok_or_else(|| Status::not_found("workflow execution not found"))?;
            if run.completed_updates.iter().any(known) {
                return Ok(None);
            }
            if core
                .updates
                .waiting
                .keys()
                .filter(|(it, _)| *it == run.run_id)
                .count()
                >= MAX_IN_FLIGHT
            {
                return Err(Status::resource_exhausted(
                    "too many updates of this workflow wait",
                ));
            }
            let accepted = run.updates.iter().any(known);
            let (stage, receiver) = watch::channel(if accepted {
                Stage::Accepted
            } else {
                Stage::Admitted
            });
            core.updates.waiting.insert(
                key,
                Waiting {
                    request,
                    stage,
                    sent_with: i64::from(accepted),
                },
            );
            receiver
        };
        let admitted = self
            .change(&run.run_id, super::history::Change::admit_update)
            .await;
        if let Err(status) = admitted {
            self.core()
                .updates
                .hear(&run.run_id, update_id, UpdateNews::Abandoned);
            return Err(status);
        }
        Ok(Some(receiver))
    }

    async fn wait_for_update(
        &self,
        run: &RunState,
        update_id: &str,
        receiver: Option<watch::Receiver<Stage>>,
        wanted: i32,
    ) -> Result<(Lifecycle, Option<Outcome>), Status> {
        let Some(mut receiver) = receiver else {
            return self.completed_update(run, update_id);
        };
        let reached = |stage: &Stage| match stage {
            Stage::Admitted => wanted <= Lifecycle::Admitted as i32,
            Stage::Accepted => wanted <= Lifecycle::Accepted as i32,
            Stage::Completed(_) | Stage::Abandoned => true,
        };
        // On a time-out the client gets the stage as it is, and asks again.
        let _ = tokio::time::timeout(LONG_POLL, receiver.wait_for(reached)).await;
        let stage = receiver.borrow().clone();
        match stage {
            Stage::Admitted => Ok((Lifecycle::Admitted, None)),
            Stage::Accepted => Ok((Lifecycle::Accepted, None)),
            Stage::Completed(outcome) => Ok((Lifecycle::Completed, Some(*outcome))),
            Stage::Abandoned => Err(Status::not_found("the workflow ended before it took the update")),
        }
    }

    fn completed_update(
        &self,
        run: &RunState,
        update_id: &str,
    ) -> Result<(Lifecycle, Option<Outcome>), Status> {
        let run = self
            .core()
            .runs
            .get(&run.run_id)
            .cloned()
            .ok_or_else(|| Status::not_found("workflow execution not found"))?;
        if run.updates.iter().any(|it| it.update_id == update_id) {
            return Ok((Lifecycle::Accepted, None));
        }
        let completed = run.completed_updates.iter().find(|it| it.update_id == update_id);
        let event_id = completed
            .ok_or_else(|| Status::not_found("update not found"))?
            .completed_event_id;
        let mut events =
            read_events(&self.inner.store, &run, event_id, 1).map_err(|error| journal_status(&error))?;
        match events.pop().and_then(|event| event.attributes) {
            Some(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(it)) => {
                Ok((Lifecycle::Completed, it.outcome))
            }
            _ => Err(Status::internal("the update's event is no update")),
        }
    }
}

fn update_ref(run: &RunState, update_id: String) -> UpdateRef {
    let workflow_execution = WorkflowExecution {
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id.clone(),
    };
    UpdateRef {
        workflow_execution: Some(workflow_execution),
        update_id,
    }
}
