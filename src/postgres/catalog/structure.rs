//! What is behind a type's name: on either side a tree, down to types that are the same on every server.
//!
//! Two types are held against each other by their trees, not by their names: values of one are values of the other where
//! the trees agree. Types of extensions are opaque, and known by their names.

use super::columns::{Attribute, FIRST_UNPINNED_OID};
use super::digest::PARTS;
use super::fields::Fields;
use crate::postgres::connect::Session;
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::table::EnumLabel;
use std::collections::HashMap;

/// No type of a column is made of more parts than this: a row type of a table of the most columns, a few times over.
const PARTS_LIMIT: usize = 10_000;

/// At most so many characters of a structure are shown.
const SHOWN_LIMIT: usize = 200;

/// A type as a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Structure {
    /// Built in or an extension's.
    Base {
        oid: u32,
        name: String,
        modifier: i32,
        /// As SQL spells it, with its length.
        shown: String,
    },
    Array(Box<Structure>),
    Domain(Box<Structure>),
    /// The attributes in their order.
    Composite(Vec<(String, Structure)>),
    /// The labels in their order.
    Enum(Vec<EnumLabel>),
    Range {
        subtype: Box<Structure>,
        /// What orders it and makes its values canonical: operator class, collation, function.
        order: String,
    },
    Multirange(Box<Structure>),
}

/// Why a type does not take every value of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is another type.
    Differs,
    /// It is the same, and shorter or less precise.
    Narrower,
    /// It lacks a label of an enum.
    Label(String),
}

/// The types behind one table's columns, by number.
pub(super) struct Types(HashMap<u32, Described>);

struct Described {
    name: String,
    kind: char,
    /// Of a true array its element, of a multirange its range.
    element: u32,
    base: (u32, i32, String),
    /// Of a composite type, in their order: name, type, modifier, spelling.
    attributes: Vec<(String, u32, i32, String)>,
    labels: Vec<EnumLabel>,
    subtype: (u32, String, String),
}

/// Of a table's columns, and some types more.
pub(super) async fn read(session: &Session, what: &str, table: u32, more: &[u32]) -> Result<Types> {
    let more: Vec<_> = more.iter().map(ToString::to_string).collect();
    let more = more.join(", ");
    let sql = format!(
        "WITH RECURSIVE type(oid) AS (
             (SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = {table} AND a.attnum > 0 AND NOT a.attisdropped
              UNION ALL SELECT m.oid FROM pg_catalog.unnest(ARRAY[{more}]::pg_catalog.oid[]) m(oid))
             UNION SELECT p.oid FROM type w, {PARTS} WHERE p.oid <> '0'::pg_catalog.oid)
         SELECT y.oid, y.typname, y.typtype,
                coalesce((SELECT e.oid FROM pg_catalog.pg_type e WHERE e.oid = y.typelem AND e.typarray = y.oid),
                         (SELECT r.rngtypid FROM pg_catalog.pg_range r
                          WHERE y.typtype = 'm' AND (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid = y.oid), '0'),
                y.typbasetype, y.typtypmod, pg_catalog.format_type(y.typbasetype, y.typtypmod),
                (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.atttypid::pg_catalog.int8, a.atttypmod,
                                                pg_catalog.format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
                 FROM pg_catalog.pg_attribute a
                 WHERE y.typtype = 'c' AND a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
                (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('oid', e.oid::pg_catalog.int8, 'name', e.enumlabel)
                                            ORDER BY e.enumsortorder)
                 FROM pg_catalog.pg_enum e WHERE e.enumtypid = y.oid),
                r.rngsubtype, pg_catalog.format_type(r.rngsubtype, NULL),
                pg_catalog.concat_ws(' ', (SELECT o.opcname FROM pg_catalog.pg_opclass o WHERE o.oid = r.rngsubopc),
                    'collate ' || (SELECT c.collname FROM pg_catalog.pg_collation c WHERE c.oid = r.rngcollation),
                    'canonical ' || (SELECT f.proname FROM pg_catalog.pg_proc f WHERE f.oid = r.rngcanonical))
         FROM type w JOIN pg_catalog.pg_type y ON y.oid = w.oid LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = y.oid"
    );
    let rows = session.rows(what, &sql).await?;
    let types = rows.into_iter().map(Fields::of).map(|mut row| {
        let oid = row.number();
        let described = Described {
            name: row.text(),
            kind: row.letter(),
            element: row.number(),
            base: (row.number(), row.number(), row.text()),
            attributes: row.json(),
            labels: row.json(),
            subtype: (row.number(), row.text(), row.text()),
        };
        (oid, described)
    });
    Ok(Types(types.collect()))
}

