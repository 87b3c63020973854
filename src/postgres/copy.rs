//! Copies one range of keys from the source into the target, exactly once.
//!
//! The source's COPY is forwarded into the target's as it arrives, in chunks, hashed on the way; the batch's ledger entry
//! commits with its rows. BEGIN, the fence and COPY go out together, and so do the end of COPY, the ledger's INSERT and
//! COMMIT. A repeat finds the entry and returns its receipt. A dropped future closes both sessions: the target rolls back.

use super::checksum::Tally;
use super::connect::{Session, text_rows};
use super::cursor::{quote_column, source_from, where_range};
use super::error::{Error, Kind, Result, Side};
use super::identifier::{quote_identifier, quote_list, quote_literal, quote_table};
use super::ledger;
use super::throttle::Meter;
use crate::failpoint::failpoint;
use crate::table::{CopyFormat, KeyRange, Receipt, TablePlan};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio_postgres::{CopyInSink, CopyOutStream, SimpleQueryMessage};

/// Rows are handed to the target in pieces of about this size, or one row where it is larger.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long a failed batch waits for its ROLLBACK before it gives its session up.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(5);

/// Where rows go before they are checked against the target's own.
const STAGE: &str = "pg_temp.longhaul_batch";

/// How a batch's rows meet those of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// Straight into the table; a row of the same key is an error.
    Append,
    /// The target's row stays.
    Skip,
    /// The target's row gets the source's values.
    Update,
    /// Only rows whose key is not there: for another look at a range (sync). Writes no ledger entry where none was missing.
    Missing,
}

impl From<crate::table::OnConflict> for CopyMode {
    fn from(on_conflict: crate::table::OnConflict) -> Self {
        match on_conflict {
            crate::table::OnConflict::Error => Self::Append,
            crate::table::OnConflict::Skip => Self::Skip,
            crate::table::OnConflict::Update => Self::Update,
        }
    }
}

/// One batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRequest {
    /// The job's name in the ledger.
    pub job: String,
    /// The epoch under which this run took the job over.
    pub epoch: u64,
    /// The batch's number, unique in the job and table.
    pub batch: u64,
    /// 0 for the first copy of a range, more for another look at it.
    pub pass: u16,
    /// Which rows.
    pub range: KeyRange,
    /// How they meet the target's.
    pub mode: CopyMode,
    /// Whether the batch may have committed already: any attempt after the first.
    pub repeat: bool,
}

/// Copies the range and writes its ledger entry, in one transaction of the target. Durable when it returns.
///
/// Exactly once per batch: with `repeat`, or where rows turn out to be there, the ledger decides. In the mode `Missing`
/// the receipt's `rows` are those that were written. `meter` sees each chunk before the target does. Cancel-safe: a dropped
/// future closes both sessions.
///
/// # Errors
/// `Fenced` where a later run has taken over; `ConflictingRow`; `CountMismatch`; or what goes wrong on either side.
pub async fn copy_range(
    source: &Session,
    target: &Session,
    plan: &TablePlan,
    request: &CopyRequest,
    meter: &dyn Meter,
) -> Result<Receipt> {
    let known = async || ledger::find(target, &request.job, plan, request.batch, &request.range).await;
    if request.repeat
        && let Some(receipt) = known().await?
    {
        return Ok(receipt);
    }
    let open = target.open();
    let copied = transfer(source, target, plan, request, meter).await;
    if copied.is_ok() || roll_back(target).await {
        open.ended();
    }
    let Err(error) = copied else { return copied };
    if error.side() != Side::Target || error.kind() != Kind::ConflictingRow || target.is_busy() {
        return Err(error);
    }
    // Somebody has put a row of this batch there: ourselves, in an attempt whose answer was lost?
    known().await?.ok_or(error)
}

/// Counts and hashes the range's rows as they are on one side, in the plan's format. Reads only.
///
/// On the target the range is cut out by the target's own order; for keys without a collation that is the source's.
///
/// # Errors
/// What goes wrong in reading.
pub async fn checksum_range(session: &Session, plan: &TablePlan, range: &KeyRange) -> Result<Receipt> {
    let open = session.open();
    let mut stream = pin!(copy_out(session, plan, range).await?);
    let mut tally = Tally::new(plan.format);
    while let Some(message) = stream.next().await {
        tally.add(
            &message.map_err(|error| reading_failed(session.side(), plan, &error))?,
            plan.format,
        );
    }
    open.ended();
    Ok(tally.receipt(0))
}

async fn roll_back(target: &Session) -> bool {
    if target.is_closed() {
        return false;
    }
    let rolled_back = tokio::time::timeout(ROLLBACK_WITHIN, target.client().batch_execute("ROLLBACK")).await;
    matches!(rolled_back, Ok(Ok(())))
}

