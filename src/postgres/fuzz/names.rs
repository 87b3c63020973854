//! Names: what is quoted is one name, that name, and what is shown can be typed.

use crate::postgres::identifier::{
    quote_identifier, quote_list, quote_literal, quote_table, quote_text_array,
};
use crate::postgres::words::plain;
use crate::table::{Key, TableName, is_obeyed, shown};

/// The input is a text, or two with a NUL between them: schema and table.
///
/// # Panics
/// Where a name does not survive being quoted, shown or typed.
pub fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    check_typed(&text);
    check_words(&text);
    let (schema, name) = text
        .split_once('\0')
        .map_or((None, &*text), |(schema, name)| (Some(schema), name));
    // PostgreSQL's names are not empty, and have no NUL in them.
    let parts: Vec<_> = schema.into_iter().chain([name]).collect();
    if parts.iter().all(|part| !part.is_empty() && !part.contains('\0')) {
        check_name(&TableName {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        });
        check_quoted(&parts);
    }
}

/// A text as an operator types it: the name that it gives is typed as it is shown.
fn check_typed(text: &str) {
    match text.parse::<TableName>() {
        Ok(name) => check_name(&name),
        Err(error) => assert!(error.to_string().contains("is not a table name"), "{error}"),
    }
}

fn check_name(name: &TableName) {
    let typed = name.to_string();
    assert_eq!(typed.parse().as_ref(), Ok(name), "shown as {typed:?}");
    // What PostgreSQL makes of the same text, without the spaces around its parts, which we keep.
    assert_eq!(
        name_parts(&typed),
        Some(name.schema.iter().chain([&name.name]).cloned().collect()),
        "{typed:?}"
    );
    let json = serde_json::to_string(name).expect("plain data");
    assert_eq!(serde_json::from_str::<TableName>(&json).ok().as_ref(), Some(name));
}

/// Texts that were quoted are read back by PostgreSQL's rules, to the last byte.
fn check_quoted(parts: &[&str]) {
    let list = quote_list(parts.iter().copied());
    let mut rest = list.as_str();
    for (number, part) in parts.iter().enumerate() {
        rest = if number == 0 {
            rest
        } else {
            rest.strip_prefix(", ").expect("a comma")
        };
        let (read, after) = quoted(rest, '"').unwrap_or_else(|| panic!("{rest:?}"));
        assert_eq!(read, *part, "{list:?}");
        rest = after;
    }
    assert_eq!(rest, "", "{list:?}");
    for part in parts {
        let literal = quote_literal(part);
        assert_eq!(
            quoted(&literal, '\''),
            Some((String::from(*part), "")),
            "{literal:?}"
        );
        let identifier = quote_identifier(part);
        assert_eq!(
            quoted(&identifier, '"'),
            Some((String::from(*part), "")),
            "{identifier:?}"
        );
    }
    let values: Vec<_> = parts.iter().map(|part| String::from(*part)).collect();
    let array = quote_text_array(&values);
    let mut rest = array.strip_prefix("ARRAY[").expect("an array");
    for (number, value) in values.iter().enumerate() {
        rest = if number == 0 {
            rest
        } else {
            rest.strip_prefix(", ").expect("a comma")
        };
        let (read, after) = quoted(rest, '\'').unwrap_or_else(|| panic!("{rest:?}"));
        assert_eq!(read, *value, "{array:?}");
        rest = after;
    }
    assert_eq!(rest, "]::text[]", "{array:?}");
    if let [schema, name] = parts {
        let table = TableName {
            schema: Some((*schema).to_owned()),
            name: (*name).to_owned(),
        };
        assert_eq!(name_parts(&quote_table(&table)).as_deref(), Some(&values[..]));
    }
}

/// Text of others, on its way to a terminal.
fn check_words(text: &str) {
    super::assert_fit_to_show(&plain(text));
    let whole = shown(text);
    assert!(!whole.contains(is_obeyed), "{whole:?}");
    let key = Key(text.split('\0').map(str::to_owned).collect()).shown();
    assert!(!key.contains(is_obeyed), "{key:?}");
    if !text.contains(is_obeyed) {
        assert_eq!(whole, text);
        assert!(text.len() > 1024 || plain(text) == text);
    }
}

/// A quoted token at the beginning of a text, as PostgreSQL's scanner reads it with standard_conforming_strings on: what is
/// in it, and what comes after it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut read = String::new();
    let mut rest = text.strip_prefix(quote)?;
    loop {
        let (before, after) = rest.split_once(quote)?;
        read.push_str(before);
        let Some(doubled) = after.strip_prefix(quote) else {
            return Some((read, after));
        };
        read.push(quote);
        rest = doubled;
    }
}

/// The parts of a qualified name as PostgreSQL's `parse_ident` reads them in a database in UTF-8, but that an unquoted one may be
/// of any characters.
fn name_parts(text: &str) -> Option<Vec<String>> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let (part, after) = match rest.starts_with('"') {
            true => quoted(rest, '"')?,
            false => {
                let (part, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                (part.to_ascii_lowercase(), after)
            }
        };
        parts.push(part);
        match after.strip_prefix('.') {
            Some(after) => rest = after,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}
