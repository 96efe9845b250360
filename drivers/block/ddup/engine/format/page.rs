// SPDX-License-Identifier: GPL-2.0

//! Pages of the trees and of the segment table: a 64-byte header that says what the page is and
//! where it belongs, then entries of one kind.
//!
//! A page is believed only if its checksum, store, place, tree, level and index are the expected
//! ones, so a misdirected or stale write is found like a rotten bit.

use super::super::types::{Check, Cluster, Generation, CHECK_MASK, CLUSTER_SIZE, NAME_BYTES};
use super::super::types::{Lbn, Name, CLUSTER_LIMIT, LBN_LIMIT};
use super::le;

/// XXH64 of `bytes` under `seed`; the shell lends the implementation of its side.
pub type Hash = fn(bytes: &[u8], seed: u64) -> u64;

/// Bytes of the header that every page begins with.
pub const HEADER_BYTES: usize = 64;
const BODY_BYTES: usize = CLUSTER_SIZE - HEADER_BYTES;
const MAGIC: u32 = 0x7075_6464;
const VERSION: u16 = 1;
/// Seed of a page's checksum.
const PAGE_SEED: u64 = 0x6464_7570_7061_6765;

/// Bytes of a pointer in an interior page.
pub const POINTER_BYTES: usize = 32;
/// Pointers in an interior page.
pub const FANOUT: u64 = (BODY_BYTES / POINTER_BYTES) as u64;
/// Bytes of a map entry, and entries in a map leaf.
pub const MAP_ENTRY_BYTES: usize = 16;
/// Entries of a map leaf.
pub const MAP_LEAF: u64 = (BODY_BYTES / MAP_ENTRY_BYTES) as u64;
/// Entries of a name leaf.
pub const NAME_LEAF: u64 = (BODY_BYTES / NAME_BYTES) as u64;
/// Bytes of a count entry.
pub const COUNT_BYTES: usize = 8;
/// Entries of a count leaf.
pub const COUNT_LEAF: u64 = (BODY_BYTES / COUNT_BYTES) as u64;
/// Bytes of a volume's entry in the volume table.
pub const VOLUME_BYTES: usize = 256;
/// Entries of a volume leaf.
pub const VOLUME_LEAF: u64 = (BODY_BYTES / VOLUME_BYTES) as u64;
/// Bytes of a pending discard.
pub const PUNCH_BYTES: usize = 16;
/// Entries of a leaf of pending discards.
pub const PUNCH_LEAF: u64 = (BODY_BYTES / PUNCH_BYTES) as u64;
/// Bytes of a segment's entry in the segment table.
pub const SEGMENT_BYTES: usize = 16;
/// Entries in a page of the segment table.
pub const SEGMENT_PAGE: u64 = (BODY_BYTES / SEGMENT_BYTES) as u64;
/// Bytes of the bitmap of a metadata segment.
pub const BITMAP_BYTES: usize = 512;
/// Bitmaps in a page of the segment table.
pub const BITMAP_PAGE: u64 = (BODY_BYTES / BITMAP_BYTES) as u64;
/// Bits in a page that says which place of each segment-table page counts.
pub const SELECT_PAGE: u64 = (BODY_BYTES * 8) as u64;

/// The trees that are not the map of a volume. A volume's map has the volume's id.
pub mod tree {
    /// Cluster to name.
    pub const NAMES: u32 = 0xffff_fff0;
    /// Cluster to state and count.
    pub const COUNTS: u32 = 0xffff_fff1;
    /// The volume table.
    pub const VOLUMES: u32 = 0xffff_fff2;
    /// Pending discards.
    pub const PUNCHES: u32 = 0xffff_fff3;
    /// The pages that say which place of each page of the segment table counts.
    pub const SELECT: u32 = 0xffff_fff4;
    /// The segment table (not a tree: its pages have fixed places).
    pub const SEGMENTS: u32 = 0xffff_fff5;
    /// The lowest of these: ids of volumes are below.
    pub const FIRST: u32 = NAMES;
}

