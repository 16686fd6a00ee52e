//! Sizes for people, in docker's decimal units (`77.8MB`).
//!
//! Invariants: at most three significant digits, never an exponent.

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// `1234` as `1.23kB`.
pub fn human(size_bytes: u64) -> String {
    let mut unit = 0;
    let mut scale: u128 = 1;
    let size = u128::from(size_bytes);
    // `999_500` would round to `1000kB`; it belongs to the next unit.
    while unit + 1 < UNITS.len() && rounds_to_four_digits(size, scale) {
        unit += 1;
        scale *= 1000;
    }
    let suffix = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 {
        return format!("{size}{suffix}");
    }
    let decimals = match size / scale {
        0..=9 => 2,
        10..=99 => 1,
        _ => 0,
    };
    // Rounding may add a digit (`9.996` to `10.0`), which costs one decimal.
    let rounded = round(size, scale, decimals);
    let (rounded, decimals) = match (rounded, decimals) {
        (1000.., 1 | 2) => (round(size, scale, decimals - 1), decimals - 1),
        other => other,
    };
    let power = 10u128.pow(decimals);
    let (whole, fraction) = (rounded / power, rounded % power);
    let text = match decimals {
        0 => format!("{whole}"),
        places => format!("{whole}.{fraction:0places$}", places = places as usize),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

fn rounds_to_four_digits(size: u128, scale: u128) -> bool {
    (size + scale / 2) / scale >= 1000
}

fn round(size: u128, scale: u128, decimals: u32) -> u128 {
    (size * 10u128.pow(decimals) + scale / 2) / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_docker() {
        for (size, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (9_996, "10kB"),
            (12_345, "12.3kB"),
            (99_960, "100kB"),
            (123_456, "123kB"),
            (999_499, "999kB"),
            (999_500, "1MB"),
            (77_812_345, "77.8MB"),
            (1_240_000_000, "1.24GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(human(size), expected, "{size}");
        }
    }
}
