//! Text of others on a terminal: names and keys can hold anything, and a terminal obeys some of it.

/// Whether a terminal obeys it, or it turns the direction of writing round, or it is not to be seen.
#[must_use]
pub fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// The text on one line, with what a terminal would obey written out: `\n`, `\u{1b}`.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The text on one line, a space for each character that a terminal would obey.
#[must_use]
pub fn plain(text: &str) -> String {
    let space = |character| if is_obeyed(character) { ' ' } else { character };
    text.chars().map(space).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(
            shown("v\x1b[31m\u{9b}X\njob is complete\u{202e}"),
            "v\\u{1b}[31m\\u{9b}X\\njob is complete\\u{202e}"
        );
        assert_eq!(shown("it's \\x00, \"ö\" 日本"), "it's \\x00, \"ö\" 日本");
    }
}
