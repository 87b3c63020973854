//! The job as it is journaled: what to copy, from where to where, and how. The input of the workflow it becomes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::status::JobKind;
use super::{ConnectionName, Difference, JobError, JobName, Mismatch, Tuning};
use crate::table::{Against, DatabaseIdentity, KeyChoice, OnConflict, Shape, TableName, TableSpec};

const INTERVAL_MS_MIN: u64 = 1000;
/// A year; longer waits are taken for a mistake, and the timer's arithmetic stays far from its end.
const INTERVAL_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;

/// A job: what the operator asked for, complete and free of passwords.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The name the operator speaks of it by.
    pub name: JobName,
    /// Whether it ends, or goes on round after round.
    pub kind: Kind,
    /// Where the rows are.
    pub source: ConnectionName,
    /// Where the rows go.
    pub target: ConnectionName,
    /// The table on the source.
    pub source_table: TableName,
    /// The table on the target.
    pub target_table: TableName,
    /// How hard it works.
    pub tuning: Tuning,
    /// What becomes of a row whose key is on the target already.
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Whether triggers of the target may fire, and so change or drop what is copied.
    #[serde(default)]
    pub fire_triggers: bool,
    /// A role that the ledger on the target may belong to, besides the user itself and superusers.
    #[serde(default)]
    pub ledger_owner: Option<String>,
    /// What is verified: by a verify job, or at the end of a migrate; `None`: nothing.
    #[serde(default)]
    pub verify: Option<VerifySpec>,
    /// How many keys below the highest one a sync job looks at again each round, for ids taken in an earlier transaction.
    #[serde(default)]
    pub lookback_keys: Option<u64>,
    /// Which database the source is, whatever address leads there; `None` where nobody has looked, and in jobs of versions
    /// that went by addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_database: Option<DatabaseIdentity>,
    /// Which database the target is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_database: Option<DatabaseIdentity>,
    /// How long it waits, once it runs, for what should pass, at least 1000 ms; `None`: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_after_ms: Option<u64>,
    /// Which rows and columns are copied, and as what.
    #[serde(default, skip_serializing_if = "Shape::is_whole")]
    pub shape: Shape,
    /// What is said of the key along which the table is copied.
    #[serde(default, skip_serializing_if = "KeyChoice::is_free")]
    pub key: KeyChoice,
}

/// One end of a job: where it is reached, and which database that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The text that leads there.
    pub address: ConnectionName,
    /// Which database it is; `None` where nobody has looked.
    #[serde(default)]
    pub database: Option<DatabaseIdentity>,
}

/// Both ends of a job, as they may change from run to run: the servers may have moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Where the rows are.
    pub source: End,
    /// Where they go.
    pub target: End,
}

impl End {
    /// Whether both are one database; `None` where the addresses differ and nothing else can be told.
    #[must_use]
    pub fn is(&self, other: &Self) -> Option<bool> {
        let databases = self.database.as_ref().zip(other.database.as_ref());
        let told = databases.and_then(|(one, two)| one.is(two));
        told.or_else(|| (self.address == other.address).then_some(true))
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.database {
            Some(database) => write!(f, "{}, {database}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Whether a job ends or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Copies what is there, and ends.
    Migrate,
    /// Holds what is on the target against receipts or source, and ends.
    Verify,
    /// Copies what is there, then what is new, round after round.
    Sync {
        /// The wait between two rounds, at least 1000 ms.
        interval_ms: u64,
    },
}

/// What a verification is to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerifySpec {
    /// The job whose ledger is walked; `None`: tables that no job of ours has copied.
    #[serde(default)]
    pub job: Option<JobName>,
    /// What the target is held against.
    #[serde(default)]
    pub against: Against,
    /// Whether rows that differ are copied again.
    #[serde(default)]
    pub repair: bool,
    /// Whether a repair deletes rows that only the target has.
    #[serde(default)]
    pub delete_extra: bool,
}

impl Kind {
    /// The wait between two rounds of a sync; `None` for the others, which have no rounds.
    #[must_use]
    pub fn interval_ms(self) -> Option<u64> {
        match self {
            Self::Sync { interval_ms } => Some(interval_ms),
            Self::Migrate | Self::Verify => None,
        }
    }

    /// The kind without its interval, as a status shows it.
    pub fn label(self) -> JobKind {
        match self {
            Self::Migrate => JobKind::Migrate,
            Self::Verify => JobKind::Verify,
            Self::Sync { .. } => JobKind::Sync,
        }
    }
}

impl OnConflict {
    /// Every choice, as the operator writes it.
    pub const NAMES: [&'static str; 3] = ["error", "skip", "update"];
}

impl std::str::FromStr for OnConflict {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        match text {
            "error" => Ok(Self::Error),
            "skip" => Ok(Self::Skip),
            "update" => Ok(Self::Update),
            _ => {
                let rule = "it must be error, skip or update";
                Err(JobError::Value {
                    flag: "--on-conflict",
                    value: text.to_owned(),
                    rule,
                })
            }
        }
    }
}

impl std::fmt::Display for OnConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Skip => "skip",
            Self::Update => "update",
        })
    }
}

