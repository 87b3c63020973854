//! What holds is said in src/postgres/fuzz/names.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longhaul_fuzz::postgres::fuzz::names(input));
