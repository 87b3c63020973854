//! `longhaul status` for people: a job in a few lines.

use std::time::SystemTime;

use console::measure_text_width;

use super::second;
use crate::job::RateLimit;
use crate::job::status::{JobKind, JobState, JobStatus, PendingActivity, TableStatus};
use crate::observe::figures;
use crate::observe::progress::{clock, share, since, state_in_words, waiting_in_words};
use crate::table::Key;

/// A job in a few lines: what it is and how it stands, its tables, what waits and why.
pub fn status(job: &JobStatus) -> String {
    status_at(job, SystemTime::now())
}

/// The same for a terminal of so many columns: broken between words, and what goes on in the next line set in.
pub fn status_within(job: &JobStatus, columns: usize) -> String {
    let text = status(job);
    let lines = text.lines().flat_map(|line| broken(line, columns));
    lines.collect::<Vec<_>>().join("\n")
}

fn broken(line: &str, columns: usize) -> Vec<String> {
    let indent = line.len() - line.trim_start().len();
    let mut lines = vec![" ".repeat(indent)];
    let mut is_first = true;
    for word in line.split_whitespace() {
        let current = lines.last_mut().expect("there is always one");
        let space = usize::from(!is_first);
        if is_first || measure_text_width(current) + space + measure_text_width(word) <= columns {
            *current += &format!("{}{word}", " ".repeat(space));
        } else {
            lines.push(format!("{}{word}", " ".repeat(indent + 2)));
        }
        is_first = false;
    }
    lines
}

fn status_at(job: &JobStatus, now: SystemTime) -> String {
    let mut lines = vec![headline(job)];
    lines.extend(waiting_in_words(job, now).map(|words| words.replace('\n', " ")));
    lines.extend(job.tables.iter().map(|it| table(job, it)));
    lines.extend(job.tables.iter().filter_map(|table| cursor(table, job.kind)));
    lines.extend(job.tables.iter().filter_map(looking));
    lines.extend(job.tables.iter().filter_map(skipped));
    lines.extend(job.tables.iter().filter_map(lost));
    lines.extend(job.findings.iter().map(super::findings::summary));
    lines.push(format!("from {} to {}", job.source, job.target));
    lines.extend(tuning(job));
    if let Some(time) = &job.started_at {
        let closed = job
            .closed_at
            .as_deref()
            .map_or(String::new(), |time| format!(", ended {}", second(time)));
        lines.push(format!("started {}{closed}", second(time)));
    }
    // What sleeps has said it already.
    let is_to_say = job.state.is_open() && job.state != JobState::Sleeping;
    if let (true, Some(time)) = (is_to_say, &job.next_run_at) {
        let what = match job.phase.as_deref() {
            Some("preparing") => "looks at both tables again",
            _ => "next round",
        };
        lines.push(format!("{what} {}", second(time)));
    }
    let told = job.retrying.as_ref().map(|it| &it.last_failure);
    let others = job
        .pending_activities
        .iter()
        .filter(|it| told.is_none() || it.last_failure.as_ref() != told);
    lines.extend(others.filter_map(|it| waiting(it, now)));
    // What is tried again has said why already.
    if let (None, Some(failure)) = (&job.retrying, &job.last_failure) {
        lines.push(format!("last error: {}", failure.replace('\n', " ")));
    }
    if !job.held_back_by.is_empty() {
        lines.push(format!(
            "newest keys held back, when the last round began, by {}",
            job.held_back_by.join(", ")
        ));
    }
    lines.join("\n  ")
}

pub(super) fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Migrate => "migrate",
        JobKind::Sync => "sync",
        JobKind::Verify => "verify",
    }
}

