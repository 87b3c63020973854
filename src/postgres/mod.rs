//! All that speaks SQL: connections, catalogs, keys, the ledger, and the copy itself.
//!
//! A table's walk: [`connect`] to both sides, [`examine`] both catalogs into a plan, take over the [`ledger`], then, batch
//! by batch, find where the range ends ([`cursor`]) and copy it ([`copy_batch`]): rows and ledger entry commit in one
//! transaction on the target. Errors carry a [`Kind`]; rows never enter the heap one by one, and no row's value enters a
//! text. This room knows tables, and nothing of jobs, workflows or terminals.

mod asked;
mod catalog;
mod certificate;
mod checksum;
mod comparison;
mod connect;
mod connection_string;
mod copy;
pub mod cursor;
mod error;
mod file;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod identifier;
pub mod ledger;
mod liveness;
mod look;
mod message;
mod passfile;
mod places;
mod pool;
mod pooler;
mod pulse;
mod reach;
mod require_auth;
mod resolved;
pub mod rewind;
pub mod sample;
mod server;
mod service;
mod snapshot;
pub mod source_clock;
mod still;
mod throttle;
mod tls;
mod trial;
pub mod verify;
mod words;
pub mod writers;

pub use asked::{check_key, check_key_again};
pub use catalog::{
    LeftOut, Read, Right, Survey, check_growth, check_repair, examine, examine_to_read, identify,
    look_at_one, role, target_is_empty,
};
pub use connect::{Session, Waits, connect};
pub use connection_string::ConnectionString;
pub use copy::copy_batch;
pub use error::{BRIEF, Error, Kind, Result, Retry, Side, UNKNOWN_ATTEMPTS};
pub use file::read_text;
pub use look::{Ask, Look, Troubles, look, survey};
pub use pool::{Lease, Pool};
pub use server::{Backup, ServerError, ServerOptions, Standby, StopMode, ThrowawayServer};
pub use snapshot::Snapshot;
pub use still::{check_still, note_still};
pub use throttle::{Meter, Throttle, Unmetered};
pub use trial::{Trial, read_some};
