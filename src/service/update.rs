//! Updates that clients wait for: the message goes to the worker with the next workflow task, the answer comes back with
//! its completion (`history::update` makes the events).

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use temporalio_protos::temporal::api::common::v1::WorkflowExecution;
use temporalio_protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as Lifecycle;
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;
use temporalio_protos::temporal::api::protocol::v1::{Message, message::SequencingId};
use temporalio_protos::temporal::api::update::v1::{Outcome, Request, UpdateRef, outcome};
use temporalio_protos::temporal::api::workflowservice::v1::{
    PollWorkflowExecutionUpdateRequest, PollWorkflowExecutionUpdateResponse, UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
};
use tokio::sync::watch;
use tonic::Status;

use super::core::Core;
use super::events::read_events;
use super::history::{self, RunState, UpdateNews, WorkflowTaskState, outlived};
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
    /// The run ended before it took the update; whether another run follows.
    Abandoned {
        continues: bool,
    },
}

/// How far the worker is with an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Unsent,
    Sent,
    /// Accepted, refused or completed, which may not be durable yet.
    Answered,
}

struct Waiting {
    request: Request,
    stage: watch::Sender<Stage>,
    delivery: Delivery,
    /// The order in which they came.
    number: u64,
}

/// All updates that are not completed, by run and update id.
#[derive(Default)]
pub struct Updates {
    waiting: HashMap<(String, String), Waiting>,
    admitted: u64,
}

impl Updates {
    /// The messages that go out with a workflow task, in the order in which the updates came.
    ///
    /// What a worker was given and did not answer it gets again, unless the task only goes on where it asked for more time,
    /// and it has the run in its cache.
    pub fn send(&mut self, run_id: &str, task: &WorkflowTaskState, in_cache: bool) -> Vec<Message> {
        let again = !(task.heartbeat && in_cache);
        let goes_out = |delivery| match delivery {
            Delivery::Unsent => true,
            Delivery::Sent => again,
            Delivery::Answered => false,
        };
        let mut of_run: Vec<_> = self
            .waiting
            .iter_mut()
            .filter(|((run, _), it)| run == run_id && goes_out(it.delivery))
            .collect();
        of_run.sort_by_key(|(_, it)| it.number);
        let messages = of_run.into_iter().map(|((_, update_id), waiting)| {
            waiting.delivery = Delivery::Sent;
            Message {
                id: format!("{update_id}/request"),
                protocol_instance_id: update_id.clone(),
                body: Some(prost_types::Any {
                    type_url: "type.googleapis.com/temporal.api.update.v1.Request".to_owned(),
                    value: waiting.request.encode_to_vec(),
                }),
                sequencing_id: Some(SequencingId::EventId(task.started_event_id - 1)),
            }
        });
        messages.collect()
    }

    /// The requests that went out and were not answered.
    pub fn sent(&self, run_id: &str) -> HashMap<String, Request> {
        let sent = self
            .waiting
            .iter()
            .filter(|((run, _), it)| run == run_id && it.delivery == Delivery::Sent);
        sent.map(|((_, id), it)| (id.clone(), it.request.clone()))
            .collect()
    }

    /// Whether a run has updates that no worker has seen.
    pub fn has_unsent(&self, run_id: &str) -> bool {
        self.waiting
            .iter()
            .any(|((run, _), it)| run == run_id && it.delivery == Delivery::Unsent)
    }

    /// The worker has answered it, in a change that is not durable yet.
    pub fn answered(&mut self, run_id: &str, update_id: &str) {
        let key = (run_id.to_owned(), update_id.to_owned());
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.delivery = Delivery::Answered;
        }
    }

    /// What tells of an update from now on.
    fn wait_for(
        &mut self,
        key: (String, String),
        request: Request,
        accepted: bool,
    ) -> watch::Receiver<Stage> {
        let (stage, delivery) = if accepted {
            (Stage::Accepted, Delivery::Answered)
        } else {
            (Stage::Admitted, Delivery::Unsent)
        };
        self.admitted += 1;
        let (stage, receiver) = watch::channel(stage);
        let waiting = Waiting {
            request,
            stage,
            delivery,
            number: self.admitted,
        };
        self.waiting.insert(key, waiting);
        receiver
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
        };
        if stage == Stage::Accepted {
            if let Some(waiting) = self.waiting.get(&key) {
                waiting.stage.send_replace(stage);
            }
        } else if let Some(waiting) = self.waiting.remove(&key) {
            waiting.stage.send_replace(stage);
        }
    }

    /// The run is closed: none of its updates will be taken.
    pub fn abandon(&mut self, run_id: &str, continues: bool) {
        self.waiting.retain(|(run, _), waiting| {
            if run == run_id {
                waiting.stage.send_replace(Stage::Abandoned { continues });
            }
            run != run_id
        });
    }
}

