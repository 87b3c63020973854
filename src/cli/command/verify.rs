//! `verify`: a durable job like the others, that reads both ends of a job that has copied, or of two tables.

use temporalio_client::{WorkflowStartOptions, WorkflowTerminateOptions};

use super::super::args::VerifyArgs;
use super::super::exit::ExitStatus;
use super::super::report::{self, Outcome, Report};
use super::inspect::unknown;
use super::jobs::{self, Job};
use super::run::{self, Ready};
use super::{Context, refused};
use crate::connect::Connected;
use crate::job::status::JobKind;
use crate::job::{Against, ConnectionName, JobName, JobSpec, Kind, VerifySpec};
use crate::postgres::{ConnectionString, Side, connect as connect_to};
use crate::table::Position;
use crate::worker;
use crate::workflow::{CopyTable, JobInput};

/// What a job's verification is called after the job.
const SUFFIX: &str = ".verify";

pub async fn verify(context: &Context<'_>, args: &VerifyArgs) -> Outcome {
    if args.job.is_some() && !context.state_dir.exists()? {
        return Err(unknown(args.job.as_deref().unwrap_or_default()));
    }
    for warning in context.state_dir.prepare()? {
        context.printer.warn(&warning);
    }
    let connected = super::copy::own(context).await?;
    let (spec, source, target) = match &args.job {
        Some(name) => of_job(context, args, &connected, name).await?,
        None => of_tables(context, args)?,
    };
    let was_told = match &args.job {
        Some(name) => told(&connected, name).await?,
        None => None,
    };
    spec.validate()?;
    super::super::resources::must_suffice_for(spec.tuning.concurrency)?;
    reach(&spec, &source, &target).await?;
    let known = jobs::find(&connected.client, spec.name.as_str()).await?;
    let open = match known.filter(Job::is_open) {
        Some(job) if job.spec.verify == spec.verify && job.spec.same_job_as(&spec).is_ok() => Some(job),
        Some(job) => {
            let options = WorkflowTerminateOptions::builder()
                .reason("another verification was asked for")
                .build();
            job.handle
                .terminate(options)
                .await
                .map_err(|error| refused(&error))?;
            None
        }
        None => None,
    };
    let what = match spec.verify.as_ref().map(|verify| verify.against) {
        Some(Against::Source) => "the source",
        _ => "the receipts of its ledger",
    };
    let begins = if open.is_some() { "continues" } else { "begins" };
    let up_to = match &args.job {
        Some(_) => ", up to what the job has copied",
        None => "",
    };
    context.printer.talk(&format!(
        "verification of {} {begins}: the target is compared with {what}{up_to}",
        what_is_verified(&spec)
    ));
    let activities = worker::activities(&spec, source, target);
    let ready = Ready::start(&connected, &spec.name, activities)?;
    match open {
        Some(job) => super::copy::apply_tuning(&job, context.settings.tuning_change()).await?,
        None => {
            let options =
                WorkflowStartOptions::new(worker::task_queue(&spec.name), spec.name.to_string()).build();
            let input = JobInput {
                spec: spec.clone(),
                paused: false,
                state: None,
                verifying: None,
                known: was_told,
            };
            let started = connected
                .client
                .start_workflow(CopyTable::run, input, options)
                .await;
            started.map_err(|error| refused(&error))?;
        }
    }
    run::to_the_end(context, connected, &spec, ready, args.json).await
}

/// What a job was told is on the target: a verification against a ledger that has less proves nothing.
async fn told(connected: &Connected, name: &str) -> Result<Option<Position>, Report> {
    let job = jobs::named(&connected.client, name).await?;
    // It answers only; this process does not run the job.
    let worker = worker::start(&connected.client, &job.spec.name, None).map_err(|error| refused(&error))?;
    let told = job.told().await;
    worker.shut_down().await.map_err(|error| refused(&error))?;
    Ok(told)
}

/// The job that is verified, else the table.
fn what_is_verified(spec: &JobSpec) -> String {
    let job = spec.verify.as_ref().and_then(|verify| verify.job.as_ref());
    job.map_or_else(|| spec.source_table.to_string(), ToString::to_string)
}

