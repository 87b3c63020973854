//! The SDK's worker: what it knows, how much of it runs at a time, how it begins and ends.
//!
//! Here a worker belongs to one job and polls that job's task queue. On a cluster it belongs to two databases, and polls the
//! task queue of all jobs between them (`task_queue.rs`). Must be started within a `LocalSet` on a multi-threaded runtime:
//! workflow code stays on the calling thread, activities are spread over the runtime's.

mod hand_back;
mod task_queue;
mod tuned;

use std::sync::Arc;
use std::time::Duration;

use temporalio_client::Client;
use temporalio_common::worker::{WorkerDeploymentOptions, WorkerDeploymentVersion};
use temporalio_sdk::runtime::worker_tuner::{FixedSizeSlotSupplier, TunerHolder};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tokio::task::JoinHandle;

use crate::workflow::CopyTable;

pub use crate::activity::{Activities, Beat, Failure, Hold, INTERRUPTED, Jobs, PAUSED, Sql, Trust};
pub use task_queue::{TASK_QUEUES, Way, of_databases, of_job, polling};
pub use tuned::keep_tuned;

/// Batches in flight are given so long to finish before they are told to end, when the process is; with the time that an
/// activity then has, Ctrl-C ends within five seconds.
const GRACE: Duration = Duration::from_millis(500);
/// A heartbeat a second, so that a canceled batch learns of it soon.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Activities that a worker may take at once when it has decided them, past the queue: quicker, and none is left to others.
const EAGER: usize = 3;
/// Workflow tasks at a time.
const DECISIONS: usize = 100;
/// Tasks at a time of kinds that our workflows have none of; the SDK wants one at least.
const NONE_OF_OURS: usize = 1;
/// Runs whose state is kept in memory between workflow tasks.
const CACHED_RUNS: usize = 16;

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
#[error("the worker cannot run")]
pub struct WorkerError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// How much a worker takes upon itself.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Activities at a time.
    at_a_time: usize,
    /// Whether there may be others, who are to get their share.
    is_shared: bool,
}

impl Capacity {
    /// Of the one worker of a job: more than a job can have in flight.
    pub const ALONE: Self = Self {
        at_a_time: 100,
        is_shared: false,
    };

    /// Of one of several.
    #[must_use]
    pub fn shared(at_a_time: usize) -> Self {
        Self {
            at_a_time,
            is_shared: true,
        }
    }
}

/// A worker that runs.
pub struct Running {
    shut_down: Box<dyn Fn()>,
    task: JoinHandle<Result<(), WorkerError>>,
    /// Where others could go on with it: the client, and whose tasks it may have.
    given: Option<(Client, Arc<Jobs>)>,
}

/// Starts a worker that polls `task_queue`, and does as much of it as it has capacity for. Without activities it only
/// decides and answers.
///
/// # Errors
/// If the SDK does not take the client or the registrations.
pub fn start(
    client: &Client,
    task_queue: &str,
    activities: Option<Activities>,
    capacity: Capacity,
) -> Result<Running, WorkerError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| WorkerError(error);
    let version = WorkerDeploymentVersion::builder()
        .deployment_name("longhaul")
        .build_id(env!("CARGO_PKG_VERSION"))
        .build();
    let options = WorkerOptions::new(task_queue)
        .register_workflow::<CopyTable>()
        .map_err(|error| failed(error.into()))?
        .deployment_options(WorkerDeploymentOptions::new(version).build())
        .max_cached_workflows(CACHED_RUNS)
        .tuner(slots(capacity.at_a_time))
        .max_eager_activity_reservations_per_workflow_task(if capacity.is_shared { 0 } else { EAGER })
        .max_heartbeat_throttle_interval(HEARTBEAT_EVERY)
        .graceful_shutdown_period(GRACE);
    let jobs = activities.as_ref().map(Activities::jobs);
    let given = jobs
        .filter(|_| capacity.is_shared)
        .map(|jobs| (client.clone(), jobs));
    let options = match activities {
        Some(activities) => options.register_activities(activities).build(),
        None => options.build(),
    };
    let runtime = Runtime::from_current_tokio(Default::default()).map_err(|error| failed(error.into()))?;
    let mut worker = Worker::new(&runtime, client.clone(), options).map_err(|error| failed(error.into()))?;
    let shut_down = Box::new(worker.shutdown_handle());
    let task = tokio::task::spawn_local(async move {
        // Kept for as long as the worker: it holds the SDK's telemetry.
        let _runtime = runtime;
        worker.run().await.map_err(|error| WorkerError(error.into()))
    });
    Ok(Running {
        shut_down,
        task,
        given,
    })
}

fn slots(at_a_time: usize) -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(DECISIONS))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(at_a_time))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(NONE_OF_OURS))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(NONE_OF_OURS))
        .build()
}

impl Running {
    /// Takes no further task; what is in flight finishes or rolls back, and its results are journaled.
    pub async fn shut_down(self) -> Result<(), WorkerError> {
        (self.shut_down)();
        let ended = self.task.await.map_err(|error| WorkerError(error.into()))?;
        if let Some((client, jobs)) = self.given {
            hand_back::hand_back(&client, &jobs.names()).await;
        }
        ended
    }

    /// Whether it has ended by itself, which it should not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}
