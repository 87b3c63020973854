//! The progress of a job on the terminal: a bar, plain lines, JSON lines, or nothing.
//!
//! Fed with the job's status as often as the caller likes; draws the bar each time, and a line every few seconds and at
//! each change of state. The total is mostly an estimate, and is shown as one; nothing here fails or divides by zero.

mod share;
mod view;
mod words;

pub use share::{Share, share};
pub use words::{clock, retrying_in_words, since, state_in_words, trouble_in_words, waiting_in_words};

use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Terminal;
use crate::job::status::JobStatus;
use view::View;

const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProgressMode {
    /// A bar where stderr is a terminal, else plain lines.
    #[default]
    Auto,
    /// A bar on stderr; plain lines where stderr is no terminal.
    Bar,
    /// A line on stderr every few seconds.
    Plain,
    /// A JSON object a line on stdout.
    Json,
    /// Nothing.
    None,
}

impl ProgressMode {
    /// Every choice, as the operator writes it.
    pub const NAMES: [&'static str; 5] = ["auto", "bar", "plain", "json", "none"];
}

impl std::str::FromStr for ProgressMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "bar" => Ok(Self::Bar),
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            "none" => Ok(Self::None),
            _ => Err(UnknownMode),
        }
    }
}

/// A way to show progress that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be auto, bar, plain, json or none")]
pub struct UnknownMode;

/// The progress of one job on the terminal. Dropping it takes the bar away.
pub struct Progress {
    terminal: Terminal,
    output: Output,
    began: Instant,
    said: Option<(Instant, String)>,
    /// What the bar shows, and of how many columns the terminal was then.
    drawn: (usize, String),
    unwritable: bool,
}

enum Output {
    Bar(ProgressBar),
    Plain,
    Json,
    Nothing,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    #[serde(flatten)]
    status: &'a JobStatus,
    retries: u64,
}

impl Progress {
    /// Begins to show progress; with a bar, all other talk goes past it from now on.
    pub fn new(mode: ProgressMode, terminal: &Terminal) -> Self {
        let output = match mode {
            ProgressMode::Auto | ProgressMode::Bar if Terminal::stderr_is_terminal() => {
                Output::Bar(new_bar())
            }
            ProgressMode::Auto | ProgressMode::Bar | ProgressMode::Plain => Output::Plain,
            ProgressMode::Json => Output::Json,
            ProgressMode::None => Output::Nothing,
        };
        if let Output::Bar(bar) = &output {
            terminal.set_bar(Some(bar.clone()));
        }
        Self {
            terminal: terminal.clone(),
            output,
            began: Instant::now(),
            said: None,
            drawn: (0, String::new()),
            unwritable: false,
        }
    }

    /// Shows how the job stands now. Cheap enough for four times a second.
    pub fn update(&mut self, status: &JobStatus) {
        self.show(status, Instant::now(), SystemTime::now(), false);
    }

    /// Shows how the job stands at the end, once, and takes the bar away: its last state stays as a plain line.
    pub fn finish(&mut self, status: &JobStatus) {
        if let Output::Bar(_) = self.output {
            self.take_bar_away();
            self.output = Output::Plain;
        }
        self.show(status, Instant::now(), SystemTime::now(), true);
        self.output = Output::Nothing;
    }

    fn show(&mut self, status: &JobStatus, now: Instant, time: SystemTime, last: bool) {
        let view = View::new(status, time, now.saturating_duration_since(self.began));
        let interval = match self.output {
            Output::Plain => PLAIN_INTERVAL,
            Output::Json => JSON_INTERVAL,
            Output::Bar(_) | Output::Nothing => Duration::ZERO,
        };
        let due = self.is_due(now, &view, interval) || last;
        match &self.output {
            Output::Bar(bar) => {
                let columns = Terminal::columns();
                self.terminal
                    .clear_above_the_bar(broken_lines(&self.drawn, columns));
                self.drawn = (columns, view.bar(columns));
                bar.set_message(self.drawn.1.clone());
            }
            Output::Plain if due => self.terminal.say(&view.plain(last)),
            Output::Json if due => self.print_json(status, time),
            Output::Plain | Output::Json | Output::Nothing => {}
        }
    }

