//! What may be typed, as types: every subcommand, every flag, and the help.
//!
//! Nothing is resolved here. A flag that was not given is `None`; `settings` then looks into the environment, the job file
//! and the defaults. Values are read by the same functions wherever they come from.

mod cluster;
mod existing;
mod prune;
mod server;
mod shape;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ArgGroup, Parser, Subcommand};

use super::exit::ExitStatus;
use super::printer::ColorChoice;
use super::settings::{Secret, Wait};
use crate::job::{Against, BatchRows, GiveUpAfter, JobError, JobName, OnConflict, RateLimit};
use crate::job::{parse_concurrency, parse_interval, parse_lookback, parse_size};
use crate::observe::logs::LogFormat;
use crate::observe::progress::ProgressMode;
use crate::table::{KeyNames, TableName};

pub use cluster::{ClusterArgs, WorkerArgs};
pub use existing::{ChangeArgs, HistoryArgs, JobArgs, ListArgs, StatusArgs, TuneArgs};
pub use prune::PruneArgs;
pub use server::ServerArgs;
pub use shape::ShapeArgs;

/// Lines of at most 79 columns, so that they are wrapped nowhere.
const CONNECTIONS: &str = "\
Connections are URLs, postgres://user@host:5432/db?sslmode=verify-full, or libpq
strings, 'host=.. dbname=..'. Passwords are better kept in ~/.pgpass, PGSERVICE,
LONGHAUL_SOURCE_PASSWORD, LONGHAUL_TARGET_PASSWORD, or PGPASSWORD (both sides),
than typed on a command line. They are stored nowhere.

Settings are looked for in this order: flag, LONGHAUL_* variable, job file
(--config, the same names: batch_rows = 2000), default.

Exit status: 0 done · 1 the job failed or data differ · 2 usage or job file ·
3 source · 4 target · 5 journal or service · 130 interrupted, continues when
the same command is given again";

/// Copies PostgreSQL tables between databases, durably: an interrupted run continues where it was.
#[derive(Debug, Parser)]
#[command(name = "longhaul", version, long_version = super::version::long(), about, after_help = format!("\
Examples:
  longhaul demo
  longhaul check --source postgres://app@old/media \\
                 --target postgres://app@new/media --table audio_downloads
  longhaul migrate --source postgres://app@old/media \\
                   --target postgres://app@new/media --table audio_downloads
  longhaul status

{CONNECTIONS}"))]
#[command(propagate_version = true)]
pub struct Args {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, ArgGroup)]
pub struct GlobalArgs {
    /// Directory of the journal [env: LONGHAUL_STATE_DIR] [default: longhaul in the platform's state directory]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Global options")]
    pub state_dir: Option<PathBuf>,
    /// Job file with settings, in TOML [env: LONGHAUL_CONFIG]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Say nothing but errors and data; no progress unless --progress asks for it
    #[arg(
        short,
        long,
        global = true,
        conflicts_with = "verbose",
        help_heading = "Global options"
    )]
    pub quiet: bool,
    /// Log more: -v what longhaul does, -vv each step [env: RUST_LOG overrides it]
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Global options")]
    pub verbose: u8,
    /// Form of the log on stderr [env: LONGHAUL_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", global = true, help_heading = "Global options",
        value_parser = PossibleValuesParser::new(LogFormat::NAMES).try_map(|s| s.parse::<LogFormat>()))]
    pub log_format: Option<LogFormat>,
    /// File that takes the log and all that is said, with the time, appended to [env: LONGHAUL_LOG_FILE]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Global options")]
    pub log_file: Option<PathBuf>,
    /// When to use color [env: LONGHAUL_COLOR, NO_COLOR] [default: auto]
    #[arg(long, value_name = "WHEN", global = true, help_heading = "Global options",
        value_parser = PossibleValuesParser::new(ColorChoice::NAMES).try_map(|s| s.parse::<ColorChoice>()))]
    pub color: Option<ColorChoice>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at both sides, say what would be done and all that is in the way; write nothing
    #[command(after_help = format!("\
