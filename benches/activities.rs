//! Durable activities a second: workflows that run one trivial activity after another. The same program on the embedded service,
//! each step journaled with fdatasync before the next, and on Temporal's development server, which keeps its state in a file.
//!
//! `cargo bench --bench activities -- [ACTIVITIES] [ROUNDS]`. Rounds take turns at which comes first. The development server is
//! that of `LONGHAUL_TEST_TEMPORAL`, or the one that the tests take from PyPI; without it there is nothing to compare with. CPU time
//! is read from /proc, so this runs on Linux only; that of the embedded service includes its worker, like the sum on the other side.

#![expect(missing_docs, reason = "the macros make constants of the methods")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul::connect::{self, Connected};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, WorkflowGetResultOptions, WorkflowStartOptions,
};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{
    ActivityOptions, ContinueAsNewOptions, Runtime, Worker, WorkerOptions, WorkflowContext, WorkflowResult,
};
use url::Url;

const QUEUE: &str = "bench";
/// Workflows that run side by side.
const WORKFLOWS: [u64; 2] = [1, 16];
/// The kernel's clock ticks a second, as /proc counts them: 100 on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;
const READY_WITHIN: Duration = Duration::from_secs(60);

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

/// What some activities took.
struct Took {
    seconds: f64,
    cpu_seconds: f64,
}

/// Temporal's development server, on a file.
struct Server {
    process: Child,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(program: &Path) -> Result<Self, Failure> {
        let directory = tempfile::tempdir_in("target")?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args([
            "server",
            "start-dev",
            "--headless",
            "--ip",
            "127.0.0.1",
            "--log-level",
            "error",
        ]);
        command.args([
            "--port",
            &port.to_string(),
            "--http-port",
            &free_port()?.to_string(),
        ]);
        command
            .arg("--db-filename")
            .arg(directory.path().join("temporal.db"));
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let end = Instant::now() + READY_WITHIN;
        let client = loop {
            let options = ConnectionOptions::new(Url::parse(&format!("http://127.0.0.1:{port}"))?).build();
            match Connection::connect(options).await {
                Ok(connection) => break Client::new(connection, ClientOptions::new("default").build())?,
                Err(error) if Instant::now() >= end => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        // Its namespace comes a moment after its port.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(Self {
            process,
            client,
            _directory: directory,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself where this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn temporal() -> Option<PathBuf> {
    let named = std::env::var_os("LONGHAUL_TEST_TEMPORAL").map(PathBuf::from);
    let program = named.unwrap_or_else(|| PathBuf::from("target/python/bin/temporal"));
    program.exists().then_some(program)
}

/// Of a process, so far.
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = numbers.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

async fn embedded(workflows: u64, activities: u64) -> Result<Took, Failure> {
    let directory = tempfile::Builder::new()
        .prefix("longhaul-bench")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in("target")?;
    let Connected { client, place, .. } = connect::share(directory.path()).await?;
    let took = measure(&client, None, workflows, activities).await?;
    drop(place);
    Ok(took)
}

async fn measure(
    client: &Client,
    server: Option<u32>,
    workflows: u64,
    activities: u64,
) -> Result<Took, Failure> {
    let options = WorkerOptions::new(QUEUE)
        .register_workflow::<Count>()?
        .register_activities(Adder)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default())?;
    let mut worker = Worker::new(&runtime, client.clone(), options)?;
    let shut_down = worker.shutdown_handle();
    let running = tokio::task::spawn_local(async move { worker.run().await });
    let pids = [Some(std::process::id()), server];
    let cpu = || {
        pids.into_iter()
            .flatten()
            .map(cpu_seconds)
            .sum::<Result<f64, _>>()
    };
    let (began, cpu_before) = (Instant::now(), cpu()?);
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
    let took = Took {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu()? - cpu_before,
    };
    shut_down();
    running.await??;
    Ok(took)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// Prints the median of all rounds, and gives the activities a second.
fn tell(who: &str, workflows: u64, activities: u64, took: &[Took]) -> f64 {
    let per_second = median(took.iter().map(|it| activities as f64 / it.seconds).collect());
    let cpu_us = median(
        took.iter()
            .map(|it| it.cpu_seconds * 1e6 / activities as f64)
            .collect(),
    );
    println!(
        "{workflows:>3} workflows, {who:<20}: {per_second:>6.0} durable activities/s, {cpu_us:>5.0} µs of CPU each"
    );
    per_second
}

async fn run(activities: u64, rounds: u64) -> Result<(), Failure> {
    let server = match temporal() {
        Some(program) => Some(Server::start(&program).await?),
        None => None,
    };
    for workflows in WORKFLOWS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for is_ours in [round % 2 == 0, round % 2 != 0] {
                match &server {
                    _ if is_ours => ours.push(embedded(workflows, activities).await?),
                    // It is slower by far.
                    Some(server) => theirs.push(
                        measure(
                            &server.client,
                            Some(server.process.id()),
                            workflows,
                            activities / 8,
                        )
                        .await?,
                    ),
                    None => {}
                }
            }
        }
        let our_rate = tell("embedded", workflows, activities, &ours);
        if !theirs.is_empty() {
            let their_rate = tell("development server", workflows, activities / 8, &theirs);
            println!(
                "{workflows:>3} workflows: {:.1} times as many",
                our_rate / their_rate
            );
        }
    }
    if server.is_none() {
        println!("no development server to compare with: LONGHAUL_TEST_TEMPORAL names its program");
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let activities = numbers.first().copied().unwrap_or(16_000);
    let rounds = numbers.get(1).copied().unwrap_or(3);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(activities, rounds))
}