impl JobSpec {
    /// Says whether every value is in its range; names were checked when they were made.
    pub fn validate(&self) -> Result<(), JobError> {
        self.tuning.validate()?;
        if let Kind::Sync { interval_ms } = self.kind {
            check_interval(interval_ms, &format!("{interval_ms}ms"))?;
        }
        match self.lookback_keys {
            Some(0) => Err(lookback_refused("0")),
            _ => Ok(()),
        }
    }

    /// Where its rows come from and go to.
    #[must_use]
    pub fn ends(&self) -> Ends {
        Ends {
            source: End {
                address: self.source.clone(),
                database: self.source_database.clone(),
            },
            target: End {
                address: self.target.clone(),
                database: self.target_database.clone(),
            },
        }
    }

    /// The same job, whose servers are elsewhere now.
    pub fn move_to(&mut self, ends: Ends) {
        (self.source, self.source_database) = (ends.source.address, ends.source.database);
        (self.target, self.target_database) = (ends.target.address, ends.target.database);
    }

    /// The table, as the ledger and every activity know it.
    #[must_use]
    pub fn table_spec(&self) -> TableSpec {
        let verified = self.verify.as_ref().and_then(|verify| verify.job.as_ref());
        TableSpec {
            job: verified.unwrap_or(&self.name).to_string(),
            source_table: self.source_table.clone(),
            target_table: self.target_table.clone(),
            on_conflict: self.on_conflict,
            fire_triggers: self.fire_triggers,
            ledger_owner: self.ledger_owner.clone(),
            shape: self.shape.clone(),
            key: self.key.clone(),
        }
    }

    /// Says whether `asked` would copy the same rows to the same place as this job, which exists.
    ///
    /// The databases, both tables, what of them is copied, and the kind count; what may change from run to run (addresses, tuning, interval,
    /// conflicts, lookback) does not. An end of which only another address is known is taken for another one.
    pub fn same_job_as(&self, asked: &Self) -> Result<(), Mismatch> {
        let kind = |spec: &Self| match spec.kind.label() {
            JobKind::Migrate => "migrate".to_owned(),
            JobKind::Sync => "sync".to_owned(),
            JobKind::Verify => "verify".to_owned(),
        };
        let (here, there) = (self.ends(), asked.ends());
        let ends = [
            ("source", here.source, there.source),
            ("target", here.target, there.target),
        ];
        let ends = ends.into_iter().filter(|(_, one, two)| one.is(two) != Some(true));
        let ends = ends.map(|(what, one, two)| (what, one.to_string(), two.to_string()));
        let others = [
            (
                "source table",
                self.source_table.to_string(),
                asked.source_table.to_string(),
            ),
            (
                "target table",
                self.target_table.to_string(),
                asked.target_table.to_string(),
            ),
            ("kind", kind(self), kind(asked)),
        ];
        let shapes = self.shape.shown().into_iter().zip(asked.shape.shown());
        let shapes = shapes.map(|((what, existing), (_, asked))| (what, existing, asked));
        let others = others
            .into_iter()
            .chain(shapes)
            .filter(|(_, existing, asked)| existing != asked);
        let differences: Vec<_> = ends
            .chain(others)
            .map(|(what, existing, asked)| Difference {
                what,
                existing,
                asked,
            })
            .collect();
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Mismatch {
                name: self.name.clone(),
                differences,
            })
        }
    }
}

