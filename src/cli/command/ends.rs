//! The two ends of a job: reached, waited for if that was asked, and held against the ends of the job of that name.
//!
//! A job's identity is what it copies. The text of an address is only how to get there, and may change between runs: what
//! counts is the database that answers. Where its server keeps its identifier to itself, the address stands in for it,
//! unless the operator says that the servers have moved (`resume`), or the ledger on the target knows the job.

use std::time::{Duration, Instant, SystemTime};

use temporalio_client::{WorkflowFetchHistoryOptions, WorkflowSignalOptions};
use temporalio_protos::temporal::api::history::v1::history_event::Attributes;

use super::super::exit::ExitStatus;
use super::super::report::Report;
use super::check::{self, Phase, Told};
use super::jobs::Job;
use super::{Context, refused};
use crate::connect::{Connected, Place};
use crate::job::{ConnectionName, End, Ends, JobSpec, Mismatch};
use crate::observe::figures;
use crate::observe::progress::clock;
use crate::postgres::{
    ConnectionString, Error, Kind, Retry, Session, Side, connect as connect_to, identify, role,
};
use crate::table::plain;
use crate::worker::{self, Way};
use crate::workflow::CopyTable;

/// The first pause before servers that were not reached are tried again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// The signal that a job's workflow takes its new ends from.
const MOVED: &str = "move_to";

/// How to get to both ends, with their secrets.
#[derive(Clone)]
pub(super) struct Connections {
    pub source: ConnectionString,
    pub target: ConnectionString,
}

/// Why an attempt to get to the servers failed.
pub(super) enum Refusal {
    /// Each may be one that passes.
    Postgres(Vec<Told>),
    /// Waiting does not help.
    Final(Report),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Postgres(vec![(Phase::Connecting, error)])
    }
}

impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        Self::Final(report)
    }
}

impl Connections {
    /// Where they lead, without any password.
    pub fn names(&self) -> (ConnectionName, ConnectionName) {
        let name = |end: &ConnectionString| ConnectionName::without_password(end.name());
        (name(&self.source), name(&self.target))
    }
}

pub(super) fn parse(text: &str, side: Side) -> Result<ConnectionString, Report> {
    text.parse().map_err(|words: String| {
        Report::of(format!("--{side} is not understood: {words}"), ExitStatus::Usage).with_hint(
            "a URL is postgres://user@host:port/database; the other form is `host=... dbname=... user=...`"
                .to_owned(),
        )
    })
}

/// The ends that are given now; where none is, the job's own (without password).
pub(super) fn of_job(context: &Context<'_>, spec: &JobSpec) -> Result<Connections, Report> {
    let text = |given: Option<&str>, name: &ConnectionName| given.unwrap_or(name.as_str()).to_owned();
    let source = context.settings.source().ok().map(|secret| secret.expose());
    let target = context.settings.target().ok().map(|secret| secret.expose());
    Ok(Connections {
        source: parse(&text(source, &spec.source), Side::Source)?,
        target: parse(&text(target, &spec.target), Side::Target)?,
    })
}

/// What the journal here says of a job, the operator has said; what a cluster says may come from anybody who may write there:
/// of what lets others run something as this user, only what the operator says now is believed.
pub(super) fn trust(
    context: &Context<'_>,
    connected: &Connected,
    job: &mut JobSpec,
    allows_sql: bool,
) -> Result<(), Report> {
    let named = context.settings.ledger_owner.clone();
    match connected.place {
        Place::Cluster(_) if job.shape.has_expressions() && !allows_sql => {
            let words = format!(
                "job {} has SQL of its own, which would run on the source as your role",
                job.name
            );
            let shown = job
                .shape
                .shown()
                .map(|(what, text)| format!("{what}: {}", plain(&text)));
            return Err(Report::of(words, ExitStatus::Usage).caused_by(&shown.join("; ")).with_hint(
                "if you know it: --allow-sql; the job's own command, given again with its flags, needs no such word".to_owned(),
            ));
        }
        Place::Cluster(_) => {
            job.ledger_owner = named;
            job.fire_triggers &= context.settings.fire_triggers;
        }
        Place::Here(_) | Place::Process(_) | Place::Shared(_) => {
            job.ledger_owner = named.or_else(|| job.ledger_owner.take());
        }
    }
    Ok(())
}

