//! What a migrate that is run again looks at once more: keys that it has copied, and that the ledger does not call settled.

use super::{partitions::is_unsettled, read, take_over::read_entry};
use crate::postgres::connect::Session;
use crate::postgres::cursor;
use crate::postgres::error::Result;
use crate::table::{Growth, KeyRange, Plan, TableSpec};

/// The keys that a migrate would look at again if it were run now; `None` where there are none. Reads only.
///
/// # Errors
/// What goes wrong in asking.
pub async fn to_look_at(
    target: &Session,
    source: &Session,
    spec: &TableSpec,
    plan: &Plan,
) -> Result<Option<KeyRange>> {
    let Some(entry) = read_entry(target, spec, plan).await? else {
        return Ok(None);
    };
    let (low, grows) = (
        entry.settled,
        plan.growth == Growth::Grows && !plan.source_is_standby,
    );
    if !grows && low.is_none() && !is_unsettled(target, spec, plan).await? {
        return Ok(None);
    }
    let position = read(target, source, spec, plan).await?;
    let Some(high) = position.end().cloned() else {
        return Ok(None);
    };
    if let Some(low) = &low {
        let sorted = cursor::sort_keys(source, plan, vec![low.clone(), high.clone()]).await?;
        if *low == high || sorted.last() == Some(low) {
            return Ok(None);
        }
    }
    Ok(Some(KeyRange { low, high }))
}
