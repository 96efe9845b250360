// SPDX-License-Identifier: GPL-2.0

//! Journal blocks and the records in them.
//!
//! A block is 1 to 16 clusters, written by one I/O; its checksum is seeded with that of the block
//! before it, so that a chain proves that nothing between its ends is missing. A block never
//! wraps: if fewer than 16 clusters are left behind a block, the next one starts at the ring's
//! beginning. Records are typed and length-prefixed.

use super::super::replication::types::{Position, NO_ID};
use super::super::types::{Check, Cluster, Lbn, Name, CHECK_MASK, LBN_LIMIT, NAME_BYTES};
use super::super::types::{CLUSTER_SIZE, JOURNAL_BLOCK_CLUSTERS_MAX};
use super::le;
use super::page::{Hash, MAP_LEAF, NAME_LEAF};

const MAGIC: u32 = 0x6a70_6464;
const VERSION: u64 = 1;
const HEADER_SEED: u64 = 0x6464_7570_6a68_6472;
/// Bytes of a block before its records.
pub const HEADER_BYTES: usize = 128;
/// Bytes of the largest block.
pub const BLOCK_BYTES_MAX: usize = JOURNAL_BLOCK_CLUSTERS_MAX as usize * CLUSTER_SIZE;
/// Type, flags and length of a record.
const RECORD_HEADER: usize = 4;
const MAP_RUN_FIXED: usize = 10;
const MAP_RUN_ENTRY: usize = 35;
/// The most entries that one record carries.
pub const MAP_RUN_MAX: usize = 64;
/// An upper bound of the record bytes that a write of `blocks` blocks takes: every block alone.
pub const fn map_bytes_max(blocks: usize) -> usize {
    blocks * (RECORD_HEADER + MAP_RUN_FIXED + MAP_RUN_ENTRY)
}
/// An upper bound of the bytes of any other record but a seal.
pub const SMALL_RECORD_MAX: usize = RECORD_HEADER + 16;
/// Bytes of a seal.
pub const SEAL_RECORD_MAX: usize = RECORD_HEADER + SEAL_BYTES;
const SEAL_BYTES: usize = 40;

/// What a block's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// The store.
    pub uuid: [u8; 16],
    /// Length of the block.
    pub clusters: u64,
    /// Consecutive over all incarnations.
    pub sequence: u64,
    /// Which attach wrote it.
    pub incarnation: u64,
    /// All data that entries up to this sequence refer to was durable before this block.
    pub durable_upto: u64,
    /// The superblock's generation when this was written.
    pub superblock_generation: u64,
    /// Attached seconds of the store.
    pub attached_seconds: u64,
    /// Bytes of records.
    pub record_bytes: usize,
}

/// Writes the header into a block whose records are in place; returns the new chained checksum.
pub fn seal(block: &mut [u8], header: &BlockHeader, chain: u64, hash: Hash) -> u64 {
    le::put(block, 0, &[0; HEADER_BYTES]);
    le::put_uint::<4>(block, 8, MAGIC.into());
    le::put_uint::<2>(block, 12, VERSION);
    le::put_uint::<2>(block, 14, header.clusters);
    le::put(block, 16, &header.uuid);
    le::put_uint::<8>(block, 32, header.sequence);
    le::put_uint::<8>(block, 40, header.incarnation);
    le::put_uint::<8>(block, 48, header.durable_upto);
    le::put_uint::<8>(block, 56, header.superblock_generation);
    le::put_uint::<8>(block, 64, header.attached_seconds);
    le::put_uint::<4>(block, 72, header.record_bytes as u64);
    // 76..120: room for a set's position (term, reign, epoch).
    let own = hash(block.get(8..120).unwrap_or(&[]), HEADER_SEED);
    le::put_uint::<8>(block, 120, own);
    let sum = hash(block.get(8..).unwrap_or(&[]), chain);
    le::put_uint::<8>(block, 0, sum);
    sum
}

