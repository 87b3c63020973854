//! Resolved settings: flag, then LONGHAUL_* environment, then job file, then `config/default.toml`, which is compiled in
//! and is the only place where a default is written down.
//!
//! A value is read by the same function wherever it comes from, and keeps where it came from: a resumed job applies the
//! tuning that was given explicitly. Passwords are in [`Secret`]s and in nothing else; no error shows a connection text.

mod cluster;
mod error;
mod file;
mod secret;
mod setting;
mod shape;
mod wait;

pub use cluster::Temporal;
pub use error::SettingsError;
pub use secret::Secret;
pub use setting::{Origin, Setting};
pub use wait::Wait;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::args::{
    AnyJobArgs, Args, Command, ConfigCommand, ConnectionArgs, CopyArgs, KeyArgs, PatienceArgs, ProgressArgs,
    RoundArgs, VerifyArgs,
};
use super::printer::ColorChoice;
use crate::connect::Given;
use crate::job::status::JobKind;
use crate::job::{
    BatchRows, ConnectionName, GiveUpAfter, JobError, JobName, JobSpec, Kind, OnConflict, RateLimit, Tuning,
    TuningChange, VerifySpec,
};
use crate::job::{parse_concurrency, parse_interval, parse_lookback, parse_size};
use crate::observe::logs::LogFormat;
use crate::observe::progress::ProgressMode;
use crate::postgres::read_text;
use crate::table::{KeyChoice, Shape, TableName};

/// The defaults, as they stand in `config/default.toml`.
pub const DEFAULTS: &str = include_str!("../../../config/default.toml");
const ENVIRONMENT_PREFIX: &str = "LONGHAUL_";

/// Variables that are read where connections are made, each for its side only.
const PASSWORD_VARIABLES: [&str; 2] = ["LONGHAUL_SOURCE_PASSWORD", "LONGHAUL_TARGET_PASSWORD"];

/// Every setting, resolved. What has no default and was not given is `None`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The database to copy from.
    pub source: Option<Secret>,
    /// The database to copy to.
    pub target: Option<Secret>,
    /// The table on the source.
    pub table: Option<TableName>,
    /// The table on the target, where it has another name.
    pub target_table: Option<TableName>,
    /// What is said of the key.
    pub key: KeyChoice,
    /// The job's name, where it is not made of the table's.
    pub name: Option<JobName>,
    /// Batches in flight.
    pub concurrency: u32,
    /// Rows in a batch.
    pub batch_rows: BatchRows,
    /// The speed limit.
    pub max_rate: RateLimit,
    /// What becomes of a row whose key is on the target already.
    pub on_conflict: OnConflict,
    /// Whether triggers of the target may fire.
    pub fire_triggers: bool,
    /// Which rows and columns are copied, and as what.
    pub shape: Shape,
    /// A role that the ledger on the target may belong to.
    pub ledger_owner: Option<String>,
    /// Whether a migrate verifies what it copied at its end.
    pub verify: bool,
    /// The wait between two rounds of a sync job.
    pub interval_ms: u64,
    /// Keys that a sync job looks at again.
    pub lookback_keys: Option<u64>,
    /// How long servers that are not reached are waited for before a job starts.
    pub wait: Wait,
    /// How long a job that runs waits for what should pass.
    pub give_up_after: GiveUpAfter,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// The form of the log.
    pub log_format: LogFormat,
    /// A file that takes the log as well.
    pub log_file: Option<PathBuf>,
    /// When color is used.
    pub color: ColorChoice,
    /// The state directory, where it is not the platform's.
    pub state_dir: Option<PathBuf>,
    /// Whether jobs are on a Temporal cluster.
    pub temporal: Temporal,
    /// What is given of the cluster, but for its address.
    of_cluster: Given,
    /// What to tell the operator on stderr: variables that look like settings and are none.
    pub warnings: Vec<String>,
    origins: BTreeMap<Setting, Origin>,
}

fn read_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

impl Settings {
    /// Resolves the settings of a command; reads the job file if there is one.
    ///
    /// `environment` is `std::env::vars_os()`; only names that begin with LONGHAUL_ are looked at, and an empty value is
    /// as good as none.
    pub fn resolve(
        args: &Args,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let mut errors = settings.take_defaults();
        let (variables, job_file) = settings.look_at(environment);
        if let Some(path) = args.global.config.clone().or(job_file) {
            errors.extend(settings.read_file(&path));
        }
        for (setting, value) in variables {
            errors.extend(settings.set_os(setting, &value, Origin::Environment).err());
        }
        settings.take_flags(args);
        errors.extend(settings.must_be_of_use());
        settings.warn_of_typed_passwords();
        SettingsError::of(errors).map_or(Ok(settings), Err)
    }

