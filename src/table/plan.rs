//! What was asked for, and what was learnt about a table before its first row moved: the plan that every batch follows.
//!
//! A plan is pure data. It is made from both catalogs, kept in the ledger, and named by its digest: a batch that runs
//! tomorrow reads and writes the very columns that today's did, or finds that it cannot.

use super::{CollationDefinition, Expression, KeyBasis, KeyChoice, Shape, SourceKind, TableName};
use serde::{Deserialize, Serialize};

/// At most so many labels of an enum are shown.
const LABELS_SHOWN: usize = 20;

/// One table's copy as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// The job's name in the ledger.
    pub job: String,
    /// The table on the source, its schema optional.
    pub source_table: TableName,
    /// The table on the target, its schema optional.
    pub target_table: TableName,
    /// What happens to a row whose key is on the target already.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Whether triggers of the target may fire, and so change or drop what is copied.
    #[serde(default)]
    pub fire_triggers: bool,
    /// A role that the ledger may belong to, besides the user itself and superusers: what it owns runs with our rights.
    #[serde(default)]
    pub ledger_owner: Option<String>,
    /// Which rows and columns are copied, and as what.
    #[serde(default, skip_serializing_if = "Shape::is_whole")]
    pub shape: Shape,
    /// What is said of the key.
    #[serde(default, skip_serializing_if = "KeyChoice::is_free")]
    pub key: KeyChoice,
}

/// One table's copy, decided: what is read, what is written, along which key, in which form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The table on the source, with its schema.
    pub source: TableName,
    /// The table on the target, with its schema.
    pub target: TableName,
    /// Which database the source is, as the ledger keeps it.
    pub source_identity: DatabaseIdentity,
    /// How both tables were when the plan was made.
    pub digest: PlanDigest,
    /// Which files the source table is in: others after a rewrite, a TRUNCATE, or where the table was made anew.
    pub source_files: String,
    /// Which files the target table is in. Of an unlogged table also since when its server runs: a crash empties it.
    pub target_files: String,
    /// The columns that are copied, in the source's order; those that only an expression fills come last.
    pub columns: Vec<Column>,
    /// Which rows of the source are copied; `None`: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Expression>,
    /// The columns of the key that the batches follow, in the key's order.
    pub key: Vec<KeyColumn>,
    /// What vouches for that key.
    #[serde(default, skip_serializing_if = "KeyBasis::is_index")]
    pub key_basis: KeyBasis,
    /// What the source is.
    #[serde(default, skip_serializing_if = "SourceKind::is_table")]
    pub source_kind: SourceKind,
    /// The form in which rows travel.
    pub format: CopyFormat,
    /// What happens to a row whose key is on the target already.
    pub on_conflict: OnConflict,
    /// Whether the target has a unique index on exactly the key's columns.
    pub target_key_is_unique: bool,
    /// Whether both sides order the key's values alike: true of keys without a collation, and of bytewise ones.
    pub same_order: bool,
    /// Whether the source is a partitioned table (else only the table itself is read, not what inherits from it).
    pub source_is_partitioned: bool,
    /// Whether the target is a partitioned table (else only the table itself is looked at, not what inherits from it).
    #[serde(default)]
    pub target_is_partitioned: bool,
    /// Whether the source is a standby: it cannot tell who is writing.
    pub source_is_standby: bool,
    /// Whether triggers of the target may keep rows out, so that what it took is counted before the commit.
    pub target_fires_triggers: bool,
    /// Whether new rows can be found by their keys.
    pub growth: Growth,
    /// Rows on the source by its statistics, if it has any.
    pub rows_estimate: Option<u64>,
    /// Bytes of the source table on disk, without its indexes and out-of-line values.
    pub bytes_estimate: Option<u64>,
    /// What the operator should know before the first row moves; empty mostly.
    pub warnings: Vec<String>,
}

/// How both tables were when the plan was made, one digest a side: the table and its files, columns, unique indexes,
/// partitions, triggers, rules, and the structure behind every type of a user. Where it is another, look again. What is read of
/// them belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PlanDigest {
    /// Of the table on the source.
    pub source: String,
    /// Of the table on the target.
    pub target: String,
    /// Of the rows and values that are read, where they are not the columns as they are, of all rows; else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shape: String,
}

