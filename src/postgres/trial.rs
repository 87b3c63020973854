//! Reads the first rows of a table and throws them away: how large rows are on the wire, and how fast they come.
//!
//! What the catalog knows of a table's size leaves out what is stored out of line, so that only a reading tells. It is
//! bounded in rows and in time, and reads nothing twice.

use super::connect::Session;
use super::cursor;
use super::error::Result;
use super::throttle::Meter;
use super::verify::checksum_range;
use crate::table::{KeyRange, Plan};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At most so many rows are read.
const ROWS: u64 = 10_000;
/// For at most so long.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// What reading some rows has shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Rows that were read.
    pub rows: u64,
    /// Their bytes in the format in which they would travel.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// What has come so far.
#[derive(Default)]
struct Counted {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Meter for Counted {
    fn pass(&self, rows: u64, bytes: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    }
}

/// Reads the first rows of the source, at most 10,000 and for at most 3 s; after that time the session is closed.
///
/// `None` where there is no row, or none came in that time.
///
/// # Errors
/// What goes wrong in reading.
pub async fn read_some(source: &Session, plan: &Plan) -> Result<Option<Trial>> {
    let counted = Counted::default();
    let reading = async {
        let Some(high) = cursor::next_range_end(source, plan, None, None, ROWS).await? else {
            return Ok(None);
        };
        let range = KeyRange { low: None, high };
        let began = Instant::now();
        let tally = checksum_range(source, plan, plan.format, &range, &counted).await?;
        Ok(Some(Trial {
            rows: tally.rows,
            bytes: tally.bytes,
            took: began.elapsed(),
        }))
    };
    if let Ok(read) = tokio::time::timeout(READ_WITHIN, reading).await {
        return read;
    }
    let (rows, bytes) = (counted.rows.into_inner(), counted.bytes.into_inner());
    Ok((rows > 0).then_some(Trial {
        rows,
        bytes,
        took: READ_WITHIN,
    }))
}
