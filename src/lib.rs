//! longhaul moves PostgreSQL tables between databases, durably.

pub mod cli;
pub mod job;
pub mod observe;
pub mod service;
pub mod table;
