//! The log: what went on inside, for those who ask, on stderr and beside the progress bar.
//!
//! RUST_LOG decides what is logged; without it, warnings of everything, and with `-v` and `-vv` more and more of longhaul.
//! A log file also takes what the operator was told, whose place on stderr is the printer's.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::Terminal;
use super::terminal::harmless;

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
    /// A form that is not known.
    #[error("`{0}` is not a log format: it must be text or json")]
    Format(String),
    /// RUST_LOG does not parse.
    #[error("RUST_LOG is `{text}`, which is not a log filter")]
    Filter {
        /// What RUST_LOG holds.
        text: String,
        /// Where it stops making sense.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log file cannot be written to.
    #[error("cannot write the log file {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody set up a log already.
    #[error("the log is set up already")]
    Twice,
}

/// What is logged, how, and where besides stderr.
#[derive(Debug, Clone, Default)]
pub struct LogOptions<'a> {
    /// The form of a line.
    pub format: LogFormat,
    /// How many `-v` were given.
    pub verbosity: u8,
    /// Errors only.
    pub is_quiet: bool,
    /// What RUST_LOG holds, if anything.
    pub rust_log: Option<&'a str>,
    /// Whether lines on stderr are painted.
    pub color: bool,
    /// A file that takes the lines as well, and what the operator is told.
    pub file: Option<&'a Path>,
}

/// Sets up the log for the whole process; to be called once, before the first event.
///
/// # Errors
/// A filter that does not parse, a file that cannot be written to, or a log that is set up already.
pub fn init(terminal: &Terminal, options: &LogOptions<'_>) -> Result<(), LogError> {
    // Where in the code a line comes from is for those who look into it.
    let with_target = options.verbosity >= 2 || options.rust_log.is_some_and(|text| !text.is_empty());
    let file = options.file.map(open).transpose()?;
    // The file's first: what a layer writes of a span is kept for the next one, and a file takes no color.
    let file = match file {
        Some(file) => {
            let layer = layer(options.format, false, with_target, std::sync::Mutex::new(file));
            // Quiet is the terminal: a file is asked for to be read later.
            let filter = filter(Some(options.verbosity), options.rust_log, Told::Kept)?;
            Some(layer.with_filter(filter))
        }
        None => None,
    };
    let verbosity = (!options.is_quiet).then_some(options.verbosity);
    let writer = Writer(terminal.clone());
    let is_asked_for = options.verbosity > 0 || options.rust_log.is_some_and(|text| !text.is_empty());
    let stderr = match (options.format, is_asked_for) {
        (LogFormat::Text, false) => tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(options.color)
            .event_format(Warnings)
            .boxed(),
        _ => layer(options.format, options.color, with_target, writer),
    };
    let stderr = stderr.with_filter(filter(verbosity, options.rust_log, Told::Dropped)?);
    let layers: Vec<_> = file.into_iter().chain([stderr]).collect();
    let log = tracing_subscriber::registry().with(layers);
    log.try_init().map_err(|_| LogError::Twice)
}

/// Keeps in the log file, with the time, what the operator is told; a line for each of the text's.
pub fn told(level: Level, text: &str) {
    for line in harmless(text)
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
    {
        match level {
            Level::ERROR => tracing::error!(target: TOLD, "{line}"),
            Level::WARN => tracing::warn!(target: TOLD, "{line}"),
            _ => tracing::info!(target: TOLD, "{line}"),
        }
    }
}

fn layer<W>(
    format: LogFormat,
    color: bool,
    with_target: bool,
    writer: W,
) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer.with_ansi(color).with_target(with_target).boxed(),
        LogFormat::Json => layer.with_ansi(false).json().boxed(),
    }
}

