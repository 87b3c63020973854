//! What a collation is, whatever it is called: what decides the order of a key.

use serde::{Deserialize, Serialize};

/// A collation by what decides its order. Of a database's default one it is what the database says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollationDefinition {
    /// Who compares, as PostgreSQL abbreviates it: `c` the C library, `i` ICU, `b` PostgreSQL itself.
    pub provider: String,
    /// By the rules of which place.
    pub locale: Option<String>,
    /// Whether only equal bytes are equal.
    pub deterministic: bool,
    /// Rules of ICU beside the locale's; empty mostly.
    pub rules: String,
    /// The version that indexes were made with; `None` where the server keeps none.
    pub version: Option<String>,
    /// The version that the server has now; `None` where it does not tell.
    pub actual_version: Option<String>,
}

impl CollationDefinition {
    /// Whether values that were in order by the other one are in order by this one. A version that is not known differs from none.
    pub(super) fn orders_as(&self, other: &Self) -> bool {
        let same = |one: &Option<String>, other: &Option<String>| {
            one.as_ref()
                .zip(other.as_ref())
                .is_none_or(|(one, other)| one == other)
        };
        self.provider == other.provider
            && self.locale == other.locale
            && self.deterministic == other.deterministic
            && self.rules == other.rules
            && same(&self.version, &other.version)
            && same(&self.actual_version, &other.actual_version)
    }
}

impl std::fmt::Display for CollationDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let provider = match self.provider.as_str() {
            "c" => "libc",
            "i" => "icu",
            "b" => "builtin",
            other => other,
        };
        write!(f, "{provider} {}", self.locale.as_deref().unwrap_or("?"))?;
        if !self.deterministic {
            f.write_str(", nondeterministic")?;
        }
        if !self.rules.is_empty() {
            write!(f, ", rules {}", self.rules)?;
        }
        if let Some(version) = &self.version {
            write!(f, ", version {version}")?;
        }
        match &self.actual_version {
            Some(actual) if self.version.as_ref() != Some(actual) => write!(f, ", on the server {actual}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_known_is_no_other_one() {
        let of = |version: Option<&str>, actual: Option<&str>| CollationDefinition {
            provider: "i".to_owned(),
            locale: Some("en".to_owned()),
            deterministic: true,
            rules: String::new(),
            version: version.map(str::to_owned),
            actual_version: actual.map(str::to_owned),
        };
        let before = of(Some("1"), Some("1"));
        assert!(before.orders_as(&before) && of(None, None).orders_as(&before));
        assert!(!of(Some("1"), Some("2")).orders_as(&before));
        assert!(!of(Some("2"), Some("1")).orders_as(&before));
        assert_eq!(
            of(Some("1"), Some("2")).to_string(),
            "icu en, version 1, on the server 2"
        );
        let other = CollationDefinition {
            locale: Some("de".to_owned()),
            ..of(None, None)
        };
        assert!(!other.orders_as(&before));
        assert_eq!(other.to_string(), "icu de");
    }
}
