//! How far a source's write-ahead log had come when it was looked at: what tells that it has gone back in time.

use super::Key;
use serde::{Deserialize, Serialize};

/// A place in a write-ahead log, as PostgreSQL spells it: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl std::str::FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "an LSN is two hexadecimal numbers with a slash between them".to_owned();
        let (high, low) = text.split_once('/').ok_or_else(refused)?;
        let part = |text: &str| u32::from_str_radix(text, 16).map_err(|_| refused());
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// How far a write-ahead log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wal {
    /// Which of the cluster's histories it is: each promotion begins one. `None` on a standby, which does not tell it.
    #[serde(default)]
    pub timeline: Option<u32>,
    /// What a primary has flushed, a standby has replayed.
    pub lsn: Lsn,
}

/// What was seen of a source: a key that it had, and a place in its log at which that key was there.
///
/// A source whose log goes on from before that place need not have the key any more, and may give it to another row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSeen {
    /// The highest key that was visible, or copied; `None` where the table was empty.
    #[serde(default)]
    pub key: Option<Key>,
    /// How far the log had come when that key was first seen; `None` where the server does not tell it.
    #[serde(default)]
    pub wal: Option<Wal>,
    /// The operator was told that the source's highest key lies below `key`.
    #[serde(default)]
    pub told_below: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_log_reads_back_as_postgresql_spells_it_and_is_ordered() {
        for text in ["0/0", "0/1949BF8", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().expect(text).to_string(), text);
        }
        let lsn = |text: &str| text.parse::<Lsn>().expect(text);
        assert!(lsn("0/FFFFFFFF") < lsn("1/0") && lsn("A/0") < lsn("10/0"));
        for text in ["", "0", "0/x", "/", "1/1/1", "100000000/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_seen_reads_back_from_a_ledger() {
        let seen = SourceSeen {
            key: Some(Key(vec!["7".to_owned()])),
            wal: Some(Wal {
                timeline: Some(2),
                lsn: Lsn(0x1_0000_00FF),
            }),
            told_below: true,
        };
        let json = serde_json::to_string(&seen).expect("plain data");
        assert!(json.contains("\"1/FF\""), "{json}");
        assert_eq!(
            serde_json::from_str::<SourceSeen>(&json).expect("what was written"),
            seen
        );
        let empty: SourceSeen = serde_json::from_str("{}").expect("every field has a default");
        assert_eq!((empty.key, empty.wal), (None, None));
    }
}
