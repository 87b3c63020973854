//! What is said when a command fails: the error, its causes, a blank line, a hint. And status, list and history as text.
//!
//! Everything here makes strings of typed values; the printer prints them.

mod check;
mod event_json;
mod findings;
mod history;
mod list;
mod prune;
mod settings;
mod status;

pub use check::{Checked, check};
pub use event_json::event_json;
pub use findings::{findings, verdict};
pub use history::{HistoryRow, Step, What, events, history, seconds};
pub use list::list;
pub use prune::{Pruned, pruned};
pub use settings::{SettingRow, settings};
#[cfg(test)]
pub(crate) use status::tests as status_tests;
pub use status::{status, status_within};

use std::error::Error;

use serde::Serialize;

use super::exit::ExitStatus;
use super::printer::{Paint, paint};
use crate::job::{JobError, Mismatch};
use crate::observe::logs::LogError;

/// What a command gives back: how it ended, or the report of why it could not go on.
pub type Outcome = Result<ExitStatus, Report>;

/// Why a command ends before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    first: Box<Fault>,
    /// What is wrong besides.
    more: Vec<Report>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    message: String,
    causes: Vec<String>,
    /// Where what is wrong was given: a flag, a variable, a line of a job file.
    place: Option<String>,
    hints: Vec<String>,
    status: ExitStatus,
}

/// One thing that is wrong, as `check --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The exit status that it would have alone.
    pub exit_status: u8,
    /// What is wrong.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// The flag, variable or line of a job file that gave what is wrong.
    pub given_by: Option<String>,
    /// What the operator may do.
    pub hints: Vec<String>,
}