    /// What is typed on a command line is seen by every user of the machine: said once, with the ways round it.
    fn warn_of_typed_passwords(&mut self) {
        let typed = |setting, secret: &Option<Secret>| {
            let has_password = secret.as_ref().is_some_and(Secret::has_password);
            has_password && self.origin(setting) == Some(&Origin::Flag)
        };
        if typed(Setting::Source, &self.source) || typed(Setting::Target, &self.target) {
            let others = PASSWORD_VARIABLES.join(" and ");
            self.warnings.push(format!(
                "a password on the command line can be seen by every user of this machine (ps); keep it in ~/.pgpass \
                 (mode 0600), or in {others}"
            ));
        }
    }

    fn take_defaults(&mut self) -> Vec<SettingsError> {
        let (entries, mut errors) = file::entries(Path::new("config/default.toml"), DEFAULTS);
        for entry in entries {
            errors.extend(self.set(entry.setting, &entry.text, Origin::Default).err());
        }
        errors
    }

    /// Takes what a job file has; what is wrong in it comes back.
    fn read_file(&mut self, path: &Path) -> Vec<SettingsError> {
        let read = || -> std::io::Result<(u32, String)> {
            let file = std::fs::File::open(path)?;
            let mode = file.metadata()?.mode();
            Ok((mode, read_text(file)?))
        };
        let (mode, text) = match read() {
            Ok(read) => read,
            Err(source) => {
                let path = path.to_owned();
                return vec![SettingsError::Unreadable { path, source }];
            }
        };
        let (entries, mut errors) = file::entries(path, &text);
        for entry in entries {
            let is_connection = matches!(entry.setting, Setting::Source | Setting::Target);
            if is_connection
                && mode & 0o077 != 0
                && Secret::from_str(&entry.text).is_ok_and(|s| s.has_password())
            {
                errors.push(SettingsError::OpenToOthers {
                    setting: entry.setting,
                    path: path.to_owned(),
                    line: entry.line,
                });
                continue;
            }
            let origin = Origin::File {
                path: path.to_owned(),
                line: entry.line,
            };
            errors.extend(self.set(entry.setting, &entry.text, origin).err());
            let below = |given: &Path| path.parent().unwrap_or(Path::new("")).join(given);
            // A job file means the same wherever the command is typed.
            match entry.setting {
                Setting::StateDir => self.state_dir = self.state_dir.as_deref().map(below),
                Setting::LogFile => self.log_file = self.log_file.as_deref().map(below),
                setting => {
                    if let Some(file) = self.cluster_file(setting) {
                        *file = file.as_deref().map(below);
                    }
                }
            }
        }
        errors
    }

    /// Sorts the environment into settings, the job file's path, and warnings.
    fn look_at(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (Vec<(Setting, OsString)>, Option<PathBuf>) {
        let (mut variables, mut job_file) = (Vec::new(), None);
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if PASSWORD_VARIABLES.contains(&name) {
                continue;
            }
            if key == "CONFIG" {
                job_file = Some(PathBuf::from(value));
            } else if let Some(setting) = Setting::ALL
                .into_iter()
                .find(|setting| setting.environment() == name)
            {
                variables.push((setting, value));
            } else {
                let nearest = Setting::nearest(&key.to_lowercase());
                let meant = nearest.map_or(String::new(), |near| {
                    format!("; did you mean {}?", near.environment())
                });
                self.warnings
                    .push(format!("{name} is set, and is not a setting of longhaul{meant}"));
            }
        }
        (variables, job_file)
    }

    fn set_os(&mut self, setting: Setting, value: &OsString, origin: Origin) -> Result<(), SettingsError> {
        match value.to_str() {
            Some(text) => self.set(setting, text, origin),
            None if matches!(setting, Setting::StateDir | Setting::LogFile) => {
                let path = Some(PathBuf::from(value));
                match setting {
                    Setting::LogFile => self.log_file = path,
                    _ => self.state_dir = path,
                }
                self.origins.insert(setting, origin);
                Ok(())
            }
            None => Err(SettingsError::Value {
                setting,
                origin,
                rule: "it is not UTF-8".to_owned(),
            }),
        }
    }

    fn set(&mut self, setting: Setting, text: &str, origin: Origin) -> Result<(), SettingsError> {
        match self.read(setting, text) {
            Ok(()) => {
                self.origins.insert(setting, origin);
                Ok(())
            }
            Err(rule) => Err(SettingsError::Value {
                setting,
                origin,
                rule,
            }),
        }
    }

