//! The target's side of a batch: the fence, the rows, and the ledger entry, in one transaction.
//!
//! Straight into the table where a row of the same key is an error; by way of a staging table where rows that are there stay or are
//! updated. What was written is counted: sent = written + skipped, or nothing of the batch is kept.

use super::{Copying, mismatch};
use crate::failpoint::failpoint;
use crate::postgres::catalog::digest_sql;
use crate::postgres::checksum::RowCounter;
use crate::postgres::comparison::{Strategy, compare};
use crate::postgres::connect::{TO_USERS_PATH, text_rows, to_our_path};
use crate::postgres::cursor::{operands, table_of};
use crate::postgres::error::{Error, Kind, Result, Side};
use crate::postgres::identifier::{quote_identifier, quote_list, quote_literal, quote_table};
use crate::postgres::ledger;
use crate::table::{KeyColumn, OnConflict, Plan, Tally};
use bytes::Bytes;
use std::pin::Pin;
use tokio_postgres::{CopyInSink, SimpleQueryMessage};

/// Where rows go before they meet the target's own.
pub(in crate::postgres) const STAGING: &str = "pg_temp.longhaul_batch";

/// A transaction of the target into which rows are being written.
pub(super) struct Writing {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    by_way_of_staging: bool,
}

impl Writing {
    /// BEGIN, the fence, the staging table where one is needed, and COPY, without waiting for one before the next is sent.
    pub(super) async fn begin(copying: &Copying<'_>) -> Result<Self> {
        let plan = copying.plan;
        let columns = column_list(plan);
        let by_way_of_staging = copying.is_by_way_of_staging();
        let (stage, into) = if by_way_of_staging {
            let stage = format!(
                "; CREATE TEMPORARY TABLE longhaul_batch ON COMMIT DROP AS SELECT {columns} FROM {} WITH NO DATA",
                quote_table(&plan.target)
            );
            (stage, STAGING.to_owned())
        } else {
            (String::new(), quote_table(&plan.target))
        };
        let sink = begin(copying, &stage, &into, &columns).await?;
        Ok(Self {
            sink,
            by_way_of_staging,
        })
    }

    pub(super) fn sink(&mut self) -> Pin<&mut CopyInSink<Bytes>> {
        self.sink.as_mut()
    }

    /// The end of COPY, the rows' way from the staging table, the ledger entry and COMMIT.
    pub(super) async fn finish(mut self, copying: &Copying<'_>, counted: &RowCounter) -> Result<Tally> {
        failpoint!("copy::before_commit");
        let skipped = if self.by_way_of_staging {
            self.finish_staged(copying, counted).await?
        } else {
            self.finish_straight(copying, counted).await?
        };
        failpoint!("copy::after_commit");
        Ok(Tally {
            batches: 1,
            ..counted.tally(skipped)
        })
    }

    /// What COPY took is seen before the commit, whatever may have kept rows out.
    async fn finish_straight(&mut self, copying: &Copying<'_>, counted: &RowCounter) -> Result<u64> {
        let plan = copying.plan;
        let taken = copying.target.awaited(self.sink.as_mut().finish()).await;
        let taken = taken.map_err(|error| failed(plan, &error))?;
        if taken != counted.rows {
            return Err(mismatch(plan, taken, counted.rows));
        }
        copying.run(&copying.end_sql(counted, 0)).await?;
        Ok(0)
    }