impl Types {
    /// The tree behind a column's type.
    pub(super) fn of(&self, side: Side, column: &Attribute) -> Result<Structure> {
        let mut left = PARTS_LIMIT;
        let built = self.build(column.type_oid, column.modifier, &column.shown, &mut left);
        built.ok_or_else(|| {
            let words = format!(
                "the type of column \"{}\" on the {side}, {}, has more than {PARTS_LIMIT} parts",
                column.name, column.shown
            );
            Error::new(side, Kind::Unsupported, words)
        })
    }

    fn build(&self, oid: u32, modifier: i32, shown: &str, left: &mut usize) -> Option<Structure> {
        *left = left.checked_sub(1)?;
        let base = |name: &str| Structure::Base {
            oid,
            name: name.to_owned(),
            modifier,
            shown: shown.to_owned(),
        };
        // Gone since its column was read: the digest will say so.
        let Some(found) = self.0.get(&oid) else {
            return Some(base(shown));
        };
        Some(match found.kind {
            'b' if found.element != 0 => {
                let element = shown.strip_suffix("[]").unwrap_or(shown);
                Structure::Array(Box::new(self.build(found.element, modifier, element, left)?))
            }
            'd' => {
                let (oid, modifier, shown) = &found.base;
                Structure::Domain(Box::new(self.build(*oid, *modifier, shown, left)?))
            }
            'c' => {
                let attributes = found.attributes.iter().map(|(name, oid, modifier, shown)| {
                    Some((name.clone(), self.build(*oid, *modifier, shown, left)?))
                });
                Structure::Composite(attributes.collect::<Option<_>>()?)
            }
            'e' => Structure::Enum(found.labels.clone()),
            'r' if oid >= FIRST_UNPINNED_OID => {
                let (oid, shown, order) = &found.subtype;
                Structure::Range {
                    subtype: Box::new(self.build(*oid, -1, shown, left)?),
                    order: order.clone(),
                }
            }
            'm' if oid >= FIRST_UNPINNED_OID => {
                Structure::Multirange(Box::new(self.build(found.element, -1, shown, left)?))
            }
            _ => base(&found.name),
        })
    }
}

impl Structure {
    /// Why `target` does not take every value of this one unchanged, if it does not.
    pub(super) fn misfit(&self, target: &Self) -> Option<Misfit> {
        match (self, target) {
            (Self::Base { .. }, Self::Base { .. }) => self.base_misfit(target),
            // What a domain forbids its server says; it changes no value.
            (Self::Domain(from), to) => from.misfit(to),
            (from, Self::Domain(to)) => from.misfit(to),
            (Self::Array(from), Self::Array(to)) | (Self::Multirange(from), Self::Multirange(to)) => {
                from.misfit(to)
            }
            (
                Self::Range { subtype: from, order },
                Self::Range {
                    subtype: to,
                    order: other,
                },
            ) if order == other => from.misfit(to),
            (Self::Composite(from), Self::Composite(to)) => {
                let same_names = from
                    .iter()
                    .map(|(name, _)| name)
                    .eq(to.iter().map(|(name, _)| name));
                if !same_names {
                    return Some(Misfit::Differs);
                }
                from.iter()
                    .zip(to)
                    .find_map(|((_, from), (_, to))| from.misfit(to))
            }
            (Self::Enum(from), Self::Enum(to)) => {
                let is_there = |label: &&EnumLabel| to.iter().any(|other| other.name == label.name);
                let missing = from.iter().find(|label| !is_there(label));
                missing.map(|label| Misfit::Label(label.name.clone()))
            }
            _ => Some(Misfit::Differs),
        }
    }