/// Reads the wait between two rounds, `10m` or `1h 30m`: 1 second to a year; gives milliseconds.
pub fn parse_interval(text: &str) -> Result<u64, JobError> {
    let interval: Duration = humantime::parse_duration(text).map_err(|_| interval_refused(text))?;
    let interval_ms = u64::try_from(interval.as_millis()).map_err(|_| interval_refused(text))?;
    check_interval(interval_ms, text)?;
    Ok(interval_ms)
}

pub(super) fn check_interval(interval_ms: u64, text: &str) -> Result<(), JobError> {
    if (INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&interval_ms) {
        Ok(())
    } else {
        Err(interval_refused(text))
    }
}

fn interval_refused(value: &str) -> JobError {
    let rule = "it must be 1s to a year, as in `30s`, `10m` or `1h 30m`";
    JobError::Value {
        flag: "--interval",
        value: value.to_owned(),
        rule,
    }
}

/// How long a job that runs waits for what should pass, as the operator writes it: `never`, or 1 second to a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GiveUpAfter {
    /// Milliseconds; `None`: it waits for ever.
    pub ms: Option<u64>,
}

impl std::str::FromStr for GiveUpAfter {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        if text == "never" {
            return Ok(Self::default());
        }
        let ms = parse_interval(text).map_err(|_| JobError::Value {
            flag: "--give-up-after",
            value: text.to_owned(),
            rule: "it must be never, or 1s to a year, as in `30s`, `10m` or `1h 30m`",
        })?;
        Ok(Self { ms: Some(ms) })
    }
}

/// Reads a number of keys to look back, at least 1.
pub fn parse_lookback(text: &str) -> Result<u64, JobError> {
    match text.parse() {
        Ok(keys) if keys > 0 => Ok(keys),
        _ => Err(lookback_refused(text)),
    }
}

