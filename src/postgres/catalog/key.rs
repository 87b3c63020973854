//! Chooses the key that a table is copied along, and says what can be relied on: that equal values look alike, that both
//! sides order them alike.

use super::columns::{Attribute, FIRST_UNPINNED_OID, UniqueIndex};
use super::pairing::Pair;
use super::structure::Structure;
use super::table::{LIKENESS, Relation};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{EnumLabel, KeyBasis, KeyChoice, KeyColumn, KeyNames, Leaf, OnConflict, Shape, TableName};

/// What a table is copied along, and what vouches for it.
pub(super) struct Chosen {
    pub key: Vec<KeyColumn>,
    pub basis: KeyBasis,
    /// Why this key, in words.
    pub reason: String,
}

/// The key that the operator names; else the primary key, or the unique index of fewest columns, those over not-null
/// columns first.
pub(super) fn choose(
    source: &Relation,
    target: &Relation,
    choice: &KeyChoice,
    shape: &Shape,
) -> Result<Chosen> {
    let (columns, basis, reason) = match &choice.columns {
        Some(names) => named(source, names)?,
        None => match found(source, choice) {
            Some(found) => found,
            None if choice.source_is_quiet => return places(source, false),
            None => match choice.snapshot_below_bytes {
                Some(most) if source.kind != 'm' && bytes(source) <= most => return places(source, true),
                most => return Err(no_key(source, most)),
            },
        },
    };
    Ok(Chosen {
        key: columns_of(source, target, shape, &columns),
        basis,
        reason,
    })
}

/// The names of the columns, what vouches for them, and why they are chosen.
type Found = (Vec<String>, KeyBasis, String);

fn found(source: &Relation, choice: &KeyChoice) -> Option<Found> {
    let ordered = || source.indexes.iter().filter(|index| index.is_ordered);
    let proved = ordered().find(|index| nullable(source, &index.columns).is_empty());
    // Where nobody writes, the places of rows are surer than a key that may be null somewhere.
    let any = ordered().next().filter(|_| !choice.source_is_quiet);
    let index = proved.or(any)?;
    Some((
        index.columns.clone(),
        basis_of(source, index),
        reason(source, index),
    ))
}

/// The first version that goes over a range of places without reading the rest of the table.
const RANGES_OF_PLACES: u32 = 140_000;

fn bytes(source: &Relation) -> u64 {
    source.leaves.iter().map(|leaf| leaf.bytes).sum()
}

/// Rows are told apart by where they lie.
fn places(source: &Relation, in_snapshot: bool) -> Result<Chosen> {
    if let Some(leaf) = source.leaves.iter().find(|leaf| !leaf.is_heap) {
        let words = format!(
            "source table {} has no key, and the rows of {} are not kept in PostgreSQL's own way: nobody can tell where one lies",
            source.name, leaf.table
        );
        return Err(Error::new(Side::Source, Kind::NoKey, words));
    }
    let column = |name: &str, type_name: &str| KeyColumn {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        target_type: None,
        collation: None,
        collation_definition: None,
        is_exact: true,
        is_coarser_on_target: false,
        source_order: None,
        target_order: None,
    };
    let mut key = vec![column("ctid", "pg_catalog.tid")];
    if source.kind == 'p' {
        key.insert(0, column("tableoid", "pg_catalog.oid"));
    }
    let leaves = source.leaves.iter().map(|leaf| Leaf {
        oid: leaf.oid,
        table: leaf.table.clone(),
    });
    Ok(Chosen {
        key,
        basis: KeyBasis::Places {
            leaves: leaves.collect(),
            by_place: source.server_version < RANGES_OF_PLACES,
            in_snapshot,
        },
        reason: match in_snapshot {
            false => "the table has no key: its rows are gone over where they lie (--source-is-quiet)",
            true => "the table has no key: its rows are gone over where they lie, all in one snapshot (--snapshot-below)",
        }
        .to_owned(),
    })
}

