//! How keys are compared, as SQL: by operators that are named with their schema, whatever the search path.
//!
//! Which they are, the plan says for each side; where it says nothing they are PostgreSQL's own.

use super::error::Side;
use super::identifier::quote_literal;
use crate::table::{Key, KeyColumn, Order};

/// A btree's comparisons, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl Strategy {
    /// The operator that compares all of the columns; `None` where they have different ones.
    pub(super) fn of(self, side: Side, key: &[KeyColumn]) -> Option<String> {
        let mut operators = key.iter().map(|column| self.of_column(side, column));
        let first = operators.next()?;
        operators.all(|operator| operator == first).then_some(first)
    }

    fn of_column(self, side: Side, column: &KeyColumn) -> String {
        let own = match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
        };
        match order(side, column) {
            Some(order) => order.operators[self as usize].clone(),
            None => format!("OPERATOR(pg_catalog.{own})"),
        }
    }

    /// Without those that are equal.
    fn strict(self) -> Self {
        match self {
            Self::LessOrEqual => Self::Less,
            Self::GreaterOrEqual => Self::Greater,
            other => other,
        }
    }

    /// With those that are equal.
    fn or_equal(self) -> Self {
        match self {
            Self::Less => Self::LessOrEqual,
            Self::Greater => Self::GreaterOrEqual,
            other => other,
        }
    }
}

fn order(side: Side, column: &KeyColumn) -> Option<&Order> {
    match side {
        Side::Source => column.source_order.as_ref(),
        Side::Target => column.target_order.as_ref(),
    }
}

/// The type to which one side casts what is compared with a column; nothing where it need not be cast.
fn type_of(side: Side, column: &KeyColumn) -> &str {
    match (order(side, column), side, &column.target_type) {
        (Some(order), ..) => &order.type_name,
        (None, Side::Target, Some(name)) => name,
        _ => &column.type_name,
    }
}

/// What is compared, of a column's type: cast to the type that its operators are made for, so that no other fits better.
pub(super) fn operand(side: Side, column: &KeyColumn, expression: &str) -> String {
    match order(side, column) {
        Some(order) => format!("{expression}::{}", order.type_name),
        None => expression.to_owned(),
    }
}

/// A text as a value of a column's type.
pub(super) fn cast(side: Side, column: &KeyColumn, text: &str) -> String {
    format!("{text}::{}", type_of(side, column))
}

/// A key's values as literals.
pub(super) fn literals(side: Side, columns: &[KeyColumn], key: &Key) -> Vec<String> {
    let pairs = columns.iter().zip(&key.0);
    pairs
        .map(|(column, value)| cast(side, column, &quote_literal(value)))
        .collect()
}

/// Values as SQL compares them together.
pub(super) fn row(values: &[String]) -> String {
    match values {
        [value] => value.clone(),
        values => format!("({})", values.join(", ")),
    }
}

/// A comparison of two keys, column by column as long as they are equal. As one comparison of rows, which an index serves,
/// where one operator compares all of the columns.
pub(super) fn compare(
    side: Side,
    columns: &[KeyColumn],
    strategy: Strategy,
    left: &[String],
    right: &[String],
) -> String {
    if let Some(operator) = strategy.of(side, columns) {
        return format!("{} {operator} {}", row(left), row(right));
    }
    let one = |strategy: Strategy, number: usize| {
        format!(
            "{} {} {}",
            left[number],
            strategy.of_column(side, &columns[number]),
            right[number]
        )
    };
    let last = columns.len() - 1;
    if strategy == Strategy::Equal {
        let all: Vec<_> = (0..=last).map(|number| one(strategy, number)).collect();
        return format!("({})", all.join(" AND "));
    }
    let mut condition = one(strategy, last);
    for number in (0..last).rev() {
        condition = format!(
            "({} OR ({} AND {condition}))",
            one(strategy.strict(), number),
            one(Strategy::Equal, number)
        );
    }
    // The first column alone tells an index where to begin or to end.
    format!("({} AND {condition})", one(strategy.or_equal(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, order: Option<&str>) -> KeyColumn {
        KeyColumn {
            name: name.to_owned(),
            target_name: None,
            type_name: "integer".to_owned(),
            target_type: None,
            collation: None,
            collation_definition: None,
            is_exact: true,
            is_coarser_on_target: false,
            source_order: order.map(|schema| Order {
                type_name: format!("{schema}.citext"),
                operators: ["<", "<=", "=", ">=", ">"].map(|name| format!("OPERATOR({schema}.{name})")),
            }),
            target_order: None,
        }
    }

    fn compared(strategy: Strategy, columns: &[KeyColumn]) -> String {
        let names: Vec<_> = columns
            .iter()
            .map(|column| operand(Side::Source, column, &column.name))
            .collect();
        let key = Key(vec!["1".to_owned(), "a'".to_owned()]);
        let values = literals(Side::Source, columns, &key);
        compare(Side::Source, columns, strategy, &names, &values)
    }

    #[test]
    fn columns_of_one_operator_are_compared_as_a_row() {
        assert_eq!(
            compared(Strategy::Greater, &[column("a", None)]),
            "a OPERATOR(pg_catalog.>) '1'::integer"
        );
        assert_eq!(
            compared(Strategy::LessOrEqual, &[column("a", None), column("b", None)]),
            "(a, b) OPERATOR(pg_catalog.<=) ('1'::integer, 'a'''::integer)"
        );
        assert_eq!(
            compared(Strategy::Equal, &[column("a", Some("x")), column("b", Some("x"))]),
            "(a::x.citext, b::x.citext) OPERATOR(x.=) ('1'::x.citext, 'a'''::x.citext)"
        );
    }

    #[test]
    fn columns_of_different_operators_are_compared_one_after_the_other() {
        let columns = [column("a", None), column("b", Some("x"))];
        assert_eq!(
            compared(Strategy::Greater, &columns),
            "(a OPERATOR(pg_catalog.>=) '1'::integer AND (a OPERATOR(pg_catalog.>) '1'::integer OR \
             (a OPERATOR(pg_catalog.=) '1'::integer AND b::x.citext OPERATOR(x.>) 'a'''::x.citext)))"
        );
        assert_eq!(
            compared(Strategy::Equal, &columns),
            "(a OPERATOR(pg_catalog.=) '1'::integer AND b::x.citext OPERATOR(x.=) 'a'''::x.citext)"
        );
    }
}
