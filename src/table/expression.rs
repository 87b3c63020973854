//! An SQL expression of the operator's, for one row of the source: one expression and nothing behind it, about its row alone,
//! and the same whenever it is asked.
//!
//! It goes into statements between parentheses, and so must have its own parentheses and quotes closed. What it means the
//! source decides; that its functions are not volatile is asked there.

use serde::{Deserialize, Serialize};

/// An expression that may stand between parentheses in a statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression(String);

/// Why a text is no expression that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// A quote, a parenthesis or a bracket that does not match.
    #[error("its quotes, parentheses or brackets do not match")]
    Unmatched,
    /// `;`, a comment, a parameter: more than an expression.
    #[error("it is one SQL expression: without a semicolon, a comment or a parameter")]
    MoreThanOne,
    /// A subquery.
    #[error(
        "it is about its own row: what a subquery reads may change between two batches; a view on the source can have one"
    )]
    Subquery,
    /// A clock.
    #[error(
        "`{0}` is another time in each batch, and whenever the job is run again or verified: write the time itself"
    )]
    Clock(String),
}

/// Words that only a subquery has.
const SUBQUERIES: [&str; 2] = ["select", "table"];
/// Words that are the time of the statement by themselves.
const CLOCK_WORDS: [&str; 5] = [
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
];
/// Functions that are.
const CLOCK_FUNCTIONS: [&str; 5] = [
    "now",
    "transaction_timestamp",
    "statement_timestamp",
    "clock_timestamp",
    "timeofday",
];
/// Literals that are, where a time is wanted.
const CLOCK_LITERALS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

