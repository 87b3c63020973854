//! Words of a server's, made fit for a terminal, a log and a journal: names and messages can hold anything.

use crate::table::is_obeyed;

/// At most so many bytes of a text are kept: a failure that outgrew a message of the service's would be told to nobody.
const LIMIT: usize = 1024;

/// The text on one line, without what a terminal would obey, cut at 1 KiB.
///
/// Control characters, and those that turn the direction of writing round, become a space.
#[must_use]
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len().min(LIMIT));
    for character in text.chars() {
        let character = if is_obeyed(character) { ' ' } else { character };
        if plain.len() + character.len_utf8() > LIMIT {
            plain.push('…');
            break;
        }
        plain.push(character);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_becomes_a_space() {
        assert_eq!(plain("a\x1b[2Jb\r\nc\u{9b}31m\u{202e}d\te"), "a [2Jb  c 31m d e");
        assert_eq!(plain("schöne Wörter, 日本語"), "schöne Wörter, 日本語");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let cut = plain(&"ö".repeat(3_000_000));
        assert_eq!(cut.len(), LIMIT + '…'.len_utf8());
        assert!(cut.ends_with("ö…"));
    }
}