async fn transfer(
    source: &Session,
    target: &Session,
    plan: &TablePlan,
    request: &CopyRequest,
    meter: &dyn Meter,
) -> Result<Receipt> {
    let reading = source.open();
    let (begun, stream) = tokio::join!(
        begin(target, plan, request),
        copy_out(source, plan, &request.range)
    );
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            // The target's transaction is rolled back by the caller; the source has answered.
            if error.sqlstate().is_some() {
                reading.ended();
            }
            return Err(error);
        }
    };
    let Begun { sink, may_drop_rows } = begun?;
    failpoint!("copy::before_first_row");
    let mut sink = pin!(sink);
    let pumped = pump(Pin::new(&mut stream), sink.as_mut(), plan, meter).await;
    match &pumped {
        Ok(_) => reading.ended(),
        Err(error) if error.side() == Side::Source && error.sqlstate().is_some() => reading.ended(),
        Err(_) => {}
    }
    finish(target, sink, plan, request, &pumped?, may_drop_rows).await
}

struct Begun {
    sink: CopyInSink<Bytes>,
    /// Whether a trigger might keep rows out, so that COPY's count is to be seen before the commit.
    may_drop_rows: bool,
}

/// BEGIN, the fence, the stage where one is needed, and COPY, without waiting for one before the next is sent.
async fn begin(target: &Session, plan: &TablePlan, request: &CopyRequest) -> Result<Begun> {
    let columns = column_list(plan);
    let table = quote_table(&plan.target);
    let oid = format!("{}::pg_catalog.regclass", quote_literal(&table));
    let selected = format!(
        "EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgtype & 7 = 7
                 AND (tgrelid = {oid} OR tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree({oid}))))"
    );
    let fence = ledger::fence_sql(&request.job, request.epoch, &selected);
    let mut opening = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {fence}");
    let into = match request.mode {
        CopyMode::Append => table,
        _ => {
            opening.push_str(&format!(
                "; CREATE TEMPORARY TABLE longhaul_batch ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
            ));
            STAGE.to_owned()
        }
    };
    let copy = format!(
        "COPY {into} ({columns}) FROM STDIN (FORMAT {})",
        format_name(plan.format)
    );
    let copying = async {
        let statement = target.statement(&copy).await?;
        target.client().copy_in::<_, Bytes>(&statement).await
    };
    // Polled in this order, and so sent in this order. COPY is not ended before the fence has answered.
    let (opened, sink) = tokio::join!(target.client().simple_query(&opening), copying);
    let what = || {
        format!(
            "cannot begin batch {} of target table {}",
            request.batch, plan.target
        )
    };
    let opened = opened.map_err(|error| Error::query(Side::Target, what(), &error))?;
    let Some(row) = text_rows(&opened).pop() else {
        return Err(ledger::fenced(&request.job));
    };
    let sink = sink.map_err(|error| Error::query(Side::Target, what(), &error))?;
    Ok(Begun {
        sink,
        may_drop_rows: row.first().is_some_and(|field| field.as_deref() == Some("t")),
    })
}

async fn copy_out(session: &Session, plan: &TablePlan, range: &KeyRange) -> Result<Pin<Box<CopyOutStream>>> {
    let from = match session.side() {
        Side::Source => source_from(plan),
        Side::Target => format!("{} AS t", quote_table(&plan.target)),
    };
    let columns: Vec<_> = plan
        .columns
        .iter()
        .map(|column| quote_column(&column.name))
        .collect();
    let sql = format!(
        "COPY (SELECT {} FROM {from}{}) TO STDOUT (FORMAT {})",
        columns.join(", "),
        where_range(plan, range),
        format_name(plan.format)
    );
    let stream = session.client().copy_out(&sql).await;
    stream
        .map(Box::pin)
        .map_err(|error| reading_failed(session.side(), plan, &error))
}

fn reading_failed(side: Side, plan: &TablePlan, error: &tokio_postgres::Error) -> Error {
    let table = match side {
        Side::Source => &plan.source,
        Side::Target => &plan.target,
    };
    Error::query(side, format!("cannot read {side} table {table}"), error)
}

/// Forwards every message, counting and hashing, until the source has no more.
async fn pump(
    mut stream: Pin<&mut Pin<Box<CopyOutStream>>>,
    mut sink: Pin<&mut CopyInSink<Bytes>>,
    plan: &TablePlan,
    meter: &dyn Meter,
) -> Result<Tally> {
    let mut tally = Tally::new(plan.format);
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    let mut passed = (0, 0);
    loop {
        let message = stream.next().await.transpose();
        let message = message.map_err(|error| reading_failed(Side::Source, plan, &error))?;
        let is_last = message.is_none();
        if let Some(message) = message {
            tally.add(&message, plan.format);
            chunk.extend_from_slice(&message);
        }
        if chunk.len() >= CHUNK_BYTES || (is_last && !chunk.is_empty()) {
            meter.pass(tally.rows - passed.0, tally.bytes - passed.1).await;
            passed = (tally.rows, tally.bytes);
            let sent = sink.feed(chunk.split().freeze()).await;
            sent.map_err(|error| writing_failed(plan, &error))?;
            chunk.reserve(2 * CHUNK_BYTES);
        }
        if is_last {
            return Ok(tally);
        }
    }
}

