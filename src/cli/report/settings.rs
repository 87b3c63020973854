//! `longhaul config show`: what holds for each setting, and where it comes from.

use serde::Serialize;

use super::aligned;

/// One setting as it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingRow {
    /// Its key in a job file.
    pub setting: String,
    /// Its value, without a password; `None` where it has none.
    pub value: Option<String>,
    /// `flag`, `variable`, `file`, `default`, or `unset`.
    pub origin: &'static str,
    /// Where exactly, in words; `None` where it is unset.
    pub place: Option<String>,
}

/// All settings, a line each, below a line of headings.
pub fn settings(rows: &[SettingRow]) -> String {
    let headings = ["SETTING", "VALUE", "FROM"].map(str::to_owned).to_vec();
    let cells = rows.iter().map(|row| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let from = match row.origin {
            "default" => "default".to_owned(),
            _ => or_dash(&row.place),
        };
        vec![row.setting.clone(), or_dash(&row.value), from]
    });
    aligned(&std::iter::once(headings).chain(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_stand_in_columns() {
        let row = |setting: &str, value: Option<&str>, origin, place: Option<&str>| SettingRow {
            setting: setting.to_owned(),
            value: value.map(str::to_owned),
            origin,
            place: place.map(str::to_owned),
        };
        let rows = [
            row(
                "table",
                Some("audio"),
                "file",
                Some("`table` in job.toml, line 3"),
            ),
            row(
                "concurrency",
                Some("4"),
                "default",
                Some("`concurrency` in config/default.toml"),
            ),
            row("target", None, "unset", None),
        ];
        assert_eq!(
            settings(&rows),
            "SETTING      VALUE  FROM\n\
             table        audio  `table` in job.toml, line 3\n\
             concurrency  4      default\n\
             target       -      -"
        );
    }
}
