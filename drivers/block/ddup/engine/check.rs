// SPDX-License-Identifier: GPL-2.0

//! The whole check of a store: every invariant of its durable checkpoint, by walking everything,
//! and whether the journal behind it can be followed.
//!
//! - Each count equals the entries that own the cluster; what is Available or Junk has no owner.
//! - No cluster that is Available has a name.
//! - The pages that the trees reach are exactly those that the bitmaps of the metadata segments
//!   show, and none is reached twice.
//! - The segment table's counts are those of the clusters.
//! - The saved index is intact, lies where nothing else does, and says of no cluster what its name
//!   does not say.
//! - An attach would find nothing wrong with superblocks, lists and journal.
//!
//! A page that can't be believed is one finding: what would follow from it alone is not reported.
//!
//! Needs about four bytes of memory for each cluster of the store.

use super::buf::zeroed;
use super::format::index as saved;
use super::format::layout::Layout;
use super::format::le;
use super::format::page::{self, levels_for, tree, CountEntry, Hash, MapEntry, PageId, Pointer};
use super::format::page::{PageError, PunchEntry, SegmentEntry, SegmentKind, VolumeEntry};
use super::format::page::{BITMAP_BYTES, BITMAP_PAGE, COUNT_LEAF, FANOUT, HEADER_BYTES, MAP_LEAF};
use super::format::page::{NAME_LEAF, PUNCH_LEAF, SEGMENT_PAGE, SELECT_PAGE, VOLUME_LEAF};
use super::format::superblock::{Superblock, SuperblockError};
use super::index::{bucket_of, tag};
use super::replication::record::Record;
use super::types::{Check, Cluster, Name, CHECK_MASK, CLUSTER_SIZE, SEGMENT_CLUSTERS};
use super::{Action, Buf, Config, DataResult, Engine, FailReason, Knobs};
use core::fmt;
use kernel::prelude::*;

/// Where pages come from.
pub trait PageSource {
    /// Fills `page` (4096 bytes) from `cluster`.
    fn read(&mut self, cluster: Cluster, page: &mut [u8]) -> Result;
}