/// Reads the header of a block from its first cluster, if it is one of this store.
pub fn header(block: &[u8], uuid: &[u8; 16], hash: Hash) -> Option<BlockHeader> {
    let own = hash(block.get(8..120)?, HEADER_SEED);
    let header = BlockHeader {
        uuid: le::bytes(block, 16),
        clusters: le::uint::<2>(block, 14),
        sequence: sequence_of(block),
        incarnation: le::uint::<8>(block, 40),
        durable_upto: le::uint::<8>(block, 48),
        superblock_generation: le::uint::<8>(block, 56),
        attached_seconds: le::uint::<8>(block, 64),
        record_bytes: le::uint::<4>(block, 72) as usize,
    };
    let sound = le::uint::<8>(block, 120) == own
        && le::uint::<4>(block, 8) == u64::from(MAGIC)
        && le::uint::<2>(block, 12) == VERSION
        && header.uuid == *uuid
        && (1..=JOURNAL_BLOCK_CLUSTERS_MAX).contains(&header.clusters)
        && HEADER_BYTES + header.record_bytes <= header.clusters as usize * CLUSTER_SIZE;
    sound.then_some(header)
}

/// The sequence in the header of a block that this side made.
pub fn sequence_of(block: &[u8]) -> u64 {
    le::uint::<8>(block, 32)
}

/// The chained checksum of a whole block if it follows `chain`.
pub fn follows(block: &[u8], chain: u64, hash: Hash) -> Option<u64> {
    let sum = hash(block.get(8..)?, chain);
    (le::uint::<8>(block, 0) == sum).then_some(sum)
}

/// What seeds the checksum of an incarnation's first block.
pub fn join_chain(chain: u64, incarnation: u64, hash: Hash) -> u64 {
    hash(&incarnation.to_le_bytes(), chain)
}

/// The block behind one of `clusters` clusters at `offset` of a ring of `ring` clusters.
pub fn next_offset(offset: u64, clusters: u64, ring: u64) -> u64 {
    let next = offset + clusters;
    if next + JOURNAL_BLOCK_CLUSTERS_MAX > ring {
        0
    } else {
        next
    }
}

/// One block of a [`Record::Map`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapChange {
    /// The cluster that the block now lies in.
    pub cluster: Cluster,
    /// The check of its content.
    pub check: Check,
    /// The name of its content.
    pub name: Name,
}

/// A change of the store. Numbers of the types are on disk and must be preserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// Consecutive blocks of one map leaf were written; their clusters have one name leaf.
    Map {
        /// Id of the volume.
        volume: u32,
        /// First block.
        lbn: Lbn,
        /// The clusters were handed out for this write (else they held the content already).
        fresh: bool,
        /// The blocks keep their content and get another place for it. Local.
        local: bool,
        /// The blocks.
        changes: MapChanges<'a>,
    },
    /// Blocks read as zeroes from here on; few enough to be changed one by one.
    Unmap {
        /// Id of the volume.
        volume: u32,
        /// First block.
        lbn: Lbn,
        /// Blocks.
        count: u64,
        /// The next record unmaps the rest of what is one change to a set's history.
        more: bool,
    },
    /// The same for a range of any size, which the reaper turns into released clusters.
    Discard {
        /// Id of the volume.
        volume: u32,
        /// First block.
        lbn: Lbn,
        /// Blocks.
        count: u64,
    },
    /// Junk clusters of one name leaf lose their names and will be used again. Local.
    Retire {
        /// First cluster.
        cluster: Cluster,
        /// Clusters.
        count: u64,
    },
    /// A cluster's content failed its check: it is never used again. Local.
    Quarantine {
        /// The cluster.
        cluster: Cluster,
    },
    /// The end of an epoch of a replica set. In a member's journal what is not local counts only if
    /// a seal follows within the same incarnation.
    Seal(Position),
}

/// The encoded blocks of a [`Record::Map`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapChanges<'a>(&'a [u8]);

