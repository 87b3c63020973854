//! In which text is stored on both sides, and which of it the other side cannot take.
//!
//! Rows cross as UTF-8: each server converts from and to its own encoding. SQL_ASCII is none: its bytes may be anything.

use super::pairing::Pair;
use super::server::ServerIdentity;

/// The types whose values are the same in every encoding.
const WITHOUT_TEXT: [&str; 24] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "money",
    "oid",
    "uuid",
    "bytea",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit",
    "varbit",
    "pg_lsn",
];

/// What may end a job in the midst of its rows, said before it starts.
pub(super) fn warning(from: &ServerIdentity, to: &ServerIdentity, pairs: &[Pair<'_>]) -> Option<String> {
    let holds_text = |pair: &Pair<'_>| !WITHOUT_TEXT.contains(&pair.sent.type_name.as_str());
    if !pairs.iter().any(holds_text) {
        return None;
    }
    match (from.encoding.as_str(), to.encoding.as_str()) {
        ("SQL_ASCII", _) => Some(format!(
            "source database {} keeps text in no encoding (SQL_ASCII), and rows travel in UTF-8: a job ends at the first row whose \
             text is not UTF-8, and says where it is",
            from.database
        )),
        (from, to_encoding) if from == to_encoding || matches!(to_encoding, "UTF8" | "SQL_ASCII") => None,
        (from, to_encoding) => Some(format!(
            "target database {} is in {to_encoding}, which lacks characters that the source's {from} has: a job ends at the first \
             row with one of them, and says where it is",
            to.database
        )),
    }
}