    fn read(&mut self, setting: Setting, text: &str) -> Result<(), String> {
        fn shown(error: impl std::fmt::Display) -> String {
            error.to_string()
        }
        // The place of the value is told with it, and need not be told twice.
        let rule = |error: JobError| error.rule();
        if self.read_shape(setting, text)? {
            return Ok(());
        }
        match setting {
            Setting::Source => self.source = Some(text.parse()?),
            Setting::Target => self.target = Some(text.parse()?),
            Setting::Table => self.table = Some(text.parse().map_err(shown)?),
            Setting::TargetTable => self.target_table = Some(text.parse().map_err(shown)?),
            Setting::Key => self.key.columns = Some(text.parse().map_err(shown)?),
            Setting::SourceIsQuiet => self.key.source_is_quiet = read_bool(text)?,
            Setting::SnapshotBelow => self.key.snapshot_below_bytes = Some(parse_size(text).map_err(rule)?),
            Setting::Name => self.name = Some(text.parse().map_err(shown)?),
            Setting::Concurrency => self.concurrency = parse_concurrency(text).map_err(rule)?,
            Setting::BatchRows => self.batch_rows = text.parse().map_err(rule)?,
            Setting::MaxRate => self.max_rate = text.parse().map_err(rule)?,
            Setting::OnConflict => self.on_conflict = text.parse().map_err(rule)?,
            Setting::FireTriggers => self.fire_triggers = read_bool(text)?,
            Setting::LedgerOwner => self.ledger_owner = Some(text.to_owned()),
            Setting::Verify => self.verify = read_bool(text)?,
            Setting::Interval => self.interval_ms = parse_interval(text).map_err(rule)?,
            Setting::Lookback => self.lookback_keys = Some(parse_lookback(text).map_err(rule)?),
            Setting::Wait => self.wait = text.parse()?,
            Setting::GiveUpAfter => self.give_up_after = text.parse().map_err(rule)?,
            Setting::Progress => self.progress = text.parse().map_err(shown)?,
            Setting::LogFormat => self.log_format = text.parse().map_err(shown)?,
            Setting::Color => self.color = text.parse()?,
            Setting::StateDir | Setting::LogFile if text.is_empty() => return Err("it is empty".to_owned()),
            Setting::LogFile => self.log_file = Some(PathBuf::from(text)),
            Setting::StateDir => self.state_dir = Some(PathBuf::from(text)),
            Setting::Temporal => self.temporal = text.parse()?,
            Setting::TemporalProfile => self.of_cluster.profile = Some(text.to_owned()),
            Setting::Namespace => self.of_cluster.namespace = Some(text.to_owned()),
            Setting::TlsServerName => self.of_cluster.tls_server_name = Some(text.to_owned()),
            Setting::Columns | Setting::Where | Setting::Rename | Setting::Select => {}
            Setting::TlsCa | Setting::TlsCert | Setting::TlsKey | Setting::ApiKeyFile => {
                if let Some(file) = self.cluster_file(setting) {
                    *file = Some(PathBuf::from(text));
                }
            }
        }
        Ok(())
    }

    fn take_flags(&mut self, args: &Args) {
        self.flag(Setting::StateDir, &args.global.state_dir, |s, v| {
            s.state_dir = Some(v)
        });
        self.flag(Setting::LogFormat, &args.global.log_format, |s, v| {
            s.log_format = v
        });
        self.flag(Setting::LogFile, &args.global.log_file, |s, v| {
            s.log_file = Some(v)
        });
        self.flag(Setting::Color, &args.global.color, |s, v| s.color = v);
        if let Some(cluster) = args.command.cluster() {
            self.take_cluster_flags(cluster);
        }
        match &args.command {
            Command::Migrate(migrate) => {
                self.take_copy_flags(&migrate.copy);
                self.flag(Setting::Verify, &migrate.verify.then_some(true), |s, v| {
                    s.verify = v
                });
            }
            Command::Verify(verify) => self.take_verify_flags(verify),
            Command::Sync(sync) => {
                self.take_copy_flags(&sync.copy);
                self.take_sync_flags(&sync.rounds);
            }
            Command::Check(check) => self.take_job_flags(&check.job),
            Command::Config(config) => {
                let ConfigCommand::Show(show) = &config.command;
                self.take_job_flags(&show.job);
            }
            Command::Resume(resume) => {
                self.take_connection_flags(&resume.connections);
                self.take_ledger_owner_flag(&resume.ledger_owner);
                self.take_fire_triggers_flag(resume.fire_triggers);
                self.take_patience_flags(&resume.patience);
                self.take_progress_flag(&resume.progress);
            }
            Command::Demo(demo) => self.take_progress_flag(&demo.progress),
            Command::Worker(worker) => {
                self.take_connection_flags(&worker.connections);
                self.take_ledger_owner_flag(&worker.ledger_owner);
                self.take_fire_triggers_flag(worker.fire_triggers);
                self.take_patience_flags(&worker.patience);
            }
            Command::Status(_) | Command::List(_) | Command::History(_) => {}
            Command::Pause(_) | Command::Cancel(_) | Command::Tune(_) => {}
            Command::Server(_) | Command::Prune(_) | Command::Completions(_) | Command::Man(_) => {}
        }
    }

