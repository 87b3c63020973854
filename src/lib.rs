//! longhaul moves PostgreSQL tables between databases, durably.

pub mod job;
pub mod postgres;
pub mod table;
