//! `longhaul check`: what a job would do, for people and as one JSON object.

use serde::Serialize;

use super::Trouble;
use super::status::kind;
use crate::job::status::JobKind;
use crate::observe::figures;
use crate::postgres::ledger::State;
use crate::postgres::{LeftOut, Read, Right, Side};
use crate::table::{CopyFormat, OnConflict};

/// What a job would do, and what is in its way. Estimates say what they are estimates of.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Checked {
    /// Whether it could begin now.
    pub ready: bool,
    /// The job's name; `None` where it is not known.
    pub job: Option<String>,
    /// What kind of job it was looked at as.
    pub kind: Option<JobKind>,
    /// The table on the source, `schema.name`; `None` where it was not found, as all below.
    pub source: Option<String>,
    /// The table on the target, `schema.name`.
    pub target: Option<String>,
    /// The columns of the key that the copy follows, in its order.
    pub key: Vec<String>,
    /// Why this key.
    pub key_reason: Option<String>,
    /// The columns that are copied.
    pub columns: Vec<String>,
    /// What is read for those that are not the source's column of that name, as it is.
    pub readings: Vec<Read>,
    /// The source's columns that are not copied.
    pub columns_left_out: Vec<LeftOut>,
    /// The condition on the rows that are copied; `None`: all of them.
    pub filter: Option<String>,
    /// `binary` or `text`.
    pub format: Option<CopyFormat>,
    /// Why text.
    pub text_reason: Option<String>,
    /// What becomes of a row that is on the target already.
    pub on_conflict: Option<OnConflict>,
    /// Rows on the source, by the catalog's statistics.
    pub rows_estimate: Option<u64>,
    /// Wire bytes of those rows: their number times the bytes of a row that were read.
    pub bytes_estimate: Option<u64>,
    /// The most rows in a batch.
    pub batch_rows: Option<u64>,
    /// Batches to come.
    pub batches_estimate: Option<u64>,
    /// Batches in flight.
    pub concurrency: Option<u32>,
    /// Bytes a second for which the time is told.
    pub bytes_per_second: Option<f64>,
    /// Seconds to come at that speed.
    pub seconds_estimate: Option<u64>,
    /// What that speed is.
    pub speed_reason: Option<String>,
    /// Rows that were read for the estimates.
    pub rows_read: u64,
    /// How the ledger on the target is: `absent`, `earlier`, `current`.
    pub ledger: Option<State>,
    /// Rows that the ledger has of this job.
    pub rows_done: u64,
    /// Batches that the ledger has of this job.
    pub batches_done: u64,
    /// The rights that the job needs.
    pub rights: Vec<Right>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// What is in the way.
    pub troubles: Vec<Trouble>,
}

