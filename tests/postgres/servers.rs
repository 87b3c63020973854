//! A pair of databases for each test, on the two servers of all.

use longhaul::postgres::{CopyMode, CopyRequest, ExamineRequest, Session, Side, connect, examine, ledger};
use longhaul::table::{Key, KeyRange, OnConflict, TablePlan};
use std::sync::atomic::{AtomicU32, Ordering};

pub use crate::shared::{client, pair, sql, try_sql, value};

/// A database on each server, with a session on each.
pub struct Databases {
    pub source_url: String,
    pub target_url: String,
    pub source: Session,
    pub target: Session,
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

    pub async fn examine(&self, table: &str) -> longhaul::postgres::Result<TablePlan> {
        self.examine_for(table, OnConflict::Error).await
    }

    pub async fn examine_for(
        &self,
        table: &str,
        on_conflict: OnConflict,
    ) -> longhaul::postgres::Result<TablePlan> {
        let table: longhaul::table::TableName = table.parse().expect("a table's name");
        let request = ExamineRequest {
            source_table: table.clone(),
            target_table: table,
            on_conflict,
        };
        examine(&self.source, &self.target, &request).await
    }

    /// The plan and an epoch of job `j`.
    pub async fn opened(&self, table: &str) -> (TablePlan, u64) {
        let plan = self.examine(table).await.expect("a plan");
        ledger::ensure(&self.target).await.expect("a ledger");
        let state = ledger::open(&self.target, &self.source, "j", &plan)
            .await
            .expect("opened");
        (plan, state.epoch)
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

    /// Copies the whole table in batches of `rows`; the number of batches.
    pub async fn copy_all(&self, plan: &TablePlan, epoch: u64, rows: u64, mode: CopyMode) -> u64 {
        let (mut low, mut batch) = (None, 0);
        let meter = longhaul::postgres::Unmetered;
        let next = longhaul::postgres::cursor::next_range_end;
        while let Some(high) = next(&self.source, plan, low.as_ref(), None, rows)
            .await
            .expect("a range")
        {
            let request = request(
                epoch,
                batch,
                KeyRange {
                    low,
                    high: high.clone(),
                },
                mode,
            );
            let receipt =
                longhaul::postgres::copy_range(&self.source, &self.target, plan, &request, &meter).await;
            let receipt = receipt.unwrap_or_else(|error| panic!("{}", error.chain()));
            assert!(receipt.rows <= rows, "{receipt:?}");
            (low, batch) = (Some(high), batch + 1);
        }
        batch
    }
}

pub async fn session(url: &str, side: Side) -> Session {
    connect(&url.parse().expect("a URL"), side, "longhaul test")
        .await
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

pub fn request(epoch: u64, batch: u64, range: KeyRange, mode: CopyMode) -> CopyRequest {
    CopyRequest {
        job: "j".to_owned(),
        epoch,
        batch,
        pass: 0,
        range,
        mode,
        repeat: false,
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
