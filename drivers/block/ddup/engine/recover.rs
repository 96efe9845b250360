// SPDX-License-Identifier: GPL-2.0

//! Attach: reads the superblock, what the last checkpoint keeps outside of trees, and folds the
//! journal since then into the overlay. Nothing is written until the very end, when a superblock
//! with a fresh incarnation becomes durable, so recovery may be cut short and repeated at will.
//!
//! No tree is walked. The work is bounded by the segment table and by the journal that one
//! checkpoint leaves behind.
//!
//! A store that does not fit together is never guessed at: what can still be read is attached
//! read-only with the reason, the rest is refused with the reason.

use super::buf::zeroed;
use super::cache::Cache;
use super::format::index::SavedIndex;
use super::format::journal::{self as codec, Record};
use super::format::layout::{Layout, JOURNAL_START};
use super::format::le;
use super::format::page::{self, tree, MapEntry, PageError, PageId, Pointer, PunchEntry};
use super::format::page::{levels_for, HEADER_BYTES, MAP_LEAF, PUNCH_LEAF, SEGMENT_PAGE};
use super::format::page::{SegmentEntry, SegmentKind, VolumeEntry, BITMAP_BYTES, BITMAP_PAGE};
use super::format::page::{SELECT_PAGE, VOLUME_LEAF};
use super::format::superblock::{Join, Superblock, SuperblockError};
use super::journal::Journal;
use super::mark::mark;
use super::member::Member;
use super::mutant::mutant;
use super::overlay::Overlay;
use super::replication::history::History;
use super::replication::record::{self, Slots};
use super::replication::types::Position;
use super::space::{Bits, Space};
use super::state::{IoToken, Parts, Store};
use super::tail::Tail;
use super::types::{
    Check, Cluster, Lbn, Millis, CLUSTER_SIZE, JOINS_MAX, JOURNAL_BLOCK_CLUSTERS_MAX, LBN_LIMIT,
};
use super::{Action, Buf, Config, DataResult, Durability};
use core::fmt;
use kernel::prelude::*;

/// Why a store can't be attached, or can't be changed any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailReason {
    /// The device holds no ddup superblock.
    NotFormatted,
    /// All copies of the superblock are damaged.
    SuperblockDamaged,
    /// One generation of the superblock has no intact copy: the newest state may be lost.
    SuperblockHalfDamaged,
    /// The journal has seen a newer superblock than the ones on disk.
    SuperblockStale,
    /// The format's version is not known.
    Version(u64),
    /// These incompatible features are not known.
    Features(u64),
    /// These features are known for reading only.
    ReadOnlyFeatures(u64),
    /// The device has fewer clusters than the store.
    DeviceTooSmall {
        /// Clusters of the store.
        store: u64,
        /// Clusters of the device.
        device: u64,
    },
    /// A metadata page can't be read or believed.
    Page {
        /// Which.
        id: PageId,
        /// Where.
        place: Cluster,
    },
    /// The journal lacks blocks that an earlier attach had.
    JournalGap {
        /// The sequence that is missing.
        sequence: u64,
    },
    /// The configuration slots of a member of a replica set are damaged, or empty.
    ConfigSlots,
    /// A journal block holds a record that does not fit the store.
    JournalRecord {
        /// The sequence of its block.
        sequence: u64,
    },
    /// What should be equal is not.
    Inconsistent(&'static str),
    /// The device fails to read here.
    Read(Cluster),
    /// The journal can't be written.
    Journal,
    /// A checkpoint can't be written.
    Checkpoint,
    /// The device fails to flush.
    Flush,
    /// Memory was short where none had been promised.
    Memory,
    /// Room that had been promised was not there (a fault of the engine).
    Promise,
    /// The shell left actions undone (a fault of the shell).
    Overrun,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFormatted => f.write_str("no ddup store on this device"),
            Self::SuperblockDamaged => f.write_str("all copies of the superblock are damaged"),
            Self::SuperblockHalfDamaged => {
                f.write_str("one generation of the superblock has no intact copy")
            }
            Self::SuperblockStale => {
                f.write_str("the journal has seen a newer superblock than those on the device")
            }
            Self::Version(v) => write!(f, "format version {v} is not known, only version 1"),
            Self::Features(bits) => write!(f, "unknown incompatible features {bits:#x}"),
            Self::ReadOnlyFeatures(bits) => {
                write!(f, "features {bits:#x} allow only a read-only attach")
            }
            Self::DeviceTooSmall { store, device } => {
                write!(
                    f,
                    "the store has {store} clusters, the device only {device}"
                )
            }
            Self::Page { id, place } => write!(
                f,
                "metadata page damaged: tree {:#x} level {} index {} at cluster {}",
                id.tree, id.level, id.index, place.0
            ),
            Self::JournalGap { sequence } => write!(f, "journal block {sequence} is missing"),
            Self::JournalRecord { sequence } => {
                write!(
                    f,
                    "journal block {sequence} holds a record that does not fit the store"
                )
            }
            Self::ConfigSlots => f.write_str("the configuration of its replica set is damaged"),
            Self::Inconsistent(what) => write!(f, "inconsistent store: {what}"),
            Self::Read(place) => write!(f, "read error at cluster {}", place.0),
            Self::Journal => f.write_str("the journal can't be written"),
            Self::Checkpoint => f.write_str("a checkpoint can't be written"),
            Self::Flush => f.write_str("the device fails to flush"),
            Self::Memory => f.write_str("out of memory"),
            Self::Promise => f.write_str("internal: promised room was missing"),
            Self::Overrun => f.write_str("internal: actions were left undone"),
        }
    }
}

/// Pages of the segment table that are read at once.
const TABLE_CHUNK: u64 = 16;
/// Tries to read what there is only one of.
const READ_TRIES: u32 = 3;
/// Bytes of the records of one epoch: of the largest one by far.
const UNSEALED_BYTES_MAX: usize = 1 << 20;
/// Blocks of the largest unmap record.
const UNMAP_MAX: u64 = page::MAP_LEAF;

