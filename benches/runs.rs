//! What the embedded service itself costs, without an SDK: RPCs on a journal in sled.
//! `cargo bench --bench runs -- fan-out [WIDTH..]` has one workflow run so many activities side by side;
//! `cargo bench --bench runs -- restart [OPEN CLOSED]` opens a journal of so many workflows.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use longhaul::service::journal::{SledJournal, Store};
use longhaul::service::{Caller, Clock, Mode, NAMESPACE, Service};
use prost::Message;
use temporalio_protos::temporal::api::command::v1::command::Attributes as Do;
use temporalio_protos::temporal::api::command::v1::{
    Command, CompleteWorkflowExecutionCommandAttributes, ScheduleActivityTaskCommandAttributes,
};
use temporalio_protos::temporal::api::common::v1::{ActivityType, WorkflowType};
use temporalio_protos::temporal::api::taskqueue::v1::TaskQueue;
use temporalio_protos::temporal::api::workflowservice::v1::{
    ListWorkflowExecutionsRequest, ListWorkflowExecutionsResponse, PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse, PollWorkflowTaskQueueRequest, PollWorkflowTaskQueueResponse,
    RespondActivityTaskCompletedRequest, RespondActivityTaskCompletedResponse,
    RespondWorkflowTaskCompletedRequest, RespondWorkflowTaskCompletedResponse, StartWorkflowExecutionRequest,
    StartWorkflowExecutionResponse,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Workers that answer at the same time; they share flushes.
const WORKERS: usize = 64;
/// Commands that fit into one request.
const COMMANDS: usize = 4000;

fn open(path: &Path) -> Result<Service, Failure> {
    let store = Store::open(Arc::new(SledJournal::open(path)?))?;
    Ok(Service::open(store, Clock::System, Mode::Serve)?)
}

async fn call<A: Message + Default>(
    service: &Service,
    rpc: &str,
    request: impl Message,
) -> Result<A, Failure> {
    let path = format!("/temporal.api.workflowservice.v1.WorkflowService/{rpc}");
    let answer = service
        .call(Caller::Remote, &path, &request.encode_to_vec())
        .await?;
    Ok(A::decode(answer.as_slice())?)
}

fn queue() -> Option<TaskQueue> {
    let name = "bench".to_owned();
    Some(TaskQueue {
        name,
        ..Default::default()
    })
}

async fn start(service: &Service, workflow_id: String) -> Result<(), Failure> {
    let request = StartWorkflowExecutionRequest {
        namespace: NAMESPACE.to_owned(),
        workflow_id,
        workflow_type: Some(WorkflowType {
            name: "Bench".to_owned(),
        }),
        task_queue: queue(),
        ..Default::default()
    };
    call::<StartWorkflowExecutionResponse>(service, "StartWorkflowExecution", request).await?;
    Ok(())
}

async fn poll(service: &Service) -> Result<PollWorkflowTaskQueueResponse, Failure> {
    let request = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: queue(),
        ..Default::default()
    };
    call(service, "PollWorkflowTaskQueue", request).await
}

async fn decide(
    service: &Service,
    task: PollWorkflowTaskQueueResponse,
    commands: Vec<Do>,
    force: bool,
) -> Result<(), Failure> {
    let command = |attributes| Command {
        attributes: Some(attributes),
        ..Default::default()
    };
    let request = RespondWorkflowTaskCompletedRequest {
        task_token: task.task_token,
        commands: commands.into_iter().map(command).collect(),
        force_create_new_workflow_task: force,
        ..Default::default()
    };
    let rpc = "RespondWorkflowTaskCompleted";
    call::<RespondWorkflowTaskCompletedResponse>(service, rpc, request).await?;
    Ok(())
}

async fn activity(service: &Service) -> Result<(), Failure> {
    let request = PollActivityTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: queue(),
        ..Default::default()
    };
    let task: PollActivityTaskQueueResponse = call(service, "PollActivityTaskQueue", request).await?;
    let request = RespondActivityTaskCompletedRequest {
        task_token: task.task_token,
        ..Default::default()
    };
    let rpc = "RespondActivityTaskCompleted";
    call::<RespondActivityTaskCompletedResponse>(service, rpc, request).await?;
    Ok(())
}

