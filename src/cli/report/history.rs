//! `longhaul history` for people: an event a line.

use super::{aligned, second};

/// One event of a job's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryRow {
    /// The event's id, from 1.
    pub event_id: u64,
    /// When it happened, RFC 3339.
    pub time: Option<String>,
    /// Its type, as Temporal names it: `ActivityTaskCompleted`.
    pub event_type: String,
    /// What it is about: an activity's type, a signal's name, a failure's message.
    pub detail: String,
}

/// A history, an event a line, in columns.
pub fn history(rows: &[HistoryRow]) -> String {
    let cells = |row: &HistoryRow| {
        let time = row.time.as_deref().map_or("-".to_owned(), second);
        vec![
            row.event_id.to_string(),
            time,
            row.event_type.clone(),
            row.detail.replace('\n', " "),
        ]
    };
    aligned(&rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_in_columns_one_a_line() {
        let row = |event_id, event_type: &str, detail: &str| HistoryRow {
            event_id,
            time: Some("2026-11-21T12:45:25.123Z".to_owned()),
            event_type: event_type.to_owned(),
            detail: detail.to_owned(),
        };
        let rows = [
            row(9, "ActivityTaskScheduled", "copy_batch"),
            row(10, "TimerStarted", ""),
            HistoryRow {
                time: None,
                ..row(11, "ActivityTaskFailed", "lost\nconnection")
            },
        ];
        assert_eq!(
            history(&rows),
            "9   2026-11-21T12:45:25Z  ActivityTaskScheduled  copy_batch\n\
             10  2026-11-21T12:45:25Z  TimerStarted\n\
             11  -                     ActivityTaskFailed     lost connection"
        );
        assert_eq!(history(&[]), "");
    }
}
