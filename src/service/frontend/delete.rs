//! DeleteWorkflowExecution: a run leaves the journal before its retention is over. One that is open is terminated first, as
//! on a Temporal server; with the last run of a workflow id goes what that id means.

use temporalio_protos::temporal::api::workflowservice::v1::{
    DeleteWorkflowExecutionRequest, DeleteWorkflowExecutionResponse,
};
use tonic::{Code, Status};

use super::super::{Service, journal_status};

impl Service {
    pub(super) async fn delete_workflow_execution(
        &self,
        request: DeleteWorkflowExecutionRequest,
    ) -> Result<DeleteWorkflowExecutionResponse, Status> {
        let execution = request.workflow_execution.unwrap_or_default();
        let run = self.find_run(&request.namespace, &execution)?;
        if !run.is_closed() {
            let terminate = |change: &mut super::Change| {
                change.terminate(
                    "deleted".to_owned(),
                    None,
                    "history-service".to_owned(),
                    Vec::new(),
                )
            };
            match self.change(&run.run_id, terminate).await {
                // It has ended meanwhile.
                Err(status) if status.code() == Code::NotFound => {}
                terminated => terminated?,
            }
        }
        let store = &self.inner.store;
        let removed = self.core().remove_closed(store, &run.run_id);
        let sequence = removed.map_err(|error| journal_status(&error))?;
        let durable = store.durable(sequence).await;
        durable.map_err(|error| journal_status(&error))?;
        Ok(DeleteWorkflowExecutionResponse {})
    }
}
