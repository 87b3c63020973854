//! Durable activities a second of the embedded service: workflows that run one trivial activity after another, each step
//! journaled with fdatasync before the next. `cargo bench --bench activities -- [ACTIVITIES]`

#![expect(missing_docs, reason = "the macros make constants of the methods")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul::connect::{self, Connected};
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{
    ActivityOptions, ContinueAsNewOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
};

const QUEUE: &str = "bench";

/// Counts.
pub struct Adder;

#[activities]
impl Adder {
    /// One more.
    #[activity]
    pub async fn increment(self: Arc<Self>, _: ActivityContext, value: u64) -> Result<u64, ActivityError> {
        Ok(value + 1)
    }
}

/// Counts to a number by activities, and continues as new when the service suggests it.
#[workflow]
#[derive(Default)]
pub struct Count;

#[workflow_methods]
impl Count {
    /// From and to.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        (mut value, wanted): (u64, u64),
    ) -> WorkflowResult<u64> {
        while value < wanted {
            if ctx.continue_as_new_suggested() {
                ctx.continue_as_new((value, wanted), ContinueAsNewOptions::default())?;
            }
            let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(60));
            value = ctx.execute_activity(Adder::increment, value, options).await?;
        }
        Ok(value)
    }
}

type Failure = Box<dyn std::error::Error>;

async fn measure(workflows: u64, activities: u64) -> Result<(), Failure> {
    let directory = tempfile::Builder::new()
        .prefix("longhaul-bench")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in("target")?;
    let Connected { client, place, .. } = connect::share(directory.path()).await?;
    let options = WorkerOptions::new(QUEUE)
        .register_workflow::<Count>()?
        .register_activities(Adder)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let mut worker = Worker::new(&runtime, client.clone(), options)?;
    let shut_down = worker.shutdown_handle();
    let running = tokio::task::spawn_local(async move { worker.run().await });
    let began = Instant::now();
    let mut handles = Vec::new();
    for number in 0..workflows {
        let start = WorkflowStartOptions::new(QUEUE, format!("count-{number}")).build();
        handles.push(
            client
                .start_workflow(Count::run, (0, activities / workflows), start)
                .await?,
        );
    }
    for handle in handles {
        handle.get_result(WorkflowGetResultOptions::default()).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{workflows:>3} workflows: {:>6.0} durable activities/s ({activities} in {seconds:.2} s)",
        activities as f64 / seconds
    );
    shut_down();
    running.await??;
    drop(place);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let activities = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(16_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        for workflows in [1, 16] {
            measure(workflows, activities).await?;
        }
        Ok(())
    })
}
