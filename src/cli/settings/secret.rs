//! A text that may hold a password: it is shown to nobody who does not ask for it by name.

use crate::postgres::ConnectionString;

/// A connection text as the operator gave it, perhaps with a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself; for the one who connects with it, and for nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it holds a password, as far as it can be read.
    pub fn has_password(&self) -> bool {
        self.0
            .parse()
            .is_ok_and(|connection: ConnectionString| connection.has_password())
    }
}

impl std::str::FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