/// What a page is and where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageId {
    /// A volume's id, or one of [`tree`].
    pub tree: u32,
    /// 0 for a leaf.
    pub level: u8,
    /// Position among the pages of this level.
    pub index: u64,
}

/// Why a page was not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError {
    /// Its checksum, or the checksum that its parent holds, does not match.
    Checksum,
    /// It is intact, but belongs elsewhere or is of another store, kind or version.
    Misplaced,
    /// An entry holds a value that no writer writes.
    Entry,
}

/// Writes the header and the checksum, and returns the checksum.
pub fn seal(
    page: &mut [u8],
    hash: Hash,
    uuid: &[u8; 16],
    id: PageId,
    place: Cluster,
    birth: Generation,
    checkpoint: u64,
) -> u64 {
    le::put_uint::<4>(page, 8, MAGIC.into());
    le::put_uint::<1>(page, 12, id.level.into());
    le::put_uint::<1>(page, 13, 0);
    le::put_uint::<2>(page, 14, VERSION.into());
    le::put(page, 16, uuid);
    le::put_uint::<8>(page, 32, place.0);
    le::put_uint::<8>(page, 40, checkpoint);
    le::put_uint::<4>(page, 48, id.tree.into());
    le::put_uint::<4>(page, 52, birth.0.into());
    le::put_uint::<8>(page, 56, id.index);
    let sum = hash(page.get(8..).unwrap_or(&[]), PAGE_SEED);
    le::put_uint::<8>(page, 0, sum);
    sum
}

/// Checks a page that was read from `place` against what it should be. `sum` is the checksum that
/// the parent holds, if there is a parent.
pub fn verify(
    page: &[u8],
    hash: Hash,
    uuid: &[u8; 16],
    id: PageId,
    place: Cluster,
    sum: Option<u64>,
) -> Result<(), PageError> {
    let stored = le::uint::<8>(page, 0);
    if page.len() != CLUSTER_SIZE
        || stored != hash(page.get(8..).unwrap_or(&[]), PAGE_SEED)
        || sum.is_some_and(|sum| sum != stored)
    {
        return Err(PageError::Checksum);
    }
    let fits = le::uint::<4>(page, 8) == u64::from(MAGIC)
        && le::uint::<1>(page, 12) == u64::from(id.level)
        && le::uint::<2>(page, 14) == u64::from(VERSION)
        && le::bytes::<16>(page, 16) == *uuid
        && le::uint::<8>(page, 32) == place.0
        && le::uint::<4>(page, 48) == u64::from(id.tree)
        && le::uint::<8>(page, 56) == id.index;
    if fits {
        Ok(())
    } else {
        Err(PageError::Misplaced)
    }
}

/// The checkpoint that wrote a page.
pub fn checkpoint_of(page: &[u8]) -> u64 {
    le::uint::<8>(page, 40)
}

/// A parent's pointer to a page of a tree. `place` 0 is a subtree with no entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pointer {
    /// Where the page lies.
    pub place: Cluster,
    /// An upper bound of the highest cluster that the page and all below it refer to or lie in.
    pub highest: u64,
    /// The page's checksum.
    pub sum: u64,
    /// The generation in which the page was made.
    pub birth: Generation,
    /// The checkpoint that wrote it.
    pub checkpoint: u64,
}

impl Pointer {
    /// The pointer to nothing.
    pub const NULL: Pointer = Pointer {
        place: Cluster::NONE,
        highest: 0,
        sum: 0,
        birth: Generation(0),
        checkpoint: 0,
    };

    /// Whether there is nothing below.
    pub fn is_null(&self) -> bool {
        self.place == Cluster::NONE
    }

    /// Reads a pointer at `at` of a block.
    pub fn read(block: &[u8], at: usize) -> Pointer {
        Pointer {
            place: Cluster(le::uint::<5>(block, at)),
            highest: le::uint::<5>(block, at + 5),
            sum: le::uint::<8>(block, at + 10),
            birth: Generation(le::uint::<4>(block, at + 18) as u32),
            checkpoint: le::uint::<8>(block, at + 22),
        }
    }