/// Whether keys grow by themselves, so that a new row's key lies above those that are settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// One column, filled by a sequence, an identity or the server's clock.
    Grows,
    /// Anything else; why, in words.
    Unknown(String),
}

/// A column that is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name on the target.
    pub name: String,
    /// Its name on the source, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
    /// What is read in its place on the source; `None`: its value, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_as: Option<ReadAs>,
    /// Its type on the source as SQL spells it, for people; of an expression its own.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What is behind that name on the source, down to built-in types, without lengths that may grow: values that were
    /// copied under one structure are right under an equal one.
    pub structure: String,
    /// Its number in the source table: another one is another column, though it may have the name; 0 where it was not kept, and
    /// of an expression.
    #[serde(default)]
    pub source_number: i16,
    /// Its number in the target table.
    #[serde(default)]
    pub target_number: i16,
    /// The enums behind its type on the source, in the order of its structure; empty where they were not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_enums: Vec<Vec<EnumLabel>>,
    /// Those on the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_enums: Vec<Vec<EnumLabel>>,
}

/// What is read on the source for a column, where it is not the column as it is. The checksum is of what is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadAs {
    /// Its value, cast to this type, which takes each value of its own type. As SQL spells it.
    Cast(String),
    /// The value of an expression of the operator's.
    Expression(Expression),
}

/// A label of an enum. Labels stand in the enum's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnumLabel {
    /// What rows hold in its place.
    pub oid: u32,
    /// How it is spelt.
    pub name: String,
}

/// Whether labels were added at most: each is still there, spelt as it was, in the same order.
fn are_kept(earlier: &[EnumLabel], now: &[EnumLabel]) -> bool {
    let mut left = now.iter();
    let in_order = earlier.iter().all(|label| left.any(|one| one.name == label.name));
    let renamed = |label: &EnumLabel| {
        now.iter()
            .any(|one| one.oid == label.oid && one.name != label.name)
    };
    in_order && !earlier.iter().any(renamed)
}

/// The labels of an enum, for people.
fn labels_shown(labels: &[EnumLabel]) -> String {
    let names: Vec<_> = labels
        .iter()
        .map(|label| label.name.as_str())
        .take(LABELS_SHOWN)
        .collect();
    let more = if labels.len() > LABELS_SHOWN { ", .." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name on the source.
    pub name: String,
    /// Its name on the target, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
    /// Its type on the source, quoted and qualified so that a literal can be cast to it under any search path.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its type on the target, in the same way; `None` where it is spelt as on the source.
    #[serde(default)]
    pub target_type: Option<String>,
    /// Its collation on the source, quoted and qualified; `None` where its type has no collation.
    pub collation: Option<String>,
    /// What that collation was when the plan was made; `None` where it was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_definition: Option<CollationDefinition>,
    /// Whether equal values have one spelling: not so for numeric (1 and 1.00), citext, nondeterministic collations.
    pub is_exact: bool,
    /// Whether the target takes values for equal that the source tells apart: by a nondeterministic collation.
    #[serde(default)]
    pub is_coarser_on_target: bool,
    /// How the source compares its values; `None` where PostgreSQL's own operators do.
    #[serde(default)]
    pub source_order: Option<Order>,
    /// How the target does.
    #[serde(default)]
    pub target_order: Option<Order>,
}

impl KeyColumn {
    /// Its name on the target.
    #[must_use]
    pub fn name_on_target(&self) -> &str {
        self.target_name.as_deref().unwrap_or(&self.name)
    }
}

/// How values of an extension's type are compared: by the operators behind the type's indexes, and by no other of their name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The type that the operators compare, quoted and qualified: values are cast to it, so that nothing fits them better.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The operators in the order of a btree's strategies, `<`, `<=`, `=`, `>=`, `>`, each as `OPERATOR(schema.name)`.
    pub operators: [String; 5],
}

/// The form in which rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    /// PostgreSQL's binary COPY format: for built-in types, the same on both sides.
    Binary,
    /// PostgreSQL's text COPY format: for every type.
    Text,
}

/// What happens to a row whose key is on the target already, and was not put there by this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The job fails.
    #[default]
    Error,
    /// The target's row stays.
    Skip,
    /// The target's row gets the source's values.
    Update,
}

