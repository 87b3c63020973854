//! Names and values as SQL text: what is quoted here can be put into a statement as it stands.
//!
//! Statements are built from text because COPY takes no parameters, and keys travel as text. Nothing else in this
//! room writes a quote by hand. The session has `standard_conforming_strings` on.

use crate::table::TableName;

/// A name as a quoted identifier: `a"b` becomes `"a""b"`.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as a string literal: `it's` becomes `'it''s'`. A backslash stays what it is.
#[must_use]
pub fn quote_literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// A table's name, each part quoted.
#[must_use]
pub fn quote_table(table: &TableName) -> String {
    match &table.schema {
        Some(schema) => format!("{}.{}", quote_identifier(schema), quote_identifier(&table.name)),
        None => quote_identifier(&table.name),
    }
}

/// Names as a list of quoted identifiers, between commas.
#[must_use]
pub fn quote_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .map(quote_identifier)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Texts as a literal of type `text[]`.
#[must_use]
pub fn quote_text_array(values: &[String]) -> String {
    let items: Vec<_> = values.iter().map(|value| quote_literal(value)).collect();
    format!("ARRAY[{}]::text[]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_backslashes_kept() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's \\n"), "'it''s \\n'");
        assert_eq!(
            quote_text_array(&["a'".into(), "b".into()]),
            "ARRAY['a''', 'b']::text[]"
        );
        assert_eq!(quote_text_array(&[]), "ARRAY[]::text[]");
        assert_eq!(quote_list(["a", "B"]), "\"a\", \"B\"");
    }
}