/// Something that is wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A copy of the superblock is not intact.
    Superblock {
        /// Its place.
        place: Cluster,
        /// Why.
        error: SuperblockError,
    },
    /// A copy of a configuration slot is not intact.
    ConfigSlot {
        /// Its place.
        place: Cluster,
        /// Nothing was written there, though the store is a member of a replica set.
        empty: bool,
    },
    /// The history ends in a term that no member was promised.
    HistoryTerm {
        /// That of the history.
        term: u64,
        /// The highest that the configuration slots know.
        promise: u64,
    },
    /// The store is attached read-only, or not at all, for this reason.
    Attach {
        /// The reason.
        reason: FailReason,
    },
    /// A page can't be read or believed; what is below it was not checked.
    Page {
        /// Which.
        id: PageId,
        /// Where.
        place: Cluster,
        /// Why.
        error: PageError,
    },
    /// A count differs from the number of owning entries.
    Count {
        /// The cluster.
        cluster: Cluster,
        /// The state and count on disk.
        stored: CountEntry,
        /// Entries that own it, as far as they could be read.
        owners: u64,
    },
    /// A map entry or a count is that of a cluster outside of data segments.
    NotData {
        /// The cluster.
        cluster: Cluster,
    },
    /// An Available cluster has a name.
    StaleName {
        /// The cluster.
        cluster: Cluster,
    },
    /// Two pages lie in the same cluster.
    DoubleUse {
        /// The cluster.
        cluster: Cluster,
    },
    /// A metadata cluster is in use without being reached, or reached without being in use.
    Bitmap {
        /// The cluster.
        cluster: Cluster,
        /// Whether a page lies there.
        reached: bool,
    },
    /// A segment's counts differ from those of its clusters.
    Segment {
        /// Its number.
        segment: u64,
    },
    /// A chunk of the saved index can't be read or believed, or lies where something else does.
    IndexChunk {
        /// Its place.
        place: Cluster,
    },
    /// The saved index says of a cluster what its name does not say.
    IndexEntry {
        /// The cluster.
        cluster: Cluster,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock { place, error } => {
                write!(f, "superblock at cluster {}: ", place.0)?;
                match error {
                    SuperblockError::Magic => f.write_str("no ddup superblock"),
                    SuperblockError::Checksum => f.write_str("checksum mismatch or read error"),
                    SuperblockError::Version(v) => write!(f, "unknown format version {v}"),
                    SuperblockError::Features(bits) => {
                        write!(f, "unknown incompatible features {bits:#x}")
                    }
                    SuperblockError::Field => f.write_str("a field holds an impossible value"),
                    SuperblockError::Memory => f.write_str("memory is short"),
                }
            }
            Self::ConfigSlot { place, empty } => {
                write!(f, "configuration slot at cluster {}: ", place.0)?;
                f.write_str(match empty {
                    true => "empty, in a member of a replica set",
                    false => "checksum mismatch, read error, or of another store or slot",
                })
            }
            Self::HistoryTerm { term, promise } => write!(
                f,
                "the history ends in term {term}, but no term above {promise} was promised"
            ),
            Self::Attach { reason } => write!(f, "cannot be attached for writing: {reason}"),
            Self::Page { id, place, error } => {
                write_page(f, id)?;
                let why = match error {
                    PageError::Checksum => "checksum mismatch or read error",
                    PageError::Misplaced => "it is another page, or another version of it",
                    PageError::Entry => "an entry holds an impossible value",
                };
                write!(f, " at cluster {}: {why}", place.0)
            }
            Self::Count {
                cluster,
                stored,
                owners,
            } => {
                write!(f, "cluster {} is ", cluster.0)?;
                match stored {
                    CountEntry::Available => f.write_str("available")?,
                    CountEntry::Live(count) => write!(f, "live with a count of {count}")?,
                    CountEntry::Junk { .. } => f.write_str("junk")?,
                    CountEntry::Quarantined => f.write_str("quarantined")?,
                    CountEntry::LiveQuarantined(count) => {
                        write!(f, "quarantined with a count of {count}")?;
                    }
                }
                write!(f, ", but {owners} map entries own it")
            }
            Self::NotData { cluster } => write!(
                f,
                "cluster {} is used for data, but does not lie in a data segment",
                cluster.0
            ),
            Self::StaleName { cluster } => {
                write!(f, "cluster {} is available, but has a name", cluster.0)
            }
            Self::DoubleUse { cluster } => {
                write!(f, "two metadata pages claim cluster {}", cluster.0)
            }
            Self::Bitmap { cluster, reached } => match reached {
                true => write!(
                    f,
                    "a metadata page lies in cluster {}, which is not marked as in use",
                    cluster.0
                ),
                false => write!(
                    f,
                    "cluster {} is marked as in use, but no metadata page lies there (leaked)",
                    cluster.0
                ),
            },
            Self::Segment { segment } => write!(
                f,
                "the segment table's counts of segment {segment} differ from its clusters"
            ),
            Self::IndexChunk { place } => write!(
                f,
                "the saved index is damaged at cluster {} (it will be made anew)",
                place.0
            ),
            Self::IndexEntry { cluster } => write!(
                f,
                "the saved index has cluster {} under a name that is not its own",
                cluster.0
            ),
        }
    }
}

fn write_page(f: &mut fmt::Formatter<'_>, id: &PageId) -> fmt::Result {
    let (level, index) = (id.level, id.index);
    match id.tree {
        tree::NAMES => f.write_str("name tree")?,
        tree::COUNTS => f.write_str("count tree")?,
        tree::VOLUMES => f.write_str("volume table")?,
        tree::PUNCHES => f.write_str("pending discards")?,
        tree::SELECT => f.write_str("segment table's selector")?,
        tree::SEGMENTS => f.write_str("segment table")?,
        map => write!(f, "map {map}")?,
    }
    write!(f, ", level {level}, page {index},")
}

/// What a check counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Things that are wrong.
    pub findings: u64,
    /// Pages of trees.
    pub pages: u64,
    /// Mapped blocks.
    pub mapped: u64,
    /// Live clusters.
    pub live: u64,
    /// Junk clusters.
    pub junk: u64,
}

