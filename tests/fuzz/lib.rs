//! The rooms that the fuzz targets are about, compiled as they lie in `src`.

#![allow(dead_code, reason = "much of them is for other rooms")]

#[path = "../../src/failpoint.rs"]
mod failpoint;
#[path = "../../src/postgres/mod.rs"]
pub mod postgres;
#[path = "../../src/table/mod.rs"]
pub mod table;
