//! A speed limit as the operator writes it: `20MB/s`, `512KiB/s`, `none`; and back.
//!
//! Units are bytes: K, M, G, T are powers of 1000, and with an `i` powers of 1024. `Mb`, which would be bits, is refused.

use serde::{Deserialize, Serialize};

use super::JobError;

const RATE_BYTES_PER_SECOND_MIN: u64 = 1000;
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
];

/// A limit in bytes per second, or the wish for none.
///
/// A struct, so that "no limit" and "not said" stay apart in JSON when it stands in an `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RateLimit {
    /// The limit; `None` is as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

impl RateLimit {
    /// No limit.
    pub const NONE: Self = Self {
        bytes_per_second: None,
    };

    /// Says whether the limit is one that can be kept: none, or at least 1 KB/s.
    pub fn validate(self) -> Result<(), JobError> {
        match self.bytes_per_second {
            Some(rate) if rate < RATE_BYTES_PER_SECOND_MIN => Err(refused(&format!("{rate}B/s"))),
            _ => Ok(()),
        }
    }
}

fn refused(value: &str) -> JobError {
    let rule = "it must be at least 1KB/s, as in `20MB/s`, `512KiB/s` or `1.5GB/s`, or `none`";
    JobError::Value {
        flag: "--max-rate",
        value: value.to_owned(),
        rule,
    }
}

impl std::str::FromStr for RateLimit {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, JobError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::NONE);
        }
        let bytes = parse_bytes(text.strip_suffix("/s").unwrap_or(text)).ok_or_else(|| refused(text))?;
        let limit = Self {
            bytes_per_second: Some(bytes),
        };
        limit.validate().map_err(|_| refused(text))?;
        Ok(limit)
    }
}

/// Reads a size, `1GB` or `512MiB`; gives bytes, at least one.
pub fn parse_size(text: &str) -> Result<u64, JobError> {
    parse_bytes(text.trim())
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| JobError::Value {
            flag: "--snapshot-below",
            value: text.to_owned(),
            rule: "it must be a size, as in `1GB` or `512MiB`",
        })
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "B" => 1,
        "K" | "k" | "kB" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 6 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let scaled = u128::from(whole.parse::<u64>().ok()?)
        .checked_mul(scale)?
        .checked_add(part)?;
    u64::try_from(scaled.checked_mul(u128::from(factor))? / scale).ok()
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(bytes) = self.bytes_per_second else {
            return f.write_str("none");
        };
        // The unit that needs no fraction, else the decimal one that needs at most three digits of it: both read back exactly.
        if let Some((unit, factor)) = UNITS.iter().find(|(_, factor)| bytes > 0 && bytes % factor == 0) {
            return write!(f, "{}{unit}/s", bytes / factor);
        }
        let short = |factor: u64| bytes >= factor && (u128::from(bytes) * 1000).is_multiple_of(factor.into());
        match UNITS[4..].iter().find(|(_, factor)| short(*factor)) {
            Some((unit, factor)) => {
                let thousandths = u128::from(bytes % factor) * 1000 / u128::from(*factor);
                let fraction = format!("{thousandths:03}");
                write!(f, "{}.{}{unit}/s", bytes / factor, fraction.trim_end_matches('0'))
            }
            None => write!(f, "{bytes}B/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_decimal_and_binary_units() {
        for (text, bytes) in [
            ("20MB/s", 20_000_000),
            ("512KiB/s", 524_288),
            ("1GB/s", 1_000_000_000),
            ("1.5GB/s", 1_500_000_000),
            ("8M", 8_000_000),
            ("20 MB/s", 20_000_000),
            ("1000B/s", 1000),
            ("64kB", 64_000),
        ] {
            let limit: RateLimit = text.parse().expect(text);
            assert_eq!(limit.bytes_per_second, Some(bytes), "{text}");
        }
        assert_eq!("none".parse(), Ok(RateLimit::NONE));
    }

    #[test]
    fn what_is_no_rate_is_refused_with_the_flag_and_the_rule() {
        for text in [
            "",
            "0",
            "20",
            "20Mb/s",
            "MB/s",
            "-5MB/s",
            "1.MB/s",
            ".5MB/s",
            "999B/s",
            "0MB/s",
            "9e9GB/s",
            "99999999999TB/s",
        ] {
            let error = text.parse::<RateLimit>().expect_err(text).to_string();
            assert!(
                error.contains("--max-rate") && error.contains("at least 1KB/s"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_rate_shown_reads_back_as_itself() {
        for text in [
            "none", "20MB/s", "512KiB/s", "1GB/s", "1.5GB/s", "1001B/s", "1MiB/s", "2500KB/s",
        ] {
            let limit: RateLimit = text.parse().expect(text);
            assert_eq!(limit.to_string().parse(), Ok(limit), "{text}");
        }
        assert_eq!(
            "1.5GB/s".parse::<RateLimit>().expect("a rate").to_string(),
            "1500MB/s"
        );
        assert_eq!(
            "20MB/s".parse::<RateLimit>().expect("a rate").to_string(),
            "20MB/s"
        );
    }
}