struct Checker<'a> {
    source: &'a mut dyn PageSource,
    report: &'a mut dyn FnMut(Finding),
    hash: Hash,
    superblock: KBox<Superblock>,
    /// `None`: its page of the segment table can't be believed.
    segments: KVVec<Option<SegmentEntry>>,
    bitmaps: KVVec<u64>,
    /// Pages with bitmaps that can be believed.
    bitmaps_known: KVVec<bool>,
    /// Entries that own each cluster; later what the saved index says of it, 0 for nothing.
    owners: KVVec<u32>,
    /// One bit a cluster: a page lies there.
    reached: KVVec<u64>,
    /// One bit a cluster: the count tree says that it is not Available.
    unavailable: KVVec<u64>,
    tallies: KVVec<[u16; 3]>,
    /// All leaves of all maps were read: `owners` is whole.
    maps_whole: bool,
    /// All leaves of the name tree were read.
    names_whole: bool,
    /// All interior pages were read: `reached` is whole.
    pages_whole: bool,
    /// Ranges of clusters whose counts could not be read.
    counts_lost: KVec<(u64, u64)>,
    summary: Summary,
}

/// Bucket and tag in 32 bits, never 0.
fn digest(bucket: u64, tag: u16) -> u32 {
    let mixed = (bucket << 16 | u64::from(tag)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}

/// What is done with the leaves of a tree: the leaf's index and the leaf. False: it holds an entry
/// that no writer writes.
type Visit<'v, 'a> = &'v mut dyn FnMut(&mut Checker<'a>, u64, &[u8]) -> bool;

/// Checks a store. What is wrong goes to `report`, one by one, and is counted in the summary.
/// `Err`: memory is short.
pub fn check(
    source: &mut dyn PageSource,
    device_clusters: u64,
    hash: Hash,
    report: &mut dyn FnMut(Finding),
) -> Result<Summary> {
    let mut buf = zeroed(CLUSTER_SIZE)?;
    let mut newest: Option<KBox<Superblock>> = None;
    let mut findings = 0;
    for number in 0..4 {
        let layout = newest
            .as_ref()
            .map(|s| s.layout)
            .or(Layout::new(device_clusters, 0));
        let slot = number % 2;
        let place = match (number, layout) {
            (0 | 1, _) => Layout::superblock(slot, None),
            (_, Some(layout)) => Layout::superblock(slot, Some(&layout)),
            (_, None) => continue,
        };
        let result = source
            .read(place, &mut buf)
            .map_err(|_| SuperblockError::Checksum)
            .and_then(|()| Superblock::read(&buf, hash));
        match result {
            Ok(found) => {
                let newer = |n: &KBox<Superblock>| n.generation < found.generation;
                if newest.as_ref().is_none_or(newer) {
                    newest = Some(found);
                }
            }
            Err(SuperblockError::Memory) => return Err(ENOMEM),
            Err(error) => {
                findings += 1;
                report(Finding::Superblock { place, error });
            }
        }
    }
    if let Some(member) = newest.as_ref().filter(|s| s.member) {
        findings += check_slots(source, member, hash, &mut buf, report)?;
    }
    // A damaged page of the segment table or of a list is found again below, in its place.
    let mut reason = try_attach(source, device_clusters, hash)?;
    let features = newest.as_ref().map_or(0, |s| s.read_only_features);
    if reason.is_none() && features != 0 {
        reason = Some(FailReason::ReadOnlyFeatures(features));
    }
    match reason {
        None | Some(FailReason::Page { .. }) => {}
        Some(reason) => {
            findings += 1;
            report(Finding::Attach { reason });
        }
    }
    let fits = newest.filter(|s| s.layout.clusters <= device_clusters);
    let Some(superblock) = fits else {
        return Ok(Summary {
            findings,
            ..Summary::default()
        });
    };
    let summary = Summary {
        findings,
        ..Summary::default()
    };
    walk_all(source, superblock, hash, report, &mut || {}, summary)
}

/// Checks a checkpoint that is pinned while its store is attached, by its superblock. Calls
/// `table_read` when the segment table has been read and may change. What comes after the
/// checkpoint, the journal above all, is not looked at. `Err`: memory is short, or `EINVAL`: the
/// superblock is none.
pub fn check_pinned(
    source: &mut dyn PageSource,
    superblock: &[u8],
    device_clusters: u64,
    hash: Hash,
    report: &mut dyn FnMut(Finding),
    table_read: &mut dyn FnMut(),
) -> Result<Summary> {
    let superblock = Superblock::read(superblock, hash).map_err(|error| match error {
        SuperblockError::Memory => ENOMEM,
        _ => EINVAL,
    })?;
    if superblock.layout.clusters > device_clusters {
        return Err(EINVAL);
    }
    let summary = Summary::default();
    walk_all(source, superblock, hash, report, table_read, summary)
}