/// What is being read or written.
enum Stage {
    /// The first copies of both superblock slots.
    Near,
    /// The distant copies.
    Distant,
    /// The first (false) or the distant copies of both configuration slots.
    Slots(bool),
    /// A page that says which place of the pages of the segment table counts.
    Select(u64),
    /// Pages of the segment table, of place 0, and then of place 1.
    Table(u64, Option<Buf>),
    /// A page of the volume table (0) or of the punches (1): the interior one, or a leaf.
    Blob(usize, Option<Buf>, u64),
    /// The journal.
    Scan,
    /// The ring behind the last block of the chain: within reach, then at its start.
    Ahead(bool),
    /// Data of the last block, which may be missing.
    Verify,
    /// A copy of the superblock that is not intact, though its twin is.
    Mend,
    /// A copy of the superblock with the fresh incarnation.
    Write(usize),
    /// A flush instead, since there is no room for another incarnation.
    Flush,
    /// Handing over.
    Done,
}

/// A running recovery.
pub struct Recovery {
    config: Config,
    now: Millis,
    stage: Stage,
    action: Option<Action>,
    reading: (Cluster, usize),
    tries: u32,
    copies: [Result<KBox<Superblock>, SuperblockError>; 4],
    /// Copies of the configuration slots that could be read: both slots each.
    slots: [Option<Buf>; 2],
    parts: Option<Scanned>,
    reason: Option<FailReason>,
    over: bool,
    store: Option<KBox<Store>>,
}

/// What was read so far.
struct Scanned {
    superblock: KBox<Superblock>,
    space: KBox<Space>,
    volumes: KVec<VolumeEntry>,
    overlay: KBox<Overlay>,
    places: [KVec<Cluster>; 2],
    scan: Scan,
    /// The last block, while it may lack its data.
    doubtful: Option<Doubtful>,
    /// The saved index, which this attach takes out of the superblock.
    saved: SavedIndex,
    /// Of a member of a replica set: the positions that what was applied leads to.
    history: Option<History>,
    /// Its records that count when a seal follows.
    unsealed: Buf,
    /// Its epochs that were applied.
    tail: Tail,
}

/// Where the journal scan stands.
#[derive(Clone, Copy)]
struct Scan {
    at: Join,
    /// The next join that was not reached.
    join: usize,
    /// Ring clusters passed.
    used: u64,
}

/// A block that was written with its data, and not behind it. It counts if a later one shows that it
/// became durable, or else if its data is there.
struct Doubtful {
    /// From its header to its last record.
    block: Buf,
    /// Where the scan stood before it.
    before: Scan,
    /// What it says of data that it came with.
    data: KVec<(Cluster, Check)>,
    /// Of that, what was looked at.
    seen: usize,
}

impl Recovery {
    /// Does nothing yet.
    pub(super) fn new(config: Config) -> Recovery {
        Recovery {
            config,
            now: 0,
            stage: Stage::Near,
            action: None,
            reading: (Cluster(0), 2),
            tries: 0,
            copies: [const { Err(SuperblockError::Magic) }; 4],
            slots: [None, None],
            parts: None,
            reason: None,
            over: false,
            store: None,
        }
    }

    /// Starts with reading the superblocks.
    pub(super) fn start(&mut self, now: Millis) {
        self.now = now;
        self.read(Cluster(0), 2);
    }

    /// The next action.
    pub(super) fn poll(&mut self, now: Millis) -> Option<Action> {
        self.now = self.now.max(now);
        let action = self.action.take();
        if matches!(action, Some(Action::Started | Action::Failed(_))) {
            self.over = true;
        }
        action
    }

    /// Whether the last action was taken.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The attached store, if it could be attached.
    pub(super) fn take_store(&mut self) -> Option<KBox<Store>> {
        self.store.take()
    }

    fn read(&mut self, place: Cluster, clusters: usize) {
        let Ok(buf) = zeroed(clusters * CLUSTER_SIZE) else {
            return self.refuse(FailReason::Memory);
        };
        self.reading = (place, clusters);
        self.tries = 0;
        self.submit_read(buf);
    }

    fn submit_read(&mut self, buf: Buf) {
        let token = IoToken::Recovery;
        self.action = Some(Action::ReadMeta {
            token,
            cluster: self.reading.0,
            buf,
        });
    }

    /// Nothing can be attached.
    fn refuse(&mut self, reason: FailReason) {
        self.stage = Stage::Done;
        self.action = Some(Action::Failed(reason));
    }

    /// I/O ended.
    pub(super) fn meta_done(&mut self, now: Millis, _token: IoToken, buf: Buf, ok: bool) {
        self.now = self.now.max(now);
        if !ok {
            self.tries += 1;
            match self.stage {
                Stage::Mend | Stage::Write(_) => return self.refuse(FailReason::Checkpoint),
                Stage::Flush => return self.refuse(FailReason::Flush),
                _ if self.tries < READ_TRIES => return self.submit_read(buf),
                // A copy that can't be read counts as damaged; there are others.
                Stage::Near | Stage::Distant | Stage::Slots(_) => {}
                _ => return self.refuse(FailReason::Read(self.reading.0)),
            }
        }
        let stage = core::mem::replace(&mut self.stage, Stage::Done);
        let step = match stage {
            Stage::Near => self.near(&buf, ok),
            Stage::Distant => self.distant(&buf, ok),
            Stage::Slots(distant) => self.keep_slots(distant, buf, ok),
            Stage::Select(index) => self.select(index, &buf),
            Stage::Table(page, None) => self.table_second(page, buf),
            Stage::Table(page, Some(first)) => self.table(page, &first, &buf),
            Stage::Blob(which, interior, index) => self.blob(which, interior, index, buf),
            Stage::Scan => self.scan(&buf),
            Stage::Ahead(at_start) => self.ahead(at_start, &buf),
            Stage::Mend => {
                mark!(superblock_mended);
                self.chain_ended()
            }
            Stage::Write(copy) => self.written(copy),
            Stage::Flush => self.hand_over(true),
            Stage::Verify | Stage::Done => Ok(()),
        };
        if let Err(reason) = step {
            self.refuse(reason);
        }
    }

    fn keep_copies(&mut self, first: usize, buf: &[u8], ok: bool) -> Result<(), FailReason> {
        for (slot, block) in buf.chunks_exact(CLUSTER_SIZE).enumerate() {
            if let Some(copy) = self.copies.get_mut(first + slot) {
                *copy = match ok {
                    true => read_superblock(block, self.config.hash)?,
                    false => Err(SuperblockError::Checksum),
                };
            }
        }
        Ok(())
    }

