//! `longhaul history`: what a job has done, a step a line, in plain words; with `--events` Temporal's events, a line each.

use std::time::{Duration, SystemTime};

use super::{aligned, second};
use crate::observe::figures;
use crate::table::{Batch, Findings, Pass, Tally, plain};

/// One thing that a job has done, or that happened to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it was over.
    pub time: Option<SystemTime>,
    /// How long it took, where it took any time.
    pub took: Option<Duration>,
    /// What it was.
    pub what: What,
    /// How many attempts failed before, and how the last of them did.
    pub retried: Option<(u32, String)>,
}

/// What a step was.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// In words that need nothing else.
    Words(String),
    /// Both tables were looked at, and the ledger, which has so much.
    Found(Tally),
    /// A batch committed.
    Copied(Batch, Tally),
    /// A range was verified.
    Verified(Findings),
}

/// A job's steps, a line each, and their sum, which is what its status says. `before` was on the target before the first step.
pub fn history(before: Tally, steps: &[Step]) -> String {
    let mut lines: Vec<_> = steps.iter().map(line).collect();
    let (mut sum, mut at_first) = (before, Some(before).filter(|before| before.batches > 0));
    let (mut verified, mut retries) = (Findings::default(), 0);
    for step in steps {
        match &step.what {
            What::Words(_) => {}
            // From then on the ledger's account holds: of what a target has lost, for one.
            What::Found(tally) => {
                sum = *tally;
                at_first.get_or_insert(*tally);
            }
            What::Copied(_, tally) => {
                at_first.get_or_insert_default();
                sum += *tally;
            }
            What::Verified(findings) => verified += findings.clone(),
        }
        retries += step.retried.as_ref().map_or(0, |(number, _)| u64::from(*number));
    }
    let mut told = Vec::new();
    if sum.batches > 0 || verified.ranges == 0 {
        told.push(in_all(sum, at_first.unwrap_or_default()));
    }
    if verified.ranges > 0 {
        told.push(format!(
            "verified {}, {} in {}: {}",
            figures::counted(verified.rows, "row"),
            figures::bytes(verified.bytes as f64),
            figures::counted(verified.ranges, "range"),
            differences(&verified)
        ));
    }
    if retries > 0 {
        told.push(format!(
            "{} failed and were tried again",
            figures::counted(retries, "attempt")
        ));
    }
    lines.push(format!("in all: {}", told.join("; ")));
    lines.join("\n")
}

fn in_all(sum: Tally, at_first: Tally) -> String {
    let rows_in_batches = |tally: Tally| {
        let (rows, batches) = (
            figures::counted(tally.rows, "row"),
            figures::counted(tally.batches, "batch"),
        );
        (rows, batches)
    };
    let (rows, batches) = rows_in_batches(sum);
    let text = format!("{rows}, {} in {batches}", figures::bytes(sum.bytes as f64));
    if at_first.batches == 0 {
        return text;
    }
    let (rows, batches) = rows_in_batches(at_first);
    format!("{text}; {rows} in {batches} were on the target when it began")
}

fn line(step: &Step) -> String {
    let time = step.time.map_or("-".to_owned(), |time| {
        humantime::format_rfc3339_seconds(time).to_string()
    });
    let mut text = format!("{time}  {}", words(&step.what));
    if let Some(took) = step.took {
        text += &format!(" in {}", seconds(took));
    }
    if let Some((number, why)) = &step.retried {
        text += &format!(
            ", after {} ({})",
            figures::counted(u64::from(*number), "failed attempt"),
            why.replace('\n', " ")
        );
    }
    plain(&text)
}

fn words(what: &What) -> String {
    match what {
        What::Words(words) => words.clone(),
        What::Found(tally) if tally.batches == 0 => "looked at both tables and the ledger".to_owned(),
        What::Found(tally) => format!(
            "looked at both tables and the ledger, which has {} in {}",
            figures::counted(tally.rows, "row"),
            figures::counted(tally.batches, "batch")
        ),
        What::Copied(batch, tally) => {
            let pass = match batch.pass {
                Pass::Copy => "batch",
                Pass::Look => "second look, batch",
            };
            let high = batch.range.high.shown();
            let keys = match &batch.range.low {
                None => format!("keys up to ({high})"),
                Some(low) => format!("keys after ({}) up to ({high})", low.shown()),
            };
            let skipped = match tally.skipped {
                0 => String::new(),
                1 => " (1 was there before)".to_owned(),
                some => format!(" ({} were there before)", figures::count(some)),
            };
            format!(
                "{pass} {}: {}{skipped}, {}, {keys}",
                batch.number,
                figures::counted(tally.rows, "row"),
                figures::bytes(tally.bytes as f64)
            )
        }
        What::Verified(findings) => {
            format!(
                "verified {}, {}: {}",
                figures::counted(findings.rows, "row"),
                figures::bytes(findings.bytes as f64),
                differences(findings)
            )
        }
    }
}

fn differences(findings: &Findings) -> String {
    match findings.differences() {
        0 => "no difference".to_owned(),
        some => figures::counted(some, "difference"),
    }
}

/// Tenths of a second up to a minute, then the two largest units.
pub fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..60 => format!("{:.1} s", took.as_secs_f64()),
        some => figures::span(some),
    }
}

/// One event of a job's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryRow {
    /// The event's id, from 1.
    pub event_id: u64,
    /// When it happened, RFC 3339.
    pub time: Option<String>,
    /// Its type, as Temporal names it: `ActivityTaskCompleted`.
    pub event_type: String,
    /// What it is about: an activity's type, a signal's name, a failure's message.
    pub detail: String,
}