/// A check in a few lines; the troubles are told on stderr.
pub fn check(checked: &Checked) -> String {
    let named = checked.job.as_deref().unwrap_or("the job");
    let verdict = match checked.troubles.len() as u64 {
        0 => "it can begin".to_owned(),
        some => format!("it cannot begin: {}", figures::counted(some, "error")),
    };
    let of_kind = checked.kind.map_or("check", kind);
    let mut lines = vec![format!("{named} ({of_kind}): {verdict}")];
    if let (Some(source), Some(target)) = (&checked.source, &checked.target) {
        lines.push(format!(
            "{source} -> {target}: {}",
            figures::counted(checked.columns.len() as u64, "column")
        ));
    }
    lines.extend(shape(checked));
    if let Some(reason) = checked.key_reason.as_ref().filter(|_| !checked.key.is_empty()) {
        lines.push(format!("key: {}; {reason}", checked.key.join(", ")));
    }
    lines.extend(checked.format.map(|format| match (format, &checked.text_reason) {
        (CopyFormat::Binary, _) => "format: binary".to_owned(),
        (CopyFormat::Text, None) => "format: text".to_owned(),
        (CopyFormat::Text, Some(reason)) => format!("format: text; {reason}"),
    }));
    if checked.source.is_some() {
        lines.extend([size(checked), batches(checked)]);
        lines.extend(time(checked));
    }
    lines.extend(checked.ledger.map(|state| ledger(checked, state)));
    lines.extend(rights(&checked.rights));
    lines.extend(
        checked
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines.push("nothing was written".to_owned());
    lines.join("\n  ")
}

/// What is not copied as it is, or not at all.
fn shape(checked: &Checked) -> Vec<String> {
    let mut lines: Vec<_> = checked
        .filter
        .iter()
        .map(|filter| format!("rows: those where {filter}"))
        .collect();
    lines.extend(checked.readings.iter().map(|read| match &read.why {
        Some(why) => format!("column {}: {}; {why}", read.column, read.from),
        None => format!("column {}: {}", read.column, read.from),
    }));
    let left_out = checked.columns_left_out.iter();
    lines.extend(left_out.map(|left| format!("not copied: column {}; {}", left.column, left.why)));
    lines
}

fn size(checked: &Checked) -> String {
    let Some(rows) = checked.rows_estimate else {
        return "rows: not known, the catalog has no statistics (ANALYZE makes them)".to_owned();
    };
    let bytes = checked.bytes_estimate.map_or(String::new(), |bytes| {
        format!(
            ", {} on the wire by the size of the first {}",
            figures::bytes(bytes as f64),
            figures::counted(checked.rows_read, "row")
        )
    });
    let by = match checked.filter {
        Some(_) => "of those by the source's planner",
        None => "by the catalog's statistics",
    };
    format!("rows: ~{} {by}{bytes}", figures::count(rows))
}

fn batches(checked: &Checked) -> String {
    let most = checked.batch_rows.map_or(String::new(), |rows| {
        format!(" of at most {}", figures::counted(rows, "row"))
    });
    let number = checked
        .batches_estimate
        .map_or("number not known,".to_owned(), |number| {
            format!("~{}", figures::count(number))
        });
    let at_a_time = checked
        .concurrency
        .map_or(String::new(), |number| format!(", {number} at a time"));
    format!("batches: {number}{most}{at_a_time}")
}

fn time(checked: &Checked) -> Option<String> {
    Some(format!(
        "time: ~{} at {}/s, {}",
        figures::span(checked.seconds_estimate?),
        figures::bytes(checked.bytes_per_second?),
        checked.speed_reason.as_ref()?
    ))
}

fn ledger(checked: &Checked, state: State) -> String {
    match state {
        State::Absent => "ledger: not on the target yet; the job makes it (schema longhaul)".to_owned(),
        State::Earlier => {
            "ledger: of an earlier layout; the job upgrades it, and then sees what is done already".to_owned()
        }
        State::Current if checked.batches_done == 0 => {
            "ledger: on the target, without a batch of this job".to_owned()
        }
        State::Current => format!(
            "ledger: on the target, with {} in {} of this job; it continues after them",
            figures::counted(checked.rows_done, "row"),
            figures::counted(checked.batches_done, "batch")
        ),
    }
}

/// Rights that are there, and rights that are missing, a line a side; those on one object together.
fn rights(rights: &[Right]) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, granted) in [("rights", true), ("missing rights", false)] {
        for side in [Side::Source, Side::Target] {
            let some: Vec<_> = rights
                .iter()
                .filter(|right| right.granted == granted && right.side == side)
                .collect();
            let objects = some.chunk_by(|one, next| one.on == next.on).map(|rights| {
                let names: Vec<_> = rights.iter().map(|right| right.right).collect();
                format!("{} on {}", names.join(", "), rights[0].on)
            });
            let told: Vec<_> = objects.collect();
            if !told.is_empty() {
                lines.push(format!("{what} on the {side}: {}", told.join("; ")));
            }
        }
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn ready() -> Checked {
        Checked {
            ready: true,
            job: Some("audio".to_owned()),
            kind: Some(JobKind::Migrate),
            source: Some("public.audio".to_owned()),
            target: Some("raw.audio".to_owned()),
            key: vec!["id".to_owned()],
            key_reason: Some("it is the primary key".to_owned()),
            columns: vec!["id".to_owned(), "meta".to_owned()],
            readings: Vec::new(),
            columns_left_out: Vec::new(),
            filter: None,
            format: Some(CopyFormat::Text),
            text_reason: Some("column \"meta\" is hstore, which is not a built-in type".to_owned()),
            on_conflict: Some(OnConflict::Error),
            rows_estimate: Some(1_000_000),
            bytes_estimate: Some(300_000_000),
            batch_rows: Some(50_000),
            batches_estimate: Some(20),
            concurrency: Some(4),
            bytes_per_second: Some(20e6),
            seconds_estimate: Some(15),
            speed_reason: Some("the speed limit".to_owned()),
            rows_read: 10_000,
            ledger: Some(State::Current),
            rows_done: 0,
            batches_done: 0,
            rights: vec![Right {
                side: Side::Source,
                right: "SELECT",
                on: "table public.audio".to_owned(),
                granted: true,
            }],
            warnings: vec!["target table raw.audio is unlogged".to_owned()],
            troubles: Vec::new(),
        }
    }

    #[test]
    fn what_would_be_done_is_told_with_its_reasons_and_estimates_as_what_they_are() {
        assert_eq!(
            check(&ready()),
            "audio (migrate): it can begin\n  \
             public.audio -> raw.audio: 2 columns\n  \
             key: id; it is the primary key\n  \
             format: text; column \"meta\" is hstore, which is not a built-in type\n  \
             rows: ~1,000,000 by the catalog's statistics, 300 MB on the wire by the size of the first 10,000 rows\n  \
             batches: ~20 of at most 50,000 rows, 4 at a time\n  \
             time: ~15s at 20.0 MB/s, the speed limit\n  \
             ledger: on the target, without a batch of this job\n  \
             rights on the source: SELECT on table public.audio\n  \
             warning: target table raw.audio is unlogged\n  \
             nothing was written"
        );
    }

    #[test]
    fn what_is_not_copied_as_it_is_is_told_with_its_reason() {
        let read = |column: &str, from: &str, why: Option<&str>| Read {
            column: column.to_owned(),
            from: from.to_owned(),
            why: why.map(str::to_owned),
        };
        let checked = Checked {
            filter: Some("id > 5".to_owned()),
            readings: vec![
                read("email", "the expression md5(email)", None),
                read("n", "column \"n\" as bigint", Some("each integer fits")),
            ],
            columns_left_out: vec![LeftOut {
                column: "secret".to_owned(),
                why: "it is not among --columns".to_owned(),
                is_generated: false,
            }],
            ..ready()
        };
        let told = check(&checked);
        let told: Vec<_> = told.lines().map(str::trim).collect();
        assert_eq!(
            told[2..6],
            [
                "rows: those where id > 5",
                "column email: the expression md5(email)",
                "column n: column \"n\" as bigint; each integer fits",
                "not copied: column secret; it is not among --columns",
            ]
        );
        assert!(
            told[8].starts_with("rows: ~1,000,000 of those by the source's planner"),
            "{told:?}"
        );
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let trouble = Trouble {
            exit_status: 3,
            message: "no such table".to_owned(),
            causes: Vec::new(),
            given_by: None,
            hints: Vec::new(),
        };
        let checked = Checked {
            troubles: vec![trouble],
            rights: vec![Right {
                granted: false,
                ..ready().rights.remove(0)
            }],
            ..Checked::default()
        };
        assert_eq!(
            check(&checked),
            "the job (check): it cannot begin: 1 error\n  \
             missing rights on the source: SELECT on table public.audio\n  \
             nothing was written"
        );
    }
}
