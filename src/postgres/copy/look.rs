//! Another look at a range: which keys of the source the target lacks, and then the rows of those.
//!
//! Keys go first, and mostly nothing else: rows are sent only where they are missing, so that what the ledger counts is what
//! was added.

use super::reading::{self, Reading, rows_sql};
use super::writing::{self, column_list, same_key};
use super::{Copying, pump};
use crate::failpoint::failpoint;
use crate::postgres::checksum::RowCounter;
use crate::postgres::connect::text_rows;
use crate::postgres::cursor::{key_outputs, table_of, where_keys, where_range};
use crate::postgres::error::{Error, Result, Side};
use crate::postgres::identifier::{quote_list, quote_table};
use crate::table::{Key, KeyColumn, Tally};

/// Where the source's keys are held against the target's.
const KEYS: &str = "pg_temp.longhaul_keys";

impl Copying<'_> {
    /// Adds the rows whose key the target lacks.
    pub(super) async fn add_missing(self) -> Result<Tally> {
        let open = self.source.open();
        let plan = self.plan;
        let names = quote_list(plan.key.iter().map(KeyColumn::name_on_target));
        let of_name = |name: &str| plan.columns.iter().find(|column| column.name == name);
        let columns = plan
            .key
            .iter()
            .filter_map(|column| of_name(column.name_on_target()));
        let condition = where_range(Side::Source, plan, &self.batch.range);
        let keys = reading::copy_sql(
            Side::Source,
            plan,
            &reading::values_of(Side::Source, columns),
            &condition,
        );
        let table = quote_table(&plan.target);
        let made = format!(
            "; CREATE TEMPORARY TABLE longhaul_keys ON COMMIT DROP AS SELECT {names} FROM {table} WITH NO DATA"
        );
        let (writing, reading) = tokio::join!(
            writing::begin(&self, &made, KEYS, &names),
            Reading::begin(&self, &keys)
        );
        let mut reading = reading?;
        let mut sink = writing?;
        pump(reading.rows(), sink.as_mut(), &self).await?;
        let missing = self.missing_keys(sink).await?;
        let tally = if missing.is_empty() {
            self.run("ROLLBACK").await?;
            Tally::default()
        } else {
            let counted = self.send(&mut reading, &missing).await?;
            failpoint!("copy::before_commit");
            self.run(&self.end_sql(&counted, 0)).await?;
            failpoint!("copy::after_commit");
            Tally {
                batches: 1,
                ..counted.tally(0)
            }
        };
        if reading.end().await {
            open.ended();
        }
        Ok(tally)
    }

    async fn missing_keys(
        &self,
        mut sink: std::pin::Pin<Box<tokio_postgres::CopyInSink<bytes::Bytes>>>,
    ) -> Result<Vec<Key>> {
        let plan = self.plan;
        let sql = format!(
            "SELECT {} FROM {KEYS} s WHERE NOT EXISTS (SELECT FROM {} WHERE {})",
            key_outputs(Side::Target, plan, "s"),
            table_of(Side::Target, plan),
            same_key(plan)
        );
        let asking = self.target.client().simple_query(&sql);
        let both = async { tokio::join!(sink.as_mut().finish(), asking) };
        let (sent, missing) = self.target.awaited(both).await;
        sent.map_err(|error| writing::failed(plan, &error))?;
        let missing = missing.map_err(|error| {
            let what = format!("cannot hold keys against target table {}", plan.target);
            Error::rows(Side::Target, what, &error)
        })?;
        let keys = text_rows(&missing).into_iter();
        Ok(keys
            .filter_map(|row| row.into_iter().collect::<Option<_>>().map(Key))
            .collect())
    }

    /// The rows of some keys, straight into the table.
    async fn send(&self, reading: &mut Reading<'_>, keys: &[Key]) -> Result<RowCounter> {
        let plan = self.plan;
        let copy = format!(
            "COPY {} ({}) FROM STDIN (FORMAT {})",
            quote_table(&plan.target),
            column_list(plan),
            plan.format.name()
        );
        let rows = rows_sql(Side::Source, plan, &where_keys(Side::Source, plan, keys));
        reading.read_on(plan, &rows).await?;
        let target = self.target;
        let sink = target
            .awaited(target.client().copy_in::<_, bytes::Bytes>(&copy))
            .await;
        let mut sink = Box::pin(sink.map_err(|error| writing::failed(plan, &error))?);
        let counted = pump(reading.rows(), sink.as_mut(), self).await?;
        let taken = target.awaited(sink.as_mut().finish()).await;
        let taken = taken.map_err(|error| writing::failed(plan, &error))?;
        if taken == counted.rows {
            Ok(counted)
        } else {
            Err(super::mismatch(plan, taken, counted.rows))
        }
    }
}
