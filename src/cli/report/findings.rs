//! What a verification found, for people: a line a difference, and the verdict.

use std::time::Duration;

use crate::observe::figures;
use crate::table::{Difference, Findings, TOLD_MAX};

/// A line for each difference that is named, and one for those that are not.
pub fn findings(findings: &Findings) -> String {
    let mut lines: Vec<_> = findings.told.iter().map(line).collect();
    let more = findings.differences().saturating_sub(findings.told.len() as u64);
    if more > 0 {
        lines.push(format!(
            "and {} more (the first {} are named)",
            figures::count(more),
            figures::count(TOLD_MAX as u64)
        ));
    }
    lines.join("\n")
}

/// What was found so far, in a line of a status.
pub(super) fn summary(findings: &Findings) -> String {
    format!(
        "verified: {} in {}; {}",
        figures::counted(findings.rows, "row"),
        figures::counted(findings.ranges, "range"),
        match (findings.differences(), findings.repaired) {
            (0, 0) => "no difference so far".to_owned(),
            (some, 0) => figures::counted(some, "difference"),
            (left, repaired) => format!(
                "{} put right, {} left",
                figures::counted(repaired, "row"),
                match left {
                    0 => "no difference".to_owned(),
                    some => figures::counted(some, "difference"),
                }
            ),
        }
    )
}

/// The verdict in a sentence.
pub fn verdict(job: &str, findings: &Findings, took: Duration) -> String {
    let took = humantime::format_duration(Duration::from_millis(
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    ));
    let read = format!(
        "{}, {}, in {}, {took}",
        figures::counted(findings.rows, "row"),
        figures::bytes(findings.bytes as f64),
        figures::counted(findings.ranges, "range")
    );
    let mut parts = Vec::new();
    for (number, what) in [
        (findings.missing, "missing"),
        (findings.extra, "extra"),
        (findings.changed, "changed"),
    ] {
        if number > 0 {
            parts.push(format!("{} {what}", figures::count(number)));
        }
    }
    if findings.ranges_different > 0 {
        parts.push(format!(
            "{} not as sent",
            figures::counted(findings.ranges_different, "range")
        ));
    }
    let up_to = match &findings.copied_up_to {
        Some(key) => format!(" up to key ({})", key.shown()),
        None => String::new(),
    };
    let mut text = if parts.is_empty() {
        format!("{job}: equal{up_to} ({read})")
    } else {
        format!("{job}: different: {} ({read})", parts.join(", "))
    };
    if findings.not_copied_yet > 0 {
        let beyond = match &findings.copied_up_to {
            Some(_) if parts.is_empty() => " beyond it".to_owned(),
            Some(key) => format!(" beyond key ({})", key.shown()),
            None => String::new(),
        };
        let rows = figures::counted(findings.not_copied_yet, "row");
        let are = if findings.not_copied_yet == 1 { "is" } else { "are" };
        text += &format!("; {rows} that the source has{beyond} {are} not copied yet, and not counted");
    }
    if findings.repaired > 0 {
        text += &format!("; {} put right", figures::counted(findings.repaired, "row"));
    }
    if let Some(failure) = &findings.repair_failure {
        text += &format!(
            "; the repair failed in {}: {}",
            figures::counted(findings.ranges_unrepaired, "range"),
            failure.message
        );
    }
    if findings.ranges_unproved > 0 {
        text += &format!(
            "; of {} only the number of rows could be compared: --against source compares all of it",
            figures::counted(findings.ranges_unproved, "range")
        );
    }
    text
}

fn line(difference: &Difference) -> String {
    match difference {
        Difference::Missing { key } => format!("missing ({})", key.shown()),
        Difference::Extra { key } => format!("extra ({})", key.shown()),
        Difference::Changed { key, columns } => format!("changed ({}): {}", key.shown(), columns.join(", ")),
        Difference::Range {
            range,
            rows_sent,
            rows_found,
        } => format!(
            "range after {} up to ({}): {} sent, {} found",
            range
                .low
                .as_ref()
                .map_or("the start".to_owned(), |low| format!("({})", low.shown())),
            range.high.shown(),
            figures::counted(*rows_sent, "row"),
            figures::counted(*rows_found, "row")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Key;
    use crate::table::KeyRange;

    fn key(text: &str) -> Key {
        Key(vec![text.to_owned()])
    }

    #[test]
    fn each_difference_is_a_line_and_the_verdict_counts_them() {
        let mut found = Findings {
            rows: 120_000,
            bytes: 40_000_000,
            ranges: 60,
            ..Findings::default()
        };
        let took = Duration::from_millis(1500);
        assert_eq!(findings(&found), "");
        assert_eq!(
            verdict("v", &found, took),
            "v: equal (120,000 rows, 40.0 MB, in 60 ranges, 1s 500ms)"
        );
        found.add(Difference::Missing { key: key("3") });
        found.add(Difference::Changed {
            key: key("a\n"),
            columns: vec!["title".to_owned(), "url".to_owned()],
        });
        found.add(Difference::Range {
            range: KeyRange {
                low: None,
                high: key("9"),
            },
            rows_sent: 9,
            rows_found: 1,
        });
        assert_eq!(
            findings(&found),
            "missing (3)\nchanged (a\\n): title, url\nrange after the start up to (9): 9 rows sent, 1 row found"
        );
        assert!(
            verdict("v", &found, took)
                .starts_with("v: different: 1 missing, 1 changed, 1 range not as sent (120,000 rows")
        );
    }

    #[test]
    fn the_verdict_says_what_is_not_copied_yet_and_which_repair_failed() {
        let found = Findings {
            rows: 5000,
            bytes: 1000,
            ranges: 8,
            not_copied_yet: 12,
            copied_up_to: Some(key("50000")),
            ..Findings::default()
        };
        assert_eq!(
            verdict("v", &found, Duration::from_secs(1)),
            "v: equal up to key (50000) (5,000 rows, 1.0 kB, in 8 ranges, 1s); 12 rows that the source has beyond it are not \
             copied yet, and not counted"
        );
        let mut found = Findings {
            ranges_unrepaired: 1,
            repair_failure: Some(crate::table::RepairFailure {
                message: "cannot put rows right".to_owned(),
                hint: "mend them".to_owned(),
            }),
            ..found
        };
        found.add(Difference::Extra { key: key("3") });
        let text = verdict("v", &found, Duration::from_secs(1));
        assert!(text.starts_with("v: different: 1 extra ("), "{text}");
        assert!(
            text.ends_with("beyond key (50000) are not copied yet, and not counted; the repair failed in 1 range: cannot put rows right"),
            "{text}"
        );
    }
}
