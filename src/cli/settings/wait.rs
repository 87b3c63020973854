//! How long a command waits for its servers before its job starts.

use std::time::Duration;

use crate::job::parse_interval;

/// How long a command waits for servers that it does not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// It does not.
    #[default]
    No,
    /// So long.
    UpTo(Duration),
    /// Until they are there.
    Forever,
}

impl Wait {
    /// What is left of it after it has lasted so long; `None` where that is nothing.
    pub fn left(self, waited: Duration) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::UpTo(limit) => limit.checked_sub(waited).filter(|left| !left.is_zero()),
            Self::Forever => Some(Duration::MAX),
        }
    }
}

impl std::str::FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no" => Ok(Self::No),
            "forever" => Ok(Self::Forever),
            _ => match parse_interval(text) {
                Ok(ms) => Ok(Self::UpTo(Duration::from_millis(ms))),
                Err(_) => Err("it must be no, forever, or 1s to a year, as in `30s` or `10m`".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_time_forever_or_none() {
        let second = Duration::from_secs(1);
        let left = |text: &str, waited| text.parse::<Wait>().expect(text).left(waited);
        assert_eq!(left("no", Duration::ZERO), None);
        assert_eq!(left("10s", 4 * second), Some(6 * second));
        assert_eq!((left("10s", 10 * second), left("10s", 99 * second)), (None, None));
        assert!(left("forever", 1_000_000 * second).is_some());
        for text in ["", "yes", "0s", "10"] {
            assert!(text.parse::<Wait>().expect_err(text).contains("forever"));
        }
    }
}
