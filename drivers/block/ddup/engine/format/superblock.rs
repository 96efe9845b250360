// SPDX-License-Identifier: GPL-2.0

//! The superblock: what a store is, and the root of its last checkpoint.
//!
//! Generation `g` lies in slot `g % 2`, in two distant copies that are written one after the
//! other, and an attach for writing mends a copy that is torn before it writes anything else; so
//! power cuts leave at least one intact copy in each slot, and a slot without one was damaged
//! otherwise.

use super::super::births::{Births, Tick, BIRTHS_MAX};
use super::super::replication::history::{self, History};
use super::super::replication::types::{Position, REIGNS_MAX};
use super::super::types::{Cluster, FingerprintAlgorithm, Generation};
use super::super::types::{
    CLUSTER_LIMIT, CLUSTER_SHIFT, CLUSTER_SIZE, JOINS_MAX, JOURNAL_BLOCK_CLUSTERS_MAX, NAME_BYTES,
    VOLUMES_MAX,
};
use super::index::{SavedIndex, CHUNK_CLUSTERS};
use super::layout::{Layout, SELECT_PAGES_MAX};
use super::le;
use super::page::{Hash, Pointer, FANOUT, POINTER_BYTES, PUNCH_LEAF};
use kernel::alloc::AllocError;
use kernel::prelude::*;

const MAGIC: [u8; 8] = *b"ddup\x8b\xf7st";
/// The format's version; a different one is refused.
pub const VERSION: u64 = 1;
const SEED: u64 = 0x6464_7570_7375_7065;

/// Feature bits of this version, as in ext4: unknown `compat` bits are ignored, unknown
/// `ro_compat` bits allow only a read-only attach, unknown `incompat` bits none.
const RO_COMPAT_KNOWN: u64 = 0;
const INCOMPAT_KNOWN: u64 = INCOMPAT_MEMBER;
/// The store is a member of a replica set: its journal holds epochs, its configuration slots count.
const INCOMPAT_MEMBER: u64 = 1;

const AT_SUM: usize = 8;
const AT_VERSION: usize = 16;
const AT_COMPAT: usize = 24;
const AT_RO_COMPAT: usize = 32;
const AT_INCOMPAT: usize = 40;
const AT_UUID: usize = 48;
const AT_GENERATION: usize = 64;
const AT_INCARNATION: usize = 72;
const AT_CLUSTERS: usize = 80;
const AT_JOURNAL: usize = 88;
const AT_BITMAPS: usize = 96;
const AT_SHIFTS: usize = 104;
const AT_NAME_KEY: usize = 112;
const AT_CHECK_KEY: usize = 120;
const AT_DEVICE: usize = 128;
const AT_FLAGS: usize = 160;
const AT_LABEL: usize = 168;
const AT_ENCRYPTION: usize = 232;
const AT_CHECKPOINT: usize = 512;
const AT_INDEX: usize = 560;
const AT_ROOTS: usize = 640;
const AT_BIRTHS: usize = 768;
const TICK_BYTES: usize = 12;
const AT_SELECT: usize = 1024;
const AT_JOINS: usize = 2048;
const JOIN_BYTES: usize = 32;
const AT_HISTORY: usize = 3080;
const POSITION_BYTES: usize = 40;
const FLAG_CLEAN: u64 = 1;

/// Why a superblock copy was not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockError {
    /// No ddup store.
    Magic,
    /// A ddup superblock whose checksum does not match.
    Checksum,
    /// Of a format version that this code does not know.
    Version(u64),
    /// With incompatible features that this code does not know.
    Features(u64),
    /// Intact, but a field holds a value that no writer writes.
    Field,
    /// Memory was short.
    Memory,
}

impl From<AllocError> for SuperblockError {
    fn from(_: AllocError) -> Self {
        Self::Memory
    }
}

/// Where the journal continues, under which incarnation, with which chained checksum before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Join {
    /// The incarnation whose blocks follow from here on.
    pub incarnation: u64,
    /// Sequence of the first block.
    pub sequence: u64,
    /// Its place, in clusters from the start of the ring.
    pub offset: u64,
    /// What seeds its checksum.
    pub chain: u64,
}

