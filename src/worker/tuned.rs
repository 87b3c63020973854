//! Sees to it that the jobs of a worker keep to what they are tuned to: only their workflows know. A speed limit is the whole
//! job's, so each of several workers keeps to its share.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryOptions,
};
use tokio::task::JoinHandle;

use super::{Jobs, polling};
use crate::workflow::CopyTable;

/// A limit holds that long after it was tuned, at the latest.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A workflow that does not answer within this time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Asks the workflows of all jobs that come to a worker, until it is aborted.
pub fn keep_tuned(client: Client, task_queue: String, jobs: Arc<Jobs>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let names = jobs.names();
            if !names.is_empty() {
                // Where it is not known how many work, the last limit holds.
                if let Ok(workers) = polling(&client, &task_queue).await {
                    let workers = u64::try_from(workers.len()).unwrap_or(u64::MAX).max(1);
                    for name in names {
                        keep(&client, &name, workers, &jobs).await;
                    }
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    })
}

async fn keep(client: &Client, name: &str, workers: u64, jobs: &Arc<Jobs>) {
    let handle: WorkflowHandle<Client, CopyTable> = client.get_workflow_handle(name);
    let query = handle.query(CopyTable::progress, (), WorkflowQueryOptions::default());
    if let Ok(Ok(progress)) = tokio::time::timeout(ANSWER_WITHIN, query).await {
        let limit = progress.spec.tuning.max_rate_bytes_per_second;
        jobs.set_limit(
            name,
            limit.and_then(|limit| NonZeroU64::new((limit / workers).max(1))),
        );
        jobs.set_patience(name, progress.spec.give_up_after_ms.map(Duration::from_millis));
    }
    if let Ok(described) = handle.describe(WorkflowDescribeOptions::default()).await
        && described.status() != WorkflowExecutionStatus::Running
    {
        jobs.forget(name);
    }
}