    fn is_due(&mut self, now: Instant, view: &View<'_>, interval: Duration) -> bool {
        let state = view.state();
        let due = self
            .said
            .as_ref()
            .is_none_or(|(at, said)| *said != state || now.saturating_duration_since(*at) >= interval);
        if due {
            self.said = Some((now, state));
        }
        due
    }

    fn print_json(&mut self, status: &JobStatus, time: SystemTime) {
        let attempts = status.pending_activities.iter();
        let line = JsonLine {
            time: humantime::format_rfc3339_millis(time).to_string(),
            status,
            retries: attempts.map(|it| u64::from(it.attempt.saturating_sub(1))).sum(),
        };
        let written = serde_json::to_string(&line)
            .map_err(Into::into)
            .and_then(|line| self.terminal.print(&line));
        // A full disk behind stdout is no reason to stop moving rows; it is said once.
        if let Err(error) = written
            && !std::mem::replace(&mut self.unwritable, true)
        {
            self.terminal.say(&format!(
                "warning: progress cannot be written to standard output: {error}"
            ));
        }
    }

    fn take_bar_away(&mut self) {
        if let Output::Bar(bar) = &self.output {
            self.terminal.set_bar(None);
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.take_bar_away();
    }
}

/// How many more lines the terminal has made of what was drawn on it when it was wider.
fn broken_lines((before, text): &(usize, String), columns: usize) -> usize {
    if columns == 0 || columns >= *before {
        return 0;
    }
    let lines = text.lines().map(console::measure_text_width);
    lines.map(|width| width.saturating_sub(1) / columns).sum()
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    // The lines are laid out by `View`, which knows what to leave out where the terminal is narrow.
    bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant that parses"));
    bar
}

#[cfg(test)]
mod tests {
    use super::super::terminal::tests::Paper;
    use super::view::tests::{retrying, running};
    use super::*;
    use crate::job::status::JobState;

    fn on_paper(mode: ProgressMode) -> (Progress, Paper, Paper) {
        let (out, err) = (Paper::default(), Paper::default());
        let terminal = Terminal::of(Box::new(out.clone()), Box::new(err.clone()));
        (Progress::new(mode, &terminal), out, err)
    }

    #[test]
    fn plain_lines_come_every_few_seconds_and_at_each_change_of_state() {
        let (mut progress, out, err) = on_paper(ProgressMode::Plain);
        let (began, mut status) = (Instant::now(), running());
        let mut at = |millis, status: &JobStatus| {
            let now = began + Duration::from_millis(millis);
            progress.show(status, now, SystemTime::UNIX_EPOCH, false);
            err.text().lines().count()
        };
        assert_eq!(at(0, &status), 1);
        assert_eq!(at(1000, &status), 1);
        assert_eq!(at(5000, &status), 2);
        status.state = JobState::Paused;
        assert_eq!(at(5250, &status), 3);
        assert_eq!(at(5500, &status), 3);
        status.state = JobState::Running;
        assert_eq!(at(5750, &status), 4);
        assert_eq!(at(6000, &retrying()), 5);
        assert_eq!(out.text(), "");
    }

    #[test]
    fn json_progress_is_a_status_a_line_on_stdout() {
        let (mut progress, out, err) = on_paper(ProgressMode::Json);
        let mut job = running();
        job.rows_in_flight = 10;
        progress.update(&job);
        progress.finish(&job);
        let text = out.text();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("one object a line"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["state"], "RUNNING");
        assert_eq!(lines[0]["tables"][0]["rows_done"], 450_000);
        assert_eq!(lines[0]["rows_in_flight"], 10);
        assert_eq!(err.text(), "");
    }

    #[test]
    fn lines_that_a_narrower_terminal_breaks_are_counted() {
        let drawn = (80, format!("{}\n{}\n{}", "x".repeat(79), "y".repeat(40), "z"));
        assert_eq!(broken_lines(&drawn, 80), 0);
        assert_eq!(broken_lines(&drawn, 40), 1);
        assert_eq!(broken_lines(&drawn, 39), 3);
        assert_eq!(broken_lines(&drawn, 120), 0, "a wider one breaks none");
        assert_eq!(broken_lines(&(0, String::new()), 40), 0);
    }

    #[test]
    fn no_progress_is_no_word_on_either_stream() {
        let (mut progress, out, err) = on_paper(ProgressMode::None);
        progress.update(&running());
        progress.finish(&running());
        assert_eq!((out.text(), err.text()), (String::new(), String::new()));
    }
}
