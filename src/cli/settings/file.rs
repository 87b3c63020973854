//! A job file, taken apart into settings, texts and lines. What a text means is not decided here.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{Origin, Setting, SettingsError};

/// One line of a job file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) setting: Setting,
    pub(super) text: String,
    pub(super) line: usize,
}

/// The entries of a job file, in the order in which they stand, and what is wrong in it: a key that is no setting, a value
/// that is not text, a whole number, true or false.
pub(super) fn entries(path: &Path, text: &str) -> (Vec<Entry>, Vec<SettingsError>) {
    let syntax = |error: toml::de::Error| SettingsError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => return (Vec::new(), vec![syntax(error)]),
    };
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span().start);
        let Some(setting) = Setting::of_key(key.get_ref()) else {
            let key = key.get_ref().to_string();
            let nearest = Setting::nearest(&key);
            errors.push((
                line,
                SettingsError::UnknownKey {
                    key,
                    path: path.to_owned(),
                    line,
                    nearest,
                },
            ));
            continue;
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(yes) => yes.to_string(),
            _ => {
                let origin = Origin::File {
                    path: path.to_owned(),
                    line,
                };
                let rule = "it must be a text in quotes, a whole number, true or false".to_owned();
                errors.push((
                    line,
                    SettingsError::Value {
                        setting,
                        origin,
                        rule,
                    },
                ));
                continue;
            }
        };
        entries.push(Entry { setting, text, line });
    }
    entries.sort_by_key(|entry| entry.line);
    errors.sort_by_key(|(line, _)| *line);
    (entries, errors.into_iter().map(|(_, error)| error).collect())
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> SettingsError {
        entries(Path::new("job.toml"), text).1.remove(0)
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_key() {
        let error = error("# a job\nbatch_rowz = 3\n");
        assert_eq!(error.to_string(), "unknown key `batch_rowz` in job.toml, line 2");
        assert_eq!(error.hint().expect("a hint"), "did you mean `batch_rows`?");
    }

    #[test]
    fn the_spelling_of_a_flag_finds_its_key_and_nonsense_finds_none() {
        assert_eq!(
            error("max-rate = \"none\"").hint().expect("a hint"),
            "did you mean `max_rate`?"
        );
        let hint = error("zzz = 1").hint().expect("a hint");
        assert!(hint.contains("source, target, table"), "{hint}");
        assert!(
            error("[tuning]\nconcurrency = 3")
                .to_string()
                .contains("`tuning` in job.toml, line 1")
        );
    }

    #[test]
    fn broken_toml_is_named_by_its_line_and_not_shown() {
        let error = error("table = \"t\"\n\nsource = postgres://u:hunter2@h/d\n");
        let text = error.to_string();
        assert!(
            text.starts_with("job.toml, line 3, is not valid TOML: "),
            "{text}"
        );
        assert!(
            !text.contains("hunter2") && !format!("{error:?}").contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn a_value_of_another_type_is_refused_without_being_shown() {
        let text = error("table = \"t\"\nsource = [\"hunter2\"]\n").to_string();
        assert!(
            text.contains("`source` in job.toml, line 2") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn numbers_and_texts_are_both_taken() {
        let (entries, errors) = entries(
            Path::new("job.toml"),
            "concurrency = 8\nbatch_rows = \"2000\"\r\nname = 'n'",
        );
        assert!(errors.is_empty(), "{errors:?}");
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.setting, e.text.as_str(), e.line))
            .collect();
        assert_eq!(
            seen,
            [
                (Setting::Concurrency, "8", 1),
                (Setting::BatchRows, "2000", 2),
                (Setting::Name, "n", 3)
            ]
        );
    }
}
