//! What a table is copied along: what the operator says of it, and what vouches for it.

use super::TableName;
use super::name::{part, split};
use serde::{Deserialize, Serialize};

/// What the operator says of the key; nothing mostly: then the table's own primary key or unique index is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyChoice {
    /// The columns of the key, where they are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<KeyNames>,
    /// Whether nobody writes to the source: then a table without a key is copied in the order in which its rows lie.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source_is_quiet: bool,
    /// Up to how many bytes a table without a key is copied within one snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_below_bytes: Option<u64>,
}

impl KeyChoice {
    /// Whether nothing is said: such a job is journaled as before there was a choice.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

/// Names of columns as the operator writes them: `a,b`, with `"quoted parts"` as in SQL. At least one, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyNames(pub Vec<String>);

/// Why a text is no list of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyNamesError {
    /// A name is missing, or its quotes do not match.
    #[error(
        "it must be names of columns between commas, quoted as in SQL where they have to be: id, or tenant,\"No\""
    )]
    NoNames,
    /// A column is named twice.
    #[error("it names column {0} twice")]
    Twice(String),
}

impl std::str::FromStr for KeyNames {
    type Err = KeyNamesError;

    fn from_str(text: &str) -> Result<Self, KeyNamesError> {
        let mut is_quoted = false;
        let bare: String = text
            .chars()
            .filter(|c| {
                is_quoted ^= *c == '"';
                is_quoted || !c.is_ascii_whitespace()
            })
            .collect();
        let names = split(&bare, ',').ok_or(KeyNamesError::NoNames)?;
        if names.iter().any(String::is_empty) {
            return Err(KeyNamesError::NoNames);
        }
        for (number, name) in names.iter().enumerate() {
            if names[..number].contains(name) {
                return Err(KeyNamesError::Twice(part(name)));
            }
        }
        Ok(Self(names))
    }
}

impl std::fmt::Display for KeyNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|name| part(name)).collect();
        f.write_str(&parts.join(","))
    }
}

/// What vouches for the key: that each row has one, and that no two have the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyBasis {
    /// A unique index of the source over columns that are never null.
    #[default]
    Index,
    /// The rows themselves, which are asked when the job begins and again when it ends.
    Rows {
        /// The columns of the key that can be null.
        nullable: Vec<String>,
        /// Whether no index keeps the key's values apart.
        #[serde(default)]
        repeatable: bool,
    },
    /// None: rows are told apart by where they lie, block after block, table after table. They must not move meanwhile.
    Places {
        /// The tables that hold the rows, in the order of their numbers: the table itself, or its partitions.
        leaves: Vec<Leaf>,
        /// Whether each place is named, since the server cannot go over a range of them: before version 14.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_place: bool,
        /// Whether all of them are read in one snapshot, so that whoever writes to them does no harm.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_snapshot: bool,
    },
}

/// A table that holds rows of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its number.
    pub oid: u32,
    /// Its name, with its schema.
    pub table: TableName,
}

/// Since when nobody may have written to a source: the first transaction, with its epoch, that was not over when it was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillSince {
    /// Its number.
    pub transaction: u64,
}

impl KeyBasis {
    /// Whether the catalog vouches for all of it.
    #[must_use]
    pub fn is_index(&self) -> bool {
        *self == Self::Index
    }

    /// The columns of the key that can be null.
    #[must_use]
    pub fn nullable(&self) -> &[String] {
        match self {
            Self::Rows { nullable, .. } => nullable,
            Self::Index | Self::Places { .. } => &[],
        }
    }

    /// Whether rows are told apart by where they lie.
    #[must_use]
    pub fn is_places(&self) -> bool {
        matches!(self, Self::Places { .. })
    }

    /// Whether all of the rows are read in one snapshot.
    #[must_use]
    pub fn is_in_snapshot(&self) -> bool {
        matches!(
            self,
            Self::Places {
                in_snapshot: true,
                ..
            }
        )
    }
}

/// The snapshot in which the rows of a table are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeld {
    /// What the source calls it.
    pub name: String,
    /// Whether all of its rows were copied, so that nobody needs it any more.
    #[serde(default)]
    pub is_over: bool,
}

/// What the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// An ordinary table or a partitioned one.
    #[default]
    Table,
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable,
}

impl SourceKind {
    /// Whether it is a table of its own.
    #[must_use]
    pub fn is_table(&self) -> bool {
        *self == Self::Table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_folded_and_quoted_as_in_sql() {
        for (typed, names, shown) in [
            ("id", vec!["id"], "id"),
            ("Tenant, ID", vec!["tenant", "id"], "tenant,id"),
            ("\"No\",\"a\"\"b\"", vec!["No", "a\"b"], "\"No\",\"a\"\"b\""),
            ("größe", vec!["größe"], "größe"),
            ("\"a, b\" , c", vec!["a, b", "c"], "\"a, b\",c"),
        ] {
            let parsed: KeyNames = typed.parse().expect(typed);
            assert_eq!(parsed.0, names);
            assert_eq!(parsed.to_string(), shown);
        }
        for typed in ["", ",", "a,", "a,,b", "\"a", "a\"b", "a,A"] {
            assert!(typed.parse::<KeyNames>().is_err(), "{typed}");
        }
    }

    #[test]
    fn a_job_that_says_nothing_of_its_key_is_written_as_before_there_was_a_choice() {
        assert!(KeyChoice::default().is_free());
        assert_eq!(
            serde_json::to_string(&KeyChoice::default()).expect("plain data"),
            "{}"
        );
    }
}