/// The root of a checkpoint: a durable, consistent image of all trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Never reused.
    pub number: u64,
    /// The generation at its cut.
    pub generation: Generation,
    /// Seconds for which the store was attached, in all.
    pub attached_seconds: u64,
    /// The next volume id to hand out.
    pub next_volume: u32,
    /// Entries of the volume table.
    pub volume_count: u64,
    /// Map entries that own a cluster: the sum of all counts.
    pub owner_count: u64,
    /// Pending discards.
    pub punch_count: u64,
    /// Cluster to name.
    pub names: Pointer,
    /// Cluster to state and count.
    pub counts: Pointer,
    /// The volume table.
    pub volumes: Pointer,
    /// Pending discards.
    pub punches: Pointer,
}

/// What a store is, and the root of its last checkpoint.
///
/// Its lists lie outside: all of them together are too large for a kernel's stack.
#[derive(Debug)]
pub struct Superblock {
    /// Names the store.
    pub uuid: [u8; 16],
    /// Chosen by the user; UTF-8, padded with zeroes.
    pub label: [u8; 64],
    /// Rises with every write of a superblock.
    pub generation: u64,
    /// A fresh number for each read-write attach.
    pub incarnation: u64,
    /// Where the fixed parts lie.
    pub layout: Layout,
    /// How fingerprints are made.
    pub fingerprint: FingerprintAlgorithm,
    /// Key of a fast fingerprint.
    pub name_key: u64,
    /// Key of the checks; belongs to the replica set.
    pub check_key: u64,
    /// The store was detached in order: nothing follows the checkpoint in the journal.
    pub clean: bool,
    /// Unknown read-only-compatible features are set: attach read-only.
    pub read_only_features: u64,
    /// The root.
    pub checkpoint: Checkpoint,
    /// The saved index; no longer after an attach for writing.
    pub index: SavedIndex,
    /// Pages that say which place of each segment-table page counts: [`SELECT_PAGES_MAX`].
    pub select: KVec<Pointer>,
    /// The journal's continuation since the checkpoint; 1 to [`JOINS_MAX`], ascending in sequence.
    pub joins: KVec<Join>,
    /// The store is a member of a replica set: the configuration slots say of which.
    pub member: bool,
    /// Of a member: where each of its newest reigns ended, as of the checkpoint; up to [`REIGNS_MAX`].
    pub ends: KVec<Position>,
    /// Of a member: which generations had ended where in that history.
    pub births: Births,
}