    fn near(&mut self, buf: &[u8], ok: bool) -> Result<(), FailReason> {
        self.keep_copies(0, buf, ok)?;
        let known = self.copies.iter().flatten().next().map(|s| s.layout);
        // Without a copy that tells, the distant ones lie where a default format puts them.
        let layout = known.or_else(|| Layout::new(self.config.store_clusters, 0));
        let place = layout.map(|layout| Layout::superblock(0, Some(&layout)));
        match place.filter(|place| place.0 + 2 <= self.config.store_clusters) {
            Some(place) => {
                self.stage = Stage::Distant;
                self.read(place, 2);
                Ok(())
            }
            None => self.choose(),
        }
    }

    fn distant(&mut self, buf: &[u8], ok: bool) -> Result<(), FailReason> {
        self.keep_copies(2, buf, ok)?;
        self.choose()
    }

    /// Picks the newest intact superblock.
    fn choose(&mut self) -> Result<(), FailReason> {
        let newest = self.copies.iter().flatten().max_by_key(|s| s.generation);
        let Some(newest) = newest else {
            return Err(self.why_none());
        };
        let superblock = copy_superblock(newest)?;
        let intact = |copy| self.is_intact(copy, &superblock.uuid);
        if !(0..2).all(|slot| intact(slot) || intact(slot + 2)) {
            self.reason = Some(FailReason::SuperblockHalfDamaged);
        }
        let (store, device) = (superblock.layout.clusters, self.config.store_clusters);
        if store > device {
            return Err(FailReason::DeviceTooSmall { store, device });
        }
        if superblock.read_only_features != 0 && !self.config.read_only {
            let reason = FailReason::ReadOnlyFeatures(superblock.read_only_features);
            self.reason.get_or_insert(reason);
        }
        let layout = superblock.layout;
        let reserve = 2 * super::admit::pages_max(store);
        let space = Space::new(layout, reserve).map_err(|_| FailReason::Memory)?;
        let overlay = KBox::new(Overlay::new(store), GFP_KERNEL);
        let at = superblock.joins.first().copied().unwrap_or_default();
        let history = match superblock.member {
            true => Some(superblock.history().map_err(|_| FailReason::Memory)?),
            false => None,
        };
        let is_member = history.is_some();
        self.parts = Some(Scanned {
            history,
            unsealed: KVec::new(),
            tail: Tail::new(self.config.hash, self.now),
            space,
            volumes: KVec::new(),
            overlay: overlay.map_err(|_| FailReason::Memory)?,
            places: [KVec::new(), KVec::new()],
            saved: SavedIndex::default(),
            doubtful: None,
            scan: Scan {
                at,
                join: 1,
                used: 0,
            },
            superblock,
        });
        match is_member {
            true => self.read_slots(false),
            false => self.next_select(0),
        }
    }

    /// Reads copies of both configuration slots, which lie side by side.
    fn read_slots(&mut self, distant: bool) -> Result<(), FailReason> {
        let layout = self.parts()?.superblock.layout;
        self.stage = Stage::Slots(distant);
        self.read(Layout::superblock(2, distant.then_some(&layout)), 2);
        Ok(())
    }

    fn keep_slots(&mut self, distant: bool, buf: Buf, ok: bool) -> Result<(), FailReason> {
        if let Some(slots) = self.slots.get_mut(usize::from(distant)) {
            *slots = ok.then_some(buf);
        }
        match distant {
            false => self.read_slots(true),
            true => self.next_select(0),
        }
    }

    /// The membership in a replica set, if the store is in one and may be written.
    // In a frame of its own: with its caller's it would be too large for the stack.
    #[inline(never)]
    fn membership(&mut self) -> Result<Option<KBox<Member>>, FailReason> {
        let [near, distant] = &self.slots;
        let of = |slot: usize| {
            let range = slot * CLUSTER_SIZE..(slot + 1) * CLUSTER_SIZE;
            [near, distant].map(|slots| slots.as_ref().and_then(|s| s.get(range.clone())))
        };
        let copies = [of(0), of(1)];
        let Some(parts) = self.parts.as_mut() else {
            return Err(FailReason::Promise);
        };
        let Some(history) = parts.history.take() else {
            return Ok(None);
        };
        let memory = |_| FailReason::Memory;
        let found = match record::choose(&copies, &parts.superblock.uuid, self.config.hash) {
            Ok(Slots::Record(found)) => found,
            Ok(Slots::Empty | Slots::Damaged) => return Err(FailReason::ConfigSlots),
            Err(_) => return Err(FailReason::Memory),
        };
        if self.config.read_only || self.reason.is_some() {
            return Ok(None);
        }
        // Volumes may get any size.
        let levels = levels_for(LBN_LIMIT, MAP_LEAF);
        let entry_pages = parts.overlay.worst_pages(1, levels);
        let pages_max = super::admit::pages_max(parts.superblock.layout.clusters);
        let pages = (entry_pages, pages_max);
        Member::new(&self.config, &parts.superblock, found, history, pages)
            .map(Some)
            .map_err(memory)
    }

    /// Whether a copy is intact, and of this store: 0 and 1 are the first ones of the slots, 2 and 3
    /// the distant ones.
    fn is_intact(&self, copy: usize, uuid: &[u8; 16]) -> bool {
        matches!(self.copies.get(copy), Some(Ok(s)) if s.uuid == *uuid)
    }

    fn why_none(&self) -> FailReason {
        let mut reason = FailReason::NotFormatted;
        for copy in &self.copies {
            reason = match copy {
                Err(SuperblockError::Version(v)) => return FailReason::Version(*v),
                Err(SuperblockError::Features(f)) => return FailReason::Features(*f),
                Err(SuperblockError::Checksum | SuperblockError::Field) => {
                    FailReason::SuperblockDamaged
                }
                _ => reason,
            };
        }
        reason
    }

    fn parts(&mut self) -> Result<&mut Scanned, FailReason> {
        self.parts.as_mut().ok_or(FailReason::Promise)
    }