fn headline(job: &JobStatus) -> String {
    let process = match (job.state.is_open(), job.worker_pid, &job.task_queue) {
        (false, ..) => String::new(),
        (true, _, Some(_)) if job.workers.is_empty() => format!(
            ", no worker polls its task queue (longhaul worker begins one, and so does longhaul resume {})",
            job.job
        ),
        (true, _, Some(_)) => format!(" on {}", job.workers.join(", ")),
        (true, Some(pid), None) => format!(" in process {pid}"),
        (true, None, None) => format!(", no process runs it (longhaul resume {} does)", job.job),
    };
    format!(
        "{} ({}): {}{process}",
        job.job,
        kind(job.kind),
        state_in_words(job)
    )
}

/// How hard it works now.
fn tuning(job: &JobStatus) -> Option<String> {
    let tuning = job.tuning.filter(|_| job.state.is_open())?;
    let rows = tuning.batch_rows.map_or("auto".to_owned(), figures::count);
    let limit = RateLimit {
        bytes_per_second: tuning.max_rate_bytes_per_second,
    };
    let interval = job.interval_ms.map_or(String::new(), |interval_ms| {
        let interval = humantime::format_duration(std::time::Duration::from_millis(interval_ms));
        format!(", interval {interval}")
    });
    Some(format!(
        "concurrency {}, batch rows {rows}, max rate {limit}{interval}",
        tuning.concurrency
    ))
}

fn table(job: &JobStatus, table: &TableStatus) -> String {
    let mut text = match table.source == table.target {
        true => table.source.clone(),
        false => format!("{} -> {}", table.source, table.target),
    };
    text += &format!(
        ": {}, {} in {}",
        share(job, table).in_words(),
        figures::bytes(table.bytes_done as f64),
        figures::counted(table.batches_done, "batch")
    );
    if let Some(rate) = table.rows_per_second {
        text += &format!(", {} rows/s", figures::count_rate(rate));
    }
    if let Some(rate) = table.bytes_per_second {
        text += &format!(", {}/s", figures::bytes(rate));
    }
    if let Some(seconds) = table.eta_seconds {
        text += &format!(", {} to go", figures::span(seconds));
    }
    text
}

fn cursor(table: &TableStatus, kind: JobKind) -> Option<String> {
    let shown = |key: &Vec<String>| Key(key.clone()).shown();
    let copied = table.cursor.as_ref().map(shown)?;
    let text = match table.settled.as_ref().map(shown) {
        _ if kind != JobKind::Sync => format!("copied up to key ({copied})"),
        Some(settled) if settled == copied => format!("copied up to key ({copied})"),
        Some(settled) => format!(
            "copied up to key ({settled}), and what was there up to key ({copied}): rows between the two may still be committed, \
             and are looked for in each round"
        ),
        None => format!(
            "copied what was there up to key ({copied}): rows below it may still be committed, and are looked for in each round"
        ),
    };
    Some(text)
}

/// How far it has looked again at what was copied before.
fn looking(table: &TableStatus) -> Option<String> {
    let shown = |key: &Vec<String>| Key(key.clone()).shown();
    let end = table.looks_up_to.as_ref().map(shown)?;
    let come = table.looked_up_to.as_ref().map(shown);
    let come = come.map_or(String::new(), |come| format!(", now at key ({come})"));
    Some(format!(
        "looks again at what was copied up to key ({end}), for rows that were committed late{come}"
    ))
}

fn skipped(table: &TableStatus) -> Option<String> {
    (table.rows_skipped > 0).then(|| {
        format!(
            "{} on the target before, and stayed as they were",
            match table.rows_skipped {
                1 => "1 of them was".to_owned(),
                some => format!("{} of them were", figures::count(some)),
            }
        )
    })
}

fn lost(table: &TableStatus) -> Option<String> {
    (table.batches_lost > 0).then(|| {
        format!(
            "the target had lost {} ({}) that it had confirmed after {}; what was lost is copied again",
            figures::counted(table.batches_lost, "batch"),
            figures::counted(table.rows_lost, "row"),
            table.lost_since.as_deref().unwrap_or("its beginning")
        )
    })
}

