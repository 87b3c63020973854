//! Which value of the source goes into which column of the target: as both tables have them, or as the operator said.
//!
//! The rule for types: the same structure on both sides, and a length or precision on the target that takes every value of
//! the source unchanged; or a wider type, into which the source casts. What PostgreSQL would cut, round or drop on the way in is
//! refused here, each time with what would be lost.

use super::columns::{Attribute, Generated};
use super::expressions::Described;
use super::structure::{Misfit, Structure};
use super::table::{LIKENESS, Relation};
use super::widen::{loss, widening};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_table};
use crate::table::{Column, KeyColumn, ReadAs, Shape};
use std::borrow::Cow;

/// A value that is read on the source, and the column that takes it.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    pub column: Column,
    /// What the source sends, as if it were a column.
    pub sent: Cow<'a, Attribute>,
    pub taken: &'a Attribute,
    /// Why the source casts, in words; `None` where it does not.
    pub why_cast: Option<&'static str>,
    /// Whether it sends the very text that it has.
    pub keeps_spelling: bool,
}

/// A column of the source that is not copied, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// Its name.
    pub column: String,
    /// Why.
    pub why: String,
    /// Whether the target generates it.
    #[serde(skip)]
    pub is_generated: bool,
}

/// What goes where, and what goes nowhere.
#[derive(Debug, Default)]
pub(super) struct Pairing<'a> {
    pub pairs: Vec<Pair<'a>>,
    pub left_out: Vec<LeftOut>,
}

/// Pairs what is read with what takes it, by the shape that was asked for. What does not fit is a trouble each.
pub(super) fn pair<'a>(
    source: &'a Relation,
    target: &'a Relation,
    shape: &Shape,
    described: &'a Described,
    troubles: &mut Vec<Error>,
) -> Pairing<'a> {
    let mut pairing = Pairing::default();
    let unknown = unknown_names(source, target, shape);
    let has_unknown = !unknown.is_empty();
    troubles.extend(unknown);
    for column in &source.columns {
        let name = shape.name_on_target(&column.name);
        let mut leave_out = |why: String, is_generated: bool| {
            let column = column.name.clone();
            pairing.left_out.push(LeftOut {
                column,
                why,
                is_generated,
            });
        };
        if shape
            .columns
            .as_ref()
            .is_some_and(|chosen| !chosen.0.contains(&column.name))
        {
            leave_out("it is not among --columns".to_owned(), false);
            continue;
        }
        if shape.selections.0.contains_key(name) {
            leave_out(
                format!("an expression fills column \"{name}\" in its place"),
                false,
            );
            continue;
        }
        let Some(counterpart) = target.column(name) else {
            troubles.extend((!has_unknown).then(|| missing_on_target(source, target, column, name)));
            continue;
        };
        match fit(source, target, column, counterpart) {
            Ok(_) if counterpart.generated.is_some() => match check_generated(target, column, counterpart) {
                Ok(()) => leave_out("the target generates it in the same way".to_owned(), true),
                Err(error) => troubles.push(error),
            },
            Ok(cast) => pairing.pairs.push(of_column(column, counterpart, cast)),
            Err(error) => troubles.push(error),
        }
    }
    for (name, attribute) in &described.selections {
        let (Some(counterpart), Some(expression)) = (target.column(name), shape.selections.0.get(name))
        else {
            continue;
        };
        if counterpart.generated.is_some() {
            let words = format!(
                "column \"{name}\" is generated on target table {}, and takes no expression's value",
                target.name
            );
            troubles.push(
                Error::new(Side::Target, Kind::Unsupported, words).hinted(by_hand(target, counterpart)),
            );
            continue;
        }
        match attribute.structure.misfit(&counterpart.structure) {
            None => {
                let mut column = of(attribute, counterpart);
                column.read_as = Some(ReadAs::Expression(expression.clone()));
                pairing.pairs.push(Pair {
                    column,
                    sent: Cow::Borrowed(attribute),
                    taken: counterpart,
                    why_cast: None,
                    keeps_spelling: false,
                });
            }
            Some(misfit) => troubles.push(misfit_of_expression(target, attribute, counterpart, &misfit)),
        }
    }
    troubles.extend(needs_value(source, target, shape, &pairing));
    pairing
}

/// A column as it is planned, before what is read for it is known.
fn of(from: &Attribute, to: &Attribute) -> Column {
    Column {
        name: to.name.clone(),
        source_name: None,
        read_as: None,
        type_name: from.shown.clone(),
        structure: from.structure.canonical(),
        source_number: from.number,
        target_number: to.number,
        source_enums: from.structure.enums(),
        target_enums: to.structure.enums(),
    }
}

