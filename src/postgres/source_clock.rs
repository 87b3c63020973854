//! Whether the source's clock was set back, where it fills the key: new rows then get keys below those that are settled.
//!
//! A clock is set back by a time service, by a failover to a host that is behind, by a virtual machine that was stopped for
//! a while. What it showed is kept beside the settled key. One that shows less, or that has moved less than the time that
//! passed here, was set back: what it may have stamped since is not settled any more, and is looked at again.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::connect::Session;
use super::error::{Error, Kind, Result};
use super::identifier::quote_literal;
use crate::table::{Key, Plan, SourceClock, TableSpec};

/// What a look at the clock has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamped {
    /// What it shows now; `None` where the key is not filled by it.
    pub clock: Option<SourceClock>,
    /// Only up to here is settled what was: the clock was set back. `None` where all of it is.
    pub unsettled: Option<Key>,
}

/// Asks what the source's clock shows, and whether it was set back since `earlier`, when keys up to `settled` were settled.
/// Says so. Reads only; what follows from it is the caller's to keep.
///
/// # Errors
/// What goes wrong in asking.
pub async fn look(
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
    earlier: Option<&SourceClock>,
    settled: Option<&Key>,
) -> Result<Stamped> {
    if !plan.is_stamped() {
        return Ok(Stamped::default());
    }
    let what = "ask the source what its clock shows";
    let here_us = here_us();
    let sql = "SELECT pg_catalog.trunc(EXTRACT(epoch FROM pg_catalog.clock_timestamp())::pg_catalog.numeric * 1000000)";
    let row = source.row(what, sql).await?;
    let shown = row
        .into_iter()
        .next()
        .flatten()
        .and_then(|text| text.parse().ok());
    let source_us = shown.ok_or_else(|| {
        Error::new(source.side(), Kind::Unknown, format!("cannot {what}")).because("its answer is no number")
    })?;
    let clock = Some(SourceClock { source_us, here_us });
    let earliest = earlier.and_then(|earlier| earlier.earliest_since(source_us, self::here_us()));
    let (Some(earliest), Some(settled)) = (earliest, settled) else {
        return Ok(Stamped {
            clock,
            unsettled: None,
        });
    };
    let sql = format!(
        "SELECT k.key, k.key < {}::timestamp with time zone
         FROM (SELECT 'epoch'::timestamp with time zone + {earliest} * '1 microsecond'::interval) k(key)",
        quote_literal(&settled.0.join(""))
    );
    let mut row = source.row(what, &sql).await?.into_iter().flatten();
    let (Some(key), Some("t")) = (row.next(), row.next().as_deref()) else {
        return Ok(Stamped {
            clock,
            unsettled: None,
        });
    };
    tracing::warn!(
        "the source's clock was set back since job {} looked at it: rows of {} that came since may have keys above {key} only, and \
         are looked for from there",
        spec.job,
        plan.source
    );
    Ok(Stamped {
        clock,
        unsettled: Some(Key(vec![key])),
    })
}

/// The time here in microseconds of Unix time, which never goes back while the process lives.
fn here_us() -> i64 {
    static BEGAN: OnceLock<(Instant, Duration)> = OnceLock::new();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (began, at) = BEGAN.get_or_init(|| (Instant::now(), now()));
    // The steady clock stands still while a machine sleeps.
    let here = now().max(*at + began.elapsed());
    i64::try_from(here.as_micros()).unwrap_or(i64::MAX)
}
