//! `longhaul list` for people: a job a line, in columns.

use super::status::kind;
use super::{aligned, second};
use crate::job::status::JobStatus;
use crate::observe::figures;
use crate::observe::progress::Share;

/// All jobs, a line each, below a line of headings.
pub fn list(jobs: &[JobStatus]) -> String {
    if jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let headings = ["JOB", "KIND", "STATE", "DONE", "ROWS", "STARTED", "ENDED"]
        .map(str::to_owned)
        .to_vec();
    let rows = std::iter::once(headings)
        .chain(jobs.iter().map(row))
        .collect::<Vec<_>>();
    aligned(&rows)
}

fn row(job: &JobStatus) -> Vec<String> {
    let rows = job.tables.iter().map(|table| table.rows_done).sum();
    let share = Share::of_job(job);
    let done = share
        .percent()
        .map_or("-".to_owned(), |_| share.percent_in_words());
    let time = |time: &Option<String>| time.as_deref().map_or("-".to_owned(), second);
    vec![
        job.job.clone(),
        kind(job.kind).to_owned(),
        job.state.word().to_owned(),
        done,
        figures::count(rows),
        time(&job.started_at),
        time(&job.closed_at),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::running;
    use super::*;
    use crate::job::status::JobState;

    #[test]
    fn jobs_stand_in_columns() {
        let mut ended = running();
        (ended.job, ended.state, ended.worker_pid) = ("a".to_owned(), JobState::Completed, None);
        ended.closed_at = Some("2026-11-21T12:46:00.1Z".to_owned());
        (ended.tables[0].rows_done, ended.tables[0].rows_total_is_estimate) = (1_000_000, false);
        assert_eq!(
            list(&[running(), ended]),
            "JOB              KIND     STATE      DONE  ROWS       STARTED               ENDED\n\
             audio_downloads  migrate  running    ~45%  450,000    2026-11-21T12:45:25Z  -\n\
             a                migrate  completed  100%  1,000,000  2026-11-21T12:45:25Z  2026-11-21T12:46:00Z"
        );
    }

    #[test]
    fn where_there_are_no_jobs_that_is_said() {
        assert_eq!(list(&[]), "no jobs");
    }
}
