//! The password file, `~/.pgpass`, as libpq reads it: `host:port:database:user:password`, a line each.
//!
//! `*` matches anything, a backslash takes the next character as it is, `#` begins a comment line. A file that the
//! group or others can read is not used, and the log says so; libpq does the same.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::file::read_text;

/// The password of the first line that matches; `None` if there is none, no file, or one that others can read.
pub(super) fn find_password(
    path: &Path,
    host: &str,
    port: u16,
    database: &str,
    user: &str,
) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "password file is not a plain file; it is not used");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "password file can be read by group or others; it is not used (chmod 0600)");
        return None;
    }
    let text = read_text(std::fs::File::open(path).ok()?).ok()?;
    search(&text, [host, &port.to_string(), database, user])
}

pub(super) fn search(text: &str, wanted: [&str; 4]) -> Option<String> {
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    lines.filter(|line| !line.starts_with('#')).find_map(|line| {
        let rest = wanted
            .iter()
            .try_fold(line, |rest, wanted| after_field(rest, wanted))?;
        Some(unescaped(rest))
    })
}

/// What comes after a field that matches. As libpq has it, a colon in what is wanted need not be escaped: `::1`.
fn after_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut rest = line.chars();
    for character in wanted.chars() {
        let found = match rest.next()? {
            '\\' => rest.next()?,
            other => other,
        };
        if found != character {
            return None;
        }
    }
    rest.as_str().strip_prefix(':')
}

/// The password ends at a colon, or with the line; a backslash at the end stands for itself.
fn unescaped(text: &str) -> String {
    let (mut password, mut rest) = (String::new(), text.chars());
    while let Some(c) = rest.next().filter(|c| *c != ':') {
        password.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_matches_gives_the_password() {
        let text = "# a comment\ndb:5432:app:joe:first\n*:5433:*:joe:any\\:thing\\\\\n*:*:*:*:last\nbroken\n";
        for (wanted, password) in [
            (["db", "5432", "app", "joe"], "first"),
            (["other", "5433", "x", "joe"], "any:thing\\"),
            (["other", "1", "x", "ann"], "last"),
        ] {
            assert_eq!(search(text, wanted).as_deref(), Some(password));
        }
        assert_eq!(search("a:1:b:c:d", ["a", "2", "b", "c"]), None);
        for (line, password) in [
            ("::1:5432:*:*:bare", "bare"),
            ("*:*:*:*:ends:here", "ends"),
            ("*:*:*:*:back\\", "back\\"),
        ] {
            assert_eq!(search(line, ["::1", "5432", "x", "y"]).as_deref(), Some(password));
        }
        assert_eq!(
            search("a\\:b:1:*:*:colon", ["a:b", "1", "x", "y"]).as_deref(),
            Some("colon")
        );
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:secret\n").unwrap();
        for (mode, found) in [(0o644, None), (0o640, None), (0o600, Some("secret".to_owned()))] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(find_password(&path, "h", 1, "d", "u"), found, "{mode:o}");
        }
        assert_eq!(
            find_password(&directory.path().join("none"), "h", 1, "d", "u"),
            None
        );
    }
}