    fn take_job_flags(&mut self, job: &AnyJobArgs) {
        self.take_copy_flags(&job.copy);
        self.take_sync_flags(&job.rounds);
        self.flag(Setting::Verify, &job.verify.then_some(true), |s, v| s.verify = v);
    }

    fn take_sync_flags(&mut self, sync: &RoundArgs) {
        self.flag(Setting::Interval, &sync.interval, |s, v| s.interval_ms = v);
        self.flag(Setting::Lookback, &sync.lookback, |s, v| {
            s.lookback_keys = Some(v)
        });
    }

    fn take_copy_flags(&mut self, copy: &CopyArgs) {
        self.take_connection_flags(&copy.connections);
        self.flag(Setting::Table, &copy.table, |s, v| s.table = Some(v));
        self.flag(Setting::TargetTable, &copy.target_table, |s, v| {
            s.target_table = Some(v)
        });
        self.take_shape_flags(&copy.shape);
        self.take_key_flags(&copy.key);
        self.flag(Setting::Name, &copy.name, |s, v| s.name = Some(v));
        self.flag(Setting::Concurrency, &copy.concurrency, |s, v| s.concurrency = v);
        self.flag(Setting::BatchRows, &copy.batch_rows, |s, v| s.batch_rows = v);
        self.flag(Setting::MaxRate, &copy.max_rate, |s, v| s.max_rate = v);
        self.flag(Setting::OnConflict, &copy.on_conflict, |s, v| s.on_conflict = v);
        self.take_fire_triggers_flag(copy.fire_triggers);
        self.take_patience_flags(&copy.patience);
        self.take_ledger_owner_flag(&copy.ledger_owner);
        self.take_progress_flag(&copy.progress);
    }

    fn take_verify_flags(&mut self, verify: &VerifyArgs) {
        self.take_connection_flags(&verify.connections);
        self.flag(Setting::Table, &verify.table, |s, v| s.table = Some(v));
        self.flag(Setting::TargetTable, &verify.target_table, |s, v| {
            s.target_table = Some(v)
        });
        self.take_shape_flags(&verify.shape);
        self.take_key_flags(&verify.key);
        self.flag(Setting::Concurrency, &verify.concurrency, |s, v| {
            s.concurrency = v
        });
        self.flag(Setting::MaxRate, &verify.max_rate, |s, v| s.max_rate = v);
        self.take_patience_flags(&verify.patience);
        self.take_ledger_owner_flag(&verify.ledger_owner);
        self.take_progress_flag(&verify.progress);
    }

    fn take_fire_triggers_flag(&mut self, is_given: bool) {
        let given = is_given.then_some(true);
        self.flag(Setting::FireTriggers, &given, |s, v| s.fire_triggers = v);
    }

    fn take_ledger_owner_flag(&mut self, owner: &Option<String>) {
        self.flag(Setting::LedgerOwner, owner, |s, v| s.ledger_owner = Some(v));
    }

    fn take_key_flags(&mut self, key: &KeyArgs) {
        self.flag(Setting::Key, &key.key, |s, v| s.key.columns = Some(v));
        self.flag(Setting::SnapshotBelow, &key.snapshot_below, |s, v| {
            s.key.snapshot_below_bytes = Some(v)
        });
        let is_quiet = key.source_is_quiet.then_some(true);
        self.flag(Setting::SourceIsQuiet, &is_quiet, |s, v| {
            s.key.source_is_quiet = v
        });
    }

    fn take_connection_flags(&mut self, connections: &ConnectionArgs) {
        self.flag(Setting::Source, &connections.source, |s, v| s.source = Some(v));
        self.flag(Setting::Target, &connections.target, |s, v| s.target = Some(v));
    }

    fn take_patience_flags(&mut self, patience: &PatienceArgs) {
        self.flag(Setting::Wait, &patience.wait, |s, v| s.wait = v);
        self.flag(Setting::GiveUpAfter, &patience.give_up_after, |s, v| {
            s.give_up_after = v
        });
    }

