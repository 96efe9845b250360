// SPDX-License-Identifier: GPL-2.0

//! Checksums and hashes of the kernel's library. Any context.
//!
//! C headers: `include/linux/xxhash.h`, `include/linux/crc32.h`, `include/crypto/sha2.h`.
//! Upstream replacement: none yet (a `kernel::crypto` has been proposed).

use crate::bindings;

/// XXH64 with a seed: fast, not cryptographic.
#[inline]
pub fn xxh64(data: &[u8], seed: u64) -> u64 {
    // SAFETY: `data` is valid for its length.
    unsafe { bindings::kstage_xxh64(data.as_ptr().cast(), data.len(), seed) }
}

/// CRC-32C, continued from `crc`. No inversion at either end.
pub fn crc32c(crc: u32, data: &[u8]) -> u32 {
    // SAFETY: `data` is valid for its length.
    unsafe { bindings::kstage_crc32c(crc, data.as_ptr().cast(), data.len()) }
}

/// SHA-256.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];

    // SAFETY: `data` is valid for its length and `digest` has the 32 bytes of the result.
    unsafe {
        bindings::kstage_sha256(data.as_ptr().cast(), data.len(), digest.as_mut_ptr());
    }
    digest
}
