//! The look before a job starts, and once more when it does: everything that can be found wrong before a row moves.
//!
//! Reads both catalogs, sees to it that the ledger is there, and holds what it says against what the target has. Moves
//! nothing; the one thing it may write is the empty ledger.

use super::catalog::{check_temporary, examine, target_is_empty};
use super::connect::Session;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use super::rewind;
use crate::table::{Growth, OnConflict, Plan, TableSpec, Tally};
use std::time::{Duration, Instant};

/// How long a server may be silent while it is asked: for longer than a wait for a lock, which ends after a minute.
const SILENT_FOR: Duration = Duration::from_secs(120);

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
/// Each thing that stands in the way, named, with its hint; `Unreachable` where a server falls silent.
pub async fn look(source: &Session, target: &Session, spec: &TableSpec, ask: &Ask) -> Result<Look> {
    let last_byte = |session: &Session| session.is_busy().then(|| session.last_byte_at());
    tokio::select! {
        found = look_now(source, target, spec, ask) => found,
        () = silence(LOOK_EVERY, SILENT_FOR, || last_byte(source)) => Err(fell_silent(source)),
        () = silence(LOOK_EVERY, SILENT_FOR, || last_byte(target)) => Err(fell_silent(target)),
    }
}

/// Ends when a session that is asked something has not sent a byte for so long. `last_byte` is `None` while it is idle.
async fn silence(every: Duration, bound: Duration, last_byte: impl Fn() -> Option<Instant>) {
    let mut asked_since = None;
    loop {
        tokio::time::sleep(every).await;
        asked_since =
            last_byte().map(|last| (last, asked_since.map_or_else(Instant::now, |(_, since)| since)));
        if asked_since.is_some_and(|(last, since)| last.max(since).elapsed() >= bound) {
            return;
        }
    }
}

fn fell_silent(session: &Session) -> Error {
    let words = format!(
        "the {} at {} has fallen silent",
        session.side(),
        session.endpoint()
    );
    Error::new(session.side(), Kind::Unreachable, words)
        .because(format!(
            "no byte within {} s of what it was asked",
            SILENT_FOR.as_secs()
        ))
        .hinted("look at the server and at the network between; nothing was started")
}

async fn look_now(source: &Session, target: &Session, spec: &TableSpec, ask: &Ask) -> Result<Look> {
    let plan = examine(source, target, spec).await?;
    if ask.sync && !ask.lookback {
        refuse_sync(&plan)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const TICK: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn only_a_server_that_is_asked_and_says_nothing_is_silent() {
        let (begun, bound, long) = (Instant::now(), TICK * 10, TICK * 40);
        silence(TICK, bound, || Some(begun)).await;
        assert!(begun.elapsed() >= bound, "it has its time from when it is asked");
        let idle = silence(TICK, bound, || None);
        assert!(tokio::time::timeout(long, idle).await.is_err());
        let talking = silence(TICK, bound, || Some(Instant::now()));
        assert!(tokio::time::timeout(long, talking).await.is_err());
        // Asked only now and then, and quick to answer: the silence between does not count.
        let asked = AtomicBool::new(false);
        let now_and_then = silence(TICK, bound, || {
            asked.fetch_xor(true, Ordering::Relaxed).then_some(begun)
        });
        assert!(tokio::time::timeout(long, now_and_then).await.is_err());
    }
}