/// A session with one side, and which database it is with.
pub(super) async fn reach(
    connection: &ConnectionString,
    side: Side,
    spec: &JobSpec,
) -> Result<(Session, End), Error> {
    reach_as(connection, side, &format!("longhaul {}", spec.name)).await
}

/// The same under a name of one's own in pg_stat_activity.
pub(super) async fn reach_as(
    connection: &ConnectionString,
    side: Side,
    application: &str,
) -> Result<(Session, End), Error> {
    let session = connect_to(connection, side, application).await?;
    let end = End {
        address: ConnectionName::without_password(connection.name()),
        database: Some(identify(&session).await?),
    };
    Ok((session, end))
}

/// The task queue of all jobs of a cluster between these two ends, as the roles of these sessions.
pub(super) async fn task_queue(ends: &Ends, source: &Session, target: &Session) -> Result<String, Report> {
    let roles = tokio::try_join!(role(source), role(target));
    let (reads, writes) = roles.map_err(|error| of_side(&error))?;
    let way = |role, end| Way { role, end };
    Ok(worker::of_databases(
        &way(&reads, &ends.source),
        &way(&writes, &ends.target),
    ))
}

/// What is waited for is told again after so long, after twice that, and so on, and at least so often.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(15);
const SAID_AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// What takes longer than this is told.
const SPEAKS_AFTER: Duration = Duration::from_secs(5);

/// Tries until it is done, as long as the operator lets a command wait for its servers.
pub(super) async fn patiently<T>(
    context: &Context<'_>,
    mut attempt: impl AsyncFnMut() -> Result<T, Refusal>,
) -> Result<T, Report> {
    let began = Instant::now();
    let (mut pause, longest) = PAUSES;
    let mut said = String::new();
    let (mut attempt_number, mut again_after) = (0_u64, SAID_AGAIN_AFTER);
    loop {
        let troubles = match spoken(context, attempt()).await {
            Ok(done) => {
                if !said.is_empty() {
                    context.printer.talk(&format!("reached after {}", waited(began)));
                }
                return Ok(done);
            }
            Err(Refusal::Final(report)) => return Err(report),
            Err(Refusal::Postgres(troubles)) => troubles,
        };
        let left = context.settings.wait.left(began.elapsed());
        let Some(left) = left.filter(|_| troubles.iter().all(|(_, error)| error.retry() == Retry::Retry))
        else {
            let report = check::of_sides(context.settings, troubles.iter());
            return Err(match said.is_empty() {
                true => report,
                false => report.with_hint(format!("it was waited for {} (--wait)", waited(began))),
            });
        };
        attempt_number += 1;
        let words: Vec<_> = troubles.iter().map(|(_, error)| error.chain()).collect();
        let words = words.join("; ");
        let is_due = began.elapsed() >= again_after;
        if words != said || is_due {
            let next = figures::span(pause.min(left).as_secs().max(1));
            let sides = sides_in_words(troubles.iter().map(|(_, error)| error));
            context.printer.warn(&format!(
                "{sides} waited for since {} (--wait), attempt {attempt_number}, next in {next}: {words}",
                waited_since(began)
            ));
            said = words;
        }
        if is_due {
            again_after = (again_after * 2).min(began.elapsed() + SAID_AGAIN_AT_MOST);
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(longest);
    }
}

/// `source`, `target`, `source and target`.
fn sides_in_words<'a>(errors: impl Iterator<Item = &'a Error>) -> String {
    let mut sides: Vec<_> = errors.map(|error| error.side().to_string()).collect();
    sides.sort();
    sides.dedup();
    sides.join(" and ")
}

/// The time of day at which the waiting began, and how long that was ago.
fn waited_since(began: Instant) -> String {
    let at = SystemTime::now() - began.elapsed();
    let at = clock(&humantime::format_rfc3339_seconds(at).to_string());
    match waited(began).as_str() {
        "0s" => at,
        lasts => format!("{at}, {lasts}"),
    }
}

