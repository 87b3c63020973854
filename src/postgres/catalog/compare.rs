//! Holds one side's columns against the other's.
//!
//! The rule for types: the same type on both sides, and a length or precision on the target that takes every value of
//! the source unchanged. What PostgreSQL would cut or round on the way in is refused here.

use super::key::ChosenKey;
use super::table::{Attribute, LIKENESS, Relation};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::{Column, CopyFormat};

/// Types whose OID is below this have the same number and the same binary form on every server.
const FIRST_UNPINNED_OID: u32 = 10_000;

/// The source's columns, less those that the target generates itself.
pub(super) fn columns_to_copy(source: &Relation, target: &Relation) -> Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(source.columns.len());
    for column in &source.columns {
        let Some(counterpart) = target.column(&column.name) else {
            return Err(missing_on_target(source, target, column));
        };
        if counterpart.is_generated {
            continue;
        }
        check_type(source, target, column, counterpart)?;
        columns.push(Column {
            name: column.name.clone(),
            type_name: column.shown.clone(),
        });
    }
    for column in &target.columns {
        let filled = !column.not_null || column.has_default || column.is_generated || column.has_identity;
        if source.column(&column.name).is_none() && !filled {
            return Err(Error::new(
                Side::Target,
                Kind::MissingColumn,
                format!(
                    "target table {} wants a value for column \"{}\", which source table {} does not have",
                    target.name, column.name, source.name
                ),
            )
            .hinted("give the target's column a default, or let it be null"));
        }
    }
    Ok(columns)
}

fn missing_on_target(source: &Relation, target: &Relation, column: &Attribute) -> Error {
    let candidates = target
        .columns
        .iter()
        .filter(|candidate| source.column(&candidate.name).is_none());
    let nearest = candidates
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(&column.name, &candidate.name),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness > LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, candidate)) => format!(
            "did you mean the target's column \"{}\"? rename it",
            candidate.name
        ),
        None => format!(
            "ALTER TABLE {} ADD COLUMN \"{}\" {}",
            target.name, column.name, column.shown
        ),
    };
    Error::new(
        Side::Target,
        Kind::MissingColumn,
        format!(
            "target table {} lacks column \"{}\" ({}) of source table {}",
            target.name, column.name, column.shown, source.name
        ),
    )
    .hinted(hint)
}

fn check_type(source: &Relation, target: &Relation, from: &Attribute, to: &Attribute) -> Result<()> {
    let same_type = if from.type_oid < FIRST_UNPINNED_OID || to.type_oid < FIRST_UNPINNED_OID {
        from.type_oid == to.type_oid
    } else {
        from.type_name == to.type_name && from.type_kind == to.type_kind
    };
    if same_type && takes_all(from.type_oid, from.modifier, to.modifier) {
        return Ok(());
    }
    let mut shown = (from.shown.clone(), to.shown.clone());
    if shown.0 == shown.1 {
        shown = (from.castable.clone(), to.castable.clone());
    }
    let error = Error::new(
        Side::Target,
        Kind::TypeMismatch,
        format!(
            "column \"{}\" is {} on the source ({}) and {} on the target ({})",
            from.name, shown.0, source.name, shown.1, target.name
        ),
    );
    Err(if same_type {
        error.hinted("values would not fit or would be rounded; widen the target's column")
    } else {
        error
    })
}

/// Whether a column of the same type takes every value unchanged, given both type modifiers (-1: none).
fn takes_all(type_oid: u32, from: i32, to: i32) -> bool {
    if from == to || to == -1 {
        return true;
    }
    if from == -1 {
        return false;
    }
    match type_oid {
        // varchar, varbit, time, timetz, timestamp, timestamptz, and arrays of them: more is wider.
        1043 | 1015 | 1562 | 1563 | 1083 | 1183 | 1266 | 1270 | 1114 | 1115 | 1184 | 1185 => to > from,
        // numeric: precision in the upper half, scale in the lower; the scale must stay.
        1700 | 1231 => {
            let parts = |modifier: i32| ((modifier - 4) >> 16, (modifier - 4) & 0xFFFF);
            parts(to).1 == parts(from).1 && parts(to).0 >= parts(from).0
        }
        _ => false,
    }
}

/// Binary where every column's bytes mean the same on both servers, else text.
pub(super) fn format(source: &Relation, target: &Relation, columns: &[Column]) -> CopyFormat {
    let exact = |attribute: &Attribute| {
        attribute.type_oid < FIRST_UNPINNED_OID
            && attribute.can_binary
            && matches!(attribute.type_kind, 'b' | 'r' | 'm')
            // regclass and its like travel as OIDs, which name other objects elsewhere.
            && !attribute.type_name.trim_start_matches('_').starts_with("reg")
    };
    let all = columns.iter().all(|column| {
        source.column(&column.name).is_some_and(exact) && target.column(&column.name).is_some_and(exact)
    });
    if all { CopyFormat::Binary } else { CopyFormat::Text }
}

pub(super) fn warnings(
    source: &Relation,
    target: &Relation,
    target_key_is_unique: bool,
    key: &ChosenKey,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |yes: bool, text: String| {
        if yes {
            warnings.push(text);
        }
    };
    warn(
        target.has_row_triggers,
        format!(
            "{} table {} has row triggers, which fire for every row that is copied",
            target.side, target.name
        ),
    );
    warn(
        target.is_unlogged,
        format!(
            "target table {} is unlogged: a crash of the target empties it, and no row comes again",
            target.name
        ),
    );
    warn(
        source.kind == 'r' && source.has_children,
        format!(
            "other tables inherit from source table {}: their rows are not copied",
            source.name
        ),
    );
    warn(
        !target_key_is_unique,
        format!(
            "target table {} has no unique index on the key: nothing but the ledger keeps rows single",
            target.name
        ),
    );
    warn(
        key.sequence_cache > 1,
        format!(
            "the key's sequence hands out {} values at a time: a sync can only be sure of rows with CACHE 1",
            key.sequence_cache
        ),
    );
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_may_grow_and_never_shrink() {
        let numeric = |precision: i32, scale: i32| (precision << 16 | scale) + 4;
        for (type_oid, from, to, fits) in [
            (1043, 14, 14, true),
            (1043, 14, 24, true),
            (1043, 24, 14, false),
            (1043, -1, 14, false),
            (1043, 14, -1, true),
            (1042, 14, 24, false),
            (1114, 3, 6, true),
            (1114, 6, 3, false),
            (1700, numeric(10, 2), numeric(12, 2), true),
            (1700, numeric(10, 2), numeric(12, 4), false),
            (1700, numeric(12, 2), numeric(10, 2), false),
        ] {
            assert_eq!(takes_all(type_oid, from, to), fits, "{type_oid} {from} {to}");
        }
    }
}