fn of_column<'a>(from: &'a Attribute, to: &'a Attribute, cast: Option<Cast>) -> Pair<'a> {
    let mut column = of(from, to);
    column.source_name = (from.name != to.name).then(|| from.name.clone());
    let Some(cast) = cast else {
        return Pair {
            column,
            sent: Cow::Borrowed(from),
            taken: to,
            why_cast: None,
            keeps_spelling: true,
        };
    };
    column.read_as = Some(ReadAs::Cast(cast.to));
    // On its way the value is of the type that it is cast to, which both servers have.
    let sent = Attribute {
        name: from.name.clone(),
        collation: from.collation.clone(),
        ..to.clone()
    };
    Pair {
        column,
        sent: Cow::Owned(sent),
        taken: to,
        why_cast: Some(cast.why),
        keeps_spelling: cast.keeps_spelling,
    }
}

/// Names that were typed and that no table has: the likely cause of all that follows.
fn unknown_names(source: &Relation, target: &Relation, shape: &Shape) -> Vec<Error> {
    let mut troubles = Vec::new();
    let mut must_have = |side: Side, table: &Relation, flag: &str, name: &String| {
        if table.column(name).is_some() {
            return;
        }
        let words = format!(
            "{side} table {} has no column \"{name}\", which {flag} names",
            table.name
        );
        let error = Error::new(side, Kind::MissingColumn, words);
        troubles.push(match nearest(name, &table.columns) {
            Some(column) => error.hinted(format!("did you mean \"{}\"?", column.name)),
            None => error.hinted("names are folded to lower case unless they are between double quotes"),
        });
    };
    for name in shape.columns.iter().flat_map(|columns| &columns.0) {
        must_have(Side::Source, source, "--columns", name);
    }
    for (from, to) in &shape.renames.0 {
        must_have(Side::Source, source, "--rename", from);
        must_have(Side::Target, target, "--rename", to);
    }
    for name in shape.selections.0.keys() {
        must_have(Side::Target, target, "--select", name);
    }
    for (from, to) in &shape.renames.0 {
        let is_taken = source.column(to).is_some() && !shape.renames.0.contains_key(to);
        let is_copied = |name: &String| {
            shape
                .columns
                .as_ref()
                .is_none_or(|chosen| chosen.0.contains(name))
        };
        if is_taken && is_copied(to) && is_copied(from) {
            let words = format!(
                "columns \"{from}\" and \"{to}\" of source table {} would both go into column \"{to}\" of target table {}",
                source.name, target.name
            );
            troubles.push(Error::new(Side::Source, Kind::InvalidInput, words).hinted(
                "rename the other one as well (--rename a=b,b=c), or leave it out: --columns names those that are copied",
            ));
        }
    }
    troubles
}

fn nearest<'a>(name: &str, among: impl IntoIterator<Item = &'a Attribute>) -> Option<&'a Attribute> {
    let likeness =
        |column: &'a Attribute| (strsim::normalized_damerau_levenshtein(name, &column.name), column);
    let like = among.into_iter().map(likeness);
    let like = like.filter(|(likeness, _)| *likeness > LIKENESS);
    like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, column)| column)
}

/// Columns of the target that must have a value, and get none.
fn needs_value(source: &Relation, target: &Relation, shape: &Shape, pairing: &Pairing<'_>) -> Vec<Error> {
    let is_filled = |column: &Attribute| {
        !column.not_null || column.has_default || column.generated.is_some() || column.identity.is_some()
    };
    // One that the source has, and that does not fit, was told; so is an expression.
    let is_paired = |column: &Attribute| {
        let left_out = |name: &str| pairing.left_out.iter().any(|left| left.column == name);
        pairing.pairs.iter().any(|pair| pair.column.name == column.name)
            || shape.selections.0.contains_key(&column.name)
            || (source.column(&column.name).is_some() && !left_out(&column.name))
    };
    let empty = target
        .columns
        .iter()
        .filter(|column| !is_filled(column) && !is_paired(column));
    let trouble = |column: &Attribute| {
        let why = match source.column(&column.name) {
            Some(_) => "which is not copied".to_owned(),
            None => format!("which source table {} does not have", source.name),
        };
        let words = format!(
            "target table {} needs a value for column \"{}\", {why}",
            target.name, column.name
        );
        Error::new(Side::Target, Kind::MissingColumn, words).hinted(
            "give the target's column a default, let it be null, or say what is read for it: --select COLUMN=SQL",
        )
    };
    empty.map(trouble).collect()
}

