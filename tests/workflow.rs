//! `CopyTable` under Temporal's own SDK and the embedded service, on a source and a target that are made up: they lose
//! answers, fall back in time and change their tables at random, and know what must be true in the end.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]
#![expect(missing_docs, reason = "a test's own items say what they are by their names")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use longhaul::activity::{
    ConcludeInput, CopyBatchInput, Failure, Looked, NextBatchInput, NoteWritersInput, NoteWritersOutput,
    PrepareInput, PrepareOutput,
};
use longhaul::connect::{self, Connected};
use longhaul::job::{ConnectionName, JobName, JobSpec, Kind, OnConflict, Tuning, TuningChange};
use longhaul::table::{
    CopyFormat, DatabaseIdentity, Fence, Growth, Key, KeyRange, Lost, Noted, Pass, Plan, PlanDigest,
    Position, TableName, Tally,
};
use longhaul::workflow::{CopyTable, JobInput, Phase, Progress};
use temporalio_client::{
    Client, WorkflowCancelOptions, WorkflowExecuteUpdateOptions, WorkflowFetchHistoryOptions,
    WorkflowGetResultOptions, WorkflowHandle, WorkflowQueryOptions, WorkflowSignalOptions,
    WorkflowStartOptions,
};
use temporalio_macros::activities;
use temporalio_protos::temporal::api::enums::v1::EventType;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use temporalio_sdk::{ApplicationFailure, Runtime, Worker, WorkerOptions};

#[path = "support/directory.rs"]
mod directory;
use directory::copy_directory;

#[path = "it/random.rs"]
#[expect(dead_code, reason = "the other suites use all of it")]
mod random;
use random::Random;

/// One commit of the target, in the order of its log.
#[derive(Debug, Clone)]
enum Commit {
    Epoch(u64),
    Settled(Option<u64>),
    Batch {
        number: u64,
        pass: Pass,
        low: u64,
        high: u64,
        rows: BTreeSet<u64>,
    },
}

pub struct World {
    random: Random,
    /// One in so many batches meets a fault; 0: none does.
    faults: u64,
    source: BTreeSet<u64>,
    log: Vec<Commit>,
    /// Goes up when a table is altered.
    version: u32,
    /// Rows that come by themselves, each time a batch is copied.
    grows: bool,
    /// A table is altered each time that so many batches were copied; 0: never.
    changes_every: u64,
    /// When so many batches were copied, the target loses so many commits.
    rewinds_at: Option<(u64, usize)>,
    lost_rows: u64,
    rewinds: u64,
    changes: u64,
    /// The epoch that was given last: none is given twice, whatever the target has lost.
    epochs: u64,
    prepares: u64,
    copies: u64,
    looked: Vec<(u64, u64)>,
    in_flight: u64,
    most_in_flight: u64,
    hold: bool,
}

fn number(key: Option<&Key>) -> u64 {
    key.map_or(0, |key| key.0[0].parse().unwrap())
}

fn key(number: u64) -> Key {
    Key(vec![number.to_string()])
}

fn some(number: u64) -> Option<Key> {
    (number > 0).then(|| key(number))
}

impl World {
    fn epoch(&self) -> u64 {
        let epochs = self.log.iter().rev().find_map(|commit| match commit {
            Commit::Epoch(epoch) => Some(*epoch),
            _ => None,
        });
        epochs.unwrap_or(0)
    }

    fn settled(&self) -> Option<Key> {
        let settled = self.log.iter().rev().find_map(|commit| match commit {
            Commit::Settled(settled) => Some(*settled),
            _ => None,
        });
        settled.flatten().and_then(some)
    }

    fn target(&self) -> BTreeSet<u64> {
        let mut rows = BTreeSet::new();
        for commit in &self.log {
            if let Commit::Batch { rows: brought, .. } = commit {
                for row in brought {
                    assert!(rows.insert(*row), "row {row} is there twice");
                }
            }
        }
        rows
    }

