//! The list of settings, each with its one name in a job file, and where a value can come from.

use std::path::PathBuf;

use crate::cli::spelling::nearest;

/// A setting: a key in a job file, a LONGHAUL_* variable, and a flag, all of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "each is described in config/default.toml, and a test proves that none is left out"
)]
pub enum Setting {
    Source,
    Target,
    Table,
    TargetTable,
    Columns,
    Where,
    Rename,
    Select,
    Key,
    SourceIsQuiet,
    SnapshotBelow,
    Name,
    Concurrency,
    BatchRows,
    MaxRate,
    OnConflict,
    FireTriggers,
    LedgerOwner,
    Verify,
    Interval,
    Lookback,
    Wait,
    GiveUpAfter,
    Progress,
    LogFormat,
    LogFile,
    Color,
    StateDir,
    Temporal,
    TemporalProfile,
    Namespace,
    TlsCa,
    TlsCert,
    TlsKey,
    TlsServerName,
    ApiKeyFile,
}

impl Setting {
    /// Every setting.
    pub const ALL: [Self; 36] = [
        Self::Source,
        Self::Target,
        Self::Table,
        Self::TargetTable,
        Self::Columns,
        Self::Where,
        Self::Rename,
        Self::Select,
        Self::Key,
        Self::SourceIsQuiet,
        Self::SnapshotBelow,
        Self::Name,
        Self::Concurrency,
        Self::BatchRows,
        Self::MaxRate,
        Self::OnConflict,
        Self::FireTriggers,
        Self::LedgerOwner,
        Self::Verify,
        Self::Interval,
        Self::Lookback,
        Self::Wait,
        Self::GiveUpAfter,
        Self::Progress,
        Self::LogFormat,
        Self::LogFile,
        Self::Color,
        Self::StateDir,
        Self::Temporal,
        Self::TemporalProfile,
        Self::Namespace,
        Self::TlsCa,
        Self::TlsCert,
        Self::TlsKey,
        Self::TlsServerName,
        Self::ApiKeyFile,
    ];

    /// Its key in a job file: `batch_rows`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Table => "table",
            Self::TargetTable => "target_table",
            Self::Columns => "columns",
            Self::Where => "where",
            Self::Rename => "rename",
            Self::Select => "select",
            Self::Key => "key",
            Self::SourceIsQuiet => "source_is_quiet",
            Self::SnapshotBelow => "snapshot_below",
            Self::Name => "name",
            Self::Concurrency => "concurrency",
            Self::BatchRows => "batch_rows",
            Self::MaxRate => "max_rate",
            Self::OnConflict => "on_conflict",
            Self::FireTriggers => "fire_triggers",
            Self::LedgerOwner => "ledger_owner",
            Self::Verify => "verify",
            Self::Interval => "interval",
            Self::Lookback => "lookback",
            Self::Wait => "wait",
            Self::GiveUpAfter => "give_up_after",
            Self::Progress => "progress",
            Self::LogFormat => "log_format",
            Self::LogFile => "log_file",
            Self::Color => "color",
            Self::StateDir => "state_dir",
            Self::Temporal => "temporal",
            Self::TemporalProfile => "temporal_profile",
            Self::Namespace => "namespace",
            Self::TlsCa => "tls_ca",
            Self::TlsCert => "tls_cert",
            Self::TlsKey => "tls_key",
            Self::TlsServerName => "tls_server_name",
            Self::ApiKeyFile => "api_key_file",
        }
    }

    /// Its flag: `--batch-rows`.
    pub fn flag(self) -> String {
        format!("--{}", self.key().replace('_', "-"))
    }

    /// Its variable: `LONGHAUL_BATCH_ROWS`.
    pub fn environment(self) -> String {
        format!("LONGHAUL_{}", self.key().to_uppercase())
    }

    /// The setting of this key.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.key() == key)
    }

    /// The setting whose key is most like this one, if any is like it at all.
    pub fn nearest(key: &str) -> Option<Self> {
        Self::of_key(nearest(key, Self::ALL.map(Self::key))?)
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A LONGHAUL_* variable.
    Environment,
    /// A job file.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// `config/default.toml`.
    Default,
}

impl Origin {
    /// The place as words that follow "the value of": a variable, a file's line.
    pub fn place(&self, setting: Setting) -> String {
        match self {
            Self::Flag => setting.flag(),
            Self::Environment => format!("{} in the environment", setting.environment()),
            Self::File { path, line } => format!("`{}` in {}, line {line}", setting.key(), path.display()),
            Self::Default => format!("`{}` in config/default.toml", setting.key()),
        }
    }
}
