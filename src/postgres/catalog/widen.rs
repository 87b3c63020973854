//! Whether a type takes every value of another one by a cast on the source, and if not, what would be lost.
//!
//! Nothing is lost where each value of the one is a value of the other that is told apart from all others, and that a cast back
//! would give again: an integer that grows, a text that gets room. What is padding stays behind: the blanks at the end of a
//! char(n) are not part of its value.

use super::structure::{Structure, precision, scale};

/// How values are brought into a wider type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Widening {
    /// The type, as SQL spells it.
    pub cast: String,
    /// Why nothing is lost, in words.
    pub why: &'static str,
    /// Whether a value is spelt as before: a key's must be.
    pub keeps_spelling: bool,
}

const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const OID: u32 = 26;
const JSON: u32 = 114;
const CIDR: u32 = 650;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const INET: u32 = 869;
const NAME: u32 = 19;
const CHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const BIT: u32 = 1560;
const VARBIT: u32 = 1562;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// A name has at most so many bytes, and so characters.
const NAME_LENGTH: i32 = 63;
/// What a length is kept as above itself.
const LENGTH_OFFSET: i32 = 4;

/// The cast to `to` that loses nothing, if there is one.
pub(super) fn widening(from: &Structure, to: &Structure) -> Option<Widening> {
    match (from.without_domain(), to.without_domain()) {
        (Structure::Array(from), Structure::Array(to)) => {
            from.misfit(to)?;
            let widening = widening(from, to)?;
            let cast = format!("{}[]", widening.cast);
            Some(Widening { cast, ..widening })
        }
        (Structure::Enum(_), Structure::Base { oid, modifier, .. })
            if is_text_without_end(*oid, *modifier) =>
        {
            Some(Widening {
                cast: spelt(*oid, *modifier)?,
                why: "a label is its text",
                keeps_spelling: true,
            })
        }
        (
            Structure::Base { oid, modifier, .. },
            Structure::Base {
                oid: to_oid,
                modifier: to_modifier,
                ..
            },
        ) => {
            let (why, keeps_spelling) = base((*oid, *modifier), (*to_oid, *to_modifier))?;
            Some(Widening {
                cast: spelt(*to_oid, *to_modifier)?,
                why,
                keeps_spelling,
            })
        }
        _ => None,
    }
}

/// A type as SQL spells it. It goes into statements of the source, and so is made here: the target's own spelling could be
/// anything.
fn spelt(oid: u32, modifier: i32) -> Option<String> {
    let length = modifier - LENGTH_OFFSET;
    let with = |name: &str, length: i32| match modifier {
        -1 => name.to_owned(),
        _ => format!("{name}({length})"),
    };
    Some(match oid {
        INT4 => "integer".to_owned(),
        INT8 => "bigint".to_owned(),
        FLOAT4 => "real".to_owned(),
        FLOAT8 => "double precision".to_owned(),
        NUMERIC if modifier == -1 => "numeric".to_owned(),
        NUMERIC => format!("numeric({},{})", precision(modifier), scale(modifier)),
        TEXT => "text".to_owned(),
        VARCHAR => with("character varying", length),
        CHAR if modifier != -1 => with("character", length),
        JSON => "json".to_owned(),
        VARBIT => with("bit varying", modifier),
        INET => "inet".to_owned(),
        _ => return None,
    })
}

/// Why nothing is lost, and whether each value is spelt as before; both types by number and modifier.
fn base((from, from_modifier): (u32, i32), (to, to_modifier): (u32, i32)) -> Option<(&'static str, bool)> {
    // A length or a precision that the target has not limits nothing.
    let takes_length = |length: i32| to_modifier == -1 || to_modifier >= length;
    match (from, to) {
        (INT2, INT4 | INT8) | (INT4 | OID, INT8) => Some(("each integer fits", true)),
        (INT2 | INT4 | INT8, NUMERIC) => takes_digits(from, to_modifier)
            .then_some(("each integer fits", to_modifier == -1 || scale(to_modifier) == 0)),
        (INT2, FLOAT4 | FLOAT8) | (INT4, FLOAT8) => Some(("each integer is exact in it", false)),
        (FLOAT4, FLOAT8) => Some(("each value is exact in it", false)),
        (NUMERIC, NUMERIC) => {
            let is_wider = from_modifier != -1
                && scale(to_modifier) >= scale(from_modifier)
                && precision(to_modifier) - scale(to_modifier)
                    >= precision(from_modifier) - scale(from_modifier);
            is_wider.then_some(("it has as many digits, before the point and behind it", false))
        }
        (CHAR, TEXT) | (CHAR, VARCHAR | CHAR) if from_modifier == -1 || !takes_length(from_modifier) => {
            // Of a char without a length what is at its end may be meant.
            (to == TEXT && from_modifier != -1).then_some(PADDING)
        }
        (CHAR, TEXT | VARCHAR | CHAR) => Some(PADDING),
        (VARCHAR, TEXT) => Some(("each text fits", true)),
        (TEXT, VARCHAR) => is_text_without_end(to, to_modifier).then_some(("each text fits", true)),
        (NAME, TEXT | VARCHAR) => {
            takes_length(NAME_LENGTH + LENGTH_OFFSET).then_some(("each text fits", true))
        }
        (JSON | JSONB | UUID, TEXT | VARCHAR) => {
            is_text_without_end(to, to_modifier).then_some(("its text is kept as it stands", true))
        }
        (JSONB, JSON) => Some(("its text is kept as it stands", true)),
        (BIT, VARBIT) => takes_length(from_modifier).then_some(("each string of bits fits", true)),
        (CIDR, INET) => Some(("each network is an address with a mask", true)),
        _ => None,
    }
}

