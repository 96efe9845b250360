// SPDX-License-Identifier: GPL-2.0

//! Making a store: the blocks of an empty one, with its volumes.

use super::births::Births;
use super::buf::zeroed;
use super::format::index::SavedIndex;
use super::format::layout::{Layout, SELECT_PAGES_MAX, STORE_CLUSTERS_MIN};
use super::format::page::VOLUME_LEAF;
use super::format::page::{self, levels_for, tree, Hash, PageId, Pointer, SegmentEntry};
use super::format::page::{SegmentKind, VolumeEntry, HEADER_BYTES, MAP_LEAF, SEGMENT_PAGE};
use super::format::superblock::{Checkpoint, Join, Superblock};
use super::format::{journal, le};
use super::replication::record::Record;
use super::replication::types::{Id, NO_ID};
use super::types::{Cluster, FingerprintAlgorithm, Generation, SEGMENT_CLUSTERS};
use super::types::{CLUSTER_SIZE, LBN_LIMIT};
use super::Buf;
use kernel::prelude::*;

/// Slots at the start of the store, and again behind the segment table: two of the superblock,
/// and two for configurations, which hold zeroes in a store that is in no replica set.
const FIXED_SLOTS: u64 = 4;

/// The most volumes that a member begins with.
pub const VOLUMES_AT_FORMAT_MAX: usize = VOLUME_LEAF as usize;

/// A volume of a replica set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Names it in all stores of the set.
    pub uuid: Id,
    /// Its blocks.
    pub blocks: u64,
}

/// What makes a new store a member of a replica set. Its `check_key` is the set's.
#[derive(Clone, Copy, Debug)]
pub struct MemberParams<'a> {
    /// The configuration that it begins with, which need not name it, and the promise.
    pub record: &'a Record,
    /// The set's volumes; without any it begins with its own first one.
    pub volumes: &'a [Volume],
}

/// What a new store is to be.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// Clusters of the device.
    pub clusters: u64,
    /// Clusters of the journal ring; 0 chooses.
    pub journal_clusters: u64,
    /// Blocks of the first volume; 0 makes it as large as the store.
    pub volume_blocks: u64,
    /// Names the store; random.
    pub uuid: [u8; 16],
    /// Names the first volume; random.
    pub volume_uuid: [u8; 16],
    /// UTF-8, padded with zeroes.
    pub label: [u8; 64],
    /// How fingerprints are made.
    pub fingerprint: FingerprintAlgorithm,
    /// Key of a fast fingerprint; random.
    pub name_key: u64,
    /// Key of the checks; random.
    pub check_key: u64,
    /// XXH64.
    pub hash: Hash,
    /// It becomes a member of a replica set, which is for good.
    pub member: Option<MemberParams<'a>>,
}

/// One step of making a store, to be done in order.
pub enum Step<'a> {
    /// Write this from this cluster on.
    Write(Cluster, &'a [u8]),
    /// Make everything so far durable.
    Flush,
}

/// Why a store can't be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MkfsError<E> {
    /// The device has fewer than this many clusters, or more than are supported.
    Size {
        /// The fewest clusters.
        min: u64,
    },
    /// A volume has more blocks than are supported, or none.
    VolumeSize,
    /// There are more volumes than [`VOLUMES_AT_FORMAT_MAX`], or two have the same UUID.
    Volumes,
    /// A member needs a cryptographic fingerprint: between stores it names content.
    Fingerprint,
    /// No store believes a record like that of the member.
    Record,
    /// Out of memory.
    Memory,
    /// The device failed.
    Device(E),
}