    fn base_misfit(&self, target: &Self) -> Option<Misfit> {
        let (
            Self::Base {
                oid, name, modifier, ..
            },
            Self::Base {
                oid: to_oid,
                name: to_name,
                modifier: to_modifier,
                ..
            },
        ) = (self, target)
        else {
            return Some(Misfit::Differs);
        };
        let is_pinned = *oid < FIRST_UNPINNED_OID || *to_oid < FIRST_UNPINNED_OID;
        let is_same = if is_pinned { oid == to_oid } else { name == to_name };
        if !is_same {
            return Some(Misfit::Differs);
        }
        (!takes_all(*oid, *modifier, *to_modifier)).then_some(Misfit::Narrower)
    }

    /// What must stay the same for values that were copied to be right: without lengths that may grow, enums' labels and
    /// names that carry nothing.
    pub(super) fn canonical(&self) -> String {
        match self {
            Self::Base {
                oid, name, modifier, ..
            } => match kept_modifier(*oid, *modifier) {
                Some(kept) => format!("{name}({kept})"),
                None => name.clone(),
            },
            Self::Array(element) => format!("{}[]", element.canonical()),
            Self::Domain(base) => format!("domain({})", base.canonical()),
            Self::Composite(attributes) => {
                let attributes = attributes.iter();
                let attributes: Vec<_> = attributes
                    .map(|(name, structure)| format!("{name:?} {}", structure.canonical()))
                    .collect();
                format!("({})", attributes.join(", "))
            }
            Self::Enum(_) => "enum".to_owned(),
            Self::Range { subtype, order } => format!("range({} {order})", subtype.canonical()),
            Self::Multirange(range) => format!("multirange({})", range.canonical()),
        }
    }

    /// In words, for people: `domain over numeric(10,4)`.
    pub(super) fn words(&self) -> String {
        let words = self.all_words();
        if words.chars().count() <= SHOWN_LIMIT {
            return words;
        }
        words.chars().take(SHOWN_LIMIT).chain(['…']).collect()
    }

    fn all_words(&self) -> String {
        match self {
            Self::Base { shown, .. } => shown.clone(),
            Self::Array(element) if matches!(**element, Self::Base { .. }) => {
                format!("{}[]", element.all_words())
            }
            Self::Array(element) => format!("array of {}", element.all_words()),
            Self::Domain(base) => format!("domain over {}", base.all_words()),
            Self::Composite(attributes) => {
                let attributes = attributes.iter();
                let attributes: Vec<_> = attributes
                    .map(|(name, structure)| format!("{name} {}", structure.all_words()))
                    .collect();
                format!("composite ({})", attributes.join(", "))
            }
            Self::Enum(labels) => {
                let names: Vec<_> = labels.iter().map(|label| label.name.as_str()).collect();
                format!("enum ({})", names.join(", "))
            }
            Self::Range { subtype, order } => format!("range over {} ({order})", subtype.all_words()),
            Self::Multirange(range) => format!("multirange of {}", range.all_words()),
        }
    }

    /// The labels of each enum in it, in the order of the tree.
    pub(super) fn enums(&self) -> Vec<Vec<EnumLabel>> {
        match self {
            Self::Base { .. } => Vec::new(),
            Self::Array(inner) | Self::Domain(inner) | Self::Multirange(inner) => inner.enums(),
            Self::Range { subtype, .. } => subtype.enums(),
            Self::Composite(attributes) => attributes.iter().flat_map(|(_, inner)| inner.enums()).collect(),
            Self::Enum(labels) => vec![labels.clone()],
        }
    }

    /// Whether it is that built-in type, or made of it.
    pub(super) fn contains(&self, wanted: u32) -> bool {
        match self {
            Self::Base { oid, .. } => *oid == wanted,
            Self::Array(inner) | Self::Domain(inner) | Self::Multirange(inner) => inner.contains(wanted),
            Self::Range { subtype, .. } => subtype.contains(wanted),
            Self::Composite(attributes) => attributes.iter().any(|(_, inner)| inner.contains(wanted)),
            Self::Enum(_) => false,
        }
    }

    /// The built-in or extension type that remains when domains are taken off.
    pub(super) fn base_oid(&self) -> Option<u32> {
        match self.without_domain() {
            Self::Base { oid, .. } => Some(*oid),
            _ => None,
        }
    }

