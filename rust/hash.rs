// SPDX-License-Identifier: GPL-2.0

//! Checksums and hashes of the kernel's library. Any context.
//!
//! C headers: `include/linux/xxhash.h`, `include/linux/crc32.h`, `include/crypto/sha2.h`,
//! `include/crypto/hash.h`.
//! Upstream replacement: none yet (a `kernel::crypto` has been proposed).

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    str::CStr,
};

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

/// A hash of 256 bits that the crypto API knows by name; it loads the module that has it.
///
/// # Invariants
///
/// `raw` is a valid synchronous hash with a digest of 32 bytes.
pub struct Hash256 {
    raw: NonNull<bindings::crypto_shash>,
}

// SAFETY: Without a key, a hash has no state beside that of a call.
unsafe impl Send for Hash256 {}
// SAFETY: As above.
unsafe impl Sync for Hash256 {}

impl Hash256 {
    /// Looks up a hash such as `blake2b-256`. `ENOENT` if the kernel has none of that name, `EINVAL`
    /// if its digest has another size. May sleep.
    pub fn new(name: &CStr) -> Result<Hash256> {
        // SAFETY: The name is NUL-terminated.
        let raw = from_err_ptr(unsafe { bindings::kstage_shash_alloc(name.as_char_ptr()) })?;

        // SAFETY: An allocation succeeded.
        unsafe {
            if bindings::kstage_shash_size(raw) != 32 {
                bindings::kstage_shash_free(raw);
                return Err(EINVAL);
            }
        }
        // INVARIANT: Just checked.
        Ok(Hash256 {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
        })
    }

    /// The digest of `data`, of at most 4 GiB. Any context.
    pub fn digest(&self, data: &[u8]) -> Result<[u8; 32]> {
        let mut digest = [0; 32];

        // SAFETY: By the type invariant; `data` is valid for its length.
        to_result(unsafe {
            bindings::kstage_shash_digest(
                self.raw.as_ptr(),
                data.as_ptr().cast(),
                u32::try_from(data.len())?,
                digest.as_mut_ptr(),
            )
        })?;
        Ok(digest)
    }
}

impl Drop for Hash256 {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_shash_free(self.raw.as_ptr()) };
    }
}
