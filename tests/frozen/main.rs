//! What landed versions have written: their journals must open and say how their jobs stand, their histories must be read
//! for ever. Never changed, only added to.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

mod fixtures;
mod v1;
