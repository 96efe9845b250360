// SPDX-License-Identifier: GPL-2.0

//! Bytes as a line of text that is carried from one machine to another by hand: a word that says what
//! it is, and hexadecimal digits that end with a checksum.

use crate::store;

/// Longest line that is taken.
pub const LEN_MAX: usize = 16 << 10;
/// Seed of the checksum.
const SEED: u64 = 0x6464_7570_746f_6b65;

/// Bytes as a line without its end.
pub fn write(word: &str, bytes: &[u8]) -> String {
    let sum = store::hash(bytes, SEED).to_le_bytes();
    let mut text = format!("{word}:");
    for byte in bytes.iter().chain(&sum) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The bytes of such a line.
///
/// # Errors
///
/// In words, if it is no such line or not whole.
pub fn read(word: &str, text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let digits = text
        .strip_prefix(word)
        .and_then(|rest| rest.strip_prefix(':'))
        .ok_or_else(|| format!("it does not begin with `{word}:`"))?;
    let whole = || format!("the text behind `{word}:` is not whole: copy all of the line");
    if text.len() > LEN_MAX || digits.len() % 2 != 0 || !digits.is_ascii() {
        return Err(whole());
    }
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let mut bytes = (0..digits.len())
        .step_by(2)
        .map(byte)
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(whole)?;
    let sum = bytes.split_off(bytes.len().checked_sub(8).ok_or_else(whole)?);
    if store::hash(&bytes, SEED).to_le_bytes() != sum[..] {
        return Err(whole());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_not_if_a_digit_is_wrong() {
        for bytes in [&b""[..], b"x", b"some bytes"] {
            let text = write("ddup-test", bytes);
            assert_eq!(read("ddup-test", &text).unwrap(), bytes);
            assert_eq!(read("ddup-test", &format!(" {text}\n")).unwrap(), bytes);
            assert!(read("ddup-other", &text)
                .unwrap_err()
                .contains("ddup-other:"));
            for at in "ddup-test:".len()..text.len() {
                let mut wrong = text.clone().into_bytes();
                wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
                assert!(read("ddup-test", &String::from_utf8(wrong).unwrap()).is_err());
                assert!(read("ddup-test", &text[..at]).is_err());
            }
        }
        for text in [
            "",
            "ddup-test",
            "ddup-test:",
            "ddup-test:é",
            "ddup-test:+1+1+1+1+1+1+1+1",
        ] {
            assert!(read("ddup-test", text).is_err(), "{text}");
        }
    }
}
