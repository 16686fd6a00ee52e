//! Sizes (`64m`) and durations (`1h30m`) as docker writes them.
//!
//! Invariants: units of sizes are powers of 1024 in either spelling; nothing overflows silently.

use std::time::Duration;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a size.
    #[error("`{0}` is not a size such as 64m, 2g or 1048576 (bytes; units b, k, m, g, t)")]
    Size(String),
    /// Not a duration.
    #[error("`{0}` is not a duration such as 90s, 30m, 1h30m or 7d")]
    Duration(String),
    /// Beyond what fits.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// Parses a size in bytes: a number with an optional fraction and a unit, `b`, `k`, `m`, `g`, `t` or `p`, also as
/// `kb` or `KiB` (docker's go-units, RAMInBytes).
pub fn size(text: &str) -> Result<u64, AmountError> {
    let bad = || AmountError::Size(clip(text));
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit.trim_start().to_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(bad());
    }
    let too_large = || AmountError::TooLarge(clip(text));
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    // Nine digits settle a fraction of a pebibyte to the kilobyte; more are noise.
    let digits = fraction.get(..fraction.len().min(9)).unwrap_or("");
    if !digits.is_empty() {
        let numerator: u128 = digits.parse().map_err(|_| bad())?;
        bytes = bytes.saturating_add((numerator << shift) / 10u128.pow(digits.len() as u32));
    }
    u64::try_from(bytes).map_err(|_| too_large())
}

/// Parses a duration: numbers with units `ms`, `s`, `m`, `h`, `d` or `w`, added up. A number alone is refused, as it
/// is in docker: nobody knows which unit was meant.
pub fn duration(text: &str) -> Result<Duration, AmountError> {
    let bad = || AmountError::Duration(clip(text));
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(bad()),
        };
        if number.is_empty() {
            return Err(bad());
        }
        let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        let part = milliseconds.map(Duration::from_millis);
        total =
            part.and_then(|part| total.checked_add(part)).ok_or_else(|| AmountError::TooLarge(clip(text)))?;
        rest = after;
    }
    Ok(total)
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("2g", 2 << 30),
            ("2GiB", 2 << 30),
            ("1.5k", 1536),
            ("10 kb", 10 << 10),
            ("8p", 8 << 50),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1.", ".5m", "1.2.3k", "0x10", "1e3", "\u{663}m", "64 m m"] {
            assert!(matches!(size(bad), Err(AmountError::Size(_))), "{bad}");
        }
        for large in ["99999999p", "18446744073709551616", &"9".repeat(200)] {
            assert!(matches!(size(large), Err(AmountError::TooLarge(_))), "{large}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("1s500ms"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "h", "-1h", "1h 5", "1y", "1hm", "\u{663}s"] {
            assert!(matches!(duration(bad), Err(AmountError::Duration(_))), "{bad}");
        }
        assert!(matches!(duration("99999999999999999999w"), Err(AmountError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn anything_is_answered(text in any::<String>()) {
            let _ = (size(&text), duration(&text));
        }

        #[test]
        fn plain_bytes_round_trip(bytes in any::<u64>()) {
            prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
        }
    }
}
