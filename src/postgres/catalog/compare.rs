//! Holds one side's columns against the other's.
//!
//! The rule for types: the same structure on both sides, and a length or precision on the target that takes every value of
//! the source unchanged. What PostgreSQL would cut, round or drop on the way in is refused here.

use super::columns::{Attribute, FIRST_UNPINNED_OID, Generated, Identity};
use super::server::ServerIdentity;
use super::structure::{Misfit, Structure};
use super::table::{LIKENESS, Relation};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_table};
use crate::table::{Column, CopyFormat, KeyColumn, OnConflict};

const INTERVAL: u32 = 1186;
const MONEY: u32 = 790;
const BYTE: u32 = 18;

/// The first version that has intervals without end; earlier ones read other values in their bytes.
const INFINITE_INTERVALS: u32 = 170_000;
/// The first version that writes a "char" above 127 as a backslash and three digits.
const ESCAPED_BYTES: u32 = 160_000;

/// The source's columns, less those that the target generates itself. What does not fit is a trouble each.
pub(super) fn columns_to_copy(
    source: &Relation,
    target: &Relation,
    troubles: &mut Vec<Error>,
) -> Vec<Column> {
    let mut columns = Vec::with_capacity(source.columns.len());
    for column in &source.columns {
        let Some(counterpart) = target.column(&column.name) else {
            troubles.push(missing_on_target(source, target, column));
            continue;
        };
        troubles.extend(check_type(source, target, column, counterpart).err());
        if counterpart.generated.is_some() {
            troubles.extend(check_generated(target, column, counterpart).err());
            continue;
        }
        columns.push(Column {
            name: column.name.clone(),
            type_name: column.shown.clone(),
            structure: column.structure.canonical(),
            source_number: column.number,
            target_number: counterpart.number,
            source_enums: column.structure.enums(),
            target_enums: counterpart.structure.enums(),
        });
    }
    for column in &target.columns {
        let filled =
            !column.not_null || column.has_default || column.generated.is_some() || column.identity.is_some();
        if source.column(&column.name).is_none() && !filled {
            let words = format!(
                "target table {} needs a value for column \"{}\", which source table {} does not have",
                target.name, column.name, source.name
            );
            troubles.push(
                Error::new(Side::Target, Kind::MissingColumn, words)
                    .hinted("give the target's column a default, or let it be null"),
            );
        }
    }
    columns
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
            "ALTER TABLE {} ADD COLUMN {} {}",
            quote_table(&target.name),
            quote_identifier(&column.name),
            column.shown
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
    let Some(misfit) = from.structure.misfit(&to.structure) else {
        return Ok(());
    };
    let mut words = format!(
        "column \"{}\" is {} on the source ({}) and {} on the target ({})",
        from.name,
        type_words(from, to),
        source.name,
        type_words(to, from),
        target.name
    );
    if let Misfit::Label(label) = &misfit {
        words.push_str(&format!(": enum label '{label}' is missing on the target"));
    }
    let error = Error::new(Side::Target, Kind::TypeMismatch, words);
    Err(match misfit {
        Misfit::Differs => error,
        Misfit::Narrower => {
            error.hinted("values would not fit or would be rounded; widen the target's column")
        }
        Misfit::Label(label) => error.hinted(format!(
            "ALTER TYPE .. ADD VALUE '{}' on the target",
            label.replace('\'', "''")
        )),
    })
}

/// A column's type by name, and by what is behind the name; qualified where both sides would look alike.
fn type_words(column: &Attribute, other: &Attribute) -> String {
    if let Structure::Base { .. } = column.structure {
        return if column.shown == other.shown {
            column.castable.clone()
        } else {
            column.shown.clone()
        };
    }
    let words = column.structure.words();
    if words == column.shown {
        return words;
    }
    format!("{} ({words})", column.shown)
}

/// A column that the target generates takes no value: it must come out as on the source.
fn check_generated(target: &Relation, from: &Attribute, to: &Attribute) -> Result<()> {
    let refused = |words: String| Error::new(Side::Target, Kind::Unsupported, words);
    let hint = if to.generated == Some(Generated::Stored) && target.server_version >= 130_000 {
        format!(
            "make it an ordinary column on the target: ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION",
            quote_table(&target.name),
            quote_identifier(&to.name)
        )
    } else {
        "make it an ordinary column on the target: drop it there, and add it without the expression"
            .to_owned()
    };
    let shown = |column: &Attribute| column.expression.clone().unwrap_or_default();
    if from.generated.is_none() {
        return Err(refused(format!(
            "column \"{}\" is generated on target table {}, and not on the source: its values would be dropped",
            to.name, target.name
        ))
        .hinted(hint));
    }
    if from.expression != to.expression {
        return Err(refused(format!(
            "column \"{}\" is generated from {} on the source and from {} on target table {}",
            to.name,
            shown(from),
            shown(to),
            target.name
        ))
        .hinted(hint));
    }
    Ok(())
}