/// Makes a store by `step`. An interrupted run leaves a device that can't be attached.
pub fn format<E>(
    params: &Params<'_>,
    step: &mut dyn FnMut(Step<'_>) -> Result<(), E>,
) -> Result<Superblock, MkfsError<E>> {
    let size = MkfsError::Size {
        min: STORE_CLUSTERS_MIN,
    };
    let layout = Layout::new(params.clusters, params.journal_clusters).ok_or(size)?;
    let blocks = match params.volume_blocks {
        0 => layout.clusters - layout.fixed_segments() * SEGMENT_CLUSTERS,
        given => given,
    };
    let own = [Volume {
        uuid: params.volume_uuid,
        blocks,
    }];
    let volumes = match params.member {
        Some(MemberParams { volumes, .. }) if !volumes.is_empty() => volumes,
        _ => &own,
    };
    check_volumes(volumes)?;
    if params.member.is_some() && !params.fingerprint.is_cryptographic() {
        return Err(MkfsError::Fingerprint);
    }
    let zeroes: Buf = zeroed(CLUSTER_SIZE).map_err(|_| MkfsError::Memory)?;
    let mut buf: Buf = zeroed(CLUSTER_SIZE).map_err(|_| MkfsError::Memory)?;
    let mut write = |step_: Step<'_>| step(step_).map_err(MkfsError::Device);
    // Recovery that finds no copy at the start looks where a default layout has the distant ones,
    // so those of an older store have to go too, or an interrupted run would bring it back.
    for layout in [Some(layout), Layout::new(params.clusters, 0)]
        .into_iter()
        .flatten()
    {
        for slot in 0..FIXED_SLOTS {
            for place in [
                Layout::superblock(slot, None),
                Layout::superblock(slot, Some(&layout)),
            ] {
                write(Step::Write(place, &zeroes))?;
            }
        }
    }
    write(Step::Flush)?;

    // The first metadata segment holds the pages that the superblock points to.
    let first = layout.fixed_segments() * SEGMENT_CLUSTERS;
    let pages = 1 + layout.select_pages();
    let birth = Generation(1);
    let mut put = |buf: &mut [u8], id: PageId, place: Cluster| {
        let sum = page::seal(buf, params.hash, &params.uuid, id, place, birth, 1);
        write(Step::Write(place, buf))?;
        Ok(Pointer {
            place,
            highest: place.0,
            sum,
            birth,
            checkpoint: 1,
        })
    };
    for (slot, volume) in volumes.iter().enumerate() {
        let entry = VolumeEntry {
            id: slot as u32 + 1,
            uuid: volume.uuid,
            blocks: volume.blocks,
            generation: birth,
            parent_generation: Generation(0),
            origin: 0,
            levels: levels_for(volume.blocks, MAP_LEAF),
            root: Pointer::NULL,
            keeps: None,
            shadow: false,
            map: slot as u32 + 1,
        };
        entry.write(&mut buf, slot as u64);
    }
    let volume_table = put(
        &mut buf,
        PageId {
            tree: tree::VOLUMES,
            level: 0,
            index: 0,
        },
        Cluster(first),
    )?;
    let mut select = KVec::from_elem(Pointer::NULL, SELECT_PAGES_MAX, GFP_KERNEL)
        .map_err(|_| MkfsError::Memory)?;
    for index in 0..layout.select_pages() {
        buf.as_mut_slice().fill(0);
        let id = PageId {
            tree: tree::SELECT,
            level: 0,
            index,
        };
        let pointer = put(&mut buf, id, Cluster(first + 1 + index))?;
        if let Some(slot) = select.get_mut(index as usize) {
            *slot = pointer;
        }
    }
    for table_page in 0..layout.table_pages() {
        buf.as_mut_slice().fill(0);
        let entries = layout.entry_pages();
        if table_page < entries {
            let base = table_page * SEGMENT_PAGE;
            for slot in 0..SEGMENT_PAGE.min(layout.segments() - base) {
                segment_entry(base + slot, &layout, pages).write(&mut buf, slot);
            }
        }
        if table_page == entries {
            le::put_uint::<8>(&mut buf, HEADER_BYTES, (1 << pages) - 1);
        }
        let id = PageId {
            tree: tree::SEGMENTS,
            level: 0,
            index: table_page,
        };
        put(&mut buf, id, layout.table_place(table_page, false))?;
    }
    let chain = journal::join_chain(0, 1, params.hash);
    let join = Join {
        incarnation: 1,
        sequence: 1,
        offset: 0,
        chain,
    };
    let joins = KVec::from_elem(join, 1, GFP_KERNEL).map_err(|_| MkfsError::Memory)?;
    let mut superblock = Superblock {
        uuid: params.uuid,
        label: params.label,
        generation: 1,
        incarnation: 1,
        layout,
        fingerprint: params.fingerprint,
        name_key: params.name_key,
        check_key: params.check_key,
        clean: true,
        read_only_features: 0,
        checkpoint: Checkpoint {
            number: 1,
            generation: Generation(1),
            attached_seconds: 0,
            next_volume: volumes.len() as u32 + 1,
            volume_count: volumes.len() as u64,
            punch_count: 0,
            volumes: volume_table,
            ..Checkpoint::default()
        },
        index: SavedIndex::default(),
        select,
        joins,
        member: params.member.is_some(),
        ends: KVec::new(),
        births: Births::default(),
    };
    if let Some(member) = params.member {
        // As of the superblocks: an intact generation in each slot.
        for generation in [2, 3] {
            let slot = slot_of(member.record, params, generation)?;
            let number = 2 + generation % 2;
            for place in [
                Layout::superblock(number, None),
                Layout::superblock(number, Some(&layout)),
            ] {
                write(Step::Write(place, &slot))?;
            }
        }
    }
    // Both slots hold an intact generation from the start.
    for generation in [1, 2] {
        write(Step::Flush)?;
        superblock.generation = generation;
        buf.as_mut_slice().fill(0);
        superblock.write(&mut buf, params.hash);
        for place in superblock.places() {
            write(Step::Write(place, &buf))?;
        }
    }
    write(Step::Flush)?;
    Ok(superblock)
}

fn check_volumes<E>(volumes: &[Volume]) -> Result<(), MkfsError<E>> {
    let is_possible = |v: &Volume| (1..=LBN_LIMIT).contains(&v.blocks);
    if !volumes.iter().all(is_possible) {
        return Err(MkfsError::VolumeSize);
    }
    let same = |v: &Volume| volumes.iter().filter(|o| o.uuid == v.uuid).count() > 1;
    let unnamed = |v: &Volume| v.uuid == NO_ID;
    if volumes.len() > VOLUMES_AT_FORMAT_MAX || volumes.iter().any(|v| same(v) || unnamed(v)) {
        return Err(MkfsError::Volumes);
    }
    Ok(())
}

/// A configuration slot, which an attach will believe.
fn slot_of<E>(record: &Record, params: &Params<'_>, generation: u64) -> Result<Buf, MkfsError<E>> {
    let slot = record.write(&params.uuid, generation, params.hash);
    let slot = slot.map_err(|_| MkfsError::Memory)?;
    match Record::read(&slot, &params.uuid, params.hash) {
        Ok(Some(_)) => Ok(slot),
        Ok(None) => Err(MkfsError::Record),
        Err(_) => Err(MkfsError::Memory),
    }
}

fn segment_entry(segment: u64, layout: &Layout, pages: u64) -> SegmentEntry {
    let fixed = layout.fixed_segments();
    let (kind, available, live) = match segment {
        s if s < fixed => (SegmentKind::Fixed, 0, 0),
        s if s == fixed => (SegmentKind::Metadata, 0, pages as u16),
        _ => (SegmentKind::Data, SEGMENT_CLUSTERS as u16, 0),
    };
    SegmentEntry {
        kind,
        available,
        junk: 0,
        live,
        bitmap: 0,
    }
}
