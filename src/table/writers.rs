//! Who may still add rows behind the highest key that is visible. Pure data that crosses the journal.

use super::Key;
use serde::{Deserialize, Serialize};

/// The highest key that was visible, and every transaction that might still add a row below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The highest key that was visible; `None` where the table was empty.
    pub key: Option<Key>,
    /// Who was open just after that key was read. Once all of them have ended, `key` is settled.
    pub holders: Vec<Holder>,
    /// When the source's server was started, in its own text: a new start ends every transaction but the prepared.
    pub server_started_at: String,
}

/// A transaction on the source that may still add rows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The virtual transaction id, for one that runs; `None` for a prepared one.
    pub virtual_transaction: Option<String>,
    /// The backend's process id, for one that runs.
    pub pid: Option<i32>,
    /// The global identifier, for a prepared one.
    pub prepared: Option<String>,
    /// Who that is, for the operator: process, user, application, since when. Never the query.
    pub shown: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}
