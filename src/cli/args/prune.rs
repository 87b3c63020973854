//! The flags of `longhaul prune`.

use std::time::Duration;

use clap::Args as ArgGroup;

/// Lines of at most 79 columns, so that they are wrapped nowhere.
pub(super) const EXAMPLES: &str = "\
Examples:
  longhaul prune --dry-run
  longhaul prune --older-than 1d
  longhaul prune --ended-jobs --older-than 90d

Removes histories of runs that have ended, from the journal in the state
directory; nothing on either database, and no run that is open. Of each job the
last run stays, which says what the target was told to have, and is what status
and list show. With --ended-jobs it goes as well: such a job is known only to the
ledger on its target, from which its own command continues.
Without this command, too, all but the last run of a job go after 30 days. A
journal's file grows no more for what was removed, but it does not always shrink.";

/// `longhaul prune`.
#[derive(Debug, ArgGroup)]
pub struct PruneArgs {
    /// Only runs that ended at least so long ago: 12h, 7d, 0s for all
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = age)]
    pub older_than: Duration,
    /// Also the last run of jobs and workflows that have ended
    #[arg(long)]
    pub ended_jobs: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "it must be a time such as 12h, 7d or 0s".to_owned())
}
