//! What a workflow can have done: one file an activity, its contract on top of it, the bodies beside the connections they
//! need. All of them are safe at any attempt.
//!
//! Connections, the table's plan and the speed limit are the worker's, not the workflow's: nothing of them is journaled.

#![expect(
    missing_docs,
    reason = "the macro makes constants of the activities, which carry the documentation"
)]

mod attempts;
mod beat;
mod conclude;
mod copy_batch;
mod failure;
mod hold;
mod looked;
mod next_batch;
mod next_range;
mod note_writers;
mod prepare;
mod prepare_verify;
mod since;
mod snapshot;
mod timed;
mod trust;
mod verify_range;
mod verifying;

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::sync::Mutex;

use crate::postgres::{
    ConnectionString, Error, Kind, Lease, Meter, Pool, Session, Side, Snapshot, Throttle, examine,
    examine_to_read, ledger,
};
use crate::table::{Plan, PlanDigest, TableSpec};
use attempts::{Attempts, Verdict};
use beat::{Pulse, step};
use since::FailingSince;

pub use beat::Beat;
pub use conclude::ConcludeInput;
pub use copy_batch::{CopyBatchInput, CopyBatchOutput};
pub use failure::{Failure, INTERRUPTED};
pub use hold::{Hold, PAUSED};
pub use looked::{Looked, Proof};
pub use next_batch::{NextBatchInput, NextBatchOutput};
pub use next_range::{NextRangeInput, NextRangeOutput};
pub use note_writers::{NoteWritersInput, NoteWritersOutput};
pub use prepare::{PrepareInput, PrepareOutput};
pub use prepare_verify::{PrepareVerifyInput, PrepareVerifyOutput, WalkPlan};
pub use timed::Timed;
pub use trust::{Sql, Trust};
pub use verify_range::{VerifyRangeInput, VerifyRangeOutput, Walk};

pub(crate) use {
    conclude::options as conclude_options, copy_batch::options as copy_batch_options,
    next_batch::options as next_batch_options, next_range::options as next_range_options,
    note_writers::options as note_writers_options, prepare::options as prepare_options,
    prepare_verify::options as prepare_verify_options, verify_range::options as verify_range_options,
};

/// A batch that is told to end may finish within this time; then it rolls back.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// How often a worker says that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// An attempt whose workflow nobody answers for is given back after so long: others want its place.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// Sessions to one server, at most: the greatest concurrency, and one that looks for the next batch.
const MAX_SESSIONS: usize = 65;

/// The activities of one worker, for every job that comes to it, on connections whose passwords only this process knows.
pub struct Activities {
    jobs: Arc<Jobs>,
}

/// The jobs that a worker has met, for whoever tells it what they are tuned to.
pub struct Jobs {
    source: ConnectionString,
    target: ConnectionString,
    trust: Trust,
    met: std::sync::Mutex<BTreeMap<String, Arc<OneJob>>>,
    ending: Arc<AtomicBool>,
}

/// One job's connections, and what this worker knows of it.
struct OneJob {
    source: Pool,
    target: Pool,
    /// How the table is copied, as it was found last.
    plan: Mutex<Option<Arc<Plan>>>,
    /// The snapshot in which all rows of the source are read, where this worker holds it.
    snapshot: Mutex<Option<Snapshot>>,
    trust: Trust,
    /// Whether the ledger was seen to be one that is trusted here.
    is_trusted: Mutex<bool>,
    /// Whether it was seen here, at the end of a migrate, that the target has all of it.
    has_concluded: AtomicBool,
    /// The same by the ledger's word, which is the target's: nothing of it is asked of the source.
    plan_of_ledger: Mutex<Option<Arc<Plan>>>,
    throttle: Throttle,
    hold: Arc<Hold>,
    attempts: Attempts,
    failing_since: FailingSince,
    ending: Arc<AtomicBool>,
}

impl Activities {
    /// None of any job yet. `trust` is whom the one who runs this trusts, whatever a job says.
    pub fn new(source: ConnectionString, target: ConnectionString, trust: Trust) -> Self {
        let jobs = Jobs {
            source,
            target,
            trust,
            met: std::sync::Mutex::default(),
            ending: Arc::default(),
        };
        Self { jobs: Arc::new(jobs) }
    }

    /// The jobs that come to it.
    pub fn jobs(&self) -> Arc<Jobs> {
        Arc::clone(&self.jobs)
    }

