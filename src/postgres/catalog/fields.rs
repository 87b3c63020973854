//! A row of a catalog as text, taken field by field: what the catalog always fills is never missing.

use crate::postgres::connect::TextRow;

/// The fields of a row that are left.
pub(super) struct Fields(std::vec::IntoIter<Option<String>>);

impl Fields {
    pub(super) fn of(row: TextRow) -> Self {
        Self(row.into_iter())
    }

    pub(super) fn text(&mut self) -> String {
        self.optional().unwrap_or_default()
    }

    pub(super) fn optional(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    pub(super) fn flag(&mut self) -> bool {
        self.text() == "t"
    }

    pub(super) fn letter(&mut self) -> char {
        self.text().chars().next().unwrap_or(' ')
    }

    pub(super) fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.text().parse().unwrap_or_default()
    }

    /// What `json_agg` makes of no row is null: nothing.
    pub(super) fn json<T: serde::de::DeserializeOwned + Default>(&mut self) -> T {
        self.optional()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }
}
