//! One look at a job, laid out for a terminal of some width, or as a line of a log.

use std::time::{Duration, SystemTime};

use console::{measure_text_width, truncate_str};

use super::share::Share;
use super::words::{one_line, state_in_words, waiting_in_words};
use crate::job::status::{JobState, JobStatus};
use crate::observe::figures;

const BAR_COLUMNS_MIN: usize = 8;
const BAR_COLUMNS_MAX: usize = 40;
/// Less of a name says nothing.
const NAME_COLUMNS_MIN: usize = 6;
/// What is waited for gets so many lines: the end of an error's words says the least.
const WAITING_LINES: usize = 2;
/// Longer waits are not worth a figure: what was measured will not last.
const ETA_SECONDS_MAX: u64 = 1000 * 86_400;

/// One look at a job.
pub(super) struct View<'a> {
    job: &'a JobStatus,
    share: Share,
    now: SystemTime,
    elapsed: Duration,
}

impl<'a> View<'a> {
    pub(super) fn new(job: &'a JobStatus, now: SystemTime, elapsed: Duration) -> Self {
        Self {
            job,
            share: Share::of_job(job),
            now,
            elapsed,
        }
    }

    /// What a line is due for when it changes: the state, and the step in it.
    pub(super) fn state(&self) -> String {
        state_in_words(self.job)
    }