/// Which database one is, whatever address leads there: what must be the same when a job is taken up again.
///
/// A standby that was promoted is the same database; one that was filled from a dump is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// The cluster's system identifier; `None` where the server does not tell it.
    pub system_identifier: Option<String>,
    /// The database's name.
    pub database: String,
}

impl DatabaseIdentity {
    /// Whether both are one database; `None` where that cannot be told, since a server keeps its identifier to itself.
    #[must_use]
    pub fn is(&self, other: &Self) -> Option<bool> {
        if self.database != other.database {
            return Some(false);
        }
        let systems = self
            .system_identifier
            .as_ref()
            .zip(other.system_identifier.as_ref());
        systems.map(|(one, two)| one == two)
    }
}

impl std::fmt::Display for DatabaseIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let system = self.system_identifier.as_deref().unwrap_or("?");
        write!(f, "database {} of cluster {system}", self.database)
    }
}

/// The number of the table whose files these are: the least, since a table is older than its partitions.
fn table_of(files: &str) -> &str {
    let first = files.split(' ').next().unwrap_or_default();
    first
        .trim_start_matches('(')
        .split(',')
        .next()
        .unwrap_or_default()
}

impl CopyFormat {
    /// As SQL spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }
}

impl Column {
    /// Its name on the source; of an expression the name of the column that takes its value.
    #[must_use]
    pub fn name_on_source(&self) -> &str {
        self.source_name.as_deref().unwrap_or(&self.name)
    }

    /// What is read for it, in words; `None` where it is the column of its name, as it is.
    #[must_use]
    pub fn reading_shown(&self) -> Option<String> {
        match (&self.read_as, &self.source_name) {
            (Some(ReadAs::Expression(sql)), _) => Some(format!("the expression {sql}")),
            (Some(ReadAs::Cast(to)), _) => Some(format!("column \"{}\" as {to}", self.name_on_source())),
            (None, Some(name)) => Some(format!("column \"{name}\"")),
            (None, None) => None,
        }
    }

    /// What became of what is read for it, in words: rows that were copied have what was read before.
    fn reading_changed_from(&self, earlier: &Self) -> Option<String> {
        if (&self.read_as, &self.source_name) == (&earlier.read_as, &earlier.source_name) {
            return None;
        }
        let shown = |column: &Self| column.reading_shown().unwrap_or_else(|| "itself".to_owned());
        Some(format!(
            "column \"{}\" was filled with {} and is with {}",
            self.name,
            shown(earlier),
            shown(self)
        ))
    }

    /// What became of the labels of its enums, in words: rows that were copied have those of before.
    fn labels_changed_from(&self, earlier: &Self) -> Option<String> {
        let sides = [
            ("source", &earlier.source_enums, &self.source_enums),
            ("target", &earlier.target_enums, &self.target_enums),
        ];
        sides.into_iter().find_map(|(side, before, now)| {
            let (before, now) = before.iter().zip(now).find(|(before, now)| !are_kept(before, now))?;
            Some(format!(
                "an enum of column \"{}\" on the {side} had the labels {} and has {}: labels were renamed, exchanged or made anew",
                self.name,
                labels_shown(before),
                labels_shown(now)
            ))
        })
    }
}

impl Plan {
    /// Whether SQL of the operator's is read on the source.
    #[must_use]
    pub fn has_expressions(&self) -> bool {
        let is_one = |column: &Column| matches!(column.read_as, Some(ReadAs::Expression(_)));
        self.filter.is_some() || self.columns.iter().any(is_one)
    }

    /// What [`PlanDigest::shape`] is made of: nothing where all rows are copied as they are.
    #[must_use]
    pub fn shape_shown(&self) -> String {
        let mut shown: Vec<_> = self
            .columns
            .iter()
            .filter_map(|column| Some(format!("{:?} {:?}", column.name, column.reading_shown()?)))
            .collect();
        shown.extend(
            self.filter
                .iter()
                .map(|filter| format!("where {:?}", filter.sql())),
        );
        shown.join(", ")
    }