/// Does a thing so many times, by all workers.
async fn times<F, D>(count: usize, service: &Service, step: F) -> Result<(), Failure>
where
    F: Fn(Service, usize) -> D + Clone + Send + 'static,
    D: Future<Output = Result<(), Failure>> + Send,
{
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (step, service) = (step.clone(), service.clone());
        workers.spawn(async move {
            for number in (worker..count).step_by(WORKERS) {
                step(service.clone(), number).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn fan_out(width: usize) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in("target")?;
    let service = open(directory.path())?;
    start(&service, "fan-out".to_owned()).await?;
    let began = Instant::now();
    let timeout: prost_types::Duration = std::time::Duration::from_secs(600).try_into()?;
    let schedule = |number: &usize| {
        Do::ScheduleActivityTaskCommandAttributes(ScheduleActivityTaskCommandAttributes {
            activity_id: number.to_string(),
            activity_type: Some(ActivityType {
                name: "Nothing".to_owned(),
            }),
            start_to_close_timeout: Some(timeout),
            ..Default::default()
        })
    };
    let numbers: Vec<usize> = (0..width).collect();
    for some in numbers.chunks(COMMANDS) {
        let task = poll(&service).await?;
        decide(
            &service,
            task,
            some.iter().map(schedule).collect(),
            some.last() != numbers.last(),
        )
        .await?;
    }
    let scheduled = began.elapsed().as_secs_f64();
    times(
        width,
        &service,
        |service, _| async move { activity(&service).await },
    )
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{width:>6} activities of one workflow: {seconds:>6.2} s, {:>5.0} µs each ({scheduled:.2} s until they were scheduled)",
        seconds * 1e6 / width as f64
    );
    Ok(())
}

async fn restart(open_runs: usize, closed_runs: usize) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in("target")?;
    let service = open(directory.path())?;
    let began = Instant::now();
    let run_and_end = |service: Service, number: usize| async move {
        start(&service, format!("closed-{number}")).await?;
        let task = poll(&service).await?;
        let complete = CompleteWorkflowExecutionCommandAttributes::default();
        decide(
            &service,
            task,
            vec![Do::CompleteWorkflowExecutionCommandAttributes(complete)],
            false,
        )
        .await
    };
    times(closed_runs, &service, run_and_end).await?;
    let begin =
        |service: Service, number: usize| async move { start(&service, format!("open-{number}")).await };
    times(open_runs, &service, begin).await?;
    println!(
        "{closed_runs} closed and {open_runs} open workflows, made in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    // What a process leaves that is killed.
    let killed = tempfile::tempdir_in("target")?;
    copy(directory.path(), killed.path())?;
    drop(service);
    // sled's threads let go of it in their own time.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    // The memory is that of a process that did nothing else.
    for (path, how) in [
        (directory.path(), "after an orderly end"),
        (killed.path(), "after a kill"),
    ] {
        let mut child = tokio::process::Command::new(std::env::current_exe()?);
        child.arg("reopen").arg(path).arg(how).status().await?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            std::fs::copy(from, to)?;
        }
    }
    Ok(())
}

async fn reopen(path: &Path, how: &str) -> Result<(), Failure> {
    let began = Instant::now();
    let seconds = || began.elapsed().as_secs_f64();
    let journal = SledJournal::open(path)?;
    let opened = seconds();
    let service = Service::open(Store::open(Arc::new(journal))?, Clock::System, Mode::Serve)?;
    let proved = seconds();
    poll(&service).await?;
    println!(
        "first task {:.2} s after the start {how}: sled had opened its file after {opened:.2} s, all was proved after {proved:.2} s; {:.2} s of CPU",
        seconds(),
        cpu_seconds()?
    );
    let began = Instant::now();
    let request = ListWorkflowExecutionsRequest {
        namespace: NAMESPACE.to_owned(),
        page_size: 100,
        ..Default::default()
    };
    let listed: ListWorkflowExecutionsResponse = call(&service, "ListWorkflowExecutions", request).await?;
    let (count, ms) = (listed.executions.len(), began.elapsed().as_secs_f64() * 1000.0);
    println!("a page of {count} in {ms:.1} ms; {}", memory()?);
    Ok(())
}

/// Of this process, so far: the kernel counts in hundredths of a second on every Linux that there is.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks = numbers.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

fn memory() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" "))
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mode = words.first().map(String::as_str).unwrap_or_default();
    runtime.block_on(async {
        match (mode, numbers.as_slice()) {
            ("reopen", _) => reopen(Path::new(&words[1]), &words[2]).await,
            ("restart", [open, closed]) => restart(*open, *closed).await,
            ("restart", _) => restart(10_000, 100_000).await,
            (_, widths) => {
                let widths = if widths.is_empty() {
                    &[1000, 4000, 16_000]
                } else {
                    widths
                };
                for width in widths {
                    fan_out(*width).await?;
                }
                Ok(())
            }
        }
    })
}