Examples:
  longhaul check --source postgres://app@old/media \\
                 --target postgres://app@new/media --table audio_downloads
  longhaul check --config nightly.toml --sync
  longhaul check --config nightly.toml --json | jq .troubles

Takes the flags of migrate and sync. Reads both catalogs, the ledger, and at most
10,000 rows, for an estimate of size and time; for a key that no index vouches for,
all rows. Writes nothing, on either side or here. Exit status 0: it can begin. 2, 3, 4: settings, source or target (the lowest
of them), with everything that is wrong on stderr.

{CONNECTIONS}"))]
    Check(CheckArgs),
    /// Copy a table; the same command again continues where it was
    #[command(after_help = format!("\
Examples:
  longhaul migrate --source postgres://app@old/media \\
                   --target postgres://app@new/media --table audio_downloads
  longhaul migrate --config nightly.toml --max-rate 20MB/s
  longhaul migrate --config nightly.toml --where 'score > 5' \\
                   --columns id,email,score --select 'email=md5(email)'
  export LONGHAUL_SOURCE='host=old dbname=media user=app'
  export LONGHAUL_TARGET='host=new dbname=media user=app'
  longhaul migrate --table media.songs --name songs

{CONNECTIONS}"))]
    Migrate(MigrateArgs),
    /// Copy a table, then copy what is new, round after round
    #[command(after_help = format!("\
Examples:
  longhaul sync --source postgres://app@old/media --interval 10m \\
                --target postgres://app@new/media --table audio_downloads
  longhaul sync --config nightly.toml --lookback 10000

Rows are new when their key is beyond those that are settled; rows that commit
late are not lost. Ids that an application takes in one transaction and uses in
a later one need --lookback.

{CONNECTIONS}"))]
    Sync(SyncArgs),
    /// Compare a table on the target with what was copied, or with the source
    #[command(after_help = format!("\
Examples:
  longhaul verify audio_downloads
  longhaul verify audio_downloads --against source
  longhaul verify audio_downloads --against source --repair --delete-extra
  longhaul verify --source postgres://app@old/media \\
                  --target postgres://app@new/media --table audio_downloads

With receipts, each range of the ledger is read back from the target, and its
rows and checksum are compared with what was sent; the source is not read.
With the source, both sides are read, and what differs is named row by row;
what the source has beyond the job's last key is not copied yet, and not missing.
Triggers and rules of the target that a repair would meet are refused.
Exit status 0: equal. 1: different, or the verification failed.

{CONNECTIONS}"))]
    Verify(VerifyArgs),
    /// Show the state of a job, or of all jobs
    #[command(after_help = "\
Examples:
  longhaul status
  longhaul status audio_downloads --json | jq .tables[0].rows_done")]
    Status(StatusArgs),
    /// List all jobs, a line each
    List(ListArgs),
    /// Show what a job has done: its batches, how long they took, what was retried
    #[command(after_help = "\
Examples:
  longhaul history audio_downloads
  longhaul history audio_downloads --events
  longhaul history audio_downloads --json | jq -r .eventType")]
    History(HistoryArgs),
    /// Pause a job: batches in flight end, none begins
    Pause(JobArgs),
    /// Unpause a job where it runs, or run an interrupted one here
    #[command(after_help = "\
Where a live process runs the job, unpauses it and returns. Where none does,
runs it here, in the foreground. JOB may be left out when only one job is open.
Passwords are looked for again: --source, LONGHAUL_SOURCE, PGPASSWORD, ~/.pgpass.
--source and --target say where the servers are now; they must be the same
databases.

Examples:
  longhaul resume
  longhaul resume audio_downloads
  longhaul resume audio_downloads --source postgres://app@moved/media")]
    Resume(ResumeArgs),
    /// End a job: batches in flight end or roll back, what is copied stays
    Cancel(JobArgs),
    /// Change how hard a job works, while it runs
    #[command(after_help = "\
Examples:
  longhaul tune audio_downloads --max-rate 20MB/s
  longhaul tune audio_downloads --max-rate none --concurrency 8
  longhaul tune audio_downloads --interval 1m

