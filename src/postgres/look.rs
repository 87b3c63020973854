//! The look before a job starts, and once more when it does: everything that can be found wrong before a row moves.
//!
//! Reads both catalogs, sees to it that the ledger is there, and holds what it says against what the target has. Moves
//! nothing; the one thing it may write is the empty ledger.

use super::catalog::{check_sequence, check_temporary, examine, target_is_empty};
use super::connect::Session;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use super::rewind;
use crate::table::{Growth, OnConflict, Plan, TableSpec, Tally};

/// What the job is going to do with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ask {
    /// Whether it goes on for ever, along keys that grow.
    pub sync: bool,
    /// Whether the operator lets a sync look back a number of keys.
    pub lookback: bool,
    /// Whether the ledger's account of it will be forgotten before it starts.
    pub restart: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How the table is copied.
    pub plan: Plan,
    /// What the ledger's batches did.
    pub found: Tally,
    /// Whether the ledger knows the job.
    pub known: bool,
}

/// Looks at both sides.
///
/// # Errors
/// Each thing that stands in the way, named, with its hint.
pub async fn look(source: &Session, target: &Session, spec: &TableSpec, ask: &Ask) -> Result<Look> {
    let plan = examine(source, target, spec).await?;
    if ask.sync && !ask.lookback {
        refuse_sync(&plan)?;
        check_sequence(source, &plan).await?;
    }
    if ask.sync {
        check_temporary(target).await?;
    }
    ledger::ensure(target, spec.ledger_owner.as_deref()).await?;
    let found = if ask.restart {
        ledger::Found::default()
    } else {
        let found = ledger::inspect(target, spec, &plan).await?;
        if !ask.sync {
            ledger::check_source(source, target, spec, &plan).await?;
        }
        rewind::check(source, target, spec, &plan).await?;
        found
    };
    if found.tally.batches == 0
        && plan.on_conflict == OnConflict::Error
        && !target_is_empty(target, &plan).await?
    {
        let words = if ask.restart {
            format!(
                "target table {} is not empty, and --restart begins job {} anew",
                plan.target, spec.job
            )
        } else {
            format!(
                "target table {} is not empty, and the ledger has no batch of job {}",
                plan.target, spec.job
            )
        };
        return Err(Error::new(Side::Target, Kind::NotEmpty, words));
    }
    Ok(Look {
        plan,
        found: found.tally,
        known: found.known,
    })
}

fn refuse_sync(plan: &Plan) -> Result<()> {
    if plan.source_is_standby {
        return Err(Error::new(
            Side::Source,
            Kind::Unsupported,
            "the source is a standby, which does not know who is writing",
        )
        .hinted("connect to its primary, or let the sync look back a number of keys: --lookback KEYS"));
    }
    let Growth::Unknown(why) = &plan.growth else {
        return Ok(());
    };
    let words = format!(
        "a sync finds new rows by their key, and the key ({}) of {} need not grow: {why}",
        plan.key_shown(),
        plan.source
    );
    Err(Error::new(Side::Source, Kind::Unsupported, words).hinted(
        "if new keys are never more than a number of keys below the highest one, say so: --lookback KEYS",
    ))
}