/// Reads all that a checkpoint refers to.
fn walk_all(
    source: &mut dyn PageSource,
    superblock: KBox<Superblock>,
    hash: Hash,
    report: &mut dyn FnMut(Finding),
    table_read: &mut dyn FnMut(),
    summary: Summary,
) -> Result<Summary> {
    let mut buf = zeroed(CLUSTER_SIZE)?;
    let layout = superblock.layout;
    let clusters = layout.clusters as usize;
    let bitmap_pages = (layout.table_pages() - layout.entry_pages()) as usize;
    let words_a_page = BITMAP_PAGE as usize * BITMAP_BYTES / 8;
    let segments = layout.segments() as usize;
    let mut checker = Checker {
        source,
        report,
        hash,
        segments: KVVec::with_capacity(segments, GFP_KERNEL)?,
        bitmaps: KVVec::from_elem(0, bitmap_pages * words_a_page, GFP_KERNEL)?,
        bitmaps_known: KVVec::from_elem(true, bitmap_pages, GFP_KERNEL)?,
        owners: KVVec::from_elem(0, clusters, GFP_KERNEL)?,
        reached: KVVec::from_elem(0, clusters / 64, GFP_KERNEL)?,
        unavailable: KVVec::from_elem(0, clusters / 64, GFP_KERNEL)?,
        tallies: KVVec::from_elem([0; 3], segments, GFP_KERNEL)?,
        maps_whole: true,
        names_whole: true,
        pages_whole: true,
        counts_lost: KVec::new(),
        superblock,
        summary,
    };
    checker.load_tables(&mut buf)?;
    table_read();
    checker.run()?;
    Ok(checker.summary)
}

/// Checks the configuration slots of a member of a replica set, and answers the findings.
fn check_slots(
    source: &mut dyn PageSource,
    superblock: &Superblock,
    hash: Hash,
    buf: &mut [u8],
    report: &mut dyn FnMut(Finding),
) -> Result<u64> {
    let mut findings = 0;
    let mut promise = None;
    for number in 0..4 {
        let slot = number % 2;
        let layout = (number >= 2).then_some(&superblock.layout);
        let place = Layout::superblock(2 + slot, layout);
        let readable = source.read(place, buf).is_ok();
        let record = match readable {
            true => Record::read(buf, &superblock.uuid, hash)?,
            false => None,
        };
        match record.filter(|(generation, _)| generation % 2 == slot) {
            Some((_, record)) => promise = promise.max(Some(record.promise)),
            None => {
                let empty = readable && buf.iter().all(|byte| *byte == 0);
                findings += 1;
                report(Finding::ConfigSlot { place, empty });
            }
        }
    }
    let term = superblock.history()?.position().term;
    if let Some(promise) = promise.filter(|promise| *promise < term) {
        findings += 1;
        report(Finding::HistoryTerm { term, promise });
    }
    Ok(findings)
}

/// Attaches the store read-only, and answers what stands against an attach for writing.
fn try_attach(
    source: &mut dyn PageSource,
    device_clusters: u64,
    hash: Hash,
) -> Result<Option<FailReason>> {
    let config = Config {
        store_clusters: device_clusters,
        read_only: true,
        queue_depth: 1,
        cache_pages: 64,
        index_bytes: 64,
        fresh: [[0; 16]; 2],
        points_max: 1024,
        hash,
        knobs: Knobs::default(),
    };
    let mut engine = Engine::new(config)?;
    engine.start(0);
    while let Some(action) = engine.poll_action(0) {
        match action {
            Action::ReadMeta {
                token,
                cluster,
                mut buf,
            } => {
                let mut ok = true;
                for (page, cluster) in buf.chunks_exact_mut(CLUSTER_SIZE).zip(cluster.0..) {
                    ok &= source.read(Cluster(cluster), page).is_ok();
                }
                engine.meta_done(0, token, buf, ok);
            }
            Action::VerifyData {
                cluster,
                check,
                check_key,
                mut buf,
            } => {
                let result = match source.read(cluster, &mut buf) {
                    Ok(()) if Check(hash(&buf, check_key) & CHECK_MASK) == check => DataResult::Ok,
                    Ok(()) => DataResult::Mismatch,
                    Err(_) => DataResult::Failed,
                };
                engine.verify_done(0, buf, result);
            }
            Action::Failed(FailReason::Memory) => return Err(ENOMEM),
            Action::Failed(reason) => return Ok(Some(reason)),
            _ => {}
        }
    }
    Ok(None)
}