    fn next_select(&mut self, index: u64) -> Result<(), FailReason> {
        let parts = self.parts()?;
        if index >= parts.superblock.layout.select_pages() {
            return self.next_table(0);
        }
        let pointer = parts.superblock.select.get(index as usize).copied();
        self.stage = Stage::Select(index);
        self.read(pointer.unwrap_or_default().place, 1);
        Ok(())
    }

    fn select(&mut self, index: u64, buf: &[u8]) -> Result<(), FailReason> {
        let id = PageId {
            tree: tree::SELECT,
            level: 0,
            index,
        };
        let pointer = self.parts()?.superblock.select.get(index as usize).copied();
        self.verify(buf, id, &pointer.unwrap_or_default())?;
        let parts = self.parts()?;
        for bit in 0..SELECT_PAGE {
            let at = (index * SELECT_PAGE + bit) as usize;
            let byte = buf
                .get(HEADER_BYTES + bit as usize / 8)
                .copied()
                .unwrap_or(0);
            if let Some(place) = parts.space.table_place.get_mut(at) {
                *place = byte >> (bit % 8) & 1 == 1;
            }
        }
        self.next_select(index + 1)
    }

    fn verify(&self, buf: &[u8], id: PageId, pointer: &Pointer) -> Result<(), FailReason> {
        let uuid = self.parts.as_ref().map_or([0; 16], |p| p.superblock.uuid);
        let place = pointer.place;
        page::verify(buf, self.config.hash, &uuid, id, place, Some(pointer.sum))
            .map_err(|_| FailReason::Page { id, place })
    }

    /// Reads the next pages of the segment table, of each place that counts for one of them.
    /// Pages with bitmaps that belong to no segment are passed over.
    fn next_table(&mut self, from: u64) -> Result<(), FailReason> {
        let parts = self.parts()?;
        let layout = parts.superblock.layout;
        let mut page = from;
        while page < layout.table_pages() {
            let count = table_chunk(&layout, page);
            let counts = |place: bool| {
                (page..page + count).any(|page| parts.space.counts_at(page) == Some(place))
            };
            if counts(false) {
                self.stage = Stage::Table(page, None);
                self.read(layout.table_place(page, false), count as usize);
                return Ok(());
            }
            if counts(true) {
                return self.table_second(page, KVec::new());
            }
            page += count;
        }
        self.next_blob(0, None, 0)
    }

    fn table_second(&mut self, page: u64, first: Buf) -> Result<(), FailReason> {
        let parts = self.parts()?;
        let layout = parts.superblock.layout;
        let count = table_chunk(&layout, page);
        if (page..page + count).all(|page| parts.space.counts_at(page) != Some(true)) {
            return self.table(page, &first, &[]);
        }
        self.stage = Stage::Table(page, Some(first));
        self.read(layout.table_place(page, true), count as usize);
        Ok(())
    }

    fn table(&mut self, page: u64, first: &[u8], second: &[u8]) -> Result<(), FailReason> {
        let hash = self.config.hash;
        let parts = self.parts()?;
        let layout = parts.superblock.layout;
        let count = table_chunk(&layout, page);
        for index in page..page + count {
            let Some(place) = parts.space.counts_at(index) else {
                continue;
            };
            let id = PageId {
                tree: tree::SEGMENTS,
                level: 0,
                index,
            };
            let cluster = layout.table_place(index, place);
            let bad = FailReason::Page { id, place: cluster };
            let pages = if place { second } else { first };
            let block = pages
                .chunks_exact(CLUSTER_SIZE)
                .nth((index - page) as usize)
                .ok_or(bad)?;
            page::verify(block, hash, &parts.superblock.uuid, id, cluster, None)
                .map_err(|_| bad)?;
            if index < layout.entry_pages() {
                load_entries(&mut parts.space, block, index).map_err(|_| bad)?;
            } else {
                load_bitmaps(&mut parts.space, block, index - layout.entry_pages())
                    .map_err(|_| FailReason::Memory)?;
            }
        }
        self.next_table(page + count)
    }

    /// Entries and leaf capacity, root and tree of the volume table or of the punches.
    fn blob_shape(&mut self, which: usize) -> Result<(u64, u64, Pointer, u32), FailReason> {
        let c = &self.parts()?.superblock.checkpoint;
        Ok(match which {
            0 => (c.volume_count, VOLUME_LEAF, c.volumes, tree::VOLUMES),
            _ => (c.punch_count, PUNCH_LEAF, c.punches, tree::PUNCHES),
        })
    }

    /// Reads leaf `index` of a list, or its interior page first.
    fn next_blob(
        &mut self,
        which: usize,
        interior: Option<Buf>,
        index: u64,
    ) -> Result<(), FailReason> {
        if which > 1 {
            return self.next_scan();
        }
        let (entries, leaf, root, _) = self.blob_shape(which)?;
        let leaves = entries.div_ceil(leaf.max(1));
        if index >= leaves {
            return self.next_blob(which + 1, None, 0);
        }
        let place = match &interior {
            Some(interior) => Pointer::of_child(interior, index).place,
            None => root.place,
        };
        if place == Cluster::NONE || place.0 >= self.parts()?.superblock.layout.clusters {
            let what = "a list of the superblock has no pages";
            return Err(FailReason::Inconsistent(what));
        }
        let list = self.parts()?.places.get_mut(which);
        list.map(|list| list.push(place, GFP_KERNEL));
        self.stage = Stage::Blob(which, interior, index);
        self.read(place, 1);
        Ok(())
    }

