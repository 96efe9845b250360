// SPDX-License-Identifier: GPL-2.0

//! The engine's structures against naive twins, and its codecs against damage.

// An integration test is a crate of its own: nobody reads its documentation.
#![allow(missing_docs)]

mod properties {
    mod codec;
    mod index;
    mod journal;
    mod layout;
    mod overlay;
    mod sorted;
    mod space;

    /// SplitMix64: each test follows from its seed.
    pub struct Random(pub u64);

    impl Random {
        pub fn draw(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(self.0)
        }

        pub fn below(&mut self, bound: u64) -> u64 {
            ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
        }

        pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
            std::array::from_fn(|_| self.draw() as u8)
        }
    }

    pub fn mix(mut x: u64) -> u64 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A hash for tests: any that notices each bit will do.
    pub fn hash(bytes: &[u8], seed: u64) -> u64 {
        bytes
            .chunks(8)
            .fold(mix(seed ^ bytes.len() as u64), |h, chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                mix(h ^ u64::from_le_bytes(word)).wrapping_add(h.rotate_left(9))
            })
    }
}
