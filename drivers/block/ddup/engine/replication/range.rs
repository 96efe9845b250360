// SPDX-License-Identifier: GPL-2.0

//! Ranges of blocks and their sums: what lets a full compare skip what both stores hold.
//!
//! A sum is XXH64 over what names the content of each mapped block of a range, and where it is. It is
//! seeded by the session's nonce, which nobody knows who wrote the blocks before, so that no content
//! can be made for which two sums agree by intent.

use super::super::types::{CHECK_MASK, LBN_LIMIT, NAME_BYTES};
use super::super::Hash;
use super::codec::{put_id, put_uint, Reader};
use super::types::{Entry, Id, RANGE_BLOCKS_MAX};
use kernel::prelude::*;

/// Bytes of a range in a frame.
pub const RANGE_BYTES: usize = 37;
/// Bytes that a block adds to a sum.
const RECORD_BYTES: usize = 16 + NAME_BYTES;

/// Blocks of a volume, and what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// The volume.
    pub volume: Id,
    /// The first block.
    pub first: u64,
    /// The block behind the last one.
    pub end: u64,
    /// How many of them are mapped, at most [`RANGE_BLOCKS_MAX`].
    pub blocks: u32,
    /// Sum of those.
    pub sum: u64,
}

impl Range {
    /// The range in which just these blocks are mapped, in their order.
    pub fn of(
        volume: Id,
        (first, end): (u64, u64),
        entries: &[Entry],
        seed: u64,
        hash: Hash,
    ) -> Self {
        Range {
            volume,
            first,
            end,
            blocks: entries.len() as u32,
            sum: sum_of(entries, seed, hash),
        }
    }

    /// Whether these are its mapped blocks.
    pub fn is_of(&self, entries: &[Entry], seed: u64, hash: Hash) -> bool {
        entries.len() == self.blocks as usize && sum_of(entries, seed, hash) == self.sum
    }

    /// Appends it to a frame.
    pub fn write(&self, out: &mut KVec<u8>) -> Result {
        put_id(out, &self.volume)?;
        put_uint::<5>(out, self.first)?;
        put_uint::<6>(out, self.end - self.first)?;
        put_uint::<2>(out, self.blocks.into())?;
        put_uint::<8>(out, self.sum)
    }

    /// Reads one of a frame.
    pub fn read(body: &mut Reader<'_>) -> Option<Self> {
        let volume = body.array()?;
        let (first, count) = (body.uint::<5>()?, body.uint::<6>()?);
        let (blocks, sum) = (body.uint::<2>()? as u32, body.uint::<8>()?);
        let sound = first < LBN_LIMIT
            && (1..=LBN_LIMIT - first).contains(&count)
            && blocks <= RANGE_BLOCKS_MAX
            && u64::from(blocks) <= count;
        sound.then_some(Range {
            volume,
            first,
            end: first + count,
            blocks,
            sum,
        })
    }
}

fn sum_of(entries: &[Entry], seed: u64, hash: Hash) -> u64 {
    entries.iter().fold(seed, |sum, entry| {
        let mut record = [0; RECORD_BYTES];
        let (head, digest) = record.split_at_mut(16);
        let (lbn, check) = head.split_at_mut(8);
        lbn.copy_from_slice(&entry.lbn.to_le_bytes());
        check.copy_from_slice(&(entry.check & CHECK_MASK).to_le_bytes());
        digest.copy_from_slice(&entry.digest);
        hash(&record, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::super::types::Op;
    use super::super::wire::tests::sum;
    use super::*;

    #[test]
    fn a_sum_tells_content_and_place_and_seed() {
        let entry = |lbn: u64, content: u8| Entry {
            op: Op::Write,
            lbn,
            count: 1,
            check: content.into(),
            digest: [content; NAME_BYTES],
            ..Entry::default()
        };
        let entries = [entry(3, 1), entry(7, 2)];
        let range = Range::of([1; 16], (0, 9), &entries, 5, sum);
        assert!(range.is_of(&entries, 5, sum));
        assert!(!range.is_of(&entries, 6, sum));
        assert!(!range.is_of(&entries[..1], 5, sum));
        assert!(!range.is_of(&[entry(3, 1), entry(7, 3)], 5, sum));
        assert!(!range.is_of(&[entry(3, 1), entry(8, 2)], 5, sum));
        assert!(!range.is_of(&[entry(7, 2), entry(3, 1)], 5, sum));
        // That the data goes along, or what the volume is called, is not part of it.
        let fresh = Entry {
            fresh: true,
            volume: [3; 16],
            ..entries[0]
        };
        assert!(range.is_of(&[fresh, entries[1]], 5, sum));
    }
}
