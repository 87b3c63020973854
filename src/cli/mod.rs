//! The terminal and nothing else: typed arguments, resolved settings, the printed word, the exit status.
//!
//! A command takes [`args`] and [`settings`], speaks through the [`printer`], and ends in an [`exit::ExitStatus`] or in a
//! [`report::Report`]. Nobody imports this room.

pub mod args;
pub mod command;
pub mod exit;
pub mod printer;
pub mod report;
pub mod settings;
pub mod spelling;
pub mod state_dir;
