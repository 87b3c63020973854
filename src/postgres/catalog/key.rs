//! Chooses the key that a table is copied along, and says what can be relied on: that equal values look alike, that both
//! sides order them alike.

use super::columns::{Attribute, FIRST_UNPINNED_OID, UniqueIndex};
use super::pairing::Pair;
use super::structure::Structure;
use super::table::Relation;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{EnumLabel, KeyColumn, OnConflict, TableName};

/// The primary key, or else the unique index of fewest columns that orders not-null columns.
pub(super) fn choose(source: &Relation, target: &Relation) -> Result<Vec<KeyColumn>> {
    let Some(index) = chosen(source) else {
        return Err(no_key(source));
    };
    let columns = index.columns.iter().filter_map(|name| source.column(name));
    let mut key: Vec<_> = columns
        .map(|column| {
            let counterpart = target.column(&column.name);
            let type_name = literal_type(column);
            KeyColumn {
                name: column.name.clone(),
                target_type: counterpart.map(literal_type).filter(|name| *name != type_name),
                type_name,
                collation: column.collation.as_ref().map(|collation| collation.name.clone()),
                collation_definition: column
                    .collation
                    .as_ref()
                    .and_then(|collation| collation.definition.clone()),
                is_exact: is_exact(column) && counterpart.is_some_and(is_exact),
                is_coarser_on_target: tells_apart(column)
                    && counterpart.is_some_and(|there| there.collation.is_some() && !tells_apart(there)),
                source_order: None,
                target_order: None,
            }
        })
        .collect();
    // Any of them may decide what is the same row.
    if target
        .unique_indexes_on(&key)
        .any(|index| !index.is_deterministic)
    {
        for column in &mut key {
            column.is_exact = false;
            column.is_coarser_on_target |= source.column(&column.name).is_some_and(tells_apart);
        }
    }
    Ok(key)
}

/// The first index that serves: the primary key is the first, then those of fewest columns.
fn chosen(source: &Relation) -> Option<&UniqueIndex> {
    let never_null = |name: &String| source.column(name).is_some_and(|column| column.never_null);
    let serves = |index: &&UniqueIndex| index.is_ordered && index.columns.iter().all(never_null);
    source.indexes.iter().find(serves)
}

/// Why this is the key, in words.
pub(super) fn reason(source: &Relation, key: &[KeyColumn]) -> String {
    let has_primary = source.indexes.iter().any(|index| index.is_primary);
    let others = source.indexes.len().saturating_sub(1);
    match chosen(source) {
        Some(index) if index.is_primary => "it is the primary key".to_owned(),
        _ if has_primary => {
            "a unique index over not-null columns; the primary key does not serve (it is not a plain ascending btree)".to_owned()
        }
        _ if others > 0 => format!(
            "the table has no primary key; of its unique indexes over not-null columns this has the fewest columns ({})",
            key.len()
        ),
        _ => "the table has no primary key; this is its unique index over not-null columns".to_owned(),
    }
}

/// Whether the column has a collation by which only equal bytes are equal.
fn tells_apart(column: &Attribute) -> bool {
    column
        .collation
        .as_ref()
        .is_some_and(|collation| collation.is_deterministic)
}

/// Refuses to write over, or pass by, a row of the target that has another key on the source.
pub(super) fn check_coarser(target: &TableName, key: &[KeyColumn]) -> Result<()> {
    let Some(column) = key.iter().find(|column| column.is_coarser_on_target) else {
        return Ok(());
    };
    let words = format!(
        "key column \"{}\" of target table {target} has a nondeterministic collation, by which keys are equal that are two on the \
         source",
        column.name
    );
    Err(Error::new(Side::Target, Kind::Unsupported, words)
        .hinted("give the target's column, and its unique index, the collation of the source"))
}

/// Rows that are there already are found by their key, and so by an index.
pub(super) fn check_unique(target: &Relation, key: &[KeyColumn], on_conflict: OnConflict) -> Result<()> {
    if on_conflict != OnConflict::Error {
        check_coarser(&target.name, key)?;
    }
    if on_conflict == OnConflict::Error || target.unique_indexes_on(key).next().is_some() {
        return Ok(());
    }
    let names: Vec<_> = key.iter().map(|column| column.name.as_str()).collect();
    let words = format!(
        "target table {} has no unique index on exactly {}",
        target.name,
        names.join(", ")
    );
    Err(Error::new(Side::Target, Kind::Unsupported, words)
        .hinted("add that index to the target table: it is how --on-conflict finds the row"))
}

