//! Commands that are suggested in words, wherever the words come from: a hint of PostgreSQL's room, a status, a failure in
//! a journal. None of these knows which flags led here; without them the same command typed again would look elsewhere.

use std::borrow::Cow;
use std::path::Path;

/// What may be suggested about a job that exists.
const COMMANDS: [&str; 10] = [
    "status", "list", "history", "pause", "resume", "cancel", "tune", "verify", "worker", "prune",
];
const PROGRAM: &str = "longhaul ";

/// The flags that lead to where this command has been, each after a space: to a cluster, else to a state directory that was
/// given.
pub fn leading(to_cluster: String, state_dir: Option<&Path>) -> String {
    match state_dir {
        Some(path) if to_cluster.is_empty() => {
            format!(" --state-dir {}", quoted(&path.display().to_string()))
        }
        _ => to_cluster,
    }
}

/// The text with these flags in every command that it suggests.
pub fn completed<'a>(text: &'a str, flags: &str) -> Cow<'a, str> {
    if flags.is_empty() {
        return text.into();
    }
    let mut completed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(PROGRAM) {
        let (before, after) = rest.split_at(start + PROGRAM.len());
        completed.push_str(before);
        let word = &after[..after
            .find(|c: char| !c.is_ascii_lowercase())
            .unwrap_or(after.len())];
        completed.push_str(word);
        if COMMANDS.contains(&word) {
            completed.push_str(flags);
        }
        rest = &after[word.len()..];
    }
    (completed + rest).into()
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.into(),
        false => format!("'{}'", text.replace('\'', r"'\''")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_suggested_leads_where_this_one_was() {
        let flags = leading(String::new(), Some(Path::new("/srv/a b")));
        assert_eq!(flags, " --state-dir '/srv/a b'");
        let text =
            "go on with: longhaul resume a   (`longhaul list` shows all; longhaul verify a --against source)";
        assert_eq!(
            completed(text, " --state-dir /s"),
            "go on with: longhaul resume --state-dir /s a   (`longhaul list --state-dir /s` shows all; \
             longhaul verify --state-dir /s a --against source)"
        );
        for other in [
            "use the version of longhaul that wrote it",
            "longhaul statuses",
            "longhaul ",
            "as longhaul",
        ] {
            assert_eq!(completed(other, " --state-dir /s"), other);
        }
    }

    #[test]
    fn a_cluster_has_no_state_directory_and_the_usual_place_needs_no_word() {
        let to_cluster = " --temporal h:7233".to_owned();
        assert_eq!(leading(to_cluster.clone(), Some(Path::new("/s"))), to_cluster);
        assert_eq!(
            completed("longhaul list", &leading(String::new(), None)),
            "longhaul list"
        );
    }
}
