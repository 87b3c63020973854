//! What can go wrong between us and PostgreSQL, and what to do about it.
//!
//! One function decides an error's [`Kind`], where the evidence is (SQLSTATE, a closed connection, an I/O error); one
//! table maps the kind to a retry class and to the operator's hint. Row values never get into a text: DETAIL and CONTEXT
//! are dropped, and so is MESSAGE wherever a value may be in it ([`message`](super::message)). No text can make a terminal
//! do anything.

use super::message;
use super::words::plain;
use std::error::Error as _;
use std::fmt;

/// Which of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where rows are read.
    Source,
    /// Where rows are written.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What an error means for the one who has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// It passes by itself: connection lost, server restarting, deadlock, a limit reached for now.
    Transient,
    /// Nobody answers at that host and port. Passes when a server restarts; before a job starts it is a mistake.
    Unreachable,
    /// User, password or pg_hba.conf.
    Authentication,
    /// TLS could not be agreed on, or the server's certificate was not accepted.
    Tls,
    /// A table, column, schema, type or database that does not exist.
    UndefinedObject,
    /// Something of that name exists, but it is no table.
    NotATable,
    /// No unique key along which the table could be copied.
    NoKey,
    /// The target lacks a column, or asks for one that the source does not have.
    MissingColumn,
    /// Source and target type differ.
    TypeMismatch,
    /// A right is missing.
    Privilege,
    /// Source and target are one and the same table.
    SameTable,
    /// A row of the same key is on the target already.
    ConflictingRow,
    /// The target table has rows.
    NotEmpty,
    /// A constraint of the target refuses a row.
    Constraint,
    /// A value that the target's type does not take.
    InvalidValue,
    /// A later run of the same job has taken over.
    Fenced,
    /// A table is not as it was planned any more.
    TableChanged,
    /// The target has lost batches that it had confirmed: it was failed over, or restored to an older state.
    TargetRewound,
    /// The source has lost what was seen of it, and may give the keys of rows that were copied to others.
    SourceRewound,
    /// Rows that were copied are not right under the table's new definition.
    Incompatible,
    /// Rows that were copied are not on the target any more: it was emptied, or made anew.
    Emptied,
    /// The server takes no writes now.
    ReadOnly,
    /// A limit of PostgreSQL's that no attempt can move.
    Limit,
    /// The ledger on the target belongs to another source or table, to a newer version, or does not fit together.
    Ledger,
    /// The target took another number of rows than were sent.
    CountMismatch,
    /// PostgreSQL, or this configuration of it, cannot do that.
    Unsupported,
    /// What the operator gave us makes no sense.
    InvalidInput,
    /// None of the above: retried a few times, since it may pass, and never for ever.
    Unknown,
}

/// Whether another attempt makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// As often and as long as the job's policy says.
    Retry,
    /// The same, but for no longer than [`BRIEF`]: then it is a mistake.
    RetryBriefly,
    /// At most [`UNKNOWN_ATTEMPTS`] times: nothing unknown is retried forever in silence.
    RetryLimited,
    /// No attempt of the same thing can mend it; looking at both tables again may.
    Again,
    /// No attempt can mend it.
    Never,
}

/// How many attempts an error of unknown kind gets.
pub const UNKNOWN_ATTEMPTS: u32 = 10;

/// How long it passes for a moment's matter, once a job runs, that pg_hba.conf refuses us or that a table is not there: a
/// failover brings its rules late, and a table that is swapped has no name in between.
pub const BRIEF: std::time::Duration = std::time::Duration::from_secs(60);

