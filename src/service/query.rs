//! Queries: questions to a workflow's state, answered by a worker. They live in memory only and leave no event.
//!
//! While the run has a workflow task, a query travels with it, so that the answer is not older than what the asker knows;
//! otherwise it is a task of its own.

use std::collections::HashMap;
use std::time::Duration;

use temporalio_protos::temporal::api::common::v1::Payloads;
use temporalio_protos::temporal::api::enums::v1::{
    QueryRejectCondition, QueryResultType, WorkflowExecutionStatus,
};
use temporalio_protos::temporal::api::errordetails::v1::{QueryFailedFailure, WorkflowNotReadyFailure};
use temporalio_protos::temporal::api::failure::v1::Failure;
use temporalio_protos::temporal::api::query::v1::{QueryRejected, WorkflowQuery, WorkflowQueryResult};
use temporalio_protos::temporal::api::workflowservice::v1::{
    QueryWorkflowRequest, QueryWorkflowResponse, RespondQueryTaskCompletedRequest,
    RespondQueryTaskCompletedResponse,
};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::core::Core;
use super::detail::detailed;
use super::history::{RunState, check_size};
use super::matching::{QueueKind, Task};
use super::{Mode, Service, journal_status};

/// How long a query waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long of it at most the worker has that the run was last seen with; then any other has.
const STICKY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many queries may wait at the same time.
const MAX_WAITING: usize = 1000;

type Answer = Result<Option<Payloads>, Status>;

struct Waiting {
    run_id: String,
    /// Where it goes if its run is closed when it is handed out.
    task_queue: String,
    query: WorkflowQuery,
    answer: oneshot::Sender<Answer>,
    /// The queue in which it waits in its own right, not with a workflow task.
    queue: Option<String>,
}

/// All queries that wait for an answer.
#[derive(Default)]
pub struct Queries {
    waiting: HashMap<String, Waiting>,
}

impl Queries {
    /// The run and the question of a query that still waits.
    pub fn get(&self, query_id: &str) -> Option<(String, WorkflowQuery)> {
        self.waiting
            .get(query_id)
            .map(|it| (it.run_id.clone(), it.query.clone()))
    }

    /// Those that wait: the id, the run, and the queue if it waits in its own right.
    #[cfg(test)]
    pub fn all(&self) -> Vec<(String, String, Option<String>)> {
        let told = |(id, it): (&String, &Waiting)| (id.clone(), it.run_id.clone(), it.queue.clone());
        self.waiting.iter().map(told).collect()
    }

    /// The queries that travel with the next workflow task of a run.
    pub fn attached(&self, run_id: &str) -> HashMap<String, WorkflowQuery> {
        let attached = self
            .waiting
            .iter()
            .filter(|(_, it)| it.run_id == run_id && it.queue.is_none());
        attached.map(|(id, it)| (id.clone(), it.query.clone())).collect()
    }

    /// A worker answers some, with its workflow task.
    pub fn answer_all(&mut self, results: HashMap<String, WorkflowQueryResult>) {
        for (query_id, result) in results {
            let answered = result.result_type == QueryResultType::Answered as i32;
            self.answer(
                &query_id,
                if answered {
                    within_limits(result.answer)
                } else {
                    Err(failed(result.error_message, result.failure))
                },
            );
        }
    }

    /// Whether somebody waited for it.
    fn answer(&mut self, query_id: &str, answer: Answer) -> bool {
        let waiting = self.waiting.remove(query_id);
        waiting.is_some_and(|it| it.answer.send(answer).is_ok())
    }
}

impl Core {
    /// Hands out, as tasks of their own, the queries whose run has no workflow task they could travel with.
    pub fn release_queries(&mut self, now_ms: i64) {
        let Self {
            runs,
            queries,
            matching,
            ..
        } = self;
        for (query_id, waiting) in queries.waiting.iter_mut().filter(|(_, it)| it.queue.is_none()) {
            let run = runs.get(&waiting.run_id);
            if run.is_none_or(|run| run.workflow_task.is_none()) {
                let sticky = run.and_then(|run| Some(run.sticky.as_ref()?.queue.as_str()));
                let sticky = sticky.filter(|queue| matching.is_polled(QueueKind::Workflow, queue, now_ms));
                let queue = sticky.unwrap_or(&waiting.task_queue).to_owned();
                waiting.queue = Some(queue.clone());
                matching.push(
                    QueueKind::Workflow,
                    &queue,
                    Task::Query {
                        query_id: query_id.clone(),
                    },
                );
            }
        }
    }
}

impl Core {
    /// Asks any worker, where the one that had the run in its cache has not answered. Gives that one's queue.
    pub fn ask_elsewhere(&mut self, query_id: &str) -> Option<(String, String)> {
        let waiting = self.queries.waiting.get_mut(query_id)?;
        let normal = waiting.task_queue.clone();
        // One that waits for a workflow task goes out with the next one, whoever takes it.
        let asked = waiting.queue.clone().filter(|it| *it != normal)?;
        waiting.queue = Some(normal.clone());
        let run_id = waiting.run_id.clone();
        let task = Task::Query {
            query_id: query_id.to_owned(),
        };
        self.matching.push(QueueKind::Workflow, &normal, task);
        Some((run_id, asked))
    }
}

/// Takes a waiting query out when its asker is gone.
struct Asking<'a>(&'a Service, String);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.core().queries.waiting.remove(&self.1);
    }
}

