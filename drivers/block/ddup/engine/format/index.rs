// SPDX-License-Identifier: GPL-2.0

//! The saved index: what a clean detach leaves behind, so that the next attach need not rebuild it.
//!
//! It is a chain of *chunks* of 16 clusters. A chunk proves what it is (store, checkpoint, number,
//! place) and that it is unchanged, says where the next one lies, and holds the entries of some
//! buckets that follow each other:
//!
//! ```text
//!  header | n (1 to 9), n entries of 7 bytes | 127 + n: n empty buckets | ...
//! ```

use super::super::types::{Cluster, CLUSTER_SIZE};
use super::le;
use super::page::Hash;

/// Clusters of a chunk; a segment holds whole chunks.
pub const CHUNK_CLUSTERS: u64 = 16;
/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = CHUNK_CLUSTERS as usize * CLUSTER_SIZE;
/// Bytes of its header.
pub const HEADER_BYTES: usize = 80;
/// Bytes of an entry: 16 bits of tag, 40 of cluster.
pub const ENTRY_BYTES: usize = 7;
/// The most entries of a bucket.
pub const WAYS: usize = 9;

const SEED: u64 = 0x6464_7570_696e_6478;
const MAGIC: u32 = u32::from_le_bytes(*b"ddpi");
const VERSION: u64 = 1;
/// From here on a count tells of empty buckets.
const RUN: u8 = 127;

/// Where the index was saved, and how much of it. All zeroes: it was not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SavedIndex {
    /// Place of the first chunk; [`Cluster::NONE`] if there is none.
    pub place: Cluster,
    /// Chunks.
    pub chunks: u64,
    /// Buckets of the index.
    pub buckets: u64,
    /// The names of clusters below this one were offered to the index.
    pub named: u64,
}

impl SavedIndex {
    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.place != Cluster::NONE
    }
}

/// What a chunk says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// Where it was written to.
    pub place: Cluster,
    /// The checkpoint that it belongs to.
    pub checkpoint: u64,
    /// Its number in the chain, from 0.
    pub number: u64,
    /// The next one; [`Cluster::NONE`] in the last.
    pub next: Cluster,
    /// Its first bucket.
    pub first: u64,
    /// Its buckets.
    pub buckets: u64,
}

/// Writes the header, and the checksum over the whole chunk.
pub fn seal(chunk: &mut [u8], hash: Hash, uuid: &[u8; 16], header: &ChunkHeader) {
    le::put_uint::<4>(chunk, 8, MAGIC.into());
    le::put_uint::<2>(chunk, 12, VERSION);
    le::put_uint::<2>(chunk, 14, CHUNK_CLUSTERS);
    le::put(chunk, 16, uuid);
    le::put_uint::<8>(chunk, 32, header.place.0);
    le::put_uint::<8>(chunk, 40, header.checkpoint);
    le::put_uint::<8>(chunk, 48, header.number);
    le::put_uint::<8>(chunk, 56, header.next.0);
    le::put_uint::<8>(chunk, 64, header.first);
    le::put_uint::<8>(chunk, 72, header.buckets);
    let sum = hash(chunk.get(8..).unwrap_or(&[]), SEED);
    le::put_uint::<8>(chunk, 0, sum);
}

/// The header of a chunk, if it is an intact one of this store.
pub fn header(chunk: &[u8], hash: Hash, uuid: &[u8; 16]) -> Option<ChunkHeader> {
    let known = chunk.len() == CHUNK_BYTES
        && le::uint::<4>(chunk, 8) == u64::from(MAGIC)
        && le::uint::<2>(chunk, 12) == VERSION
        && le::uint::<2>(chunk, 14) == CHUNK_CLUSTERS
        && le::bytes::<16>(chunk, 16) == *uuid
        && le::uint::<8>(chunk, 0) == hash(chunk.get(8..)?, SEED);
    known.then(|| ChunkHeader {
        place: Cluster(le::uint::<8>(chunk, 32)),
        checkpoint: le::uint::<8>(chunk, 40),
        number: le::uint::<8>(chunk, 48),
        next: Cluster(le::uint::<8>(chunk, 56)),
        first: le::uint::<8>(chunk, 64),
        buckets: le::uint::<8>(chunk, 72),
    })
}

/// Fills a zeroed chunk with buckets from `first` on, as far as they fit. `bucket` gives the entries
/// of one, encoded. Answers the bucket to go on with.
pub fn write_buckets<'a>(
    chunk: &mut [u8],
    first: u64,
    end: u64,
    bucket: impl Fn(u64) -> &'a [u8],
) -> u64 {
    let (mut at, mut run) = (HEADER_BYTES, None);
    for number in first..end {
        let entries = bucket(number);
        let count = (entries.len() / ENTRY_BYTES) as u8;
        match (count, run) {
            (0, Some(byte)) if chunk.get(byte).is_some_and(|&n| n < u8::MAX) => {
                if let Some(n) = chunk.get_mut(byte) {
                    *n += 1;
                }
                continue;
            }
            _ => {}
        }
        if at + 1 + entries.len() > chunk.len() {
            return number;
        }
        run = (count == 0).then_some(at);
        le::put(chunk, at, &[if count == 0 { RUN + 1 } else { count }]);
        le::put(chunk, at + 1, entries);
        at += 1 + entries.len();
    }
    end
}

/// Shows every entry of a chunk: bucket, tag, cluster. False if it holds what no writer writes.
pub fn read_entries(
    chunk: &[u8],
    header: &ChunkHeader,
    each: &mut dyn FnMut(u64, u16, Cluster),
) -> bool {
    let (mut at, mut left, mut bucket) = (HEADER_BYTES, header.buckets, header.first);
    while left > 0 {
        let (entries, buckets) = match chunk.get(at) {
            Some(&n) if (1..=WAYS as u8).contains(&n) => (usize::from(n), 1),
            Some(&n) if n > RUN => (0, u64::from(n - RUN)),
            _ => return false,
        };
        at += 1;
        if at + entries * ENTRY_BYTES > chunk.len() || buckets > left {
            return false;
        }
        for _ in 0..entries {
            let tag = le::uint::<2>(chunk, at) as u16;
            each(bucket, tag, Cluster(le::uint::<5>(chunk, at + 2)));
            at += ENTRY_BYTES;
        }
        bucket = bucket.saturating_add(buckets);
        left -= buckets;
    }
    true
}

const _: () = {
    assert!(super::super::types::SEGMENT_CLUSTERS % CHUNK_CLUSTERS == 0);
    assert!(WAYS < RUN as usize);
    // A chunk takes any bucket.
    assert!(HEADER_BYTES + 1 + WAYS * ENTRY_BYTES <= CHUNK_BYTES);
};
