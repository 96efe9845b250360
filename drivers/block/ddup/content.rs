// SPDX-License-Identifier: GPL-2.0

//! What the engine wants to know of a block's content: name, check, and whether it is all zero.
//!
//! Runs in the context that brings a request, and in a bio's completion; any context.

use crate::{
    blake2b::{self, Rotate},
    engine::{
        types::CHECK_MASK, BlockContent, Check, FingerprintAlgorithm, FingerprintParams, Name,
    },
};
use kstage::{cpu::Bmi2, hash, mm, page_pool::PageBuf};

/// Bytes of a block.
pub(crate) const BLOCK_SIZE: u32 = 4096;

/// Names and checks the blocks of a store.
pub(crate) struct Fingerprinter {
    params: FingerprintParams,
    bmi2: Option<Bmi2>,
}

impl Rotate for Bmi2 {
    #[inline(always)]
    fn right<const BITS: u32>(self, word: u64) -> u64 {
        self.rotate_right::<BITS>(word)
    }
}

impl Fingerprinter {
    /// For a store with these parameters.
    pub(crate) fn new(params: FingerprintParams) -> Fingerprinter {
        Fingerprinter {
            params,
            bmi2: Bmi2::get(),
        }
    }

    /// Names and checks a block. Any context.
    pub(crate) fn describe(&self, block: &PageBuf) -> BlockContent {
        if mm::is_zero(&block[..]) {
            return BlockContent {
                zero: true,
                ..BlockContent::default()
            };
        }
        let data: &[u8] = &block[..];
        let keyed = hash::xxh64(data, self.params.check_key);
        let check = check_of(keyed);
        let mut name = Name::NONE;

        match self.params.algorithm {
            FingerprintAlgorithm::Sha256 => copy_head(&mut name.0, &hash::sha256(data)),
            FingerprintAlgorithm::Blake2b => {
                let digest = match self.bmi2 {
                    Some(bmi2) => blake2b::digest(bmi2, data),
                    None => blake2b::digest(blake2b::Plain, data),
                };

                copy_head(&mut name.0, &digest);
            }
            FingerprintAlgorithm::Xxh64 => {
                let (head, tail) = name.0.split_at_mut(8);
                // One pass over the block is enough where the keys are the same.
                let named = match self.params.name_key == self.params.check_key {
                    true => keyed,
                    false => hash::xxh64(data, self.params.name_key),
                };

                head.copy_from_slice(&named.to_le_bytes());
                copy_head(tail.split_at_mut(6).0, &check.0.to_le_bytes());
            }
        }
        BlockContent {
            name,
            check,
            zero: false,
        }
    }
}

/// The check of content whose XXH64 under the check's key is `hash`.
pub(crate) fn check_of(hash: u64) -> Check {
    Check(hash & CHECK_MASK)
}

/// Fills `to` with the first bytes of `from`, which is not shorter.
fn copy_head(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
