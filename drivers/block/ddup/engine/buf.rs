// SPDX-License-Identifier: GPL-2.0

//! Metadata buffers: what goes to and comes from the device beside the data of requests.

use super::types::CLUSTER_SIZE;
use kernel::prelude::*;

/// A metadata buffer: a multiple of 4096 bytes, at most 64 KiB.
pub type Buf = KVec<u8>;

static ZEROES: [u8; CLUSTER_SIZE] = [0; CLUSTER_SIZE];

/// A buffer of so many zeroes.
pub(super) fn zeroed(bytes: usize) -> Result<Buf> {
    let mut buf = KVec::with_capacity(bytes, GFP_KERNEL)?;
    extend_zeroed(&mut buf, bytes)?;
    Ok(buf)
}

/// Appends zeroes until the buffer has `bytes` bytes: cluster by cluster, where the kernel's
/// `extend_with` goes byte by byte.
pub(super) fn extend_zeroed(buf: &mut Buf, bytes: usize) -> Result {
    while buf.len() < bytes {
        let zeroes = ZEROES.get(..bytes - buf.len()).unwrap_or(&ZEROES);
        buf.extend_from_slice(zeroes, GFP_KERNEL)?;
    }
    Ok(())
}
