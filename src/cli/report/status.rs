//! `longhaul status` for people: a job in a few lines.

use super::second;
use crate::job::status::{JobKind, JobState, JobStatus, PendingActivity, TableStatus};
use crate::observe::figures;
use crate::observe::progress::share;

/// A job in a few lines: what it is and how it stands, its tables, what waits and why.
pub fn status(job: &JobStatus) -> String {
    let mut lines = vec![headline(job)];
    lines.extend(job.tables.iter().map(table));
    lines.extend(job.tables.iter().filter_map(cursor));
    lines.extend(job.tables.iter().filter_map(skipped));
    lines.extend(job.tables.iter().filter_map(lost));
    lines.extend(job.findings.iter().map(super::findings::summary));
    if let Some(time) = &job.started_at {
        let closed = job
            .closed_at
            .as_deref()
            .map_or(String::new(), |time| format!(", ended {}", second(time)));
        lines.push(format!("started {}{closed}", second(time)));
    }
    if let (JobState::Sleeping, Some(time)) = (job.state, &job.next_run_at) {
        lines.push(format!("next round {}", second(time)));
    }
    lines.extend(job.pending_activities.iter().filter_map(waiting));
    if let Some(failure) = &job.last_failure {
        lines.push(format!("last error: {}", failure.replace('\n', " ")));
    }
    if !job.held_back_by.is_empty() {
        lines.push(format!(
            "newest keys held back by {}",
            job.held_back_by.join(", ")
        ));
    }
    lines.join("\n  ")
}

/// How a state is said, with what the operator would take it for when no process runs the job.
pub(super) fn state(job: &JobStatus) -> &'static str {
    match (job.state, job.worker_pid) {
        (JobState::Running, Some(_)) => "running",
        (JobState::Running, None) => "interrupted",
        (JobState::Paused, _) => "paused",
        (JobState::Sleeping, Some(_)) => "sleeping",
        (JobState::Sleeping, None) => "interrupted between two rounds",
        (JobState::Completed, _) => "completed",
        (JobState::Failed, _) => "failed",
        (JobState::Canceled, _) => "canceled",
        (JobState::Terminated, _) => "terminated",
    }
}

pub(super) fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Migrate => "migrate",
        JobKind::Sync => "sync",
        JobKind::Verify => "verify",
    }
}

fn headline(job: &JobStatus) -> String {
    let open = matches!(
        job.state,
        JobState::Running | JobState::Paused | JobState::Sleeping
    );
    let process = match (open, job.worker_pid) {
        (true, Some(pid)) => format!(" in process {pid}"),
        (true, None) => ", no process runs it".to_owned(),
        (false, _) => String::new(),
    };
    format!("{} ({}): {}{process}", job.job, kind(job.kind), state(job))
}

fn table(table: &TableStatus) -> String {
    let mut text = match table.source == table.target {
        true => table.source.clone(),
        false => format!("{} -> {}", table.source, table.target),
    };
    text += &format!(
        ": {}, {} in {} batches",
        share(table).in_words(),
        figures::bytes(table.bytes_done as f64),
        figures::count(table.batches_done)
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

fn cursor(table: &TableStatus) -> Option<String> {
    table
        .cursor
        .as_ref()
        .map(|key| format!("copied up to key ({})", key.join(", ")))
}

fn skipped(table: &TableStatus) -> Option<String> {
    (table.rows_skipped > 0).then(|| {
        format!(
            "{} of them were on the target before, and stayed as they were",
            figures::count(table.rows_skipped)
        )
    })
}

fn lost(table: &TableStatus) -> Option<String> {
    (table.batches_lost > 0).then(|| {
        format!(
            "the target had lost {} batches ({} rows) that it had confirmed after {}; they are copied again",
            figures::count(table.batches_lost),
            figures::count(table.rows_lost),
            table.lost_since.as_deref().unwrap_or("its beginning")
        )
    })
}

fn waiting(activity: &PendingActivity) -> Option<String> {
    let failure = activity.last_failure.as_ref()?;
    let when = activity
        .next_attempt_at
        .as_deref()
        .map_or("now".to_owned(), |time| format!("at {}", second(time)));
    let failure = failure.replace('\n', " ");
    Some(format!(
        "{}: attempt {} {when}, after: {failure}",
        activity.activity_type, activity.attempt
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn running() -> JobStatus {
        JobStatus {
            job: "audio_downloads".to_owned(),
            kind: JobKind::Migrate,
            state: JobState::Running,
            worker_pid: Some(4711),
            workflow_id: "longhaul/audio_downloads".to_owned(),
            run_id: "5f0c".to_owned(),
            history_length: 120,
            started_at: Some("2026-11-21T12:45:25.5Z".to_owned()),
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
                cursor: Some(vec!["450000".to_owned()]),
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
             started 2026-11-21T12:45:25Z"
        );
    }

    #[test]
    fn a_job_that_nobody_runs_says_so_and_what_went_wrong() {
        let mut job = running();
        job.worker_pid = None;
        job.last_failure = Some("connection refused\nby the server".to_owned());
        job.pending_activities = vec![PendingActivity {
            activity_type: "copy_batch".to_owned(),
            attempt: 3,
            last_failure: Some("connection refused".to_owned()),
            next_attempt_at: Some("2026-11-21T12:50:00Z".to_owned()),
        }];
        let table = &mut job.tables[0];
        (table.target, table.cursor, table.rows_total) = ("raw.audio".to_owned(), None, None);
        (table.rows_per_second, table.bytes_per_second, table.eta_seconds) = (None, None, None);
        assert_eq!(
            status(&job),
            "audio_downloads (migrate): interrupted, no process runs it\n  \
             public.audio_downloads -> raw.audio: 450,000 rows, 135 MB in 9 batches\n  \
             started 2026-11-21T12:45:25Z\n  \
             copy_batch: attempt 3 at 2026-11-21T12:50:00Z, after: connection refused\n  \
             last error: connection refused by the server"
        );
    }

    #[test]
    fn a_sleeping_sync_job_says_when_it_goes_on_and_who_holds_it_back() {
        let mut job = running();
        (job.kind, job.state) = (JobKind::Sync, JobState::Sleeping);
        job.next_run_at = Some("2026-11-21T13:00:00Z".to_owned());
        job.held_back_by = vec!["pid 99 (psql)".to_owned()];
        let text = status(&job);
        assert!(
            text.starts_with("audio_downloads (sync): sleeping in process 4711\n"),
            "{text}"
        );
        assert!(text.contains("\n  next round 2026-11-21T13:00:00Z"), "{text}");
        assert!(
            text.ends_with("\n  newest keys held back by pid 99 (psql)"),
            "{text}"
        );
    }
}