    /// Writes the pointer at `at` of a block.
    pub fn write(&self, block: &mut [u8], at: usize) {
        le::put_uint::<5>(block, at, self.place.0);
        le::put_uint::<5>(block, at + 5, self.highest);
        le::put_uint::<8>(block, at + 10, self.sum);
        le::put_uint::<4>(block, at + 18, self.birth.0.into());
        le::put_uint::<8>(block, at + 22, self.checkpoint);
        le::put_uint::<2>(block, at + 30, 0);
    }

    /// The pointer to the child `slot` (below [`FANOUT`]) of an interior page.
    pub fn of_child(page: &[u8], slot: u64) -> Pointer {
        Self::read(page, HEADER_BYTES + slot as usize * POINTER_BYTES)
    }

    /// Sets the pointer to the child `slot` (below [`FANOUT`]) of an interior page.
    pub fn set_child(&self, page: &mut [u8], slot: u64) {
        self.write(page, HEADER_BYTES + slot as usize * POINTER_BYTES);
    }
}

/// Where a block of a volume lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapEntry {
    /// The cluster, or [`Cluster::NONE`] for a block that reads as zeroes.
    pub cluster: Cluster,
    /// The generation in which the entry was made.
    pub birth: Generation,
    /// The check of the block's content.
    pub check: Check,
}

/// The only kind of map entry so far: a whole cluster. Compressed fragments will be others.
const MAP_KIND_CLUSTER: u64 = 1;

impl MapEntry {
    /// The entry of a block that reads as zeroes.
    pub const NONE: MapEntry = MapEntry {
        cluster: Cluster::NONE,
        birth: Generation(0),
        check: Check(0),
    };

    /// Whether the block has a cluster.
    pub fn is_mapped(&self) -> bool {
        self.cluster != Cluster::NONE
    }

    /// Entry `slot` (below [`MAP_LEAF`]) of a leaf.
    pub fn read(page: &[u8], slot: u64) -> MapEntry {
        let at = HEADER_BYTES + slot as usize * MAP_ENTRY_BYTES;
        MapEntry {
            cluster: Cluster(le::uint::<5>(page, at)),
            birth: Generation(le::uint::<4>(page, at + 6) as u32),
            check: Check(le::uint::<6>(page, at + 10)),
        }
    }

    /// Sets entry `slot` (below [`MAP_LEAF`]) of a leaf.
    pub fn write(&self, page: &mut [u8], slot: u64) {
        let at = HEADER_BYTES + slot as usize * MAP_ENTRY_BYTES;
        le::put_uint::<5>(page, at, self.cluster.0);
        le::put_uint::<1>(
            page,
            at + 5,
            if self.is_mapped() {
                MAP_KIND_CLUSTER
            } else {
                0
            },
        );
        le::put_uint::<4>(page, at + 6, self.birth.0.into());
        le::put_uint::<6>(page, at + 10, self.check.0 & CHECK_MASK);
    }

    /// Checks every entry of a leaf against the size of the store.
    pub fn validate(page: &[u8], store_clusters: u64) -> Result<(), PageError> {
        for slot in 0..MAP_LEAF {
            let at = HEADER_BYTES + slot as usize * MAP_ENTRY_BYTES;
            let kind = le::uint::<1>(page, at + 5);
            let cluster = le::uint::<5>(page, at);
            let good = match kind {
                0 => cluster == 0,
                MAP_KIND_CLUSTER => cluster != 0 && cluster < store_clusters,
                _ => false,
            };
            if !good {
                return Err(PageError::Entry);
            }
        }
        Ok(())
    }
}

/// The life of a cluster as the count tree knows it. Values are on disk and must be preserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountEntry {
    /// Nothing refers to it and nothing remembers its content.
    Available,
    /// This many entries own it; at least one.
    Live(u32),
    /// Nothing refers to it since this many attached seconds; the same content may take it back.
    Junk {
        /// Attached seconds of the store at the checkpoint that merged its count to zero.
        since: u64,
    },
    /// Its content failed its check and nothing refers to it: never used again.
    Quarantined,
    /// Its content failed its check, while this many entries own it.
    LiveQuarantined(u32),
}

