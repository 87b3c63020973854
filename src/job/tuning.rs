//! How hard a job works: its concurrency, the size of a batch and the speed limit; and a change of them while it runs.

use serde::{Deserialize, Serialize};

use super::spec::check_interval;
use super::{JobError, JobSpec, Kind, RateLimit};

const CONCURRENCY_MAX: u32 = 64;
const BATCH_ROWS_MAX: u64 = 10_000_000;

/// How hard a job works; it can be changed while the job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Batches in flight at one time, 1 to 64.
    pub concurrency: u32,
    /// Rows in a batch, 1 to 10,000,000; `None`: adapted to the servers, at most 50,000 rows or 16 MB.
    #[serde(default)]
    pub batch_rows: Option<u64>,
    /// Bytes per second for the whole job, at least 1000; `None`: no limit.
    #[serde(default)]
    pub max_rate_bytes_per_second: Option<u64>,
}

impl Tuning {
    /// Says whether every value is in its range.
    pub fn validate(&self) -> Result<(), JobError> {
        check_concurrency(self.concurrency)?;
        BatchRows {
            rows: self.batch_rows,
        }
        .validate()?;
        self.max_rate().validate()
    }

    /// The speed limit, in the form that parses and shows itself.
    pub fn max_rate(&self) -> RateLimit {
        RateLimit {
            bytes_per_second: self.max_rate_bytes_per_second,
        }
    }
}

/// A change of a job's tuning: the input of the workflow's update behind `longhaul tune`. What is `None` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TuningChange {
    /// A new number of batches in flight.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// A new size of a batch, or back to the automatic one.
    #[serde(default)]
    pub batch_rows: Option<BatchRows>,
    /// A new speed limit, or none any more.
    #[serde(default)]
    pub max_rate: Option<RateLimit>,
    /// A new wait between two rounds of a sync, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

impl TuningChange {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Says whether the change can be applied to a job of that kind. Serves as the update's validator.
    pub fn validate_for(&self, kind: Kind) -> Result<(), JobError> {
        if self.interval_ms.is_some() && !matches!(kind, Kind::Sync { .. }) {
            return Err(JobError::NoInterval);
        }
        self.validate()
    }

    /// Says whether the change can be applied: not empty, each value in its range.
    pub fn validate(&self) -> Result<(), JobError> {
        if self.is_empty() {
            return Err(JobError::EmptyChange);
        }
        self.concurrency.map_or(Ok(()), check_concurrency)?;
        self.batch_rows.map_or(Ok(()), BatchRows::validate)?;
        self.interval_ms.map_or(Ok(()), |interval_ms| {
            check_interval(interval_ms, &format!("{interval_ms}ms"))
        })?;
        self.max_rate.map_or(Ok(()), RateLimit::validate)
    }

    /// Writes the change into a job; to be called after [`validate_for`](Self::validate_for) its kind.
    pub fn apply_to(&self, spec: &mut JobSpec) {
        self.apply(&mut spec.tuning);
        if let (Kind::Sync { interval_ms }, Some(tuned_ms)) = (&mut spec.kind, self.interval_ms) {
            *interval_ms = tuned_ms;
        }
    }

    /// Writes the change into a tuning, which has no interval; to be called after [`validate`](Self::validate).
    pub fn apply(&self, tuning: &mut Tuning) {
        if let Some(concurrency) = self.concurrency {
            tuning.concurrency = concurrency;
        }
        if let Some(batch_rows) = self.batch_rows {
            tuning.batch_rows = batch_rows.rows;
        }
        if let Some(max_rate) = self.max_rate {
            tuning.max_rate_bytes_per_second = max_rate.bytes_per_second;
        }
    }
}

/// Rows in a batch as the operator writes it: a number, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BatchRows {
    /// The number; `None` is `auto`.
    pub rows: Option<u64>,
}

impl BatchRows {
    /// Adapted to the servers while the job runs.
    pub const AUTO: Self = Self { rows: None };

    /// Says whether the number is in its range, 1 to 10,000,000.
    pub fn validate(self) -> Result<(), JobError> {
        match self.rows {
            Some(rows) if !(1..=BATCH_ROWS_MAX).contains(&rows) => Err(batch_rows_refused(&rows.to_string())),
            _ => Ok(()),
        }
    }
}

fn batch_rows_refused(value: &str) -> JobError {
    let rule = "it must be 1 to 10000000 rows, or `auto`";
    JobError::Value {
        flag: "--batch-rows",
        value: value.to_owned(),
        rule,
    }
}