/// A history's events, a line each, in columns.
pub fn events(rows: &[HistoryRow]) -> String {
    let cells = |row: &HistoryRow| {
        let time = row.time.as_deref().map_or("-".to_owned(), second);
        vec![
            row.event_id.to_string(),
            time,
            row.event_type.clone(),
            row.detail.replace('\n', " "),
        ]
    };
    aligned(&rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Key, KeyRange};

    #[test]
    fn a_job_is_told_a_step_a_line_and_summed_up() {
        let time = humantime::parse_rfc3339("2026-11-21T12:45:25.7Z").ok();
        let key = |text: &str| Key(vec![text.to_owned()]);
        let batch = |number, low: Option<&str>, high: &str, pass| Batch {
            number,
            pass,
            range: KeyRange {
                low: low.map(key),
                high: key(high),
            },
        };
        let tally = |rows, skipped| Tally {
            rows,
            skipped,
            bytes: rows * 300,
            batches: 1,
            ..Tally::default()
        };
        let step = |what| Step {
            time,
            took: None,
            what,
            retried: None,
        };
        let steps = [
            step(What::Words("begun".to_owned())),
            Step {
                took: Some(Duration::from_millis(1234)),
                ..step(What::Copied(
                    batch(0, None, "50000", Pass::Copy),
                    tally(50_000, 0),
                ))
            },
            Step {
                took: Some(Duration::from_secs(125)),
                retried: Some((2, "connection\nrefused".to_owned())),
                ..step(What::Copied(
                    batch(1, Some("50000"), "a\n", Pass::Look),
                    tally(1, 1),
                ))
            },
            Step {
                time: None,
                ..step(What::Verified(Findings {
                    rows: 7,
                    bytes: 70,
                    ranges: 1,
                    ..Findings::default()
                }))
            },
        ];
        assert_eq!(
            history(Tally::default(), &steps),
            "2026-11-21T12:45:25Z  begun\n\
             2026-11-21T12:45:25Z  batch 0: 50,000 rows, 15.0 MB, keys up to (50000) in 1.2 s\n\
             2026-11-21T12:45:25Z  second look, batch 1: 1 row (1 was there before), 300 B, keys after (50000) up to (a\\n) \
             in 2m 05s, after 2 failed attempts (connection refused)\n\
             -  verified 7 rows, 70 B: no difference\n\
             in all: 50,001 rows, 15.0 MB in 2 batches; verified 7 rows, 70 B in 1 range: no difference; 2 attempts failed and were tried again"
        );
    }

    #[test]
    fn the_sum_is_what_is_on_the_target_whoever_brought_it() {
        let tally = |rows, batches| Tally {
            rows,
            bytes: rows * 100,
            batches,
            ..Tally::default()
        };
        let step = |what| Step {
            time: None,
            took: None,
            what,
            retried: None,
        };
        let copied = |rows| {
            let range = KeyRange {
                low: None,
                high: Key(vec!["9".to_owned()]),
            };
            let batch = Batch {
                number: 1,
                pass: Pass::Copy,
                range,
            };
            step(What::Copied(batch, tally(rows, 1)))
        };
        let last = |before, steps: &[Step]| {
            let text = history(before, steps);
            text.lines().last().expect("a sum").to_owned()
        };
        let again = [step(What::Found(tally(1500, 3))), copied(500)];
        assert_eq!(
            last(Tally::default(), &again),
            "in all: 2,000 rows, 200 kB in 4 batches; 1,500 rows in 3 batches were on the target when it began"
        );
        // The target has lost a batch meanwhile.
        let lost = [
            step(What::Found(tally(0, 0))),
            copied(1),
            copied(2),
            step(What::Found(tally(1, 1))),
            copied(2),
        ];
        assert_eq!(
            last(Tally::default(), &lost),
            "in all: 3 rows, 300 B in 2 batches"
        );
        assert_eq!(
            last(tally(7, 1), &[copied(1)]),
            "in all: 8 rows, 800 B in 2 batches; 7 rows in 1 batch were on the target when it began"
        );
        let findings = Findings {
            rows: 5,
            bytes: 50,
            ranges: 1,
            ..Findings::default()
        };
        let verified = [
            step(What::Verified(findings.clone())),
            step(What::Verified(findings)),
        ];
        assert_eq!(
            last(Tally::default(), &verified),
            "in all: verified 10 rows, 100 B in 2 ranges: no difference"
        );
    }

    #[test]
    fn events_stand_in_columns_one_a_line() {
        let row = |event_id, event_type: &str, detail: &str| HistoryRow {
            event_id,
            time: Some("2026-11-21T12:45:25.123Z".to_owned()),
            event_type: event_type.to_owned(),
            detail: detail.to_owned(),
        };
        let rows = [
            row(9, "ActivityTaskScheduled", "copy_batch"),
            row(10, "TimerStarted", ""),
            HistoryRow {
                time: None,
                ..row(11, "ActivityTaskFailed", "lost\nconnection")
            },
        ];
        assert_eq!(
            events(&rows),
            "9   2026-11-21T12:45:25Z  ActivityTaskScheduled  copy_batch\n\
             10  2026-11-21T12:45:25Z  TimerStarted\n\
             11  -                     ActivityTaskFailed     lost connection"
        );
        assert_eq!(events(&[]), "");
    }
}
