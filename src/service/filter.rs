//! The part of Temporal's query language that lists are filtered by: comparisons of what the service knows of every run,
//! joined by AND, OR, NOT and parentheses. What is not understood is refused, never ignored.

use std::cmp::Ordering;
use std::time::UNIX_EPOCH;

use temporalio_protos::temporal::api::enums::v1::WorkflowExecutionStatus as Status;

use super::visibility::Listed;

/// How deep parentheses and NOTs may go.
const MAX_DEPTH: usize = 32;

/// What a filter lets through.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Everything.
    All,
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Text(Field, Comparison, String),
    /// Milliseconds of Unix time.
    Time(Field, Comparison, i64),
    /// The run is open, and so has no time of its end.
    NoCloseTime,
}

/// A run, as a list has it.
pub struct Known<'a> {
    run_id: &'a str,
    start_ms: i64,
    listed: &'a Listed,
}

impl<'a> Known<'a> {
    pub fn of(run_id: &'a str, start_ms: i64, listed: &'a Listed) -> Self {
        Self {
            run_id,
            start_ms,
            listed,
        }
    }
}

/// What a run is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    WorkflowId,
    WorkflowType,
    RunId,
    TaskQueue,
    ExecutionStatus,
    StartTime,
    ExecutionTime,
    CloseTime,
}

/// How it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    StartsWith,
}

impl Filter {
    /// Reads a filter; the error says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader {
            words: words(text)?,
            depth: 0,
        };
        if reader.words.is_empty() {
            return Ok(Self::All);
        }
        let filter = reader.any()?;
        match reader.words.pop() {
            None => Ok(filter),
            Some(word) => Err(format!("{} is out of place", word.shown())),
        }
    }

    /// Takes `GROUP BY ExecutionStatus`, which counts can be told by, off the end of a filter. Says whether it was there.
    pub fn split_group(text: &str) -> Result<(&str, bool), String> {
        let mut reader = Reader {
            words: words(text)?,
            depth: 0,
        };
        let Some(at) = reader.words.iter().rposition(|word| word.is("GROUP")) else {
            return Ok((text, false));
        };
        let field = match reader.words.drain(..at).rev().collect::<Vec<_>>().as_slice() {
            [by, Word::Name(field)] if by.is("BY") => field.clone(),
            _ => return Err("GROUP BY is followed by one name, and is the end".to_owned()),
        };
        if field != "ExecutionStatus" {
            return Err(format!("counts are told by ExecutionStatus only, not by {field}"));
        }
        let ends = text.to_ascii_uppercase().rfind("GROUP").unwrap_or(text.len());
        Ok((&text[..ends], true))
    }

    /// Whether a run is let through.
    pub fn holds(&self, run: &Known) -> bool {
        match self {
            Self::All => true,
            Self::And(a, b) => a.holds(run) && b.holds(run),
            Self::Or(a, b) => a.holds(run) || b.holds(run),
            Self::Not(a) => !a.holds(run),
            Self::Text(field, comparison, value) => {
                let status = Status::try_from(run.listed.status).unwrap_or_default();
                let status = format!("{status:?}");
                let known = match field {
                    Field::WorkflowId => &run.listed.workflow_id,
                    Field::WorkflowType => &run.listed.workflow_type,
                    Field::RunId => run.run_id,
                    Field::TaskQueue => &run.listed.task_queue,
                    _ => status.as_str(),
                };
                match comparison {
                    Comparison::StartsWith => known.starts_with(value),
                    comparison => comparison.holds(known.cmp(value)),
                }
            }
            Self::Time(field, comparison, at_ms) => {
                let known_ms = match field {
                    Field::StartTime => run.start_ms,
                    Field::ExecutionTime => run.listed.execution_ms.max(run.start_ms),
                    _ => run.listed.close_ms,
                };
                // A run that is open has no time of its end to compare.
                known_ms != 0 && comparison.holds(known_ms.cmp(at_ms))
            }
            Self::NoCloseTime => run.listed.status == Status::Running as i32,
        }
    }

    /// Whether no closed run can be let through: then none needs to be read.
    pub fn wants_open(&self) -> bool {
        match self {
            Self::And(a, b) => a.wants_open() || b.wants_open(),
            Self::Or(a, b) => a.wants_open() && b.wants_open(),
            Self::Text(Field::ExecutionStatus, Comparison::Equal, status) => status == "Running",
            Self::NoCloseTime => true,
            _ => false,
        }
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::AtLeast => order.is_ge(),
            Self::StartsWith => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Word {
    Name(String),
    Text(String),
    Sign(&'static str),
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Name(name) if name.eq_ignore_ascii_case(keyword))
    }

    fn shown(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Text(text) => text,
            Self::Sign(sign) => sign,
        }
    }
}

const SIGNS: [&str; 9] = ["<=", ">=", "!=", "=", "<", ">", "(", ")", ","];