impl CountEntry {
    fn from_raw(raw: u64) -> Result<CountEntry, PageError> {
        let value = raw & ((1 << 40) - 1);
        match (raw >> 56, value) {
            (0, 0) if raw == 0 => Ok(CountEntry::Available),
            (1, 1..=0xffff_ffff) => Ok(CountEntry::Live(value as u32)),
            (2, _) => Ok(CountEntry::Junk { since: value }),
            (3, 0) => Ok(CountEntry::Quarantined),
            (4, 1..=0xffff_ffff) => Ok(CountEntry::LiveQuarantined(value as u32)),
            _ => Err(PageError::Entry),
        }
    }

    /// Entry `slot` (below [`COUNT_LEAF`]) of a leaf that [`CountEntry::validate`] accepted.
    pub fn read(page: &[u8], slot: u64) -> CountEntry {
        let raw = le::uint::<8>(page, HEADER_BYTES + slot as usize * COUNT_BYTES);
        Self::from_raw(raw).unwrap_or(CountEntry::Quarantined)
    }

    /// Sets entry `slot` (below [`COUNT_LEAF`]) of a leaf.
    pub fn write(&self, page: &mut [u8], slot: u64) {
        let raw = match *self {
            CountEntry::Available => 0,
            CountEntry::Live(count) => 1 << 56 | u64::from(count),
            CountEntry::Junk { since } => 2 << 56 | (since & ((1 << 40) - 1)),
            CountEntry::Quarantined => 3 << 56,
            CountEntry::LiveQuarantined(count) => 4 << 56 | u64::from(count),
        };
        le::put_uint::<8>(page, HEADER_BYTES + slot as usize * COUNT_BYTES, raw);
    }

    /// Checks every entry of a leaf.
    pub fn validate(page: &[u8]) -> Result<(), PageError> {
        for slot in 0..COUNT_LEAF {
            Self::from_raw(le::uint::<8>(
                page,
                HEADER_BYTES + slot as usize * COUNT_BYTES,
            ))?;
        }
        Ok(())
    }
}

/// Name `slot` (below [`NAME_LEAF`]) of a leaf.
pub fn name_read(page: &[u8], slot: u64) -> Name {
    Name(le::bytes(page, HEADER_BYTES + slot as usize * NAME_BYTES))
}

/// Sets name `slot` (below [`NAME_LEAF`]) of a leaf.
pub fn name_write(page: &mut [u8], slot: u64, name: &Name) {
    le::put(page, HEADER_BYTES + slot as usize * NAME_BYTES, &name.0);
}

/// A discard that reads already honour and the reaper still has to turn into released clusters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PunchEntry {
    /// Id of the volume.
    pub volume: u32,
    /// First block.
    pub start: Lbn,
    /// Blocks, at least one.
    pub count: u64,
}

impl PunchEntry {
    /// Entry `slot` (below [`PUNCH_LEAF`]) of a leaf; `None` behind the last.
    pub fn read(page: &[u8], slot: u64) -> Result<Option<PunchEntry>, PageError> {
        let at = HEADER_BYTES + slot as usize * PUNCH_BYTES;
        let count = le::uint::<6>(page, at + 9);
        let entry = PunchEntry {
            volume: le::uint::<4>(page, at) as u32,
            start: Lbn(le::uint::<5>(page, at + 4)),
            count,
        };
        if count == 0 {
            return Ok(None);
        }
        if count > LBN_LIMIT || entry.start.0 + count > LBN_LIMIT {
            return Err(PageError::Entry);
        }
        Ok(Some(entry))
    }

    /// Sets entry `slot` (below [`PUNCH_LEAF`]) of a leaf.
    pub fn write(&self, page: &mut [u8], slot: u64) {
        let at = HEADER_BYTES + slot as usize * PUNCH_BYTES;
        le::put_uint::<4>(page, at, self.volume.into());
        le::put_uint::<5>(page, at + 4, self.start.0);
        le::put_uint::<6>(page, at + 9, self.count);
        le::put_uint::<1>(page, at + 15, 0);
    }
}