fn waiting(activity: &PendingActivity, now: SystemTime) -> Option<String> {
    let failure = activity.last_failure.as_ref()?;
    let when = activity
        .next_attempt_at
        .as_deref()
        .map_or("now".to_owned(), |time| format!("at {}", clock(time)));
    let failing = activity.failing_since.as_deref().map_or(String::new(), |time| {
        format!(", failing for {}", since(time, now))
    });
    let failure = failure.replace('\n', " ");
    Some(format!(
        "{}: attempt {} {when}{failing}, after: {failure}",
        activity.activity_type, activity.attempt
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::Tuning;
    use crate::job::status::Retrying;

    pub(crate) fn running() -> JobStatus {
        JobStatus {
            job: "audio_downloads".to_owned(),
            kind: JobKind::Migrate,
            state: JobState::Running,
            phase: Some("copying".to_owned()),
            draining: 0,
            retrying: None,
            waiting_for: None,
            source: "postgres://app@old/media".to_owned(),
            target: "postgres://app@new/media".to_owned(),
            worker_pid: Some(4711),
            workers: Vec::new(),
            task_queue: None,
            workflow_id: "longhaul/audio_downloads".to_owned(),
            run_id: "5f0c".to_owned(),
            history_length: 120,
            started_at: Some("2026-11-21T12:45:25.5Z".to_owned()),
            closed_at: None,
            next_run_at: None,
            last_failure: None,
            pending_activities: Vec::new(),
            held_back_by: Vec::new(),
            tuning: Some(Tuning {
                concurrency: 4,
                batch_rows: None,
                max_rate_bytes_per_second: Some(20_000_000),
            }),
            interval_ms: None,
            rows_in_flight: 0,
            bytes_in_flight: 0,
            findings: None,
            tables: vec![TableStatus {
                source: "public.audio_downloads".to_owned(),
                target: "public.audio_downloads".to_owned(),
                state: JobState::Running,
                looked_up_to: None,
                looks_up_to: None,
                rows_done: 450_000,
                rows_skipped: 0,
                rows_total: Some(1_000_000),
                rows_total_is_estimate: true,
                bytes_done: 135_000_000,
                batches_done: 9,
                batches_lost: 0,
                rows_lost: 0,
                lost_since: None,
                cursor: Some(vec!["450000".to_owned()]),
                settled: None,
                copies_up_to: None,
                rows_per_second: Some(120_000.4),
                bytes_per_second: Some(36.2e6),
                eta_seconds: Some(5),
            }],
        }
    }

    #[test]
    fn a_running_job_is_a_few_lines() {
        assert_eq!(
            status(&running()),
            "audio_downloads (migrate): running in process 4711\n  \
             public.audio_downloads: 450,000 of ~1,000,000 rows (~45%), 135 MB in 9 batches, 120,000 rows/s, 36.2 MB/s, 5s to go\n  \
             copied up to key (450000)\n  \
             from postgres://app@old/media to postgres://app@new/media\n  \
             concurrency 4, batch rows auto, max rate 20MB/s\n  \
             started 2026-11-21T12:45:25Z"
        );
    }

    #[test]
    fn a_narrow_terminal_breaks_a_status_between_words_and_sets_in_what_goes_on() {
        let text = status_within(&running(), 40);
        assert!(
            text.starts_with(
                "audio_downloads (migrate): running in\n  process 4711\n  public.audio_downloads: 450,000 of\n    ~1,000,000 rows \
                 (~45%), 135 MB in 9\n    batches, 120,000 rows/s, 36.2 MB/s,\n    5s to go\n  copied up to key (450000)\n"
            ),
            "{text}"
        );
        assert_eq!(status_within(&running(), 200), status(&running()));
    }

    fn at(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).expect("a time")
    }

    fn standing(state: JobState) -> JobStatus {
        let mut job = running();
        job.state = state;
        let table = &mut job.tables[0];
        (table.rows_per_second, table.bytes_per_second, table.eta_seconds) = (None, None, None);
        job
    }

    #[test]
    fn a_job_that_nobody_runs_says_so_and_what_went_wrong() {
        let mut job = standing(JobState::Interrupted);
        job.worker_pid = None;
        job.last_failure = Some("connection refused\nby the server".to_owned());
        job.pending_activities = vec![PendingActivity {
            activity_type: "copy_batch".to_owned(),
            attempt: 3,
            last_failure: Some("connection refused".to_owned()),
            next_attempt_at: Some("2026-11-21T12:50:00Z".to_owned()),
            failing_since: Some("2026-11-21T12:49:00Z".to_owned()),
        }];
        let table = &mut job.tables[0];
        (table.target, table.cursor, table.rows_total) = ("raw.audio".to_owned(), None, None);
        assert_eq!(
            status_at(&job, at("2026-11-21T12:49:40Z")),
            "audio_downloads (migrate): interrupted, no process runs it (longhaul resume audio_downloads does)\n  \
             public.audio_downloads -> raw.audio: 450,000 rows, 135 MB in 9 batches\n  \
             from postgres://app@old/media to postgres://app@new/media\n  \
             concurrency 4, batch rows auto, max rate 20MB/s\n  \
             started 2026-11-21T12:45:25Z\n  \
             copy_batch: attempt 3 at 12:50:00Z, failing for 40s, after: connection refused\n  \
             last error: connection refused by the server"
        );
    }

    #[test]
    fn a_sleeping_sync_job_says_when_it_goes_on_who_holds_it_back_and_its_interval() {
        let mut job = standing(JobState::Sleeping);
        (job.kind, job.interval_ms) = (JobKind::Sync, Some(90_000));
        job.next_run_at = Some("2026-11-21T13:00:00Z".to_owned());
        job.held_back_by = vec!["pid 99 (psql)".to_owned()];
        let text = status_at(&job, at("2026-11-21T12:59:00Z"));
        assert!(
            text.starts_with(
                "audio_downloads (sync): sleeping in process 4711\n  in step but for the newest keys, which are looked at \
                 again; looks again at 13:00:00Z, in 1m 00s\n"
            ),
            "{text}"
        );
        assert!(text.contains("max rate 20MB/s, interval 1m 30s\n"), "{text}");
        assert!(
            text.ends_with("\n  newest keys held back, when the last round began, by pid 99 (psql)"),
            "{text}"
        );
    }

    #[test]
    fn a_job_that_waits_for_a_server_says_so_first() {
        let mut job = standing(JobState::Retrying);
        job.retrying = Some(Retrying {
            activity: "copy_batch".to_owned(),
            side: "target".to_owned(),
            unreachable: true,
            since: "2026-11-21T12:49:26Z".to_owned(),
            attempt: 6,
            next_attempt_at: Some("2026-11-21T12:49:48Z".to_owned()),
            last_failure: "connection refused".to_owned(),
        });
        job.last_failure = Some("connection refused".to_owned());
        let of_another = |failure: &str| PendingActivity {
            activity_type: "copy_batch".to_owned(),
            attempt: 2,
            last_failure: Some(failure.to_owned()),
            next_attempt_at: None,
            failing_since: None,
        };
        job.pending_activities = vec![of_another("connection refused"), of_another("deadlock")];
        let text = status_at(&job, at("2026-11-21T12:49:40Z"));
        assert!(
            text.starts_with(
                "audio_downloads (migrate): retrying in process 4711\n  target not reached for 14s, attempt 6, next in 8s: \
                 connection refused\n"
            ),
            "{text}"
        );
        assert!(!text.contains("last error"), "said twice: {text}");
        assert_eq!(text.matches("connection refused").count(), 1, "{text}");
        assert!(
            text.contains("copy_batch: attempt 2 now, after: deadlock"),
            "{text}"
        );
    }
}
