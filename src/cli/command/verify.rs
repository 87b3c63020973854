//! `verify`: a durable job like the others, that reads both ends of a job that has copied, or of two tables.

use temporalio_client::WorkflowTerminateOptions;

use super::super::args::VerifyArgs;
use super::super::exit::ExitStatus;
use super::super::report::{self, Outcome, Report};
use super::ends::{self, By, Connections, Refusal};
use super::jobs::{self, Job};
use super::run::{self, Ready};
use super::service::unknown;
use super::{Context, refused, unreachable};
use crate::connect::{Connected, Place};
use crate::job::status::JobKind;
use crate::job::{Against, JobName, JobSpec, Kind, VerifySpec};
use crate::postgres::{Side, examine_to_read, ledger};
use crate::table::{Plan, Position};
use crate::worker::{self, Capacity};

/// What a job's verification is called after the job.
const SUFFIX: &str = ".verify";

pub async fn verify(context: &Context<'_>, args: &VerifyArgs) -> Outcome {
    if let (Some(name), None) = (&args.job, context.settings.cluster())
        && !context.has_state()?
    {
        return Err(unknown(name));
    }
    if args.job.is_some() && args.shape.is_given() {
        let words =
            "--columns, --where, --rename and --select are of the job that is named, which has its own";
        return Err(Report::of(words, ExitStatus::Usage).with_hint(
            "name the job alone; or give --source, --target and --table in its place".to_owned(),
        ));
    }
    let connected = context.serve().await?;
    let (spec, connections, job) = match &args.job {
        Some(name) => of_job(context, args, &connected, name).await?,
        None => of_tables(context, args)?,
    };
    let was_told = match &args.job {
        Some(name) => told(&connected, name, args.repair).await?,
        None => None,
    };
    spec.validate()?;
    let lock = super::copy::take(&connected, &spec.name)?;
    super::super::resources::must_suffice_for(spec.tuning.concurrency)?;
    let attempt = async || reach(context, &connected, &spec, &connections, job.as_ref()).await;
    let (spec, task_queue) = ends::patiently(context, attempt).await?;
    let mut known = jobs::find(&connected.client, spec.name.as_str()).await?;
    if let Some(job) = &mut known {
        ends::follow(job).await?;
    }
    let open = match known.filter(Job::is_open) {
        Some(job)
            if job.spec.verify == spec.verify
                && job.spec.same_job_as(&spec).is_ok()
                && job.task_queue() == task_queue =>
        {
            Some(job)
        }
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
    let up_to = match (&args.job, spec.verify.as_ref().map(|verify| verify.against)) {
        (None, _) => "",
        (Some(_), Some(Against::Source)) => {
            "; beyond the last key that the job has copied, rows that only the source has are not counted"
        }
        (Some(_), _) => ", up to what the job has copied",
    };
    context.printer.talk(&format!(
        "verification of {} {begins}: the target is compared with {what}{up_to}",
        what_is_verified(&spec)
    ));
    if let Some(job) = &open {
        ends::tell(job, &spec).await?;
    }
    let ready = Ready::start(&connected, lock, &task_queue, &spec, connections)?;
    match open {
        Some(job) => super::copy::apply_tuning(&job, super::copy::given_tuning(context, &spec)).await?,
        None => super::copy::start(&connected, &task_queue, &spec, was_told, None).await?,
    }
    run::to_the_end(context, connected, &spec, ready, None, args.json).await
}

/// What a job was told is on the target: a verification against a ledger that has less proves nothing.
async fn told(connected: &Connected, name: &str, repairs: bool) -> Result<Option<Position>, Report> {
    let job = jobs::named(connected, name).await?;
    let runner = connected.runner_of(name).map_err(|error| unreachable(&error))?;
    if let (Some(pid), true) = (runner, repairs) {
        let words = format!("process {pid} runs job {name}, whose rows --repair would change meanwhile");
        return Err(Report::of(words, ExitStatus::Usage)
            .with_hint("interrupt that process (Ctrl-C), or wait for it; a verification that only reads may run beside it".to_owned()));
    }
    if runner.is_some() {
        return Ok(job.told().await);
    }
    // It answers only, where nobody else does; this process does not run the job.
    let worker = worker::start(&connected.client, job.task_queue(), None, Capacity::ALONE);
    let worker = worker.map_err(|error| refused(&error))?;
    let told = job.told().await;
    worker.shut_down().await.map_err(|error| refused(&error))?;
    Ok(told)
}

/// The job that is verified, else the table.
fn what_is_verified(spec: &JobSpec) -> String {
    let job = spec.verify.as_ref().and_then(|verify| verify.job.as_ref());
    job.map_or_else(|| spec.source_table.to_string(), ToString::to_string)
}

/// What is verified, the ways there, and the job that has copied it.
type Asked = (JobSpec, Connections, Option<JobSpec>);

/// A verification of what a job has copied: its tables, by its ledger.
async fn of_job(
    context: &Context<'_>,
    args: &VerifyArgs,
    connected: &Connected,
    name: &str,
) -> Result<Asked, Report> {
    let mut job = jobs::named(connected, name).await?;
    ends::follow(&mut job).await?;
    if job.spec.kind == Kind::Verify {
        let words = format!("{name} is a verification itself");
        return Err(Report::of(words, ExitStatus::Usage)
            .with_hint("name the job that it verified; a verification starts over each time".to_owned()));
    }
    if job.spec.kind == Kind::Migrate && !job.is_complete() {
        context.printer.warn(&format!(
            "job {name} is not complete: rows that it has not copied yet are not counted as missing"
        ));
    }
    let connections = ends::of_job(context, &job.spec)?;
    let mut tuning = job.spec.tuning;
    context.settings.tuning_change().apply(&mut tuning);
    let mut spec = JobSpec {
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
        give_up_after_ms: context.settings.give_up_after.ms,
        ..job.spec.clone()
    };
    ends::trust(context, connected, &mut spec, args.allow_sql)?;
    Ok((spec, connections, Some(job.spec)))
}

/// A verification of two tables, whoever filled them: there are no receipts.
fn of_tables(context: &Context<'_>, args: &VerifyArgs) -> Result<Asked, Report> {
    if args.against == Some(Against::Receipts) {
        return Err(
            Report::of("receipts are of a job, and none is named", ExitStatus::Usage)
                .with_hint("longhaul verify JOB, or --against source".to_owned()),
        );
    }
    let connections = Connections {
        source: ends::parse(context.settings.source()?.expose(), Side::Source)?,
        target: ends::parse(context.settings.target()?.expose(), Side::Target)?,
    };
    let (source, target) = connections.names();
    let spec = context.settings.job_spec(JobKind::Verify, source, target)?;
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
    Ok((spec, connections, None))
}

/// What the verification of a job is called.
fn name_of(job: &str) -> Result<JobName, Report> {
    Ok(format!("{job}{SUFFIX}").parse::<JobName>()?)
}

/// Both ends must be reached before the job begins, and be those of the job that has copied; what is to be known of the
/// tables is said. Against receipts the source is not asked.
async fn reach(
    context: &Context<'_>,
    connected: &Connected,
    spec: &JobSpec,
    connections: &Connections,
    job: Option<&JobSpec>,
) -> Result<(JobSpec, String), Refusal> {
    // Whoever polls a cluster's task queue has been to both databases.
    let is_shared = matches!(connected.place, Place::Cluster(_));
    let needs_source = spec
        .verify
        .as_ref()
        .is_some_and(|verify| verify.repair || verify.against == Against::Source);
    let mut task_queue = worker::of_job(&spec.name);
    let mut ends = spec.ends();
    let (there, to) = ends::reach(&connections.target, Side::Target, spec).await?;
    ends.target = to;
    let warn = |plan: Plan| {
        plan.warnings
            .iter()
            .for_each(|warning| context.printer.warn(warning))
    };
    if needs_source || is_shared {
        let (here, from) = ends::reach(&connections.source, Side::Source, spec).await?;
        ends.source = from;
        if is_shared {
            task_queue = ends::task_queue(&ends, &here, &there).await?;
        }
        // Why the tables cannot be compared, the job itself will say.
        if let Ok(plan) = examine_to_read(&here, &there, &spec.table_spec()).await {
            warn(plan);
        }
    } else if let Ok(plan) = ledger::stored_plan(&there, &spec.table_spec()).await {
        // As the job found them: the source is not asked.
        warn(plan);
    }
    let mut spec = spec.clone();
    spec.move_to(ends);
    if let Some(job) = job {
        // Where an end cannot be told, the ledger that is read tells: it is of this job, and of that source.
        ends::are_of(job, &spec, By::Name)?;
    }
    Ok((spec, task_queue))
}

/// The end of a verification: what was found goes to stdout.
pub fn ended(
    context: &Context<'_>,
    spec: &JobSpec,
    findings: &crate::table::Findings,
    took: std::time::Duration,
    json: bool,
) -> Outcome {
    tell(context, findings, json)?;
    context
        .printer
        .talk(&report::verdict(&what_is_verified(spec), findings, took));
    if let Some(failure) = &findings.repair_failure {
        context.printer.talk(&format!("hint: {}", failure.hint));
    }
    Ok(if findings.differences() == 0 {
        ExitStatus::Done
    } else {
        ExitStatus::Failed
    })
}

/// What was found, to stdout.
pub fn tell(context: &Context<'_>, findings: &crate::table::Findings, json: bool) -> Result<(), Report> {
    if json {
        context.printer.json(findings)?;
    } else {
        let text = report::findings(findings);
        if !text.is_empty() {
            context.printer.data(text.trim_end())?;
        }
    }
    Ok(())
}
