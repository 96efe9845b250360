// SPDX-License-Identifier: GPL-2.0

//! The only source of chance in the simulator: a whole history follows from one seed.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose sequence follows from `seed`; near seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `n` of `of` cases.
    pub fn chance(&mut self, n: u64, of: u64) -> bool {
        self.below(of) < n
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number whose magnitude is as likely small as large: `1..=2^bits`.
    pub fn skewed(&mut self, bits: u32) -> u64 {
        let b = self.below(u64::from(bits) + 1) as u32;
        1 + self.below(1 << b)
    }

    /// The index of a weight, drawn in proportion; `None` if all are zero.
    pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut draw = self.below(total);
        for (i, w) in weights.iter().enumerate() {
            if draw < u64::from(*w) {
                return Some(i);
            }
            draw -= u64::from(*w);
        }
        None
    }
}

/// Spreads each bit of `x` over all 64.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes numbers for the simulator's own tables: fixed, so that no run differs from another.
#[derive(Clone, Copy, Default)]
pub struct FixedHash(u64);

impl std::hash::Hasher for FixedHash {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = mix(self.0 ^ n.wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
}

/// A hash map whose order follows from its history alone.
pub type FixedMap<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<FixedHash>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_range_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 5];
        for _ in 0..500 {
            seen[rng.between(10, 14) as usize - 10] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(0), 0);
        assert!((0..1000).all(|_| (1..=64).contains(&rng.skewed(6))));
    }

    #[test]
    fn weights_of_zero_are_never_drawn() {
        let mut rng = Rng::new(2);
        assert!((0..500).all(|_| rng.weighted(&[0, 3, 0, 1]).is_some_and(|i| i % 2 == 1)));
        assert_eq!(rng.weighted(&[0, 0]), None);
    }

    #[test]
    fn near_seeds_differ() {
        assert_ne!(Rng::new(1).draw(), Rng::new(2).draw());
        assert_eq!(Rng::new(9).draw(), Rng::new(9).draw());
    }
}