impl Service {
    pub(super) async fn query_workflow(
        &self,
        request: QueryWorkflowRequest,
    ) -> Result<QueryWorkflowResponse, Status> {
        let (sender, mut answer) = oneshot::channel();
        let query_id = uuid::Uuid::new_v4().to_string();
        let asking = Asking(self, query_id.clone());
        let sticky_timeout = match self.ask(request, query_id.clone(), sender)? {
            Ok(sticky_timeout) => sticky_timeout,
            Err(query_rejected) => {
                self.settled().await?;
                return Ok(QueryWorkflowResponse {
                    query_rejected: Some(query_rejected),
                    ..Default::default()
                });
            }
        };
        let answer = match tokio::time::timeout(sticky_timeout, &mut answer).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.forget_lost_worker(&query_id).await?;
                tokio::time::timeout(TIMEOUT.saturating_sub(sticky_timeout), answer).await
            }
        };
        drop(asking);
        let answer = answer.map_err(|_| Status::deadline_exceeded("no worker answered the query"))?;
        let query_result = answer.map_err(|_| Status::unavailable("the query was dropped"))??;
        Ok(QueryWorkflowResponse {
            query_result,
            ..Default::default()
        })
    }

    /// Puts a query where a worker finds it, and gives how long the one that has the run in its cache has for it; or says
    /// that it is rejected.
    fn ask(
        &self,
        request: QueryWorkflowRequest,
        query_id: String,
        answer: oneshot::Sender<Answer>,
    ) -> Result<Result<Duration, QueryRejected>, Status> {
        let execution = request.execution.unwrap_or_default();
        let query = request
            .query
            .ok_or_else(|| Status::invalid_argument("the query is not set"))?;
        let mut core = self.core();
        let found = core.find(
            &self.inner.store,
            &request.namespace,
            &execution.workflow_id,
            &execution.run_id,
        );
        let run = found.map_err(|error| journal_status(&error))?;
        let run = run.ok_or_else(|| Status::not_found("workflow execution not found"))?;
        if is_rejected(request.query_reject_condition, run.status) {
            return Ok(Err(QueryRejected { status: run.status }));
        }
        if core.queries.waiting.len() >= MAX_WAITING {
            return Err(Status::resource_exhausted("too many queries wait for an answer"));
        }
        self.must_be_answerable(&run)?;
        let direct = self.inner.mode == Mode::Inspect;
        let waiting = Waiting {
            run_id: run.run_id.clone(),
            task_queue: run.task_queue.clone(),
            query,
            answer,
            queue: direct.then(|| run.task_queue.clone()),
        };
        core.queries.waiting.insert(query_id.clone(), waiting);
        if direct {
            core.matching
                .push(QueueKind::Workflow, &run.task_queue, Task::Query { query_id });
        } else {
            core.release_queries(self.now_ms());
        }
        let sticky_ms = run.sticky.as_ref().map(|sticky| sticky.schedule_to_start_ms);
        let sticky_timeout = sticky_ms.and_then(|ms| u64::try_from(ms).ok());
        Ok(Ok(sticky_timeout
            .map_or(STICKY_TIMEOUT, Duration::from_millis)
            .min(STICKY_TIMEOUT)))
    }

    /// The worker that has the run in its cache does not answer: any other is asked, and gets the next workflow task.
    async fn forget_lost_worker(&self, query_id: &str) -> Result<(), Status> {
        let Some((run_id, queue)) = self.core().ask_elsewhere(query_id) else {
            return Ok(());
        };
        let forget = |change: &mut super::history::Change| {
            change.state.sticky.take_if(|sticky| sticky.queue == queue);
            Ok(())
        };
        self.change(&run_id, forget).await
    }

    /// A run whose first workflow task was never completed has no state to ask for.
    fn must_be_answerable(&self, run: &RunState) -> Result<(), Status> {
        let untouched = run.last_completed_started_event_id == 0;
        if untouched && (self.inner.mode == Mode::Inspect || run.workflow_task.is_none()) {
            let message = "the workflow has not begun to run".to_owned();
            let details = WorkflowNotReadyFailure {};
            return Err(detailed(
                Code::FailedPrecondition,
                message,
                "WorkflowNotReadyFailure",
                &details,
            ));
        }
        Ok(())
    }

    pub(super) async fn respond_query_task_completed(
        &self,
        request: RespondQueryTaskCompletedRequest,
    ) -> Result<RespondQueryTaskCompletedResponse, Status> {
        let no_token = |_| Status::invalid_argument("the task token is not one of this service");
        let query_id = uuid::Uuid::try_parse_ascii(&request.task_token)
            .map_err(no_token)?
            .to_string();
        let answered = request.completed_type == QueryResultType::Answered as i32;
        let answer = if answered {
            within_limits(request.query_result)
        } else {
            Err(failed(request.error_message, request.failure))
        };
        if self.core().queries.answer(&query_id, answer) {
            Ok(RespondQueryTaskCompletedResponse {})
        } else {
            Err(Status::not_found(
                "nobody waits for an answer to the query any more",
            ))
        }
    }
}

fn within_limits(answer: Option<Payloads>) -> Answer {
    let size = answer
        .as_ref()
        .map_or(Ok(()), |answer| check_size("the answer", answer));
    match size {
        Ok(()) => Ok(answer),
        Err(what) => Err(failed(what, None)),
    }
}

fn failed(message: String, failure: Option<Failure>) -> Status {
    let details = QueryFailedFailure { failure };
    detailed(Code::InvalidArgument, message, "QueryFailedFailure", &details)
}

fn is_rejected(condition: i32, status: i32) -> bool {
    let open = status == WorkflowExecutionStatus::Running as i32;
    match QueryRejectCondition::try_from(condition) {
        Ok(QueryRejectCondition::NotOpen) => !open,
        Ok(QueryRejectCondition::NotCompletedCleanly) => {
            !open && status != WorkflowExecutionStatus::Completed as i32
        }
        _ => false,
    }
}
