//! The keys of the journal: a byte for the table, then what orders it. `docs/journal.md` describes them.

/// The tables of the journal, by the first byte of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Facts about the journal itself: its format, its inventory.
    Meta = b'm',
    /// One record an open run: what it has one of.
    Run = b'r',
    /// The same of a closed run.
    Closed = b'd',
    /// One record a closed run, in the order in which runs are listed.
    Listed = b'v',
    /// Closed runs again, by what lists are filtered by: each time in the order of the list.
    Indexed = b'i',
    /// One record a closed run that is not the current one of its workflow, by when it closed.
    Outdated = b'x',
    /// One record for each of what a run has many of, by run, kind and key.
    Row = b'w',
    /// One record an event, by run and event id.
    Event = b'e',
    /// One record a workflow id: its current run.
    Current = b'c',
}

/// Where a table begins and where the next one would.
pub fn table_range(table: Table) -> (Vec<u8>, Vec<u8>) {
    (vec![table as u8], vec![table as u8 + 1])
}

/// The record of a closed run.
pub fn closed_key(run_id: &str) -> Vec<u8> {
    [&[Table::Closed as u8], run_id.as_bytes()].concat()
}

/// All of the list of a namespace begins so.
pub fn listed_prefix(namespace: &str) -> Vec<u8> {
    [&[Table::Listed as u8], namespace.as_bytes(), b"/"].concat()
}

/// All closed runs of a namespace that have a value begin so: the byte of the field, the value's length, the value.
pub fn indexed_prefix(namespace: &str, field: u8, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes();
    let table = [Table::Indexed as u8];
    [&table, namespace.as_bytes(), b"/", &[field], &length, value].concat()
}

/// A closed run in a list or an index: those that closed last come first, then those that started last.
pub fn placed_key(prefix: &[u8], (close_ms, start_ms, run_id): (i64, i64, &str)) -> Vec<u8> {
    [
        prefix,
        &latest_first(close_ms),
        &latest_first(start_ms),
        run_id.as_bytes(),
    ]
    .concat()
}

/// When the run of such a key closed, when it started, and its id.
pub fn place_of<'a>(prefix: &[u8], key: &'a [u8]) -> Option<(i64, i64, &'a str)> {
    let (close, rest) = key.get(prefix.len()..)?.split_first_chunk()?;
    let (start, run_id) = rest.split_first_chunk()?;
    let ms = |order: &[u8; 8]| i64::MAX - i64::from_be_bytes(*order);
    Some((ms(close), ms(start), std::str::from_utf8(run_id).ok()?))
}

/// The runs of a prefix that closed at the first of these times at the earliest and at the second at the latest.
pub fn placed_range(prefix: &[u8], (low_ms, high_ms): (i64, i64)) -> (Vec<u8>, Vec<u8>) {
    let low = [prefix, &latest_first(high_ms)].concat();
    let high = match low_ms {
        ..=0 => [prefix, &[0x80]].concat(),
        _ => [prefix, &latest_first(low_ms - 1)].concat(),
    };
    (low, high)
}

fn latest_first(ms: i64) -> [u8; 8] {
    (i64::MAX - ms.max(0)).to_be_bytes()
}

/// A closed run that is not current.
pub fn outdated_key(namespace: &str, close_ms: i64, run_id: &str) -> Vec<u8> {
    let table = [Table::Outdated as u8];
    [
        &table,
        namespace.as_bytes(),
        b"/",
        &close_ms.to_be_bytes(),
        run_id.as_bytes(),
    ]
    .concat()
}

/// The run that such a key is of.
pub fn outdated_run<'a>(namespace: &str, key: &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(key.get(namespace.len() + 2 + 8..)?).ok()
}

/// Those that closed before a time.
pub fn outdated_range(namespace: &str, before_ms: i64) -> (Vec<u8>, Vec<u8>) {
    (
        outdated_key(namespace, 0, ""),
        outdated_key(namespace, before_ms.max(0), ""),
    )
}

/// The record of an open run.
pub fn run_key(run_id: &str) -> Vec<u8> {
    [&[Table::Run as u8], run_id.as_bytes()].concat()
}

/// A row of a run: the byte of its kind, then its key, whose bytes order the rows of that kind.
pub fn row_key(run_id: &str, kind: u8, key: &[u8]) -> Vec<u8> {
    [&[Table::Row as u8], run_id.as_bytes(), b"/", &[kind], key].concat()
}

/// All rows of a run.
pub fn row_range(run_id: &str) -> (Vec<u8>, Vec<u8>) {
    let before = |separator: u8| [&[Table::Row as u8], run_id.as_bytes(), &[separator]].concat();
    (before(b'/'), before(b'/' + 1))
}

/// The run that a workflow id means when no run id is given.
pub fn current_key(namespace: &str, workflow_id: &str) -> Vec<u8> {
    [
        &[Table::Current as u8],
        namespace.as_bytes(),
        b"/",
        workflow_id.as_bytes(),
    ]
    .concat()
}

/// One event. Big-endian, so that the order of keys is the order of events.
pub fn event_key(run_id: &str, event_id: i64) -> Vec<u8> {
    [
        &[Table::Event as u8],
        run_id.as_bytes(),
        b"/",
        &event_id.to_be_bytes(),
    ]
    .concat()
}

/// The events of a run from `from` on, up to but not including `to`.
pub fn event_range(run_id: &str, from: i64, to: i64) -> (Vec<u8>, Vec<u8>) {
    (event_key(run_id, from), event_key(run_id, to))
}
