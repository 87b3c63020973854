//! What holds is said in src/postgres/fuzz/server_messages.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longhaul_fuzz::postgres::fuzz::server_messages(input));