    /// What remains when domains are taken off.
    pub(super) fn without_domain(&self) -> &Self {
        match self {
            Self::Domain(base) => base.without_domain(),
            other => other,
        }
    }
}

/// The scale of a numeric's modifier.
pub(super) fn scale(modifier: i32) -> i32 {
    (((modifier - 4) & 0x7FF) ^ 1024) - 1024
}

pub(super) fn precision(modifier: i32) -> i32 {
    ((modifier - 4) >> 16) & 0xFFFF
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
        // varchar, varbit, time, timetz, timestamp, timestamptz: more is wider.
        1043 | 1562 | 1083 | 1266 | 1114 | 1184 => to > from,
        // numeric: the scale must stay.
        1700 => scale(to) == scale(from) && precision(to) >= precision(from),
        _ => false,
    }
}

/// What of a modifier decides how a value looks.
fn kept_modifier(type_oid: u32, modifier: i32) -> Option<String> {
    if modifier == -1 {
        return None;
    }
    match type_oid {
        1043 | 1562 | 1083 | 1266 | 1114 | 1184 => None,
        1700 => Some(format!("*,{}", scale(modifier))),
        // interval: the fields above its precision, all of them or some.
        1186 => Some(modifier >> 16 & 0x7FFF)
            .filter(|fields| *fields != 0x7FFF)
            .map(|fields| format!("fields {fields}")),
        _ => Some(modifier.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(oid: u32, name: &str, modifier: i32) -> Structure {
        Structure::Base {
            oid,
            name: name.to_owned(),
            modifier,
            shown: name.to_owned(),
        }
    }

    fn label(name: &str) -> EnumLabel {
        EnumLabel {
            oid: 1,
            name: name.to_owned(),
        }
    }

    fn numeric(precision: i32, scale: i32) -> i32 {
        (precision << 16 | (scale & 0x7FF)) + 4
    }

    #[test]
    fn a_length_may_grow_and_never_shrink() {
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
            (1700, numeric(10, -2), numeric(12, -2), true),
            (1700, numeric(10, 2), numeric(12, 4), false),
            (1700, numeric(12, 2), numeric(10, 2), false),
        ] {
            assert_eq!(takes_all(type_oid, from, to), fits, "{type_oid} {from} {to}");
        }
    }

    #[test]
    fn a_structure_keeps_the_scale_and_drops_what_may_grow() {
        for (structure, canonical) in [
            (base(1700, "numeric", numeric(10, 2)), "numeric(*,2)"),
            (base(1700, "numeric", numeric(10, -2)), "numeric(*,-2)"),
            (base(1700, "numeric", -1), "numeric"),
            (base(1043, "varchar", 14), "varchar"),
            (base(1042, "bpchar", 14), "bpchar(14)"),
            (base(1114, "timestamp", 3), "timestamp"),
            (base(1186, "interval", 0x7FFF_0003), "interval"),
            (base(1186, "interval", 0x0006_FFFF), "interval(fields 6)"),
            (Structure::Enum(vec![label("a")]), "enum"),
            (
                Structure::Array(Box::new(Structure::Domain(Box::new(base(25, "text", -1))))),
                "domain(text)[]",
            ),
            (
                Structure::Composite(vec![
                    ("a".into(), base(25, "text", -1)),
                    ("b\"".into(), base(23, "int4", -1)),
                ]),
                "(\"a\" text, \"b\\\"\" int4)",
            ),
        ] {
            assert_eq!(structure.canonical(), canonical);
        }
    }

    #[test]
    fn an_enum_takes_what_it_has_a_label_for() {
        let of = |labels: &[&str]| Structure::Enum(labels.iter().map(|name| label(name)).collect());
        assert_eq!(of(&["a", "b"]).misfit(&of(&["c", "b", "a"])), None);
        assert_eq!(
            of(&["a", "b"]).misfit(&of(&["b"])),
            Some(Misfit::Label("a".to_owned()))
        );
        assert_eq!(of(&["a"]).misfit(&base(25, "text", -1)), Some(Misfit::Differs));
    }
}