    fn position(&self) -> Position {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let (mut tally, mut next) = (Tally::default(), 1);
        for commit in &self.log {
            if let Commit::Batch {
                number,
                pass,
                low,
                high,
                rows,
            } = commit
            {
                tally += tally_of(rows.len() as u64);
                next = next.max(number + 1);
                if *pass == Pass::Copy {
                    ranges.push((*low, *high));
                }
            }
        }
        ranges.sort_unstable();
        let mut copied = 0;
        let mut beyond: Vec<KeyRange> = Vec::new();
        for (low, high) in ranges {
            assert!(low >= copied, "ranges overlap");
            if low == copied {
                copied = high;
            } else if let Some(last) = beyond.last_mut().filter(|last| number_of(last) == low) {
                last.high = key(high);
            } else {
                beyond.push(KeyRange {
                    low: some(low),
                    high: key(high),
                });
            }
        }
        Position {
            begun: 0,
            epoch: self.epoch(),
            copied: some(copied),
            beyond,
            settled: self.settled(),
            next_batch: next,
            tally,
        }
    }

    fn digest(&self) -> PlanDigest {
        PlanDigest {
            source: self.version.to_string(),
            ..PlanDigest::default()
        }
    }

    fn check(&mut self, fence: &Fence) -> Result<(), ActivityError> {
        if fence.digest != self.digest() {
            return Err(refused("TableChanged", true));
        }
        assert!(fence.witnesses.len() <= 16, "{fence:?}");
        if fence.epoch != self.epoch() || !fence.witnesses.iter().all(|number| self.has_batch(*number)) {
            return Err(refused("TargetRewound", true));
        }
        Ok(())
    }

    fn has_batch(&self, number: u64) -> bool {
        self.log
            .iter()
            .any(|commit| matches!(commit, Commit::Batch { number: n, .. } if *n == number))
    }

    /// Where a look goes on, by the log.
    fn kept(&self, input: &PrepareInput, position: &Position) -> Option<Looked> {
        let (looked, known) = (input.looked.clone()?, input.known.as_ref()?);
        let is_lost = position.settled.is_none() && looked.frontier.is_none();
        if position.settled != known.settled && !is_lost {
            return None;
        }
        let has_epoch = |commit: &Commit| matches!(commit, Commit::Epoch(epoch) if *epoch == known.epoch);
        let has_all = match input.witnesses.as_slice() {
            [] => self.log.iter().any(has_epoch),
            witnesses => witnesses.iter().all(|number| self.has_batch(*number)),
        };
        let looked = looked.kept(has_all, |number| self.has_batch(number))?;
        let end = number(position.end());
        if number(looked.frontier.as_ref()) <= end {
            return Some(looked);
        }
        let is_past = number(looked.looked_to.as_ref()) >= end;
        Some(looked.cut(some(end), is_past))
    }

    /// What an earlier run has left: two ranges with a gap between them, less one in so many rows, which was not visible yet.
    fn leave(&mut self, missing: u64) {
        let rows = self.source.len() as u64;
        self.log.push(Commit::Epoch(1));
        for (number, low, high) in [(1, 0, rows * 11 / 20), (2, rows * 12 / 20, rows * 8 / 10)] {
            let there: Vec<u64> = (low + 1..=high).collect();
            let rows = there
                .into_iter()
                .filter(|_| missing == 0 || self.random.within(0..missing) > 0)
                .collect();
            self.log.push(Commit::Batch {
                number,
                pass: Pass::Copy,
                low,
                high,
                rows,
            });
        }
    }

    /// The target falls back in time.
    fn rewind(&mut self) {
        let lost = self.random.within(0..self.log.len().min(12) as u64) as usize;
        self.lose(lost);
    }

    fn lose(&mut self, commits: usize) {
        let kept = self.log.len() - commits;
        for commit in self.log.split_off(kept) {
            if let Commit::Batch { rows, .. } = commit {
                self.lost_rows += rows.len() as u64;
            }
        }
        self.rewinds += 1;
    }

