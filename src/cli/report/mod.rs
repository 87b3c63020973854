//! What is said when a command fails: the error, its causes, a blank line, a hint. And status, list and history as text.
//!
//! Everything here makes strings of typed values; the printer prints them.

mod event_json;
mod findings;
mod history;
mod list;
mod status;

pub use event_json::event_json;
pub use findings::{findings, verdict};
pub use history::{HistoryRow, history};
pub use list::list;
pub use status::status;
#[cfg(test)]
pub(crate) use status::tests as status_tests;

use std::error::Error;

use super::exit::ExitStatus;
use super::printer::{Paint, paint};
use crate::job::{JobError, Mismatch};
use crate::observe::logs::LogError;

/// What a command gives back: how it ended, or the report of why it could not go on.
pub type Outcome = Result<ExitStatus, Report>;

/// Why a command ends before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
    status: ExitStatus,
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
        Self {
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            status,
        }
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
        self.hints.extend(hint.into());
        self
    }

    /// How the process ends.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// The report as it is printed, without a line's end.
    pub fn render(&self, color: bool) -> String {
        let mut text = format!("{} {}", paint("error:", Paint::Error, color), self.message);
        for cause in &self.causes {
            text += &format!("\n  caused by: {}", cause.replace('\n', "\n    "));
        }
        for (i, hint) in self.hints.iter().enumerate() {
            let gap = if i == 0 { "\n\n" } else { "\n" };
            text += &format!("{gap}{} {hint}", paint("hint:", Paint::Hint, color));
        }
        text
    }

    fn add_cause(&mut self, cause: &str) {
        let above = self.causes.last().unwrap_or(&self.message);
        if !cause.is_empty() && !above.contains(cause) {
            self.causes.push(cause.to_owned());
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

/// `1 range`, `2 ranges`.
fn plural(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", crate::observe::figures::count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn times_are_shown_to_the_second() {
        assert_eq!(second("2026-11-21T12:45:25.123456Z"), "2026-11-21T12:45:25Z");
        assert_eq!(second("yesterday"), "yesterday");
    }
}