impl Superblock {
    /// Whether the bytes begin like a ddup superblock (of any version).
    pub fn probe(block: &[u8]) -> bool {
        block.get(..8) == Some(&MAGIC[..])
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Superblock> {
        Ok(Superblock {
            select: list(self.select.iter().copied())?,
            joins: list(self.joins.iter().copied())?,
            ends: list(self.ends.iter().copied())?,
            ..*self
        })
    }

    /// Of a member: where the history of its checkpoint ends.
    pub fn position(&self) -> Position {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Of a member: the history of its checkpoint.
    pub fn history(&self) -> Result<History> {
        History::from_ends(&self.ends)
    }

    /// Sets that, by the ends of its reigns; the oldest give way.
    pub fn set_history(&mut self, ends: &[Position]) -> Result {
        let older = ends.len().saturating_sub(REIGNS_MAX);
        self.ends = list(ends.iter().skip(older).copied())?;
        Ok(())
    }

    /// Encodes into a zeroed block of one cluster.
    pub fn write(&self, block: &mut [u8], hash: Hash) {
        le::put(block, 0, &MAGIC);
        le::put_uint::<8>(block, AT_VERSION, VERSION);
        le::put_uint::<8>(block, AT_COMPAT, 0);
        le::put_uint::<8>(block, AT_RO_COMPAT, self.read_only_features);
        let incompat = if self.member { INCOMPAT_MEMBER } else { 0 };
        le::put_uint::<8>(block, AT_INCOMPAT, incompat);
        le::put(block, AT_UUID, &self.uuid);
        le::put_uint::<8>(block, AT_GENERATION, self.generation);
        le::put_uint::<8>(block, AT_INCARNATION, self.incarnation);
        le::put_uint::<8>(block, AT_CLUSTERS, self.layout.clusters);
        le::put_uint::<8>(block, AT_JOURNAL, self.layout.journal_clusters);
        le::put_uint::<8>(block, AT_BITMAPS, self.layout.bitmaps);
        let shifts = [
            CLUSTER_SHIFT as u8,
            self.fingerprint as u8,
            NAME_BYTES as u8,
            1,
        ];
        le::put(block, AT_SHIFTS, &shifts);
        le::put_uint::<8>(block, AT_NAME_KEY, self.name_key);
        le::put_uint::<8>(block, AT_CHECK_KEY, self.check_key);
        le::put(block, AT_DEVICE, &self.uuid);
        le::put_uint::<8>(block, AT_DEVICE + 16, 1);
        le::put_uint::<8>(block, AT_FLAGS, if self.clean { FLAG_CLEAN } else { 0 });
        le::put(block, AT_LABEL, &self.label);
        let c = &self.checkpoint;
        le::put_uint::<8>(block, AT_CHECKPOINT, c.number);
        le::put_uint::<8>(block, AT_CHECKPOINT + 8, c.attached_seconds);
        le::put_uint::<4>(block, AT_CHECKPOINT + 16, c.generation.0.into());
        le::put_uint::<4>(block, AT_CHECKPOINT + 20, c.next_volume.into());
        le::put_uint::<8>(block, AT_CHECKPOINT + 24, c.punch_count);
        le::put_uint::<8>(block, AT_CHECKPOINT + 32, c.volume_count);
        le::put_uint::<8>(block, AT_CHECKPOINT + 40, c.owner_count);
        let SavedIndex {
            place,
            chunks,
            buckets,
            named,
        } = self.index;
        for (i, field) in [place.0, chunks, buckets, named].into_iter().enumerate() {
            le::put_uint::<8>(block, AT_INDEX + i * 8, field);
        }
        for (i, root) in [c.names, c.counts, c.volumes, c.punches].iter().enumerate() {
            root.write(block, AT_ROOTS + i * POINTER_BYTES);
        }
        for (i, pointer) in self.select.iter().enumerate() {
            pointer.write(block, AT_SELECT + i * POINTER_BYTES);
        }
        le::put_uint::<8>(block, AT_JOINS, self.joins.len() as u64);
        for (i, join) in self.joins.iter().enumerate() {
            let at = AT_JOINS + 8 + i * JOIN_BYTES;
            le::put_uint::<8>(block, at, join.incarnation);
            le::put_uint::<8>(block, at + 8, join.sequence);
            le::put_uint::<8>(block, at + 16, join.offset);
            le::put_uint::<8>(block, at + 24, join.chain);
        }
        if self.member {
            le::put_uint::<8>(block, AT_HISTORY, self.ends.len() as u64);
            for (i, end) in self.ends.iter().enumerate() {
                write_position(block, AT_HISTORY + 8 + i * POSITION_BYTES, end);
            }
            self.write_births(block);
        }
        let sum = hash(block.get(16..).unwrap_or(&[]), SEED);
        le::put_uint::<8>(block, AT_SUM, sum);
    }

    /// Decodes and checks a block of one cluster.
    pub fn read(block: &[u8], hash: Hash) -> Result<KBox<Superblock>, SuperblockError> {
        if block.len() != CLUSTER_SIZE || !Self::probe(block) {
            return Err(SuperblockError::Magic);
        }
        if le::uint::<8>(block, AT_SUM) != hash(block.get(16..).unwrap_or(&[]), SEED) {
            return Err(SuperblockError::Checksum);
        }
        let version = le::uint::<8>(block, AT_VERSION);
        if version != VERSION {
            return Err(SuperblockError::Version(version));
        }
        let unknown = le::uint::<8>(block, AT_INCOMPAT) & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(SuperblockError::Features(unknown));
        }
        let layout = Layout {
            clusters: le::uint::<8>(block, AT_CLUSTERS),
            journal_clusters: le::uint::<8>(block, AT_JOURNAL),
            bitmaps: le::uint::<8>(block, AT_BITMAPS),
        };
        let [shift, algorithm, width, check] = le::bytes::<4>(block, AT_SHIFTS);
        let fixed = u32::from(shift) == CLUSTER_SHIFT
            && usize::from(width) == NAME_BYTES
            && check == 1
            && le::uint::<8>(block, AT_DEVICE + 16) == 1
            && le::bytes::<64>(block, AT_ENCRYPTION) == [0; 64];
        let fingerprint = FingerprintAlgorithm::from_u8(algorithm);
        let (true, Some(fingerprint)) = (fixed && layout.is_sound(), fingerprint) else {
            return Err(SuperblockError::Field);
        };
        let root = |i: usize| Pointer::read(block, AT_ROOTS + i * POINTER_BYTES);
        let select = (0..SELECT_PAGES_MAX).map(|i| AT_SELECT + i * POINTER_BYTES);
        let joins = counted(block, AT_JOINS, JOINS_MAX, JOIN_BYTES)?;
        let member = le::uint::<8>(block, AT_INCOMPAT) & INCOMPAT_MEMBER != 0;
        let (ends, births) = match member {
            true => (
                Some(counted(block, AT_HISTORY, REIGNS_MAX, POSITION_BYTES)?),
                read_births(block)?,
            ),
            false => (None, Births::default()),
        };
        let ends = ends.into_iter().flatten();
        let superblock = try_init!(Superblock {
            uuid: le::bytes(block, AT_UUID),
            label: le::bytes(block, AT_LABEL),
            generation: le::uint::<8>(block, AT_GENERATION),
            incarnation: le::uint::<8>(block, AT_INCARNATION),
            layout,
            fingerprint,
            name_key: le::uint::<8>(block, AT_NAME_KEY),
            check_key: le::uint::<8>(block, AT_CHECK_KEY),
            clean: le::uint::<8>(block, AT_FLAGS) & FLAG_CLEAN != 0,
            read_only_features: le::uint::<8>(block, AT_RO_COMPAT) & !RO_COMPAT_KNOWN,
            checkpoint: Checkpoint {
                number: le::uint::<8>(block, AT_CHECKPOINT),
                attached_seconds: le::uint::<8>(block, AT_CHECKPOINT + 8),
                generation: Generation(le::uint::<4>(block, AT_CHECKPOINT + 16) as u32),
                next_volume: le::uint::<4>(block, AT_CHECKPOINT + 20) as u32,
                punch_count: le::uint::<8>(block, AT_CHECKPOINT + 24),
                volume_count: le::uint::<8>(block, AT_CHECKPOINT + 32),
                owner_count: le::uint::<8>(block, AT_CHECKPOINT + 40),
                names: root(0),
                counts: root(1),
                volumes: root(2),
                punches: root(3),
            },
            index: SavedIndex {
                place: Cluster(le::uint::<8>(block, AT_INDEX)),
                chunks: le::uint::<8>(block, AT_INDEX + 8),
                buckets: le::uint::<8>(block, AT_INDEX + 16),
                named: le::uint::<8>(block, AT_INDEX + 24),
            },
            select: list(select.map(|at| Pointer::read(block, at)))?,
            joins: list(joins.map(|at| read_join(block, at)))?,
            member,
            ends: list(ends.map(|at| read_position(block, at)))?,
            births,
        }? SuperblockError);
        let superblock = KBox::try_init(superblock, GFP_KERNEL)?;
        if superblock.is_sound() {
            Ok(superblock)
        } else {
            Err(SuperblockError::Field)
        }
    }

    fn is_sound(&self) -> bool {
        let c = &self.checkpoint;
        let in_store = |p: &Pointer| p.place.0 < self.layout.clusters;
        // A block never wraps.
        let last = self.layout.journal_clusters - JOURNAL_BLOCK_CLUSTERS_MAX;
        !self.joins.is_empty()
            && self.joins.windows(2).all(|w| match w {
                [a, b] => a.sequence <= b.sequence && a.incarnation < b.incarnation,
                _ => true,
            })
            && self
                .joins
                .iter()
                .all(|j| j.offset <= last && j.sequence < u64::MAX / 2)
            && self.generation < u64::MAX / 2
            && self.incarnation < u64::MAX / 2
            && c.number < u64::MAX / 2
            && c.attached_seconds < CLUSTER_LIMIT
            && c.generation.0 < u32::MAX / 2
            && c.punch_count <= (FANOUT * PUNCH_LEAF)
            && (1..=VOLUMES_MAX as u64).contains(&c.volume_count)
            && c.owner_count < u64::MAX / 2
            && [c.names, c.counts, c.volumes, c.punches]
                .iter()
                .all(in_store)
            && self.select.iter().all(in_store)
            && self.index.place.0 <= self.layout.clusters - CHUNK_CLUSTERS
            && self.index.chunks <= self.layout.clusters / CHUNK_CLUSTERS
            && self.index.buckets < u64::MAX / 2
            && self.index.named <= self.layout.clusters
            && (!self.member || self.is_sound_member())
    }

    /// Between stores only a cryptographic digest names content.
    fn is_sound_member(&self) -> bool {
        self.fingerprint.is_cryptographic()
            && history::are_ends(&self.ends)
            && self.are_sound_births()
    }

    /// All of them had ended at the checkpoint's cut.
    fn are_sound_births(&self) -> bool {
        let (end, now) = (self.position().epoch, self.checkpoint.generation);
        let newest = self.births.ticks().last();
        newest.is_none_or(|tick| tick.epoch <= end && tick.generation < now)
    }

    fn write_births(&self, block: &mut [u8]) {
        let ticks = self.births.ticks();
        le::put_uint::<8>(block, AT_BIRTHS, ticks.len() as u64);
        for (i, tick) in ticks.iter().enumerate() {
            let at = AT_BIRTHS + 8 + i * TICK_BYTES;
            le::put_uint::<8>(block, at, tick.epoch);
            le::put_uint::<4>(block, at + 8, tick.generation.0.into());
        }
    }

    /// Where generation `self.generation` is written: the first and the distant copy.
    pub fn places(&self) -> [Cluster; 2] {
        let slot = self.generation % 2;
        [
            Layout::superblock(slot, None),
            Layout::superblock(slot, Some(&self.layout)),
        ]
    }
}

/// Where the entries of a list lie that begins with their number, which is `max` at most.
fn counted(
    block: &[u8],
    at: usize,
    max: usize,
    bytes: usize,
) -> Result<impl Iterator<Item = usize>, SuperblockError> {
    let count = le::uint::<8>(block, at);
    match usize::try_from(count).ok().filter(|count| *count <= max) {
        Some(count) => Ok((0..count).map(move |i| at + 8 + i * bytes)),
        None => Err(SuperblockError::Field),
    }
}

fn list<T>(entries: impl Iterator<Item = T>) -> Result<KVec<T>, AllocError> {
    let mut list = KVec::new();
    for entry in entries {
        list.push(entry, GFP_KERNEL)?;
    }
    Ok(list)
}

fn read_births(block: &[u8]) -> Result<Births, SuperblockError> {
    let ticks = counted(block, AT_BIRTHS, BIRTHS_MAX, TICK_BYTES)?.map(|at| Tick {
        epoch: le::uint::<8>(block, at),
        generation: Generation(le::uint::<4>(block, at + 8) as u32),
    });
    Births::of(ticks).ok_or(SuperblockError::Field)
}

fn read_join(block: &[u8], at: usize) -> Join {
    Join {
        incarnation: le::uint::<8>(block, at),
        sequence: le::uint::<8>(block, at + 8),
        offset: le::uint::<8>(block, at + 16),
        chain: le::uint::<8>(block, at + 24),
    }
}

fn write_position(block: &mut [u8], at: usize, position: &Position) {
    le::put_uint::<8>(block, at, position.term);
    le::put(block, at + 8, &position.reign);
    le::put_uint::<8>(block, at + 24, position.epoch);
    le::put_uint::<8>(block, at + 32, position.chain);
}

fn read_position(block: &[u8], at: usize) -> Position {
    Position {
        term: le::uint::<8>(block, at),
        reign: le::bytes(block, at + 8),
        epoch: le::uint::<8>(block, at + 24),
        chain: le::uint::<8>(block, at + 32),
    }
}

const _: () = {
    assert!(AT_HISTORY == AT_JOINS + 8 + JOINS_MAX * JOIN_BYTES);
    assert!(AT_HISTORY + 8 + REIGNS_MAX * POSITION_BYTES <= CLUSTER_SIZE);
    assert!(AT_SELECT + SELECT_PAGES_MAX * POINTER_BYTES <= AT_JOINS);
    assert!(AT_ROOTS + 4 * POINTER_BYTES <= AT_BIRTHS);
    assert!(AT_BIRTHS + 8 + BIRTHS_MAX * TICK_BYTES <= AT_SELECT);
    assert!(AT_ENCRYPTION + 64 <= AT_CHECKPOINT);
    assert!(AT_INDEX + 4 * 8 <= AT_ROOTS);
};
