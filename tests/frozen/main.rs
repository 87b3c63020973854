//! What landed versions have written: their journals must open and say how their jobs stand, their histories must be read
//! for ever. Never changed, only added to.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

#[expect(dead_code, reason = "its other half is for the tests of the binary")]
#[path = "../it/binary.rs"]
mod binary;
mod copy_table;
mod fixtures;
mod freeze;
#[path = "../support/servers.rs"]
mod servers;
#[expect(dead_code, reason = "its other half is for the tests of the binary")]
#[path = "../it/stage.rs"]
mod stage;
mod v1;
