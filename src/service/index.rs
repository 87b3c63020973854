//! The index of closed runs: under each of their ids, types and statuses, in the order of the list. A filter that asks for
//! one of them, or for times of the end, reads what it lets through and little else.

use super::filter::{Comparison, Field, Filter};
use super::journal::indexed_prefix;
use super::visibility::Listed;

use temporalio_protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status;

/// What a closed run is found by. The better it tells runs apart, the earlier it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    WorkflowId(String),
    WorkflowType(String),
    Status(i32),
}

impl Value {
    /// Those of a run.
    pub fn of(run: &Listed) -> [Self; 3] {
        [
            Self::WorkflowId(run.workflow_id.clone()),
            Self::WorkflowType(run.workflow_type.clone()),
            Self::Status(run.status),
        ]
    }

    /// What the keys of the runs that have it begin with. The bytes of the fields are in the journal: never used again.
    pub fn prefix(&self, namespace: &str) -> Vec<u8> {
        match self {
            Self::WorkflowId(id) => indexed_prefix(namespace, b'w', id.as_bytes()),
            Self::WorkflowType(name) => indexed_prefix(namespace, b't', name.as_bytes()),
            Self::Status(status) => indexed_prefix(namespace, b's', &status.to_be_bytes()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::WorkflowId(_) => 0,
            Self::WorkflowType(_) => 1,
            Self::Status(_) => 2,
        }
    }
}

/// Where the closed runs are that a filter can let through.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// Those that have one of these values, all of one field; all runs, where there are none.
    pub values: Option<Vec<Value>>,
    /// Whether the filter lets all of them through.
    pub is_exact: bool,
    /// Those that closed at the first of these times at the earliest, at the second at the latest.
    pub closed_ms: (i64, i64),
}

impl Plan {
    pub fn of(filter: &Filter) -> Self {
        Self {
            values: values(filter),
            is_exact: is_exact(filter),
            closed_ms: closed_ms(filter),
        }
    }
}

/// The values of one field of which a run has one if the filter lets it through.
fn values(filter: &Filter) -> Option<Vec<Value>> {
    match filter {
        Filter::Text(field, Comparison::Equal, text) => Some(vec![match field {
            Field::WorkflowId => Value::WorkflowId(text.clone()),
            Field::WorkflowType => Value::WorkflowType(text.clone()),
            Field::ExecutionStatus => Value::Status(Status::from_str_name(&status_name(text))? as i32),
            _ => return None,
        }]),
        Filter::And(a, b) => {
            let rank = |values: &Vec<Value>| (values.first().map_or(0, Value::rank), values.len());
            [values(a), values(b)].into_iter().flatten().min_by_key(rank)
        }
        Filter::Or(a, b) => {
            let mut both = [values(a)?, values(b)?].concat();
            both.sort();
            both.dedup();
            let is_one_field = both.iter().all(|it| it.rank() == both[0].rank());
            is_one_field.then_some(both)
        }
        _ => None,
    }
}

/// Whether having one of the values is all that the filter asks for.
fn is_exact(filter: &Filter) -> bool {
    match filter {
        Filter::All => true,
        Filter::Text(_, Comparison::Equal, _) => values(filter).is_some(),
        Filter::Or(a, b) => is_exact(a) && is_exact(b) && values(filter).is_some(),
        _ => false,
    }
}

/// `TimedOut` is `WORKFLOW_EXECUTION_STATUS_TIMED_OUT`.
fn status_name(name: &str) -> String {
    let mut words = "WORKFLOW_EXECUTION_STATUS".to_owned();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            words.push('_');
        }
        words.push(letter.to_ascii_uppercase());
    }
    words
}

fn closed_ms(filter: &Filter) -> (i64, i64) {
    const EVER: (i64, i64) = (0, i64::MAX - 1);
    match filter {
        Filter::Time(Field::CloseTime, comparison, at_ms) => match comparison {
            Comparison::Equal => (*at_ms, *at_ms),
            Comparison::Less | Comparison::AtMost => (EVER.0, *at_ms),
            Comparison::Greater | Comparison::AtLeast => (*at_ms, EVER.1),
            _ => EVER,
        },
        Filter::And(a, b) => {
            let (a, b) = (closed_ms(a), closed_ms(b));
            (a.0.max(b.0), a.1.min(b.1))
        }
        Filter::Or(a, b) => {
            let (a, b) = (closed_ms(a), closed_ms(b));
            (a.0.min(b.0), a.1.max(b.1))
        }
        _ => EVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(filter: &str) -> Plan {
        Plan::of(&Filter::parse(filter).unwrap())
    }

    #[test]
    fn a_filter_is_looked_up_by_what_tells_runs_apart_best() {
        let id = |id: &str| Value::WorkflowId(id.into());
        let name = |name: &str| Value::WorkflowType(name.into());
        for (filter, values, is_exact) in [
            ("", None, true),
            (
                "ExecutionStatus = 'TimedOut'",
                Some(vec![Value::Status(Status::TimedOut as i32)]),
                true,
            ),
            (
                "ExecutionStatus IN ('Failed', 'ContinuedAsNew', 'Failed')",
                Some(vec![
                    Value::Status(Status::Failed as i32),
                    Value::Status(Status::ContinuedAsNew as i32),
                ]),
                true,
            ),
            (
                "ExecutionStatus = 'Failed' AND WorkflowType = 'T'",
                Some(vec![name("T")]),
                false,
            ),
            (
                "WorkflowType = 'T' AND WorkflowId IN ('a', 'b')",
                Some(vec![id("a"), id("b")]),
                false,
            ),
            ("WorkflowType = 'T' OR WorkflowId = 'a'", None, false),
            ("NOT WorkflowType = 'T'", None, false),
            ("WorkflowType != 'T'", None, false),
            ("WorkflowId STARTS_WITH 'a'", None, false),
            ("RunId = 'a'", None, false),
        ] {
            let found = plan(filter);
            assert_eq!((found.values, found.is_exact), (values, is_exact), "{filter}");
        }
    }

    #[test]
    fn times_of_the_end_are_bounds() {
        let at = |seconds: i64| format!("'1970-01-01T00:00:{seconds:02}Z'");
        let (two, five) = (at(2), at(5));
        let ever = i64::MAX - 1;
        for (filter, bounds) in [
            (format!("CloseTime > {two}"), (2000, ever)),
            (
                format!("CloseTime <= {five} AND CloseTime >= {two}"),
                (2000, 5000),
            ),
            (
                format!("CloseTime BETWEEN {two} AND {five} AND WorkflowId = 'a'"),
                (2000, 5000),
            ),
            (format!("CloseTime = {two} OR CloseTime = {five}"), (2000, 5000)),
            (format!("CloseTime = {two} OR WorkflowId = 'a'"), (0, ever)),
            (format!("NOT CloseTime = {two}"), (0, ever)),
            (format!("StartTime = {two}"), (0, ever)),
        ] {
            assert_eq!(plan(&filter).closed_ms, bounds, "{filter}");
        }
    }
}