    fn take_progress_flag(&mut self, progress: &ProgressArgs) {
        self.flag(Setting::Progress, &progress.progress, |s, v| s.progress = v);
    }

    fn flag<T: Clone>(&mut self, setting: Setting, value: &Option<T>, put: impl FnOnce(&mut Self, T)) {
        if let Some(value) = value {
            put(self, value.clone());
            self.origins.insert(setting, Origin::Flag);
        }
    }

    /// Where a setting's value comes from; `None` where it has no value.
    pub fn origin(&self, setting: Setting) -> Option<&Origin> {
        self.origins.get(&setting)
    }

    /// Whether the operator gave this setting, be it by flag, environment or job file.
    pub fn is_explicit(&self, setting: Setting) -> bool {
        !matches!(self.origin(setting), None | Some(Origin::Default))
    }

    /// The database to copy from, or the error that asks for one.
    pub fn source(&self) -> Result<&Secret, SettingsError> {
        self.source
            .as_ref()
            .ok_or(SettingsError::Missing(Setting::Source))
    }

    /// The database to copy to, or the error that asks for one.
    pub fn target(&self) -> Result<&Secret, SettingsError> {
        self.target
            .as_ref()
            .ok_or(SettingsError::Missing(Setting::Target))
    }

    /// The table on the source, or the error that asks for one.
    pub fn table(&self) -> Result<&TableName, SettingsError> {
        self.table.as_ref().ok_or(SettingsError::Missing(Setting::Table))
    }

    /// Source, target and table, or the error that asks for all that are missing.
    pub fn needed(&self) -> Result<(&Secret, &Secret, &TableName), SettingsError> {
        match (self.source(), self.target(), self.table()) {
            (Ok(source), Ok(target), Ok(table)) => Ok((source, target, table)),
            (source, target, table) => {
                let missing = [source.err(), target.err(), table.err()];
                let missing: Vec<_> = missing.into_iter().flatten().collect();
                Err(SettingsError::of(missing).unwrap_or(SettingsError::Missing(Setting::Table)))
            }
        }
    }

    /// Where a setting that the operator gave comes from, in words.
    pub fn place(&self, setting: Setting) -> Option<String> {
        let origin = self.origin(setting).filter(|_| self.is_explicit(setting))?;
        Some(origin.place(setting))
    }

    /// The job's name: as given, or made of the table's.
    pub fn job_name(&self) -> Result<JobName, SettingsError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => Ok(JobName::of_table(self.table()?)),
        }
    }

    /// The validated job, given the names of its two connections (their texts without passwords).
    pub fn job_spec(
        &self,
        kind: JobKind,
        source: ConnectionName,
        target: ConnectionName,
    ) -> Result<JobSpec, SettingsError> {
        let table = self.table()?.clone();
        let (kind, lookback_keys) = match kind {
            JobKind::Migrate => (Kind::Migrate, None),
            JobKind::Verify => (Kind::Verify, None),
            JobKind::Sync => (
                Kind::Sync {
                    interval_ms: self.interval_ms,
                },
                self.lookback_keys,
            ),
        };
        let spec = JobSpec {
            name: self.job_name()?,
            kind,
            source,
            target,
            target_table: self.target_table.clone().unwrap_or_else(|| table.clone()),
            source_table: table,
            tuning: Tuning {
                concurrency: self.concurrency,
                batch_rows: self.batch_rows.rows,
                max_rate_bytes_per_second: self.max_rate.bytes_per_second,
            },
            on_conflict: self.on_conflict,
            fire_triggers: self.fire_triggers,
            ledger_owner: self.ledger_owner.clone(),
            verify: (kind == Kind::Migrate && self.verify).then(VerifySpec::default),
            lookback_keys,
            source_database: None,
            target_database: None,
            give_up_after_ms: self.give_up_after.ms,
            shape: self.shape.clone(),
            key: self.key.clone(),
        };
        spec.validate()?;
        Ok(spec)
    }

    /// The tuning that was given explicitly: what a resumed job applies. Empty when none was.
    pub fn tuning_change(&self) -> TuningChange {
        TuningChange {
            concurrency: self.is_explicit(Setting::Concurrency).then_some(self.concurrency),
            batch_rows: self.is_explicit(Setting::BatchRows).then_some(self.batch_rows),
            max_rate: self.is_explicit(Setting::MaxRate).then_some(self.max_rate),
            interval_ms: self.is_explicit(Setting::Interval).then_some(self.interval_ms),
        }
    }
}