/// The type that a literal is cast to: under a domain the domain's base, so that no check of a domain runs in a comparison.
pub(super) fn literal_type(column: &Attribute) -> String {
    let mut structure = &column.structure;
    while let Structure::Domain(base) = structure {
        structure = base;
    }
    match (structure, &column.structure) {
        (Structure::Base { shown, .. }, Structure::Domain(_)) => shown.clone(),
        _ => column.castable.clone(),
    }
}

fn no_key(table: &Relation) -> Error {
    let error = Error::new(
        Side::Source,
        Kind::NoKey,
        format!(
            "source table {} has no key to copy along: no unique index orders not-null columns",
            table.name
        ),
    );
    let Some(index) = table.indexes.first() else {
        return error;
    };
    let which = if index.is_primary {
        "primary key"
    } else {
        "unique index"
    };
    error.hinted(format!(
        "the {which} on ({}) does not serve: it must be an ascending btree over not-null columns, with their own \
         collation and default operator class",
        index.columns.join(", ")
    ))
}

/// The key's columns must be among those that are written.
pub(super) fn check_on_target(target: &Relation, pairs: &[Pair<'_>], key: &[KeyColumn]) -> Result<()> {
    let Some(missing) = key
        .iter()
        .find(|key| pairs.iter().all(|pair| pair.column.name != key.name))
    else {
        return Ok(());
    };
    Err(Error::new(
        Side::Target,
        Kind::Unsupported,
        format!(
            "key column \"{}\" is generated on target table {}",
            missing.name, target.name
        ),
    )
    .hinted("make it an ordinary column on the target: its values come from the source"))
}

/// Whether equal values have one spelling. Not so for numeric (1 and 1.00), float (0 and -0), char (padded), interval
/// (1 day and 24 hours), types of extensions, and text that is compared by more than its bytes.
fn is_exact(column: &Attribute) -> bool {
    let is_deterministic = column
        .collation
        .as_ref()
        .is_none_or(|collation| collation.is_deterministic);
    is_deterministic
        && matches!(
            column.structure.base_oid(),
            // bool, bytea, "char", name, int8, int2, int4, text, oid, cidr, macaddr8, macaddr, inet, varchar, date, time,
            // timestamp, timestamptz, timetz, uuid
            Some(
                16 | 17
                    | 18
                    | 19
                    | 20
                    | 21
                    | 23
                    | 25
                    | 26
                    | 650
                    | 774
                    | 829
                    | 869
                    | 1043
                    | 1082
                    | 1083
                    | 1114
                    | 1184
                    | 1266
                    | 2950
            )
        )
}

/// Whether both sides order the key's values alike, given whether both store text in the same encoding.
pub(super) fn same_order(
    source: &Relation,
    target: &Relation,
    key: &[KeyColumn],
    same_encoding: bool,
) -> bool {
    key.iter()
        .all(|key| match (source.column(&key.name), target.column(&key.name)) {
            (Some(from), Some(to)) => same_order_of(from, to, same_encoding),
            _ => false,
        })
}

fn same_order_of(from: &Attribute, to: &Attribute, same_encoding: bool) -> bool {
    let collated = match (&from.collation, &to.collation) {
        (None, None) => false,
        (Some(one), Some(other)) if one.is_bytewise && other.is_bytewise && same_encoding => true,
        _ => return false,
    };
    same_structure_order(&from.structure, &to.structure, collated)
}

fn same_structure_order(from: &Structure, to: &Structure, collated: bool) -> bool {
    match (from, to) {
        // A collation tells nothing of how an extension's type uses it.
        (Structure::Base { oid, .. }, Structure::Base { .. }) => *oid < FIRST_UNPINNED_OID || !collated,
        (Structure::Array(from), Structure::Array(to)) | (Structure::Domain(from), Structure::Domain(to)) => {
            same_structure_order(from, to, collated)
        }
        (Structure::Enum(from), Structure::Enum(to)) => {
            let names =
                |labels: &[EnumLabel]| -> Vec<_> { labels.iter().map(|label| label.name.clone()).collect() };
            names(from) == names(to)
        }
        // Their parts have collations of their own.
        _ => false,
    }
}