    /// From the staging table into the table; sent = written + skipped, or the batch fails. Gives how many were skipped.
    async fn finish_staged(&mut self, copying: &Copying<'_>, counted: &RowCounter) -> Result<u64> {
        let plan = copying.plan;
        let moving = move_sql(plan, copying.spec.on_conflict);
        let moving = copying.target.client().simple_query(&moving);
        let both = async { tokio::join!(self.sink.as_mut().finish(), moving) };
        let (taken, moved) = copying.target.awaited(both).await;
        let taken = taken.map_err(|error| failed(plan, &error))?;
        let moved = text_rows(&moved.map_err(|error| copying.not_committed(&error))?).pop();
        let number = |column: usize| {
            let text = moved.as_ref().and_then(|row| row.get(column)?.as_deref());
            text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        let (written, skipped) = (number(0), number(1));
        if taken != counted.rows || written + skipped != counted.rows {
            let error = mismatch(plan, written, counted.rows - skipped.min(counted.rows));
            if plan.target_fires_triggers {
                return Err(error);
            }
            // Without triggers: two of the rows have one key there, or another session put a row there in this very moment.
            return Err(if copying.has_equal_keys().await? {
                let words = format!(
                    "rows of source table {} have different keys that are equal on target table {}",
                    plan.source, plan.target
                );
                Error::new(Side::Target, Kind::ConflictingRow, words)
                    .hinted("give the key's columns the collation and the type that they have on the source")
            } else {
                error.of_kind(Kind::Transient)
            });
        }
        copying.run(&copying.end_sql(counted, skipped)).await?;
        Ok(skipped)
    }
}

/// BEGIN, the fence, what else is to be made, and COPY into a table: sent together. COPY is not ended before the fence has
/// answered.
pub(super) async fn begin(
    copying: &Copying<'_>,
    more: &str,
    into: &str,
    columns: &str,
) -> Result<Pin<Box<CopyInSink<Bytes>>>> {
    let Copying {
        target,
        plan,
        spec,
        fence,
        ..
    } = copying;
    let wrong = |error: &tokio_postgres::Error| copying.not_begun(error);
    let digest = target.statement(&digest_sql(&plan.target)).await;
    let digest = digest.map_err(|error| wrong(&error))?;
    let copy = format!(
        "COPY {into} ({columns}) FROM STDIN (FORMAT {})",
        plan.format.name()
    );
    let copy = target.statement(&copy).await.map_err(|error| wrong(&error))?;
    let opening = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; {}{more}",
        ledger::fence_sql(spec, plan, fence)
    );
    let client = target.client();
    let to_users_path = async {
        match plan.target_fires_triggers {
            true => client.simple_query(TO_USERS_PATH).await.map(drop),
            false => Ok(()),
        }
    };
    // Polled in this order, and so sent in this order.
    let sent = async {
        tokio::join!(
            client.simple_query(&opening),
            client.query(&digest, &[]),
            to_users_path,
            client.copy_in::<_, Bytes>(&copy)
        )
    };
    let (opened, digest, path, sink) = target.awaited(sent).await;
    let opened = opened.map_err(|error| wrong(&error))?;
    ledger::judge_fence(spec, plan, fence, text_rows(&opened).pop().as_deref())?;
    let digest = digest.map_err(|error| wrong(&error))?;
    let digest: Option<&str> = digest.first().and_then(|row| row.get(0));
    ledger::judge_digest(Side::Target, plan, fence, digest)?;
    path.map_err(|error| wrong(&error))?;
    Ok(Box::pin(sink.map_err(|error| wrong(&error))?))
}

pub(super) fn failed(plan: &Plan, error: &tokio_postgres::Error) -> Error {
    let what = format!("cannot write to target table {}", plan.target);
    Error::rows(Side::Target, what, error)
}

