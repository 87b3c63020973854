//! Which rows and columns of a table are copied, and as what: what the operator said of it. All of it, as it is, where nothing
//! was said.

use super::expression::{Expression, ExpressionError, parts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is copied of a table, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Shape {
    /// The source's columns that are copied; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<ColumnNames>,
    /// Which rows are copied; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Expression>,
    /// Columns of the source whose values go into a column of another name.
    #[serde(default, skip_serializing_if = "Renames::is_empty")]
    pub renames: Renames,
    /// Columns of the target that take an expression's value.
    #[serde(default, skip_serializing_if = "Selections::is_empty")]
    pub selections: Selections,
}

/// Names of columns, in the order in which they were given, each once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ColumnNames(pub Vec<String>);

/// The target's names of columns, by the source's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Renames(pub BTreeMap<String, String>);

/// Expressions, by the target's column that takes the value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selections(pub BTreeMap<String, Expression>);

/// Why a text says nothing of a table's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// No name, or more than one.
    #[error("`{0}` is not the name of a column (quoted as in SQL where it has to be)")]
    Name(String),
    /// A name that comes twice.
    #[error("column {0} is named twice")]
    Twice(String),
    /// No `=`.
    #[error("`{0}` has no `=`: it is {1}")]
    NoEquals(String, &'static str),
    /// No expression.
    #[error("{column}: {error}")]
    Expression {
        /// The column that would have taken its value.
        column: String,
        /// What is wrong.
        error: ExpressionError,
    },
    /// No list.
    #[error(transparent)]
    List(#[from] ExpressionError),
}

impl Shape {
    /// Whether all of the table is copied, as it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether SQL of the operator's is in it.
    #[must_use]
    pub fn has_expressions(&self) -> bool {
        self.filter.is_some() || !self.selections.0.is_empty()
    }

    /// The target's name of a column of the source.
    #[must_use]
    pub fn name_on_target<'a>(&'a self, column: &'a str) -> &'a str {
        self.renames.0.get(column).map_or(column, String::as_str)
    }

    /// What was said, for people: a text for each thing, by the name of its setting.
    #[must_use]
    pub fn shown(&self) -> [(&'static str, String); 4] {
        let all = |text: Option<String>| text.unwrap_or_else(|| "all of them".to_owned());
        let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        [
            (
                "choice of columns",
                all(self.columns.as_ref().map(ToString::to_string)),
            ),
            (
                "choice of rows",
                all(self.filter.as_ref().map(ToString::to_string)),
            ),
            ("renamed columns", none(self.renames.to_string())),
            ("selected expressions", none(self.selections.to_string())),
        ]
    }
}

impl Renames {
    /// Whether each column keeps its name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Selections {
    /// Whether no column takes an expression's value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One name as SQL reads it: folded, or between quotes.
fn name(text: &str) -> Result<String, ShapeError> {
    let refused = || ShapeError::Name(text.to_owned());
    let parsed: super::TableName = text.parse().map_err(|_| refused())?;
    match parsed.schema {
        None => Ok(parsed.name),
        Some(_) => Err(refused()),
    }
}

/// A name as SQL would take it back.
fn shown(name: &str) -> String {
    super::TableName {
        schema: None,
        name: name.to_owned(),
    }
    .to_string()
}

/// Both sides of the first `=` that stands in no quotes.
fn sides<'a>(part: &'a str, form: &'static str) -> Result<(&'a str, &'a str), ShapeError> {
    let mut in_quotes = false;
    let at = part.find(|c| {
        in_quotes ^= c == '"';
        c == '=' && !in_quotes
    });
    let at = at.ok_or_else(|| ShapeError::NoEquals(part.to_owned(), form))?;
    Ok((part[..at].trim(), part[at + 1..].trim()))
}

impl std::str::FromStr for ColumnNames {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let mut names = Vec::new();
        for part in parts(text)? {
            let name = name(part)?;
            if names.contains(&name) {
                return Err(ShapeError::Twice(shown(&name)));
            }
            names.push(name);
        }
        Ok(Self(names))
    }
}

impl std::str::FromStr for Renames {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let mut renames = BTreeMap::new();
        for part in parts(text)? {
            let (from, to) = sides(part, "SOURCE_COLUMN=TARGET_COLUMN")?;
            let (from, to) = (name(from)?, name(to)?);
            if renames.values().any(|taken| *taken == to) {
                return Err(ShapeError::Twice(shown(&to)));
            }
            if renames.insert(from.clone(), to).is_some() {
                return Err(ShapeError::Twice(shown(&from)));
            }
        }
        Ok(Self(renames))
    }
}

impl std::str::FromStr for Selections {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let mut selections = BTreeMap::new();
        for part in parts(text)? {
            let (to, sql) = sides(part, "TARGET_COLUMN=SQL")?;
            let column = name(to)?;
            let expression = sql.parse().map_err(|error| ShapeError::Expression {
                column: shown(&column),
                error,
            })?;
            if selections.insert(column.clone(), expression).is_some() {
                return Err(ShapeError::Twice(shown(&column)));
            }
        }
        Ok(Self(selections))
    }
}

impl std::fmt::Display for ColumnNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.iter().map(|name| shown(name)).collect();
        f.pad(&names.join(", "))
    }
}

impl std::fmt::Display for Renames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self.0.iter();
        let pairs: Vec<_> = pairs
            .map(|(from, to)| format!("{}={}", shown(from), shown(to)))
            .collect();
        f.pad(&pairs.join(", "))
    }
}

impl std::fmt::Display for Selections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self.0.iter();
        let pairs: Vec<_> = pairs.map(|(to, sql)| format!("{}={sql}", shown(to))).collect();
        f.pad(&pairs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_back_as_it_is_shown() {
        let columns: ColumnNames = "Id, \"E,Mail\" ,größe".parse().expect("names");
        assert_eq!(columns.0, ["id", "E,Mail", "größe"]);
        assert_eq!(columns.to_string(), "id, \"E,Mail\", größe");
        let renames: Renames = "a=B,\"x=y\" = z".parse().expect("renames");
        assert_eq!(renames.to_string(), "a=b, \"x=y\"=z");
        let selections: Selections = "email=md5(email || ',') , n = CASE WHEN a = b THEN 1 END"
            .parse()
            .expect("selections");
        assert_eq!(
            selections.to_string(),
            "email=md5(email || ','), n=CASE WHEN a = b THEN 1 END"
        );
        assert_eq!(renames.to_string().parse(), Ok(renames));
        assert_eq!(selections.to_string().parse(), Ok(selections));
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for text in ["", "a,", "a.b", "a,a", "a b\"", "a;b"] {
            assert!(text.parse::<ColumnNames>().is_err(), "{text}");
        }
        for text in ["a", "a=", "=b", "a=b,a=c", "a=c,b=c"] {
            assert!(text.parse::<Renames>().is_err(), "{text}");
        }
        for text in ["a", "a=", "=b", "a=1,A=2", "a=now()", "a=(1"] {
            assert!(text.parse::<Selections>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_table_that_is_copied_whole_leaves_no_trace_in_what_is_kept() {
        let whole = Shape::default();
        assert!(whole.is_whole());
        assert_eq!(serde_json::to_string(&whole).expect("plain data"), "{}");
        let shape = Shape {
            filter: Some("a > 1".parse().expect("an expression")),
            ..Shape::default()
        };
        assert!(!shape.is_whole());
        let json = serde_json::to_string(&shape).expect("plain data");
        assert_eq!(json, r#"{"filter":"a > 1"}"#);
        assert_eq!(serde_json::from_str::<Shape>(&json).expect("itself"), shape);
    }
}