impl Kind {
    /// The retry class, and what the operator can do.
    #[must_use]
    pub fn policy(self) -> (Retry, &'static str) {
        match self {
            Self::Transient => (Retry::Retry, "it should pass; the next attempt comes by itself"),
            Self::Unreachable => (
                Retry::Retry,
                "check that the server runs, and that host, port and firewall are right",
            ),
            Self::Authentication => (
                Retry::Never,
                "check user and password (URL, PGPASSWORD or ~/.pgpass) and the server's pg_hba.conf",
            ),
            Self::Tls => (
                Retry::Never,
                "check sslmode, sslrootcert, sslcert and the server's certificate",
            ),
            Self::UndefinedObject => (Retry::Never, "check the name, its schema and the database"),
            Self::NotATable => (Retry::Never, "name an ordinary or a partitioned table"),
            Self::NoKey => (
                Retry::Never,
                "add a primary key, or a unique index on not-null columns, to the source table",
            ),
            Self::MissingColumn => (
                Retry::Never,
                "make the target's columns fit, then run the same command again",
            ),
            Self::TypeMismatch => (Retry::Never, "give the column the same type on both sides"),
            Self::Privilege => (
                Retry::Never,
                "grant the missing right, then run the same command again",
            ),
            Self::SameTable => (Retry::Never, "name two different databases or tables"),
            Self::ConflictingRow => (
                Retry::Never,
                "delete the row that is there already, or say --on-conflict skip or --on-conflict update; where it is another \
                 unique index than the key's that refuses the row, drop that index for the time of the copy",
            ),
            Self::NotEmpty => (
                Retry::Never,
                "empty the target table, or say --on-conflict skip or --on-conflict update",
            ),
            Self::Constraint => (
                Retry::Never,
                "fix the row or the constraint, then run the same command again",
            ),
            Self::InvalidValue => (
                Retry::Never,
                "compare the column's type, and the encoding of both databases",
            ),
            Self::Fenced => (
                Retry::Never,
                "another run of this job has taken over; look at that one",
            ),
            Self::TableChanged | Self::TargetRewound => (
                Retry::Again,
                "the job looks at both tables again, and continues where it can",
            ),
            Self::SourceRewound => (
                Retry::Never,
                "copy every row again, over those that are there: --restart --on-conflict update",
            ),
            Self::Incompatible => (
                Retry::Never,
                "undo the change, or copy every row again, over those that are there: --restart --on-conflict update",
            ),
            Self::Emptied => (
                Retry::Never,
                "bring its rows back; or empty it and start over: --restart; or copy every row again, over those that are \
                 there: --restart --on-conflict update",
            ),
            Self::ReadOnly => (
                Retry::Retry,
                "the server takes no writes: it is a standby, or default_transaction_read_only is on there",
            ),
            Self::Limit => (
                Retry::Never,
                "a row or a key is too large for PostgreSQL; leave it out or make it smaller",
            ),
            Self::Ledger => (
                Retry::Never,
                "give the job another name, or start it afresh with --restart",
            ),
            Self::CountMismatch => (
                Retry::Never,
                "look for triggers on the target table that drop rows; nothing of this batch was kept",
            ),
            Self::Unsupported => (Retry::Never, "see the documentation for what can be copied"),
            Self::InvalidInput => (Retry::Never, "correct it and run the command again"),
            Self::Unknown => (Retry::RetryLimited, "look into the server's log at this time"),
        }
    }
}

/// An error of the source or of the target.
///
/// `Display` names the object and the operation; the cause, stripped of row values, is in `source()`.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    side: Side,
    kind: Kind,
    context: String,
    hint: Option<String>,
    sqlstate: Option<String>,
    cause: Option<Cause>,
}

/// The cause, in a text without row values and secrets.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

/// This room's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that we found ourselves; `context` says what and where, in lower case, without a full stop.
    pub fn new(side: Side, kind: Kind, context: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            side,
            kind,
            context: plain(&context.into()),
            hint: None,
            sqlstate: None,
            cause: None,
        }))
    }

    /// An error that the driver returned while `context` was being done, without a row of a user's.
    pub fn query<C: Into<String>>(side: Side, context: C, error: &tokio_postgres::Error) -> Self {
        Self::of_driver(side, context, error, message::without_rows)
    }

    /// An error that the driver returned while rows of a user's were read or written: any of their values may be in its words.
    pub fn rows<C: Into<String>>(side: Side, context: C, error: &tokio_postgres::Error) -> Self {
        Self::of_driver(side, context, error, message::with_rows)
    }

    fn of_driver(
        side: Side,
        context: impl Into<String>,
        error: &tokio_postgres::Error,
        words: fn(&tokio_postgres::error::DbError) -> String,
    ) -> Self {
        let (mut kind, sqlstate) = classify(error);
        // The ledger is made before anything asks it: a target without one has gone back to before that.
        if side == Side::Target
            && kind == Kind::UndefinedObject
            && error.as_db_error().is_some_and(is_of_ledger)
        {
            kind = Kind::TargetRewound;
        }
        let mut made = Self::new(side, kind, context);
        made.0.sqlstate = sqlstate;
        let cause = match error.as_db_error() {
            Some(error) => words(error),
            None => cause_text(error),
        };
        made.because(cause)
    }

    /// The same with a cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(Cause(plain(&cause.into())));
        self
    }

    /// The same with a hint of its own, in place of its kind's.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(plain(&hint.into()));
        self
    }

    /// The same of another kind.
    #[must_use]
    pub(super) fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Which database it concerns.
    #[must_use]
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether another attempt makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match (self.0.kind, self.sqlstate()) {
            (Kind::Authentication, Some("28000")) | (Kind::UndefinedObject, None | Some("42P01")) => {
                Retry::RetryBriefly
            }
            (kind, _) => kind.policy().0,
        }
    }

    /// The server's five-character code, where the server sent one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// What the operator can do.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.0.hint.as_deref().unwrap_or(self.0.kind.policy().1)
    }

    /// The error and its causes in one line, joined by colons.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as _)
    }
}

