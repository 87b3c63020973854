//! longhaul moves PostgreSQL tables between databases, durably.

pub mod connect;
pub mod job;
pub mod service;
pub mod table;
