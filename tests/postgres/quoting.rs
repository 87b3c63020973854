//! Names and values as SQL text, held against PostgreSQL's own quoting and reading of it.

use crate::random::Random;
use crate::servers::{Databases, sql};
use longhaul::postgres::identifier::{quote_identifier, quote_literal};
use longhaul::table::TableName;

/// What rules of quoting turn on; the rest of Unicode is met by letters of one, two, three and four bytes.
const CHARACTERS: [&str; 27] = [
    "\"",
    "'",
    "\\",
    ".",
    ",",
    ";",
    "$",
    "-",
    "*",
    "/",
    "%",
    "(",
    ")",
    "[",
    " ",
    "\t",
    "\n",
    "\u{a0}",
    "\u{3000}",
    "\u{202e}",
    "a",
    "Z",
    "0",
    "_",
    "Ä",
    "日",
    "\u{1f600}",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_reads_what_is_quoted_and_what_is_shown_as_the_name_that_it_was() {
    let databases = Databases::new("", "").await;
    let mut random = Random::seeded();
    let mut names: Vec<String> = CHARACTERS.iter().map(ToString::to_string).collect();
    names.extend(
        [
            "select", "Select", "a b", "1a", "a1", "E'\\n'", "U&\"x\"", "$$", "--", "/*",
        ]
        .map(str::to_owned),
    );
    while names.len() < 1500 {
        let length = random.within(1..12);
        names.push((0..length).map(|_| *random.pick(&CHARACTERS)).collect());
    }
    let hex = |text: &str| -> String { text.bytes().map(|byte| format!("{byte:02x}")).collect() };
    // What PostgreSQL is told without any quoting of ours.
    let plain = |text: &str| format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex(text));
    let rows: Vec<_> = names
        .iter()
        .map(|name| {
            let table = TableName {
                schema: Some(name.clone()),
                name: name.clone(),
            };
            let (quoted, typed) = (plain(&quote_identifier(name)), plain(&table.to_string()));
            format!("({}, {}, {quoted}, {typed})", plain(name), quote_literal(name))
        })
        .collect();
    let wrong = format!(
        "SELECT name FROM (VALUES {}) v(name, literal, quoted, typed) WHERE literal <> name OR parse_ident(quoted) <> ARRAY[name]
         OR quote_ident(name) NOT IN (name, quoted) OR parse_ident(typed) <> ARRAY[name, name]",
        rows.join(", ")
    );
    assert_eq!(
        sql(&databases.target_url, &wrong).await,
        Vec::<Vec<Option<String>>>::new()
    );
}
