//! The rules of ARCHITECTURE.md that the compiler does not hold: who may import whom, and how a file is made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const LINES_MAX: usize = 650;

/// Who may import whom: a room, and what it may name of ours. A path with `::` allows that item alone.
const ROOMS: [(&str, &[&str]); 10] = [
    ("table", &[]),
    ("job", &["table"]),
    ("service", &["failpoint"]),
    ("postgres", &["table", "failpoint"]),
    ("activity", &["job", "table", "postgres"]),
    ("workflow", &["job", "table", "activity"]),
    ("connect", &["service"]),
    (
        "worker",
        &[
            "connect",
            "workflow",
            "activity",
            "job",
            "postgres::ConnectionString",
        ],
    ),
    ("observe", &["job"]),
    (
        "cli",
        &[
            "job",
            "table",
            "connect",
            "worker",
            "observe",
            "postgres",
            "workflow",
            "service::Mode",
            "service::NAMESPACE",
        ],
    ),
];

/// What a room must not name, of anybody's.
const FOREIGN: [(&str, &[&str]); 10] = [
    (
        "table",
        &[
            "tokio::",
            "tokio_postgres::",
            "temporalio_*",
            "std::fs::",
            "std::env::",
            "std::net::",
            "sled::",
        ],
    ),
    (
        "job",
        &[
            "tokio::",
            "tokio_postgres::",
            "temporalio_*",
            "std::fs::",
            "std::env::",
            "std::net::",
            "sled::",
        ],
    ),
    (
        "service",
        &[
            "tokio_postgres::",
            "temporalio_sdk::",
            "temporalio_client::",
            "temporalio_common::",
            "temporalio_workflow::",
            "indicatif::",
        ],
    ),
    ("postgres", &["temporalio_*", "sled::", "indicatif::", "clap::"]),
    (
        "activity",
        &[
            "temporalio_client::",
            "tokio_postgres::",
            "sled::",
            "indicatif::",
            "clap::",
        ],
    ),
    (
        "workflow",
        &[
            "tokio::",
            "tokio_postgres::",
            "temporalio_sdk::",
            "temporalio_client::",
            "SystemTime::now",
            "Instant",
            "rand::",
            "uuid::",
            "std::env::",
            "std::fs::",
            "std::net::",
            "std::thread::",
            "std::process::",
            "HashMap",
            "HashSet",
        ],
    ),
    (
        "connect",
        &[
            "temporalio_sdk::",
            "temporalio_workflow::",
            "tokio_postgres::",
            "sled::",
            "clap::",
        ],
    ),
    ("worker", &["tokio_postgres::", "sled::", "clap::"]),
    (
        "observe",
        &["temporalio_*", "tokio_postgres::", "sled::", "clap::"],
    ),
    ("cli", &["tokio_postgres::", "temporalio_sdk::", "sled::"]),
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The part that ships, without comments.
    fn code(&self) -> String {
        let shipped = self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = shipped.lines().map(|line| line.split("//").next().unwrap());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn name(&self) -> String {
        self.path.strip_prefix(src()).unwrap().display().to_string()
    }
}

fn src() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// All sources below a directory, in order.
fn sources(directory: &Path) -> Vec<Source> {
    let (mut folders, mut found) = (vec![directory.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "{}", directory.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The sources of a room: its directory.
fn room(name: &str) -> Vec<Source> {
    sources(&src().join(name))
}

/// Every path that begins with `crate::`, braces taken apart: `crate::a::{b, c::d}` gives `a::b` and `a::c::d`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        match path.strip_suffix("::").zip(after.strip_prefix('{')) {
            Some((prefix, group)) => expand(prefix, group, &mut found),
            None => found.push(path.trim_end_matches(':').to_owned()),
        }
    }
    found
}

/// Takes apart a group of which the opening brace has been read.
fn expand(prefix: &str, group: &str, found: &mut Vec<String>) {
    let (mut depth, mut item) = (0, String::new());
    for c in group.chars() {
        match c {
            ',' | '}' if depth == 0 => {
                let path = item.trim();
                if let Some((inner, rest)) = path.split_once("::{") {
                    expand(&format!("{prefix}::{inner}"), rest, found);
                } else if !path.is_empty() {
                    let path = path.split_whitespace().next().unwrap();
                    found.push(format!("{prefix}::{path}"));
                }
                item.clear();
                if c == '}' {
                    return;
                }
            }
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
}

/// Whether `name` stands in the code as a name of its own; `::` at its end makes a path of it, a `*` stands for any end.
fn names(code: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (stem, open) = name
        .strip_suffix('*')
        .map_or((name, name.ends_with("::")), |stem| (stem, true));
    code.match_indices(stem).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + stem.len()..].chars().next();
        !before.is_some_and(is_part) && (open || !after.is_some_and(is_part))
    })
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    let mut wrong = Vec::new();
    for (name, allowed) in ROOMS {
        for source in room(name) {
            for path in imports(&source.code()) {
                let is = |rule: &str| path == rule || path.starts_with(&format!("{rule}::"));
                if !is(name) && !allowed.iter().any(|rule| is(rule)) {
                    wrong.push(format!("{} imports crate::{path}", source.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_room_uses_what_belongs_to_another() {
    let mut wrong = Vec::new();
    for (name, forbidden) in FOREIGN {
        for source in room(name) {
            let code = source.code();
            let used = forbidden.iter().filter(|what| names(&code, what));
            wrong.extend(used.map(|what| format!("{} uses {what}", source.name())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sled_and_the_terminal_are_named_where_they_belong() {
    // `sled::SledJournal` is ours, out of the module of that name.
    let names_sled = |source: &Source| names(&source.code().replace("sled::SledJournal", ""), "sled::");
    let names_streams = |source: &Source| {
        ["stdout()", "stderr()"]
            .iter()
            .any(|call| source.code().contains(call))
    };
    let users = |is_named: &dyn Fn(&Source) -> bool| {
        let all = sources(src()).into_iter().filter(|source| is_named(source));
        all.map(|source| source.name()).collect::<Vec<_>>()
    };
    assert_eq!(users(&names_sled), ["service/journal/sled.rs"]);
    // The printer only asks whether there is a terminal.
    assert_eq!(users(&names_streams), ["cli/printer.rs", "observe/terminal.rs"]);
    let printers = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    for source in sources(src()) {
        let code = source.code();
        let used: Vec<_> = printers
            .into_iter()
            .filter(|printer| code.contains(printer))
            .collect();
        assert!(used.is_empty(), "{} uses {used:?}", source.name());
    }
}

#[test]
fn every_room_has_a_rule() {
    let entries = std::fs::read_dir(src()).unwrap().map(|entry| entry.unwrap());
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut rooms: Vec<_> = directories
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let mut ruled = ROOMS.map(|(name, _)| name.to_owned());
    rooms.sort();
    ruled.sort();
    assert_eq!(rooms, ruled);
    assert_eq!(ROOMS.map(|(name, _)| name), FOREIGN.map(|(name, _)| name));
}

#[test]
fn every_file_opens_with_what_it_owns_and_ends_before_it_is_too_long() {
    for source in sources(src()) {
        assert!(
            source.text.starts_with("//!"),
            "{} does not say what it owns",
            source.name()
        );
        let lines = source
            .text
            .split("\n#[cfg(test)]")
            .next()
            .unwrap()
            .lines()
            .count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines without its tests",
            source.name()
        );
    }
}

#[test]
fn nothing_that_ships_unwraps() {
    for source in sources(src()) {
        let only_tests = ["tests.rs", "conformance.rs"]
            .iter()
            .any(|end| source.name().ends_with(end))
            || source.name().contains("tests/");
        let unwraps = source.code().contains(".unwrap()");
        assert!(
            only_tests || !unwraps,
            "{} unwraps outside its tests",
            source.name()
        );
    }
}

#[test]
fn every_document_that_is_pointed_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/journal.md",
        "docs/service.md",
        "docs/operations.md",
        "docs/tables.md",
    ] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next());
        for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
            let file = root.join(page).parent().unwrap().join(link);
            assert!(file.exists(), "{page} points to {link}");
        }
    }
}

/// What tests/with-postgres sees to, or what is in every minimal Debian; `kill` is not.
const PROGRAMS: [&str; 4] = ["sh", "id", "openssl", "python3"];

#[test]
fn the_tests_run_no_program_that_a_bare_machine_lacks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let begins = concat!("Command::", "new(\"");
    for source in sources(&root.join("tests")) {
        for program in source.text.split(begins).skip(1) {
            let program = program.split('"').next().unwrap_or_default();
            assert!(
                PROGRAMS.contains(&program),
                "{} runs {program}",
                source.path.display()
            );
        }
    }
}

#[test]
fn the_scan_takes_paths_apart() {
    let code = "use crate::a::{b, c::{d, e as f}};\nuse crate::g;\nlet x = crate::h::i(7);\npub(in crate::j) fn k() {}";
    assert_eq!(imports(code), ["a::b", "a::c::d", "a::c::e", "g", "h::i", "j"]);
    assert!(
        names("use tokio::fs;", "tokio::")
            && !names("use a_tokio::x;", "tokio::")
            && !names("Instantly", "Instant")
    );
    assert!(names("use temporalio_sdk::x;", "temporalio_*"));
}
