//! The source's side of a batch: lock the table, compare it with the plan, then read it in the same transaction.

use super::Copying;
use crate::postgres::catalog::digest_sql;
use crate::postgres::connect::{Session, lock_sql};
use crate::postgres::cursor::{lock_of, quote_column, select_range, table_of};
use crate::postgres::error::{Error, Result, Side};
use crate::postgres::{ledger, snapshot};
use crate::table::{KeyRange, Plan};
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
        let sent = async {
            tokio::join!(
                client.simple_query(&lock),
                client.query(&digest, &[]),
                client.copy_out(copy)
            )
        };
        let (locked, digest, stream) = source.awaited(sent).await;
        // The first error is the cause: after it the others only say that the transaction is aborted.
        locked.map_err(|error| match failed(&error) {
            error if fence.snapshot.is_some() && snapshot::is_gone(error.sqlstate()) => snapshot::gone(plan),
            error => error,
        })?;
        let digest = digest.map_err(|error| failed(&error))?;
        let digest: Option<&str> = digest.first().and_then(|row| row.get(0));
        ledger::judge_digest(Side::Source, plan, fence, digest)?;
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
pub(in crate::postgres) fn range_sql(side: Side, plan: &Plan, range: &KeyRange) -> Result<String> {
    let rows = select_range(side, plan, &columns(plan), range)?;
    Ok(format!("COPY ({rows}) TO STDOUT (FORMAT {})", plan.format.name()))
}

fn columns(plan: &Plan) -> String {
    let columns = plan.columns.iter().map(|column| quote_column(&column.name));
    columns.collect::<Vec<_>>().join(", ")
}

/// The columns of the plan, of the rows that a condition (` WHERE ..`) takes.
pub(in crate::postgres) fn rows_sql(side: Side, plan: &Plan, condition: &str) -> String {
    copy_sql(side, plan, &columns(plan), condition)
}

/// COPY of some columns to us, in the plan's format.
pub(super) fn copy_sql(side: Side, plan: &Plan, columns: &str, condition: &str) -> String {
    format!(
        "COPY (SELECT {columns} FROM {}{condition}) TO STDOUT (FORMAT {})",
        table_of(side, plan),
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