    fn blob(
        &mut self,
        which: usize,
        interior: Option<Buf>,
        index: u64,
        buf: Buf,
    ) -> Result<(), FailReason> {
        let (entries, leaf, root, tree) = self.blob_shape(which)?;
        let several = entries.div_ceil(leaf.max(1)) > 1;
        if several && interior.is_none() {
            self.verify(
                &buf,
                PageId {
                    tree,
                    level: 1,
                    index: 0,
                },
                &root,
            )?;
            return self.next_blob(which, Some(buf), 0);
        }
        let pointer = match &interior {
            Some(interior) => Pointer::of_child(interior, index),
            None => root,
        };
        let id = PageId {
            tree,
            level: 0,
            index,
        };
        self.verify(&buf, id, &pointer)?;
        let bad = FailReason::Page {
            id,
            place: pointer.place,
        };
        let store_clusters = self.parts()?.superblock.layout.clusters;
        for slot in 0..leaf.min(entries - index * leaf) {
            let parts = self.parts()?;
            if which == 0 {
                let volume = VolumeEntry::read(&buf, slot).ok().flatten().ok_or(bad)?;
                let same = |v: &VolumeEntry| v.id == volume.id || v.map == volume.map;
                let known = parts.volumes.iter().any(same);
                if known || volume.root.place.0 >= store_clusters {
                    return Err(bad);
                }
                parts
                    .volumes
                    .push(volume, GFP_KERNEL)
                    .map_err(|_| FailReason::Memory)?;
            } else {
                let punch = PunchEntry::read(&buf, slot).ok().flatten().ok_or(bad)?;
                let (volume, blocks) = find_volume(&parts.volumes, punch.volume).ok_or(bad)?;
                if punch.start.0 + punch.count > blocks {
                    return Err(bad);
                }
                let room = parts.overlay.reserve(0, 0, 4);
                room.and_then(|()| parts.overlay.punch(volume, punch.start, punch.count))
                    .map_err(|_| FailReason::Memory)?;
            }
        }
        self.next_blob(which, interior, index + 1)
    }

    /// Reads on in the journal, from the next block.
    fn next_scan(&mut self) -> Result<(), FailReason> {
        let parts = self.parts()?;
        let place = Cluster(JOURNAL_START + parts.scan.at.offset);
        let left = parts.superblock.layout.journal_clusters - parts.scan.at.offset;
        self.stage = Stage::Scan;
        self.read(place, left.min(JOURNAL_BLOCK_CLUSTERS_MAX) as usize);
        Ok(())
    }

    /// Applies the blocks in `buf`; reads on, or ends.
    fn scan(&mut self, buf: &[u8]) -> Result<(), FailReason> {
        let hash = self.config.hash;
        let base = self.parts()?.scan.at.offset;
        loop {
            let parts = self.parts()?;
            let ring = parts.superblock.layout.journal_clusters;
            while let Some(&join) = parts.superblock.joins.get(parts.scan.join) {
                if join.sequence != parts.scan.at.sequence {
                    break;
                }
                // That attach found its data.
                if let Err(reason) = replay_doubtful(parts) {
                    self.reason.get_or_insert(reason);
                    return self.end_scan();
                }
                // What an older incarnation left unsealed is void, whatever follows.
                if !parts.unsealed.is_empty() && !mutant!(85) {
                    mark!(member_unsealed_is_void);
                    parts.unsealed.clear();
                }
                // What follows here in an older incarnation is void.
                if !mutant!(19) {
                    parts.scan.at = join;
                    mark!(recovery_passes_join);
                }
                parts.scan.join += 1;
            }
            let at = parts.scan.at;
            let inside = at
                .offset
                .checked_sub(base)
                .map(|c| c as usize * CLUSTER_SIZE);
            let Some(rest) = inside
                .and_then(|byte| buf.get(byte..))
                .filter(|r| !r.is_empty())
            else {
                return self.next_scan();
            };
            let header = codec::header(rest, &parts.superblock.uuid, hash);
            let newer =
                header.is_some_and(|h| h.superblock_generation > parts.superblock.generation);
            if newer {
                self.reason.get_or_insert(FailReason::SuperblockStale);
                return self.end_scan();
            }
            let next =
                header.filter(|h| h.sequence == at.sequence && h.incarnation == at.incarnation);
            let Some(header) = next else {
                return self.next_ahead(false);
            };
            let Some(block) = rest.get(..header.clusters as usize * CLUSTER_SIZE) else {
                if rest.len() == buf.len() {
                    return self.next_ahead(false);
                }
                return self.next_scan();
            };
            let Some(chain) = codec::follows(block, at.chain, hash) else {
                return self.next_ahead(false);
            };
            // A block is written when the one before it is durable.
            if header.durable_upto > at.sequence || header.durable_upto + 1 < at.sequence {
                let sequence = at.sequence;
                self.reason
                    .get_or_insert(FailReason::JournalRecord { sequence });
                return self.end_scan();
            }
            let end = codec::HEADER_BYTES + header.record_bytes;
            let step =
                replay_doubtful(parts).and_then(|()| match at.sequence - header.durable_upto {
                    0 => replay(parts, block, end, at.sequence),
                    _ => doubt(parts, block, end),
                });
            if let Err(reason) = step {
                self.reason.get_or_insert(reason);
                return self.end_scan();
            }
            let offset = codec::next_offset(at.offset, header.clusters, ring);
            parts.scan.used += if offset == 0 {
                ring - at.offset
            } else {
                header.clusters
            };
            parts.scan.at = Join {
                sequence: at.sequence + 1,
                offset,
                chain,
                ..at
            };
        }
    }

    /// Reads where the block behind the chain's end could be followed by another one. That is
    /// written only when the one before it is durable, so if it is there the chain was not cut
    /// short by a loss of power but by damage.
    fn next_ahead(&mut self, at_start: bool) -> Result<(), FailReason> {
        let parts = self.parts()?;
        let ring = parts.superblock.layout.journal_clusters;
        let offset = parts.scan.at.offset;
        let wraps = offset + 2 * JOURNAL_BLOCK_CLUSTERS_MAX > ring;
        let (start, count) = match at_start {
            false => (
                offset + 1,
                JOURNAL_BLOCK_CLUSTERS_MAX.min(ring - offset - 1),
            ),
            true if wraps => (0, 1),
            true => return self.end_scan(),
        };
        self.stage = Stage::Ahead(at_start);
        self.read(Cluster(JOURNAL_START + start), count as usize);
        Ok(())
    }

    fn ahead(&mut self, at_start: bool, buf: &[u8]) -> Result<(), FailReason> {
        let hash = self.config.hash;
        let parts = self.parts()?;
        let Join {
            sequence,
            incarnation,
            ..
        } = parts.scan.at;
        let uuid = parts.superblock.uuid;
        let follows = |block: &[u8]| {
            codec::header(block, &uuid, hash)
                .is_some_and(|h| h.sequence == sequence + 1 && h.incarnation == incarnation)
        };
        if buf.chunks_exact(CLUSTER_SIZE).any(follows) {
            self.reason
                .get_or_insert(FailReason::JournalGap { sequence });
            return self.end_scan();
        }
        if at_start {
            self.end_scan()
        } else {
            self.next_ahead(true)
        }
    }

