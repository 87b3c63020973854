//! A table's name as the operator writes it: `name`, `schema.name`, with `"quoted parts"` as in SQL.

use serde::{Deserialize, Serialize};

/// A table's name, its schema optional (then the server's search path decides).
///
/// Unquoted parts are folded to lower case and quoted ones kept, as SQL does: letters beyond ASCII are not folded, as in every
/// database in UTF-8. `Display` gives it back in that notation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, if one was given.
    pub schema: Option<String>,
    /// The table itself.
    pub name: String,
}

/// Why a text is no table name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing between two dots, or nothing at all.
    #[error("`{0}` is not a table name: a part of it is empty")]
    EmptyPart(String),
    /// A quote is opened and never closed, or text follows a closed one.
    #[error("`{0}` is not a table name: its quotes do not match")]
    Quotes(String),
    /// More than `schema.table`.
    #[error("`{0}` is not a table name: it has more than two parts (schema.table)")]
    TooManyParts(String),
}

impl std::str::FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = split(text.trim_ascii(), '.').ok_or_else(|| NameError::Quotes(text.to_owned()))?;
        if parts.len() > 2 {
            return Err(NameError::TooManyParts(text.to_owned()));
        }
        let name = parts.pop().filter(|part| !part.is_empty());
        let name = name.ok_or_else(|| NameError::EmptyPart(text.to_owned()))?;
        let schema = parts.pop();
        if schema.as_deref() == Some("") {
            return Err(NameError::EmptyPart(text.to_owned()));
        }
        Ok(Self { schema, name })
    }
}

/// The parts between separators, folded and unquoted as SQL does; `None` where quotes do not match.
pub(super) fn split(text: &str, separator: char) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut part = String::new();
        if rest.peek() == Some(&'"') {
            rest.next();
            loop {
                match rest.next() {
                    Some('"') if rest.peek() == Some(&'"') => part.extend(rest.next()),
                    Some('"') => break,
                    Some(c) => part.push(c),
                    None => return None,
                }
            }
            if rest.peek().is_some_and(|next| *next != separator) {
                return None;
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != separator) {
                if c == '"' {
                    return None;
                }
                part.push(c.to_ascii_lowercase());
            }
        }
        parts.push(part);
        if rest.next().is_none() {
            return Some(parts);
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", part(schema))?;
        }
        f.write_str(&part(&self.name))
    }
}

/// A part as SQL takes it, quoted where it has to be.
pub(super) fn part(text: &str) -> String {
    let plain = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit() || !c.is_ascii();
    if text.chars().all(plain) && !text.starts_with(|c: char| c.is_ascii_digit()) {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_quoted_as_in_sql() {
        for (typed, schema, name, shown) in [
            ("audio_downloads", None, "audio_downloads", "audio_downloads"),
            ("Public.Users", Some("public"), "users", "public.users"),
            (
                "\"Public\".\"a.\"\"b\"",
                Some("Public"),
                "a.\"b",
                "\"Public\".\"a.\"\"b\"",
            ),
        ] {
            let parsed: TableName = typed.parse().expect(typed);
            assert_eq!((parsed.schema.as_deref(), parsed.name.as_str()), (schema, name));
            assert_eq!(parsed.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for typed in ["", ".", "a.", ".b", "a.b.c", "\"a", "\"a\"b", "a\"b"] {
            assert!(typed.parse::<TableName>().is_err(), "{typed}");
        }
    }
}
