//! Copies one batch from the source into the target, exactly once.
//!
//! Lock, then look: on both sides the table is locked first, then compared with the plan by its digest, then read or
//! written. The source's COPY is forwarded into the target's as it arrives, in chunks, hashed on the way; the batch's ledger
//! entry commits with its rows. What can be sent together is. A repeat finds the entry and returns what it did. A dropped
//! future closes both sessions: the target rolls back.

mod look;
mod reading;
mod writing;

use super::checksum::RowCounter;
use super::connect::Session;
use super::error::{Error, Kind, Result, Side};
use super::ledger;
use super::throttle::Meter;
use crate::failpoint::failpoint;
use crate::table::{Batch, Fence, KeyRange, Pass, Plan, TableSpec, Tally};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use reading::Reading;
use std::pin::Pin;
use std::time::Duration;
use tokio_postgres::{CopyInSink, CopyOutStream};
use writing::Writing;

pub(super) use reading::{begin_sql, filtered, range_sql, rows_sql, under_path_of_expressions, values_of};
pub(super) use writing::{STAGING, column_list, move_sql, same_key};

/// Rows are handed to the target in pieces of about this size, or one row where it is larger.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// How long a failed batch waits for its ROLLBACK before it gives its session up.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(5);

/// One batch on its way, with all that it needs to know.
#[derive(Clone, Copy)]
struct Copying<'a> {
    source: &'a Session,
    target: &'a Session,
    plan: &'a Plan,
    spec: &'a TableSpec,
    fence: &'a Fence,
    batch: &'a Batch,
    meter: &'a dyn Meter,
}

/// Copies a batch and writes its ledger entry, in one transaction of the target. Durable when it returns.
///
/// Exactly once: with `repeat` (any attempt after the first), or where rows turn out to be there, the ledger decides. A
/// [`Pass::Look`] sends only rows whose key the target lacks, and writes no entry where it lacks none: the tally is then
/// empty. `meter` sees each chunk before the target does. Cancel-safe: a dropped future closes both sessions.
///
/// # Errors
/// `Fenced`, `TargetRewound`, `TableChanged`; `ConflictingRow`; `CountMismatch`; or what goes wrong on either side.
pub async fn copy_batch(
    source: &Session,
    target: &Session,
    plan: &Plan,
    spec: &TableSpec,
    fence: &Fence,
    batch: &Batch,
    repeat: bool,
    meter: &dyn Meter,
) -> Result<Tally> {
    let known = async || ledger::find(target, spec, plan, fence, batch).await;
    if repeat && let Some(tally) = known().await? {
        return Ok(tally);
    }
    let copying = Copying {
        source,
        target,
        plan,
        spec,
        fence,
        batch,
        meter,
    };
    let open = target.open();
    let copied = match batch.pass {
        Pass::Look => copying.add_missing().await,
        Pass::Copy => copying.transfer().await,
    };
    if copied.is_ok() || roll_back(target).await {
        open.ended();
    }
    let Err(error) = copied else { return copied };
    let session = match error.side() {
        Side::Source => source,
        Side::Target => target,
    };
    if let Some(words) = session.ended_because() {
        return Err(error.because(words));
    }
    if let Some("22021" | "22P05") = error.sqlstate() {
        return Err(not_in_encoding(error, plan, batch));
    }
    if error.side() != Side::Target || error.kind() != Kind::ConflictingRow || target.is_busy() {
        return Err(error);
    }
    // Somebody has put a row of this batch there: ourselves, in an attempt whose answer was lost?
    known().await?.ok_or(error)
}

/// Says where the row is whose text one side cannot take, and what mends it.
fn not_in_encoding(error: Error, plan: &Plan, batch: &Batch) -> Error {
    let KeyRange { low, high } = &batch.range;
    let after = low
        .as_ref()
        .map_or(String::new(), |low| format!(" after ({})", low.shown()));
    let mend = match error.side() {
        Side::Source => {
            "mend its text there (UPDATE .. SET c = convert_from(convert(convert_to(c, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'SQL_ASCII'), \
             if it was written in LATIN1)"
        }
        Side::Target => "mend it on the source, or copy into a database in UTF8",
    };
    error.hinted(format!(
        "the row is among those of {} with keys{after} up to ({}): {mend}, or leave the column out; then run the same command again",
        plan.source,
        high.shown()
    ))
}

async fn roll_back(target: &Session) -> bool {
    if target.is_closed() {
        return false;
    }
    let rolled_back = tokio::time::timeout(ROLLBACK_WITHIN, target.client().batch_execute("ROLLBACK")).await;
    matches!(rolled_back, Ok(Ok(())))
}

impl Copying<'_> {
    /// All rows of the range, into the table or by way of a staging table.
    async fn transfer(self) -> Result<Tally> {
        let reading = self.source.open();
        let (writing, stream) = tokio::join!(Writing::begin(&self), Reading::rows_of_range(&self));
        let mut stream = stream?;
        let mut writing = writing?;
        failpoint!("copy::before_first_row");
        let counted = pump(stream.rows(), writing.sink(), &self).await?;
        let (tally, ended) = tokio::join!(writing.finish(&self, &counted), stream.end());
        if ended {
            reading.ended();
        }
        tally
    }
}

/// Forwards every message, counting and hashing, until the source has no more.
async fn pump(
    mut stream: Pin<&mut CopyOutStream>,
    mut sink: Pin<&mut CopyInSink<Bytes>>,
    copying: &Copying<'_>,
) -> Result<RowCounter> {
    let plan = copying.plan;
    let mut counter = RowCounter::new(plan.format);
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    let mut passed = (0, 0);
    loop {
        let message = copying.source.awaited(stream.next()).await.transpose();
        let message = message.map_err(|error| reading::failed(Side::Source, plan, &error))?;
        let is_last = message.is_none();
        if let Some(message) = message {
            counter.add(&message);
            chunk.extend_from_slice(&message);
        }
        if chunk.len() >= CHUNK_BYTES || (is_last && !chunk.is_empty()) {
            let meter = copying.meter;
            meter
                .pass(counter.rows - passed.0, counter.bytes - passed.1)
                .await;
            passed = (counter.rows, counter.bytes);
            let sent = copying.target.awaited(sink.feed(chunk.split().freeze())).await;
            sent.map_err(|error| writing::failed(plan, &error))?;
            chunk.reserve(2 * CHUNK_BYTES);
        }
        if is_last {
            return Ok(counter);
        }
    }
}

fn mismatch(plan: &Plan, written: u64, sent: u64) -> Error {
    let what = format!(
        "target table {} took {written} rows of {sent} that were sent",
        plan.target
    );
    Error::new(Side::Target, Kind::CountMismatch, what)
}