    /// Looks at the data of the last block, if nothing shows that it became durable; then ends the
    /// scan.
    fn end_scan(&mut self) -> Result<(), FailReason> {
        let proven = self.reason.is_some() || mutant!(36);
        let parts = self.parts()?;
        let next = parts.doubtful.as_ref().filter(|_| !proven);
        if let Some(&(cluster, check)) = next.and_then(|d| d.data.get(d.seen)) {
            let buf = zeroed(CLUSTER_SIZE).map_err(|_| FailReason::Memory)?;
            self.stage = Stage::Verify;
            self.tries = 0;
            return self.look_at(cluster, check, buf);
        }
        if let Err(reason) = replay_doubtful(parts) {
            self.reason.get_or_insert(reason);
        }
        self.chain_ended()
    }

    fn look_at(&mut self, cluster: Cluster, check: Check, buf: Buf) -> Result<(), FailReason> {
        let check_key = self.parts()?.superblock.check_key;
        self.action = Some(Action::VerifyData {
            cluster,
            check,
            check_key,
            buf,
        });
        Ok(())
    }

    /// A cluster of the last block's data was looked at.
    pub(super) fn verify_done(&mut self, now: Millis, buf: Buf, result: DataResult) {
        self.now = self.now.max(now);
        if !matches!(self.stage, Stage::Verify) {
            return;
        }
        if let Err(reason) = self.verified(buf, result) {
            self.refuse(reason);
        }
    }

    fn verified(&mut self, buf: Buf, result: DataResult) -> Result<(), FailReason> {
        self.tries += 1;
        let again = result == DataResult::Failed && self.tries < READ_TRIES;
        let parts = self.parts()?;
        let Some(doubtful) = parts.doubtful.as_mut() else {
            return Err(FailReason::Promise);
        };
        let Some(&(cluster, check)) = doubtful.data.get(doubtful.seen) else {
            return Err(FailReason::Promise);
        };
        if again {
            return self.look_at(cluster, check, buf);
        }
        match result {
            DataResult::Failed => {
                // Whether it became durable can't be known.
                self.reason.get_or_insert(FailReason::Read(cluster));
            }
            DataResult::Mismatch => {
                mark!(journal_ends_before_lost_data);
                parts.scan = doubtful.before;
                parts.doubtful = None;
            }
            _ => doubtful.seen += 1,
        }
        self.end_scan()
    }

    fn chain_ended(&mut self) -> Result<(), FailReason> {
        let parts = self.parts()?;
        let lost = parts.scan.join < parts.superblock.joins.len();
        let sequence = parts.scan.at.sequence;
        if lost {
            self.reason
                .get_or_insert(FailReason::JournalGap { sequence });
        }
        if self.config.read_only || self.reason.is_some() {
            return self.hand_over(false);
        }
        // A power cut may have torn a copy. If the next one tore its twin, the slot would look damaged.
        let uuid = self.parts()?.superblock.uuid;
        let torn = (0..4).find(|&copy| !self.is_intact(copy, &uuid));
        if let Some(copy) = torn.filter(|_| !mutant!(67)) {
            return self.mend(copy);
        }
        let hash = self.config.hash;
        let parts = self.parts()?;
        let superblock = &mut parts.superblock;
        superblock.generation += 1;
        superblock.incarnation += 1;
        let saved = match mutant!(61) {
            true => superblock.index,
            false => core::mem::take(&mut superblock.index),
        };
        let clean = core::mem::take(&mut superblock.clean);
        let incarnation = superblock.incarnation;
        let chain = codec::join_chain(parts.scan.at.chain, incarnation, hash);
        parts.scan.at = Join {
            incarnation,
            chain,
            ..parts.scan.at
        };
        if clean && parts.scan.used == 0 {
            parts.saved = saved;
        }
        // A join that no kept block followed is replaced.
        while superblock
            .joins
            .last()
            .is_some_and(|j| j.sequence == sequence)
        {
            superblock.joins.pop();
        }
        if superblock.joins.len() >= JOINS_MAX {
            // No room for another: the first checkpoint makes this incarnation durable, and the
            // journal is not written before. What counts must be durable all the same before a
            // cluster is handed out: the machine may have failed, and the device kept its cache.
            superblock.generation -= 1;
            mark!(joins_full);
            self.stage = Stage::Flush;
            let token = IoToken::Recovery;
            self.action = Some(Action::Flush { token });
            return Ok(());
        }
        let pushed = superblock.joins.push(parts.scan.at, GFP_KERNEL);
        pushed.map_err(|_| FailReason::Memory)?;
        self.write(0)
    }

    /// Writes a copy of the superblock anew, as its twin is.
    fn mend(&mut self, copy: usize) -> Result<(), FailReason> {
        let Some(Ok(twin)) = self.copies.get(copy ^ 2) else {
            return Err(FailReason::Promise);
        };
        let twin = copy_superblock(twin)?;
        // Of the newest one, which fits the device: a twin may say anything.
        let layout = self.parts()?.superblock.layout;
        let cluster = Layout::superblock(copy as u64 % 2, (copy >= 2).then_some(&layout));
        self.stage = Stage::Mend;
        self.write_superblock(block_of(&twin, self.config.hash)?, cluster, Durability::Own);
        if let Some(copy) = self.copies.get_mut(copy) {
            *copy = Ok(twin);
        }
        Ok(())
    }

    fn write(&mut self, copy: usize) -> Result<(), FailReason> {
        let hash = self.config.hash;
        let superblock = &self.parts()?.superblock;
        let (buf, cluster) = (block_of(superblock, hash)?, superblock.places()[copy & 1]);
        let durability = match copy {
            0 => Durability::AllBefore,
            _ => Durability::Own,
        };
        self.stage = Stage::Write(copy);
        self.write_superblock(buf, cluster, durability);
        Ok(())
    }

    fn write_superblock(&mut self, buf: Buf, cluster: Cluster, durability: Durability) {
        self.action = Some(Action::WriteMeta {
            token: IoToken::Recovery,
            cluster,
            buf,
            durability,
        });
    }

