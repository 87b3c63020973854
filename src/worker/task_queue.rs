//! Task queues: who may take the tasks of a job, and who does.
//!
//! A worker on another machine has passwords of its own, or has none. So the queue of a cluster's job says which databases
//! its tasks are about, and as which role each is entered: who polls it has been to both. The databases go by the identity
//! that their servers tell, whatever address leads there from this machine or that; where a server does not tell it, the
//! address stands in for it.

use std::time::{Duration, SystemTime};

use temporalio_client::tonic::IntoRequest;
use temporalio_client::{Client, NamespacedClient};
use temporalio_protos::temporal::api::enums::v1::TaskQueueType;
use temporalio_protos::temporal::api::taskqueue::v1::{PollerInfo, TaskQueue};
use temporalio_protos::temporal::api::workflowservice::v1::DescribeTaskQueueRequest;
use tonic::Status;

use crate::job::{End, JobName};

/// A poll lasts a minute at most, so who lives has begun one since. A cluster remembers who polled for longer.
const POLLED_WITHIN: Duration = Duration::from_secs(70);

/// How the names of all our queues begin.
pub const TASK_QUEUES: &str = "longhaul/";

/// One end of a job, as a worker enters it.
pub struct Way<'a> {
    /// The role.
    pub role: &'a str,
    /// The database.
    pub end: &'a End,
}

/// The task queue of a job in a state directory.
#[must_use]
pub fn of_job(job: &JobName) -> String {
    format!("{TASK_QUEUES}{job}")
}

/// The task queue of all jobs between two databases.
#[must_use]
pub fn of_databases(source: &Way<'_>, target: &Way<'_>) -> String {
    format!("{TASK_QUEUES}{}->{}", source.name(), target.name())
}

impl Way<'_> {
    fn name(&self) -> String {
        let Self { role, end } = self;
        let identity = end.database.as_ref();
        match identity.and_then(|identity| Some((&identity.database, identity.system_identifier.as_ref()?))) {
            Some((database, system)) => format!("{role}@{system}/{database}"),
            None => format!("{role}@{}", end.address),
        }
    }
}

/// The identities of those that poll a queue for activities now.
///
/// # Errors
/// What the service answers.
pub async fn polling(client: &Client, task_queue: &str) -> Result<Vec<String>, Status> {
    let request = DescribeTaskQueueRequest {
        namespace: client.namespace(),
        task_queue: Some(TaskQueue {
            name: task_queue.to_owned(),
            ..Default::default()
        }),
        task_queue_type: TaskQueueType::Activity as i32,
        ..Default::default()
    };
    let mut service = client.connection().workflow_service();
    let described = service
        .describe_task_queue(request.into_request())
        .await?
        .into_inner();
    let now = SystemTime::now();
    let live = described.pollers.into_iter().filter(|poller| lives(poller, now));
    let mut identities: Vec<_> = live.map(|poller| poller.identity).collect();
    identities.sort();
    identities.dedup();
    Ok(identities)
}

fn lives(poller: &PollerInfo, now: SystemTime) -> bool {
    let polled = poller
        .last_access_time
        .and_then(|time| SystemTime::try_from(time).ok());
    // The cluster's clock may be ahead of ours.
    polled.is_none_or(|polled| now.duration_since(polled).unwrap_or_default() <= POLLED_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ConnectionName;
    use crate::table::DatabaseIdentity;

    fn end(address: &str, system: Option<&str>) -> End {
        End {
            address: ConnectionName::without_password(address.to_owned()),
            database: Some(DatabaseIdentity {
                system_identifier: system.map(str::to_owned),
                database: "media".to_owned(),
            }),
        }
    }

    #[test]
    fn a_queue_is_of_two_databases_and_two_roles_whatever_leads_there() {
        let queue =
            |role, from: &End, to: &End| of_databases(&Way { role, end: from }, &Way { role, end: to });
        let (old, new) = (
            end("host=old dbname=media", Some("71")),
            end("host=new dbname=media", Some("72")),
        );
        let name = queue("app", &old, &new);
        assert_eq!(name, "longhaul/app@71/media->app@72/media");
        assert_eq!(
            name,
            queue("app", &end("host=127.0.0.1 dbname=media", Some("71")), &new)
        );
        assert_ne!(name, queue("admin", &old, &new));
        assert_ne!(name, queue("app", &new, &old));
        let hidden = end("host=old dbname=media", None);
        assert_eq!(
            queue("app", &hidden, &new),
            "longhaul/app@host=old dbname=media->app@72/media"
        );
    }
}
