//! Why settings do not resolve. All of it is the operator's to mend, and ends the process with status 2.

use std::path::PathBuf;

use super::{Origin, Setting};
use crate::cli::exit::ExitStatus;
use crate::cli::report::Report;
use crate::job::JobError;

/// Why settings do not resolve.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A key in a job file that is no setting.
    #[error("unknown key `{key}` in {}, line {line}", .path.display())]
    UnknownKey {
        /// The key as it stands in the file.
        key: String,
        /// The job file.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
        /// The setting that was meant, perhaps.
        nearest: Option<Setting>,
    },
    /// A job file that is not TOML.
    #[error("{}, line {line}, is not valid TOML: {message}", .path.display())]
    Syntax {
        /// The job file.
        path: PathBuf,
        /// The line at which the reader stopped, from 1.
        line: usize,
        /// What it says; the line itself is not shown, for it may hold a password.
        message: String,
    },
    /// A job file that cannot be read.
    #[error("cannot read the job file {}", .path.display())]
    Unreadable {
        /// The job file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A job file with a password that others can read.
    #[error("the {} in {}, line {line}, has a password, and others can read the file", .setting.key(), .path.display())]
    OpenToOthers {
        /// Whose password.
        setting: Setting,
        /// The job file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A value that is not allowed.
    #[error("the value of {} is not allowed: {rule}", .origin.place(*.setting))]
    Value {
        /// The setting.
        setting: Setting,
        /// Where the value stands.
        origin: Origin,
        /// What is allowed.
        rule: String,
    },
    /// A setting that has no default and was not given.
    #[error("no {} was given", .0.key().replace('_', " "))]
    Missing(Setting),
    /// Several of these at once.
    #[error("{} settings are missing or wrong", .0.len())]
    Several(Vec<SettingsError>),
    /// Settings that do not make a job.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl SettingsError {
    /// All of them as one; `None` where there are none.
    pub(super) fn of(mut errors: Vec<Self>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several(errors)),
        }
    }

    /// What the operator may do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey {
                nearest: Some(near), ..
            } => Some(format!("did you mean `{}`?", near.key())),
            Self::UnknownKey { nearest: None, .. } => {
                let keys: Vec<_> = Setting::ALL.into_iter().map(Setting::key).collect();
                Some(format!("a job file has these keys: {}", keys.join(", ")))
            }
            Self::Missing(setting) => Some(format!(
                "give {}, set {}, or write `{} = \"..\"` in a job file (--config)",
                setting.flag(),
                setting.environment(),
                setting.key()
            )),
            Self::Syntax { .. } => {
                Some("values are texts in quotes or whole numbers, as in `batch_rows = 2000`".to_owned())
            }
            Self::OpenToOthers { path, .. } => Some(format!(
                "chmod 0600 {}, or keep the password in ~/.pgpass",
                path.display()
            )),
            Self::Unreadable { .. } | Self::Value { .. } | Self::Several(_) | Self::Job(_) => None,
        }
    }
}

impl From<SettingsError> for Report {
    fn from(error: SettingsError) -> Self {
        let words = Self::new(&error, ExitStatus::Usage).with_hint(error.hint());
        match error {
            SettingsError::Several(errors) => Self::all(errors.into_iter().map(Self::from)).unwrap_or(words),
            _ => words,
        }
    }
}