/// A verification of what a job has copied: its tables, by its ledger.
async fn of_job(
    context: &Context<'_>,
    args: &VerifyArgs,
    connected: &Connected,
    name: &str,
) -> Result<(JobSpec, ConnectionString, ConnectionString), Report> {
    let job = jobs::named(&connected.client, name).await?;
    if job.spec.kind == Kind::Verify {
        let words = format!("{name} is a verification itself");
        return Err(Report::of(words, ExitStatus::Usage)
            .with_hint("name the job that it verified; a verification starts over each time".to_owned()));
    }
    if job.spec.kind == Kind::Migrate && !job.is_complete() {
        context.printer.warn(&format!(
            "job {name} is not complete: what it has not copied yet is not looked at"
        ));
    }
    let given =
        |setting: Option<&crate::cli::settings::Secret>| setting.map(|secret| secret.expose().to_owned());
    let source = given(context.settings.source().ok());
    let target = given(context.settings.target().ok());
    let source = super::copy::resolve(&job.spec.source, source.as_deref(), Side::Source)?;
    let target = super::copy::resolve(&job.spec.target, target.as_deref(), Side::Target)?;
    let mut tuning = job.spec.tuning;
    context.settings.tuning_change().apply(&mut tuning);
    let spec = JobSpec {
        name: name_of(job.spec.name.as_str())?,
        kind: Kind::Verify,
        tuning,
        verify: Some(VerifySpec {
            job: Some(job.spec.name.clone()),
            against: args.against.unwrap_or_default(),
            repair: args.repair,
            delete_extra: args.delete_extra,
        }),
        lookback_keys: None,
        ..job.spec.clone()
    };
    Ok((spec, source, target))
}

/// A verification of two tables, whoever filled them: there are no receipts.
fn of_tables(
    context: &Context<'_>,
    args: &VerifyArgs,
) -> Result<(JobSpec, ConnectionString, ConnectionString), Report> {
    if args.against == Some(Against::Receipts) {
        return Err(
            Report::of("receipts are of a job, and none is named", ExitStatus::Usage)
                .with_hint("longhaul verify JOB, or --against source".to_owned()),
        );
    }
    let source = super::copy::parse(context.settings.source()?.expose(), Side::Source)?;
    let target = super::copy::parse(context.settings.target()?.expose(), Side::Target)?;
    let name = |end: &ConnectionString| ConnectionName::without_password(end.name());
    let spec = context
        .settings
        .job_spec(JobKind::Verify, name(&source), name(&target))?;
    let spec = JobSpec {
        name: name_of(spec.name.as_str())?,
        verify: Some(VerifySpec {
            job: None,
            against: Against::Source,
            repair: args.repair,
            delete_extra: args.delete_extra,
        }),
        // A verification fires triggers only where it repairs, and then as the copy did.
        ..spec
    };
    Ok((spec, source, target))
}

/// What the verification of a job is called.
fn name_of(job: &str) -> Result<JobName, Report> {
    Ok(format!("{job}{SUFFIX}").parse::<JobName>()?)
}

/// Both ends must be reached before the job begins; against receipts the source is not asked.
async fn reach(spec: &JobSpec, source: &ConnectionString, target: &ConnectionString) -> Result<(), Report> {
    let application = format!("longhaul {}", spec.name);
    let of_side = |error| super::copy::of_side(&error);
    drop(
        connect_to(target, Side::Target, &application)
            .await
            .map_err(of_side)?,
    );
    let needs_source = spec
        .verify
        .as_ref()
        .is_some_and(|verify| verify.repair || verify.against == Against::Source);
    if needs_source {
        drop(
            connect_to(source, Side::Source, &application)
                .await
                .map_err(of_side)?,
        );
    }
    Ok(())
}

/// The end of a verification: what was found goes to stdout.
pub fn ended(
    context: &Context<'_>,
    spec: &JobSpec,
    findings: &crate::table::Findings,
    took: std::time::Duration,
    json: bool,
) -> Outcome {
    if json {
        context.printer.json(findings)?;
    } else {
        let text = report::findings(findings);
        if !text.is_empty() {
            context.printer.data(text.trim_end())?;
        }
    }
    context
        .printer
        .talk(&report::verdict(&what_is_verified(spec), findings, took));
    Ok(if findings.differences() == 0 {
        ExitStatus::Done
    } else {
        ExitStatus::Failed
    })
}
