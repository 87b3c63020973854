//! Fuzz targets: what holds of any bytes that come from outside. Not in what ships.
//!
//! A target takes bytes and panics where what it holds does not hold. They stand here, and not with the tests, because what
//! they hold is about this room's own parts. They are run in two ways: by `cargo test`, for seconds, from the seeds in
//! `tests/fuzz/seeds` and what becomes of them at random; and by cargo-fuzz, guided by coverage, for as long as one likes
//! (`tests/fuzz/run`). What either of them has found stands among the seeds from then on.

mod connection_strings;
mod input;
mod ledger_rows;
mod libpq;
mod names;
mod server_messages;
#[cfg(test)]
mod tests;

pub use connection_strings::connection_strings;
pub use ledger_rows::ledger_rows;
pub use names::names;
pub use server_messages::server_messages;

use crate::table::is_obeyed;

/// Stands for a password, or for a row's value: nothing of ours holds it by itself.
const PLANTED: &str = "PLANTED-7391";

/// So long may a text be that is shown, with the mark that it was cut.
const SHOWN_BYTES: usize = 1024 + '…'.len_utf8();

/// A text that reaches a terminal: on one line, nothing in it that is obeyed, not too long.
#[track_caller]
fn assert_fit_to_show(text: &str) {
    assert!(!text.contains(is_obeyed), "a terminal obeys {text:?}");
    assert!(text.len() <= SHOWN_BYTES, "{} bytes: {text:?}", text.len());
}