/// Says that it takes its time, and where to look: nothing is waited for in silence.
pub(super) async fn spoken<T>(context: &Context<'_>, attempt: impl Future<Output = T>) -> T {
    let mut attempt = std::pin::pin!(attempt);
    let began = Instant::now();
    let mut next = SPEAKS_AFTER;
    loop {
        match tokio::time::timeout(next, &mut attempt).await {
            Ok(done) => return done,
            Err(_) => context.printer.warn(&format!(
                "looking at both sides takes {} so far: a server does not answer, or a table is locked (pg_stat_activity of \
                 either shows the session \"longhaul ..\" and what it waits for)",
                waited(began)
            )),
        }
        next *= 4;
    }
}

fn waited(began: Instant) -> String {
    figures::span(began.elapsed().as_secs())
}

/// An error of PostgreSQL's before the job starts: the side decides the exit status.
pub(super) fn of_side(error: &Error) -> Report {
    let status = match error.side() {
        _ if error.kind() == Kind::InvalidInput => ExitStatus::Usage,
        Side::Source => ExitStatus::Source,
        Side::Target => ExitStatus::Target,
    };
    let hint = match error.retry() {
        Retry::Retry if error.kind() == Kind::Transient => {
            "nothing was started: run the same command again".to_owned()
        }
        _ => error.hint().to_owned(),
    };
    Report::new(error, status).with_hint(hint)
}

/// Whether a job is of a version that went by addresses, and another one is given.
pub(super) fn went_by_another_address(job: &JobSpec, asked: &JobSpec) -> bool {
    job.source_database.is_none() && (&job.source, &job.target) != (&asked.source, &asked.target)
}

/// What a job is called again for, which decides how much is believed of an end that cannot be told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Its own command.
    Command,
    /// `resume` or `verify`, which name the job: an address that is given says where its server is now.
    Name,
}

/// Whether the ends that answer are those of the job that exists; `true` where only the ledger on the target can tell.
pub(super) fn are_of(job: &JobSpec, asked: &JobSpec, by: By) -> Result<bool, Report> {
    let (there, here) = (job.ends(), asked.ends());
    let mut in_doubt = false;
    let mut differ = false;
    for (one, two) in [(&there.source, &here.source), (&there.target, &here.target)] {
        match one.is(two) {
            Some(same) => differ |= !same,
            None if one.database.is_none() || by == By::Name => in_doubt = true,
            None => differ = true,
        }
    }
    if differ {
        Err(other(job, asked, by))
    } else {
        Ok(in_doubt)
    }
}

/// Another source or target than the job's.
pub(super) fn other(job: &JobSpec, asked: &JobSpec, by: By) -> Report {
    let mut same_work = asked.clone();
    (same_work.kind, same_work.name) = (job.kind, job.name.clone());
    let Err(mismatch) = job.same_job_as(&same_work) else {
        return Report::of(format!("job {} is another one", job.name), ExitStatus::Usage);
    };
    match by {
        By::Command => Report::from(mismatch).with_hint(format!(
            "if the servers have only moved: longhaul resume {} --source URL --target URL",
            job.name
        )),
        By::Name => of_named(mismatch),
    }
}

fn of_named(mismatch: Mismatch) -> Report {
    let each = mismatch.differences.iter().map(|difference| {
        let (what, asked) = (difference.what, &difference.asked);
        format!(
            "the job's {what} is {}, and the {what} given now is {asked}",
            difference.existing
        )
    });
    let words = each.collect::<Vec<_>>().join("; ");
    Report::of(words, ExitStatus::Usage).with_hint(
        "leave --source, --target and their variables (LONGHAUL_SOURCE, LONGHAUL_TARGET) out, or give the job's".to_owned(),
    )
}

/// The job as its workflow knows it by now: its servers may have moved since it was started.
pub(super) async fn follow(job: &mut Job) -> Result<(), Report> {
    let history = job.handle.fetch_history(WorkflowFetchHistoryOptions::default());
    let events = history.into_events().await.map_err(|error| refused(&error))?;
    let moved = events
        .into_iter()
        .rev()
        .find_map(|event| match event.attributes? {
            Attributes::WorkflowExecutionSignaledEventAttributes(signal) if signal.signal_name == MOVED => {
                signal.input?.payloads.into_iter().next()
            }
            _ => None,
        });
    if let Some(payload) = moved
        && let Ok(ends) = serde_json::from_slice::<Ends>(&payload.data)
    {
        job.spec.move_to(ends);
    }
    Ok(())
}