const PADDING: (&str, bool) = ("the blanks that fill it up are not part of its value", false);

fn is_text_without_end(oid: u32, modifier: i32) -> bool {
    oid == TEXT || (oid == VARCHAR && modifier == -1)
}

/// Whether a numeric has room for each integer of a type.
fn takes_digits(integer: u32, modifier: i32) -> bool {
    let digits = match integer {
        INT2 => 5,
        INT4 => 10,
        _ => 19,
    };
    modifier == -1 || (scale(modifier) >= 0 && precision(modifier) - scale(modifier) >= digits)
}

/// What a cast would lose, where that is not plain from the types' names.
pub(super) fn loss(from: &Structure, to: &Structure) -> Option<&'static str> {
    let (Structure::Base { oid: from, .. }, Structure::Base { oid: to, .. }) =
        (from.without_domain(), to.without_domain())
    else {
        return None;
    };
    match (*from, *to) {
        (JSON, JSONB) => Some(
            "jsonb keeps neither the order of keys nor keys that are repeated, nor white space, nor how numbers are spelt",
        ),
        (TIMESTAMP, TIMESTAMPTZ) => Some("of which time zone its values are is not known"),
        (TIMESTAMPTZ, TIMESTAMP) => Some("which moment a value is would not be known any more"),
        (CHAR, TEXT | VARCHAR | CHAR) => {
            Some("blanks at the end of its values, or whole ends, would be lost")
        }
        (INT8, FLOAT4 | FLOAT8) | (INT4 | NUMERIC, FLOAT4) | (NUMERIC, FLOAT8) | (FLOAT8, FLOAT4) => {
            Some("its values would be rounded")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(precision: i32, scale: i32) -> i32 {
        (precision << 16 | (scale & 0x7FF)) + LENGTH_OFFSET
    }

    #[test]
    fn a_type_is_wider_where_each_value_fits_and_no_two_become_one() {
        for (from, to, is_wider) in [
            ((INT2, -1), (INT8, -1), true),
            ((INT4, -1), (INT8, -1), true),
            ((INT8, -1), (INT4, -1), false),
            ((INT4, -1), (NUMERIC, -1), true),
            ((INT4, -1), (NUMERIC, numeric(12, 2)), true),
            ((INT4, -1), (NUMERIC, numeric(11, 2)), false),
            ((INT4, -1), (NUMERIC, numeric(20, -2)), false),
            ((INT4, -1), (FLOAT4, -1), false),
            ((INT4, -1), (FLOAT8, -1), true),
            ((INT8, -1), (FLOAT8, -1), false),
            ((FLOAT4, -1), (FLOAT8, -1), true),
            ((FLOAT4, -1), (NUMERIC, -1), false),
            ((NUMERIC, numeric(10, 2)), (NUMERIC, numeric(12, 4)), true),
            ((NUMERIC, numeric(10, 2)), (NUMERIC, numeric(11, 4)), false),
            ((NUMERIC, numeric(10, 4)), (NUMERIC, numeric(20, 2)), false),
            ((NUMERIC, -1), (NUMERIC, numeric(20, 2)), false),
            ((CHAR, 14), (TEXT, -1), true),
            ((CHAR, -1), (TEXT, -1), false),
            ((CHAR, 14), (VARCHAR, 14), true),
            ((CHAR, 14), (VARCHAR, 13), false),
            ((CHAR, -1), (VARCHAR, -1), false),
            ((CHAR, 14), (CHAR, 24), true),
            ((VARCHAR, 14), (TEXT, -1), true),
            ((TEXT, -1), (VARCHAR, -1), true),
            ((TEXT, -1), (VARCHAR, 14), false),
            ((NAME, -1), (VARCHAR, 67), true),
            ((NAME, -1), (VARCHAR, 66), false),
            ((JSON, -1), (JSONB, -1), false),
            ((JSONB, -1), (JSON, -1), true),
            ((TIMESTAMP, -1), (TIMESTAMPTZ, -1), false),
            ((BIT, 5), (VARBIT, 9), true),
            ((BIT, 5), (VARBIT, 4), false),
            ((CIDR, -1), (INET, -1), true),
            ((INET, -1), (CIDR, -1), false),
        ] {
            assert_eq!(base(from, to).is_some(), is_wider, "{from:?} {to:?}");
        }
    }
}
