//! The one voice of a command: data to stdout, messages to stderr, color where a person looks.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

use serde::Serialize;
use tracing::Level;

use super::report::Report;
use super::suggested::completed;
use crate::job::is_obeyed;
use crate::observe::{Terminal, logs};

/// When color is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl ColorChoice {
    /// Every choice, as the operator writes it.
    pub const NAMES: [&'static str; 3] = ["auto", "always", "never"];

    fn on(self, stream: &impl IsTerminal) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                stream.is_terminal() && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

impl std::str::FromStr for ColorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("it must be auto, always or never".to_owned()),
        }
    }
}

/// What a piece of text is, and so how it is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Error,
    Warning,
    Hint,
    Good,
    Waiting,
    Bad,
}

/// Paints a word, or leaves it plain.
pub(super) fn paint(word: &str, paint: Paint, color: bool) -> String {
    let code = match paint {
        Paint::Error => "1;31",
        Paint::Warning => "1;33",
        Paint::Hint => "1;36",
        Paint::Good => "32",
        Paint::Waiting => "33",
        Paint::Bad => "31",
    };
    if color {
        format!("\x1b[{code}m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

/// The text without any sequence of a terminal's where no color is wanted: then none is ours.
fn colored(text: &str, color: bool) -> Cow<'_, str> {
    match color {
        true => text.into(),
        false => text.replace('\x1b', " ").into(),
    }
}

/// JSON with what a terminal would obey as escapes; it stands in strings only.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_obeyed(character) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// The one voice of a command.
#[derive(Clone)]
pub struct Printer {
    terminal: Terminal,
    color_talk: bool,
    color_data: bool,
    is_quiet: bool,
    /// The flags that commands which are suggested need to lead where this one does.
    leading: String,
}

impl Printer {
    /// A voice on this terminal.
    pub fn new(terminal: Terminal, color: ColorChoice) -> Self {
        Self {
            terminal,
            color_talk: color.on(&io::stderr()),
            color_data: color.on(&io::stdout()),
            is_quiet: false,
            leading: String::new(),
        }
    }

    /// The same voice, which says nothing but data and errors.
    pub fn quiet(mut self, is_quiet: bool) -> Self {
        self.is_quiet = is_quiet;
        self
    }

    /// The same voice, whose suggested commands have these flags.
    pub fn leading(mut self, flags: String) -> Self {
        self.leading = flags;
        self
    }

    /// The streams themselves, for progress and logs.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Whether talk is painted.
    pub fn color(&self) -> bool {
        self.color_talk
    }

    /// Whether data is painted.
    pub(super) fn color_data(&self) -> bool {
        self.color_data
    }

    /// Prints data to stdout in place of what stands on the terminal; below what was printed where stdout is none.
    pub fn screen(&self, text: &str) -> Result<(), Report> {
        if !io::stdout().is_terminal() {
            return self.data(&format!("{text}\n"));
        }
        let text = completed(text, &self.leading);
        let printed = self.terminal.print_over(&colored(&text, self.color_data));
        printed.map_err(|error| Report::unwritable(&error))
    }

    /// Prints data to stdout, with a line's end. A reader who has gone is no error; a full disk is one.
    pub fn data(&self, text: &str) -> Result<(), Report> {
        let text = completed(text, &self.leading);
        self.terminal
            .print(&colored(&text, self.color_data))
            .map_err(|error| Report::unwritable(&error))
    }

    /// Prints one JSON object as one line of data.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Report> {
        let line = serde_json::to_string(value).map_err(|error| Report::unwritable(&error))?;
        let printed = self.terminal.print(&escaped(&line));
        printed.map_err(|error| Report::unwritable(&error))
    }

    /// Says a line on stderr, and in the log file.
    pub fn talk(&self, text: &str) {
        let text = completed(text, &self.leading);
        logs::told(Level::INFO, &text);
        self.say(&text);
    }

    /// Says on stderr, and in the log file, what the operator should look at, though it stops nothing.
    pub fn warn(&self, text: &str) {
        let text = completed(text, &self.leading);
        logs::told(Level::WARN, &text);
        self.say(&format!(
            "{} {text}",
            paint("warning:", Paint::Warning, self.color_talk)
        ));
    }

    /// Says on stderr, and in the log file, why the command ends.
    pub fn report(&self, report: &Report) {
        let plain = report.render(false);
        logs::told(Level::ERROR, &completed(&plain, &self.leading));
        let text = report.render(self.color_talk);
        let text = completed(&text, &self.leading);
        self.terminal.say(&colored(&text, self.color_talk));
    }

    fn say(&self, text: &str) {
        if !self.is_quiet {
            self.terminal.say(&colored(text, self.color_talk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::ExitStatus;

    #[test]
    fn json_is_the_same_and_moves_no_terminal() {
        let value = serde_json::json!({"cursor": ["a\u{9b}2J\u{202e}\n", "ö"]});
        let line = escaped(&value.to_string());
        assert_eq!(line, r#"{"cursor":["a\u009b2J\u202e\n","ö"]}"#);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).expect("JSON"),
            value
        );
    }

    #[test]
    fn data_goes_to_stdout_and_every_other_word_to_stderr() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| std::fs::File::create(dir.path().join(name)).expect("made");
        let terminal = Terminal::of(Box::new(file("out")), Box::new(file("err")));
        let printer = Printer::new(terminal, ColorChoice::Never);
        printer.data("a line").expect("there is room");
        printer
            .json(&serde_json::json!({"job": "a"}))
            .expect("there is room");
        printer.talk("words");
        printer.warn("look");
        printer.report(&Report::of("it is over", ExitStatus::Failed));
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("written");
        assert_eq!(text("out"), "a line\n{\"job\":\"a\"}\n");
        assert_eq!(text("err"), "words\nwarning: look\nerror: it is over\n");
        let quiet = printer.quiet(true);
        quiet.talk("more words");
        quiet.warn("look again");
        quiet.report(&Report::of("it is over again", ExitStatus::Failed));
        quiet.data("more").expect("there is room");
        assert_eq!(
            text("err"),
            "words\nwarning: look\nerror: it is over\nerror: it is over again\n"
        );
        assert!(text("out").ends_with("more\n"), "data is asked for");
    }
}