/// Tells an open job where its ends are now, and which databases they are, unless it knows.
pub(super) async fn tell(job: &Job, asked: &JobSpec) -> Result<(), Report> {
    if job.spec.ends() == asked.ends() {
        return Ok(());
    }
    let told = job
        .handle
        .signal(CopyTable::move_to, asked.ends(), WorkflowSignalOptions::default())
        .await;
    told.map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobName;
    use crate::job::{Kind as JobKind, OnConflict, Tuning};
    use crate::table::{DatabaseIdentity, TableName};

    fn end(address: &str, database: Option<(Option<&str>, &str)>) -> End {
        End {
            address: ConnectionName::without_password(address),
            database: database.map(|(system, name)| DatabaseIdentity {
                system_identifier: system.map(str::to_owned),
                database: name.to_owned(),
            }),
        }
    }

    fn job(source: End) -> JobSpec {
        let table: TableName = "t".parse().expect("a name");
        let mut spec = JobSpec {
            name: "j".parse::<JobName>().expect("a name"),
            kind: JobKind::Migrate,
            source: source.address.clone(),
            target: source.address.clone(),
            source_table: table.clone(),
            target_table: table,
            tuning: Tuning {
                concurrency: 1,
                batch_rows: None,
                max_rate_bytes_per_second: None,
            },
            on_conflict: OnConflict::Error,
            fire_triggers: false,
            ledger_owner: None,
            key: Default::default(),
            verify: None,
            lookback_keys: None,
            source_database: None,
            target_database: None,
            give_up_after_ms: None,
            shape: Default::default(),
        };
        let target = end("postgres://target", Some((Some("2"), "d")));
        spec.move_to(Ends { source, target });
        spec
    }

    #[test]
    fn an_end_that_cannot_be_told_is_in_doubt_only_where_the_ledger_or_the_operator_may_know_better() {
        let (old, new) = ("postgres://old/d", "postgres://new/d");
        let here = Some((Some("1"), "d"));
        for (existing, asked, by_command, by_name) in [
            // The same address, before anybody has looked which database that is.
            (end(old, None), end(old, here), Some(false), Some(false)),
            // A job of a version that went by addresses.
            (end(old, None), end(new, here), Some(true), Some(true)),
            (end(old, here), end(new, here), Some(false), Some(false)),
            (end(old, here), end(old, Some((Some("3"), "d"))), None, None),
            // A server that keeps its identifier to itself.
            (end(old, here), end(new, Some((None, "d"))), None, Some(true)),
            (
                end(old, here),
                end(old, Some((None, "d"))),
                Some(false),
                Some(false),
            ),
            (end(old, here), end(new, Some((None, "e"))), None, None),
        ] {
            let (existing, asked) = (job(existing), job(asked));
            let judged = |by| are_of(&existing, &asked, by).ok();
            assert_eq!(
                judged(By::Command),
                by_command,
                "{:?} {:?}",
                existing.source,
                asked.source
            );
            assert_eq!(
                judged(By::Name),
                by_name,
                "{:?} {:?}",
                existing.source,
                asked.source
            );
        }
    }

    #[test]
    fn whoever_names_the_job_is_told_of_both_ends_that_differ() {
        let existing = job(end("postgres://old/d", Some((Some("1"), "d"))));
        let asked = job(end("postgres://new/d", Some((Some("3"), "d"))));
        let said = other(&existing, &asked, By::Name).render(false);
        for word in [
            "the job's source is postgres://old/d",
            "cluster 1",
            "cluster 3",
            "leave --source",
        ] {
            assert!(said.contains(word), "{said}");
        }
        let said = other(&existing, &asked, By::Command).render(false);
        for word in [
            "there is a job `j` already",
            "cluster 1",
            "cluster 3",
            "--name",
            "--restart",
            "longhaul resume j",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }
}