impl MapChanges<'_> {
    /// The blocks in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = MapChange> + '_ {
        self.0.chunks_exact(MAP_RUN_ENTRY).map(|entry| MapChange {
            cluster: Cluster(le::uint::<5>(entry, 0)),
            check: Check(le::uint::<6>(entry, 5)),
            name: Name(le::bytes(entry, 11)),
        })
    }
}

const TYPE_MAP: u8 = 1;
const TYPE_UNMAP: u8 = 2;
const TYPE_DISCARD: u8 = 3;
const TYPE_RETIRE: u8 = 4;
const TYPE_QUARANTINE: u8 = 5;
const TYPE_SEAL: u8 = 6;
/// Not replicated.
const FLAG_LOCAL: u8 = 1;
const FLAG_FRESH: u8 = 2;
/// Goes on in the next record.
const FLAG_MORE: u8 = 4;

fn record_header(block: &mut [u8], at: usize, kind: u8, flags: u8, payload: usize) -> usize {
    le::put(block, at, &[kind, flags]);
    le::put_uint::<2>(block, at + 2, payload as u64);
    at + RECORD_HEADER
}

/// Appends a map record at `at`; returns the end. The caller made sure of the room
/// ([`map_bytes_max`]) and that the blocks share a map leaf and the clusters a name leaf.
pub fn write_map(
    block: &mut [u8],
    at: usize,
    volume: u32,
    lbn: Lbn,
    fresh: bool,
    local: bool,
    changes: &mut dyn Iterator<Item = MapChange>,
) -> usize {
    let mut end = at + RECORD_HEADER + MAP_RUN_FIXED;
    let mut count = 0u64;
    for change in changes {
        le::put_uint::<5>(block, end, change.cluster.0);
        le::put_uint::<6>(block, end + 5, change.check.0 & CHECK_MASK);
        le::put(block, end + 11, &change.name.0);
        end += MAP_RUN_ENTRY;
        count += 1;
    }
    let flags = u8::from(fresh) * FLAG_FRESH | u8::from(local) * FLAG_LOCAL;
    let payload = record_header(block, at, TYPE_MAP, flags, end - at - RECORD_HEADER);
    le::put_uint::<4>(block, payload, volume.into());
    le::put_uint::<5>(block, payload + 4, lbn.0);
    le::put_uint::<1>(block, payload + 9, count);
    end
}

/// Appends any record but a map record at `at`; returns the end.
pub fn write_small(block: &mut [u8], at: usize, record: &Record<'_>) -> usize {
    let (kind, flags, payload) = match *record {
        Record::Map { .. } => return at,
        Record::Unmap { more, .. } => (TYPE_UNMAP, u8::from(more) * FLAG_MORE, 15),
        Record::Discard { .. } => (TYPE_DISCARD, 0, 15),
        Record::Retire { .. } => (TYPE_RETIRE, FLAG_LOCAL, 7),
        Record::Quarantine { .. } => (TYPE_QUARANTINE, FLAG_LOCAL, 5),
        Record::Seal(_) => (TYPE_SEAL, 0, SEAL_BYTES),
    };
    let body = record_header(block, at, kind, flags, payload);
    match *record {
        Record::Unmap {
            volume, lbn, count, ..
        }
        | Record::Discard { volume, lbn, count } => {
            le::put_uint::<4>(block, body, volume.into());
            le::put_uint::<5>(block, body + 4, lbn.0);
            le::put_uint::<6>(block, body + 9, count);
        }
        Record::Retire { cluster, count } => {
            le::put_uint::<5>(block, body, cluster.0);
            le::put_uint::<2>(block, body + 5, count);
        }
        Record::Quarantine { cluster } => le::put_uint::<5>(block, body, cluster.0),
        Record::Seal(position) => {
            le::put_uint::<8>(block, body, position.term);
            le::put(block, body + 8, &position.reign);
            le::put_uint::<8>(block, body + 24, position.epoch);
            le::put_uint::<8>(block, body + 32, position.chain);
        }
        Record::Map { .. } => {}
    }
    body + payload
}

/// A record that no writer writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRecord {
    /// Its byte in the block.
    pub at: usize,
}