impl<'a> Checker<'a> {
    fn find(&mut self, finding: Finding) {
        self.summary.findings += 1;
        (self.report)(finding);
    }

    fn run(&mut self) -> Result {
        let volumes = self.check_lists()?;
        for volume in volumes.iter() {
            let parent = volume.parent_generation;
            let mut visit = |this: &mut Self, _, page: &[u8]| {
                for slot in 0..MAP_LEAF {
                    let entry = MapEntry::read(page, slot);
                    if entry.is_mapped() {
                        this.summary.mapped += 1;
                        if entry.birth > parent {
                            this.own(entry.cluster);
                        }
                    }
                }
                true
            };
            self.walk(volume.map, volume.root, volume.levels, &mut visit)?;
        }
        let checkpoint = self.superblock.checkpoint;
        let clusters = self.superblock.layout.clusters;
        let levels = levels_for(clusters, COUNT_LEAF);
        let mut visit = |this: &mut Self, index, page: &[u8]| {
            for slot in 0..COUNT_LEAF {
                let entry = CountEntry::read(page, slot);
                if entry != CountEntry::Available {
                    this.compare(Cluster(index * COUNT_LEAF + slot), entry);
                }
            }
            true
        };
        self.walk(tree::COUNTS, checkpoint.counts, levels, &mut visit)?;
        // What has owners still was not met in the count tree.
        for cluster in 0..clusters {
            let owners = self.owners.get(cluster as usize).copied().unwrap_or(0);
            if owners > 0 && !self.count_is_lost(cluster, cluster + 1) {
                self.find(Finding::Count {
                    cluster: Cluster(cluster),
                    stored: CountEntry::Available,
                    owners: owners.into(),
                });
            }
        }
        self.owners.as_mut_slice().fill(0);
        self.load_index()?;
        let levels = levels_for(clusters, NAME_LEAF);
        let buckets = self.superblock.index.buckets;
        let mut visit = |this: &mut Self, index, page: &[u8]| {
            for slot in 0..NAME_LEAF {
                let cluster = index * NAME_LEAF + slot;
                let name = page::name_read(page, slot);
                if let Some(indexed) = this.owners.get_mut(cluster as usize) {
                    if *indexed == digest(bucket_of(&name, buckets), tag(&name)) {
                        *indexed = 0;
                    }
                }
                let word = this.unavailable.get(cluster as usize / 64);
                let available = word.is_none_or(|word| word >> (cluster % 64) & 1 == 0);
                if name != Name::NONE && available && !this.count_is_lost(cluster, cluster + 1) {
                    this.find(Finding::StaleName {
                        cluster: Cluster(cluster),
                    });
                }
            }
            true
        };
        self.walk(tree::NAMES, checkpoint.names, levels, &mut visit)?;
        for cluster in 0..clusters {
            let indexed = self.owners.get(cluster as usize).copied().unwrap_or(0);
            if indexed != 0 && self.names_whole {
                self.find(Finding::IndexEntry {
                    cluster: Cluster(cluster),
                });
            }
        }
        self.compare_segments();
        Ok(())
    }

    /// Reads the saved index, and notes at each cluster under which name it stands.
    fn load_index(&mut self) -> Result {
        let index = self.superblock.index;
        let (mut place, mut first) = (index.place, 0);
        if !index.exists() {
            return Ok(());
        }
        let mut chunk = KVec::from_elem(0, saved::CHUNK_BYTES, GFP_KERNEL)?;
        for number in 0..index.chunks.max(1) {
            let Some(header) = self.read_chunk(place, &mut chunk) else {
                self.find(Finding::IndexChunk { place });
                return Ok(());
            };
            let end = header.first.saturating_add(header.buckets);
            let last = number + 1 == index.chunks;
            let mut sound = (header.place, header.number, header.first) == (place, number, first)
                && header.checkpoint == self.superblock.checkpoint.number
                && last == (header.next == Cluster::NONE)
                && last == (end == index.buckets);
            let mut note = |bucket, tag, cluster: Cluster| {
                match self.owners.get_mut(cluster.0 as usize) {
                    Some(at) if *at == 0 => *at = digest(bucket, tag),
                    _ => self.find(Finding::IndexEntry { cluster }),
                };
            };
            sound &= saved::read_entries(&chunk, &header, &mut note);
            if !sound {
                self.find(Finding::IndexChunk { place });
                return Ok(());
            }
            (place, first) = (header.next, end);
        }
        Ok(())
    }

