//! What holds is said in src/postgres/fuzz/ledger_rows.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longhaul_fuzz::postgres::fuzz::ledger_rows(input));