fn named(source: &Relation, names: &KeyNames) -> Result<Found> {
    for name in &names.0 {
        if source.column(name).is_none() {
            return Err(unknown_column(source, name));
        }
    }
    let on_these = |index: &&UniqueIndex| {
        index.is_ordered
            && index.columns.len() == names.0.len()
            && names.0.iter().all(|name| index.columns.contains(name))
    };
    let mut serving: Vec<_> = source.indexes.iter().filter(on_these).collect();
    // That of the order in which they are named, where there are several.
    serving.sort_by_key(|index| index.columns != names.0);
    if let Some(index) = serving.first() {
        let reason = format!("named by --key{}", asked_words(source, &index.columns, false));
        return Ok((index.columns.clone(), basis_of(source, index), reason));
    }
    if source.source_kind().is_table() {
        return Err(no_such_key(source, names));
    }
    let basis = KeyBasis::Rows {
        nullable: nullable(source, &names.0),
        repeatable: true,
    };
    let reason = format!("named by --key{}", asked_words(source, &names.0, true));
    Ok((names.0.clone(), basis, reason))
}

/// What has to be asked of the rows, in words that follow a reason.
fn asked_words(source: &Relation, columns: &[String], repeatable: bool) -> String {
    let asked = match (nullable(source, columns).as_slice(), repeatable) {
        ([], false) => return String::new(),
        (nullable, false) => format!("no row may have a null in {}", nullable.join(", ")),
        ([], true) => "no two rows may have the same".to_owned(),
        (nullable, true) => format!(
            "no two rows may have the same, and none a null in {}",
            nullable.join(", ")
        ),
    };
    format!("; {asked}, which is asked when the job begins and when it ends")
}

fn nullable(source: &Relation, columns: &[String]) -> Vec<String> {
    let can_be_null = |name: &&String| source.column(name).is_none_or(|column| !column.never_null);
    columns.iter().filter(can_be_null).cloned().collect()
}

fn basis_of(source: &Relation, index: &UniqueIndex) -> KeyBasis {
    match nullable(source, &index.columns) {
        nullable if nullable.is_empty() => KeyBasis::Index,
        nullable => KeyBasis::Rows {
            nullable,
            repeatable: false,
        },
    }
}