/// Amounts of money are counted in the smallest coin of a locale, and written as that locale does.
pub(super) fn check_money(
    source: &Relation,
    columns: &[Column],
    from: &ServerIdentity,
    to: &ServerIdentity,
) -> Result<()> {
    if from.has_money_of(to) {
        return Ok(());
    }
    let Some(column) = copied(source, columns).find(|column| column.structure.contains(MONEY)) else {
        return Ok(());
    };
    Err(Error::new(
        Side::Target,
        Kind::Unsupported,
        format!(
            "column \"{}\" is money, which is one thing in the source's locale ({}) and another in the target's ({}): lc_monetary",
            column.name, from.money_locale, to.money_locale
        ),
    )
    .hinted("convert the column to numeric on both sides, or give both databases the same lc_monetary"))
}

/// An update would write these columns, and PostgreSQL refuses that of one that is always generated as identity.
pub(super) fn check_updates(
    target: &Relation,
    columns: &[Column],
    key: &[KeyColumn],
    on_conflict: OnConflict,
) -> Result<()> {
    if on_conflict != OnConflict::Update {
        return Ok(());
    }
    let is_fixed = |name: &str| key.iter().any(|key| key.name == name && key.is_exact);
    let found = copied(target, columns)
        .find(|column| column.identity == Some(Identity::Always) && !is_fixed(&column.name));
    let Some(column) = found else {
        return Ok(());
    };
    Err(Error::new(
        Side::Target,
        Kind::Unsupported,
        format!(
            "column \"{}\" of target table {} is GENERATED ALWAYS AS IDENTITY, which no update can write",
            column.name, target.name
        ),
    )
    .hinted(format!(
        "ALTER TABLE {} ALTER COLUMN {} SET GENERATED BY DEFAULT",
        quote_table(&target.name),
        quote_identifier(&column.name)
    )))
}

/// The copied columns as one side has them.
fn copied<'a>(table: &'a Relation, columns: &'a [Column]) -> impl Iterator<Item = &'a Attribute> {
    columns.iter().filter_map(|column| table.column(&column.name))
}

/// Binary where every column's bytes mean the same on both servers, else text.
pub(super) fn format(source: &Relation, target: &Relation, columns: &[Column]) -> CopyFormat {
    match text_reason(source, target, columns) {
        None => CopyFormat::Binary,
        Some(_) => CopyFormat::Text,
    }
}

/// Why rows travel as text: the first column whose bytes need not mean the same on both servers, in words.
pub(super) fn text_reason(source: &Relation, target: &Relation, columns: &[Column]) -> Option<String> {
    let interval_differs = are_across(INFINITE_INTERVALS, source.server_version, target.server_version);
    let reason = |attribute: &Attribute| {
        let why = if attribute.type_oid >= FIRST_UNPINNED_OID {
            "which is not a built-in type"
        } else if !attribute.can_binary {
            "which has no binary form"
        } else if attribute.type_name.trim_start_matches('_').starts_with("reg") {
            // regclass and its like travel as OIDs.
            "whose binary form names another object on another server"
        } else if interval_differs && attribute.structure.contains(INTERVAL) {
            "whose binary form is another since version 17"
        } else {
            return None;
        };
        Some(format!(
            "column \"{}\" is {}, {why}",
            attribute.name, attribute.shown
        ))
    };
    let mut attributes = copied(source, columns).chain(copied(target, columns));
    attributes.find_map(reason)
}

/// Whether one of two servers is of that version and the other is older.
fn are_across(version: u32, one: u32, other: u32) -> bool {
    (one >= version) != (other >= version)
}

pub(super) fn warnings(
    source: &Relation,
    target: &Relation,
    columns: &[Column],
    target_key_is_unique: bool,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |yes: bool, text: String| {
        if yes {
            warnings.push(text);
        }
    };
    warn(
        target.is_unlogged,
        format!(
            "target table {} is unlogged: a crash of the target empties it; the job then stops and says so",
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
    for (side, table) in [("source", source), ("target", target)] {
        let owner = table.owner_below_us.as_deref();
        warn(
            owner.is_some(),
            format!(
                "{side} table {}, or a partition, a type or a function of it, belongs to role {}, and you connect as a superuser: what \
                 that role has attached to it (index expressions, statistics, checks, domains, triggers) runs with your \
                 rights, also where the table is only read; better connect as that role",
                table.name,
                owner.unwrap_or_default()
            ),
        );
    }
    warn(
        target.kind == 'r' && target.has_children,
        format!(
            "other tables inherit from target table {}: their rows are not looked at, though a SELECT from it gives them too",
            target.name
        ),
    );
    warn(
        !target_key_is_unique,
        format!(
            "target table {} has no unique index on the key: nothing but the ledger keeps rows single",
            target.name
        ),
    );
    let escapes = source.server_version >= ESCAPED_BYTES && target.server_version < ESCAPED_BYTES;
    let as_text = format(source, target, columns) == CopyFormat::Text;
    for column in copied(source, columns).filter(|column| column.structure.contains(BYTE)) {
        warn(
            escapes && as_text,
            format!(
                "column \"{}\" is \"char\": the target's server, older than version 16, reads a byte above 127 as a backslash",
                column.name
            ),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_without_end_begin_with_version_17() {
        for (one, other, differ) in [
            (170_000, 160_004, true),
            (120_000, 180_004, true),
            (170_010, 180_000, false),
            (120_000, 160_004, false),
        ] {
            assert_eq!(
                are_across(INFINITE_INTERVALS, one, other),
                differ,
                "{one} {other}"
            );
        }
    }
}