    fn fault(&mut self) -> Result<(), ActivityError> {
        let faults = self.faults;
        if faults == 0 || self.random.within(0..faults) > 0 {
            return Ok(());
        }
        match self.random.within(0..4) {
            0 => self.rewind(),
            1 => (self.version, self.changes) = (self.version + 1, self.changes + 1),
            _ => return Err(transient()),
        }
        Ok(())
    }
}

fn number_of(range: &KeyRange) -> u64 {
    number(Some(&range.high))
}

fn tally_of(rows: u64) -> Tally {
    Tally {
        rows,
        skipped: 0,
        bytes: 100 * rows,
        batches: 1,
        checksum: rows,
    }
}

fn refused(kind: &str, prepare_again: bool) -> ActivityError {
    let failure = Failure {
        side: "target".to_owned(),
        kind: kind.to_owned(),
        message: kind.to_owned(),
        hint: String::new(),
        prepare_again,
        since_ms: None,
        process: None,
    };
    let answer = ApplicationFailure::builder(failure.clone())
        .type_name(kind.to_owned())
        .non_retryable(true)
        .details(failure);
    ActivityError::application(answer.build())
}

fn transient() -> ActivityError {
    let answer =
        ApplicationFailure::builder(anyhow::anyhow!("it passes")).next_retry_delay(Duration::from_millis(1));
    ActivityError::application(answer.build())
}

fn name(text: &str) -> TableName {
    text.parse().unwrap()
}

