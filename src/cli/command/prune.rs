//! `prune`: takes runs that have ended out of the journal, by asking whoever serves it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::SystemTime;

use futures_util::TryStreamExt;
use temporalio_client::tonic::IntoRequest;
use temporalio_client::{
    NamespacedClient, WorkflowDescribeOptions, WorkflowExecution, WorkflowExecutionStatus,
    WorkflowListOptions,
};
use temporalio_protos::temporal::api::common::v1::WorkflowExecution as Execution;
use temporalio_protos::temporal::api::workflowservice::v1::DeleteWorkflowExecutionRequest;
use tonic::Code;

use super::super::args::PruneArgs;
use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Pruned, Report, pruned};
use super::jobs::Handle;
use super::{Context, refused};
use crate::connect::Connected;
use crate::service::Mode;

pub async fn prune(context: &Context<'_>, args: &PruneArgs) -> Outcome {
    if context.settings.cluster().is_some() {
        let words = "a Temporal cluster removes what has ended by itself, after its namespace's retention";
        return Err(Report::of(words, ExitStatus::Usage)
            .with_hint("longhaul prune is about the journal in a state directory: leave out --temporal, LONGHAUL_TEMPORAL".to_owned()));
    }
    let Some(connected) = context.reach(Mode::Serve).await? else {
        context.printer.talk("no jobs: there is nothing to remove");
        return Ok(ExitStatus::Done);
    };
    let runs: Vec<_> = connected
        .client
        .list_workflows("", WorkflowListOptions::default())
        .try_collect()
        .await
        .map_err(|error| refused(&error))?;
    let last = last_runs(&connected, &runs).await?;
    let now = SystemTime::now();
    let is_old = |run: &WorkflowExecution| {
        let closed = run.close_time().and_then(|time| now.duration_since(time).ok());
        run.status() != WorkflowExecutionStatus::Running && closed.is_some_and(|age| age >= args.older_than)
    };
    let (mut found, mut jobs) = (Pruned::new(args.dry_run), BTreeSet::new());
    for run in runs.iter().filter(|run| is_old(run)) {
        let is_last = last.get(run.id()).is_none_or(|last| last == run.run_id());
        if is_last && !args.ended_jobs {
            found.last_runs_kept += 1;
            continue;
        }
        if args.dry_run || remove(&connected, run).await? {
            found.runs += 1;
            found.history_bytes += run.raw().history_size_bytes.unsigned_abs();
            jobs.insert(run.id());
        }
    }
    found.jobs = jobs.len() as u64;
    found.journal_bytes = size_of(&context.path().join("journal"));
    match args.json {
        true => context.printer.json(&found)?,
        false => context.printer.data(&pruned(&found))?,
    }
    Ok(ExitStatus::Done)
}

/// By workflow id, the run that it means.
async fn last_runs(
    connected: &Connected,
    runs: &[WorkflowExecution],
) -> Result<HashMap<String, String>, Report> {
    let mut last = HashMap::new();
    for id in runs.iter().map(WorkflowExecution::id).collect::<BTreeSet<_>>() {
        let handle: Handle = connected.client.get_workflow_handle(id);
        let described = handle.describe(WorkflowDescribeOptions::default()).await;
        let described = described.map_err(|error| refused(&error))?.into_raw();
        let info = described.workflow_execution_info.unwrap_or_default();
        last.insert(id.to_owned(), info.execution.unwrap_or_default().run_id);
    }
    Ok(last)
}

/// Whether it was still there to be removed.
async fn remove(connected: &Connected, run: &WorkflowExecution) -> Result<bool, Report> {
    let request = DeleteWorkflowExecutionRequest {
        namespace: connected.client.namespace(),
        workflow_execution: Some(Execution {
            workflow_id: run.id().to_owned(),
            run_id: run.run_id().to_owned(),
        }),
    };
    let mut service = connected.client.connection().workflow_service();
    match service.delete_workflow_execution(request.into_request()).await {
        Ok(_) => Ok(true),
        // Its retention was over.
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(refused(&status)),
    }
}

/// What the files in a directory take on the disk.
fn size_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
