//! The flags that lead to a Temporal cluster, and those of a worker there.

use std::path::PathBuf;

use clap::Args as ArgGroup;

use super::{Command, ConfigCommand, ConnectionArgs, PatienceArgs, rule};
use crate::cli::settings::Temporal;
use crate::job::parse_concurrency;

/// Which service knows the jobs, where it is not the journal in the state directory.
#[derive(Debug, ArgGroup)]
pub struct ClusterArgs {
    /// Jobs of a Temporal cluster; without HOST:PORT, that of temporal.toml and TEMPORAL_* [env: LONGHAUL_TEMPORAL] [default: no]
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "profile",
        help_heading = "Temporal cluster", value_parser = str::parse::<Temporal>)]
    pub temporal: Option<Temporal>,
    /// Profile in temporal.toml [env: LONGHAUL_TEMPORAL_PROFILE, TEMPORAL_PROFILE] [default: default]
    #[arg(long, value_name = "NAME", help_heading = "Temporal cluster")]
    pub temporal_profile: Option<String>,
    /// Namespace of the cluster [env: LONGHAUL_NAMESPACE, TEMPORAL_NAMESPACE] [default: default]
    #[arg(long, value_name = "NAME", help_heading = "Temporal cluster")]
    pub namespace: Option<String>,
    /// Certificates that sign the cluster's, PEM [env: LONGHAUL_TLS_CA] [default: this machine's, with https://]
    #[arg(long, value_name = "FILE", help_heading = "Temporal cluster")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate that the cluster is shown, PEM [env: LONGHAUL_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Temporal cluster")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM [env: LONGHAUL_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Temporal cluster")]
    pub tls_key: Option<PathBuf>,
    /// Name in the cluster's certificate, if it is not the host [env: LONGHAUL_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = "Temporal cluster")]
    pub tls_server_name: Option<String>,
    /// File with an API key, mode 0600; with a key the connection is TLS [env: LONGHAUL_API_KEY_FILE, TEMPORAL_API_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Temporal cluster")]
    pub api_key_file: Option<PathBuf>,
}

/// `longhaul worker`.
#[derive(Debug, ArgGroup)]
pub struct WorkerArgs {
    /// The databases that it works on.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// How much it does at a time, whatever the jobs' own concurrency, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = rule(parse_concurrency), allow_negative_numbers = true)]
    pub concurrency: u32,
    /// Run the SQL of jobs (--where, --select) on the source, as this role, whoever began them
    #[arg(long)]
    pub allow_sql: bool,
    /// Let triggers of the target fire, where a job says the same [env: LONGHAUL_FIRE_TRIGGERS]
    #[arg(long)]
    pub fire_triggers: bool,
    /// Role that may own the ledger on the target, besides this user, where a job says the same [env: LONGHAUL_LEDGER_OWNER]
    #[arg(long, value_name = "ROLE")]
    pub ledger_owner: Option<String>,
    /// How long servers are waited for.
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

impl Command {
    /// The flags that lead to a cluster, of a command that speaks to a service.
    pub fn cluster(&self) -> Option<&ClusterArgs> {
        match self {
            Self::Migrate(args) => Some(&args.copy.cluster),
            Self::Sync(args) => Some(&args.copy.cluster),
            Self::Check(args) => Some(&args.job.copy.cluster),
            Self::Config(args) => {
                let ConfigCommand::Show(show) = &args.command;
                Some(&show.job.copy.cluster)
            }
            Self::Verify(args) => Some(&args.cluster),
            Self::Status(args) => Some(&args.cluster),
            Self::List(args) => Some(&args.cluster),
            Self::History(args) => Some(&args.cluster),
            Self::Pause(args) | Self::Cancel(args) => Some(&args.cluster),
            Self::Resume(args) => Some(&args.cluster),
            Self::Tune(args) => Some(&args.cluster),
            Self::Worker(args) => Some(&args.cluster),
            Self::Server(_) | Self::Prune(_) | Self::Demo(_) | Self::Completions(_) | Self::Man(_) => None,
        }
    }
}
