//! Random numbers that can be had again: the seed is printed, and LONGHAUL_TEST_SEED sets it.

use std::hash::{BuildHasher, RandomState};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// A new sequence; its seed stands in the output of a test that fails.
    pub fn seeded() -> Self {
        let seed = Self::seed();
        println!("LONGHAUL_TEST_SEED={seed}");
        Self(seed)
    }

    /// The seed that is given, else one that nobody knows yet.
    pub fn seed() -> u64 {
        let given = std::env::var("LONGHAUL_TEST_SEED").ok();
        given.map_or_else(|| RandomState::new().hash_one(()), |seed| seed.parse().unwrap())
    }

    /// The sequence of that seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `range`; the little that is not uniform does not matter here.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// A sequence of its own for a task.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.within(0..from.len() as u64) as usize]
    }
}
