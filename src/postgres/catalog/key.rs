//! Chooses the key that a table is copied along.

use super::table::Relation;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{Column, KeyColumn};

pub(super) struct ChosenKey {
    pub columns: Vec<KeyColumn>,
    pub ascends: bool,
    /// Values that one session may take from the first column's sequence ahead of their use.
    pub sequence_cache: i64,
}

/// The primary key, or else the unique index of fewest columns that orders not-null columns.
pub(super) fn choose(table: &Relation) -> Result<ChosenKey> {
    let Some(index) = table.indexes.iter().find(|index| index.is_ordered) else {
        return Err(no_key(table));
    };
    let columns: Vec<_> = index
        .columns
        .iter()
        .filter_map(|name| table.column(name))
        .collect();
    let first = columns.first().ok_or_else(|| no_key(table))?;
    // int2, int4, int8, numeric, timestamp, timestamptz, date
    let ascends = matches!(first.type_oid, 20 | 21 | 23 | 1700 | 1114 | 1184 | 1082);
    let sequence_cache = first.sequence_cache.unwrap_or(1);
    let columns = columns.into_iter().map(|column| KeyColumn {
        name: column.name.clone(),
        type_name: column.castable.clone(),
        collation: column.collation.clone(),
    });
    Ok(ChosenKey {
        columns: columns.collect(),
        ascends,
        sequence_cache,
    })
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
pub(super) fn check_on_target(target: &Relation, columns: &[Column], key: &[KeyColumn]) -> Result<()> {
    let Some(missing) = key
        .iter()
        .find(|key| columns.iter().all(|column| column.name != key.name))
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