/// The volume table's entry of one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeEntry {
    /// Never reused within a store.
    pub id: u32,
    /// What names the volume in all stores of its set.
    pub uuid: [u8; 16],
    /// The volume's size in blocks.
    pub blocks: u64,
    /// The generation in which it was created.
    pub generation: Generation,
    /// Entries and pages with a later birth are owned by this tree (D7).
    pub parent_generation: Generation,
    /// Id of the snapshot that is its parent, 0 for none.
    pub origin: u32,
    /// Levels of its map, leaf included.
    pub levels: u8,
    /// The root of its map.
    pub root: Pointer,
    /// Blocks that stay, if the others are being released; 0: the volume is being removed.
    pub keeps: Option<u64>,
    /// It is built beside the volume with the same UUID, to take its place, and shown to nobody.
    pub shadow: bool,
    /// The tree that the pages of its map say they are of: a map that took the place of another
    /// one keeps its pages.
    pub map: u32,
}

/// Flag of a volume: it is being shrunk, or removed.
const VOLUME_SHRINKS: u64 = 1;
/// Flag of a volume: it is a shadow.
const VOLUME_IS_SHADOW: u64 = 2;

impl VolumeEntry {
    /// Blocks that can be read and written.
    pub fn size(&self) -> u64 {
        self.keeps.unwrap_or(self.blocks)
    }

    /// Entry `slot` (below [`VOLUME_LEAF`]) of a leaf; `None` if no volume has this id.
    pub fn read(page: &[u8], slot: u64) -> Result<Option<VolumeEntry>, PageError> {
        let at = HEADER_BYTES + slot as usize * VOLUME_BYTES;
        let (id, flags) = (le::uint::<4>(page, at) as u32, le::uint::<1>(page, at + 45));
        let entry = VolumeEntry {
            id,
            uuid: le::bytes(page, at + 8),
            blocks: le::uint::<8>(page, at + 24),
            generation: Generation(le::uint::<4>(page, at + 32) as u32),
            parent_generation: Generation(le::uint::<4>(page, at + 36) as u32),
            origin: le::uint::<4>(page, at + 40) as u32,
            levels: le::uint::<1>(page, at + 44) as u8,
            root: Pointer::read(page, at + 48),
            keeps: (flags & VOLUME_SHRINKS != 0).then(|| le::uint::<8>(page, at + 80)),
            shadow: flags & VOLUME_IS_SHADOW != 0,
            map: match le::uint::<4>(page, at + 88) as u32 {
                0 => id,
                map => map,
            },
        };
        if entry.id == 0 {
            return Ok(None);
        }
        let levels = usize::from(entry.levels);
        if entry.blocks == 0
            || entry.blocks > LBN_LIMIT
            || entry.id.max(entry.map) >= tree::FIRST
            || flags & !(VOLUME_SHRINKS | VOLUME_IS_SHADOW) != 0
            || entry.keeps.is_some_and(|keeps| keeps >= entry.blocks)
            || levels != usize::from(levels_for(entry.blocks, MAP_LEAF))
        {
            return Err(PageError::Entry);
        }
        Ok(Some(entry))
    }

    /// Sets entry `slot` (below [`VOLUME_LEAF`]) of a leaf.
    pub fn write(&self, page: &mut [u8], slot: u64) {
        let at = HEADER_BYTES + slot as usize * VOLUME_BYTES;
        le::put(page, at, &[0; VOLUME_BYTES]);
        le::put_uint::<4>(page, at, self.id.into());
        le::put(page, at + 8, &self.uuid);
        le::put_uint::<8>(page, at + 24, self.blocks);
        le::put_uint::<4>(page, at + 32, self.generation.0.into());
        le::put_uint::<4>(page, at + 36, self.parent_generation.0.into());
        le::put_uint::<4>(page, at + 40, self.origin.into());
        le::put_uint::<1>(page, at + 44, self.levels.into());
        self.root.write(page, at + 48);
        let mut flags = u64::from(self.shadow) * VOLUME_IS_SHADOW;
        if let Some(keeps) = self.keeps {
            flags |= VOLUME_SHRINKS;
            le::put_uint::<8>(page, at + 80, keeps);
        }
        le::put_uint::<1>(page, at + 45, flags);
        if self.map != self.id {
            le::put_uint::<4>(page, at + 88, self.map.into());
        }
    }
}