    fn written(&mut self, copy: usize) -> Result<(), FailReason> {
        if copy == 0 {
            self.write(1)
        } else {
            self.hand_over(false)
        }
    }

    fn hand_over(&mut self, journal_blocked: bool) -> Result<(), FailReason> {
        let position = self.parts()?.history.as_ref().map(|h| h.position());
        let member = match self.membership() {
            Ok(member) => member,
            Err(reason) => {
                self.reason.get_or_insert(reason);
                None
            }
        };
        let Scanned {
            superblock,
            space,
            volumes,
            overlay,
            places,
            scan,
            saved,
            doubtful: _,
            history: _,
            unsealed: _,
            tail,
        } = self.parts.take().ok_or(FailReason::Promise)?;
        let start = Cluster(JOURNAL_START);
        let ring = superblock.layout.journal_clusters;
        let memory = |_| FailReason::Memory;
        let journal = Journal::new(start, ring, scan.at, scan.used).map_err(memory)?;
        let store = Store::new(Parts {
            config: self.config,
            now: self.now,
            superblock,
            volumes,
            overlay,
            cache: Cache::new(self.config.cache_pages).map_err(memory)?,
            space,
            journal,
            saved,
            blob_places: places,
            reason: self.reason,
            journal_blocked,
            member,
            position,
        });
        let mut store = store.map_err(memory)?;
        store.begin_window(tail);
        if let Some(reason) = self.reason {
            store.act(Action::Failed(reason));
        }
        self.store = Some(store);
        self.stage = Stage::Done;
        self.action = Some(Action::Started);
        Ok(())
    }
}

fn read_superblock(
    block: &[u8],
    hash: page::Hash,
) -> Result<Result<KBox<Superblock>, SuperblockError>, FailReason> {
    match Superblock::read(block, hash) {
        Err(SuperblockError::Memory) => Err(FailReason::Memory),
        read => Ok(read),
    }
}

/// The bytes of a superblock.
fn block_of(superblock: &Superblock, hash: page::Hash) -> Result<Buf, FailReason> {
    let mut buf = zeroed(CLUSTER_SIZE).map_err(|_| FailReason::Memory)?;
    superblock.write(&mut buf, hash);
    Ok(buf)
}

/// Copies a superblock on the heap.
fn copy_superblock(superblock: &Superblock) -> Result<KBox<Superblock>, FailReason> {
    let copy = superblock.try_clone();
    let copy = copy.and_then(|copy| Ok(KBox::new(copy, GFP_KERNEL)?));
    copy.map_err(|_| FailReason::Memory)
}

/// Pages of the segment table that are read together from `page` on: entries, which tell who owns
/// the bitmaps, or bitmaps.
fn table_chunk(layout: &Layout, page: u64) -> u64 {
    let end = match layout.entry_pages() {
        entries if page < entries => entries,
        _ => layout.table_pages(),
    };
    TABLE_CHUNK.min(end - page)
}

fn find_volume(volumes: &[VolumeEntry], id: u32) -> Option<(usize, u64)> {
    let slot = volumes.iter().position(|v| v.id == id)?;
    Some((slot, volumes.get(slot)?.blocks))
}

fn load_entries(space: &mut Space, block: &[u8], page: u64) -> Result<(), PageError> {
    let layout = *space.layout();
    let first = page * SEGMENT_PAGE;
    for slot in 0..SEGMENT_PAGE.min(layout.segments() - first) {
        let entry = SegmentEntry::read(block, slot)?;
        let fixed = first + slot < layout.fixed_segments();
        let bitmap_fits = u64::from(entry.bitmap) < layout.bitmaps;
        let sound = fixed == (entry.kind == SegmentKind::Fixed)
            && (entry.kind != SegmentKind::Metadata || bitmap_fits);
        if !sound {
            return Err(PageError::Entry);
        }
        space.load(entry).map_err(|_| PageError::Entry)?;
    }
    Ok(())
}

fn load_bitmaps(space: &mut Space, block: &[u8], page: u64) -> Result {
    for slot in 0..BITMAP_PAGE {
        let mut bits: Bits = [0; 64];
        for (word, bits) in bits.iter_mut().enumerate() {
            *bits = le::uint::<8>(
                block,
                HEADER_BYTES + slot as usize * BITMAP_BYTES + word * 8,
            );
        }
        space.load_bitmap((page * BITMAP_PAGE + slot) as usize, &bits)?;
    }
    Ok(())
}

/// Keeps a block back until it is known to count.
fn doubt(parts: &mut Scanned, block: &[u8], end: usize) -> Result<(), FailReason> {
    let bad = FailReason::JournalRecord {
        sequence: parts.scan.at.sequence,
    };
    let clusters = parts.superblock.layout.clusters;
    let memory = |_| FailReason::Memory;
    let mut doubtful = Doubtful {
        block: KVec::new(),
        before: parts.scan,
        data: KVec::new(),
        seen: 0,
    };
    let bytes = block.get(..end).ok_or(bad)?;
    let kept = &mut doubtful.block;
    kept.extend_from_slice(bytes, GFP_KERNEL).map_err(memory)?;
    let mut at = codec::HEADER_BYTES;
    while let Some((record, next)) =
        codec::read_record(block, at, end, clusters).map_err(|_| bad)?
    {
        at = next;
        let Record::Map {
            fresh: true,
            changes,
            ..
        } = record
        else {
            continue;
        };
        for change in changes.iter() {
            let seen = (change.cluster, change.check);
            doubtful
                .data
                .push(seen, GFP_KERNEL)
                .map_err(|_| FailReason::Memory)?;
        }
    }
    mark!(recovery_doubts_block);
    parts.doubtful = Some(doubtful);
    Ok(())
}

/// Applies the block that was kept back: it counts.
fn replay_doubtful(parts: &mut Scanned) -> Result<(), FailReason> {
    let Some(doubtful) = parts.doubtful.take() else {
        return Ok(());
    };
    let (block, sequence) = (&doubtful.block, doubtful.before.at.sequence);
    replay(parts, block, block.len(), sequence)
}