/// Opens a log file to append to; made for its owner alone. What is there must be a file of this user's that no other can
/// write to, and no symbolic link.
fn open(path: &Path) -> Result<File, LogError> {
    let failed = |source| LogError::File {
        path: path.to_owned(),
        source,
    };
    // A pipe without a reader would wait for one.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let no_link = flags.bits().cast_signed();
    let mut options = File::options();
    options
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(no_link);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
            failed(io::Error::other("it is a symbolic link"))
        }
        _ => failed(error),
    })?;
    let found = file.metadata().map_err(failed)?;
    let wrong = match () {
        () if !found.is_file() => "it is not a file",
        () if found.uid() != rustix::process::geteuid().as_raw() => "it belongs to another user",
        () if found.mode() & 0o022 != 0 => "others can write to it",
        () => return Ok(file),
    };
    Err(failed(io::Error::other(wrong)))
}

const QUIET: &str = "rustls=warn,sled=off,tokio_postgres=warn";

/// Where the events of [`told`] come from.
const TOLD: &str = "told";

/// What becomes of the events of [`told`].
enum Told {
    Kept,
    Dropped,
}

/// `None` is errors only.
fn filter(verbosity: Option<u8>, rust_log: Option<&str>, told: Told) -> Result<EnvFilter, LogError> {
    let text = match (rust_log.filter(|text| !text.is_empty()), verbosity) {
        (Some(text), _) => text,
        (None, None) => "error",
        (None, Some(0)) => "warn",
        (None, Some(1)) => "warn,longhaul=info",
        (None, Some(2)) => "warn,longhaul=debug",
        (None, Some(_)) => "info,longhaul=trace",
    };
    // tokio_postgres logs statements, and so keys of rows: it is kept quiet whatever the operator asked for. What sled
    // logs comes as an error too.
    let told = match told {
        Told::Kept => "info",
        Told::Dropped => "off",
    };
    EnvFilter::try_new(format!("{text},{QUIET},{TOLD}={told}")).map_err(|source| LogError::Filter {
        text: text.to_owned(),
        source,
    })
}

/// As the printer says what it warns of: where no log was asked for, nobody need know where a warning comes from.
struct Warnings;

impl<S, N> FormatEvent<S, N> for Warnings
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let (code, word) = match *event.metadata().level() {
            Level::ERROR => ("1;31", "error:"),
            _ => ("1;33", "warning:"),
        };
        match writer.has_ansi_escapes() {
            true => write!(writer, "\x1b[{code}m{word}\x1b[0m ")?,
            false => write!(writer, "{word} ")?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
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
            let filter = filter(Some(verbosity), rust_log, Told::Dropped)
                .expect("a filter")
                .to_string();
            let mut directives: Vec<_> = filter.split(',').collect();
            let always = format!("{QUIET},{TOLD}=off");
            directives.retain(|directive| !always.split(',').any(|it| it == *directive));
            assert_eq!(directives.join(","), shown);
            assert_eq!(
                filter.split(',').count(),
                directives.len() + 4,
                "{filter} lacks {always}"
            );
        }
    }

    #[test]
    fn a_rust_log_that_does_not_parse_is_an_error_that_shows_it() {
        let error = filter(Some(0), Some("longhaul=loud=er"), Told::Kept).expect_err("no filter");
        assert!(error.to_string().contains("longhaul=loud=er"));
    }

    #[test]
    fn a_log_file_is_its_owners_is_appended_to_and_is_reached_through_no_link() {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let (path, link) = (directory.path().join("log"), directory.path().join("link"));
        for line in ["one", "two"] {
            writeln!(open(&path).expect("it can be made"), "{line}").expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "one\ntwo\n");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        let error = open(&link).expect_err("it is a link");
        let cause = std::error::Error::source(&error).expect("why").to_string();
        assert_eq!(cause, "it is a symbolic link");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("its mode is changed");
        let error = open(&path).expect_err("others can write to it");
        let cause = std::error::Error::source(&error).expect("why").to_string();
        assert_eq!(cause, "others can write to it");
    }

    #[test]
    fn a_warning_from_inside_reads_as_one_of_the_printer_s() {
        let (out, err) = (Paper::default(), Paper::default());
        let terminal = Terminal::of(Box::new(out.clone()), Box::new(err.clone()));
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Warnings)
            .with_writer(Writer(terminal))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("job {} is held by another process", "a");
            tracing::error!(code = 5, "it is over");
        });
        assert_eq!(
            err.text(),
            "warning: job a is held by another process\nerror: it is over code=5\n"
        );
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
