//! The settings that say which rows and columns of a table are copied, and as what.

use super::super::args::ShapeArgs;
use super::{Setting, Settings};

impl Settings {
    /// Reads one of them; whether the setting is one.
    pub(super) fn read_shape(&mut self, setting: Setting, text: &str) -> Result<bool, String> {
        let shape = &mut self.shape;
        match setting {
            Setting::Columns => shape.columns = Some(text.parse().map_err(shown)?),
            Setting::Where => shape.filter = Some(text.parse().map_err(shown)?),
            Setting::Rename => shape.renames = text.parse().map_err(shown)?,
            Setting::Select => shape.selections = text.parse().map_err(shown)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn take_shape_flags(&mut self, flags: &ShapeArgs) {
        self.flag(Setting::Columns, &flags.columns, |s, v| s.shape.columns = Some(v));
        self.flag(Setting::Where, &flags.filter, |s, v| s.shape.filter = Some(v));
        self.flag(Setting::Rename, &flags.rename, |s, v| s.shape.renames = v);
        self.flag(Setting::Select, &flags.select, |s, v| s.shape.selections = v);
    }

    /// What is shown of one of them.
    pub fn shown_of_shape(&self, setting: Setting) -> Option<String> {
        let shape = &self.shape;
        match setting {
            Setting::Columns => shape.columns.as_ref().map(ToString::to_string),
            Setting::Where => shape.filter.as_ref().map(ToString::to_string),
            Setting::Rename => (!shape.renames.is_empty()).then(|| shape.renames.to_string()),
            Setting::Select => (!shape.selections.is_empty()).then(|| shape.selections.to_string()),
            _ => None,
        }
    }
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}