fn columns_of(source: &Relation, target: &Relation, shape: &Shape, names: &[String]) -> Vec<KeyColumn> {
    let columns = names.iter().filter_map(|name| source.column(name));
    let mut key: Vec<_> = columns
        .map(|column| {
            let name_on_target = shape.name_on_target(&column.name);
            let counterpart = target.column(name_on_target);
            let type_name = literal_type(column);
            KeyColumn {
                name: column.name.clone(),
                target_name: (column.name != name_on_target).then(|| name_on_target.to_owned()),
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
    key
}

/// What a key costs that no index orders.
pub(super) fn warning(source: &Relation, basis: &KeyBasis) -> Option<String> {
    if basis.is_in_snapshot() {
        return Some(format!(
            "the rows of {} are read in one snapshot, which is held until the job has ended: until then no VACUUM of that database \
             cleans up what was deleted since. Interrupted, the table starts again: what was copied is deleted from the target",
            source.name
        ));
    }
    if basis.is_places() {
        return Some(format!(
            "the rows of {} are told apart by where they lie: nobody may write to it, or rewrite it (VACUUM FULL, CLUSTER), until \
             the job has ended; that nobody has is looked up then, and on the target nothing but the ledger keeps rows single",
            source.name
        ));
    }
    let KeyBasis::Rows { repeatable: true, .. } = basis else {
        return None;
    };
    Some(format!(
        "no index of {} orders its rows: each batch may read and sort all of them, and so do the questions whether the key is \
         unique, at the start and at the end",
        source.name
    ))
}

/// Why an index that was found is the key, in words.
fn reason(source: &Relation, index: &UniqueIndex) -> String {
    let has_primary = source.indexes.iter().any(|index| index.is_primary);
    let others = source.indexes.len().saturating_sub(1);
    let can_be_null = !nullable(source, &index.columns).is_empty();
    let over = if can_be_null { "" } else { " over not-null columns" };
    let why = match index.is_primary {
        true => "it is the primary key".to_owned(),
        false if has_primary => format!(
            "a unique index{over}; the primary key does not serve (it is not a plain ascending btree)"
        ),
        false if others > 0 && can_be_null => {
            "none of the table's unique indexes is over not-null columns; this is one that serves".to_owned()
        }
        false if others > 0 => format!(
            "the table has no primary key; of its unique indexes over not-null columns this has the fewest columns ({})",
            index.columns.len()
        ),
        false => format!("the table has no primary key; this is its unique index{over}"),
    };
    why + &asked_words(source, &index.columns, false)
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
pub(super) fn check_unique(
    target: &Relation,
    Chosen { key, basis, .. }: &Chosen,
    on_conflict: OnConflict,
) -> Result<()> {
    if on_conflict != OnConflict::Error && basis.is_places() {
        let words = format!(
            "--on-conflict finds the row that is in the way by its key, and rows of {} have none",
            target.name
        );
        return Err(Error::new(Side::Source, Kind::NoKey, words).hinted(
            "copy into an empty table, with --on-conflict error; or give the source table a primary key",
        ));
    }
    if on_conflict != OnConflict::Error {
        check_coarser(&target.name, key)?;
    }
    if on_conflict == OnConflict::Error || target.finds_rows_by(key) {
        return Ok(());
    }
    let names: Vec<_> = key.iter().map(KeyColumn::name_on_target).collect();
    if target.unique_indexes_on(key).next().is_some() {
        let words = format!(
            "the unique index of target table {} on {} is deferrable: PostgreSQL cannot find the row by it that is in the way",
            target.name,
            names.join(", ")
        );
        return Err(Error::new(Side::Target, Kind::Unsupported, words).hinted(
            "add a unique index that is not deferrable on the same columns to the target table; or copy into an empty table",
        ));
    }
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

fn no_key(table: &Relation, snapshot_below: Option<u64>) -> Error {
    let words = format!(
        "source table {} has no key to copy along: no unique index orders its rows",
        table.name
    );
    let error = Error::new(Side::Source, Kind::NoKey, words);
    let ways = "add a primary key to it, or a unique index; or, where nobody writes to it until the copy has ended, copy it in \
                the order in which its rows lie: --source-is-quiet; or in one snapshot, if it is not large: --snapshot-below 1GB";
    let error = match snapshot_below {
        Some(most) if table.kind != 'm' => error.because(format!(
            "it takes {} bytes, and --snapshot-below allows {most}",
            bytes(table)
        )),
        _ => error,
    };
    let Some(index) = table.indexes.first() else {
        return error.hinted(ways);
    };
    let which = if index.is_primary {
        "primary key"
    } else {
        "unique index"
    };
    error.hinted(format!(
        "the {which} on ({}) does not serve: it must be an ascending btree, with its columns' own collation and default \
         operator class; {ways}",
        index.columns.join(", ")
    ))
}

fn unknown_column(table: &Relation, name: &str) -> Error {
    let words = format!(
        "source table {} has no column \"{name}\", which --key names",
        table.name
    );
    let error = Error::new(Side::Source, Kind::NoKey, words);
    let likeness = |column: &&Attribute| strsim::normalized_damerau_levenshtein(name, &column.name);
    let columns = table.columns.iter();
    let nearest = columns.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|column| likeness(column) > LIKENESS) {
        Some(column) => error.hinted(format!("did you mean \"{}\"?", column.name)),
        None => error.hinted("name columns of the table, as in --key id or --key a,b"),
    }
}

fn no_such_key(table: &Relation, names: &KeyNames) -> Error {
    let words = format!(
        "no unique index of source table {} on exactly ({}) serves as a key",
        table.name,
        names.0.join(", ")
    );
    let serving = table.indexes.iter().filter(|index| index.is_ordered);
    let serving: Vec<_> = serving
        .map(|index| format!("({})", index.columns.join(", ")))
        .collect();
    let rule = "it must be a whole, ascending btree over columns, with their own collation and default operator class";
    Error::new(Side::Source, Kind::NoKey, words).hinted(match serving.as_slice() {
        [] => format!("{rule}; the table has none"),
        some => format!("{rule}; these serve: {}", some.join(", ")),
    })
}

/// The key's columns must be among those that are written.
pub(super) fn check_on_target(target: &Relation, pairs: &[Pair<'_>], key: &[KeyColumn]) -> Result<()> {
    let Some(missing) = key
        .iter()
        .find(|key| pairs.iter().all(|pair| pair.column.name != key.name_on_target()))
    else {
        return Ok(());
    };
    Err(Error::new(
        Side::Target,
        Kind::Unsupported,
        format!(
            "key column \"{}\" is generated on target table {}",
            missing.name_on_target(),
            target.name
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
    key.iter().all(
        |key| match (source.column(&key.name), target.column(key.name_on_target())) {
            (Some(from), Some(to)) => same_order_of(from, to, same_encoding),
            _ => false,
        },
    )
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
