// SPDX-License-Identifier: GPL-2.0

//! Sequential little-endian fields: a reader that refuses to pass the end, and what a writer needs.

use super::types::{Id, Position};
use kernel::prelude::*;

/// Reads fields one behind the other; `None` once there are not enough bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = (self.0.get(..count)?, self.0.get(count..)?);
        self.0 = rest;
        Some(head)
    }

    /// An unsigned number of `N` (at most 8) bytes.
    pub fn uint<const N: usize>(&mut self) -> Option<u64> {
        let mut wide = [0; 8];
        wide.get_mut(..N)?.copy_from_slice(self.bytes(N)?);
        Some(u64::from_le_bytes(wide))
    }

    /// `N` bytes as they are.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Some(out)
    }

    /// A position, 40 bytes.
    pub fn position(&mut self) -> Option<Position> {
        Some(Position {
            term: self.uint::<8>()?,
            reign: self.array()?,
            epoch: self.uint::<8>()?,
            chain: self.uint::<8>()?,
        })
    }

    /// `N` bytes that a writer leaves zero.
    pub fn zeroes<const N: usize>(&mut self) -> Option<()> {
        self.bytes(N)?.iter().all(|b| *b == 0).then_some(())
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Succeeds if all bytes were read.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends bytes.
pub fn put(out: &mut KVec<u8>, bytes: &[u8]) -> Result {
    Ok(out.extend_from_slice(bytes, GFP_KERNEL)?)
}

/// Appends the low `N` (at most 8) bytes of `value`.
pub fn put_uint<const N: usize>(out: &mut KVec<u8>, value: u64) -> Result {
    put(out, value.to_le_bytes().get(..N).unwrap_or(&[]))
}

/// Appends a position, 40 bytes.
pub fn put_position(out: &mut KVec<u8>, position: &Position) -> Result {
    put_uint::<8>(out, position.term)?;
    put(out, &position.reign)?;
    put_uint::<8>(out, position.epoch)?;
    put_uint::<8>(out, position.chain)
}

/// Appends an id.
pub fn put_id(out: &mut KVec<u8>, id: &Id) -> Result {
    put(out, id)
}

/// A copy of a vector.
pub fn copy<T: Copy>(from: &[T]) -> Result<KVec<T>> {
    let mut to = KVec::with_capacity(from.len(), GFP_KERNEL)?;
    to.extend_from_slice(from, GFP_KERNEL)?;
    Ok(to)
}
