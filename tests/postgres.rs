//! The PostgreSQL room against real servers: two of them, started by the tests, a database for each test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "postgres/catalog.rs"]
mod catalog;
#[path = "postgres/copy.rs"]
mod copy;
#[path = "postgres/cursor.rs"]
mod cursor;
#[path = "postgres/encodings.rs"]
mod encodings;
#[path = "postgres/errors.rs"]
mod errors;
#[path = "postgres/failover.rs"]
mod failover;
#[path = "postgres/faults.rs"]
mod faults;
#[path = "postgres/fence.rs"]
mod fence;
#[path = "postgres/growth.rs"]
mod growth;
#[path = "support/hostile.rs"]
mod hostile;
#[path = "postgres/keys.rs"]
mod keys;
#[path = "postgres/layout.rs"]
mod layout;
#[path = "postgres/ledger.rs"]
mod ledger;
#[path = "postgres/locking.rs"]
mod locking;
#[path = "postgres/modes.rs"]
mod modes;
#[path = "support/muting.rs"]
mod muting;
#[path = "postgres/places.rs"]
mod places;
#[path = "postgres/planted.rs"]
mod planted;
#[path = "postgres/pooled.rs"]
mod pooled;
#[path = "support/pooler.rs"]
mod pooler;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "postgres/quoting.rs"]
mod quoting;
#[path = "it/random.rs"]
#[expect(dead_code, reason = "other tests use all of it")]
mod random;
#[path = "postgres/repairs.rs"]
mod repairs;
#[path = "postgres/replaced.rs"]
mod replaced;
#[path = "postgres/rewind.rs"]
mod rewind;
#[path = "postgres/rights.rs"]
mod rights;
#[path = "postgres/servers.rs"]
mod servers;
#[path = "postgres/session.rs"]
mod session;
#[path = "postgres/shapes.rs"]
mod shapes;
#[path = "support/servers.rs"]
mod shared;
#[path = "support/standby.rs"]
mod standby;
#[path = "postgres/survey.rs"]
mod survey;
#[path = "postgres/take_over.rs"]
mod take_over;
#[path = "postgres/tls.rs"]
mod tls;
#[path = "postgres/untrusted.rs"]
mod untrusted;
#[path = "postgres/verify.rs"]
mod verify;
#[path = "postgres/writers.rs"]
mod writers;