/// Decides the kind from what the driver returned; the SQLSTATE with it, where there is one.
fn classify(error: &tokio_postgres::Error) -> (Kind, Option<String>) {
    if let Some(error) = error.as_db_error() {
        let code = error.code().code();
        let sqlstate = Some(code.to_owned()).filter(|code| message::is_sqlstate(code));
        return (kind_of_server_error(code, error), sqlstate);
    }
    (kind_without_sqlstate(error), None)
}

fn kind_of_server_error(code: &str, error: &tokio_postgres::error::DbError) -> Kind {
    let message = error.message();
    // A value that outgrows the 1 GB of an allocation comes as an internal error, or as one of memory.
    let is_too_large = (code == "XX000" && message.starts_with("invalid memory alloc request size"))
        || (code == "53200"
            && error
                .detail()
                .is_some_and(|detail| detail.contains("string buffer")));
    if is_too_large {
        Kind::Limit
    } else {
        kind_of_sqlstate(code)
    }
}

/// Whether the server misses a table of the ledger. Its words are translated, names are not.
fn is_of_ledger(error: &tokio_postgres::error::DbError) -> bool {
    let tables = ["jobs", "tables", "batches", "format"];
    let named = tables.map(|table| format!("longhaul.{table}"));
    *error.code() == tokio_postgres::error::SqlState::UNDEFINED_TABLE
        && named.iter().any(|name| error.message().contains(name))
}

fn kind_of_sqlstate(code: &str) -> Kind {
    match code {
        "57P01" | "57P02" | "57P03" | "57P05" | "57014" | "55P03" | "55006" | "58030" | "25P03" | "25P04"
        | "72000" => Kind::Transient,
        "25006" => Kind::ReadOnly,
        "28000" | "28P01" => Kind::Authentication,
        "3D000" | "3F000" | "42P01" | "42703" | "42704" | "42883" => Kind::UndefinedObject,
        "42501" => Kind::Privilege,
        "42804" | "42846" => Kind::TypeMismatch,
        "42809" => Kind::NotATable,
        "23505" => Kind::ConflictingRow,
        "P0001" => Kind::Constraint,
        _ => match code.get(..2) {
            Some("08" | "40" | "53") => Kind::Transient,
            Some("22") => Kind::InvalidValue,
            Some("21" | "23") => Kind::Constraint,
            Some("0A" | "42") => Kind::Unsupported,
            Some("54") => Kind::Limit,
            _ => Kind::Unknown,
        },
    }
}

fn kind_without_sqlstate(error: &tokio_postgres::Error) -> Kind {
    if error.is_closed() {
        return Kind::Transient;
    }
    let mut next = error.source();
    while let Some(cause) = next {
        if cause.is::<rustls::Error>() {
            return Kind::Tls;
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Kind::Tls;
            }
            return kind_of_io(io);
        }
        next = cause.source();
    }
    // The driver keeps its own kind to itself; its Display is that kind and nothing else.
    match error.to_string().as_str() {
        "error performing TLS handshake" => Kind::Tls,
        "authentication error" | "invalid configuration" => Kind::Authentication,
        "timeout waiting for server" => Kind::Transient,
        "invalid connection string" => Kind::InvalidInput,
        _ => Kind::Unknown,
    }
}

pub(super) fn kind_of_io(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::Interrupted => Kind::Transient,
        // Refused, timed out, no route, no such socket, no such host (which has no kind of its own).
        _ => Kind::Unreachable,
    }
}

/// An error of the driver's own in words.
fn cause_text(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        // rustls' error is wrapped twice, with the same words.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_retried_and_the_unknown_a_few_times() {
        for code in [
            "08006", "57P01", "57P03", "40001", "40P01", "53300", "53100", "55P03", "57014", "25006",
        ] {
            assert_eq!(kind_of_sqlstate(code).policy().0, Retry::Retry, "{code}");
        }
        for code in [
            "28P01", "3D000", "42P01", "42501", "22P02", "23505", "23502", "0A000",
        ] {
            assert_eq!(kind_of_sqlstate(code).policy().0, Retry::Never, "{code}");
        }
        for code in ["XX000", "XX001", "F0000", ""] {
            assert_eq!(kind_of_sqlstate(code).policy().0, Retry::RetryLimited, "{code}");
        }
    }

    #[test]
    fn an_error_names_the_operation_and_keeps_its_cause_behind_it() {
        let error = Error::new(
            Side::Target,
            Kind::Privilege,
            "cannot create schema longhaul on the target",
        )
        .because("permission denied")
        .hinted("grant it");
        assert_eq!(error.to_string(), "cannot create schema longhaul on the target");
        assert_eq!(
            error.chain(),
            "cannot create schema longhaul on the target: permission denied"
        );
        assert_eq!(
            (error.side(), error.kind(), error.hint()),
            (Side::Target, Kind::Privilege, "grant it")
        );
    }
}
