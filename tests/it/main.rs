//! The real binary on real servers: killed, interrupted, spoken to, misused; and compared by PostgreSQL afterwards.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod binary;
mod check;
mod cluster;
mod control;
mod earlier;
mod ends;
mod failover;
mod failpoints;
mod interrupts;
mod kept;
mod kept_rows;
mod keys;
mod kills;
mod lost;
mod moved;
mod paused;
mod property;
#[path = "../support/proxy.rs"]
mod proxy;
mod prune;
#[path = "../support/python.rs"]
mod python;
mod random;
mod refusals;
mod rights;
mod server;
mod server_faults;
#[path = "../support/servers.rs"]
mod servers;
mod shapes;
mod shared;
mod stage;
mod sync;
#[path = "../support/terminator.rs"]
mod terminator;
mod tls;
mod verified;
mod wire;
mod words;
mod writers;
