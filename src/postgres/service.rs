//! The connection service file, `pg_service.conf`, as libpq reads it: `[name]` sections of `key=value` lines.

use std::path::Path;

use super::file::read_text;

/// The settings of one service; `None` where the file has no such section.
///
/// # Errors
/// In words, where the file cannot be read or a line is none of comment, section or setting.
pub(super) fn read_service(path: &Path, service: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let text = match std::fs::File::open(path).and_then(read_text) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(format!(
                "cannot read the service file {}: {error}",
                path.display()
            ));
        }
    };
    section(&text, service).map_err(|line| format!("{} line {line} is no `key=value`", path.display()))
}

/// The section's settings, or the number of the line that makes no sense.
pub(super) fn section(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>, usize> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            if found.is_some() {
                break;
            }
            if name == service {
                found = Some(Vec::new());
            }
            continue;
        }
        if let Some(settings) = &mut found {
            let (key, value) = line.split_once('=').ok_or(number + 1)?;
            settings.push((key.trim_end().to_owned(), value.trim_start().to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_its_section_and_no_more() {
        let text = "# comment\n[a]\nhost=one\nport=1\n\n[b]\nhost=two\n[a]\nhost=three\n";
        let pairs = section(text, "a").unwrap().unwrap();
        assert_eq!(
            pairs,
            [("host".into(), "one".into()), ("port".into(), "1".into())]
        );
        assert_eq!(section(text, "c"), Ok(None));
        assert_eq!(section("[a]\nnonsense\n", "a"), Err(2));
    }
}