    /// Whether the source's clock fills the key.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        let is_time = |key: &KeyColumn| key.type_name.starts_with("timestamp");
        self.growth == Growth::Grows && matches!(self.key.as_slice(), [key] if is_time(key))
    }

    /// What became of the rows that were copied by `earlier`, in words: empty where they are still right under this plan.
    ///
    /// They are where the same columns of the same source table are copied, each of the same structure, along the same key.
    #[must_use]
    pub fn differences_from(&self, earlier: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for column in &earlier.columns {
            match self.columns.iter().find(|now| now.name == column.name) {
                None => found.push(format!("column \"{}\" is not copied any more", column.name)),
                Some(now) if now.structure != column.structure => found.push(format!(
                    "column \"{}\" was {} and is {}",
                    column.name, column.type_name, now.type_name
                )),
                Some(now) => {
                    for (side, before, number) in [
                        ("source", column.source_number, now.source_number),
                        ("target", column.target_number, now.target_number),
                    ] {
                        if before != number && before != 0 {
                            found.push(format!(
                                "column \"{}\" of the {side} is another one under that name",
                                column.name
                            ));
                        }
                    }
                    found.extend(now.reading_changed_from(column));
                    found.extend(now.labels_changed_from(column));
                }
            }
        }
        if self.filter != earlier.filter {
            let shown = |plan: &Self| match &plan.filter {
                Some(filter) => format!("those where {filter}"),
                None => "all of them".to_owned(),
            };
            found.push(format!(
                "the rows that are copied were {} and are {}",
                shown(earlier),
                shown(self)
            ));
        }
        if table_of(&self.source_files) != table_of(&earlier.source_files) {
            found.push("the source table is another one under that name".to_owned());
        }
        if self.key_basis.is_places()
            && earlier.key_basis.is_places()
            // In a snapshot that is gone the table starts again.
            && !self.key_basis.is_in_snapshot()
            && self.source_files != earlier.source_files
        {
            found.push(
                "the source table was rewritten or emptied, or has other partitions (VACUUM FULL, CLUSTER, TRUNCATE, ALTER \
                 TABLE): its rows lie in other places"
                    .to_owned(),
            );
        }
        for column in &self.columns {
            if earlier.columns.iter().all(|before| before.name != column.name) {
                found.push(format!(
                    "column \"{}\" ({}) is new",
                    column.name, column.type_name
                ));
            }
        }
        for (now, before) in self.key.iter().zip(&earlier.key) {
            if let (Some(is), Some(was)) = (&now.collation_definition, &before.collation_definition)
                && !is.orders_as(was)
            {
                found.push(format!(
                    "the collation of key column \"{}\" was {was} and is {is}: the order of its keys may have changed",
                    now.name
                ));
            }
        }
        if self.key_shown() != earlier.key_shown() {
            found.push(format!(
                "the key was ({}) and is ({})",
                earlier.key_shown(),
                self.key_shown()
            ));
        }
        found
    }

    /// The key's columns, for people.
    #[must_use]
    pub fn key_names(&self) -> String {
        let names: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
        names.join(", ")
    }

    /// The key's columns with their collations, for people.
    #[must_use]
    pub fn key_shown(&self) -> String {
        let shown = self.key.iter().map(|column| match &column.collation {
            Some(collation) => format!("{} collate {collation}", column.name),
            None => column.name.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_may_be_added_anywhere_and_nothing_else() {
        let of = |labels: &[(u32, &str)]| -> Vec<_> {
            let labels = labels.iter();
            labels
                .map(|(oid, name)| EnumLabel {
                    oid: *oid,
                    name: (*name).to_owned(),
                })
                .collect()
        };
        let before = of(&[(1, "a"), (2, "b")]);
        for (now, kept) in [
            (of(&[(1, "a"), (2, "b")]), true),
            (of(&[(3, "z"), (1, "a"), (4, "y"), (2, "b"), (5, "x")]), true),
            (of(&[(7, "a"), (8, "b")]), true),
            (of(&[(1, "z"), (2, "b")]), false),
            (of(&[(1, "b"), (2, "a")]), false),
            (of(&[(3, "a"), (1, "z"), (2, "b")]), false),
            (of(&[(8, "b"), (7, "a")]), false),
            (of(&[(1, "a")]), false),
        ] {
            assert_eq!(are_kept(&before, &now), kept, "{now:?}");
        }
        assert_eq!(labels_shown(&before), "a, b");
    }
}
