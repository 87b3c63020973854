//! Sees to it that the jobs of a worker keep to what they are tuned to: only their workflows know. A speed limit is the whole
//! job's, so each of several workers keeps to its share.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use temporalio_client::{
    Client, WorkflowDescribeOptions, WorkflowExecutionStatus, WorkflowHandle, WorkflowQueryOptions,
};
use tokio::task::JoinHandle;

use super::{Jobs, polling};
use crate::job::shown;
use crate::workflow::CopyTable;

/// A limit holds that long after it was tuned, at the latest. A cluster's owner may pay for each question.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How soon a job is noticed that has just come.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many workflows are asked at once.
const ASKED_AT_ONCE: usize = 16;
/// The type of a job's workflow.
const WORKFLOW: &str = "CopyTable";
/// A workflow that does not answer within this time is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Asks the workflows of all jobs that come to a worker, until it is aborted.
pub fn keep_tuned(client: Client, task_queue: String, jobs: Arc<Jobs>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut told: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let names = jobs.names();
            told.retain(|name, at| names.contains(name) && at.elapsed() < ASK_EVERY);
            let due: Vec<_> = names.iter().filter(|name| !told.contains_key(*name)).collect();
            // Where it is not known how many work, the last limit holds.
            if !due.is_empty()
                && let Ok(workers) = polling(&client, &task_queue).await
            {
                let workers = u64::try_from(workers.len()).unwrap_or(u64::MAX).max(1);
                // Side by side: one that does not answer keeps no other waiting.
                let due: Vec<String> = due.into_iter().cloned().collect();
                let kept = stream::iter(due).map(|name| {
                    let (client, jobs) = (client.clone(), Arc::clone(&jobs));
                    async move { keep(&client, &name, workers, &jobs).await.then_some(name) }
                });
                let kept: Vec<_> = kept.buffer_unordered(ASKED_AT_ONCE).collect().await;
                told.extend(kept.into_iter().flatten().map(|name| (name, Instant::now())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// Tells a job's activities what its workflow says; whether it did.
async fn keep(client: &Client, name: &str, workers: u64, jobs: &Jobs) -> bool {
    let handle: WorkflowHandle<Client, CopyTable> = client.get_workflow_handle(name);
    let described = handle.describe(WorkflowDescribeOptions::default()).await;
    let hold = jobs.hold(name);
    if let Ok(described) = described {
        if described.status() != WorkflowExecutionStatus::Running {
            jobs.forget(name);
            return true;
        }
        let workflow = described.workflow_type();
        if workflow != WORKFLOW {
            if hold.disown() {
                tracing::warn!(
                    "workflow {} is of type {}, no job of longhaul's: what it asks of this worker is refused",
                    shown(name),
                    shown(workflow)
                );
            }
            return true;
        }
    }
    let asked = hold.ask();
    let query = handle.query(CopyTable::progress, (), WorkflowQueryOptions::default());
    let Ok(Ok(progress)) = tokio::time::timeout(ANSWER_WITHIN, query).await else {
        return false;
    };
    let limit = progress.spec.tuning.max_rate_bytes_per_second;
    let share = limit.and_then(|limit| NonZeroU64::new((limit / workers).max(1)));
    jobs.set_limit(name, share);
    jobs.set_patience(name, progress.spec.give_up_after_ms.map(Duration::from_millis));
    // Last: what waits for it begins.
    hold.answer(asked, progress.paused);
    true
}
