//! The log: what went on inside, for those who ask, on stderr and beside the progress bar.
//!
//! RUST_LOG decides what is logged; without it, warnings of everything, and with `-v` and `-vv` more and more of longhaul.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Terminal;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every choice, as the operator writes it.
    pub const NAMES: [&'static str; 2] = ["text", "json"];
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(text.to_owned())),
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A form that is none.
    #[error("`{0}` is no log format: it must be text or json")]
    Format(String),
    /// RUST_LOG does not parse.
    #[error("RUST_LOG is `{text}`, which is no log filter")]
    Filter {
        /// What RUST_LOG holds.
        text: String,
        /// Where it stops making sense.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody set up a log already.
    #[error("the log is set up already")]
    Twice,
}

/// Sets up the log for the whole process; to be called once, before the first event.
///
/// `rust_log` is what RUST_LOG holds, if anything; `verbosity` counts `-v`.
pub fn init(
    terminal: &Terminal,
    format: LogFormat,
    verbosity: u8,
    rust_log: Option<&str>,
    color: bool,
) -> Result<(), LogError> {
    let filter = filter(verbosity, rust_log)?;
    // Where in the code a line comes from is for those who look into it.
    let with_target = verbosity >= 2 || rust_log.is_some_and(|text| !text.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(with_target)
        .with_writer(Writer(terminal.clone()));
    let result = match format {
        LogFormat::Text => builder.with_ansi(color).try_init(),
        LogFormat::Json => builder.with_ansi(false).json().try_init(),
    };
    result.map_err(|_| LogError::Twice)
}

const QUIET: &str = "rustls=warn,sled=off,tokio_postgres=warn";

fn filter(verbosity: u8, rust_log: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = match (rust_log.filter(|text| !text.is_empty()), verbosity) {
        (Some(text), _) => text,
        (None, 0) => "warn",
        (None, 1) => "warn,longhaul=info",
        (None, 2) => "warn,longhaul=debug",
        (None, _) => "info,longhaul=trace",
    };
    // tokio_postgres logs statements, and so keys of rows: it is kept quiet whatever the operator asked for. What sled
    // logs comes as an error too.
    EnvFilter::try_new(format!("{text},{QUIET}")).map_err(|source| LogError::Filter {
        text: text.to_owned(),
        source,
    })
}

struct Writer(Terminal);

/// One event: gathered, then written at once, so that lines of two threads do not mix.
struct Line {
    terminal: Terminal,
    bytes: Vec<u8>,
}

impl MakeWriter<'_> for Writer {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line {
            terminal: self.0.clone(),
            bytes: Vec::new(),
        }
    }
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.terminal.write_talk(&self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::terminal::tests::Paper;
    use super::*;

    #[test]
    fn each_v_shows_more_of_longhaul_and_rust_log_decides_over_it() {
        for (verbosity, rust_log, shown) in [
            (0, None, "warn"),
            (1, None, "longhaul=info,warn"),
            (2, None, "longhaul=debug,warn"),
            (3, None, "longhaul=trace,info"),
            (2, Some("error"), "error"),
            (1, Some(""), "longhaul=info,warn"),
        ] {
            let filter = filter(verbosity, rust_log).expect("a filter").to_string();
            let mut directives: Vec<_> = filter.split(',').collect();
            directives.retain(|directive| !QUIET.split(',').any(|quiet| quiet == *directive));
            assert_eq!(directives.join(","), shown);
            assert_eq!(
                filter.split(',').count(),
                directives.len() + 3,
                "{filter} lacks {QUIET}"
            );
        }
    }

    #[test]
    fn a_rust_log_that_does_not_parse_is_an_error_that_shows_it() {
        let error = filter(0, Some("longhaul=loud=er")).expect_err("no filter");
        assert!(error.to_string().contains("longhaul=loud=er"));
    }

    #[test]
    fn an_event_is_one_line_on_stderr() {
        let (out, err) = (Paper::default(), Paper::default());
        let terminal = Terminal::of(Box::new(out.clone()), Box::new(err.clone()));
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(Writer(terminal))
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::info!(batch = 7, "committed"));
        let line: serde_json::Value = serde_json::from_str(&err.text()).expect("one object");
        assert_eq!(line["fields"]["batch"], 7);
        assert_eq!(out.text(), "");
    }
}