impl Report {
    /// A report of an error and all that caused it.
    pub fn new(error: &(dyn Error + 'static), status: ExitStatus) -> Self {
        let mut report = Self::of(error.to_string(), status);
        let mut cause = error.source();
        while let Some(error) = cause {
            report.add_cause(&error.to_string());
            cause = error.source();
        }
        report
    }

    /// A report in words, where no error value stands behind it.
    pub fn of(message: impl Into<String>, status: ExitStatus) -> Self {
        let first = Fault {
            message: message.into(),
            causes: Vec::new(),
            place: None,
            hints: Vec::new(),
            status,
        };
        Self {
            first: Box::new(first),
            more: Vec::new(),
        }
    }

    /// One report of several, if there is any; the process ends with the lowest of their statuses.
    pub fn all(reports: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut reports = reports.into_iter();
        let first = reports.next()?;
        Some(Self {
            more: reports.collect(),
            ..first
        })
    }

    /// The same report with where what is wrong was given, if that is known.
    pub fn given_by(mut self, place: impl Into<Option<String>>) -> Self {
        self.first.place = place.into().or(self.first.place);
        self
    }

    /// Each thing that is wrong.
    pub fn troubles(&self) -> Vec<Trouble> {
        let first = &self.first;
        let mut troubles = vec![Trouble {
            exit_status: first.status.code(),
            message: first.message.clone(),
            causes: first.causes.clone(),
            given_by: first.place.clone(),
            hints: first.hints.clone(),
        }];
        troubles.extend(self.more.iter().flat_map(Self::troubles));
        troubles
    }

    /// The report of a stdout that takes nothing more.
    pub(super) fn unwritable(error: &(dyn Error + 'static)) -> Self {
        let mut report = Self::of("standard output cannot be written to", ExitStatus::Failed);
        report.add_cause(&error.to_string());
        report
    }

    /// The same report with one more cause below the others; one that the text above says already is left out.
    pub fn caused_by(mut self, cause: &str) -> Self {
        self.add_cause(cause);
        self
    }

    /// The same report with what the operator may do, if anything is known.
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.first.hints.extend(hint.into());
        self
    }

    /// How the process ends: the lowest of the statuses, where there are several.
    pub fn status(&self) -> ExitStatus {
        let all = std::iter::once(self.first.status).chain(self.more.iter().map(Self::status));
        all.min_by_key(|status| status.code())
            .unwrap_or(self.first.status)
    }

    /// What is wrong and why, on one line.
    pub fn in_a_line(&self) -> String {
        let causes = self.first.causes.iter().map(String::as_str);
        let words: Vec<_> = std::iter::once(self.first.message.as_str())
            .chain(causes)
            .collect();
        words.join(": ")
    }

    /// The report as it is printed, without a line's end.
    pub fn render(&self, color: bool) -> String {
        let first = &self.first;
        let mut text = format!(
            "{} {}",
            paint("error:", Paint::Error, color),
            set_in(&first.message)
        );
        for cause in &first.causes {
            text += &format!("\n  caused by: {}", set_in(cause));
        }
        if let Some(place) = &first.place {
            text += &format!("\n  given by: {}", set_in(place));
        }
        for (i, hint) in first.hints.iter().enumerate() {
            let gap = if i == 0 { "\n\n" } else { "\n" };
            text += &format!("{gap}{} {}", paint("hint:", Paint::Hint, color), set_in(hint));
        }
        for report in &self.more {
            text += &format!("\n\n{}", report.render(color));
        }
        text
    }

    fn add_cause(&mut self, cause: &str) {
        let first = &mut self.first;
        let above = first.causes.last().unwrap_or(&first.message);
        if !cause.is_empty() && !above.contains(cause) {
            first.causes.push(cause.to_owned());
        }
    }
}

impl From<JobError> for Report {
    fn from(error: JobError) -> Self {
        Self::new(&error, ExitStatus::Usage)
    }
}

impl From<Mismatch> for Report {
    fn from(error: Mismatch) -> Self {
        let hint = "give the new job a name of its own with --name, or begin this one anew with --restart"
            .to_owned();
        Self::new(&error, ExitStatus::Usage).with_hint(hint)
    }
}

impl From<LogError> for Report {
    fn from(error: LogError) -> Self {
        Self::new(&error, ExitStatus::Usage)
    }
}

impl From<anyhow::Error> for Report {
    /// For errors that nobody foresaw: they are ours.
    fn from(error: anyhow::Error) -> Self {
        Self::new(error.as_ref(), ExitStatus::Failed)
    }
}

/// Text of several lines below the first, which no line of it can be taken for.
fn set_in(text: &str) -> String {
    text.replace('\n', "\n    ")
}

/// The second to which times are shown: `2026-11-21T12:45:25Z`, whatever fraction came.
fn second(rfc3339: &str) -> String {
    match humantime::parse_rfc3339_weak(rfc3339) {
        Ok(time) => humantime::format_rfc3339_seconds(time).to_string(),
        Err(_) => rfc3339.to_owned(),
    }
}

/// Columns of text, each as wide as its widest cell; the last one is not padded.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| console::measure_text_width(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += cell;
            line += &" ".repeat(width - console::measure_text_width(cell) + 2);
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::job::status::{PendingActivity, Retrying, Wait};
    use crate::table::{Difference, Findings, Key, KeyRange, RepairFailure};

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the table `audio`")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("the connection was lost")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn an_error_is_followed_by_its_causes_a_blank_line_and_a_hint() {
        let error = Outer(Middle(std::io::Error::other("broken pipe")));
        let report = Report::new(&error, ExitStatus::Source).with_hint("start the server".to_owned());
        assert_eq!(
            report.render(false),
            "error: cannot read the table `audio`\n  caused by: the connection was lost\n  caused by: broken pipe\n\n\
             hint: start the server"
        );
        assert_eq!(report.status().code(), 3);
        assert!(report.render(true).starts_with("\x1b[1;31merror:\x1b[0m cannot"));
    }

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let report = Report::of("cannot connect: refused", ExitStatus::Target).caused_by("refused");
        assert_eq!(report.render(false), "error: cannot connect: refused");
    }

    #[test]
    fn an_unforeseen_error_keeps_its_chain() {
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(
            Report::from(error).render(false),
            "error: outer\n  caused by: inner"
        );
    }

    #[test]
    fn several_reports_are_told_one_after_the_other_and_end_with_the_lowest_status() {
        let target = Report::of("the target is full", ExitStatus::Target).with_hint("make room".to_owned());
        let source = Report::of("the source is gone", ExitStatus::Source).given_by("--source".to_owned());
        let all = Report::all([target, source]).expect("two");
        assert_eq!(
            all.render(false),
            "error: the target is full\n\nhint: make room\n\nerror: the source is gone\n  given by: --source"
        );
        assert_eq!(all.status(), ExitStatus::Source);
        let told: Vec<_> = all.troubles().iter().map(|trouble| trouble.exit_status).collect();
        assert_eq!(told, [4, 3]);
        assert_eq!(Report::all([]), None);
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(second("2026-11-21T12:45:25.123456Z"), "2026-11-21T12:45:25Z");
        assert_eq!(second("yesterday"), "yesterday");
    }

    /// The paths of all fields: `tables[].cursor`. What is null in a sample is a field as well.
    fn paths(value: &serde_json::Value, prefix: &str, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    let path = match prefix {
                        "" => name.clone(),
                        prefix => format!("{prefix}.{name}"),
                    };
                    paths(value, &path, found);
                    found.insert(path);
                }
            }
            serde_json::Value::Array(values) => {
                for value in values.iter().filter(|value| value.is_object()) {
                    paths(value, &format!("{prefix}[]"), found);
                }
            }
            _ => {}
        }
    }

    fn fields(sample: &serde_json::Value) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        paths(sample, "", &mut found);
        found
    }

    /// What the table below a heading of docs/json.md names in its first column.
    fn documented(heading: &str) -> BTreeSet<String> {
        let text = include_str!("../../../docs/json.md");
        let section = text
            .split("\n## ")
            .find(|section| section.starts_with(heading))
            .unwrap_or_else(|| panic!("docs/json.md has no section {heading}"));
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let names = rows.flat_map(|row| {
            let first = row.split('|').nth(1).expect("a column");
            first.split('`').skip(1).step_by(2).map(str::to_owned)
        });
        names.collect()
    }

    #[test]
    fn docs_json_names_every_field_that_is_printed_and_no_other() {
        let mut job = super::status::tests::running();
        job.pending_activities = vec![PendingActivity {
            activity_type: "copy_batch".to_owned(),
            attempt: 1,
            last_failure: None,
            next_attempt_at: None,
            failing_since: None,
        }];
        let text = || "now".to_owned();
        job.retrying = Some(Retrying {
            activity: text(),
            side: text(),
            unreachable: false,
            since: text(),
            attempt: 2,
            next_attempt_at: None,
            last_failure: text(),
        });
        job.waiting_for = Some(Wait {
            what: text(),
            since: text(),
        });
        job.tuning = Some(crate::job::Tuning {
            concurrency: 4,
            batch_rows: None,
            max_rate_bytes_per_second: None,
        });
        let key = || Key(vec!["1".to_owned()]);
        let mut found = Findings {
            repair_failure: Some(RepairFailure {
                message: text(),
                hint: text(),
            }),
            ..Findings::default()
        };
        found.add(Difference::Changed {
            key: key(),
            columns: vec!["a".to_owned()],
        });
        found.add(Difference::Range {
            range: KeyRange {
                low: None,
                high: key(),
            },
            rows_sent: 2,
            rows_found: 1,
        });
        let mut checked = super::check::tests::ready();
        checked.troubles = Report::of("no", ExitStatus::Usage).troubles();
        let setting = SettingRow {
            setting: "table".to_owned(),
            value: None,
            origin: "unset",
            place: None,
        };
        for (heading, sample) in [
            ("status", serde_json::to_value(&job)),
            ("verify", serde_json::to_value(&found)),
            ("check", serde_json::to_value(&checked)),
            ("config show", serde_json::to_value(&setting)),
            ("prune", serde_json::to_value(Pruned::new(false))),
        ] {
            let (written, named) = (fields(&sample.expect("it is JSON")), documented(heading));
            let missing: Vec<_> = written.difference(&named).collect();
            let stale: Vec<_> = named.difference(&written).collect();
            assert!(
                missing.is_empty() && stale.is_empty(),
                "{heading}: docs/json.md lacks {missing:?}, and has {stale:?} that nobody writes"
            );
        }
    }
}
