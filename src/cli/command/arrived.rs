//! Whether a job that a cluster calls complete is. Others may have taken its tasks, and say what they like: this process looks
//! at both databases itself, before it says that anything was checked.

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::Context;
use super::ends::{self, Connections, Refusal};
use super::jobs::Job;
use crate::job::JobSpec;
use crate::postgres::{Side, cursor, examine_to_read, ledger};
use crate::table::{Key, Tally};

/// What is on both sides, and what is missing.
struct Seen {
    /// `None` where the ledger does not know the job.
    ledger: Option<Tally>,
    /// A key of the source, up to the highest that the job was to copy, that the ledger does not have.
    beyond: Option<Key>,
}

/// Reports a job that is complete by its workflow's word alone. `until` is the highest key that the source had when this
/// command began the job; of one that it joined, what the workflow said.
pub(super) async fn must_be(
    context: &Context<'_>,
    connections: &Connections,
    spec: &JobSpec,
    job: &Job,
    until: &Option<Key>,
) -> Result<(), Report> {
    let told = job.result().await.map(|progress| progress.tally);
    let attempt = async || look(connections, spec, until.as_ref()).await;
    let seen = ends::patiently(context, attempt).await?;
    let cause = match (&seen.ledger, told) {
        (None, _) => "the ledger on the target does not know it".to_owned(),
        (Some(_), None) => "its workflow was completed with something that longhaul did not write".to_owned(),
        (Some(ledger), Some(told)) if *ledger != told => format!(
            "the ledger on the target has {} batches of {} rows, and its workflow was completed with {} of {}",
            ledger.batches, ledger.rows, told.batches, told.rows
        ),
        _ => match &seen.beyond {
            Some(key) => format!(
                "the source has rows up to key ({}) that it has not copied",
                key.shown()
            ),
            None => return Ok(()),
        },
    };
    let words = format!("job {} is called complete, and is not", spec.name);
    Err(Report::of(words, ExitStatus::Failed).caused_by(&cause).with_hint(format!(
        "something else than longhaul answers on task queue {}: look who polls it; the same command then copies what is missing",
        job.task_queue()
    )))
}

async fn look(connections: &Connections, spec: &JobSpec, until: Option<&Key>) -> Result<Seen, Refusal> {
    let (source, target) = tokio::try_join!(
        ends::reach(&connections.source, Side::Source, spec),
        ends::reach(&connections.target, Side::Target, spec)
    )?;
    let ((source, _), (target, _)) = (source, target);
    let table = spec.table_spec();
    let plan = examine_to_read(&source, &target, &table).await?;
    let nothing = Seen {
        ledger: None,
        beyond: None,
    };
    if !ledger::is_trusted(&target, table.ledger_owner.as_deref()).await?
        || ledger::epoch(&target, &table, &plan).await?.is_none()
    {
        return Ok(nothing);
    }
    let position = ledger::read(&target, &source, &table, &plan).await?;
    // Up to there without a gap: what lies beyond one is not counted.
    let copied = position.copied.as_ref();
    let beyond = match until {
        Some(until) if copied != Some(until) => {
            cursor::nth_key(&source, &plan, copied, Some(until), 1).await?
        }
        _ => None,
    };
    Ok(Seen {
        ledger: Some(position.tally),
        beyond,
    })
}
