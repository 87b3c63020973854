//! Decisions only. A workflow is replayed from its history, so nothing here may depend on anything but its input, its
//! events and its context: no clock, no randomness, no I/O, no environment.
//!
//! `copy_table` is the workflow, `pass` its loop over a stretch of keys; what those two decide by is pure and tested
//! without an SDK: `scheduler` (what may begin), `witnesses` (what the target must still have), `state`, `pace`.

mod copy_table;
mod copying;
mod pace;
mod pass;
mod progress;
mod scheduler;
mod state;
mod verifying;
mod witnesses;

pub use copy_table::CopyTable;
pub use pace::{Moved, Pace, batch_rows};
pub use progress::{Phase, Progress};
pub use state::{JobInput, Round, TableState};
pub use verifying::VerifyState;
pub use witnesses::Witnesses;

#[cfg(test)]
mod tests {
    //! Random numbers for the tests of this room, which can be had again: the seed is printed, LONGHAUL_TEST_SEED sets it.

    use std::hash::{BuildHasher, RandomState};

    /// SplitMix64.
    pub(in crate::workflow) struct Random(u64);

    impl Random {
        /// A new sequence; its seed stands in the output of a test that fails.
        pub(in crate::workflow) fn seeded() -> Self {
            let given = std::env::var("LONGHAUL_TEST_SEED").ok();
            let seed = given.map_or_else(
                || RandomState::new().hash_one(()),
                |seed| seed.parse().expect("a number"),
            );
            println!("LONGHAUL_TEST_SEED={seed}");
            Self(seed)
        }

        pub(in crate::workflow) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        /// A number of `range`; the little that is not uniform does not matter here.
        pub(in crate::workflow) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
            range.start + self.next() % (range.end - range.start)
        }

        /// A sequence of its own.
        pub(in crate::workflow) fn fork(&mut self) -> Self {
            Self(self.next())
        }

        pub(in crate::workflow) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
            &from[self.within(0..from.len() as u64) as usize]
        }
    }
}
