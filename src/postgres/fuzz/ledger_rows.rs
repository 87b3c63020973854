//! What a target's ledger says: it is read as it was written, or refused in words, and ranges are joined to what they cover.

use super::assert_fit_to_show;
use super::input::{Input, kind};
use crate::postgres::connect::TextRow;
use crate::postgres::cursor::{where_keys, where_range};
use crate::postgres::error::{Error, Kind, Side};
use crate::postgres::ledger::{Ends, ends_of, joined, judge_fence, key_of, plan_from_json, tally_of};
use crate::table::{Fence, Key, KeyRange, OnConflict, Plan, Shape, SourceSeen, TableName, TableSpec};

/// A plan of a table with one key column.
const PLAN: &str = r#"{"source":{"schema":"public","name":"t"},"target":{"schema":"public","name":"t"},
"source_identity":{"system_identifier":"1","database":"d"},"digest":{"source":"a","target":"b"},"source_files":"(1,2)",
"target_files":"(1,2)","columns":[],"key":[{"name":"id","type":"integer","collation":null,"is_exact":true}],"format":"binary",
"on_conflict":"error","target_key_is_unique":true,"same_order":true,"source_is_partitioned":false,"source_is_standby":false,
"target_fires_triggers":false,"growth":"grows","rows_estimate":null,"bytes_estimate":null,"warnings":[]}"#;

/// The input's first line says what the rest is: a `plan`, a `key` or what was `seen` of a source, each as JSON; the `numbers` of
/// a row, with tabs between them; or `ranges`, as bytes.
///
/// # Panics
/// Where something is read that was not written, or is refused without words.
pub fn ledger_rows(input: &[u8]) {
    let (kind, rest) = kind(input);
    let text = String::from_utf8_lossy(rest);
    match kind {
        b"plan" => check_plan(&text),
        b"key" => check_key(&plan(), &text),
        b"seen" => check_seen(&text),
        b"numbers" => check_numbers(&text),
        _ => check_ranges(&mut Input::new(rest)),
    }
}

fn plan() -> Plan {
    plan_from_json(PLAN).expect("a plan")
}

fn check_refused(error: &Error) {
    assert_eq!((error.kind(), error.side()), (Kind::Ledger, Side::Target));
    assert_fit_to_show(&error.to_string());
}

/// A plan that can be read is the one that is written again, and keys can be asked for by it.
fn check_plan(text: &str) {
    let Some(plan) = plan_from_json(text) else { return };
    let written = serde_json::to_string(&plan).expect("plain data");
    let again = plan_from_json(&written).expect("what was written");
    assert_eq!(again, plan);
    // Two columns of one name are no table's.
    let mut names: Vec<_> = plan.columns.iter().map(|column| &column.name).collect();
    names.sort();
    names.dedup();
    if names.len() == plan.columns.len() {
        assert_eq!(plan.differences_from(&again), Vec::<String>::new());
    }
    let key = Key(vec!["it's".to_owned(); plan.key.len()]);
    let text = serde_json::to_string(&key).expect("plain data");
    assert_eq!(key_of(&plan, &text).ok(), Some(Some(key.clone())));
    for side in [Side::Source, Side::Target] {
        let range = KeyRange {
            low: Some(key.clone()),
            high: key.clone(),
        };
        let literals = where_range(side, &plan, &range).matches("'it''s'").count();
        assert!(literals >= 2 * plan.key.len());
        let literals = where_keys(side, &plan, &[key.clone(), key.clone()])
            .matches("'it''s'")
            .count();
        assert_eq!(literals, 2 * plan.key.len());
    }
}

/// A key has as many values as the table's key has columns, and they are those that were written.
fn check_key(plan: &Plan, text: &str) {
    match key_of(plan, text) {
        Ok(Some(key)) => {
            assert_eq!(key.0.len(), plan.key.len());
            let written = serde_json::to_string(&key).expect("plain data");
            assert_eq!(key_of(plan, &written).ok(), Some(Some(key)));
        }
        Ok(None) => {
            let written = serde_json::from_str::<Option<Vec<String>>>(text).expect("it was read");
            assert_eq!(written.unwrap_or_default(), Vec::<String>::new());
        }
        Err(error) => check_refused(&error),
    }
}

fn check_seen(text: &str) {
    let Ok(seen) = serde_json::from_str::<SourceSeen>(text) else {
        return;
    };
    let written = serde_json::to_string(&seen).expect("plain data");
    assert_eq!(serde_json::from_str::<SourceSeen>(&written).ok(), Some(seen));
}