/// The record at `at` and the byte behind it, or `None` at the end of the records.
pub fn read_record(
    block: &[u8],
    at: usize,
    end: usize,
    store_clusters: u64,
) -> Result<Option<(Record<'_>, usize)>, BadRecord> {
    if at == end {
        return Ok(None);
    }
    let bad = BadRecord { at };
    let body = at + RECORD_HEADER;
    let length = le::uint::<2>(block, at + 2) as usize;
    if body > end || body + length > end {
        return Err(bad);
    }
    let payload = block.get(body..body + length).ok_or(bad)?;
    let [kind, flags] = le::bytes::<2>(block, at);
    let cluster_is_sound = |c: u64| c != 0 && c < store_clusters;
    let range = || -> Result<(u32, Lbn, u64), BadRecord> {
        let (lbn, count) = (le::uint::<5>(payload, 4), le::uint::<6>(payload, 9));
        if length != 15 || count == 0 || count > LBN_LIMIT || lbn + count > LBN_LIMIT {
            return Err(bad);
        }
        Ok((le::uint::<4>(payload, 0) as u32, Lbn(lbn), count))
    };
    let record = match kind {
        TYPE_MAP => {
            let count = le::uint::<1>(payload, 9) as usize;
            let lbn = le::uint::<5>(payload, 4);
            let changes = MapChanges(payload.get(MAP_RUN_FIXED..).ok_or(bad)?);
            let last = lbn + count.max(1) as u64 - 1;
            let same_leaf = lbn / MAP_LEAF == last / MAP_LEAF && last < LBN_LIMIT;
            if !(1..=MAP_RUN_MAX).contains(&count)
                || changes.0.len() != count * MAP_RUN_ENTRY
                || !same_leaf
                || !changes.iter().all(|c| cluster_is_sound(c.cluster.0))
            {
                return Err(bad);
            }
            let volume = le::uint::<4>(payload, 0) as u32;
            let (fresh, local) = (flags & FLAG_FRESH != 0, flags & FLAG_LOCAL != 0);
            Record::Map {
                volume,
                lbn: Lbn(lbn),
                fresh,
                local,
                changes,
            }
        }
        TYPE_UNMAP => {
            let (volume, lbn, count) = range()?;
            Record::Unmap {
                volume,
                lbn,
                count,
                more: flags & FLAG_MORE != 0,
            }
        }
        TYPE_DISCARD => {
            let (volume, lbn, count) = range()?;
            Record::Discard { volume, lbn, count }
        }
        TYPE_RETIRE => {
            let (cluster, count) = (le::uint::<5>(payload, 0), le::uint::<2>(payload, 5));
            let last = cluster + count.max(1) - 1;
            if length != 7
                || count == 0
                || !cluster_is_sound(cluster)
                || !cluster_is_sound(last)
                || cluster / NAME_LEAF != last / NAME_LEAF
            {
                return Err(bad);
            }
            Record::Retire {
                cluster: Cluster(cluster),
                count,
            }
        }
        TYPE_QUARANTINE => {
            let cluster = le::uint::<5>(payload, 0);
            if length != 5 || !cluster_is_sound(cluster) {
                return Err(bad);
            }
            Record::Quarantine {
                cluster: Cluster(cluster),
            }
        }
        TYPE_SEAL => {
            let position = Position {
                term: le::uint::<8>(payload, 0),
                reign: le::bytes(payload, 8),
                epoch: le::uint::<8>(payload, 24),
                chain: le::uint::<8>(payload, 32),
            };
            if length != SEAL_BYTES || position.reign == NO_ID || position.epoch == 0 {
                return Err(bad);
            }
            Record::Seal(position)
        }
        _ => return Err(bad),
    };
    Ok(Some((record, body + length)))
}

const _: () = {
    assert!(MAP_RUN_ENTRY == 11 + NAME_BYTES);
    assert!(RECORD_HEADER + MAP_RUN_FIXED + MAP_RUN_ENTRY <= 56);
};
