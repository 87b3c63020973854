//! Listing and counting workflows. The filter is the part of Temporal's query language that needs no index: equalities
//! joined by AND. Anything else is refused, never ignored.

use temporalio_protos::temporal::api::enums::v1::WorkflowExecutionStatus;
use temporalio_protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
};
use tonic::Status;

use super::frontend::execution_info;
use super::history::RunState;
use super::{NAMESPACE, Service};

/// Workflows on a page, unless the client wants fewer.
const MAX_PAGE: usize = 1000;

#[derive(Debug, PartialEq)]
enum Term {
    WorkflowId(String),
    WorkflowType(String),
    RunId(String),
    TaskQueue(String),
    Status(i32),
}

impl Term {
    fn holds(&self, run: &RunState) -> bool {
        match self {
            Self::WorkflowId(id) => run.workflow_id == *id,
            Self::WorkflowType(name) => run.workflow_type == *name,
            Self::RunId(id) => run.run_id == *id,
            Self::TaskQueue(name) => run.task_queue == *name,
            Self::Status(status) => run.status == *status,
        }
    }
}

fn parse(query: &str) -> Result<Vec<Term>, Status> {
    let refuse =
        |what: &str| Status::invalid_argument(format!("the filter `{query}` is not understood: {what}"));
    let mut terms = Vec::new();
    for part in query
        .split(" AND ")
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| refuse("only NAME = 'VALUE', joined by AND"))?;
        let value = value.trim().trim_matches(|c| c == '\'' || c == '"').to_owned();
        terms.push(match name.trim().trim_matches('`') {
            "WorkflowId" => Term::WorkflowId(value),
            "WorkflowType" => Term::WorkflowType(value),
            "RunId" => Term::RunId(value),
            "TaskQueue" => Term::TaskQueue(value),
            "ExecutionStatus" => Term::Status(status(&value).ok_or_else(|| refuse("no such status"))?),
            other => return Err(refuse(&format!("there is no {other}"))),
        });
    }
    Ok(terms)
}

fn status(name: &str) -> Option<i32> {
    use WorkflowExecutionStatus as S;
    let all = [
        S::Running,
        S::Completed,
        S::Failed,
        S::Canceled,
        S::Terminated,
        S::ContinuedAsNew,
        S::TimedOut,
    ];
    all.into_iter()
        .find(|status| format!("{status:?}") == name)
        .map(|status| status as i32)
}

impl Service {
    pub(super) async fn list_workflow_executions(
        &self,
        request: ListWorkflowExecutionsRequest,
    ) -> Result<ListWorkflowExecutionsResponse, Status> {
        let mut runs = self.matching_runs(&request.namespace, &request.query)?;
        // Newest first; the run id makes the order total, so that pages join up.
        runs.sort_by(|a, b| b.start_ms.cmp(&a.start_ms).then_with(|| a.run_id.cmp(&b.run_id)));
        let from = match request.next_page_token.as_slice() {
            [] => 0,
            token => {
                let position = std::str::from_utf8(token)
                    .ok()
                    .and_then(|run_id| runs.iter().position(|run| run.run_id == run_id));
                position.map_or(runs.len(), |position| position + 1)
            }
        };
        let limit = usize::try_from(request.page_size)
            .ok()
            .filter(|size| (1..MAX_PAGE).contains(size))
            .unwrap_or(MAX_PAGE);
        let page = &runs[from..runs.len().min(from + limit)];
        let more = from + page.len() < runs.len();
        let next_page_token = page
            .last()
            .filter(|_| more)
            .map(|run| run.run_id.clone().into_bytes())
            .unwrap_or_default();
        Ok(ListWorkflowExecutionsResponse {
            executions: page.iter().map(|run| execution_info(run)).collect(),
            next_page_token,
        })
    }

    pub(super) async fn count_workflow_executions(
        &self,
        request: CountWorkflowExecutionsRequest,
    ) -> Result<CountWorkflowExecutionsResponse, Status> {
        let count =
            i64::try_from(self.matching_runs(&request.namespace, &request.query)?.len()).unwrap_or(i64::MAX);
        Ok(CountWorkflowExecutionsResponse {
            count,
            ..Default::default()
        })
    }

    fn matching_runs(&self, namespace: &str, query: &str) -> Result<Vec<RunState>, Status> {
        if namespace != NAMESPACE {
            return Err(Status::not_found(format!("namespace {namespace} is not found")));
        }
        let terms = parse(query)?;
        let core = self.core();
        Ok(core
            .runs
            .values()
            .filter(|run| terms.iter().all(|term| term.holds(run)))
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equalities_are_understood_and_the_rest_is_refused() {
        let terms = parse("WorkflowId = 'a' AND ExecutionStatus=\"Running\"").unwrap();
        assert_eq!(terms, vec![Term::WorkflowId("a".into()), Term::Status(1)]);
        assert!(parse("").unwrap().is_empty());
        for refused in [
            "WorkflowId > 'a'",
            "StartTime = 'x'",
            "ExecutionStatus = 'Sleeping'",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
