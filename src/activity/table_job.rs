//! Which tables a batch is of: what every activity after `prepare` is told.

use serde::{Deserialize, Serialize};

use crate::job::{ConnectionName, JobName, JobSpec};
use crate::postgres::ExamineRequest;
use crate::table::{OnConflict, TableName};

/// A job's tables and connections, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableJob {
    /// The job.
    pub job: JobName,
    /// The source's connection, without its password.
    pub source: ConnectionName,
    /// The target's.
    pub target: ConnectionName,
    /// The table on the source.
    pub source_table: TableName,
    /// The table on the target.
    pub target_table: TableName,
    /// What happens to rows that are there.
    pub on_conflict: OnConflict,
}

impl TableJob {
    /// The tables of a job.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            job: spec.name.clone(),
            source: spec.source.clone(),
            target: spec.target.clone(),
            source_table: spec.source_table.clone(),
            target_table: spec.target_table.clone(),
            on_conflict: spec.on_conflict,
        }
    }

    pub(super) fn examine_request(&self) -> ExamineRequest {
        ExamineRequest {
            source_table: self.source_table.clone(),
            target_table: self.target_table.clone(),
            on_conflict: self.on_conflict,
        }
    }
}
