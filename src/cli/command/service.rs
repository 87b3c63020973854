//! The service that a command speaks to: the Temporal cluster that was asked for, else that of the state directory.

use std::time::Instant;

use tonic::{Code, Status};

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::Context;
use crate::connect::{self, Cluster, ClusterError, ConnectError, Connected, Place};
use crate::observe::figures;
use crate::service::Mode;

/// Asked again and again, a cluster is reached once.
pub(super) type Reached = tokio::sync::OnceCell<Connected>;

impl Context<'_> {
    /// The service of a command that runs a job.
    pub(super) async fn serve(&self) -> Result<Connected, Report> {
        if let Some(cluster) = self.cluster().await? {
            return Ok(cluster);
        }
        for warning in self.state_dir.prepare()? {
            self.printer.warn(&warning);
        }
        self.share().await
    }

    /// The service of a command that asks or tells. `None`: nothing was ever journaled here.
    pub(super) async fn reach(&self, mode: Mode) -> Result<Option<Connected>, Report> {
        if let Some(cluster) = self.cluster().await? {
            return Ok(Some(cluster));
        }
        if !self.has_state()? {
            return Ok(None);
        }
        let reached = connect::reach(self.path(), mode).await;
        reached.map(Some).map_err(|error| unreachable(&error))
    }

    /// The cluster, if one was asked for.
    pub(super) async fn cluster(&self) -> Result<Option<Connected>, Report> {
        let Some(given) = self.settings.cluster() else {
            return Ok(None);
        };
        let reaching = || async { connect::reach_cluster(&given).await };
        let connected = self.reached.get_or_try_init(reaching).await;
        let connected = connected.map_err(|error| unreachable(&error.into()))?;
        let Place::Cluster(cluster) = &connected.place else {
            return Ok(None);
        };
        Ok(Some(Connected::of_cluster(
            connected.client.clone(),
            cluster.clone(),
        )))
    }

    /// Joins those that share the state directory; a damaged journal is set aside, since the ledger on the target knows as much.
    async fn share(&self) -> Result<Connected, Report> {
        let error = match connect::share(self.path()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        let damaged = matches!(&error, ConnectError::Journal(journal) if journal.is_damage());
        if !damaged {
            return Err(unreachable(&error));
        }
        let aside = connect::set_aside(self.path()).await;
        let aside = aside.map_err(|error| unreachable(&error))?;
        self.printer.warn(&format!(
            "{error}; it is set aside as {}, and the jobs in it continue from the ledgers on their targets",
            aside.display()
        ));
        let shared = connect::share(self.path()).await;
        shared.map_err(|error| unreachable(&error))
    }
}

/// There is no job of that name, and nothing where one could be.
pub(super) fn unknown(name: &str) -> Report {
    Report::of(format!("there is no job named {name}"), ExitStatus::Usage).with_hint(
        "nothing was ever run from this state directory; --state-dir says where else to look".to_owned(),
    )
}

/// Whether the cluster is there: said when it is not any more, and when it is again.
#[derive(Default)]
pub(super) struct Away(Option<Instant>);

impl Away {
    /// Looks at what came of an RPC: why it failed, if it did.
    pub(super) fn look(
        &mut self,
        context: &Context<'_>,
        cluster: &Cluster,
        error: Option<&dyn std::fmt::Display>,
    ) {
        match (error, self.0) {
            (Some(error), None) => {
                self.0 = Some(Instant::now());
                context.printer.warn(&format!(
                    "the Temporal cluster at {} is not reached ({error}); it is tried again, and the work goes on with it",
                    cluster.address
                ));
            }
            (None, Some(since)) => {
                self.0 = None;
                let span = figures::span(since.elapsed().as_secs());
                let words = format!("the Temporal cluster is reached again, after {span}");
                context.printer.talk(&words);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

/// Whether a cluster that is there again would answer.
pub(super) fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::ResourceExhausted
    )
}

/// What cannot be reached, and the way out.
pub(super) fn unreachable(error: &ConnectError) -> Report {
    let hint = match error {
        ConnectError::Owned { pid, .. } => Some(format!("wait for process {pid}, or end it, then run the same command again")),
        ConnectError::Journal(journal) if journal.is_damage() => Some(
            "run the job's own command again: it sets the damaged journal aside, finds the ledger on the target and continues \
             from it"
                .to_owned(),
        ),
        ConnectError::Journal(journal) if journal.is_held() => Some(
            "somebody has removed the lock file of the state directory: end the process that has the journal open, or \
             wait for its end, then run the same command again"
                .to_owned(),
        ),
        ConnectError::Journal(_) => Some("make room, fix the disk's rights, or raise the limit that is reached, then run the same command again".to_owned()),
        ConnectError::Silent { pid, .. } => Some(format!("if process {pid} hangs, end it and run its command again")),
        ConnectError::Directory(error) => Some(error.hint()),
        ConnectError::Lock { .. } | ConnectError::Listen(_) => Some("look at the rights of the state directory".to_owned()),
        ConnectError::Cluster(error) => Some(error.hint()),
        ConnectError::Client(_) => None,
    };
    let status = match error {
        ConnectError::Cluster(
            ClusterError::Config(_)
            | ClusterError::File { .. }
            | ClusterError::KeyOpen { .. }
            | ClusterError::KeyInClear(_),
        ) => ExitStatus::Usage,
        _ => ExitStatus::Service,
    };
    Report::new(error, status).with_hint(hint)
}
