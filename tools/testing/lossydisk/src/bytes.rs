// SPDX-License-Identifier: GPL-2.0
//! Numbers of bytes as people write them.

/// Reads `4096`, `64K`, `1M`, `2G` or `1T`, in powers of 1024.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        Some((at, 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?}: expected a number of bytes, as in 4096, 64K, 1M or 2G"))
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn units_and_nonsense() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("64K"), Ok(65536));
        assert_eq!(parse_bytes("2T"), Ok(2 << 40));
        for text in ["", "K", "1k", "-1", "99999999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
