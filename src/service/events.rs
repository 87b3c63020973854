//! Reading events back out of the journal: all that are asked for, or an error that names the run.

use prost::Message;
use temporalio_protos::temporal::api::history::v1::HistoryEvent;

use super::history::RunState;
use super::journal::{JournalError, Record, Store, event_range};

/// The events of a run from `from` on, at most `limit`.
pub fn read_events(
    store: &Store,
    run: &RunState,
    from: i64,
    limit: usize,
) -> Result<Vec<HistoryEvent>, JournalError> {
    let decode = |(key, value): Record| {
        Message::decode(value.as_slice())
            .map_err(|error| store.damaged(format!("event {}: {error}", key.escape_ascii())))
    };
    let (low, high) = event_range(&run.run_id, from.max(1), run.next_event_id);
    let expected = usize::try_from(run.next_event_id - from.max(1))
        .unwrap_or(0)
        .min(limit);
    let events = store.scan(&low, &high, limit)?;
    if events.len() != expected {
        let what = format!(
            "run {} lacks {} of its events",
            run.run_id,
            expected - events.len().min(expected)
        );
        return Err(store.damaged(what));
    }
    events.into_iter().map(decode).collect()
}
