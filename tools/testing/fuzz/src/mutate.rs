// SPDX-License-Identifier: GPL-2.0

//! Damage: the ways in which bytes are made hostile.

use ddup_sim::rng::Rng;

/// Numbers at which parsers go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    (1 << 40) - 1,
    1 << 40,
    (1 << 48) - 1,
    u64::MAX / 2,
    u64::MAX - 1,
    u64::MAX,
];

/// Damages some places of `bytes`.
pub fn damage(bytes: &mut [u8], rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..rng.skewed(5) {
        let at = place(bytes.len(), rng);
        let width = rng.pick(&[1, 2, 4, 5, 6, 8, 16]).min(bytes.len() - at);
        match rng.below(7) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.draw() as u8,
            2 => put(bytes, at, width, rng.pick(&EDGES)),
            3 => {
                let near = take(bytes, at, width)
                    .wrapping_add(rng.below(9))
                    .wrapping_sub(4);
                put(bytes, at, width, near);
            }
            4 => {
                // What stands elsewhere.
                let from = place(bytes.len(), rng);
                let value = take(bytes, from, width);
                put(bytes, at, width, value);
            }
            5 => bytes[at..at + width].fill(rng.pick(&[0, 0xff, 1])),
            _ => {
                let half = bytes.len() / 2;
                bytes.copy_within(half.min(at)..half.min(at) + width.min(half), at.min(half));
            }
        }
    }
}

/// Headers are hit as often as all the rest.
fn place(len: usize, rng: &mut Rng) -> usize {
    let bound = if rng.chance(1, 2) { len.min(160) } else { len };
    rng.below(bound as u64) as usize
}

fn take(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut word = [0; 8];
    let end = (at + width.min(8)).min(bytes.len());
    word[..end - at].copy_from_slice(&bytes[at..end]);
    u64::from_le_bytes(word)
}

fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    let end = (at + width.min(8)).min(bytes.len());
    let word = value.to_le_bytes();
    bytes[at..end].copy_from_slice(&word[..end - at]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_something_mostly_and_never_the_length() {
        let mut changed = 0;
        for seed in 0..500 {
            let before: Vec<u8> = (0..=255).cycle().take(1 + seed as usize * 9).collect();
            let mut after = before.clone();
            damage(&mut after, &mut Rng::new(seed));
            assert_eq!(before.len(), after.len());
            changed += usize::from(before != after);
        }
        assert!(changed > 400);
    }
}
