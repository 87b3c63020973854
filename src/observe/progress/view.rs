//! One look at a job, laid out for a terminal of some width, or as a line of a log.

use std::time::{Duration, SystemTime};

use console::{measure_text_width, truncate_str};

use super::Live;
use super::share::Share;
use super::speed::PerSecond;
use crate::job::status::{JobState, JobStatus, PendingActivity};
use crate::observe::figures;

const BAR_COLUMNS_MIN: usize = 8;
const BAR_COLUMNS_MAX: usize = 40;
/// Longer waits are not worth a figure: what was measured will not last.
const ETA_SECONDS_MAX: f64 = 1000.0 * 86_400.0;

/// One look at a job.
pub(super) struct View<'a> {
    job: &'a JobStatus,
    share: Share,
    speed: Option<PerSecond>,
    elapsed: Duration,
    retries: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(
        job: &'a JobStatus,
        live: Live,
        measured: Option<PerSecond>,
        elapsed: Duration,
    ) -> Self {
        let moves = job.state == JobState::Running;
        let waiting: u64 = job
            .pending_activities
            .iter()
            .map(|a| u64::from(a.attempt.saturating_sub(1)))
            .sum();
        Self {
            job,
            share: Share::of_job(job, live.rows_in_flight),
            speed: measured.or_else(|| told_speed(job)).filter(|_| moves),
            elapsed,
            retries: live.retries.max(waiting),
        }
    }

    pub(super) fn state(&self) -> JobState {
        self.job.state
    }

    /// Whether an attempt has failed and is tried again.
    pub(super) fn is_troubled(&self) -> bool {
        self.trouble().is_some()
    }

    /// Two or three lines, none wider than the terminal.
    pub(super) fn bar(&self, columns: usize) -> String {
        // The last column stays free: some terminals break the line when it is written to.
        let columns = columns.saturating_sub(1).max(1);
        let mut lines = vec![
            self.bar_line(columns),
            format!("  {}", self.figures_line(columns.saturating_sub(2))),
        ];
        if let Some(words) = self.trouble_in_words() {
            lines.push(format!("  {words}"));
        }
        lines
            .iter()
            .map(|line| truncate_str(line, columns, "..").into_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// One line for a log; the last one says how long it took rather than how long it takes.
    pub(super) fn plain(&self, time: SystemTime, last: bool) -> String {
        let mut parts = vec![self.share.in_words()];
        if let (Some(speed), false) = (self.speed, last) {
            parts.push(format!("{} rows/s", figures::count_rate(speed.rows)));
            parts.push(format!("{}/s", figures::bytes(speed.bytes)));
        }
        match self.eta_seconds() {
            Some(seconds) if !last => parts.push(format!("{} to go", figures::span(seconds))),
            _ => {}
        }
        if last {
            let bytes = self.job.tables.iter().map(|table| table.bytes_done as f64).sum();
            parts.push(figures::bytes(bytes));
            parts.push(format!("after {}", figures::span(self.elapsed.as_secs())));
        }
        parts.extend(self.trouble_in_words());
        let time = humantime::format_rfc3339_seconds(time);
        format!(
            "{time} {} {}: {}",
            self.job.job,
            self.state_in_words(),
            parts.join(", ")
        )
    }

    fn bar_line(&self, columns: usize) -> String {
        let state = self.state_in_words();
        let percent = format!("{:>4}", self.share.percent_in_words());
        let name_and_state = format!("{}  {percent}  {state}", self.job.job);
        let room = columns.saturating_sub(measure_text_width(&name_and_state) + 3);
        if room < BAR_COLUMNS_MIN {
            // What goes first is the bar, then the name: the operator knows what was typed.
            return match measure_text_width(&name_and_state) <= columns {
                true => name_and_state,
                false => format!("{} {state}", percent.trim_start()),
            };
        }
        format!(
            "{} [{}] {percent}  {state}",
            self.job.job,
            self.drawn(room.min(BAR_COLUMNS_MAX))
        )
    }

    fn drawn(&self, columns: usize) -> String {
        let permille = self.share.permille().unwrap_or(0);
        let filled = usize::try_from(permille).unwrap_or(0) * columns / 1000;
        let head = if filled > 0 && filled < columns { ">" } else { "" };
        format!(
            "{:<columns$}",
            format!("{}{head}", "=".repeat(filled - head.len()))
        )
    }

    /// As many figures as fit, the dearest ones kept longest.
    fn figures_line(&self, columns: usize) -> String {
        let rows = Some(self.share.rows_in_words());
        let done = Some(self.share.done_in_words());
        let row_rate = self
            .speed
            .map(|speed| format!("{} rows/s", figures::count_rate(speed.rows)));
        let byte_rate = self
            .speed
            .map(|speed| format!("{}/s", figures::bytes(speed.bytes)));
        let eta = self
            .eta_seconds()
            .map(|seconds| format!("{} to go", figures::span(seconds)));
        let choices = [
            vec![&rows, &row_rate, &byte_rate, &eta],
            vec![&rows, &byte_rate, &eta],
            vec![&rows, &eta],
            vec![&done, &byte_rate, &eta],
            vec![&done, &eta],
            vec![&done],
        ];
        let join = |parts: Vec<&Option<String>>| {
            parts
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("  ")
        };
        // The last choice is taken where nothing fits; the caller cuts it.
        let lines = choices.map(join);
        let fits = lines.iter().find(|line| measure_text_width(line) <= columns);
        fits.or(lines.last()).cloned().unwrap_or_default()
    }

    fn state_in_words(&self) -> String {
        match self.job.state {
            JobState::Running => match self
                .trouble()
                .and_then(|activity| activity.next_attempt_at.as_deref())
            {
                Some(time) => format!("retrying at {}", clock(time)),
                None => "running".to_owned(),
            },
            JobState::Paused => "paused".to_owned(),
            JobState::Sleeping => match &self.job.next_run_at {
                Some(time) => format!("sleeping until {}", clock(time)),
                None => "sleeping".to_owned(),
            },
            JobState::Completed => "completed".to_owned(),
            JobState::Failed => "failed".to_owned(),
            JobState::Canceled => "canceled".to_owned(),
            JobState::Terminated => "terminated".to_owned(),
        }
    }

    fn trouble_in_words(&self) -> Option<String> {
        let failure = self
            .trouble()
            .and_then(|activity| activity.last_failure.as_ref())
            .or(self.job.last_failure.as_ref());
        let failure = failure.map(|failure| failure.split_whitespace().collect::<Vec<_>>().join(" "));
        let retries = match self.retries {
            1 => "1 retry".to_owned(),
            retries => format!("{} retries", figures::count(retries)),
        };
        match (self.retries, failure) {
            (0, None) => None,
            (0, Some(failure)) => Some(format!("last error: {failure}")),
            (_, None) => Some(retries),
            (_, Some(failure)) => Some(format!("{retries}, last error: {failure}")),
        }
    }

    /// The activity that has failed most often and is tried again.
    fn trouble(&self) -> Option<&PendingActivity> {
        let failed = self
            .job
            .pending_activities
            .iter()
            .filter(|activity| activity.last_failure.is_some());
        failed.max_by_key(|activity| (activity.next_attempt_at.is_some(), activity.attempt))
    }

    fn eta_seconds(&self) -> Option<u64> {
        let speed = self.speed?;
        let rows_left = self.share.rows_left()?;
        if speed.rows <= 0.0 {
            return None;
        }
        let seconds = rows_left as f64 / speed.rows;
        (seconds <= ETA_SECONDS_MAX).then_some(seconds.ceil() as u64)
    }
}

/// The speed that the status itself tells, before enough was measured here.
fn told_speed(job: &JobStatus) -> Option<PerSecond> {
    let rows: f64 = job.tables.iter().filter_map(|table| table.rows_per_second).sum();
    let bytes = job.tables.iter().filter_map(|table| table.bytes_per_second).sum();
    (rows > 0.0).then_some(PerSecond { rows, bytes })
}

/// The time of day of an RFC 3339 time, `13:00:00Z`.
fn clock(rfc3339: &str) -> String {
    let shown = humantime::parse_rfc3339_weak(rfc3339)
        .map(|time| humantime::format_rfc3339_seconds(time).to_string());
    match shown {
        Ok(text) => text
            .split_once('T')
            .map_or(text.clone(), |(_, clock)| clock.to_owned()),
        Err(_) => rfc3339.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::job::status::{JobKind, TableStatus};

    pub(crate) fn running() -> JobStatus {
        JobStatus {
            job: "audio_downloads".to_owned(),
            kind: JobKind::Migrate,
            state: JobState::Running,
            worker_pid: Some(1),
            workflow_id: "w".to_owned(),
            run_id: "r".to_owned(),
            history_length: 1,
            started_at: None,
            closed_at: None,
            next_run_at: None,
            last_failure: None,
            pending_activities: Vec::new(),
            held_back_by: Vec::new(),
            tuning: None,
            findings: None,
            tables: vec![TableStatus {
                source: "public.audio_downloads".to_owned(),
                target: "public.audio_downloads".to_owned(),
                state: JobState::Running,
                rows_done: 450_000,
                rows_skipped: 0,
                rows_total: Some(1_000_000),
                rows_total_is_estimate: true,
                bytes_done: 135_000_000,
                batches_done: 9,
                batches_lost: 0,
                rows_lost: 0,
                lost_since: None,
                cursor: None,
                copies_up_to: None,
                rows_per_second: None,
                bytes_per_second: None,
                eta_seconds: None,
            }],
        }
    }

    const SPEED: Option<PerSecond> = Some(PerSecond {
        rows: 110_000.0,
        bytes: 33.0e6,
    });

    fn look(job: &JobStatus, live: Live) -> View<'_> {
        View::new(job, live, SPEED, Duration::from_secs(63))
    }

    fn retrying() -> JobStatus {
        let activity = PendingActivity {
            activity_type: "copy_batch".to_owned(),
            attempt: 3,
            last_failure: Some(
                "cannot connect to the target\n127.0.0.1:5432: connection refused, and more".to_owned(),
            ),
            next_attempt_at: Some("2026-11-21T12:50:00.7Z".to_owned()),
        };
        JobStatus {
            pending_activities: vec![activity],
            ..running()
        }
    }

    #[test]
    fn eighty_columns_show_everything() {
        assert_eq!(
            look(&running(), Live::default()).bar(80),
            "audio_downloads [=================>                      ] ~45%  running\n  \
             450,000 of ~1,000,000 rows  110,000 rows/s  33.0 MB/s  5s to go"
        );
    }

    #[test]
    fn a_retry_says_when_how_often_and_why() {
        let text = look(
            &retrying(),
            Live {
                retries: 7,
                ..Live::default()
            },
        )
        .bar(80);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].ends_with("] ~45%  retrying at 12:50:00Z"), "{text}");
        assert_eq!(
            lines[2],
            "  7 retries, last error: cannot connect to the target 127.0.0.1:5432: connect.."
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_however_narrow() {
        let mut jobs = vec![running(), retrying()];
        let mut big = running();
        big.job = "größe-".repeat(16);
        (big.tables[0].rows_done, big.tables[0].rows_total) = (u64::MAX / 2, Some(u64::MAX));
        jobs.push(big);
        for job in &jobs {
            for columns in 0..200 {
                let text = look(job, Live::default()).bar(columns);
                for line in text.lines() {
                    assert!(
                        measure_text_width(line) < columns.max(3),
                        "{columns} columns: {line}"
                    );
                }
            }
        }
        assert_eq!(
            look(&jobs[0], Live::default()).bar(40),
            "audio_downloads  ~45%  running\n  450,000 of ~1,000,000 rows  5s to go"
        );
        assert_eq!(
            look(&jobs[0], Live::default()).bar(20),
            "~45% running\n  450,000 rows"
        );
    }

    #[test]
    fn an_estimate_that_is_too_low_has_no_percent_and_no_end() {
        let mut job = running();
        job.tables[0].rows_total = Some(400_000);
        assert_eq!(
            look(&job, Live::default()).bar(80),
            "audio_downloads [                                        ]   ?%  running\n  \
             450,000 of >=450,000 rows  110,000 rows/s  33.0 MB/s"
        );
    }

    #[test]
    fn a_job_without_rows_total_or_tables_is_drawn_all_the_same() {
        let mut job = running();
        (job.tables[0].rows_total, job.tables[0].rows_done) = (Some(0), 0);
        let standing = View::new(
            &job,
            Live::default(),
            Some(PerSecond {
                rows: 0.0,
                bytes: 0.0,
            }),
            Duration::ZERO,
        );
        assert!(
            standing.bar(80).ends_with("0 of ~0 rows  0 rows/s  0 B/s"),
            "{}",
            standing.bar(80)
        );
        job.tables.clear();
        assert!(look(&job, Live::default()).bar(80).contains("0 rows"));
    }

    #[test]
    fn rows_in_flight_move_the_bar_and_are_not_called_done() {
        let live = Live {
            rows_in_flight: 100_000,
            ..Live::default()
        };
        let text = look(&running(), live).bar(80);
        assert!(text.contains("~55%") && text.contains("450,000 of"), "{text}");
    }

    #[test]
    fn a_paused_or_sleeping_job_has_no_speed_and_says_what_it_waits_for() {
        let mut job = running();
        job.state = JobState::Paused;
        assert_eq!(
            look(&job, Live::default()).plain(SystemTime::UNIX_EPOCH, false),
            "1970-01-01T00:00:00Z audio_downloads paused: 450,000 of ~1,000,000 rows (~45%)"
        );
        (job.state, job.next_run_at) = (JobState::Sleeping, Some("2026-11-21T13:00:00Z".to_owned()));
        assert!(
            look(&job, Live::default())
                .bar(80)
                .contains("sleeping until 13:00:00Z")
        );
    }

    #[test]
    fn a_plain_line_has_it_all_and_the_last_one_says_how_long_it_took() {
        let mut job = retrying();
        assert_eq!(
            look(&job, Live::default()).plain(SystemTime::UNIX_EPOCH, false),
            "1970-01-01T00:00:00Z audio_downloads retrying at 12:50:00Z: 450,000 of ~1,000,000 rows (~45%), \
             110,000 rows/s, 33.0 MB/s, 5s to go, 2 retries, last error: cannot connect to the target \
             127.0.0.1:5432: connection refused, and more"
        );
        job = running();
        (job.state, job.tables[0].rows_done) = (JobState::Completed, 1_000_100);
        assert_eq!(
            look(&job, Live::default()).plain(SystemTime::UNIX_EPOCH, true),
            "1970-01-01T00:00:00Z audio_downloads completed: 1,000,100 rows (100%), 135 MB, after 1m 03s"
        );
    }
}