/// Applies the records of a block to the overlay: the fold.
fn replay(parts: &mut Scanned, block: &[u8], end: usize, sequence: u64) -> Result<(), FailReason> {
    let bad = FailReason::JournalRecord { sequence };
    let clusters = parts.superblock.layout.clusters;
    let mut at = codec::HEADER_BYTES;
    while let Some((record, next)) =
        codec::read_record(block, at, end, clusters).map_err(|_| bad)?
    {
        let bytes = block.get(at..next).ok_or(bad)?;
        at = next;
        match record {
            Record::Seal(position) => replay_seal(parts, position, bad)?,
            _ if parts.history.is_some() && waits_for_seal(&parts.volumes, &record) => {
                if parts.unsealed.len() + bytes.len() > UNSEALED_BYTES_MAX {
                    return Err(bad);
                }
                let unsealed = &mut parts.unsealed;
                unsealed
                    .extend_from_slice(bytes, GFP_KERNEL)
                    .map_err(|_| FailReason::Memory)?;
            }
            record => replay_record(parts, record, bad)?,
        }
    }
    Ok(())
}

/// Whether a record of a member counts only when a seal follows.
fn waits_for_seal(volumes: &[VolumeEntry], record: &Record<'_>) -> bool {
    match record {
        // The content stays: the history does not tell of it.
        Record::Map { local: true, .. } => false,
        // What is written to a shadow is local.
        Record::Map { volume, .. }
        | Record::Unmap { volume, .. }
        | Record::Discard { volume, .. } => {
            !mutant!(86) && !volumes.iter().any(|v| v.id == *volume && v.shadow)
        }
        Record::Retire { .. } | Record::Quarantine { .. } | Record::Seal(_) => false,
    }
}

/// The end of an epoch: what was read of it counts.
fn replay_seal(parts: &mut Scanned, position: Position, bad: FailReason) -> Result<(), FailReason> {
    let clusters = parts.superblock.layout.clusters;
    let unsealed = core::mem::take(&mut parts.unsealed);
    let mut at = 0;
    while let Some((record, next)) =
        codec::read_record(&unsealed, at, unsealed.len(), clusters).map_err(|_| bad)?
    {
        at = next;
        replay_record(parts, record, bad)?;
    }
    let history = parts.history.as_mut().ok_or(bad)?;
    if !history.may_lead_to(&position) || (mutant!(312) && !history.is_next(&position)) {
        return Err(bad);
    }
    mark!(member_replay_seal);
    let (chain, volumes) = (history.position().chain, &parts.volumes);
    parts
        .tail
        .take(&unsealed, clusters, volumes, chain, position);
    history.append(position);
    parts.unsealed = unsealed;
    parts.unsealed.clear();
    Ok(())
}

/// Applies a record to the overlay.
fn replay_record(
    parts: &mut Scanned,
    record: Record<'_>,
    bad: FailReason,
) -> Result<(), FailReason> {
    let birth = parts.superblock.checkpoint.generation;
    {
        let Scanned {
            overlay,
            space,
            volumes,
            ..
        } = parts;
        let range = |volume: u32, lbn: Lbn, count: u64| {
            let (slot, blocks) = find_volume(volumes, volume).ok_or(bad)?;
            let levels = volumes.get(slot).map_or(1, |v| v.levels);
            if lbn.0 + count <= blocks {
                Ok((slot, levels))
            } else {
                Err(bad)
            }
        };
        let is_data = |space: &Space, cluster: Cluster| {
            space
                .segment(cluster.segment())
                .is_some_and(|s| s.entry.kind == SegmentKind::Data)
        };
        let memory = |_| FailReason::Memory;
        match record {
            Record::Map {
                volume,
                lbn,
                fresh,
                changes,
                local: _,
            } => {
                let count = changes.iter().count();
                let (slot, levels) = range(volume, lbn, count as u64)?;
                overlay.reserve(count, count, 2).map_err(memory)?;
                overlay.note_record();
                for (lbn, change) in (lbn.0..).zip(changes.iter()) {
                    if !is_data(space, change.cluster) {
                        return Err(bad);
                    }
                    let entry = MapEntry {
                        cluster: change.cluster,
                        birth,
                        check: change.check,
                    };
                    overlay.set(slot, Lbn(lbn), entry, levels).map_err(memory)?;
                    if mutant!(24) {
                        let delta = overlay.active.deltas.get_mut(change.cluster.0);
                        delta.into_iter().for_each(|delta| delta.count += 1);
                    }
                    if fresh {
                        overlay
                            .set_name(change.cluster, change.name)
                            .map_err(memory)?;
                        space.replay_taken(change.cluster);
                    }
                }
            }
            Record::Unmap {
                volume, lbn, count, ..
            } => {
                if count > UNMAP_MAX {
                    return Err(bad);
                }
                let (slot, levels) = range(volume, lbn, count)?;
                overlay.reserve(count as usize, 0, 2).map_err(memory)?;
                overlay.note_record();
                for lbn in lbn.0..lbn.0 + count {
                    overlay
                        .set(slot, Lbn(lbn), MapEntry::NONE, levels)
                        .map_err(memory)?;
                }
            }
            Record::Discard { volume, lbn, count } => {
                let (slot, _) = range(volume, lbn, count)?;
                mark!(replay_discard);
                overlay.reserve(0, 0, 4).map_err(memory)?;
                if !mutant!(25) {
                    overlay.punch(slot, lbn, count).map_err(memory)?;
                }
            }
            Record::Retire { cluster, count } => {
                overlay.reserve(0, count as usize, 0).map_err(memory)?;
                mark!(replay_retire);
                for cluster in cluster.0..cluster.0 + count {
                    if !is_data(space, Cluster(cluster)) {
                        return Err(bad);
                    }
                    overlay.retire(Cluster(cluster), true).map_err(memory)?;
                    space.add_erased(Cluster(cluster));
                }
            }
            Record::Quarantine { cluster } => {
                if !is_data(space, cluster) {
                    return Err(bad);
                }
                overlay.reserve(0, 1, 0).map_err(memory)?;
                mark!(replay_quarantine);
                overlay.quarantine(cluster).map_err(memory)?;
            }
            Record::Seal(_) => return Err(bad),
        }
        if !overlay.is_of_two_sets() {
            return Err(bad);
        }
    }
    Ok(())
}
