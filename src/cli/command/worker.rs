//! `worker`: does what the jobs of a cluster between two databases have to do, until it is told to stop.

use tokio::time::Duration;

use super::super::args::WorkerArgs;
use super::super::exit::ExitStatus;
use super::super::report::{Outcome, Report};
use super::super::resources;
use super::super::settings::{Setting, SettingsError};
use super::ends::{self, Connections, Refusal};
use super::service::{Away, may_pass};
use super::{Context, refused};
use crate::connect::Place;
use crate::job::Ends;
use crate::postgres::Side;
use crate::worker::{self, Activities, Capacity, Sql, Trust};

/// How often it is looked whether the cluster is there, and the SDK's worker.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub async fn worker(context: &Context<'_>, args: &WorkerArgs) -> Outcome {
    let Some(connected) = context.cluster().await? else {
        return Err(SettingsError::Missing(Setting::Temporal).into());
    };
    let Place::Cluster(cluster) = &connected.place else {
        return Err(Report::of("a worker is of a cluster", ExitStatus::Usage));
    };
    let connections = Connections {
        source: ends::parse(context.settings.source()?.expose(), Side::Source)?,
        target: ends::parse(context.settings.target()?.expose(), Side::Target)?,
    };
    resources::must_suffice_for(args.concurrency)?;
    let attempt = async || task_queue(&connections).await;
    let task_queue = ends::patiently(context, attempt).await?;
    let activities = Activities::new(
        connections.source,
        connections.target,
        Trust {
            ledger_owner: context.settings.ledger_owner.clone(),
            fire_triggers: context.settings.fire_triggers,
            sql: if args.allow_sql { Sql::Any } else { Sql::Refused },
        },
    );
    let jobs = activities.jobs();
    let capacity = Capacity::shared(usize::try_from(args.concurrency).unwrap_or(1));
    let running = worker::start(&connected.client, &task_queue, Some(activities), capacity);
    let running = running.map_err(|error| refused(&error))?;
    let tuned = worker::keep_tuned(
        connected.client.clone(),
        task_queue.clone(),
        std::sync::Arc::clone(&jobs),
    );
    context.interrupts.attend("stopped".to_owned());
    context.printer.talk(&format!(
        "works on task queue {task_queue} in namespace {} of the Temporal cluster at {}, {} at a time",
        cluster.namespace, cluster.address, args.concurrency
    ));
    let mut away = Away::default();
    while !running.has_ended() {
        let looking = async {
            let polling = worker::polling(&connected.client, &task_queue).await;
            let error = polling.err().filter(may_pass);
            away.look(
                context,
                cluster,
                error.as_ref().map(|error| error as &dyn std::fmt::Display),
            );
            tokio::time::sleep(LOOK_EVERY).await;
        };
        tokio::select! {
            () = looking => {}
            () = context.interrupts.heard(1) => {
                context.printer.talk("stopping: batches in flight finish or roll back (once more: stop at once)");
                jobs.end();
                tuned.abort();
                tokio::select! {
                    ended = running.shut_down() => ended.map_err(|error| refused(&error))?,
                    () = context.interrupts.heard(2) => {}
                }
                context.printer.talk("stopped; other workers go on with what it had begun");
                return Ok(ExitStatus::Done);
            }
        }
    }
    Err(Report::of("the worker has ended by itself", ExitStatus::Service))
}

/// Both databases are reached as the jobs will reach them, before a task of theirs is taken.
async fn task_queue(connections: &Connections) -> Result<String, Refusal> {
    let (from, to) = tokio::try_join!(
        ends::reach_as(&connections.source, Side::Source, "longhaul worker"),
        ends::reach_as(&connections.target, Side::Target, "longhaul worker")
    )?;
    let ((source, source_end), (target, target_end)) = (from, to);
    let ends = Ends {
        source: source_end,
        target: target_end,
    };
    Ok(ends::task_queue(&ends, &source, &target).await?)
}
