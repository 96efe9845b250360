// SPDX-License-Identifier: GPL-2.0

//! Random numbers that cannot be guessed. Any context.
//!
//! C header: `include/linux/random.h`.
//! Upstream replacement: none yet (a `kernel::random`).

use crate::bindings;

/// 32 random bits.
pub fn u32() -> u32 {
    // SAFETY: No preconditions.
    unsafe { bindings::get_random_u32() }
}

/// 64 random bits.
pub fn u64() -> u64 {
    let mut bytes = [0; 8];

    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];

    fill(&mut bytes);
    bytes
}

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    // SAFETY: `bytes` is valid for its length.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}
