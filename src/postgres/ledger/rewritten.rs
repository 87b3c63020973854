//! A target table in other files than when a job copied into it: a TRUNCATE, a lossy ALTER TYPE and a table that was made anew
//! leave such files, and so does a VACUUM FULL, which changes nothing. Only reading it back tells.

use super::take_over::read_entry;
use crate::postgres::connect::Session;
use crate::postgres::cursor::rows_of;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::throttle::Unmetered;
use crate::postgres::verify;
use crate::table::{KeyRange, Plan, TableSpec};

/// So many rows at least are read back at a time.
const ROWS_READ_BACK: u64 = 20_000;

/// Whether what was copied is still as it was sent, where the target table is in other files than when it was copied into:
/// all of it is read back and held against the receipts. A TRUNCATE, a lossy ALTER TYPE and a table that was created again
/// leave such files, and so does a VACUUM FULL, which changes nothing.
///
/// Reads as a verification does, outside of any transaction. What becomes of the table after that, the digest tells.
///
/// # Errors
/// `Emptied` where rows are missing or have other values; or what goes wrong in reading.
pub async fn check_rewritten(
    target: &Session,
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
) -> Result<()> {
    let Some(entry) = read_entry(target, spec, plan).await? else {
        return Ok(());
    };
    if entry.target_files.as_ref() == Some(&plan.target_files) {
        return Ok(());
    }
    let found = super::read(target, source, spec, plan).await?;
    if found.tally.rows == 0 {
        return Ok(());
    }
    tracing::warn!(
        "target table {} was rewritten, or created again, since job {} copied into it: what was copied is read back and compared \
         with what was sent",
        plan.target,
        spec.job
    );
    let first = found.copied.map(|high| KeyRange { low: None, high });
    let segments: Vec<_> = first.into_iter().chain(found.beyond).collect();
    // Rows that triggers may have changed, or that lie in an order of their own with gaps between, can only be counted.
    if spec.fire_triggers || (!plan.same_order && segments.len() > 1) {
        return must_have_rows(target, spec, plan, found.tally.rows, "rows are missing").await;
    }
    let (mut different, mut ranges) = (0, 0);
    for segment in &segments {
        let mut low = segment.low.clone();
        while low.as_ref() != Some(&segment.high) {
            let rows = match plan.same_order {
                true => ROWS_READ_BACK,
                false => i64::MAX.cast_unsigned(),
            };
            let Some(high) = verify::next_unit(target, plan, spec, low.as_ref(), rows).await? else {
                break;
            };
            let range = KeyRange {
                low,
                high: high.clone(),
            };
            let findings = verify::against_receipts(target, plan, spec, &range, &Unmetered).await?;
            different += u64::from(findings.differences() > 0);
            ranges += 1;
            low = Some(high);
        }
    }
    if different == 0 {
        return Ok(());
    }
    let words = format!(
        "target table {} was rewritten, or created again, since job {} copied into it, and {different} of {ranges} ranges are not \
         as they were sent: rows are missing or have other values",
        plan.target, spec.job
    );
    Err(Error::new(Side::Target, Kind::Emptied, words))
}

/// That the target has as many rows as a job has copied.
pub(super) async fn must_have_rows(
    target: &Session,
    spec: &TableSpec,
    plan: &Plan,
    rows: u64,
    cause: &str,
) -> Result<()> {
    let what = format!("count the rows of target table {}", plan.target);
    let sql = format!("SELECT count(*) FROM {}", rows_of(Side::Target, plan));
    let row = target.row(&what, &sql).await?;
    let there = row.into_iter().next().flatten();
    let there = there.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if there >= rows {
        return Ok(());
    }
    let words = format!(
        "target table {} has lost rows that job {} has copied: {there} are there, and {rows} were; {cause}",
        plan.target, spec.job
    );
    Err(Error::new(Side::Target, Kind::Emptied, words))
}