    /// The job that asks, by its name, which is its workflow's id.
    fn of(&self, ctx: &ActivityContext) -> Arc<OneJob> {
        self.jobs
            .meet(ctx.info().workflow_id.as_deref().unwrap_or_default())
    }
}

impl Jobs {
    /// Of a job that comes without a word before, nothing begins until its workflow was asked.
    fn meet(&self, job: &str) -> Arc<OneJob> {
        let mut met = self.met();
        let one = met.entry(job.to_owned()).or_insert_with(|| {
            let application = format!("longhaul {job}");
            let pool = |end: &ConnectionString, side| {
                Pool::new(end.clone(), side, application.clone(), MAX_SESSIONS)
            };
            Arc::new(OneJob {
                source: pool(&self.source, Side::Source),
                target: pool(&self.target, Side::Target),
                plan: Mutex::new(None),
                trust: self.trust.clone(),
                snapshot: Mutex::new(None),
                is_trusted: Mutex::new(false),
                has_concluded: AtomicBool::new(false),
                plan_of_ledger: Mutex::new(None),
                throttle: Throttle::new(None),
                hold: Arc::default(),
                attempts: Attempts::new(),
                failing_since: FailingSince::default(),
                ending: Arc::clone(&self.ending),
            })
        });
        Arc::clone(one)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.met().keys().cloned().collect()
    }

    /// Changes a job's speed limit, in bytes a second for all its batches here together; those in flight keep to it at once.
    ///
    /// The limit is this process's, not the journal's: whoever runs the worker sees to it that it is the one that the
    /// workflow was tuned to.
    pub fn set_limit(&self, job: &str, bytes_per_second: Option<NonZeroU64>) {
        self.meet(job).throttle.set(bytes_per_second);
    }

    /// Whether attempts of a job may begin, for whoever asks its workflow: none does before its first word.
    pub fn hold(&self, job: &str) -> Arc<Hold> {
        Arc::clone(&self.meet(job).hold)
    }

    /// What of a job should pass is given up after that time, or never.
    pub fn set_patience(&self, job: &str, give_up_after: Option<Duration>) {
        self.meet(job).attempts.set_patience(give_up_after);
    }

    /// Whether this worker has seen that the target has all of a migrate.
    pub fn has_concluded(&self, job: &str) -> bool {
        self.meet(job).has_concluded.load(Ordering::SeqCst)
    }

    /// The job has ended: its sessions are closed once nothing of it is in flight.
    pub fn forget(&self, job: &str) {
        self.met().remove(job);
    }

    /// Said before the worker is shut down: what is canceled then goes on in the next process.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    fn met(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<OneJob>>> {
        self.met.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[activities]
impl Activities {
    /// See `prepare.rs`.
    #[activity(name = "prepare")]
    pub async fn prepare(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: PrepareInput,
    ) -> Result<PrepareOutput, ActivityError> {
        let job = self.of(&ctx);
        job.beating(&ctx, job.do_prepare(input)).await
    }

    /// See `next_batch.rs`.
    #[activity(name = "next_batch")]
    pub async fn next_batch(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: NextBatchInput,
    ) -> Result<NextBatchOutput, ActivityError> {
        let job = self.of(&ctx);
        job.beating(&ctx, job.do_next_batch(input)).await
    }

    /// See `copy_batch.rs`.
    #[activity(name = "copy_batch")]
    pub async fn copy_batch(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: CopyBatchInput,
    ) -> Result<CopyBatchOutput, ActivityError> {
        let attempt = ctx.info().attempt;
        let (job, began) = (self.of(&ctx), Instant::now());
        let tally = job.beating(&ctx, job.do_copy_batch(input, attempt)).await?;
        Ok(Timed::since(began, tally))
    }

    /// See `note_writers.rs`.
    #[activity(name = "note_writers")]
    pub async fn note_writers(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: NoteWritersInput,
    ) -> Result<NoteWritersOutput, ActivityError> {
        let job = self.of(&ctx);
        job.beating(&ctx, job.do_note_writers(input)).await
    }

    /// See `prepare_verify.rs`.
    #[activity(name = "prepare_verify")]
    pub async fn prepare_verify(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: PrepareVerifyInput,
    ) -> Result<PrepareVerifyOutput, ActivityError> {
        let job = self.of(&ctx);
        let body = verifying::hinted(job.do_prepare_verify(input));
        job.beating(&ctx, body).await
    }

