//! The targets, run by `cargo test`: the seeds as they are, then what becomes of them at random, for seconds.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For so long each target runs, unless LONGHAUL_FUZZ_SECONDS says otherwise.
const SECONDS: u64 = 12;

/// No input grows longer.
const INPUT_BYTES: usize = 4096;

#[test]
fn whatever_is_given_as_a_connection_string() {
    run("connection_strings", super::connection_strings);
}

#[test]
fn whatever_a_server_sends() {
    run("server_messages", super::server_messages);
}

#[test]
fn whatever_stands_in_a_ledger() {
    run("ledger_rows", super::ledger_rows);
}

#[test]
fn whatever_a_table_is_called() {
    run("names", super::names);
}

fn run(name: &str, target: fn(&[u8])) {
    let seeds = seeds(name);
    for (path, seed) in &seeds {
        tried(name, target, seed, &format!("the seed {}", path.display()));
    }
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let seconds = variable("LONGHAUL_FUZZ_SECONDS").unwrap_or(SECONDS);
    let random = variable("LONGHAUL_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    let mut mutation = Mutation {
        random,
        seeds: seeds.into_iter().map(|(_, seed)| seed).collect(),
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        for _ in 0..100 {
            let input = mutation.input();
            tried(
                name,
                target,
                &input,
                &format!("an input (LONGHAUL_TEST_SEED={random})"),
            );
        }
    }
}

/// Runs a target once; an input at which it panics is kept in a file.
fn tried(name: &str, target: fn(&[u8]), input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        let file =
            std::env::temp_dir().join(format!("longhaul-{name}-{:x}", xxhash_rust::xxh3::xxh3_64(input)));
        let kept =
            std::fs::write(&file, input).map_or(String::new(), |()| format!(", kept as {}", file.display()));
        panic!(
            "{name} does not hold of {what}{kept}: {}\n{}",
            words.unwrap_or_default(),
            input.escape_ascii()
        );
    }
}

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(name);
    let files =
        std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{}", directory.display());
    seeds
}

/// Makes inputs of seeds.
struct Mutation {
    random: u64,
    seeds: Vec<Vec<u8>>,
}

impl Mutation {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// A place in bytes, and one not before it and not far behind.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let longest = (length - start).min(1 << self.below(8));
        start..start + self.below(longest + 1)
    }

    fn seed(&mut self) -> Vec<u8> {
        let number = self.below(self.seeds.len());
        self.seeds[number].clone()
    }

    fn input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        // What many rules turn on.
        const TURNS: &[u8] = b"\"'\\:/@?&=%.,;[]{}()*#!- \t\r\n\0\x01\x1b\x7f\x80\xc3\xe2\xff09azAZ";
        let range = self.range(input.len());
        let kind = self.below(7);
        match kind {
            0 => input.drain(range).for_each(drop),
            1 => {
                let copied = input[range].to_vec();
                let at = self.below(input.len() + 1);
                input.splice(at..at, copied);
            }
            2 => {
                let other = self.seed();
                let part = self.range(other.len());
                input.splice(range, other[part].iter().copied());
            }
            3 => {
                let turn = TURNS[self.below(TURNS.len())];
                input.insert(range.start, turn);
            }
            4 => {
                let byte = self.next().to_be_bytes()[0];
                input.insert(range.start, byte);
            }
            5 => {
                let turn = TURNS[self.below(TURNS.len())];
                if let Some(byte) = input.get_mut(range.start) {
                    *byte = turn;
                }
            }
            _ => {
                let bit = 1 << self.below(8);
                if let Some(byte) = input.get_mut(range.start) {
                    *byte ^= bit;
                }
            }
        }
    }
}