    /// A chunk of the saved index, if it is intact and lies in Available clusters.
    fn read_chunk(&mut self, place: Cluster, chunk: &mut Buf) -> Option<saved::ChunkHeader> {
        if place.0 > self.superblock.layout.clusters - saved::CHUNK_CLUSTERS {
            return None;
        }
        for (page, at) in chunk.chunks_exact_mut(CLUSTER_SIZE).zip(place.0..) {
            let word = self.unavailable.get(at as usize / 64)?;
            let available = word >> (at % 64) & 1 == 0;
            if !available || !matches!(self.kind(Cluster(at)), None | Some(SegmentKind::Data)) {
                return None;
            }
            self.source.read(Cluster(at), page).ok()?;
        }
        saved::header(chunk, self.hash, &self.superblock.uuid)
    }

    /// Reads the volume table and the pending discards.
    fn check_lists(&mut self) -> Result<KVec<VolumeEntry>> {
        let checkpoint = self.superblock.checkpoint;
        let (mut volumes, mut memory) = (KVec::<VolumeEntry>::new(), Ok(()));
        let mut visit = |page: &[u8], slot| {
            let Ok(Some(volume)) = VolumeEntry::read(page, slot) else {
                return false;
            };
            let same = |v: &VolumeEntry| v.id == volume.id || v.map == volume.map;
            let highest = volume.id.max(volume.map);
            if highest >= checkpoint.next_volume || volumes.iter().any(same) {
                return false;
            }
            if volumes.push(volume, GFP_KERNEL).is_err() {
                memory = Err(ENOMEM);
            }
            true
        };
        let (root, count) = (checkpoint.volumes, checkpoint.volume_count);
        self.walk_list(tree::VOLUMES, root, count, VOLUME_LEAF, &mut visit)?;
        memory?;
        let mut visit = |page: &[u8], slot| {
            let Ok(Some(punch)) = PunchEntry::read(page, slot) else {
                return false;
            };
            let volume = volumes.iter().find(|v| v.id == punch.volume);
            // A volume table that could not be read was reported; these can't be judged then.
            volumes.is_empty() || volume.is_some_and(|v| punch.start.0 + punch.count <= v.blocks)
        };
        let (root, count) = (checkpoint.punches, checkpoint.punch_count);
        self.walk_list(tree::PUNCHES, root, count, PUNCH_LEAF, &mut visit)?;
        if (volumes.len() as u64) < checkpoint.volume_count {
            self.maps_whole = false;
            self.pages_whole = false;
        }
        Ok(volumes)
    }

    /// The kind of a segment; `None` if that is not known.
    fn kind(&self, cluster: Cluster) -> Option<SegmentKind> {
        match self.segments.get(cluster.segment()) {
            Some(entry) => entry.map(|entry| entry.kind),
            None => Some(SegmentKind::Fixed),
        }
    }

    fn own(&mut self, cluster: Cluster) {
        let data = matches!(self.kind(cluster), None | Some(SegmentKind::Data));
        match self.owners.get_mut(cluster.0 as usize) {
            Some(owners) if data => *owners = owners.saturating_add(1),
            _ => self.find(Finding::NotData { cluster }),
        }
    }

    fn count_is_lost(&self, from: u64, to: u64) -> bool {
        self.counts_lost.iter().any(|r| from < r.1 && to > r.0)
    }

    /// Compares a cluster's state with its owners, and forgets those.
    fn compare(&mut self, cluster: Cluster, stored: CountEntry) {
        let at = cluster.0 as usize;
        if let Some(word) = self.unavailable.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
        let owners = match self.owners.get_mut(at) {
            Some(owners) => u64::from(core::mem::take(owners)),
            None => 0,
        };
        let (expected, class) = match stored {
            CountEntry::Available => (0, 0),
            CountEntry::Junk { .. } => (0, 1),
            CountEntry::Live(count) | CountEntry::LiveQuarantined(count) => (count.into(), 2),
            CountEntry::Quarantined => (0, 2),
        };
        match class {
            1 => self.summary.junk += 1,
            _ => self.summary.live += 1,
        }
        if let Some(tally) = self.tallies.get_mut(cluster.segment()) {
            if let Some(count) = tally.get_mut(class) {
                *count += 1;
            }
        }
        if !matches!(self.kind(cluster), None | Some(SegmentKind::Data)) {
            self.find(Finding::NotData { cluster });
        } else if owners > expected || (owners < expected && self.maps_whole) {
            self.find(Finding::Count {
                cluster,
                stored,
                owners,
            });
        }
    }