    /// See `next_range.rs`.
    #[activity(name = "next_range")]
    pub async fn next_range(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: NextRangeInput,
    ) -> Result<NextRangeOutput, ActivityError> {
        let job = self.of(&ctx);
        let body = verifying::hinted(job.do_next_range(input));
        job.beating(&ctx, body).await
    }

    /// See `verify_range.rs`.
    #[activity(name = "verify_range")]
    pub async fn verify_range(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: VerifyRangeInput,
    ) -> Result<VerifyRangeOutput, ActivityError> {
        let (job, began) = (self.of(&ctx), Instant::now());
        let body = verifying::hinted(job.do_verify_range(input));
        Ok(Timed::since(began, job.beating(&ctx, body).await?))
    }

    /// See `conclude.rs`.
    #[activity(name = "conclude")]
    pub async fn conclude(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ConcludeInput,
    ) -> Result<(), ActivityError> {
        let job = self.of(&ctx);
        job.beating(&ctx, job.do_conclude(input)).await
    }
}

impl OneJob {
    /// Runs a body with heartbeats; told to end, it may finish what it has begun, for a moment.
    async fn beating<T>(
        &self,
        ctx: &ActivityContext,
        body: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ActivityError> {
        let pulse = Pulse::of_attempt(ctx.info().attempt);
        self.held(ctx, &pulse).await?;
        let mut body = std::pin::pin!(Arc::clone(&pulse).of(body));
        let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
        // The first tick is at once, and says nothing that the start did not.
        beat.tick().await;
        loop {
            tokio::select! {
                done = &mut body => return self.answer(ctx, done),
                () = ctx.cancelled() => break,
                _ = beat.tick() => ctx.record_heartbeat(pulse.beat()).await?,
            }
        }
        match tokio::time::timeout(FINISH_WITHIN, body).await {
            Ok(done) => self.answer(ctx, done),
            // Dropping the body closed its sessions: the target rolls back.
            Err(_) => Err(self.told_to_end(ctx)),
        }
    }

    /// Waits until the attempt may begin, with heartbeats that say so.
    async fn held(&self, ctx: &ActivityContext, pulse: &Arc<Pulse>) -> Result<(), ActivityError> {
        let mut may_begin = std::pin::pin!(self.hold.let_begin(ctx.info().attempt));
        let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
        let mut too_long = std::pin::pin!(tokio::time::sleep(ANSWERED_WITHIN));
        loop {
            tokio::select! {
                biased;
                may = &mut may_begin => {
                    pulse.step(String::new());
                    return if may { Ok(()) } else { Err(failure::foreign()) };
                }
                () = &mut too_long, if self.hold.is_unanswered() => return Err(failure::unanswered()),
                () = ctx.cancelled() => return Err(self.told_to_end(ctx)),
                // At once for the first time: until it is heard, the attempt counts as one that works.
                _ = beat.tick() => {
                    if self.hold.holds() {
                        pulse.step(PAUSED.to_owned());
                    }
                    ctx.record_heartbeat(pulse.beat()).await?;
                }
            }
        }
    }

    /// The answer of an attempt that has come to no end of its own.
    fn told_to_end(&self, ctx: &ActivityContext) -> ActivityError {
        if self.ending.load(Ordering::SeqCst) {
            return failure::interrupted();
        }
        let (run, activity) = activity_id(ctx);
        self.attempts.forget(run, activity);
        self.failing_since.forget(run, activity);
        ActivityError::cancelled()
    }

    /// What is journaled of an attempt that came to its end.
    fn answer<T>(&self, ctx: &ActivityContext, done: Result<T, Error>) -> Result<T, ActivityError> {
        let (run, activity) = activity_id(ctx);
        let (answer, is_final) = match done {
            Ok(done) => {
                tracing::debug!("{} is done", ctx.info().activity_type);
                (Ok(done), true)
            }
            Err(error) => {
                let info = ctx.info();
                // Where earlier attempts failed under another process, it has failed for as long as this one lasted at least.
                let began = info.started_time.filter(|_| info.attempt > 1);
                let at = began.unwrap_or_else(SystemTime::now);
                let since = self.failing_since.note(run, activity, at);
                let verdict = self.attempts.judge(run, activity, error.retry(), Instant::now());
                let refused = failure::refuse(&error, since, verdict);
                let (what, attempt) = (&info.activity_type, info.attempt);
                tracing::info!("{what} failed at attempt {attempt}: {}", error.chain());
                (Err(refused), verdict != Verdict::Again)
            }
        };
        if is_final {
            self.attempts.forget(run, activity);
            self.failing_since.forget(run, activity);
        }
        answer
    }

    async fn sessions(&self) -> Result<(Lease, Lease), Error> {
        step("connecting to the source");
        let source = lend(&self.source).await?;
        step("connecting to the target");
        Ok((source, lend(&self.target).await?))
    }

    /// How the table is copied, by the plan of that digest: the one this worker has, or what both catalogs say now.
    ///
    /// # Errors
    /// `TableChanged` where the catalogs say otherwise by now.
    async fn plan(&self, table: &TableSpec, digest: &PlanDigest) -> Result<Arc<Plan>, Error> {
        self.must_trust_sql(table)?;
        self.must_trust_ledger(table).await?;
        self.plan_by(digest, async |source, target| {
            examine(source, target, &self.trusting(table)).await
        })
        .await
    }

    /// The same for a verification, which needs no right to write.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn plan_to_read(&self, table: &TableSpec, digest: &PlanDigest) -> Result<Arc<Plan>, Error> {
        self.must_trust_sql(table)?;
        self.plan_by(digest, async |source, target| {
            examine_to_read(source, target, &self.trusting(table)).await
        })
        .await
    }