fn writing_failed(plan: &TablePlan, error: &tokio_postgres::Error) -> Error {
    Error::query(
        Side::Target,
        format!("cannot write to target table {}", plan.target),
        error,
    )
}

/// The end of COPY, the rows' way from the stage, the ledger entry and COMMIT, in one write.
async fn finish(
    target: &Session,
    mut sink: Pin<&mut CopyInSink<Bytes>>,
    plan: &TablePlan,
    request: &CopyRequest,
    tally: &Tally,
    may_drop_rows: bool,
) -> Result<Receipt> {
    let sql = format!("{}; COMMIT", entry_sql(plan, request, tally));
    failpoint!("copy::before_commit");
    let committing = target.client().simple_query(&sql);
    let mismatch = |taken: u64| {
        let what = format!(
            "target table {} took {taken} rows of {} that were sent",
            plan.target, tally.rows
        );
        Error::new(Side::Target, Kind::CountMismatch, what)
    };
    let answer = if may_drop_rows {
        let taken = sink
            .as_mut()
            .finish()
            .await
            .map_err(|error| writing_failed(plan, &error))?;
        if taken != tally.rows {
            return Err(mismatch(taken));
        }
        committing.await
    } else {
        // Should COPY fail, the INSERT fails in the broken transaction, and COMMIT is not reached.
        let (taken, answer) = tokio::join!(sink.as_mut().finish(), committing);
        let taken = taken.map_err(|error| writing_failed(plan, &error))?;
        if answer.is_ok() && taken != tally.rows {
            return Err(mismatch(taken));
        }
        answer
    };
    let what = || {
        format!(
            "cannot commit batch {} of target table {}",
            request.batch, plan.target
        )
    };
    let answer: Vec<SimpleQueryMessage> =
        answer.map_err(|error| Error::query(Side::Target, what(), &error))?;
    failpoint!("copy::after_commit");
    let written = text_rows(&answer)
        .pop()
        .and_then(|row| row.into_iter().next().flatten());
    let written = written.and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut receipt = tally.receipt(written);
    if request.mode == CopyMode::Missing {
        receipt.rows = written;
    }
    Ok(receipt)
}

/// Writes the ledger entry and gives back how many rows were written.
fn entry_sql(plan: &TablePlan, request: &CopyRequest, tally: &Tally) -> String {
    let (low, high) = ledger::bounds(&request.range);
    let columns = ledger::BATCH_COLUMNS;
    let head = format!(
        "{}, {}, {}, {}, {low}, {high}",
        quote_literal(&request.job),
        quote_literal(&plan.source.to_string()),
        request.batch,
        request.pass
    );
    let tail = format!("{}, {}", tally.bytes, tally.checksum.cast_signed());
    let rows = tally.rows;
    let into = format!("INSERT INTO longhaul.batches ({columns})");
    match request.mode {
        CopyMode::Append => format!("{into} VALUES ({head}, {rows}, {rows}, {tail}) RETURNING rows_written"),
        mode => {
            let insert = insert_from_stage(plan, mode);
            let (rows, condition) = match mode {
                CopyMode::Missing => ("n".to_owned(), " WHERE n > 0"),
                _ => (rows.to_string(), ""),
            };
            format!(
                "WITH written AS ({insert} RETURNING 1), counted AS (SELECT count(*) AS n FROM written)
                 {into} SELECT {head}, {rows}, n, {tail} FROM counted{condition} RETURNING rows_written"
            )
        }
    }
}

fn insert_from_stage(plan: &TablePlan, mode: CopyMode) -> String {
    let columns = column_list(plan);
    let key = quote_list(plan.key.iter().map(|column| column.name.as_str()));
    let target = quote_table(&plan.target);
    let insert =
        format!("INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {STAGE} s");
    let others = plan
        .columns
        .iter()
        .filter(|column| plan.key.iter().all(|key| key.name != column.name));
    let updates: Vec<_> = others
        .map(|column| quote_identifier(&column.name))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    match mode {
        CopyMode::Update if !updates.is_empty() => {
            format!(
                "{insert} ON CONFLICT ({key}) DO UPDATE SET {}",
                updates.join(", ")
            )
        }
        CopyMode::Missing if !plan.target_key_is_unique => {
            let same: Vec<_> = plan
                .key
                .iter()
                .map(|column| quote_identifier(&column.name))
                .map(|column| format!("t.{column} = s.{column}"))
                .collect();
            format!(
                "{insert} WHERE NOT EXISTS (SELECT FROM {target} t WHERE {})",
                same.join(" AND ")
            )
        }
        _ => format!("{insert} ON CONFLICT ({key}) DO NOTHING"),
    }
}

fn column_list(plan: &TablePlan) -> String {
    quote_list(plan.columns.iter().map(|column| column.name.as_str()))
}

fn format_name(format: CopyFormat) -> &'static str {
    match format {
        CopyFormat::Binary => "binary",
        CopyFormat::Text => "text",
    }
}