A speed limit holds at once, also for batches in flight; the rest from the next
batch or round on. It stays as tuned until a flag or another tune changes it.")]
    Tune(TuneArgs),
    /// Work on the jobs of a Temporal cluster between two databases, until it is told to stop
    #[command(after_help = format!("\
Examples:
  longhaul worker --temporal temporal.example.net:7233 \\
                  --source postgres://app@old/media --target postgres://app@new/media
  longhaul worker --temporal --config media.toml --concurrency 8

As many on as many machines as one likes. Each takes the tasks of jobs between
these two databases, as these two roles, and of no others; it has passwords of its
own. Jobs are begun by longhaul migrate and sync --temporal, on any machine.

{CONNECTIONS}"))]
    Worker(WorkerArgs),
    /// Serve Temporal's API on a TCP address: for its SDKs, its command line, its web UI
    #[command(after_help = server::EXAMPLES)]
    Server(ServerArgs),
    /// Remove from the journal what has ended long ago
    #[command(after_help = prune::EXAMPLES)]
    Prune(PruneArgs),
    /// See it work: two throwaway servers, a million rows, two kills, one comparison
    Demo(DemoArgs),
    /// Show the settings that hold, and where each comes from
    Config(ConfigArgs),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = "\
Examples:
  longhaul completions bash > ~/.local/share/bash-completion/completions/longhaul
  longhaul completions zsh > ~/.zfunc/_longhaul
  longhaul completions fish > ~/.config/fish/completions/longhaul.fish")]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = "\
Examples:
  longhaul man | man -l -
  longhaul man /usr/local/share/man/man1")]
    Man(ManArgs),
}

/// `longhaul check`.
#[derive(Debug, ArgGroup)]
pub struct CheckArgs {
    /// Look as sync would, not as migrate
    #[arg(long)]
    pub sync: bool,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// What to copy, and how.
    #[command(flatten)]
    pub job: AnyJobArgs,
}

/// The flags of `migrate` and of `sync`.
#[derive(Debug, ArgGroup)]
pub struct AnyJobArgs {
    /// What to copy, and how.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// migrate: read everything back at the end and compare it with what was sent [env: LONGHAUL_VERIFY]
    #[arg(long)]
    pub verify: bool,
    /// When a sync looks.
    #[command(flatten)]
    pub rounds: RoundArgs,
}

/// `--dry-run` of `migrate` and `sync`.
#[derive(Debug, ArgGroup)]
pub struct DryRunArgs {
    /// Do what longhaul check does, and no more: nothing is written anywhere
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: one JSON object on stdout
    #[arg(long, requires = "dry_run")]
    pub json: bool,
}

/// `longhaul config`.
#[derive(Debug, ArgGroup)]
pub struct ConfigArgs {
    /// What to do with the settings.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The subcommands of `longhaul config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show each setting's value and where it comes from; passwords are left out
    Show(ConfigShowArgs),
}

/// `longhaul config show`.
#[derive(Debug, ArgGroup)]
pub struct ConfigShowArgs {
    /// One JSON object a line, for each setting
    #[arg(long)]
    pub json: bool,
    /// Flags that would be given to migrate or sync.
    #[command(flatten)]
    pub job: AnyJobArgs,
}

