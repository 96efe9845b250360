// SPDX-License-Identifier: GPL-2.0

//! Sizes as people write and read them: powers of 1024.

const UNITS: [(char, u32); 6] = [
    ('K', 10),
    ('M', 20),
    ('G', 30),
    ('T', 40),
    ('P', 50),
    ('E', 60),
];

/// Reads a size such as `4096`, `64M`, `1.5G` or `2TiB` into bytes.
///
/// # Errors
///
/// A sentence that says what is wrong with it.
pub fn parse(text: &str) -> Result<u64, String> {
    let refuse = || {
        format!(
            "`{text}` is no size: give bytes, or a number with K, M, G, T, P or E, such as 512M"
        )
    };
    let number_len = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let unit = unit.strip_suffix("iB").unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        _ => {
            let mut chars = unit.chars();
            let letter = chars.next().ok_or_else(refuse)?.to_ascii_uppercase();
            if chars.next().is_some() {
                return Err(refuse());
            }
            UNITS
                .iter()
                .find(|(name, _)| *name == letter)
                .ok_or_else(refuse)?
                .1
        }
    };
    let too_large = || format!("`{text}` is beyond 16 EiB");
    let (whole, fraction) = match number.split_once('.') {
        None => (number, ""),
        Some((whole, fraction)) if shift > 0 && !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(refuse()),
    };
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(refuse());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let part = if fraction.is_empty() {
        0
    } else {
        let digits: u128 = fraction.parse().map_err(|_| refuse())?;
        let scale = 10_u128.pow(fraction.len() as u32);
        u64::try_from((digits << shift) / scale).map_err(|_| too_large())?
    };
    whole.checked_add(part).ok_or_else(too_large)
}

/// Writes a size with a unit and about three digits: `1.50G`, `12.0M`, `512B`.
pub fn human(bytes: u64) -> String {
    let Some((unit, shift)) = UNITS.iter().rev().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes}B");
    };
    let value = bytes as f64 / (1_u64 << shift) as f64;
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("4KiB", 4096),
            ("1.5G", 3 << 29),
            ("15E", 15 << 60),
            ("0.25M", 1 << 18),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "-1", "K", "1.5", "1.K", ".5G", "1..5G", "1KK", "1kB", "4 K", "0x10", "1e9", "²G",
        ] {
            assert!(parse(text).unwrap_err().contains("is no size"), "{text}");
        }
        for text in ["16E", "18446744073709551616", "99999999999T"] {
            assert!(parse(text).unwrap_err().contains("beyond"), "{text}");
        }
        assert_eq!(parse("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn sizes_are_written() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (3 << 29, "1.50G"),
            (20 << 30, "20.0G"),
            (200 << 30, "200G"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