impl Expression {
    /// As SQL has it.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let text = text.trim();
        let tokens = tokens(text)?;
        if tokens.is_empty() {
            return Err(ExpressionError::Empty);
        }
        let mut following = tokens.iter().skip(1);
        for token in &tokens {
            let next = following.next().map(|token| token.what);
            match token.what {
                What::Word => {
                    let word = token.text(text).to_ascii_lowercase();
                    if SUBQUERIES.contains(&word.as_str()) {
                        return Err(ExpressionError::Subquery);
                    }
                    let is_call = next == Some(What::Open) && CLOCK_FUNCTIONS.contains(&word.as_str());
                    if is_call || CLOCK_WORDS.contains(&word.as_str()) {
                        return Err(ExpressionError::Clock(word));
                    }
                }
                What::Literal => {
                    let literal = token.text(text).trim_matches('\'').trim().to_ascii_lowercase();
                    if CLOCK_LITERALS.contains(&literal.as_str()) {
                        return Err(ExpressionError::Clock(token.text(text).to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Expression {
    type Error = ExpressionError;

    fn try_from(text: String) -> Result<Self, ExpressionError> {
        text.parse()
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.0
    }
}

impl std::fmt::Display for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// The parts of a list, between commas that stand in no parentheses, brackets or quotes.
///
/// # Errors
/// As of an expression.
pub(super) fn parts(text: &str) -> Result<Vec<&str>, ExpressionError> {
    let commas = tokens(text)?;
    let commas = commas
        .iter()
        .filter(|token| token.what == What::Comma && token.depth == 0);
    let mut begin = 0;
    let mut parts = Vec::new();
    for comma in commas {
        parts.push(text[begin..comma.begin].trim());
        begin = comma.end;
    }
    parts.push(text[begin..].trim());
    Ok(parts)
}

/// What a piece of SQL is, as far as it matters where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A name without quotes, a keyword, a number.
    Word,
    /// Between double quotes.
    Name,
    /// Between quotes, or dollar signs.
    Literal,
    Open,
    Close,
    Comma,
    Other,
}

#[derive(Debug)]
struct Token {
    what: What,
    begin: usize,
    end: usize,
    /// How many parentheses and brackets are open around it.
    depth: usize,
}

impl Token {
    fn text<'a>(&self, of: &'a str) -> &'a str {
        &of[self.begin..self.end]
    }
}

/// Letters, and all that is not ASCII.
fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn tokens(text: &str) -> Result<Vec<Token>, ExpressionError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut open = Vec::new();
    let mut begin = 0;
    while let Some(c) = text[begin..].chars().next() {
        let rest = &text[begin..];
        if c.is_whitespace() {
            begin += c.len_utf8();
            continue;
        }
        let mut depth = open.len();
        let (what, length) = match c {
            '\0' | ';' => return Err(ExpressionError::MoreThanOne),
            _ if rest.starts_with("--") || rest.starts_with("/*") => {
                return Err(ExpressionError::MoreThanOne);
            }
            '(' | '[' => {
                open.push(c);
                (What::Open, 1)
            }
            ')' | ']' => {
                if open.pop() != Some(if c == ')' { '(' } else { '[' }) {
                    return Err(ExpressionError::Unmatched);
                }
                depth -= 1;
                (What::Close, 1)
            }
            ',' => (What::Comma, 1),
            '"' => (What::Name, quoted(rest, '"', false)?),
            '\'' => {
                let has_escapes = tokens
                    .last()
                    .is_some_and(|before| before.end == begin && before.text(text).eq_ignore_ascii_case("e"));
                (What::Literal, quoted(rest, '\'', has_escapes)?)
            }
            '$' => (What::Literal, in_dollars(rest)?),
            _ if begins_word(c) || c.is_ascii_digit() => {
                let goes_on = |c: char| begins_word(c) || c.is_ascii_digit() || c == '$';
                (What::Word, rest.find(|c| !goes_on(c)).unwrap_or(rest.len()))
            }
            _ => (What::Other, c.len_utf8()),
        };
        tokens.push(Token {
            what,
            begin,
            end: begin + length,
            depth,
        });
        begin += length;
    }
    match open.is_empty() {
        true => Ok(tokens),
        false => Err(ExpressionError::Unmatched),
    }
}

/// The length of a text that begins with a quote, up to the one that closes it; one that is doubled does not.
fn quoted(text: &str, quote: char, has_escapes: bool) -> Result<usize, ExpressionError> {
    let mut rest = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = rest.next() {
        if has_escapes && c == '\\' {
            rest.next();
        } else if c == quote && rest.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(ExpressionError::Unmatched)
}

/// The length of a text between dollar signs, `$$..$$` or `$tag$..$tag$`.
fn in_dollars(text: &str) -> Result<usize, ExpressionError> {
    let tag_end = text[1..].find('$').ok_or(ExpressionError::MoreThanOne)? + 2;
    let tag = &text[..tag_end];
    let mut inside = tag[1..tag_end - 1].chars();
    let is_tag = inside
        .next()
        .is_none_or(|c| begins_word(c) && inside.all(|c| begins_word(c) || c.is_ascii_digit()));
    if !is_tag {
        return Err(ExpressionError::MoreThanOne);
    }
    let end = text[tag_end..].find(tag).ok_or(ExpressionError::Unmatched)?;
    Ok(tag_end + end + tag_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_taken_as_it_is() {
        for text in [
            "md5(email)",
            "a > 5 AND b IN ('x', 'it''s;', E'\\'--', $$ ; -- $$, $t$ $$ ( $t$)",
            "\"a;b\" = 'select' OR \"table\" IS NULL",
            "(doc #>> '{a,b}')::numeric(10, 2) - -1",
            "arr[1:2] || ARRAY[3]",
            "now_playing + u.selected",
            "preis$x > 1 AND größe < 2",
            "created_at >= '2024-01-01'",
        ] {
            let parsed: Expression = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.sql(), text);
            let json = serde_json::to_string(&parsed).expect("plain data");
            assert_eq!(serde_json::from_str::<Expression>(&json).expect("itself"), parsed);
        }
        assert_eq!(" a\n".parse::<Expression>().map(String::from), Ok("a".to_owned()));
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        use ExpressionError::{Empty, MoreThanOne, Unmatched};
        for (text, error) in [
            ("", Empty),
            (" \n", Empty),
            ("true) TO STDOUT; DROP TABLE t; --", Unmatched),
            ("(a", Unmatched),
            ("(a]", Unmatched),
            ("'a", Unmatched),
            ("E'a\\'", Unmatched),
            ("\"a", Unmatched),
            ("$x$ a $y$", Unmatched),
            ("a; b", MoreThanOne),
            ("a -- b", MoreThanOne),
            ("a /* b */", MoreThanOne),
            ("a = $1", MoreThanOne),
            ("a = $1 OR b = '$'", MoreThanOne),
            ("a\0", MoreThanOne),
        ] {
            assert_eq!(text.parse::<Expression>(), Err(error), "{text}");
            let json = serde_json::to_string(text).expect("a text");
            assert!(serde_json::from_str::<Expression>(&json).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_about_more_than_its_row_is_refused() {
        for text in [
            "id IN (SELECT id FROM u)",
            "EXISTS(TABLE u)",
            "id = (with x as (select 1) values (1))",
        ] {
            assert_eq!(
                text.parse::<Expression>(),
                Err(ExpressionError::Subquery),
                "{text}"
            );
        }
        for text in [
            "at > now() - interval '1 day'",
            "at < CURRENT_DATE",
            "at > 'Today'::date",
            "at > pg_catalog.now ()",
        ] {
            let error = text.parse::<Expression>();
            assert!(matches!(error, Err(ExpressionError::Clock(_))), "{text}");
        }
    }

    #[test]
    fn a_list_is_parted_where_a_select_list_would_be() {
        assert_eq!(
            parts("a=f(b, c), \"x,y\" = 'p,q' ,z=ARRAY[1,2]"),
            Ok(vec!["a=f(b, c)", "\"x,y\" = 'p,q'", "z=ARRAY[1,2]"])
        );
        assert_eq!(parts("a,"), Ok(vec!["a", ""]));
        assert_eq!(parts("(a,b"), Err(ExpressionError::Unmatched));
    }
}