#[derive(Clone)]
pub struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn new(rows: u64, faults: u64, random: Random) -> Self {
        Self(Arc::new(Mutex::new(World {
            random,
            faults,
            source: (1..=rows).collect(),
            log: Vec::new(),
            version: 0,
            grows: false,
            changes_every: 0,
            rewinds_at: None,
            lost_rows: 0,
            rewinds: 0,
            changes: 0,
            epochs: 1,
            prepares: 0,
            copies: 0,
            looked: Vec::new(),
            in_flight: 0,
            most_in_flight: 0,
            hold: false,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn plan(&self) -> Plan {
        Plan {
            source: name("public.a"),
            target: name("public.b"),
            source_identity: DatabaseIdentity {
                system_identifier: None,
                database: "d".to_owned(),
            },
            digest: self.world().digest(),
            source_files: String::new(),
            target_files: String::new(),
            columns: Vec::new(),
            filter: None,
            key: Vec::new(),
            key_basis: Default::default(),
            source_kind: Default::default(),
            format: CopyFormat::Binary,
            on_conflict: OnConflict::Error,
            target_key_is_unique: true,
            same_order: true,
            source_is_partitioned: false,
            target_is_partitioned: false,
            source_is_standby: false,
            target_fires_triggers: false,
            growth: Growth::Grows,
            rows_estimate: Some(100),
            bytes_estimate: Some(10_000),
            warnings: Vec::new(),
        }
    }
}

#[activities]
impl Fake {
    #[activity(name = "prepare")]
    pub async fn prepare(
        self: Arc<Self>,
        _: ActivityContext,
        input: PrepareInput,
    ) -> Result<PrepareOutput, ActivityError> {
        let plan = self.plan();
        let mut world = self.world();
        world.prepares += 1;
        world.epochs += 1;
        let epoch = world.epochs;
        world.log.push(Commit::Epoch(epoch));
        let mut position = world.position();
        world.fault()?;
        let looked = world.kept(&input, &position);
        let highest = world.source.last().copied().map(key);
        let noted = Noted {
            key: highest.clone(),
            holders: Vec::new(),
            server_started_at: String::new(),
        };
        let mut again = None;
        if looked.is_some() {
            position.settled = input.known.as_ref().and_then(|known| known.settled.clone());
        } else if !input.sync && position.end().is_some() {
            again = Some(NoteWritersOutput {
                now: noted,
                before: None,
                look_from: position.settled.clone(),
                clock: None,
                unsettled: None,
            });
        } else if !input.sync {
            position.settled.clone_from(&highest);
            world.log.push(Commit::Settled(Some(number(highest.as_ref()))));
        }
        let lost = input
            .known
            .filter(|known| known.tally.rows > position.tally.rows)
            .map(|known| Lost {
                batches: 1,
                rows: known.tally.rows - position.tally.rows,
                since: None,
            });
        Ok(PrepareOutput {
            plan,
            position,
            highest,
            lost,
            again,
            looked,
            clock: None,
            snapshot: None,
        })
    }

    #[activity(name = "next_batch")]
    pub async fn next_batch(
        self: Arc<Self>,
        _: ActivityContext,
        input: NextBatchInput,
    ) -> Result<Option<Key>, ActivityError> {
        let mut world = self.world();
        world.fault()?;
        let (low, stop) = (number(input.low.as_ref()), number(input.stop.as_ref()));
        assert!(stop > 0);
        if low >= stop {
            return Ok(None);
        }
        let end = world
            .source
            .range(low + 1..=stop)
            .nth(usize::try_from(input.rows).unwrap() - 1);
        Ok(Some(key(end.copied().unwrap_or(stop))))
    }

    #[activity(name = "copy_batch")]
    pub async fn copy_batch(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: CopyBatchInput,
    ) -> Result<Tally, ActivityError> {
        let wait = {
            let mut world = self.world();
            world.in_flight += 1;
            world.most_in_flight = world.most_in_flight.max(world.in_flight);
            world.random.within(0..8)
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        loop {
            if !self.world().hold {
                break;
            }
            ctx.record_heartbeat(()).await?;
            if ctx.is_cancelled() {
                self.world().in_flight -= 1;
                return Err(ActivityError::cancelled());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut world = self.world();
        world.in_flight -= 1;
        world.fault()?;
        world.check(&input.fence)?;
        let batch = input.batch;
        let (low, high) = (number(batch.range.low.as_ref()), number(Some(&batch.range.high)));
        let known = world.log.iter().find_map(|commit| match commit {
            Commit::Batch { number, rows, .. } if *number == batch.number => Some(rows.len() as u64),
            _ => None,
        });
        if let Some(rows) = known {
            assert!(ctx.info().attempt > 1, "a number was given twice");
            return Ok(tally_of(rows));
        }
        world.copies += 1;
        if world.changes_every > 0 && world.copies.is_multiple_of(world.changes_every) {
            (world.version, world.changes) = (world.version + 1, world.changes + 1);
        }
        let copies = world.copies;
        if let Some((_, commits)) = world.rewinds_at.take_if(|(at, _)| *at == copies) {
            world.lose(commits);
            return Err(refused("TargetRewound", true));
        }
        let mut rows: BTreeSet<u64> = world.source.range(low + 1..=high).copied().collect();
        if batch.pass == Pass::Look {
            world.looked.push((low, high));
            let there = world.target();
            rows.retain(|row| !there.contains(row));
            if rows.is_empty() {
                return Ok(Tally::default());
            }
        }
        let tally = tally_of(rows.len() as u64);
        world.log.push(Commit::Batch {
            number: batch.number,
            pass: batch.pass,
            low,
            high,
            rows,
        });
        if world.grows {
            let next = world.source.last().unwrap() + 1;
            world.source.extend(next..next + 10);
        }
        // The answer may be lost.
        let faults = world.faults;
        if faults > 0 && world.random.within(0..faults) == 0 {
            return Err(transient());
        }
        Ok(tally)
    }

    #[activity(name = "note_writers")]
    pub async fn note_writers(
        self: Arc<Self>,
        _: ActivityContext,
        input: NoteWritersInput,
    ) -> Result<NoteWritersOutput, ActivityError> {
        let mut world = self.world();
        world.fault()?;
        world.check(&input.fence)?;
        world.log.push(Commit::Settled(
            input.settled.as_ref().map(|key| number(Some(key))),
        ));
        Ok(NoteWritersOutput {
            now: Noted {
                key: world.source.last().copied().map(key),
                holders: Vec::new(),
                server_started_at: String::new(),
            },
            before: None,
            look_from: input.settled,
            clock: None,
            unsettled: None,
        })
    }

    #[activity(name = "conclude")]
    pub async fn conclude(
        self: Arc<Self>,
        _: ActivityContext,
        input: ConcludeInput,
    ) -> Result<(), ActivityError> {
        let mut world = self.world();
        world.fault()?;
        world.check(&input.fence)?;
        let here = world.position();
        assert_eq!(here.tally, input.position.tally);
        assert_eq!(
            (here.copied, here.beyond),
            (input.position.copied, input.position.beyond)
        );
        let (settled, there) = (input.position.settled, world.target());
        let mut below = world.source.range(..=number(settled.as_ref()));
        assert!(below.all(|row| there.contains(row)), "{settled:?} is not settled");
        world.log.push(Commit::Settled(Some(number(settled.as_ref()))));
        Ok(())
    }
}

fn spec(kind: Kind, concurrency: u32) -> JobSpec {
    JobSpec {
        name: "j".parse::<JobName>().unwrap(),
        kind,
        source: ConnectionName::without_password("postgres://a"),
        target: ConnectionName::without_password("postgres://b"),
        source_table: name("a"),
        target_table: name("b"),
        tuning: Tuning {
            concurrency,
            batch_rows: Some(7),
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
    }
}

type Handle = WorkflowHandle<Client, CopyTable>;

/// Runs a test with a service and a worker that forgets every run at once where `replays`.
fn with_job(fake: Fake, spec: JobSpec, replays: bool, test: impl AsyncFnOnce(Handle)) {
    let directory = private_directory();
    in_a_process(directory.path(), async |client| {
        let worker = work(&client, fake, replays);
        let handle = begin(&client, spec).await;
        test(handle).await;
        worker.abort();
    });
}

/// Runs a test with a service on the journal of a directory.
fn in_a_process(directory: &Path, test: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let Connected {
            client,
            place: _place,
            ..
        } = connect::share(directory).await.unwrap();
        tokio::time::timeout(Duration::from_secs(120), test(client))
            .await
            .expect("the test takes too long");
    });
}

/// A worker that goes on until it is aborted.
fn work(client: &Client, fake: Fake, replays: bool) -> tokio::task::JoinHandle<()> {
    let options = WorkerOptions::new("q")
        .register_workflow::<CopyTable>()
        .unwrap()
        .max_cached_workflows(if replays { 0 } else { 8 })
        .register_activities(fake)
        .build();
    let runtime = Runtime::from_current_tokio(Default::default()).unwrap();
    let mut worker = Worker::new(&runtime, client.clone(), options).unwrap();
    tokio::task::spawn_local(async move {
        let _runtime = runtime;
        worker.run().await.unwrap();
    })
}

async fn begin(client: &Client, spec: JobSpec) -> Handle {
    let input = JobInput {
        spec,
        paused: false,
        state: None,
        known: None,
        verifying: None,
        found: None,
    };
    let options = WorkflowStartOptions::new("q", "j").build();
    client
        .start_workflow(CopyTable::run, input, options)
        .await
        .unwrap();
    // Without a run's id: whichever run is the current one.
    client.get_workflow_handle::<CopyTable>("j")
}

async fn progress(handle: &Handle) -> Progress {
    handle
        .query(CopyTable::progress, (), WorkflowQueryOptions::default())
        .await
        .unwrap()
}

async fn until(handle: &Handle, what: &str, holds: impl Fn(&Progress) -> bool) -> Progress {
    for _ in 0..2000 {
        let progress = progress(handle).await;
        if holds(&progress) {
            return progress;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} does not come: {:?}", progress(handle).await);
}

#[test]
fn a_migrate_copies_what_was_there_when_it_began() {
    let fake = Fake::new(500, 0, Random::seeded());
    fake.world().grows = true;
    fake.world().hold = true;
    with_job(fake.clone(), spec(Kind::Migrate, 4), false, async |handle| {
        until(&handle, "a second batch beside the first", |_| {
            fake.world().in_flight >= 2
        })
        .await;
        fake.world().hold = false;
        let tally = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!((tally.rows, tally.batches), (500, 72));
        let progress = progress(&handle).await;
        assert_eq!(
            (progress.until, progress.copied),
            (Some(key(500)), Some(key(500)))
        );
    });
    let world = fake.world();
    assert_eq!(world.target(), (1..=500).collect());
    assert_eq!(world.prepares, 1);
    assert!(
        (2..=4).contains(&world.most_in_flight),
        "{}",
        world.most_in_flight
    );
}

#[test]
fn a_migrate_of_an_empty_table_is_complete_at_once() {
    let fake = Fake::new(0, 0, Random::seeded());
    with_job(fake.clone(), spec(Kind::Migrate, 4), false, async |handle| {
        let tally = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(tally, Tally::default());
    });
}

/// On an empty target, on what an earlier run has left, and on that with rows that have become visible since.
fn random_migrate(replays: bool, rows: u64) {
    let mut random = Random::seeded();
    for (missing, faults) in [(None, 12), (Some(0), 12), (Some(8), 40)] {
        let fake = Fake::new(rows, faults, random.fork());
        if let Some(missing) = missing {
            fake.world().leave(missing);
        }
        let concurrency = u32::try_from(random.within(1..6)).unwrap();
        with_job(
            fake.clone(),
            spec(Kind::Migrate, concurrency),
            replays,
            async |handle| {
                let tally = handle
                    .get_result(WorkflowGetResultOptions::default())
                    .await
                    .unwrap();
                assert_eq!(tally.rows, rows);
                let progress = progress(&handle).await;
                eprintln!(
                    "lost {:?}, prepared again {}",
                    progress.lost, progress.prepared_again
                );
            },
        );
        let world = fake.world();
        assert_eq!(world.target(), (1..=rows).collect());
        eprintln!(
            "{} rewinds, {} rows lost, {} changes, {} prepares, {} copies, {} of them looked again",
            world.rewinds,
            world.lost_rows,
            world.changes,
            world.prepares,
            world.copies,
            world.looked.len()
        );
    }
}

#[test]
fn a_migrate_ends_well_on_servers_that_fall_back_in_time() {
    random_migrate(false, 1200);
}

#[test]
fn a_migrate_decides_the_same_when_it_is_replayed_at_every_task() {
    random_migrate(true, 300);
}

/// Runs a migrate on what an earlier run has left of 2,000 rows, and gives how often a batch of 7 was looked at again.
fn looks_of_a_migrate(missing: u64, meet: impl FnOnce(&mut World)) -> usize {
    let fake = Fake::new(2000, 0, Random::seeded());
    {
        let mut world = fake.world();
        world.leave(missing);
        meet(&mut world);
    }
    with_job(fake.clone(), spec(Kind::Migrate, 2), false, async |handle| {
        let tally = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(tally.rows, 2000);
    });
    let world = fake.world();
    assert_eq!(world.target(), world.source);
    eprintln!("{} changes, {} prepares", world.changes, world.prepares);
    world.looked.len()
}

/// Up to row 1,600 there is something to look at, 7 rows a batch; the 15 batches of the gap are copied before.
const LOOKS: usize = 1600 / 7 + 1;

#[test]
fn a_second_look_ends_though_the_table_changes_all_the_time() {
    let looks = looks_of_a_migrate(0, |world| world.changes_every = 6);
    // What was ahead of the cursor when the table was changed is looked at once more.
    assert!((LOOKS..2 * LOOKS).contains(&looks), "{looks} of {LOOKS}");
}

#[test]
fn only_what_the_target_lost_of_a_second_look_is_looked_at_again() {
    // 15 batches have filled the gap. Of the look that follows each leaves a trace: some row of its seven was missing.
    let looks = looks_of_a_migrate(3, |world| world.rewinds_at = Some((100, 10)));
    assert!((LOOKS..LOOKS + 20).contains(&looks), "{looks} of {LOOKS}");
}

#[test]
fn a_second_look_that_is_over_is_over_though_the_copy_after_it_is_lost() {
    let looks = looks_of_a_migrate(3, |world| world.rewinds_at = Some((LOOKS as u64 + 15 + 40, 5)));
    assert!((LOOKS..LOOKS + 3).contains(&looks), "{looks} of {LOOKS}");
}

#[test]
fn a_sync_follows_and_looks_again_and_survives_rewinds() {
    let fake = Fake::new(300, 40, Random::seeded());
    with_job(
        fake.clone(),
        spec(Kind::Sync { interval_ms: 1000 }, 3),
        false,
        async |handle| {
            for round in 0..4 {
                {
                    let mut world = fake.world();
                    let last = world.source.last().copied().unwrap();
                    world.source.extend(last + 1..last + 60);
                    if round == 2 {
                        world.rewind();
                    }
                }
                let wanted = fake.world().source.len();
                for _ in 0..3000 {
                    if fake.world().target().len() == wanted {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let world = fake.world();
                assert_eq!(world.target(), world.source);
            }
            fake.world().faults = 0;
            let at = progress(&handle).await.rounds;
            let progress = until(&handle, "a quiet round", |progress| progress.rounds > at + 1).await;
            eprintln!("{progress:?}");
            handle.cancel(WorkflowCancelOptions::default()).await.unwrap();
            assert!(
                handle
                    .get_result(WorkflowGetResultOptions::default())
                    .await
                    .is_err()
            );
        },
    );
    let world = fake.world();
    assert_eq!(world.target(), world.source);
}

#[test]
fn ranges_of_an_earlier_run_are_looked_at_again_to_the_end_of_the_ledger() {
    let fake = Fake::new(100, 0, Random::seeded());
    {
        let mut world = fake.world();
        world.log.push(Commit::Epoch(1));
        for (number, low, high) in [(1, 0, 20), (2, 50, 60)] {
            // Row 55 was not visible yet.
            let rows = (low + 1..=high).filter(|row| *row != 55).collect();
            world.log.push(Commit::Batch {
                number,
                pass: Pass::Copy,
                low,
                high,
                rows,
            });
        }
    }
    with_job(
        fake.clone(),
        spec(Kind::Sync { interval_ms: 1000 }, 2),
        false,
        async |handle| {
            let progress = until(&handle, "the first round", |progress| progress.rounds > 0).await;
            assert_eq!(progress.found.batches, 2);
            handle.cancel(WorkflowCancelOptions::default()).await.unwrap();
            assert!(
                handle
                    .get_result(WorkflowGetResultOptions::default())
                    .await
                    .is_err()
            );
        },
    );
    let world = fake.world();
    assert_eq!(world.target(), world.source);
    assert_eq!(world.looked.iter().map(|(_, high)| *high).max(), Some(60));
    assert_eq!(world.looked.iter().map(|(low, _)| *low).min(), Some(0));
}

#[test]
fn pause_tune_and_cancel_are_obeyed_with_batches_in_flight() {
    let fake = Fake::new(5000, 0, Random::seeded());
    with_job(fake.clone(), spec(Kind::Migrate, 4), false, async |handle| {
        handle
            .signal(CopyTable::pause, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
        let paused = until(&handle, "the pause", |progress| {
            progress.paused && progress.in_flight == 0
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(progress(&handle).await.tally, paused.tally);
        let change = TuningChange {
            concurrency: Some(2),
            ..TuningChange::default()
        };
        let tuned = handle
            .execute_update(CopyTable::tune, change, WorkflowExecuteUpdateOptions::default())
            .await
            .unwrap();
        assert_eq!(tuned.concurrency, 2);
        fake.world().most_in_flight = 0;
        handle
            .signal(CopyTable::resume, (), WorkflowSignalOptions::default())
            .await
            .unwrap();
        until(&handle, "more rows", |progress| {
            progress.tally.rows > paused.tally.rows + 200
        })
        .await;
        assert!(fake.world().most_in_flight <= 2);
        fake.world().hold = true;
        handle.cancel(WorkflowCancelOptions::default()).await.unwrap();
        let ended = handle.get_result(WorkflowGetResultOptions::default()).await;
        assert!(format!("{ended:?}").contains("ancel"), "{ended:?}");
    });
}

#[test]
fn an_interval_that_is_tuned_holds_in_the_sleep_that_goes_on() {
    let tune = async |handle: &Handle, interval_ms| {
        let change = TuningChange {
            interval_ms: Some(interval_ms),
            ..TuningChange::default()
        };
        handle
            .execute_update(CopyTable::tune, change, WorkflowExecuteUpdateOptions::default())
            .await
    };
    for replays in [false, true] {
        let fake = Fake::new(50, 0, Random::seeded());
        let interval_ms = 3_600_000;
        with_job(
            fake,
            spec(Kind::Sync { interval_ms }, 4),
            replays,
            async |handle| {
                let asleep = until(&handle, "the sleep", |it| it.phase == Phase::Sleeping).await;
                tune(&handle, 7_200_000).await.unwrap();
                let longer = until(&handle, "a longer sleep", |it| {
                    it.next_run_ms > asleep.next_run_ms
                })
                .await;
                let more = longer.next_run_ms.unwrap() - asleep.next_run_ms.unwrap();
                assert_eq!((more, longer.rounds), (3_600_000, 1));
                tune(&handle, 1000).await.unwrap();
                until(&handle, "a round after a second", |it| it.rounds > 1).await;
                assert!(tune(&handle, 1).await.is_err(), "too short");
                handle.cancel(WorkflowCancelOptions::default()).await.unwrap();
                let ended = handle.get_result(WorkflowGetResultOptions::default()).await;
                assert!(format!("{ended:?}").contains("ancel"), "{ended:?}");
            },
        );
    }
}

#[test]
fn a_sync_that_is_canceled_ends_though_its_sleep_is_over_before_it_hears_of_it() {
    let fake = Fake::new(50, 0, Random::seeded());
    let (directory, copy) = (private_directory(), private_directory());
    in_a_process(directory.path(), async |client| {
        let worker = work(&client, fake.clone(), false);
        let handle = begin(&client, spec(Kind::Sync { interval_ms: 3000 }, 4)).await;
        until(&handle, "the sleep", |progress| progress.phase == Phase::Sleeping).await;
        worker.abort();
        handle.cancel(WorkflowCancelOptions::default()).await.unwrap();
        copy_directory(directory.path(), copy.path());
    });
    in_a_process(copy.path(), async |client| {
        let handle = client.get_workflow_handle::<CopyTable>("j");
        let seen = loop {
            let events = handle
                .fetch_history(WorkflowFetchHistoryOptions::default())
                .into_events()
                .await
                .unwrap();
            let seen: Vec<EventType> = events.iter().map(|event| event.event_type()).collect();
            if seen.contains(&EventType::TimerFired) {
                break seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let first = |wanted| seen.iter().position(|it| *it == wanted);
        let canceled = first(EventType::WorkflowExecutionCancelRequested);
        assert!(
            canceled.is_some() && canceled < first(EventType::TimerFired),
            "{seen:?}"
        );
        let worker = work(&client, fake.clone(), false);
        let ended = handle.get_result(WorkflowGetResultOptions::default()).await;
        assert!(format!("{ended:?}").contains("ancel"), "{ended:?}");
        worker.abort();
    });
}

#[test]
fn a_long_job_goes_on_in_new_runs() {
    let fake = Fake::new(14_000, 60, Random::seeded());
    with_job(fake.clone(), spec(Kind::Migrate, 4), false, async |handle| {
        let tally = handle
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
        assert_eq!(tally.rows, 14_000);
        let events = handle
            .fetch_history(WorkflowFetchHistoryOptions::default())
            .into_events()
            .await
            .unwrap();
        eprintln!(
            "{} events in the last run, {:?}",
            events.len(),
            progress(&handle).await.lost
        );
    });
    assert_eq!(fake.world().target(), (1..=14_000).collect());
}

/// A directory for this user alone.
fn private_directory() -> tempfile::TempDir {
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    tempfile::Builder::new().permissions(private).tempdir().unwrap()
}
