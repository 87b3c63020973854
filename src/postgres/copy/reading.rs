//! The source's side of a batch: lock the table, compare it with the plan, then read it in the same transaction.

use super::Copying;
use crate::postgres::catalog::digest_sql;
use crate::postgres::connect::{Session, TO_PATH_OF_EXPRESSIONS, lock_sql};
use crate::postgres::cursor::{lock_of, quote_column, table_of, where_range};
use crate::postgres::error::{Error, Result, Side};
use crate::postgres::{ledger, places, snapshot};
use crate::table::{Column, KeyRange, Plan, ReadAs};
use std::pin::Pin;
use tokio_postgres::CopyOutStream;

/// A transaction of the source in which rows are being read.
pub(super) struct Reading<'a> {
    session: &'a Session,
    stream: Pin<Box<CopyOutStream>>,
}

impl<'a> Reading<'a> {
    /// Begins to read the batch's range.
    pub(super) async fn rows_of_range(copying: &Copying<'a>) -> Result<Self> {
        let sql = range_sql(Side::Source, copying.plan, &copying.batch.range)?;
        Self::begin(copying, &sql).await
    }

    /// Locks the table, compares it with the plan, and begins a COPY: sent together, in this order.
    pub(super) async fn begin(copying: &Copying<'a>, copy: &str) -> Result<Self> {
        let Copying {
            source, plan, fence, ..
        } = copying;
        let failed = |error: &tokio_postgres::Error| failed(Side::Source, plan, error);
        let digest = source.statement(&digest_sql(&plan.source)).await;
        let digest = digest.map_err(|error| failed(&error))?;
        let lock = match &fence.snapshot {
            Some(name) => snapshot::begin_sql(plan, name),
            None => lock_sql(&lock_of(Side::Source, plan)),
        };
        let client = source.client();
        let to_path = async {
            match plan.has_expressions() {
                true => client.simple_query(TO_PATH_OF_EXPRESSIONS).await.map(drop),
                false => Ok(()),
            }
        };
        // Polled in this order, and so sent in this order.
        let sent = async {
            tokio::join!(
                client.simple_query(&lock),
                client.query(&digest, &[]),
                to_path,
                client.copy_out(copy)
            )
        };
        let (locked, digest, path, stream) = source.awaited(sent).await;
        // The first error is the cause: after it the others only say that the transaction is aborted.
        locked.map_err(|error| match failed(&error) {
            error if fence.snapshot.is_some() && snapshot::is_gone(error.sqlstate()) => snapshot::gone(plan),
            error => error,
        })?;
        let digest = digest.map_err(|error| failed(&error))?;
        let digest: Option<&str> = digest.first().and_then(|row| row.get(0));
        ledger::judge_digest(Side::Source, plan, fence, digest)?;
        path.map_err(|error| failed(&error))?;
        Ok(Self {
            session: source,
            stream: Box::pin(stream.map_err(|error| failed(&error))?),
        })
    }

    pub(super) fn rows(&mut self) -> Pin<&mut CopyOutStream> {
        self.stream.as_mut()
    }

    /// Begins another COPY in the same transaction, once the first has been read to its end.
    pub(super) async fn read_on(&mut self, plan: &Plan, copy: &str) -> Result<()> {
        let session = self.session;
        let stream = session.awaited(session.client().copy_out(copy)).await;
        self.stream = Box::pin(stream.map_err(|error| failed(Side::Source, plan, &error))?);
        Ok(())
    }

    /// Ends the transaction; whether the session can be used again.
    pub(super) async fn end(self) -> bool {
        let Self { session, .. } = self;
        session
            .awaited(session.client().batch_execute("COMMIT"))
            .await
            .is_ok()
    }
}

/// The columns of the plan, of the rows of a range.
///
/// # Errors
/// `Ledger` where the range is none of the table's.
pub(in crate::postgres) fn range_sql(side: Side, plan: &Plan, range: &KeyRange) -> Result<String> {
    if side == Side::Target || !plan.key_basis.is_places() {
        return Ok(rows_sql(side, plan, &where_range(side, plan, range)));
    }
    let rows = places::select(plan, &values_of(side, &plan.columns), range)?;
    Ok(format!("COPY ({rows}) TO STDOUT (FORMAT {})", plan.format.name()))
}

/// The columns of the plan, of the rows that a condition (` WHERE ..`) takes.
pub(in crate::postgres) fn rows_sql(side: Side, plan: &Plan, condition: &str) -> String {
    copy_sql(side, plan, &values_of(side, &plan.columns), condition)
}

/// What one side reads for columns, of the rows called `t`: on the source as it is planned, on the target what was written.
pub(in crate::postgres) fn values_of<'a>(
    side: Side,
    columns: impl IntoIterator<Item = &'a Column>,
) -> String {
    let value = |column: &Column| match (side, &column.read_as) {
        (Side::Target, _) => quote_column(&column.name),
        (Side::Source, None) => quote_column(column.name_on_source()),
        (Side::Source, Some(ReadAs::Cast(to))) => {
            format!("{}::{to}", quote_column(column.name_on_source()))
        }
        (Side::Source, Some(ReadAs::Expression(sql))) => format!("({sql})"),
    };
    let values: Vec<_> = columns.into_iter().map(value).collect();
    values.join(", ")
}

/// A condition (` WHERE ..`, or none) on one side's rows, with the operator's own on the source's.
pub(in crate::postgres) fn filtered(side: Side, plan: &Plan, condition: &str) -> String {
    match (&plan.filter, side) {
        (Some(filter), Side::Source) if condition.is_empty() => format!(" WHERE ({filter})"),
        (Some(filter), Side::Source) => format!("{condition} AND ({filter})"),
        _ => condition.to_owned(),
    }
}

/// A statement that reads rows of one side, under the path of the operator's expressions where it has some; it gives the same rows.
pub(in crate::postgres) fn under_path_of_expressions(side: Side, plan: &Plan, sql: &str) -> String {
    match side {
        Side::Source if plan.has_expressions() => format!("{TO_PATH_OF_EXPRESSIONS}; {sql}"),
        _ => sql.to_owned(),
    }
}

/// The beginning of a transaction that reads rows of one side, as [`lock_sql`], for statements of which some are in another message.
pub(in crate::postgres) fn begin_sql(side: Side, plan: &Plan) -> String {
    let lock = lock_sql(&lock_of(side, plan));
    match side {
        Side::Source if plan.has_expressions() => format!("{lock}; {TO_PATH_OF_EXPRESSIONS}"),
        _ => lock,
    }
}

/// COPY of some columns to us, in the plan's format.
pub(super) fn copy_sql(side: Side, plan: &Plan, columns: &str, condition: &str) -> String {
    format!(
        "COPY (SELECT {columns} FROM {}{}) TO STDOUT (FORMAT {})",
        table_of(side, plan),
        filtered(side, plan, condition),
        plan.format.name()
    )
}

pub(super) fn failed(side: Side, plan: &Plan, error: &tokio_postgres::Error) -> Error {
    let table = match side {
        Side::Source => &plan.source,
        Side::Target => &plan.target,
    };
    Error::rows(side, format!("cannot read {side} table {table}"), error)
}
