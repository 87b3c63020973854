//! longhaul moves PostgreSQL tables between databases, durably.
//!
//! The walk of one row: [`cli`] (what was typed) -> [`job`] (a validated JobSpec) -> [`connect`] (which service) ->
//! [`workflow`] (decides: next batch, then copy it) -> [`service`] (journals the decision, hands out the activity, journals
//! the result) -> [`activity`] (does it) -> [`postgres`] (COPY out of the source into the target, rows and ledger entry in
//! one transaction) -> back up as a receipt of rows, bytes and checksum: all of the row that the journal ever sees.

pub mod activity;
pub mod cli;
pub mod connect;
pub mod failpoint;
pub mod job;
pub mod observe;
pub mod postgres;
pub mod service;
pub mod table;
pub mod worker;
pub mod workflow;
