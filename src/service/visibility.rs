//! Listing and counting workflows.

use temporalio_protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CountWorkflowExecutionsResponse, ListWorkflowExecutionsRequest,
    ListWorkflowExecutionsResponse,
};
use tonic::Status;

use super::filter::Filter;
use super::frontend::execution_info;
use super::history::RunState;
use super::{NAMESPACE, Service};

/// Workflows on a page, unless the client wants fewer.
const MAX_PAGE: usize = 1000;

impl Service {
    pub(super) async fn list_workflow_executions(
        &self,
        request: ListWorkflowExecutionsRequest,
    ) -> Result<ListWorkflowExecutionsResponse, Status> {
        let mut runs = self.matching_runs(&request.namespace, &request.query)?;
        self.settled().await?;
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
            executions: page.iter().map(execution_info).collect(),
            next_page_token,
        })
    }

    pub(super) async fn count_workflow_executions(
        &self,
        request: CountWorkflowExecutionsRequest,
    ) -> Result<CountWorkflowExecutionsResponse, Status> {
        let count =
            i64::try_from(self.matching_runs(&request.namespace, &request.query)?.len()).unwrap_or(i64::MAX);
        self.settled().await?;
        Ok(CountWorkflowExecutionsResponse {
            count,
            ..Default::default()
        })
    }

    fn matching_runs(&self, namespace: &str, query: &str) -> Result<Vec<RunState>, Status> {
        if namespace != NAMESPACE {
            return Err(Status::not_found(format!("namespace {namespace} is not found")));
        }
        let refused =
            |why| Status::invalid_argument(format!("the filter `{query}` is not understood: {why}"));
        let filter = Filter::parse(query).map_err(refused)?;
        let core = self.core();
        Ok(core
            .runs
            .values()
            .filter(|run| filter.holds(run))
            .cloned()
            .collect())
    }
}
