//! What `longhaul prune` has removed.

use serde::Serialize;

use crate::observe::figures;

/// What was removed from a journal, or would be, as `prune --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// Runs that have ended.
    pub runs: u64,
    /// The jobs and workflows whose runs they were.
    pub jobs: u64,
    /// Their histories.
    pub history_bytes: u64,
    /// Runs as old that stay because they are the last of theirs.
    pub last_runs_kept: u64,
    /// What the journal takes on the disk now.
    pub journal_bytes: u64,
}

impl Pruned {
    /// Nothing yet.
    pub fn new(dry_run: bool) -> Self {
        Self {
            dry_run,
            runs: 0,
            jobs: 0,
            history_bytes: 0,
            last_runs_kept: 0,
            journal_bytes: 0,
        }
    }
}

/// The same for people.
pub fn pruned(found: &Pruned) -> String {
    let verb = if found.dry_run { "would remove" } else { "removed" };
    let kept = match found.last_runs_kept {
        0 => String::new(),
        kept => format!(
            "; {} as old, the last of a job each, stay (--ended-jobs removes them)",
            figures::counted(kept, "run")
        ),
    };
    let size = |bytes: u64| figures::bytes(bytes as f64);
    format!(
        "{verb} {} of {}, with {} of history{kept}\nthe journal takes {} on the disk",
        figures::counted(found.runs, "run"),
        figures::counted(found.jobs, "job"),
        size(found.history_bytes),
        size(found.journal_bytes)
    )
}