fn lookback_refused(value: &str) -> JobError {
    let rule = "it must be a number of keys, 1 or more";
    JobError::Value {
        flag: "--lookback",
        value: value.to_owned(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        let table: TableName = "audio_downloads".parse().expect("a name");
        JobSpec {
            name: JobName::of_table(&table),
            kind: Kind::Migrate,
            source: ConnectionName::without_password("postgres://app@old/media"),
            target: ConnectionName::without_password("postgres://app@new/media"),
            source_table: table.clone(),
            target_table: table,
            tuning: Tuning {
                concurrency: 4,
                batch_rows: None,
                max_rate_bytes_per_second: None,
            },
            on_conflict: OnConflict::Error,
            fire_triggers: false,
            ledger_owner: None,
            verify: None,
            lookback_keys: None,
            source_database: None,
            target_database: None,
            give_up_after_ms: None,
            shape: Shape::default(),
            key: KeyChoice::default(),
        }
    }

    fn identity(system: Option<&str>, database: &str) -> DatabaseIdentity {
        DatabaseIdentity {
            system_identifier: system.map(str::to_owned),
            database: database.to_owned(),
        }
    }

    #[test]
    fn a_job_with_another_source_or_table_is_another_job_and_both_are_shown() {
        let existing = spec();
        let mut asked = spec();
        asked.source = ConnectionName::without_password("postgres://app@elsewhere/media");
        asked.source_table = "images".parse().expect("a name");
        asked.kind = Kind::Sync { interval_ms: 60_000 };
        let mismatch = existing.same_job_as(&asked).expect_err("three things differ");
        let whats: Vec<_> = mismatch.differences.iter().map(|d| d.what).collect();
        assert_eq!(whats, ["source", "source table", "kind"]);
        let text = mismatch.to_string();
        for word in [
            "postgres://app@old/media",
            "postgres://app@elsewhere/media",
            "`images`",
            "`sync`",
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }

    #[test]
    fn the_database_counts_and_not_the_address_that_leads_there() {
        let with = |address: &str, database: DatabaseIdentity| JobSpec {
            source: ConnectionName::without_password(address),
            source_database: Some(database),
            ..spec()
        };
        let existing = with("postgres://app@old/media", identity(Some("7"), "media"));
        let moved = "postgres://app@new:5433/media?sslmode=require";
        assert_eq!(
            existing.same_job_as(&with(moved, identity(Some("7"), "media"))),
            Ok(())
        );
        for (other, shown) in [
            (identity(Some("8"), "media"), "database media of cluster 8"),
            (identity(Some("7"), "audio"), "database audio of cluster 7"),
        ] {
            // Another database under the very same address, too.
            for address in [moved, "postgres://app@old/media"] {
                let asked = with(address, other.clone());
                let said = existing
                    .same_job_as(&asked)
                    .expect_err("another database")
                    .to_string();
                assert!(said.contains(shown) && said.contains("of cluster 7"), "{said}");
            }
        }
        // A server that keeps its identifier to itself is known by its address, and by its database's name.
        let silent = |address, database| with(address, identity(None, database));
        let old = "postgres://app@old/media";
        assert_eq!(existing.same_job_as(&silent(old, "media")), Ok(()));
        assert!(existing.same_job_as(&silent(moved, "media")).is_err());
        assert!(existing.same_job_as(&silent(old, "audio")).is_err());
        let end = |spec: &JobSpec| spec.ends().source;
        assert_eq!(end(&existing).is(&end(&silent(moved, "media"))), None);
        assert_eq!(end(&existing).is(&end(&silent(moved, "audio"))), Some(false));
        let mut follows = existing.clone();
        follows.move_to(with(moved, identity(Some("7"), "media")).ends());
        assert_eq!(
            (follows.source.as_str(), &follows.target),
            (moved, &existing.target)
        );
    }

    #[test]
    fn how_long_is_waited_is_a_time_or_never() {
        let read = |text: &str| text.parse::<GiveUpAfter>().map(|it| it.ms);
        assert_eq!(read("never"), Ok(None));
        assert_eq!(read("1h"), Ok(Some(3_600_000)));
        for text in ["", "0s", "for ever", "-1h"] {
            let error = read(text).expect_err(text).to_string();
            assert!(
                error.contains("--give-up-after") && error.contains("never"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_job_tuned_otherwise_is_the_same_job() {
        let mut asked = spec();
        asked.tuning.concurrency = 8;
        asked.on_conflict = OnConflict::Skip;
        assert_eq!(spec().same_job_as(&asked), Ok(()));
    }

    #[test]
    fn a_job_reads_back_from_the_journal_as_it_was() {
        for kind in [Kind::Migrate, Kind::Sync { interval_ms: 600_000 }] {
            let job = JobSpec {
                kind,
                lookback_keys: Some(1000),
                source_database: Some(identity(Some("7"), "media")),
                give_up_after_ms: Some(1000),
                ..spec()
            };
            let json = serde_json::to_string(&job).expect("plain data");
            assert_eq!(
                serde_json::from_str::<JobSpec>(&json).expect("what was written"),
                job
            );
        }
    }

    #[test]
    fn a_journaled_job_of_this_version_stays_readable() {
        let frozen = r#"{"name":"a","kind":{"sync":{"interval_ms":2000}},"source":"s","target":"t",
            "source_table":{"schema":null,"name":"a"},"target_table":{"schema":"public","name":"a"},
            "tuning":{"concurrency":4}}"#;
        let job: JobSpec = serde_json::from_str(frozen).expect("the first version's form");
        assert_eq!(job.kind, Kind::Sync { interval_ms: 2000 });
        assert_eq!((job.on_conflict, job.lookback_keys), (OnConflict::Error, None));
        assert!(!job.fire_triggers && !job.table_spec().fire_triggers);
        assert_eq!((&job.source_database, job.give_up_after_ms), (&None, None));
    }

    #[test]
    fn intervals_are_at_least_a_second() {
        assert_eq!(parse_interval("10m"), Ok(600_000));
        assert_eq!(parse_interval("1h 30m"), Ok(5_400_000));
        for text in ["", "0s", "999ms", "10", "two", "2years", "-1s"] {
            let error = parse_interval(text).expect_err(text).to_string();
            assert!(
                error.contains("--interval") && error.contains("1s to a year"),
                "{error}"
            );
        }
        let job = JobSpec {
            kind: Kind::Sync { interval_ms: 999 },
            ..spec()
        };
        assert!(job.validate().is_err());
        assert_eq!(spec().validate(), Ok(()));
    }
}