/// Counts are what was written, or refused; an epoch lets a batch through only where it is the batch's own.
fn check_numbers(text: &str) {
    let row: TextRow = text
        .split('\t')
        .map(|field| (field != "\\N").then(|| field.to_owned()))
        .collect();
    let number = |column: usize| row.get(column)?.as_deref()?.parse::<i128>().ok();
    match tally_of(&row) {
        Ok(tally) => {
            let counts = [tally.rows, tally.skipped, tally.bytes, tally.batches];
            for (column, count) in counts.into_iter().enumerate() {
                assert_eq!(number(column), Some(i128::from(count)));
                assert!(i64::try_from(count).is_ok(), "{count} can be added to");
            }
            assert!(tally.skipped <= tally.rows);
            let checksum = number(4).expect("a checksum");
            assert_eq!((checksum - i128::from(tally.checksum)).rem_euclid(1 << 64), 0);
        }
        Err(error) => check_refused(&error),
    }
    let fence = Fence {
        epoch: 1_700_000_000_000_000,
        digest: plan().digest,
        witnesses: vec![1, 2],
        snapshot: None,
    };
    let name = |name: &str| TableName {
        schema: None,
        name: name.to_owned(),
    };
    let spec = TableSpec {
        job: "j".to_owned(),
        source_table: name("t"),
        target_table: name("t"),
        on_conflict: OnConflict::Error,
        fire_triggers: false,
        ledger_owner: None,
        shape: Shape::default(),
        key: Default::default(),
    };
    let epoch = number(0).filter(|epoch| *epoch >= 0 && u64::try_from(*epoch).is_ok());
    match judge_fence(&spec, &plan(), &fence, Some(&row)) {
        Ok(()) => assert_eq!((epoch, number(1)), (Some(i128::from(fence.epoch)), Some(2))),
        Err(error) => {
            let is_later = epoch.is_some_and(|epoch| epoch > i128::from(fence.epoch));
            assert_eq!(error.kind() == Kind::Fenced, is_later, "{}", error.chain());
            assert_fit_to_show(&error.to_string());
        }
    }
}

/// Ranges of numbers below 256, no two of which begin at one place: what is joined covers what they cover, no two of it meet,
/// and ranges that do not cross are never refused.
fn check_ranges(input: &mut Input<'_>) {
    let mut ranges: Vec<(Option<u8>, u8)> = Vec::new();
    while !input.is_empty() && ranges.len() < 40 {
        let (low, length) = (input.byte(), input.byte());
        let low = low.checked_sub(1);
        let high = low.map_or(length, |low| low.saturating_add(length));
        let is_new = ranges.iter().all(|(other, _)| *other != low);
        if is_new && low.is_none_or(|low| high > low) {
            ranges.push((low, high));
        }
    }
    let plan = plan();
    let Ends {
        from_the_start,
        starts,
        ends,
    } = match ends_of(&plan, &rows_of(&ranges)) {
        Ok(ends) => ends,
        Err(error) => {
            assert!(has_two_of_one_end(&ranges), "{ranges:?}: {}", error.chain());
            return check_refused(&error);
        }
    };
    let joined = joined(from_the_start, sorted(starts), sorted(ends));
    let numbers = |range: &KeyRange| (range.low.as_ref().map(number_of), number_of(&range.high));
    let joined: Vec<_> = joined.iter().map(numbers).collect();
    assert_eq!(
        covered(&joined),
        covered(&ranges),
        "{ranges:?} are joined to {joined:?}"
    );
    for (low, _) in &joined {
        assert!(
            joined.iter().all(|(_, high)| Some(*high) != *low),
            "{joined:?} meet"
        );
    }
}

/// The ledger's rows as the target gives them: starts at which none ends, and ends at which none starts.
fn rows_of(ranges: &[(Option<u8>, u8)]) -> Vec<TextRow> {
    let row = |is_start: &str, key: Option<u8>| {
        let values: Vec<_> = key.iter().map(ToString::to_string).collect();
        let key = serde_json::to_string(&values).expect("plain data");
        vec![Some(is_start.to_owned()), Some(key)]
    };
    let starts = ranges
        .iter()
        .filter(|(low, _)| ranges.iter().all(|(_, high)| Some(*high) != *low));
    let ends = ranges
        .iter()
        .filter(|(_, high)| ranges.iter().all(|(low, _)| *low != Some(*high)));
    starts
        .map(|(low, _)| row("t", *low))
        .chain(ends.map(|(_, high)| row("f", Some(*high))))
        .collect()
}

fn has_two_of_one_end(ranges: &[(Option<u8>, u8)]) -> bool {
    let mut ends: Vec<_> = ranges.iter().map(|(_, high)| high).collect();
    ends.sort();
    ends.windows(2).any(|pair| pair[0] == pair[1])
}

fn number_of(key: &Key) -> u8 {
    key.0[0].parse().expect("a number")
}

fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_by_key(number_of);
    keys
}

/// Which numbers are in one of the ranges.
fn covered(ranges: &[(Option<u8>, u8)]) -> [bool; 256] {
    let mut covered = [false; 256];
    for (low, high) in ranges {
        let first = low.map_or(0, |low| usize::from(low) + 1);
        if let Some(numbers) = covered.get_mut(first..=usize::from(*high)) {
            numbers.fill(true);
        }
    }
    covered
}
