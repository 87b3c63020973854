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
use temporalio_protos::temporal::api::query::v1::{QueryRejected, WorkflowQuery, WorkflowQueryResult};
use temporalio_protos::temporal::api::workflowservice::v1::{
    QueryWorkflowRequest, QueryWorkflowResponse, RespondQueryTaskCompletedRequest,
    RespondQueryTaskCompletedResponse,
};
use tokio::sync::oneshot;
use tonic::Status;

use super::core::Core;
use super::history::RunState;
use super::matching::{QueueKind, Task};
use super::{Mode, Service, journal_status};

/// How long a worker has for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many queries may wait at the same time.
const MAX_WAITING: usize = 1000;

type Answer = Result<Option<Payloads>, Status>;

struct Waiting {
    run_id: String,
    /// Where it goes if its run is closed when it is handed out.
    task_queue: String,
    query: WorkflowQuery,
    answer: oneshot::Sender<Answer>,
    /// In a queue of its own right, not with a workflow task.
    direct: bool,
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

    /// The queries that travel with the next workflow task of a run.
    pub fn attached(&self, run_id: &str) -> HashMap<String, WorkflowQuery> {
        let attached = self
            .waiting
            .iter()
            .filter(|(_, it)| it.run_id == run_id && !it.direct);
        attached.map(|(id, it)| (id.clone(), it.query.clone())).collect()
    }

    /// A worker answers some, with its workflow task.
    pub fn answer_all(&mut self, results: HashMap<String, WorkflowQueryResult>) {
        for (query_id, result) in results {
            let answered = result.result_type == QueryResultType::Answered as i32;
            self.answer(
                &query_id,
                if answered {
                    Ok(result.answer)
                } else {
                    Err(failed(&result.error_message))
                },
            );
        }
    }

    fn answer(&mut self, query_id: &str, answer: Answer) {
        if let Some(waiting) = self.waiting.remove(query_id) {
            // The asker may have gone.
            let _ = waiting.answer.send(answer);
        }
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
        for (query_id, waiting) in queries.waiting.iter_mut().filter(|(_, it)| !it.direct) {
            let run = runs.get(&waiting.run_id);
            if run.is_none_or(|run| run.workflow_task.is_none()) {
                waiting.direct = true;
                let sticky = run.and_then(|run| Some(run.sticky.as_ref()?.queue.as_str()));
                let sticky = sticky.filter(|queue| matching.is_polled(QueueKind::Workflow, queue, now_ms));
                let queue = sticky.unwrap_or(&waiting.task_queue).to_owned();
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
        let execution = request.execution.unwrap_or_default();
        let query = request
            .query
            .ok_or_else(|| Status::invalid_argument("the query is not set"))?;
        let (sender, answer) = oneshot::channel();
        let query_id = uuid::Uuid::new_v4().to_string();
        let asking = Asking(self, query_id.clone());
        {
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
                let query_rejected = Some(QueryRejected { status: run.status });
                return Ok(QueryWorkflowResponse {
                    query_rejected,
                    ..Default::default()
                });
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
                answer: sender,
                direct,
            };
            core.queries.waiting.insert(query_id.clone(), waiting);
            if direct {
                core.matching
                    .push(QueueKind::Workflow, &run.task_queue, Task::Query { query_id });
            } else {
                core.release_queries(self.now_ms());
            }
        }
        let answer = tokio::time::timeout(TIMEOUT, answer).await;
        drop(asking);
        let answer = answer.map_err(|_| Status::deadline_exceeded("no worker answered the query"))?;
        let query_result = answer.map_err(|_| Status::unavailable("the query was dropped"))??;
        Ok(QueryWorkflowResponse {
            query_result,
            ..Default::default()
        })
    }

    /// A run whose first workflow task was never completed has no state to ask for.
    fn must_be_answerable(&self, run: &RunState) -> Result<(), Status> {
        let untouched = run.last_completed_started_event_id == 0;
        if untouched && (self.inner.mode == Mode::Inspect || run.workflow_task.is_none()) {
            return Err(Status::failed_precondition("the workflow has not begun to run"));
        }
        Ok(())
    }

    pub(super) async fn respond_query_task_completed(
        &self,
        request: RespondQueryTaskCompletedRequest,
    ) -> Result<RespondQueryTaskCompletedResponse, Status> {
        let query_id = String::from_utf8_lossy(&request.task_token).into_owned();
        let answered = request.completed_type == QueryResultType::Answered as i32;
        let answer = if answered {
            Ok(request.query_result)
        } else {
            Err(failed(&request.error_message))
        };
        self.core().queries.answer(&query_id, answer);
        Ok(RespondQueryTaskCompletedResponse {})
    }
}

fn failed(message: &str) -> Status {
    Status::invalid_argument(message.to_owned())
}

fn is_rejected(condition: i32, status: i32) -> bool {
    let open = status == WorkflowExecutionStatus::Running as i32;
    match QueryRejectCondition::try_from(condition) {
        Ok(QueryRejectCondition::NotOpen) => !open,
        Ok(QueryRejectCondition::NotCompletedCleanly) => {
            let clean = [
                WorkflowExecutionStatus::Completed as i32,
                WorkflowExecutionStatus::ContinuedAsNew as i32,
            ];
            !open && !clean.contains(&status)
        }
        _ => false,
    }
}