    async fn plan_by(
        &self,
        digest: &PlanDigest,
        examine: impl AsyncFnOnce(&Session, &Session) -> Result<Plan, Error>,
    ) -> Result<Arc<Plan>, Error> {
        let mut plan = self.plan.lock().await;
        if let Some(plan) = plan.as_ref().filter(|plan| plan.digest == *digest) {
            return Ok(Arc::clone(plan));
        }
        let (source, target) = self.sessions().await?;
        step("looking at both tables");
        let found = examine(&source, &target).await?;
        let (side, name) = if found.digest.source != digest.source {
            (Side::Source, &found.source)
        } else if found.digest.target != digest.target {
            (Side::Target, &found.target)
        } else {
            return Ok(Arc::clone(plan.insert(Arc::new(found))));
        };
        let words = format!("{side} table {name} was changed since the job was prepared");
        Err(Error::new(side, Kind::TableChanged, words))
    }
}

impl OneJob {
    /// How the ledger says that the table was copied; the source is not asked.
    ///
    /// # Errors
    /// `TableChanged` where the ledger says otherwise by now.
    async fn plan_of_ledger(&self, table: &TableSpec, digest: &PlanDigest) -> Result<Arc<Plan>, Error> {
        self.must_trust_ledger(table).await?;
        let mut plan = self.plan_of_ledger.lock().await;
        if let Some(plan) = plan.as_ref().filter(|plan| plan.digest == *digest) {
            return Ok(Arc::clone(plan));
        }
        let target = lend(&self.target).await?;
        let found = ledger::stored_plan(&target, &self.trusting(table)).await?;
        if found.digest == *digest {
            return Ok(Arc::clone(plan.insert(Arc::new(found))));
        }
        let words = format!(
            "the plan of job {} was changed in the ledger meanwhile",
            table.job
        );
        Err(Error::new(Side::Target, Kind::TableChanged, words))
    }
}

/// A session of one side, for the attempt that runs here.
async fn lend(pool: &Pool) -> Result<Lease, Error> {
    let lease = pool.acquire().await?;
    beat::has(&lease);
    Ok(lease)
}

/// What an activity is known by: its run's id, and its own within it.
fn activity_id(ctx: &ActivityContext) -> (&str, &str) {
    let info = ctx.info();
    let run = info.workflow_run_id.as_deref().unwrap_or_default();
    (run, &info.activity_id)
}

/// Tells the pulse of one attempt what moves, and holds it back.
struct BatchMeter<'a> {
    throttle: &'a Throttle,
    pulse: Option<Arc<Pulse>>,
}

impl<'a> BatchMeter<'a> {
    fn new(throttle: &'a Throttle) -> Self {
        Self {
            throttle,
            pulse: Pulse::of_now(),
        }
    }
}

impl Meter for BatchMeter<'_> {
    fn pass(&self, rows: u64, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        if let Some(pulse) = &self.pulse {
            pulse.moved(rows, bytes);
        }
        Box::pin(self.throttle.pass(bytes))
    }
}