/// `longhaul completions`.
#[derive(Debug, ArgGroup)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// `longhaul man`.
#[derive(Debug, ArgGroup)]
pub struct ManArgs {
    /// Directory for a page for each command; without it, the first page goes to stdout
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// `longhaul migrate`.
#[derive(Debug, ArgGroup)]
pub struct MigrateArgs {
    /// What to copy, and how.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// Read everything back at the end and compare it with what was sent [env: LONGHAUL_VERIFY]
    #[arg(long)]
    pub verify: bool,
    /// Whether it only looks.
    #[command(flatten)]
    pub dry: DryRunArgs,
}

/// `longhaul verify`.
#[derive(Debug, ArgGroup)]
pub struct VerifyArgs {
    /// Name of the job that copied the table; without it, --source, --target and --table say what is compared
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: Option<String>,
    /// What the target is compared with [default: receipts with JOB, source without]
    #[arg(long, value_name = "WHAT",
        value_parser = PossibleValuesParser::new(["receipts", "source"]).map(|s| if s == "source" { Against::Source } else { Against::Receipts }))]
    pub against: Option<Against>,
    /// Copy rows that are missing or changed again, then look again
    #[arg(long)]
    pub repair: bool,
    /// With --repair: delete rows that only the target has
    #[arg(long, requires = "repair")]
    pub delete_extra: bool,
    /// One JSON object on stdout instead of a report
    #[arg(long)]
    pub json: bool,
    /// Where the rows are and where they went.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Table on the source: name or schema.name [env: LONGHAUL_TABLE]
    #[arg(long, value_name = "TABLE")]
    pub table: Option<TableName>,
    /// Table on the target [env: LONGHAUL_TARGET_TABLE] [default: the same name]
    #[arg(long, value_name = "TABLE")]
    pub target_table: Option<TableName>,
    /// What of the table was copied, where no JOB says so.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Along which key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Ranges that are read at the same time, 1 to 64 [env: LONGHAUL_CONCURRENCY] [default: 4]
    #[arg(long, value_name = "N", value_parser = rule(parse_concurrency), allow_negative_numbers = true)]
    pub concurrency: Option<u32>,
    /// Speed limit: 20MB/s, 512KiB/s, none [env: LONGHAUL_MAX_RATE] [default: none]
    #[arg(long, value_name = "RATE", value_parser = rule(str::parse::<RateLimit>), allow_negative_numbers = true)]
    pub max_rate: Option<RateLimit>,
    /// How long servers are waited for.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// Role that may own the ledger on the target, besides this user [env: LONGHAUL_LEDGER_OWNER]
    #[arg(long, value_name = "ROLE")]
    pub ledger_owner: Option<String>,
    /// On a Temporal cluster: run the job's SQL (--where, --select) on the source, as this role
    #[arg(long)]
    pub allow_sql: bool,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul sync`.
#[derive(Debug, ArgGroup)]
pub struct SyncArgs {
    /// What to copy, and how.
    #[command(flatten)]
    pub copy: CopyArgs,
    /// When it looks.
    #[command(flatten)]
    pub rounds: RoundArgs,
    /// Whether it only looks once, and copies nothing.
    #[command(flatten)]
    pub dry: DryRunArgs,
}

/// What only a `sync` takes.
#[derive(Debug, ArgGroup)]
pub struct RoundArgs {
    /// Wait between two rounds: 30s, 10m, 1h 30m [env: LONGHAUL_INTERVAL] [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = rule(parse_interval))]
    pub interval: Option<u64>,
    /// Look again at this many keys below the highest each round [env: LONGHAUL_LOOKBACK] [default: none]
    #[arg(long, value_name = "KEYS", value_parser = rule(parse_lookback), allow_negative_numbers = true)]
    pub lookback: Option<u64>,
}

/// What `migrate` and `sync` have in common.
#[derive(Debug, ArgGroup)]
pub struct CopyArgs {
    /// Where the rows are and where they go.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Table on the source: name or schema.name [env: LONGHAUL_TABLE]
    #[arg(long, value_name = "TABLE")]
    pub table: Option<TableName>,
    /// Table on the target [env: LONGHAUL_TARGET_TABLE] [default: the same name]
    #[arg(long, value_name = "TABLE")]
    pub target_table: Option<TableName>,
    /// What of the table is copied, and as what.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// Along which key.
    #[command(flatten)]
    pub key: KeyArgs,
    /// Name of the job [env: LONGHAUL_NAME] [default: the table's]
    #[arg(long, value_name = "JOB", value_parser = rule(str::parse::<JobName>))]
    pub name: Option<JobName>,
    /// Batches in flight, 1 to 64 [env: LONGHAUL_CONCURRENCY] [default: 4]
    #[arg(long, value_name = "N", value_parser = rule(parse_concurrency), allow_negative_numbers = true)]
    pub concurrency: Option<u32>,
    /// Rows in a batch, or auto [env: LONGHAUL_BATCH_ROWS] [default: auto: at most 50,000 rows or 16 MB]
    #[arg(long, value_name = "N", value_parser = rule(str::parse::<BatchRows>), allow_negative_numbers = true)]
    pub batch_rows: Option<BatchRows>,
    /// Speed limit: 20MB/s, 512KiB/s, none [env: LONGHAUL_MAX_RATE] [default: none]
    #[arg(long, value_name = "RATE", value_parser = rule(str::parse::<RateLimit>), allow_negative_numbers = true)]
    pub max_rate: Option<RateLimit>,
    /// When a row is on the target already [env: LONGHAUL_ON_CONFLICT] [default: error]
    #[arg(long, value_name = "WHAT",
        value_parser = PossibleValuesParser::new(OnConflict::NAMES).try_map(|s| s.parse::<OnConflict>()))]
    pub on_conflict: Option<OnConflict>,
    /// Let triggers of the target fire for the rows that are copied [env: LONGHAUL_FIRE_TRIGGERS]
    #[arg(long)]
    pub fire_triggers: bool,
    /// Role that may own the ledger on the target, besides this user [env: LONGHAUL_LEDGER_OWNER]
    #[arg(long, value_name = "ROLE")]
    pub ledger_owner: Option<String>,
    /// Forget how far the job of this name came, and start over
    #[arg(long)]
    pub restart: bool,
    /// On a Temporal cluster: begin the job, leave it to workers (longhaul worker), and return
    #[arg(long)]
    pub detach: bool,
    /// How long servers are waited for.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// The two ends.
#[derive(Debug, ArgGroup)]
pub struct ConnectionArgs {
    /// Database to copy from: URL or libpq string [env: LONGHAUL_SOURCE]
    #[arg(long, value_name = "URL")]
    pub source: Option<Secret>,
    /// Database to copy to: URL or libpq string [env: LONGHAUL_TARGET]
    #[arg(long, value_name = "URL")]
    pub target: Option<Secret>,
}

/// Along which key a table is gone over.
#[derive(Debug, ArgGroup)]
pub struct KeyArgs {
    /// Columns of the key to go along: id, or a,b [env: LONGHAUL_KEY] [default: the primary key, else a unique index]
    #[arg(long, value_name = "COLUMNS")]
    pub key: Option<KeyNames>,
    /// Nobody writes to the source until it is copied: a table without a key is then copied as its rows lie, and that nobody has
    /// written is looked up at the end [env: LONGHAUL_SOURCE_IS_QUIET]
    #[arg(long)]
    pub source_is_quiet: bool,
    /// Copy a table without a key in one snapshot, if it takes no more than that: 1GB; interrupted, it starts again
    /// [env: LONGHAUL_SNAPSHOT_BELOW] [default: none]
    #[arg(long, value_name = "SIZE", value_parser = rule(parse_size))]
    pub snapshot_below: Option<u64>,
}

/// How long servers are waited for.
#[derive(Debug, ArgGroup)]
pub struct PatienceArgs {
    /// Before it starts, wait for servers that are not reached: --wait for ever, --wait=10m so long [env: LONGHAUL_WAIT] [default: no]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "forever",
        value_parser = str::parse::<Wait>)]
    pub wait: Option<Wait>,
    /// Once it runs, fail after waiting so long for what should pass (a server that is gone, a lock): 1h [env: LONGHAUL_GIVE_UP_AFTER] [default: never]
    #[arg(long, value_name = "TIME", value_parser = rule(str::parse::<GiveUpAfter>))]
    pub give_up_after: Option<GiveUpAfter>,
}

/// How progress is shown.
#[derive(Debug, ArgGroup)]
pub struct ProgressArgs {
    /// Progress: a bar, plain lines, JSON lines on stdout [env: LONGHAUL_PROGRESS] [default: bar on a terminal, else plain]
    #[arg(long, value_name = "HOW", hide_possible_values = false,
        value_parser = PossibleValuesParser::new(ProgressMode::NAMES).try_map(|s| s.parse::<ProgressMode>()))]
    pub progress: Option<ProgressMode>,
}

/// `longhaul resume`.
#[derive(Debug, ArgGroup)]
pub struct ResumeArgs {
    /// Name of the job; may be left out when only one job is open
    #[arg(value_name = "JOB", value_parser = job_name)]
    pub job: Option<String>,
    /// Where the servers are now, if they have moved; where the passwords are, if they are in the connection texts.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// On a Temporal cluster: run the job's SQL (--where, --select) on the source, as this role
    #[arg(long)]
    pub allow_sql: bool,
    /// On a Temporal cluster: let triggers of the target fire, as the job says [env: LONGHAUL_FIRE_TRIGGERS]
    #[arg(long)]
    pub fire_triggers: bool,
    /// Role that may own the ledger on the target, besides this user [env: LONGHAUL_LEDGER_OWNER]
    #[arg(long, value_name = "ROLE")]
    pub ledger_owner: Option<String>,
    /// How long servers are waited for.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
    /// Which cluster, if any.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `longhaul demo`.
#[derive(Debug, ArgGroup)]
pub struct DemoArgs {
    /// Rows to migrate
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub rows: u64,
    /// How often the worker is killed on the way
    #[arg(long, value_name = "N", default_value_t = 2, hide = true)]
    pub kills: u32,
    /// Leave the servers' directory and what they logged in place
    #[arg(long, hide = true)]
    pub keep: bool,
    /// How progress is shown.
    #[command(flatten)]
    pub progress: ProgressArgs,
}

impl Args {
    /// Reads the command line; `--help` and errors are printed, and end the process with 0 and 2.
    pub fn parse_or_exit() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            if !error.use_stderr() {
                error.exit();
            }
            // The usual way would print what was typed as it is: a password where none belongs, or what moves a terminal.
            let shown = without_passwords(&error.render().to_string());
            let shown = shown.replace('\x1b', " ");
            crate::observe::Terminal::standard().say(shown.trim_end());
            std::process::exit(ExitStatus::Usage.code().into())
        })
    }
}

/// The name of a job that may exist: any text, but not none.
fn job_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a job's name is not empty (longhaul list shows all jobs)".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// A value's reader for clap, which has named flag and value already: only the rule is left to say.
fn rule<T>(
    parse: impl Fn(&str) -> Result<T, JobError> + Clone + Send + Sync,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| parse(text).map_err(|error| error.rule())
}

/// The text with every `://user:password@` and `password=..` masked.
fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (url, pair) = (
            rest.find("://").map(|i| i + 3),
            rest.find("password=").map(|i| i + 9),
        );
        let Some(start) = url.into_iter().chain(pair).min() else {
            break;
        };
        shown += &rest[..start];
        rest = &rest[start..];
        let word = &rest[..rest
            .find(|c: char| c.is_whitespace() || "'\"&".contains(c))
            .unwrap_or(rest.len())];
        if Some(start) == pair {
            shown += "***";
            rest = &rest[word.len()..];
        } else if let Some(at) = word.rfind('@')
            && let Some(colon) = word[..at].find(':')
        {
            shown += &rest[..colon];
            shown += ":***";
            rest = &rest[at..];
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_of_the_arguments_holds_together() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_form_in_the_manual_is_taken() {
        for line in [
            "longhaul migrate --source a --target b --table audio_downloads",
            "longhaul migrate --name n --batch-rows 2000 --max-rate 8MB/s --on-conflict skip --restart --state-dir d",
            "longhaul migrate --config f --progress none -vv --log-format json --color never --target-table s.t",
            "longhaul sync --source a --target b --table t --interval 10m --lookback 1000",
            "longhaul verify j --against receipts --json",
            "longhaul verify --source a --target b --table t --against source --repair --delete-extra",
            "longhaul status",
            "longhaul status j --json",
            "longhaul status j --watch",
            "longhaul check --source a --target b --table t --sync --interval 10m --json",
            "longhaul migrate --config f --dry-run --json",
            "longhaul sync --config f --dry-run -q --log-file l",
            "longhaul history j --events",
            "longhaul config show --table t --json",
            "longhaul completions zsh",
            "longhaul man d",
            "longhaul list --json",
            "longhaul history j --json",
            "longhaul pause j --wait",
            "longhaul resume",
            "longhaul resume j --progress plain --source a --target b --wait",
            "longhaul migrate --table t --columns a,b --where id>5 --rename a=b --select c=md5(a),d=-1",
            "longhaul sync --table t --where -id>5",
            "longhaul migrate --table t --wait=10m --give-up-after 1h",
            "longhaul verify j --wait=no --give-up-after never",
            "longhaul cancel j --wait",
            "longhaul tune j --concurrency 8 --batch-rows auto --max-rate none",
            "longhaul tune j --interval 30s",
            "longhaul demo --rows 2000",
            "longhaul server",
            "longhaul server --listen [::1]:0 --tls-cert c --tls-key k --tls-client-ca a --api-key-file f",
            "longhaul server --listen localhost:7233 --unprotected --state-dir d",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn a_wrong_value_is_a_usage_error_that_names_the_flag_and_the_rule() {
        for (line, flag, rule) in [
            ("longhaul migrate --batch-rows 0", "--batch-rows", "1 to 10000000"),
            (
                "longhaul migrate --batch-rows -5",
                "--batch-rows",
                "1 to 10000000",
            ),
            (
                "longhaul migrate --concurrency 1000000",
                "--concurrency",
                "1 to 64",
            ),
            ("longhaul tune j --concurrency 0", "--concurrency", "1 to 64"),
            ("longhaul tune j --max-rate 20", "--max-rate", "at least 1KB/s"),
            ("longhaul sync --interval 0s", "--interval", "1s to a year"),
            ("longhaul sync --wait=soon", "--wait", "forever"),
            ("longhaul sync --give-up-after soon", "--give-up-after", "never"),
            ("longhaul migrate --table a.b.c", "--table", "more than two parts"),
            ("longhaul migrate --where id>5;", "--where", "without a semicolon"),
            ("longhaul migrate --where at>now()", "--where", "another time"),
            (
                "longhaul migrate --rename a",
                "--rename",
                "SOURCE_COLUMN=TARGET_COLUMN",
            ),
            ("longhaul migrate --select a=(", "--select", "do not match"),
            ("longhaul migrate --on-conflict ignore", "--on-conflict", "skip"),
            ("longhaul tune j", "--concurrency", "required"),
            ("longhaul server --listen 7233", "--listen", "127.0.0.1:7233"),
            ("longhaul server --tls-cert c", "--tls-key", "required"),
            ("longhaul server --tls-client-ca c", "--tls-cert", "required"),
        ] {
            let error = parse(line).expect_err(line);
            let text = error.to_string();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(text.contains(flag) && text.contains(rule), "{text}");
        }
    }

    #[test]
    fn the_password_of_a_connection_is_in_no_debug_output() {
        let args = parse("longhaul migrate --source postgres://u:hunter2@h/d --target password=hunter2")
            .expect("args");
        assert!(!format!("{args:?}").contains("hunter2"));
    }

    #[test]
    fn a_password_typed_in_the_wrong_place_is_not_printed_back() {
        let error =
            parse("longhaul migrate postgres://u:p@ss@h/d password=p@ss").expect_err("no such argument");
        assert!(!without_passwords(&error.render().to_string()).contains("p@ss"));
        for (text, shown) in [
            ("x postgres://u:pw@h:1/d y", "x postgres://u:***@h:1/d y"),
            ("postgres://u@h:1/d", "postgres://u@h:1/d"),
            (
                "h?password=pw&user=u 'password=pw'",
                "h?password=***&user=u 'password=***'",
            ),
            ("no such thing", "no such thing"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