/// An update, as one who asks for it finds it.
enum Found {
    Waits(watch::Receiver<Stage>),
    /// Of a closed run: it will never be completed.
    Outlived,
    /// The event that has its outcome.
    Completed(i64),
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
        let update_id = update.meta.as_ref().map(|meta| meta.update_id.clone());
        let update_id = update_id.filter(|id| !id.is_empty());
        let update_id = update_id.ok_or_else(|| Status::invalid_argument("the update has no id"))?;
        history::check_id("the update's id", &update_id)
            .and_then(|()| {
                let name = update.input.as_ref().map_or("", |input| input.name.as_str());
                history::check_id("the update's name", name)
            })
            .and_then(|()| history::check_size("the update", &update))
            .map_err(Status::invalid_argument)?;
        let first_run_id = request.first_execution_run_id;
        let wanted = request.wait_policy.map_or(0, |policy| policy.lifecycle_stage);
        loop {
            let run = self.find_run(&request.namespace, &execution)?;
            if !first_run_id.is_empty() && run.first_run_id != first_run_id {
                return Err(Status::not_found("workflow execution not found"));
            }
            let found = self.admit(&run.run_id, &update_id, &update).await?;
            let Some((stage, outcome)) = self.wait_for_update(&run, found, wanted).await? else {
                // The workflow continues, and so does its caller, unless it means that run.
                if execution.run_id.is_empty() {
                    continue;
                }
                return Err(aborted());
            };
            return Ok(UpdateWorkflowExecutionResponse {
                update_ref: Some(update_ref(&run, update_id)),
                outcome,
                stage: stage as i32,
                ..Default::default()
            });
        }
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
        let found = self.find_update(&mut self.core(), &run.run_id, &reference.update_id)?;
        let found =
            found.ok_or_else(|| Status::not_found(format!("update {} not found", reference.update_id)))?;
        let (stage, outcome) = self
            .wait_for_update(&run, found, wanted)
            .await?
            .ok_or_else(aborted)?;
        Ok(PollWorkflowExecutionUpdateResponse {
            update_ref: Some(update_ref(&run, reference.update_id)),
            outcome,
            stage: stage as i32,
        })
    }

    /// An update that the run knows, open or closed.
    fn find_update(&self, core: &mut Core, run_id: &str, update_id: &str) -> Result<Option<Found>, Status> {
        let key = (run_id.to_owned(), update_id.to_owned());
        if let Some(waiting) = core.updates.waiting.get(&key) {
            return Ok(Some(Found::Waits(waiting.stage.subscribe())));
        }
        let run = core.get(&self.inner.store, run_id);
        let Some(run) = run.map_err(|error| journal_status(&error))? else {
            return Ok(None);
        };
        if let Some(completed) = run.completed_updates.get(update_id) {
            return Ok(Some(Found::Completed(completed.completed_event_id)));
        }
        if !run.updates.contains_key(update_id) {
            return Ok(None);
        }
        if run.is_closed() {
            return Ok(Some(Found::Outlived));
        }
        // Accepted in a process that has ended.
        let receiver = core.updates.wait_for(key, Request::default(), true);
        Ok(Some(Found::Waits(receiver)))
    }

    /// Takes an update in, unless it is there already. Under one lock, so that the run is as it was looked at.
    async fn admit(&self, run_id: &str, update_id: &str, request: &Request) -> Result<Found, Status> {
        let (receiver, pending) = {
            let mut core = self.core();
            if let Some(found) = self.find_update(&mut core, run_id, update_id)? {
                return Ok(found);
            }
            let of_run = core.updates.waiting.keys().filter(|(it, _)| it == run_id);
            if of_run.count() >= MAX_IN_FLIGHT {
                let message = "too many updates of this workflow wait";
                return Err(Status::resource_exhausted(message));
            }
            let ((), pending) = self.apply_to(&mut core, run_id, super::history::Change::admit_update)?;
            let key = (run_id.to_owned(), update_id.to_owned());
            (core.updates.wait_for(key, request.clone(), false), pending)
        };
        self.release(pending).await?;
        Ok(Found::Waits(receiver))
    }

    /// The stage that an update has reached, and its outcome. `None`: the run did not take it, and another run follows.
    async fn wait_for_update(
        &self,
        run: &RunState,
        found: Found,
        wanted: i32,
    ) -> Result<Option<(Lifecycle, Option<Outcome>)>, Status> {
        let mut receiver = match found {
            Found::Waits(receiver) => receiver,
            Found::Outlived => {
                self.settled().await?;
                return Ok(Some((Lifecycle::Completed, Some(outlived()))));
            }
            Found::Completed(event_id) => {
                let outcome = self.outcome(run, event_id)?;
                self.settled().await?;
                return Ok(Some((Lifecycle::Completed, Some(outcome))));
            }
        };
        let reached = |stage: &Stage| match stage {
            Stage::Admitted => wanted <= Lifecycle::Admitted as i32,
            Stage::Accepted => wanted <= Lifecycle::Accepted as i32,
            Stage::Completed(_) | Stage::Abandoned { .. } => true,
        };
        // On a time-out the client gets the stage as it is, and asks again.
        let _ = tokio::time::timeout(LONG_POLL, receiver.wait_for(reached)).await;
        let stage = receiver.borrow().clone();
        match stage {
            Stage::Admitted => Ok(Some((Lifecycle::Admitted, None))),
            Stage::Accepted => Ok(Some((Lifecycle::Accepted, None))),
            Stage::Completed(outcome) => Ok(Some((Lifecycle::Completed, Some(*outcome)))),
            Stage::Abandoned { continues: true } => Ok(None),
            Stage::Abandoned { continues: false } => Err(aborted()),
        }
    }

    fn outcome(&self, run: &RunState, completed_event_id: i64) -> Result<Outcome, Status> {
        let run = self.core().get(&self.inner.store, &run.run_id);
        let run = run.map_err(|error| journal_status(&error))?;
        let run = run.ok_or_else(|| Status::not_found("workflow execution not found"))?;
        let mut events = read_events(&self.inner.store, &run, completed_event_id, 1)
            .map_err(|error| journal_status(&error))?;
        match events.pop().and_then(|event| event.attributes) {
            Some(Attributes::WorkflowExecutionUpdateCompletedEventAttributes(it)) => {
                Ok(it.outcome.unwrap_or_default())
            }
            _ => Err(Status::internal("the update's event is no update")),
        }
    }
}

fn aborted() -> Status {
    Status::not_found("workflow update was aborted by closing workflow")
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
