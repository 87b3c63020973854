//! Figures as people read them: `1,234,567`, `12.3 MB`, `2h 05m`.

/// A count with its thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 row`, `2,000 rows`, `2 batches`.
pub fn counted(number: u64, thing: &str) -> String {
    let ending = match number {
        1 => "",
        _ if thing.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {thing}{ending}", count(number))
}

/// A rate of things per second as a whole count; what is no number, or below zero, is 0.
pub fn count_rate(per_second: f64) -> String {
    count(per_second.round() as u64)
}

/// Bytes in the decimal unit that leaves three figures or so: `12.3 MB`; what is no number, or below zero, is 0.
pub fn bytes(bytes: f64) -> String {
    let mut value = if bytes.is_finite() { bytes.max(0.0) } else { 0.0 };
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            let decimals = usize::from(unit != "B" && value < 99.95);
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    unreachable!("the last unit takes every value")
}

/// A span of time in its two largest units: `42s`, `3m 05s`, `2h 05m`, `4d 03h`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{}d {:02}h", count(days), hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(count_rate(f64::NAN), "0");
        assert_eq!(count_rate(-1.0), "0");
        assert_eq!(count_rate(1999.6), "2,000");
    }

    #[test]
    fn one_thing_is_no_more_than_one() {
        for (number, thing, text) in [
            (0, "row", "0 rows"),
            (1, "row", "1 row"),
            (2000, "row", "2,000 rows"),
            (1, "batch", "1 batch"),
            (2, "batch", "2 batches"),
            (1, "batch in flight", "1 batch in flight"),
        ] {
            assert_eq!(counted(number, thing), text);
        }
    }

    #[test]
    fn bytes_take_the_unit_that_reads_well() {
        for (value, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (999.6, "1.0 kB"),
            (12_345_678.0, "12.3 MB"),
            (123_456_789.0, "123 MB"),
            (1.5e9, "1.5 GB"),
            (2.5e18, "2500000 TB"),
            (f64::NAN, "0 B"),
            (f64::INFINITY, "0 B"),
            (-5.0, "0 B"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (185, "3m 05s"),
            (7500, "2h 05m"),
            (356_400, "4d 03h"),
            (86_400_000, "1,000d 00h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
