//! What of a job's tuning holds when its command is given again: what is given now, and for the rest what the job has, be it
//! from its first command or tuned since. Never lost in silence: what differs from what one would expect is said.

use std::time::Duration;

use crate::job::{BatchRows, JobSpec, Kind, RateLimit, TuningChange};

/// Keeps in `asked` what `current` has, but for what `given` names; says what is kept, and what is replaced.
///
/// `asked` has the settings of now, defaults included. `current` is the job as it stood last.
pub fn keep(current: &JobSpec, asked: &mut JobSpec, given: &TuningChange) -> Vec<String> {
    let mut words = Vec::new();
    let now = asked.tuning;
    let rows = |rows| BatchRows { rows }.to_string();
    let rate = |bytes_per_second| RateLimit { bytes_per_second }.to_string();
    let (tuning, had) = (&mut asked.tuning, &current.tuning);
    let mut settle = |what: &str, is_given: bool, had: String, now: String| {
        let says = had != now;
        if says && is_given {
            words.push(format!("{what} {now} as given, instead of {had}"));
        } else if says {
            words.push(format!("{what} {had} as before"));
        }
        !is_given
    };
    let (had_concurrency, now_concurrency) = (had.concurrency.to_string(), now.concurrency.to_string());
    if settle(
        "concurrency",
        given.concurrency.is_some(),
        had_concurrency,
        now_concurrency,
    ) {
        tuning.concurrency = had.concurrency;
    }
    let (had_rows, now_rows) = (rows(had.batch_rows), rows(now.batch_rows));
    if settle("batch rows", given.batch_rows.is_some(), had_rows, now_rows) {
        tuning.batch_rows = had.batch_rows;
    }
    let had_rate = rate(had.max_rate_bytes_per_second);
    let now_rate = rate(now.max_rate_bytes_per_second);
    if settle("max rate", given.max_rate.is_some(), had_rate, now_rate) {
        tuning.max_rate_bytes_per_second = had.max_rate_bytes_per_second;
    }
    if let (Kind::Sync { interval_ms: had_ms }, Kind::Sync { interval_ms: now_ms }) =
        (current.kind, &mut asked.kind)
    {
        let (had_words, now_words) = (interval(had_ms), interval(*now_ms));
        if settle("interval", given.interval_ms.is_some(), had_words, now_words) {
            *now_ms = had_ms;
        }
    }
    words
}

/// `10m`, of 600,000 milliseconds.
pub fn interval(interval_ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(interval_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(concurrency: u32, rate: Option<u64>, interval_ms: u64) -> JobSpec {
        let table = serde_json::json!({"name": "a"});
        let mut job: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "a", "kind": "migrate", "source": "host=a", "target": "host=b", "source_table": table,
            "target_table": table, "tuning": {"concurrency": concurrency},
        }))
        .expect("what has to be given");
        job.kind = Kind::Sync { interval_ms };
        job.tuning.max_rate_bytes_per_second = rate;
        job
    }

    #[test]
    fn what_was_tuned_holds_until_it_is_given_otherwise_and_both_are_said() {
        let current = job(8, Some(2_000_000), 30_000);
        let mut asked = job(4, None, 600_000);
        let words = keep(&current, &mut asked, &TuningChange::default());
        assert_eq!(asked, current);
        assert_eq!(
            words,
            [
                "concurrency 8 as before",
                "max rate 2MB/s as before",
                "interval 30s as before"
            ]
        );
        let mut asked = job(4, Some(8_000_000), 600_000);
        let given = TuningChange {
            max_rate: Some(RateLimit {
                bytes_per_second: Some(8_000_000),
            }),
            interval_ms: Some(600_000),
            ..TuningChange::default()
        };
        let words = keep(&current, &mut asked, &given);
        assert_eq!(asked, job(8, Some(8_000_000), 600_000));
        assert_eq!(
            words,
            [
                "concurrency 8 as before",
                "max rate 8MB/s as given, instead of 2MB/s",
                "interval 10m as given, instead of 30s"
            ]
        );
    }

    #[test]
    fn what_is_as_one_expects_needs_no_word_and_a_migrate_has_no_interval() {
        let current = job(4, None, 30_000);
        let mut asked = job(4, None, 30_000);
        assert!(keep(&current, &mut asked, &TuningChange::default()).is_empty());
        asked.kind = Kind::Migrate;
        assert!(keep(&current, &mut asked, &TuningChange::default()).is_empty());
        assert_eq!(asked.kind, Kind::Migrate);
    }
}