impl std::str::FromStr for BatchRows {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        if text == "auto" {
            return Ok(Self::AUTO);
        }
        let rows = text.parse().map_err(|_| batch_rows_refused(text))?;
        let batch_rows = Self { rows: Some(rows) };
        batch_rows.validate()?;
        Ok(batch_rows)
    }
}

impl std::fmt::Display for BatchRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rows {
            Some(rows) => rows.fmt(f),
            None => f.write_str("auto"),
        }
    }
}

/// Reads a number of batches in flight, 1 to 64.
pub fn parse_concurrency(text: &str) -> Result<u32, JobError> {
    let concurrency = text.parse().map_err(|_| concurrency_refused(text))?;
    check_concurrency(concurrency)?;
    Ok(concurrency)
}

fn check_concurrency(concurrency: u32) -> Result<(), JobError> {
    if (1..=CONCURRENCY_MAX).contains(&concurrency) {
        Ok(())
    } else {
        Err(concurrency_refused(&concurrency.to_string()))
    }
}

fn concurrency_refused(value: &str) -> JobError {
    let rule = "it must be 1 to 64 batches in flight";
    JobError::Value {
        flag: "--concurrency",
        value: value.to_owned(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_its_range_names_its_flag_and_the_range() {
        for text in ["0", "65", "1000000", "-1", "", "two"] {
            let error = parse_concurrency(text).expect_err(text).to_string();
            assert!(
                error.contains("--concurrency") && error.contains("1 to 64"),
                "{error}"
            );
        }
        for text in ["0", "10000001", "-1", "", "Auto", "1e3"] {
            let error = text.parse::<BatchRows>().expect_err(text).to_string();
            assert!(
                error.contains("--batch-rows") && error.contains("1 to 10000000"),
                "{error}"
            );
        }
        assert_eq!(parse_concurrency("64"), Ok(64));
        assert_eq!(
            "10000000".parse(),
            Ok(BatchRows {
                rows: Some(10_000_000)
            })
        );
        assert_eq!("auto".parse(), Ok(BatchRows::AUTO));
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let mut tuning = Tuning {
            concurrency: 4,
            batch_rows: Some(2000),
            max_rate_bytes_per_second: Some(8_000_000),
        };
        let change = TuningChange {
            max_rate: Some(RateLimit::NONE),
            ..TuningChange::default()
        };
        assert_eq!(change.validate(), Ok(()));
        change.apply(&mut tuning);
        let after = Tuning {
            concurrency: 4,
            batch_rows: Some(2000),
            max_rate_bytes_per_second: None,
        };
        assert_eq!(tuning, after);
    }

    #[test]
    fn only_a_sync_has_an_interval_to_change() {
        let change = TuningChange {
            interval_ms: Some(30_000),
            ..TuningChange::default()
        };
        let sync = Kind::Sync { interval_ms: 600_000 };
        assert_eq!(change.validate_for(sync), Ok(()));
        assert_eq!(change.validate_for(Kind::Migrate), Err(JobError::NoInterval));
        let too_short = TuningChange {
            interval_ms: Some(999),
            ..TuningChange::default()
        };
        assert!(matches!(
            too_short.validate_for(sync),
            Err(JobError::Value { .. })
        ));
    }

    #[test]
    fn no_limit_and_not_said_stay_apart_through_the_journal() {
        let change = TuningChange {
            max_rate: Some(RateLimit::NONE),
            batch_rows: Some(BatchRows::AUTO),
            ..TuningChange::default()
        };
        let json = serde_json::to_string(&change).expect("plain data");
        assert_eq!(
            serde_json::from_str::<TuningChange>(&json).expect("what was written"),
            change
        );
        assert_eq!(
            serde_json::from_str::<TuningChange>("{}").expect("all optional"),
            TuningChange::default()
        );
    }

    #[test]
    fn a_change_that_is_empty_or_out_of_range_is_refused() {
        assert_eq!(TuningChange::default().validate(), Err(JobError::EmptyChange));
        for change in [
            TuningChange {
                concurrency: Some(0),
                ..TuningChange::default()
            },
            TuningChange {
                batch_rows: Some(BatchRows { rows: Some(0) }),
                ..TuningChange::default()
            },
            TuningChange {
                max_rate: Some(RateLimit {
                    bytes_per_second: Some(1),
                }),
                ..TuningChange::default()
            },
        ] {
            assert!(
                matches!(change.validate(), Err(JobError::Value { .. })),
                "{change:?}"
            );
        }
    }
}
