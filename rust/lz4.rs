// SPDX-License-Identifier: GPL-2.0

//! LZ4 of the kernel's library: raw blocks, without the frame of the `lz4` program. Any context but
//! for [`Compressor::new`].
//!
//! C header: `include/linux/lz4.h`.
//! Upstream replacement: none yet (a `kernel::lz4`).

use crate::bindings;
use kernel::prelude::*;

/// Compresses, with working memory of its own.
pub struct Compressor {
    /// Words, since C keeps pointers there.
    workspace: KVVec<u64>,
}

impl Compressor {
    /// Allocates the working memory, 16 KiB. May sleep.
    pub fn new() -> Result<Compressor> {
        let words = bindings::KSTAGE_LZ4_WORKSPACE.div_ceil(size_of::<u64>());

        Ok(Compressor {
            workspace: KVVec::from_elem(0, words, GFP_KERNEL)?,
        })
    }

    /// Compresses `from` to the beginning of `to`: how many bytes it takes there. `None` if it does
    /// not fit.
    pub fn compress(&mut self, from: &[u8], to: &mut [u8]) -> Option<usize> {
        let len = i32::try_from(from.len()).ok()?;
        let room = i32::try_from(to.len()).ok()?;

        // SAFETY: `from` and `to` are valid for their lengths and, being borrowed, do not overlap; the
        // workspace is as large as the library wants, and aligned for pointers.
        let bytes = unsafe {
            bindings::kstage_lz4_compress(
                from.as_ptr().cast(),
                len,
                to.as_mut_ptr().cast(),
                room,
                self.workspace.as_mut_ptr().cast(),
            )
        };
        usize::try_from(bytes).ok().filter(|&bytes| bytes > 0)
    }
}

/// Decompresses `from`, whatever it is, to the beginning of `to`: how many bytes it has. `None` if it
/// is not what a compressor makes, or does not fit.
pub fn decompress(from: &[u8], to: &mut [u8]) -> Option<usize> {
    let len = i32::try_from(from.len()).ok()?;
    let room = i32::try_from(to.len()).ok()?;

    // SAFETY: `from` and `to` are valid for their lengths and, being borrowed, do not overlap; the
    // library reads and writes nothing outside of them.
    let bytes = unsafe {
        bindings::kstage_lz4_decompress(from.as_ptr().cast(), len, to.as_mut_ptr().cast(), room)
    };
    usize::try_from(bytes).ok()
}
