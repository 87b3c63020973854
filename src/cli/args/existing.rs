//! The flags of commands that ask about a job that there is, or tell it something.

use clap::Args as ArgGroup;

use super::{ClusterArgs, job_name, rule};
use crate::job::{BatchRows, RateLimit, TuningChange};
use crate::job::{parse_concurrency, parse_interval};

/// `longhaul status`.
#[derive(Debug, ArgGroup)]
pub struct StatusArgs {
    /// Name of the job; without it, every job
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: Option<String>,
    /// One JSON object a line, for each job
    #[arg(long)]
    pub json: bool,
    /// Show it again every two seconds, until the job has ended or Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul list`.
#[derive(Debug, ArgGroup)]
pub struct ListArgs {
    /// One JSON object a line, for each job
    #[arg(long)]
    pub json: bool,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul history`.
#[derive(Debug, ArgGroup)]
pub struct HistoryArgs {
    /// Name of the job
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: String,
    /// The events of the job's workflow, one a line, as Temporal names them
    #[arg(long)]
    pub events: bool,
    /// One event a line, in Temporal's own JSON form
    #[arg(long)]
    pub json: bool,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul pause` and `longhaul cancel`.
#[derive(Debug, ArgGroup)]
pub struct JobArgs {
    /// Name of the job
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: String,
    /// Return when nothing of it is in flight any more
    #[arg(long)]
    pub wait: bool,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul tune`.
#[derive(Debug, ArgGroup)]
pub struct TuneArgs {
    /// Name of the job
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: String,
    /// What to change.
    #[command(flatten)]
    pub change: ChangeArgs,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// What `tune` changes: at least one thing.
#[derive(Debug, ArgGroup)]
#[group(required = true, multiple = true)]
pub struct ChangeArgs {
    /// Batches in flight, 1 to 64
    #[arg(long, value_name = "N", value_parser = rule(parse_concurrency), allow_negative_numbers = true)]
    pub concurrency: Option<u32>,
    /// Rows in a batch, or auto
    #[arg(long, value_name = "N", value_parser = rule(str::parse::<BatchRows>), allow_negative_numbers = true)]
    pub batch_rows: Option<BatchRows>,
    /// Speed limit: 20MB/s, 512KiB/s, none
    #[arg(long, value_name = "RATE", value_parser = rule(str::parse::<RateLimit>), allow_negative_numbers = true)]
    pub max_rate: Option<RateLimit>,
    /// Wait between two rounds of a sync: 30s, 10m, 1h 30m
    #[arg(long, value_name = "TIME", value_parser = rule(parse_interval))]
    pub interval: Option<u64>,
}

impl TuneArgs {
    /// The change that was asked for.
    pub fn change(&self) -> TuningChange {
        let ChangeArgs {
            concurrency,
            batch_rows,
            max_rate,
            interval,
        } = self.change;
        TuningChange {
            concurrency,
            batch_rows,
            max_rate,
            interval_ms: interval,
        }
    }
}