    /// Two to four lines, none wider than the terminal.
    pub(super) fn bar(&self, columns: usize) -> String {
        // The last column stays free: some terminals break the line when it is written to.
        let columns = columns.saturating_sub(1).max(1);
        let mut lines = vec![
            self.bar_line(columns),
            format!("  {}", self.figures_line(columns.saturating_sub(2))),
        ];
        if let Some(words) = waiting_in_words(self.job, self.now) {
            lines.extend(wrapped(&words, columns.saturating_sub(2)));
        }
        lines
            .iter()
            .map(|line| truncate_str(line, columns, "..").into_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// One line for a log; the last one says how long it took rather than how long it takes.
    pub(super) fn plain(&self, last: bool) -> String {
        let mut parts = vec![self.share.in_words()];
        if !last {
            parts.extend(
                [self.row_rate(), self.byte_rate(), self.eta()]
                    .into_iter()
                    .flatten(),
            );
        }
        if last {
            let bytes = self.job.tables.iter().map(|table| table.bytes_done as f64).sum();
            parts.push(figures::bytes(bytes));
            parts.push(format!("after {}", figures::span(self.elapsed.as_secs())));
        }
        parts.extend(waiting_in_words(self.job, self.now).map(|words| one_line(&words)));
        if let (JobState::Failed, Some(failure)) = (self.job.state, &self.job.last_failure) {
            parts.push(format!("last error: {}", one_line(failure)));
        }
        let time = humantime::format_rfc3339_seconds(self.now);
        format!("{time} {} {}: {}", self.job.job, self.state(), parts.join(", "))
    }

    fn bar_line(&self, columns: usize) -> String {
        let (name, state) = (&self.job.job, self.state());
        let percent = format!("{:>4}", self.share.percent_in_words());
        let rest = measure_text_width(&percent) + measure_text_width(&state) + 4;
        // What goes first is the bar, then the name's end, then the name: the operator knows what was typed.
        let room = columns.saturating_sub(measure_text_width(name) + rest + 2);
        if room >= BAR_COLUMNS_MIN {
            let bar = self.drawn(room.min(BAR_COLUMNS_MAX));
            return format!("{name} [{bar}] {percent}  {state}");
        }
        let room = columns.saturating_sub(rest);
        match room >= NAME_COLUMNS_MIN {
            true => format!("{}  {percent}  {state}", truncate_str(name, room, "..")),
            false => format!("{} {state}", percent.trim_start()),
        }
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
        let (rows, done) = (Some(self.share.rows_in_words()), Some(self.share.done_in_words()));
        let in_flight = self.share.in_flight_in_words();
        let (row_rate, byte_rate, eta) = (self.row_rate(), self.byte_rate(), self.eta());
        let choices = [
            vec![&rows, &in_flight, &row_rate, &byte_rate, &eta],
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

    fn row_rate(&self) -> Option<String> {
        let rates = self.job.tables.iter().filter_map(|table| table.rows_per_second);
        let rate = rates.reduce(|sum, rate| sum + rate)?;
        Some(format!("{} rows/s", figures::count_rate(rate)))
    }

    fn byte_rate(&self) -> Option<String> {
        let rates = self.job.tables.iter().filter_map(|table| table.bytes_per_second);
        let rate = rates.reduce(|sum, rate| sum + rate)?;
        Some(format!("{}/s", figures::bytes(rate)))
    }

    fn eta(&self) -> Option<String> {
        let seconds = self
            .job
            .tables
            .iter()
            .filter_map(|table| table.eta_seconds)
            .max()?;
        (seconds <= ETA_SECONDS_MAX).then(|| format!("{} to go", figures::span(seconds)))
    }
}

/// Lines that hold so many columns; the last one takes the rest, and is cut by whoever draws it.
fn wrapped(words: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        let fits = |line: &String| measure_text_width(line) + 1 + measure_text_width(word) <= columns + 2;
        let is_last = lines.len() == WAITING_LINES;
        match lines.last_mut().filter(|line| is_last || fits(line)) {
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(format!("  {word}")),
        }
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::job::status::{JobKind, Retrying, TableStatus, Wait};

    pub(crate) fn running() -> JobStatus {
        JobStatus {
            job: "audio_downloads".to_owned(),
            kind: JobKind::Migrate,
            state: JobState::Running,
            phase: Some("copying".to_owned()),
            draining: 0,
            retrying: None,
            waiting_for: None,
            source: "host=old".to_owned(),
            target: "host=new".to_owned(),
            worker_pid: Some(1),
            workers: Vec::new(),
            task_queue: None,
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
            interval_ms: None,
            rows_in_flight: 0,
            bytes_in_flight: 0,
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
                settled: None,
                copies_up_to: None,
                looked_up_to: None,
                looks_up_to: None,
                rows_per_second: Some(110_000.0),
                bytes_per_second: Some(33.0e6),
                eta_seconds: Some(5),
            }],
        }
    }

    /// One of a state in which nothing moves.
    fn standing(state: JobState) -> JobStatus {
        let mut job = running();
        job.state = state;
        let table = &mut job.tables[0];
        (table.rows_per_second, table.bytes_per_second, table.eta_seconds) = (None, None, None);
        job
    }

    pub(crate) fn retrying() -> JobStatus {
        let mut job = standing(JobState::Retrying);
        job.retrying = Some(Retrying {
            activity: "copy_batch".to_owned(),
            side: "target".to_owned(),
            unreachable: true,
            since: "2026-11-21T12:49:38Z".to_owned(),
            attempt: 6,
            next_attempt_at: Some("2026-11-21T12:50:00.4Z".to_owned()),
            last_failure: "cannot connect to the target\n127.0.0.1:5432: connection refused, and more"
                .to_owned(),
        });
        job
    }

    pub(crate) fn sleeping() -> JobStatus {
        let mut job = standing(JobState::Sleeping);
        job.phase = Some("sleeping".to_owned());
        job.next_run_at = Some("2026-11-21T13:00:00Z".to_owned());
        job
    }

    pub(crate) fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).expect("a time")
    }