fn missing_on_target(source: &Relation, target: &Relation, column: &Attribute, name: &str) -> Error {
    let candidates = target
        .columns
        .iter()
        .filter(|candidate| source.column(&candidate.name).is_none());
    let hint = match nearest(name, candidates) {
        Some(candidate) => format!(
            "did you mean the target's column \"{}\"? rename it, or say so: --rename SOURCE_COLUMN=TARGET_COLUMN",
            candidate.name
        ),
        None => format!(
            "ALTER TABLE {} ADD COLUMN {} {}; or say which columns are copied: --columns",
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

/// A cast on the source that loses nothing.
struct Cast {
    to: String,
    why: &'static str,
    keeps_spelling: bool,
}

/// How a column's values get into the other one: as they are, or by a cast.
fn fit(source: &Relation, target: &Relation, from: &Attribute, to: &Attribute) -> Result<Option<Cast>> {
    let Some(misfit) = from.structure.misfit(&to.structure) else {
        return Ok(None);
    };
    if let Some(wider) = widening(&from.structure, &to.structure) {
        return Ok(Some(Cast {
            to: wider.cast,
            why: wider.why,
            keeps_spelling: wider.keeps_spelling,
        }));
    }
    let mut words = format!(
        "column \"{}\" is {} on the source ({}) and {} on the target ({})",
        from.name,
        type_words(from, to),
        source.name,
        type_words(to, from),
        target.name
    );
    if from.name != to.name {
        words = format!(
            "column \"{}\" goes into column \"{}\": {words}",
            from.name, to.name
        );
    }
    if let Misfit::Label(label) = &misfit {
        words.push_str(&format!(": enum label '{label}' is missing on the target"));
    }
    if let Some(loss) = loss(&from.structure, &to.structure) {
        words.push_str(&format!(": {loss}"));
    }
    Err(Error::new(Side::Target, Kind::TypeMismatch, words).hinted(hint_for(&misfit)))
}

fn hint_for(misfit: &Misfit) -> String {
    match misfit {
        Misfit::Differs => "give the column the same type on both sides, or one on the target that takes each value; if it may be \
                            converted all the same, say how: --select COLUMN=SQL"
            .to_owned(),
        Misfit::Narrower => "values would not fit or would be rounded; widen the target's column, or say how they are made to fit: \
                             --select COLUMN=SQL"
            .to_owned(),
        Misfit::Label(label) => format!(
            "ALTER TYPE .. ADD VALUE '{}' on the target",
            label.replace('\'', "''")
        ),
    }
}

/// An expression is cast by nobody: what it gives is what is written.
fn misfit_of_expression(target: &Relation, from: &Attribute, to: &Attribute, misfit: &Misfit) -> Error {
    let words = format!(
        "the expression of --select {} gives {}, and the column of target table {} is {}",
        from.name,
        type_words(from, to),
        target.name,
        type_words(to, from)
    );
    let error = Error::new(Side::Target, Kind::TypeMismatch, words);
    match misfit {
        Misfit::Label(_) => error.hinted(hint_for(misfit)),
        Misfit::Differs | Misfit::Narrower => error.hinted(
            "cast it in the expression to the column's type, if it may be cut or rounded: --select COLUMN=(SQL)::TYPE",
        ),
    }
}

/// A key's values must be spelt on the target as on the source, and be the source's own.
pub(super) fn check_key(source: &Relation, key: &[KeyColumn], pairing: &Pairing<'_>) -> Result<()> {
    for name in key.iter().map(|column| column.name.as_str()) {
        let refused = |words: String, hint: &str| {
            let words = format!("key column \"{name}\" of source table {} {words}", source.name);
            Err(Error::new(Side::Source, Kind::Unsupported, words).hinted(hint))
        };
        if let Some(left) = pairing.left_out.iter().find(|left| left.column == name)
            && !left.is_generated
        {
            let why = format!("must be copied, since rows are known by it: {}", left.why);
            return refused(
                why,
                "name it among --columns, and let no expression take its place",
            );
        }
        let Some(pair) = pairing
            .pairs
            .iter()
            .find(|pair| pair.column.name_on_source() == name && pair.column.source_number != 0)
        else {
            continue;
        };
        if !pair.keeps_spelling {
            return refused(
                format!(
                    "is {} on the target, where its values are spelt in another way",
                    pair.taken.shown
                ),
                "give it the same type on both sides: rows are known by how their keys are spelt",
            );
        }
    }
    Ok(())
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
    let hint = by_hand(target, to);
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

/// How a column that is generated on the target becomes one that is not.
fn by_hand(target: &Relation, column: &Attribute) -> String {
    if column.generated == Some(Generated::Stored) && target.server_version >= 130_000 {
        return format!(
            "make it an ordinary column on the target: ALTER TABLE {} ALTER COLUMN {} DROP EXPRESSION",
            quote_table(&target.name),
            quote_identifier(&column.name)
        );
    }
    "make it an ordinary column on the target: drop it there, and add it without the expression".to_owned()
}
