//! `longhaul list` for people: a job a line, in columns, with how long ago it began and ended.

use std::time::SystemTime;

use super::super::printer::{Paint, paint};
use super::aligned;
use super::status::kind;
use crate::job::status::{JobState, JobStatus};
use crate::observe::figures;
use crate::observe::progress::Share;

/// All jobs, a line each, below a line of headings.
pub fn list(jobs: &[JobStatus], now: SystemTime, color: bool) -> String {
    if jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let headings = ["JOB", "KIND", "STATE", "DONE", "ROWS", "STARTED", "ENDED"]
        .map(str::to_owned)
        .to_vec();
    let rows = std::iter::once(headings)
        .chain(jobs.iter().map(|job| row(job, now, color)))
        .collect::<Vec<_>>();
    aligned(&rows)
}

fn row(job: &JobStatus, now: SystemTime, color: bool) -> Vec<String> {
    let rows = job.tables.iter().map(|table| table.rows_done).sum();
    let share = Share::of_job(job);
    let done = share
        .percent()
        .map_or("-".to_owned(), |_| share.percent_in_words());
    let time = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), |time| ago(time, now));
    vec![
        job.job.clone(),
        kind(job.kind).to_owned(),
        painted(job.state, color),
        done,
        figures::count(rows),
        time(&job.started_at),
        time(&job.closed_at),
    ]
}

/// A state in the color of what it asks of the operator: nothing, patience, a look.
fn painted(state: JobState, color: bool) -> String {
    let asks = match state {
        JobState::Failed | JobState::Terminated => Paint::Bad,
        JobState::Running | JobState::Sleeping | JobState::Completed => Paint::Good,
        _ => Paint::Waiting,
    };
    paint(state.word(), asks, color)
}

/// `3 min ago`, in the largest unit of which there is one; the day where it was more than a month ago.
fn ago(rfc3339: &str, now: SystemTime) -> String {
    let Ok(then) = humantime::parse_rfc3339_weak(rfc3339) else {
        return rfc3339.to_owned();
    };
    let seconds = match now.duration_since(then) {
        Ok(past) => past.as_secs(),
        // Another machine's clock, or this one was set back.
        Err(_) => 0,
    };
    match seconds {
        0..5 => "now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        86_400..2_678_400 => match seconds / 86_400 {
            1 => "1 day ago".to_owned(),
            days => format!("{days} days ago"),
        },
        _ => humantime::format_rfc3339_seconds(then).to_string()[..10].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::running;
    use super::*;

    #[test]
    fn jobs_stand_in_columns() {
        let mut ended = running();
        (ended.job, ended.state, ended.worker_pid) = ("a".to_owned(), JobState::Completed, None);
        ended.closed_at = Some("2026-11-21T12:46:00.1Z".to_owned());
        (ended.tables[0].rows_done, ended.tables[0].rows_total_is_estimate) = (1_000_000, false);
        let now = humantime::parse_rfc3339("2026-11-21T14:48:00Z").expect("a time");
        let jobs = [running(), ended];
        assert_eq!(
            list(&jobs, now, false),
            "JOB              KIND     STATE      DONE  ROWS       STARTED  ENDED\n\
             audio_downloads  migrate  running    ~45%  450,000    2 h ago  -\n\
             a                migrate  completed  100%  1,000,000  2 h ago  2 h ago"
        );
        let painted = list(&jobs, now, true);
        assert!(painted.contains("\x1b[32mrunning\x1b[0m    ~45%"), "{painted:?}");
    }

    #[test]
    fn times_are_told_in_the_largest_unit() {
        let then = humantime::parse_rfc3339("2026-11-21T12:00:00Z").expect("a time");
        for (seconds, words) in [
            (2, "now"),
            (59, "59 s ago"),
            (185, "3 min ago"),
            (7300, "2 h ago"),
            (90_000, "1 day ago"),
            (864_000, "10 days ago"),
            (8_640_000, "2026-11-21"),
        ] {
            let now = then + std::time::Duration::from_secs(seconds);
            assert_eq!(ago("2026-11-21T12:00:00Z", now), words);
        }
        assert_eq!(ago("2026-11-21T12:00:09Z", then), "now");
        assert_eq!(ago("yesterday", then), "yesterday");
    }

    #[test]
    fn where_there_are_no_jobs_that_is_said() {
        assert_eq!(list(&[], SystemTime::UNIX_EPOCH, false), "no jobs");
    }
}