    fn compare_segments(&mut self) {
        for number in 0..self.segments.len() {
            let first = number as u64 * SEGMENT_CLUSTERS;
            let (Some(&Some(entry)), Some(&[_, junk, live])) =
                (self.segments.get(number), self.tallies.get(number))
            else {
                continue;
            };
            let available = SEGMENT_CLUSTERS as u16 - junk - live;
            let sound = match entry.kind {
                SegmentKind::Data => {
                    (entry.available, entry.junk, entry.live) == (available, junk, live)
                        || self.count_is_lost(first, first + SEGMENT_CLUSTERS)
                }
                SegmentKind::Metadata => self.compare_bitmap(number, entry),
                SegmentKind::Fixed => true,
            };
            if !sound {
                self.find(Finding::Segment {
                    segment: number as u64,
                });
            }
        }
    }

    /// Compares a metadata segment's bitmap with the pages that were reached.
    fn compare_bitmap(&mut self, number: usize, entry: SegmentEntry) -> bool {
        let page = entry.bitmap as usize / BITMAP_PAGE as usize;
        match self.bitmaps_known.get(page) {
            Some(true) => {}
            Some(false) => return true,
            None => return false,
        }
        let mut used = 0;
        for word in 0..64 {
            let stored = self
                .bitmaps
                .get(entry.bitmap as usize * 64 + word)
                .copied()
                .unwrap_or(0);
            let reached = self.reached.get(number * 64 + word).copied().unwrap_or(0);
            used += stored.count_ones();
            for bit in 0..64 {
                let (stored, reached) = (stored >> bit & 1 == 1, reached >> bit & 1 == 1);
                if stored != reached && (reached || self.pages_whole) {
                    let at = number as u64 * SEGMENT_CLUSTERS + word as u64 * 64 + bit;
                    self.find(Finding::Bitmap {
                        cluster: Cluster(at),
                        reached,
                    });
                }
            }
        }
        used == u32::from(entry.live)
    }

    fn read(&mut self, id: PageId, place: Cluster, sum: Option<u64>, buf: &mut Buf) -> bool {
        let clusters = self.superblock.layout.clusters;
        let result = match self.source.read(place, buf) {
            Ok(()) if place.0 < clusters => {
                page::verify(buf, self.hash, &self.superblock.uuid, id, place, sum)
                    .and_then(|()| page::validate_entries(buf, id, clusters))
            }
            _ => Err(PageError::Checksum),
        };
        if let Err(error) = result {
            self.find(Finding::Page { id, place, error });
        }
        result.is_ok()
    }

    /// Notes that a page lies at `place`.
    fn reach(&mut self, place: Cluster) {
        let metadata = matches!(self.kind(place), None | Some(SegmentKind::Metadata));
        let Some(word) = self
            .reached
            .get_mut(place.0 as usize / 64)
            .filter(|_| metadata)
        else {
            return self.find(Finding::Bitmap {
                cluster: place,
                reached: true,
            });
        };
        let bit = 1 << (place.0 % 64);
        let twice = *word & bit != 0;
        *word |= bit;
        self.summary.pages += 1;
        if twice {
            self.find(Finding::DoubleUse { cluster: place });
        }
    }