/// Levels (leaf included) of a tree with `entries` entries, `leaf` of them in a leaf.
pub fn levels_for(entries: u64, leaf: u64) -> u8 {
    let mut pages = entries.div_ceil(leaf.max(1));
    let mut levels = 1;
    while pages > 1 {
        pages = pages.div_ceil(FANOUT);
        levels += 1;
    }
    levels
}

/// What a segment is used for. Values are on disk and must be preserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentKind {
    /// Superblocks, journal, segment table: places that never move.
    Fixed = 1,
    /// Clusters with the content of blocks.
    Data = 2,
    /// Pages of trees.
    Metadata = 3,
}

/// The segment table's entry of one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEntry {
    /// What it is used for.
    pub kind: SegmentKind,
    /// Clusters that are Available.
    pub available: u16,
    /// Clusters that are Junk.
    pub junk: u16,
    /// Clusters that are Live or quarantined; pages in use, of a metadata segment.
    pub live: u16,
    /// Number of its bitmap, of a metadata segment.
    pub bitmap: u32,
}

impl SegmentEntry {
    /// Entry `slot` (below [`SEGMENT_PAGE`]) of a page.
    pub fn read(page: &[u8], slot: u64) -> Result<SegmentEntry, PageError> {
        let at = HEADER_BYTES + slot as usize * SEGMENT_BYTES;
        let kind = match le::uint::<1>(page, at) {
            1 => SegmentKind::Fixed,
            2 => SegmentKind::Data,
            3 => SegmentKind::Metadata,
            _ => return Err(PageError::Entry),
        };
        let entry = SegmentEntry {
            kind,
            available: le::uint::<2>(page, at + 2) as u16,
            junk: le::uint::<2>(page, at + 4) as u16,
            live: le::uint::<2>(page, at + 6) as u16,
            bitmap: le::uint::<4>(page, at + 8) as u32,
        };
        let sum = u64::from(entry.available) + u64::from(entry.junk) + u64::from(entry.live);
        if sum > super::super::types::SEGMENT_CLUSTERS {
            return Err(PageError::Entry);
        }
        Ok(entry)
    }

    /// Sets entry `slot` (below [`SEGMENT_PAGE`]) of a page.
    pub fn write(&self, page: &mut [u8], slot: u64) {
        let at = HEADER_BYTES + slot as usize * SEGMENT_BYTES;
        le::put_uint::<2>(page, at, self.kind as u64);
        le::put_uint::<2>(page, at + 2, self.available.into());
        le::put_uint::<2>(page, at + 4, self.junk.into());
        le::put_uint::<2>(page, at + 6, self.live.into());
        le::put_uint::<8>(page, at + 8, self.bitmap.into());
    }
}

/// Checks the entries of a tree page that was just read.
pub fn validate_entries(page: &[u8], id: PageId, store_clusters: u64) -> Result<(), PageError> {
    if id.level > 0 {
        for slot in 0..FANOUT {
            if Pointer::of_child(page, slot).place.0 >= store_clusters {
                return Err(PageError::Entry);
            }
        }
        return Ok(());
    }
    match id.tree {
        tree::COUNTS => CountEntry::validate(page),
        tree::NAMES | tree::VOLUMES | tree::PUNCHES | tree::SELECT | tree::SEGMENTS => Ok(()),
        _ => MapEntry::validate(page, store_clusters),
    }
}

const _: () = {
    assert!(FANOUT == 126 && MAP_LEAF == 252 && NAME_LEAF == 168 && COUNT_LEAF == 504);
    assert!(VOLUME_LEAF == 15 && PUNCH_LEAF == 252 && SEGMENT_PAGE == 252 && BITMAP_PAGE == 7);
    assert!(CLUSTER_LIMIT == 1 << 40 && LBN_LIMIT == 1 << 40);
};