    fn look(job: &JobStatus) -> View<'_> {
        View::new(job, at("2026-11-21T12:49:52Z"), Duration::from_secs(63))
    }

    /// A job of each kind of look, by the name of its snapshot.
    fn jobs() -> Vec<(&'static str, JobStatus)> {
        let mut pausing = standing(JobState::Pausing);
        (pausing.draining, pausing.rows_in_flight) = (3, 60_000);
        let mut moving = running();
        moving.rows_in_flight = 100_000;
        let mut waiting = standing(JobState::Running);
        waiting.phase = Some("preparing".to_owned());
        waiting.waiting_for = Some(Wait {
            what: "taking the job over on the target".to_owned(),
            since: "2026-11-21T12:49:40Z".to_owned(),
        });
        let mut long = running();
        long.job = "warehouse.audio_downloads_2026_by_region_and_day".to_owned();
        vec![
            ("running", moving),
            ("waiting", waiting),
            ("pausing", pausing),
            ("paused", standing(JobState::Paused)),
            ("retrying", retrying()),
            ("sleeping", sleeping()),
            ("long name", long),
        ]
    }

    #[test]
    fn the_bar_at_forty_eighty_and_a_hundred_and_twenty_columns() {
        let mut drawn = String::new();
        for columns in [40, 80, 120] {
            for (name, job) in jobs() {
                drawn += &format!("{columns} columns, {name}\n{}\n\n", look(&job).bar(columns));
            }
        }
        let snapshot = include_str!("bar_snapshots.txt");
        assert_eq!(drawn.trim_end(), snapshot.trim_end(), "\n{drawn}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_however_narrow() {
        let mut jobs: Vec<_> = jobs().into_iter().map(|(_, job)| job).collect();
        let mut big = running();
        big.job = "größe-".repeat(16);
        (big.tables[0].rows_done, big.tables[0].rows_total) = (u64::MAX / 2, Some(u64::MAX));
        jobs.push(big);
        for job in &jobs {
            for columns in 0..200 {
                let text = look(job).bar(columns);
                for line in text.lines() {
                    assert!(
                        measure_text_width(line) < columns.max(3),
                        "{columns} columns: {line}"
                    );
                }
            }
        }
        assert_eq!(look(&running()).bar(20), "~45% running\n  450,000 rows");
    }

    #[test]
    fn an_estimate_that_is_too_low_has_no_percent_and_no_end() {
        let mut job = running();
        (job.tables[0].rows_total, job.tables[0].eta_seconds) = (Some(400_000), None);
        assert_eq!(
            look(&job).bar(80),
            "audio_downloads [                                        ]   ?%  running\n  \
             450,000 of >=450,000 rows  110,000 rows/s  33.0 MB/s"
        );
    }

    #[test]
    fn a_job_without_rows_total_or_tables_is_drawn_all_the_same() {
        let mut job = standing(JobState::Running);
        (job.tables[0].rows_total, job.tables[0].rows_done) = (Some(0), 0);
        assert!(
            look(&job).bar(80).ends_with("\n  0 of ~0 rows"),
            "{}",
            look(&job).bar(80)
        );
        job.tables.clear();
        assert!(look(&job).bar(80).contains("0 rows"));
    }

    #[test]
    fn what_does_not_move_has_neither_speed_nor_end() {
        for (name, job) in jobs() {
            let text = look(&job).plain(false);
            let moves = job.state == JobState::Running && job.waiting_for.is_none();
            assert_eq!(text.contains("/s"), moves, "{name}: {text}");
            assert_eq!(text.contains("to go"), moves, "{name}: {text}");
        }
    }

    #[test]
    fn a_plain_line_has_it_all_and_the_last_one_says_how_long_it_took() {
        let mut job = retrying();
        assert_eq!(
            look(&job).plain(false),
            "2026-11-21T12:49:52Z audio_downloads retrying: 450,000 of ~1,000,000 rows (~45%), target not reached for 14s, \
             attempt 6, next in 9s: cannot connect to the target 127.0.0.1:5432: connection refused, and more"
        );
        job = running();
        job.rows_in_flight = 100_000;
        assert_eq!(
            look(&job).plain(false),
            "2026-11-21T12:49:52Z audio_downloads running: 450,000 of ~1,000,000 rows (~55%, +100,000 in flight), \
             110,000 rows/s, 33.0 MB/s, 5s to go"
        );
        job = standing(JobState::Completed);
        job.tables[0].rows_done = 1_000_100;
        assert_eq!(
            look(&job).plain(true),
            "2026-11-21T12:49:52Z audio_downloads completed: 1,000,100 rows (100%), 135 MB, after 1m 03s"
        );
    }
}