    fn load_tables(&mut self, buf: &mut Buf) -> Result {
        let layout = self.superblock.layout;
        // Which place of each page counts; `None`: not known.
        let mut second = KVVec::from_elem(None, layout.table_pages() as usize, GFP_KERNEL)?;
        for index in 0..layout.select_pages() {
            let pointer = self.superblock.select.get(index as usize);
            let pointer = pointer.copied().unwrap_or_default();
            let id = PageId {
                tree: tree::SELECT,
                level: 0,
                index,
            };
            if !self.read(id, pointer.place, Some(pointer.sum), buf) {
                continue;
            }
            for bit in 0..SELECT_PAGE as usize {
                let byte = buf.get(HEADER_BYTES + bit / 8).copied().unwrap_or(0);
                if let Some(second) = second.get_mut(index as usize * SELECT_PAGE as usize + bit) {
                    *second = Some(byte >> (bit % 8) & 1 == 1);
                }
            }
        }
        for page in 0..layout.table_pages() {
            let id = PageId {
                tree: tree::SEGMENTS,
                level: 0,
                index: page,
            };
            let place = second.get(page as usize).copied().flatten();
            let place = place.map(|second| layout.table_place(page, second));
            let known = place.is_some_and(|place| self.read(id, place, None, buf));
            if page < layout.entry_pages() {
                let base = page * SEGMENT_PAGE;
                let count = SEGMENT_PAGE.min(layout.segments() - base);
                let mut bad = false;
                for slot in 0..count {
                    let entry = SegmentEntry::read(buf, slot).ok().filter(|_| known);
                    bad |= known && entry.is_none();
                    self.segments.push(entry, GFP_KERNEL)?;
                }
                if let (true, Some(place)) = (bad, place) {
                    let error = PageError::Entry;
                    self.find(Finding::Page { id, place, error });
                }
            } else {
                let number = (page - layout.entry_pages()) as usize;
                if let Some(bitmaps_known) = self.bitmaps_known.get_mut(number) {
                    *bitmaps_known = known;
                }
                let words = BITMAP_PAGE as usize * BITMAP_BYTES / 8;
                for word in 0..words {
                    if let Some(bits) = self.bitmaps.get_mut(number * words + word) {
                        *bits = le::uint::<8>(buf, HEADER_BYTES + word * 8);
                    }
                }
            }
        }
        // Pages that say which place counts lie in metadata segments themselves.
        for at in 0..self.superblock.select.len() {
            let pointer = self.superblock.select.get(at).copied().unwrap_or_default();
            if !pointer.is_null() {
                self.reach(pointer.place);
            }
        }
        Ok(())
    }

    fn walk_list(
        &mut self,
        tree: u32,
        root: Pointer,
        entries: u64,
        leaf: u64,
        each: &mut dyn FnMut(&[u8], u64) -> bool,
    ) -> Result {
        if entries == 0 {
            return Ok(());
        }
        let levels = if entries > leaf { 2 } else { 1 };
        let mut visit = |_: &mut Self, index: u64, page: &[u8]| {
            let count = leaf.min(entries.saturating_sub(index * leaf));
            (0..count).all(|slot| each(page, slot))
        };
        self.walk(tree, root, levels, &mut visit)
    }

    /// Shows every leaf of a tree that can be believed.
    fn walk(&mut self, tree: u32, root: Pointer, levels: u8, visit: Visit<'_, 'a>) -> Result {
        if root.is_null() {
            return Ok(());
        }
        let id = PageId {
            tree,
            level: levels.saturating_sub(1),
            index: 0,
        };
        self.walk_page(id, root, visit)
    }

    fn walk_page(&mut self, id: PageId, pointer: Pointer, visit: Visit<'_, 'a>) -> Result {
        let mut buf = zeroed(CLUSTER_SIZE)?;
        self.reach(pointer.place);
        if !self.read(id, pointer.place, Some(pointer.sum), &mut buf) {
            return self.lose(id);
        }
        if id.level == 0 {
            if !visit(self, id.index, &buf) {
                let (place, error) = (pointer.place, PageError::Entry);
                self.find(Finding::Page { id, place, error });
            }
            return Ok(());
        }
        for slot in 0..FANOUT {
            let child = Pointer::of_child(&buf, slot);
            if !child.is_null() {
                let child_id = PageId {
                    level: id.level - 1,
                    index: id.index * FANOUT + slot,
                    ..id
                };
                self.walk_page(child_id, child, visit)?;
            }
        }
        Ok(())
    }

    /// A page of a tree can't be believed: notes what is not known because of that.
    fn lose(&mut self, id: PageId) -> Result {
        self.pages_whole &= id.level == 0;
        match id.tree {
            tree::COUNTS => {
                let span = COUNT_LEAF.saturating_mul(FANOUT.saturating_pow(id.level.into()));
                let from = id.index.saturating_mul(span);
                let range = (from, from.saturating_add(span));
                self.counts_lost.push(range, GFP_KERNEL)?;
            }
            tree::NAMES => self.names_whole = false,
            volume if volume < tree::FIRST => self.maps_whole = false,
            _ => {}
        }
        Ok(())
    }
}
