//! What holds is said in src/postgres/fuzz/connection_strings.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longhaul_fuzz::postgres::fuzz::connection_strings(input));
