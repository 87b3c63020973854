//! What of a server's message is shown: names and conditions, never a row's value.
//!
//! Whoever writes a trigger, a check or a cast chooses its message and its SQLSTATE, and can put a row into the message. The
//! file of PostgreSQL's source that reported it is not theirs to choose, nor that the error came out of their function: its
//! context says so. So where rows are on the way a message is shown only if it is of a kind that is known to hold names
//! and no values, from a file that is known to report that kind, and about the statement itself; all others are told by
//! SQLSTATE, table, constraint and column.

use super::frames::REFUSED_SQLSTATE;
use tokio_postgres::error::DbError;

/// Files of PostgreSQL's that report, under the SQLSTATEs below, names of objects and conditions of the server.
const FILES: [&str; 35] = [
    "aclchk.c",
    "analyze.c",
    "be-secure.c",
    "bufmgr.c",
    "buffile.c",
    "copyfrom.c",
    "copy.c",
    "deadlock.c",
    "execExprInterp.c",
    "execIndexing.c",
    "execMain.c",
    "execPartition.c",
    "fd.c",
    "heapam.c",
    "heaptoast.c",
    "hio.c",
    "indexcmds.c",
    "lmgr.c",
    "lock.c",
    "lockcmds.c",
    "md.c",
    "namespace.c",
    "nbtinsert.c",
    "nbtree.c",
    "nbtutils.c",
    "parse_relation.c",
    "postgres.c",
    "predicate.c",
    "proc.c",
    "procarray.c",
    "relation.c",
    "ri_triggers.c",
    "tablecmds.c",
    "utility.c",
    "xact.c",
];

/// Of what kind those messages are: constraints, rights, names, locks, limits, a server that ends.
const CLASSES: [&str; 14] = [
    "08", "23", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "0A",
];

/// The message of a statement in which no user's row takes part: hidden only where PostgreSQL quotes values, and where
/// code of a user's has raised it.
pub(super) fn without_rows(error: &DbError) -> String {
    let code = error.code().code();
    if code == REFUSED_SQLSTATE {
        // Our own words.
        return error.message().to_owned();
    }
    if code.starts_with("22") || code == "42601" || is_raised(error) {
        told(error)
    } else {
        format!("{} (SQLSTATE {})", error.message(), shown(code))
    }
}

/// The message of a statement in which rows of a user's are read or written.
pub(super) fn with_rows(error: &DbError) -> String {
    let code = error.code().code();
    if code == REFUSED_SQLSTATE {
        return error.message().to_owned();
    }
    let class = code.get(..2).unwrap_or_default();
    let is_known =
        CLASSES.contains(&class) && code != "42601" && !is_raised(error) && is_direct(error, class);
    let is_ours = match error.file() {
        Some(file) => FILES.contains(&file),
        // A pooler between us and the server, which sees no rows.
        None => matches!(class, "08" | "57" | "58"),
    };
    if is_known && is_ours {
        format!("{} (SQLSTATE {})", error.message(), shown(code))
    } else {
        told(error)
    }
}

/// Whether it is about the statement itself, and not from within a function that ran for a row. What a value names (a
/// regclass that is not there) is an error of the row that COPY has come to.
fn is_direct(error: &DbError, class: &str) -> bool {
    let mut lines = error.where_().unwrap_or_default().lines();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => line.starts_with("COPY ") && class != "42",
        _ => false,
    }
}

/// Whether a procedural language reports it, or whatever else was loaded.
fn is_raised(error: &DbError) -> bool {
    error.code().code().starts_with("P0") || error.file().is_some_and(|file| file.starts_with("pl"))
}

/// The error without its message.
fn told(error: &DbError) -> String {
    let code = error.code().code();
    // `COPY t, line 3, column a: "the value"`: all before the first colon is free of values.
    let place = error.where_().filter(|text| text.starts_with("COPY "));
    let place = place.and_then(|text| text.split(':').next().filter(|place| !place.contains('\n')));
    let mut text = condition(code).to_owned();
    if let Some(place) = place {
        text.push_str(&format!(" at {place}"));
    }
    let parts = [
        ("table", error.table()),
        ("constraint", error.constraint()),
        ("column", error.column()),
        ("type", error.datatype()),
    ];
    for (what, name) in parts {
        // RAISE can set these too, and a function can make a table of any name: names, or whatever looks like one.
        if let Some(name) = name.filter(|_| !is_raised(error) && is_direct(error, "")) {
            text.push_str(&format!(", {what} {name}"));
        }
    }
    format!("{text} (SQLSTATE {})", shown(code))
}

/// Whether it is made like a code: what is not may be any text.
pub(super) fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
        && code
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
}

fn shown(code: &str) -> &str {
    if is_sqlstate(code) { code } else { "unknown" }
}

fn condition(code: &str) -> &'static str {
    match code {
        "22001" => "string data too long",
        "22003" => "numeric value out of range",
        "22007" => "invalid datetime format",
        "22008" => "datetime field overflow",
        "22021" => "character not in the encoding",
        "22023" => "invalid parameter value",
        "22P02" => "invalid text representation",
        "22P03" => "invalid binary representation",
        "22P04" => "bad COPY file format",
        "22P05" => "untranslatable character",
        "42601" => "syntax error",
        "P0001" => "an exception raised by a function or trigger, whose text is in the server's log",
        _ => match code.get(..2) {
            Some("22") => "data exception",
            Some("23") => "a constraint is violated",
            _ => "an error whose text is in the server's log, since it can hold values of a row",
        },
    }
}
