//! The SDK's worker: what it knows, how much of it runs at a time, how it begins and ends.
//!
//! A worker belongs to one job and polls that job's task queue. Must be started within a `LocalSet` on a multi-threaded
//! runtime: workflow code stays on the calling thread, activities are spread over the runtime's.

use std::time::Duration;

use temporalio_client::Client;
use temporalio_common::worker::{WorkerDeploymentOptions, WorkerDeploymentVersion};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tokio::task::JoinHandle;

use crate::job::{JobName, JobSpec};
use crate::postgres::ConnectionString;
use crate::workflow::CopyTable;

pub use crate::activity::{Activities, Beat, Failure, Gauge, Hold, INTERRUPTED, PAUSED};

/// Batches in flight are given so long to finish before they are told to end, when the process is; with the time that an
/// activity then has, Ctrl-C ends within five seconds.
const GRACE: Duration = Duration::from_millis(500);
/// A heartbeat a second, so that a canceled batch learns of it soon.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Runs whose state is kept in memory between workflow tasks.
const CACHED_RUNS: usize = 16;

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
#[error("the worker cannot run")]
pub struct WorkerError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// What a job can have done here, on connections whose passwords only this process knows.
#[must_use]
pub fn activities(spec: &JobSpec, source: ConnectionString, target: ConnectionString) -> Activities {
    Activities::new(spec, source, target)
}

/// A worker that runs.
pub struct Running {
    shut_down: Box<dyn Fn()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

/// The task queue of a job.
#[must_use]
pub fn task_queue(job: &JobName) -> String {
    format!("longhaul/{job}")
}

/// Starts a worker for one job. Without activities it only decides and answers.
///
/// # Errors
/// If the SDK does not take the client or the registrations.
pub fn start(client: &Client, job: &JobName, activities: Option<Activities>) -> Result<Running, WorkerError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| WorkerError(error);
    let version = WorkerDeploymentVersion::builder()
        .deployment_name("longhaul")
        .build_id(env!("CARGO_PKG_VERSION"))
        .build();
    let options = WorkerOptions::new(task_queue(job))
        .register_workflow::<CopyTable>()
        .map_err(|error| failed(error.into()))?
        .deployment_options(WorkerDeploymentOptions::new(version).build())
        .max_cached_workflows(CACHED_RUNS)
        .max_heartbeat_throttle_interval(HEARTBEAT_EVERY)
        .graceful_shutdown_period(GRACE);
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
    Ok(Running { shut_down, task })
}

impl Running {
    /// Takes no further task; what is in flight finishes or rolls back, and its results are journaled.
    pub async fn shut_down(self) -> Result<(), WorkerError> {
        (self.shut_down)();
        self.task.await.map_err(|error| WorkerError(error.into()))?
    }

    /// Whether it has ended by itself, which it should not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}
