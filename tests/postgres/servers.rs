//! A pair of databases for each test, on the two servers of all, and a run of job `j` on one of their tables.

use longhaul::postgres::{
    Result, Session, Side, Unmetered, connect, copy_batch, cursor, examine, ledger, verify,
};
use longhaul::table::{
    Batch, Fence, Key, KeyRange, OnConflict, Pass, Plan, Position, Shape, TableSpec, Tally,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use crate::shared::{client, pair, sql, try_sql, value};

/// A database on each server, with a session on each.
pub struct Databases {
    pub source_url: String,
    pub target_url: String,
    pub source: Session,
    pub target: Session,
}

/// A job's run on a table: what was asked for, how it is done, and what the target must still know.
#[derive(Clone)]
pub struct Run {
    pub spec: TableSpec,
    pub plan: Plan,
    pub fence: Fence,
    /// Where the ledger stood when the run took the table over.
    pub position: Position,
}

impl Databases {
    /// Two fresh databases; `ddl` is run on both, `fill` on the source.
    pub async fn new(ddl: &str, fill: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (source, target) = tokio::task::spawn_blocking(pair).await.expect("servers");
        for server in [source, target] {
            sql(&server.url("postgres"), &format!("CREATE DATABASE {name}")).await;
        }
        let (source_url, target_url) = (source.url(&name), target.url(&name));
        for url in [&source_url, &target_url] {
            if !ddl.is_empty() {
                sql(url, ddl).await;
            }
        }
        if !fill.is_empty() {
            sql(&source_url, fill).await;
        }
        let source = session(&source_url, Side::Source).await;
        let target = session(&target_url, Side::Target).await;
        Self {
            source_url,
            target_url,
            source,
            target,
        }
    }

    pub async fn examine(&self, table: &str) -> Result<Plan> {
        self.examine_for(table, OnConflict::Error).await
    }

    pub async fn examine_for(&self, table: &str, on_conflict: OnConflict) -> Result<Plan> {
        examine(&self.source, &self.target, &spec(table, on_conflict)).await
    }

    /// Takes a table of that name over, on both sides.
    pub async fn opened(&self, table: &str) -> Run {
        self.run(spec(table, OnConflict::Error)).await
    }

    pub async fn opened_for(&self, table: &str, on_conflict: OnConflict) -> Run {
        self.run(spec(table, on_conflict)).await
    }

    pub async fn run(&self, spec: TableSpec) -> Run {
        self.try_run(spec)
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// What a run does before its first batch: looks at both tables, and takes the job over.
    pub async fn try_run(&self, spec: TableSpec) -> Result<Run> {
        run(&self.source, &self.target, spec).await
    }

    /// Copies a batch. With a session of its own on the source: one whose batch failed is not used again.
    pub async fn copy(&self, run: &Run, batch: &Batch) -> Result<Tally> {
        let source = session(&self.source_url, Side::Source).await;
        run.copy(&source, &self.target, batch, false).await
    }

    pub async fn repeat(&self, run: &Run, batch: &Batch) -> Result<Tally> {
        let source = session(&self.source_url, Side::Source).await;
        run.copy(&source, &self.target, batch, true).await
    }

    /// Copies the whole table in batches of `rows`; the number of batches.
    pub async fn copy_all(&self, run: &Run, rows: u64) -> u64 {
        let (mut low, mut number) = (None, 0);
        while let Some(high) = cursor::next_range_end(&self.source, &run.plan, low.as_ref(), None, rows)
            .await
            .expect("a range")
        {
            let range = KeyRange {
                low,
                high: high.clone(),
            };
            let tally = run
                .copy(&self.source, &self.target, &batch(number, range), false)
                .await;
            let tally = tally.unwrap_or_else(|error| panic!("{}", error.chain()));
            assert!(tally.rows <= rows && tally.batches == 1, "{tally:?}");
            (low, number) = (Some(high), number + 1);
        }
        number
    }

    /// How far the ledger says the run's table is.
    pub async fn position(&self, run: &Run) -> Position {
        ledger::read(&self.target, &self.source, &run.spec, &run.plan)
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// Both sides, for a verification.
    pub fn sides<'a>(&'a self, plan: &'a Plan) -> verify::Sides<'a> {
        verify::Sides {
            source: &self.source,
            target: &self.target,
            plan,
            meter: &Unmetered,
        }
    }

    /// Count and a sum over all rows, computed by PostgreSQL, on both sides.
    pub async fn sums(&self, table: &str) -> (String, String) {
        let query = format!(
            "SET timezone = 'UTC'; SELECT count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)::numeric), 0) FROM {table} x"
        );
        (
            value(&self.source_url, &query).await,
            value(&self.target_url, &query).await,
        )
    }

    pub async fn assert_same(&self, table: &str) {
        let (source, target) = self.sums(table).await;
        assert_eq!(source, target);
    }

    /// How many rows the target table has, and how many entries the ledger: `rows entries`.
    pub async fn kept(&self, table: &str) -> String {
        let query = format!("SELECT count(*) || ' ' || (SELECT count(*) FROM longhaul.batches) FROM {table}");
        value(&self.target_url, &query).await
    }
}

impl Run {
    pub async fn copy(
        &self,
        source: &Session,
        target: &Session,
        batch: &Batch,
        repeat: bool,
    ) -> Result<Tally> {
        let Self {
            spec, plan, fence, ..
        } = self;
        copy_batch(source, target, plan, spec, fence, batch, repeat, &Unmetered).await
    }
}

/// [`Databases::try_run`] between any two sessions.
pub async fn run(source: &Session, target: &Session, spec: TableSpec) -> Result<Run> {
    let plan = examine(source, target, &spec).await?;
    ledger::ensure(target, None).await?;
    let position = ledger::take_over(target, source, &spec, &plan).await?;
    let fence = Fence {
        epoch: position.epoch,
        digest: plan.digest.clone(),
        witnesses: Vec::new(),
        snapshot: None,
    };
    Ok(Run {
        spec,
        plan,
        fence,
        position,
    })
}

pub async fn session(url: &str, side: Side) -> Session {
    connect(&url.parse().expect("a URL"), side, "longhaul test")
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// Job `j`, of a table of that name on both sides.
pub fn spec(table: &str, on_conflict: OnConflict) -> TableSpec {
    let table: longhaul::table::TableName = table.parse().expect("a table's name");
    TableSpec {
        job: "j".to_owned(),
        source_table: table.clone(),
        target_table: table,
        on_conflict,
        fire_triggers: false,
        ledger_owner: None,
        shape: Shape::default(),
        key: Default::default(),
    }
}

/// A first copy.
pub fn batch(number: u64, range: KeyRange) -> Batch {
    Batch {
        number,
        pass: Pass::Copy,
        range,
    }
}

/// Another look.
pub fn another_look(number: u64, range: KeyRange) -> Batch {
    Batch {
        number,
        pass: Pass::Look,
        range,
    }
}

pub fn key(values: &[&str]) -> Key {
    Key(values.iter().map(|value| (*value).to_owned()).collect())
}

pub fn range(low: Option<&str>, high: &str) -> KeyRange {
    KeyRange {
        low: low.map(|low| key(&[low])),
        high: key(&[high]),
    }
}

/// Waits until as many sessions of a database as are wanted wait for a lock.
pub async fn until_waiting(url: &str, wanted: u64) {
    const DEADLINE: Duration = Duration::from_secs(30);
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let end = Instant::now() + DEADLINE;
    while value(url, query).await != wanted.to_string() {
        assert!(
            Instant::now() < end,
            "nobody waits for a lock within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
