//! Why a job is refused before anything starts: a value outside its range, or a name that belongs to another job.

use super::JobName;

/// Why a job, or a change of its tuning, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A value outside of what is allowed.
    #[error("`{value}` is not allowed for {flag}: {rule}")]
    Value {
        /// The flag that sets the value, `--batch-rows` for one.
        flag: &'static str,
        /// The value as it was given.
        value: String,
        /// What is allowed, as half a sentence.
        rule: &'static str,
    },
    /// A change that changes nothing.
    #[error("nothing to change: give --concurrency, --batch-rows, --max-rate or --interval")]
    EmptyChange,
    /// An interval for a job that has no rounds.
    #[error("--interval is the wait between two rounds of a sync, and this job is none")]
    NoInterval,
}

impl JobError {
    /// The bare rule, for where the flag and the value have been named already.
    pub fn rule(&self) -> String {
        match self {
            Self::Value { rule, .. } => (*rule).to_owned(),
            Self::EmptyChange | Self::NoInterval => self.to_string(),
        }
    }
}

/// Two jobs of one name that do not copy the same thing; its text shows both sides of each difference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is a job `{name}` already, and it is another one: {}", list(.differences))]
pub struct Mismatch {
    /// The name that both have.
    pub name: JobName,
    /// What differs; never empty.
    pub differences: Vec<Difference>,
}

/// One thing in which two jobs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs: `source`, `target`, `source table`, `target table`, `kind`, or a choice of rows, columns and values.
    pub what: &'static str,
    /// What the job that exists has.
    pub existing: String,
    /// What was asked for now.
    pub asked: String,
}

fn list(differences: &[Difference]) -> String {
    let each = |d: &Difference| format!("its {} is `{}`, here it is `{}`", d.what, d.existing, d.asked);
    differences.iter().map(each).collect::<Vec<_>>().join("; ")
}
