//! What `longhaul --version` says: the version, what it was made of and for, and the formats that it reads and writes.
//!
//! The commit is the builder's to tell (LONGHAUL_COMMIT while it is built): a build knows no repository, and is not made
//! anew because of a commit that changes no source.

use std::sync::LazyLock;

use crate::connect::JOURNAL_FORMAT;
use crate::postgres::ledger;

/// The answer to `--version`; `-V` has its first line.
pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\ncommit: {}\ntarget: {}\njournal format: {JOURNAL_FORMAT}\nledger layout: {}",
            env!("CARGO_PKG_VERSION"),
            option_env!("LONGHAUL_COMMIT")
                .filter(|commit| !commit.is_empty())
                .unwrap_or("not recorded"),
            target(),
            ledger::FORMAT,
        )
    });
    &TEXT
}

/// What it was built for, as the compiler names it.
fn target() -> String {
    use std::env::consts::{ARCH, OS};
    let vendor_and_system = match OS {
        "macos" => "apple-darwin".to_owned(),
        other => format!("unknown-{other}"),
    };
    let library = if cfg!(target_env = "gnu") {
        "-gnu"
    } else if cfg!(target_env = "musl") {
        "-musl"
    } else {
        ""
    };
    format!("{ARCH}-{vendor_and_system}{library}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_first_and_the_formats_are_named() {
        let lines: Vec<_> = long().lines().collect();
        assert_eq!(lines[0], env!("CARGO_PKG_VERSION"));
        assert!(
            lines[1].starts_with("commit: ") && lines[2].starts_with("target: "),
            "{lines:?}"
        );
        assert_eq!(
            lines[3..],
            [
                format!("journal format: {JOURNAL_FORMAT}"),
                format!("ledger layout: {}", ledger::FORMAT)
            ]
        );
    }
}
