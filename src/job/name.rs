//! The names a job is made of: its own, and those of its connections. None of them can hold a password.

use serde::{Deserialize, Serialize};

use super::JobError;
use crate::table::TableName;

const NAME_LENGTH_MAX: usize = 100;

/// A job's name: 1 to 100 of `A-Z a-z 0-9 . _ -`; with it the operator speaks of the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(String);

impl JobName {
    /// The name a job gets when none is given: `table`, or `schema.table`.
    ///
    /// Characters that no job name has become `_` and a long name is cut, so two tables can get one name; the second job
    /// is then refused, with both shown.
    pub fn of_table(table: &TableName) -> Self {
        let text = match &table.schema {
            Some(schema) => format!("{schema}.{}", table.name),
            None => table.name.clone(),
        };
        let kept = |c: char| if is_name_char(c) { c } else { '_' };
        Self(text.chars().map(kept).take(NAME_LENGTH_MAX).collect())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl std::str::FromStr for JobName {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let good = (1..=NAME_LENGTH_MAX).contains(&text.len())
            && text.chars().all(is_name_char)
            && !text.starts_with('-');
        if !good {
            let rule =
                "a job's name is 1 to 100 letters, digits, `.`, `_` and `-`, and does not begin with `-`";
            return Err(JobError::Value {
                flag: "--name",
                value: text.to_owned(),
                rule,
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for JobName {
    type Error = JobError;

    fn try_from(text: String) -> Result<Self, JobError> {
        text.parse()
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0
    }
}

impl std::fmt::Display for JobName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// What a job keeps of a connection: a text that finds the server and database again, and holds no password.
///
/// The `postgres` room makes it of what the operator gave; two jobs copy from one place when these texts are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionName(String);

impl ConnectionName {
    /// Wraps a text from which the password has been taken away; the caller answers for that.
    pub fn without_password(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ConnectionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_after_its_table() {
        for (table, name) in [
            ("audio_downloads", "audio_downloads"),
            ("media.audio_downloads", "media.audio_downloads"),
            ("\"Größe 1\"", "Gr__e_1"),
        ] {
            let table: TableName = table.parse().expect(table);
            assert_eq!(JobName::of_table(&table).as_str(), name);
        }
        let long = TableName {
            schema: Some("s".repeat(63)),
            name: "t".repeat(63),
        };
        assert_eq!(JobName::of_table(&long).as_str().len(), 100);
    }

    #[test]
    fn a_name_is_of_plain_characters_and_not_too_long() {
        let longest = "x".repeat(100);
        for good in ["a", "nightly-1.b_C", longest.as_str()] {
            assert_eq!(good.parse::<JobName>().expect(good).as_str(), good);
        }
        let too_long = "x".repeat(101);
        for bad in ["", "a b", "a/b", "ä", "-x", "a\n", too_long.as_str()] {
            let error = bad.parse::<JobName>().expect_err(bad).to_string();
            assert!(error.contains("--name") && error.contains("1 to 100"), "{error}");
        }
    }

    #[test]
    fn a_name_out_of_the_journal_is_checked_too() {
        assert!(serde_json::from_str::<JobName>("\"a b\"").is_err());
        assert_eq!(
            serde_json::from_str::<JobName>("\"ab\"")
                .expect("a name")
                .as_str(),
            "ab"
        );
    }
}