impl Copying<'_> {
    /// Whether rows go by way of a staging table: where those of the target may stay or be updated.
    fn is_by_way_of_staging(&self) -> bool {
        self.spec.on_conflict != OnConflict::Error
    }

    fn not_begun(&self, error: &tokio_postgres::Error) -> Error {
        let what = format!(
            "cannot begin batch {} of target table {}",
            self.batch.number, self.plan.target
        );
        Error::rows(Side::Target, what, error)
    }

    fn not_committed(&self, error: &tokio_postgres::Error) -> Error {
        let what = format!(
            "cannot commit batch {} of target table {}",
            self.batch.number, self.plan.target
        );
        Error::rows(Side::Target, what, error)
    }

    /// Statements of the target, in the batch's transaction.
    pub(super) async fn run(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let answer = self.target.awaited(self.target.client().simple_query(sql)).await;
        answer.map_err(|error| self.not_committed(&error))
    }

    /// Whether the stage has two rows that the target takes for one.
    async fn has_equal_keys(&self) -> Result<bool> {
        let key = quote_list(self.plan.key.iter().map(KeyColumn::name_on_target));
        let sql = format!("SELECT FROM {STAGING} GROUP BY {key} HAVING count(*) > 1 LIMIT 1");
        let found = self.run(&sql).await?;
        Ok(!text_rows(&found).is_empty())
    }

    /// Writes the ledger entry, and commits. Triggers that were put off until then run under the path that they rely on.
    pub(super) fn end_sql(&self, counted: &RowCounter, skipped: u64) -> String {
        let entry = self.entry_sql(counted, skipped);
        if self.plan.target_fires_triggers {
            format!("{}; {entry}; {TO_USERS_PATH}; COMMIT", to_our_path())
        } else {
            format!("{entry}; COMMIT")
        }
    }

    fn entry_sql(&self, counted: &RowCounter, skipped: u64) -> String {
        let (low, high) = ledger::bounds(&self.batch.range);
        format!(
            "INSERT INTO longhaul.batches ({}, committed_at)
             VALUES ({}, {}, {}, {}, {}, {low}, {high}, {}, {}, {}, {}, {}, pg_catalog.clock_timestamp())",
            ledger::BATCH_COLUMNS,
            quote_literal(&self.spec.job),
            quote_literal(&self.plan.source.to_string()),
            self.batch.number,
            self.batch.pass.number(),
            quote_literal(self.plan.format.name()),
            ledger::low_hash(&low),
            counted.rows,
            counted.rows - skipped,
            counted.bytes,
            counted.checksum.cast_signed()
        )
    }
}

/// Moves the rows of the staging table into the table; gives how many were written, and how many had a row of their key there before.
pub(in crate::postgres) fn move_sql(plan: &Plan, on_conflict: OnConflict) -> String {
    let columns = column_list(plan);
    let key = quote_list(plan.key.iter().map(KeyColumn::name_on_target));
    let target = quote_table(&plan.target);
    let insert =
        format!("INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {STAGING} s");
    let updates = updates(plan);
    if on_conflict == OnConflict::Skip || updates.is_empty() {
        // The count sees the table as it was before this statement.
        return format!(
            "WITH written AS ({insert} ON CONFLICT ({key}) DO NOTHING RETURNING 1)
             SELECT (SELECT pg_catalog.count(*) FROM written),
                    (SELECT pg_catalog.count(*) FROM {STAGING} s WHERE EXISTS (SELECT FROM {} WHERE {}))",
            table_of(Side::Target, plan),
            same_key(plan)
        );
    }
    format!(
        "WITH written AS ({insert} ON CONFLICT ({key}) DO UPDATE SET {} RETURNING 1) SELECT pg_catalog.count(*), 0 FROM written",
        updates.join(", ")
    )
}

/// Every column but those of the key whose equal values are spelt alike.
fn updates(plan: &Plan) -> Vec<String> {
    let stays = |name: &str| {
        plan.key
            .iter()
            .any(|key| key.name_on_target() == name && key.is_exact)
    };
    let updated = plan.columns.iter().filter(|column| !stays(&column.name));
    updated
        .map(|column| quote_identifier(&column.name))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect()
}

/// That a row `t` of the target and a row `s` have one key.
pub(in crate::postgres) fn same_key(plan: &Plan) -> String {
    let (there, sent) = (
        operands(Side::Target, plan, "t"),
        operands(Side::Target, plan, "s"),
    );
    compare(Side::Target, &plan.key, Strategy::Equal, &there, &sent)
}

pub(in crate::postgres) fn column_list(plan: &Plan) -> String {
    quote_list(plan.columns.iter().map(|column| column.name.as_str()))
}
