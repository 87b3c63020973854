//! What a workflow can have done: one file an activity, its contract on top of it, the bodies beside the connections they
//! need. All of them are safe at any attempt.
//!
//! Connections, the table's plan and the speed limit are the worker's, not the workflow's: nothing of them is journaled.

#![expect(
    missing_docs,
    reason = "the macro makes constants of the activities, which carry the documentation"
)]

mod copy_batch;
mod failure;
mod next_batch;
mod note_writers;
mod prepare;
mod table_job;

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::sync::Mutex;

use crate::job::JobSpec;
use crate::postgres::{ConnectionString, Error, Lease, Meter, Pool, Side, Throttle, examine};
use crate::table::TablePlan;

pub use copy_batch::{CopyBatchInput, CopyBatchOutput};
pub use failure::Failure;
pub use next_batch::{NextBatchInput, NextBatchOutput};
pub use note_writers::{NoteWritersInput, NoteWritersOutput};
pub use prepare::{PrepareInput, Prepared};
pub use table_job::TableJob;

pub(crate) use {
    copy_batch::options as copy_batch_options, next_batch::options as next_batch_options,
    note_writers::options as note_writers_options, prepare::options as prepare_options,
};

/// A batch that is told to end may finish within this time; then it rolls back.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// How often a worker says that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Sessions to one server, at most: the greatest concurrency, and one that looks for the next batch.
const MAX_SESSIONS: usize = 65;

/// The activities of one job, with what they need on this worker.
pub struct Activities {
    job: String,
    source: Pool,
    target: Pool,
    /// How the table is copied; looked up once in the life of a worker.
    plan: Mutex<Option<Arc<TablePlan>>>,
    gauge: Arc<Gauge>,
    ending: Arc<AtomicBool>,
}

/// What the activities of this worker have going on, and how fast they may.
#[derive(Debug)]
pub struct Gauge {
    throttle: Throttle,
    rows_in_flight: AtomicU64,
    bytes_in_flight: AtomicU64,
}

impl Gauge {
    /// Rows and bytes of batches that are not committed yet.
    pub fn in_flight(&self) -> (u64, u64) {
        (
            self.rows_in_flight.load(Ordering::Relaxed),
            self.bytes_in_flight.load(Ordering::Relaxed),
        )
    }
}

impl Activities {
    /// The activities of `spec`, on connections whose passwords only this process knows.
    pub fn new(spec: &JobSpec, source: ConnectionString, target: ConnectionString) -> Self {
        let application = format!("longhaul {}", spec.name);
        let limit = spec.tuning.max_rate_bytes_per_second.and_then(NonZeroU64::new);
        Self {
            job: spec.name.to_string(),
            source: Pool::new(source, Side::Source, application.clone(), MAX_SESSIONS),
            target: Pool::new(target, Side::Target, application, MAX_SESSIONS),
            plan: Mutex::new(None),
            gauge: Arc::new(Gauge {
                throttle: Throttle::new(limit),
                rows_in_flight: AtomicU64::new(0),
                bytes_in_flight: AtomicU64::new(0),
            }),
            ending: Arc::default(),
        }
    }

    /// What goes on, for a progress bar in the same process.
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// Set before the worker is shut down: what is canceled then goes on in the next process.
    pub fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
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
    ) -> Result<Prepared, ActivityError> {
        self.carry_out(&ctx, self.do_prepare(input)).await
    }

    /// See `next_batch.rs`.
    #[activity(name = "next_batch")]
    pub async fn next_batch(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: NextBatchInput,
    ) -> Result<NextBatchOutput, ActivityError> {
        self.carry_out(&ctx, self.do_next_batch(input)).await
    }

    /// See `copy_batch.rs`.
    #[activity(name = "copy_batch")]
    pub async fn copy_batch(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: CopyBatchInput,
    ) -> Result<CopyBatchOutput, ActivityError> {
        let attempt = ctx.info().attempt;
        self.carry_out(&ctx, self.do_copy_batch(input, attempt)).await
    }

    /// See `note_writers.rs`.
    #[activity(name = "note_writers")]
    pub async fn note_writers(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: NoteWritersInput,
    ) -> Result<NoteWritersOutput, ActivityError> {
        self.carry_out(&ctx, self.do_note_writers(input)).await
    }
}

impl Activities {
    /// Runs a body with heartbeats; told to end, it may finish what it has begun, for a moment.
    async fn carry_out<T>(
        &self,
        ctx: &ActivityContext,
        body: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ActivityError> {
        let mut body = std::pin::pin!(body);
        let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
        // The first tick is at once, and says nothing that the start did not.
        beat.tick().await;
        loop {
            tokio::select! {
                done = &mut body => return done.map_err(|error| failure::refuse(&error, ctx.info().attempt)),
                () = ctx.cancelled() => break,
                _ = beat.tick() => ctx.record_heartbeat(()).await?,
            }
        }
        match tokio::time::timeout(FINISH_WITHIN, body).await {
            Ok(done) => done.map_err(|error| failure::refuse(&error, ctx.info().attempt)),
            // Dropping the body closed its sessions: the target rolls back.
            Err(_) if self.ending.load(Ordering::SeqCst) => Err(failure::interrupted()),
            Err(_) => Err(ActivityError::cancelled()),
        }
    }

    async fn sessions(&self) -> Result<(Lease, Lease), Error> {
        Ok((self.source.acquire().await?, self.target.acquire().await?))
    }

    /// How the table is copied: as the catalogs say now, or said when this worker first asked.
    async fn plan(&self, table: &TableJob) -> Result<Arc<TablePlan>, Error> {
        debug_assert_eq!(
            table.job.to_string(),
            self.job,
            "a worker polls the task queue of its job"
        );
        let mut plan = self.plan.lock().await;
        if let Some(plan) = &*plan {
            return Ok(Arc::clone(plan));
        }
        let (source, target) = self.sessions().await?;
        let examined = Arc::new(examine(&source, &target, &table.examine_request()).await?);
        Ok(Arc::clone(plan.insert(examined)))
    }
}

/// What one batch has in flight; taken back when it ends, however it ends.
struct BatchMeter<'a> {
    gauge: &'a Gauge,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl<'a> BatchMeter<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        Self {
            gauge,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Meter for BatchMeter<'_> {
    fn pass(&self, rows: u64, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.gauge.rows_in_flight.fetch_add(rows, Ordering::Relaxed);
        self.gauge.bytes_in_flight.fetch_add(bytes, Ordering::Relaxed);
        Box::pin(self.gauge.throttle.pass(bytes))
    }
}

impl Drop for BatchMeter<'_> {
    fn drop(&mut self) {
        self.gauge
            .rows_in_flight
            .fetch_sub(self.rows.load(Ordering::Relaxed), Ordering::Relaxed);
        self.gauge
            .bytes_in_flight
            .fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
