// SPDX-License-Identifier: GPL-2.0

//! Little-endian fields at byte offsets of a block.
//!
//! Offsets are constants of the format, or are computed from an index that was checked against the
//! capacity of the block. A read past the end answers zero and a write past the end is ignored, so
//! no byte from outside can panic the kernel; the size assertions of each format file make sure
//! that neither happens.

/// Reads `N` bytes at `at`.
pub fn bytes<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(source) = block.get(at..at.saturating_add(N)) {
        out.copy_from_slice(source);
    }
    out
}

/// Writes `value` at `at`.
pub fn put(block: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = block.get_mut(at..at.saturating_add(value.len())) {
        target.copy_from_slice(value);
    }
}

/// Reads an unsigned number of `N` (at most 8) bytes.
pub fn uint<const N: usize>(block: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    for (target, source) in wide.iter_mut().zip(bytes::<N>(block, at)) {
        *target = source;
    }
    u64::from_le_bytes(wide)
}

/// Writes the low `N` (at most 8) bytes of `value`.
pub fn put_uint<const N: usize>(block: &mut [u8], at: usize, value: u64) {
    if let Some(low) = value.to_le_bytes().get(..N) {
        put(block, at, low);
    }
}