/// The words of a filter, the last one first.
fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '\'' | '"' | '`') {
            let end = rest[1..]
                .find(first)
                .ok_or_else(|| format!("{first} is not closed"))?;
            let inside = rest[1..=end].to_owned();
            words.push(if first == '`' {
                Word::Name(inside)
            } else {
                Word::Text(inside)
            });
            rest = &rest[end + 2..];
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            words.push(Word::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
            let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("{first} is out of place"));
            }
            words.push(Word::Name(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    words.reverse();
    Ok(words)
}

/// Reads from the end of its list, which is the beginning of the filter.
struct Reader {
    words: Vec<Word>,
    depth: usize,
}

impl Reader {
    fn any(&mut self) -> Result<Filter, String> {
        let mut filter = self.all()?;
        while self.takes("OR") {
            filter = Filter::Or(Box::new(filter), Box::new(self.all()?));
        }
        Ok(filter)
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut filter = self.one()?;
        while self.takes("AND") {
            filter = Filter::And(Box::new(filter), Box::new(self.one()?));
        }
        Ok(filter)
    }

    fn one(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        let filter = if self.takes("NOT") {
            Filter::Not(Box::new(self.one()?))
        } else if self.takes_sign("(") {
            let filter = self.any()?;
            self.expect_sign(")")?;
            filter
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, String> {
        let field = self.field()?;
        let negated = self.takes("NOT");
        let negate = |filter| {
            if negated {
                Filter::Not(Box::new(filter))
            } else {
                filter
            }
        };
        if self.takes("IN") {
            self.expect_sign("(")?;
            let mut filter = self.compared(field, Comparison::Equal)?;
            while self.takes_sign(",") {
                filter = Filter::Or(
                    Box::new(filter),
                    Box::new(self.compared(field, Comparison::Equal)?),
                );
            }
            self.expect_sign(")")?;
            return Ok(negate(filter));
        }
        if self.takes("STARTS_WITH") {
            return Ok(negate(self.compared(field, Comparison::StartsWith)?));
        }
        if self.takes("BETWEEN") {
            let low = self.compared(field, Comparison::AtLeast)?;
            if !self.takes("AND") {
                return Err("BETWEEN lacks its AND".to_owned());
            }
            let high = self.compared(field, Comparison::AtMost)?;
            return Ok(negate(Filter::And(Box::new(low), Box::new(high))));
        }
        if negated {
            return Err("NOT is out of place".to_owned());
        }
        if self.takes("IS") {
            let open = !self.takes("NOT");
            if !self.takes("NULL") || field != Field::CloseTime {
                return Err("only CloseTime can be NULL".to_owned());
            }
            let filter = Filter::NoCloseTime;
            return Ok(if open {
                filter
            } else {
                Filter::Not(Box::new(filter))
            });
        }
        let comparison = match self.words.pop() {
            Some(Word::Sign("=")) => Comparison::Equal,
            Some(Word::Sign("!=")) => Comparison::Unequal,
            Some(Word::Sign("<")) => Comparison::Less,
            Some(Word::Sign("<=")) => Comparison::AtMost,
            Some(Word::Sign(">")) => Comparison::Greater,
            Some(Word::Sign(">=")) => Comparison::AtLeast,
            Some(word) => return Err(format!("{} is no comparison", word.shown())),
            None => return Err("it ends too early".to_owned()),
        };
        self.compared(field, comparison)
    }

    fn field(&mut self) -> Result<Field, String> {
        Ok(match self.words.pop() {
            Some(Word::Name(name)) => match name.as_str() {
                "WorkflowId" => Field::WorkflowId,
                "WorkflowType" => Field::WorkflowType,
                "RunId" => Field::RunId,
                "TaskQueue" => Field::TaskQueue,
                "ExecutionStatus" => Field::ExecutionStatus,
                "StartTime" => Field::StartTime,
                "ExecutionTime" => Field::ExecutionTime,
                "CloseTime" => Field::CloseTime,
                other => return Err(format!("there is no {other}")),
            },
            Some(word) => return Err(format!("{} is no name", word.shown())),
            None => return Err("it ends too early".to_owned()),
        })
    }

    fn compared(&mut self, field: Field, comparison: Comparison) -> Result<Filter, String> {
        let value = match self.words.pop() {
            Some(Word::Text(value)) => value,
            Some(word) => return Err(format!("{} is no value in quotes", word.shown())),
            None => return Err("it ends too early".to_owned()),
        };
        let equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
        match field {
            Field::StartTime | Field::ExecutionTime | Field::CloseTime => {
                let time = humantime::parse_rfc3339(&value).ok();
                let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let at_ms = since.and_then(|since| i64::try_from(since.as_millis()).ok());
                match at_ms.filter(|_| comparison != Comparison::StartsWith) {
                    Some(at_ms) => Ok(Filter::Time(field, comparison, at_ms)),
                    None => Err(format!("{value} is no time in UTC by RFC 3339")),
                }
            }
            Field::ExecutionStatus if !equality => Err("a status is equal, or not".to_owned()),
            Field::ExecutionStatus if !is_status(&value) => Err(format!("there is no status {value}")),
            _ => Ok(Filter::Text(field, comparison, value)),
        }
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let is_next = self.words.last().is_some_and(|word| word.is(keyword));
        is_next && self.words.pop().is_some()
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.words.last(), Some(Word::Sign(it)) if *it == sign);
        is_next && self.words.pop().is_some()
    }

    fn expect_sign(&mut self, sign: &str) -> Result<(), String> {
        if self.takes_sign(sign) {
            Ok(())
        } else {
            Err(format!("{sign} is missing"))
        }
    }
}

fn is_status(name: &str) -> bool {
    let all = [
        Status::Running,
        Status::Completed,
        Status::Failed,
        Status::Canceled,
        Status::Terminated,
        Status::ContinuedAsNew,
        Status::TimedOut,
    ];
    all.into_iter().any(|status| format!("{status:?}") == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(workflow_id: &str, start_ms: i64, status: Status) -> (i64, Listed) {
        let listed = Listed {
            workflow_id: workflow_id.into(),
            workflow_type: "T".into(),
            close_ms: if status == Status::Running {
                0
            } else {
                start_ms + 1000
            },
            status: status as i32,
            ..Default::default()
        };
        (start_ms, listed)
    }

    #[test]
    fn what_is_understood_lets_through_what_it_says() {
        let runs = [
            run("a", 1000, Status::Running),
            run("b", 2000, Status::Completed),
            run("it's", 3000, Status::TimedOut),
        ];
        let seen = |filter: &str| -> String {
            let parsed = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
            let holds = |start_ms, run| parsed.holds(&Known::of("", start_ms, run));
            let holding = runs.iter().filter(|(start_ms, run)| holds(*start_ms, run));
            holding.map(|(_, run)| &run.workflow_id[..1]).collect()
        };
        for (filter, expected) in [
            ("", "abi"),
            ("WorkflowId = 'a' AND ExecutionStatus=\"Running\"", "a"),
            ("WorkflowId=\"a\" or WorkflowId=\"b\"", "ab"),
            (
                "WorkflowId = 'a' OR WorkflowId = 'b' AND ExecutionStatus = 'Running'",
                "a",
            ),
            (
                "(WorkflowId = 'a' OR WorkflowId = 'b') AND NOT ExecutionStatus = 'Running'",
                "b",
            ),
            ("`WorkflowId` != 'a'", "bi"),
            ("WorkflowId = \"it's\"", "i"),
            ("WorkflowId IN ('a', \"it's\")", "ai"),
            ("WorkflowId not in ('a')", "bi"),
            ("WorkflowId STARTS_WITH 'it' AND WorkflowType = 'T'", "i"),
            ("StartTime >= '1970-01-01T00:00:02Z'", "bi"),
            (
                "StartTime BETWEEN '1970-01-01T00:00:01Z' AND '1970-01-01T00:00:02Z'",
                "ab",
            ),
            ("CloseTime < '1970-01-01T00:00:04Z'", "b"),
            ("CloseTime IS NULL", "a"),
            ("CloseTime is not null", "bi"),
        ] {
            assert_eq!(seen(filter), expected, "{filter}");
        }
    }

    #[test]
    fn closed_runs_are_read_unless_none_can_be_let_through() {
        for (filter, expected) in [
            ("ExecutionStatus = 'Running' AND WorkflowId = 'a'", true),
            ("CloseTime IS NULL OR ExecutionStatus = 'Running'", true),
            ("ExecutionStatus = 'Running' OR WorkflowId = 'a'", false),
            ("NOT ExecutionStatus = 'Running'", false),
            ("ExecutionStatus != 'Running'", false),
            ("", false),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().wants_open(), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for refused in [
            "StartTime = 'x'",
            "ExecutionStatus = 'Sleeping'",
            "ExecutionStatus > 'Running'",
            "WorkflowId = a",
            "WorkflowId = 'a",
            "WorkflowId 'a'",
            "WorkflowId =",
            "WorkflowId = 'a' WorkflowId = 'b'",
            "WorkflowId = 'a' XOR WorkflowId = 'b'",
            "(WorkflowId = 'a'",
            "WorkflowId = 'a')",
            "Custom = 'a'",
            "WorkflowId IS NULL",
            "WorkflowId = 'a' ORDER BY StartTime",
            "ä = 'a'",
            "WorkflowId ~ 'a'",
            &"(".repeat(10_000),
            &"NOT ".repeat(10_000),
        ] {
            assert!(Filter::parse(refused).is_err(), "{refused}");
        }
    }
}
