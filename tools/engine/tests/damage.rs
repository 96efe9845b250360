// SPDX-License-Identifier: GPL-2.0

//! Damage of many kinds, each done to a sound store, and each named by the check or the attach.
//!
//! Damage that a device does leaves a checksum that does not match. Damage that only a fault of the
//! code can do is sealed like a good page, so that nothing but the invariants can tell.

mod memory;

use ddup_engine::engine::check::Finding;
use ddup_engine::engine::format::journal::{self, BlockHeader, Record};
use ddup_engine::engine::format::layout::{Layout, JOURNAL_START};
use ddup_engine::engine::format::page::{self, levels_for, tree, CountEntry, MapEntry, PageError};
use ddup_engine::engine::format::page::{PageId, Pointer, SegmentEntry, SegmentKind, VolumeEntry};
use ddup_engine::engine::format::page::{COUNT_LEAF, FANOUT, HEADER_BYTES, MAP_LEAF, NAME_LEAF};
use ddup_engine::engine::format::superblock::{Superblock, SuperblockError};
use ddup_engine::engine::types::{Generation, CLUSTER_SIZE, SEGMENT_CLUSTERS};
use ddup_engine::engine::{Cluster, FailReason, Lbn, Name, Status};
use kernel::prelude::KBox;
use memory::{check_disk, content, findings_of, hash, Disk, Shell};

const CLUSTERS: u64 = 8 * SEGMENT_CLUSTERS;
const BLOCKS: u64 = 1 << 20;
/// The first volume of a store, and the tree of its map.
const VOLUME: u32 = 1;
/// Seed of the superblock's checksum, as in the format's documentation.
const SUPERBLOCK_SEED: u64 = 0x6464_7570_7375_7065;

fn attach(disk: &Disk) -> Shell {
    Shell::try_attach(disk.clone(), CLUSTERS, 256, 4096, content)
}

/// Some thousand blocks at both ends of the volume, some of them twins, some of them gone again.
fn sound_store() -> Disk {
    let mut shell = attach(&Shell::format(CLUSTERS, BLOCKS));
    for lbn in (0..2000).step_by(8) {
        let ids: Vec<_> = (0..8).map(|i| 1 + (lbn + i) % 1500).collect();
        assert_eq!(shell.write(lbn, &ids), Status::Ok);
    }
    assert_eq!(shell.write(BLOCKS - 3, &[9001, 9002, 9003]), Status::Ok);
    let mut shell = attach(&shell.detach());
    shell.discard(600, 50);
    let disk = shell.detach();
    let summary = check_disk(&disk, CLUSTERS);
    assert_eq!(summary.junk, 50);
    assert_eq!(summary.mapped, 2000 - 50 + 3);
    disk
}

fn page_mut(disk: &mut Disk, place: Cluster) -> &mut Box<[u8]> {
    disk.pages.get_mut(&place.0).unwrap()
}

fn rot(disk: &mut Disk, place: Cluster) {
    page_mut(disk, place)[2000] ^= 4;
}

fn newest(disk: &Disk) -> KBox<Superblock> {
    let copy = |slot: u64| Superblock::read(&disk.pages[&slot], hash).ok();
    let copies = [copy(0), copy(1)].into_iter().flatten();
    copies.max_by_key(|s| s.generation).unwrap()
}

fn all_copies(superblock: &Superblock) -> [Cluster; 4] {
    let mut older = superblock.try_clone().unwrap();
    older.generation -= 1;
    let ([a, b], [c, d]) = (superblock.places(), older.places());
    [a, b, c, d]
}

fn write_superblock(disk: &mut Disk, superblock: &Superblock) {
    let mut block = vec![0; CLUSTER_SIZE];
    superblock.write(&mut block, hash);
    for place in superblock.places() {
        disk.pages.insert(place.0, block.clone().into());
    }
}

/// Changes all copies of the superblock and gives them a good checksum.
fn change_superblocks(disk: &mut Disk, change: impl Fn(&mut [u8])) {
    for place in all_copies(&newest(disk)) {
        let block = page_mut(disk, place);
        change(block);
        let sum = hash(&block[16..], SUPERBLOCK_SEED);
        block[8..16].copy_from_slice(&sum.to_le_bytes());
    }
}

fn word<const N: usize>(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(&page[at..at + N]);
    u64::from_le_bytes(bytes)
}

/// Gives a changed page a good checksum.
fn reseal(page: &mut [u8], uuid: &[u8; 16]) -> u64 {
    let id = PageId {
        tree: word::<4>(page, 48) as u32,
        level: page[12],
        index: word::<8>(page, 56),
    };
    let (place, birth) = (Cluster(word::<8>(page, 32)), word::<4>(page, 52) as u32);
    let checkpoint = word::<8>(page, 40);
    page::seal(page, hash, uuid, id, place, Generation(birth), checkpoint)
}

/// A tree of a store: its id, entries of a leaf, and of the whole.
#[derive(Clone, Copy)]
struct Tree(u32, u64, u64);

const MAP: Tree = Tree(VOLUME, MAP_LEAF, BLOCKS);
const COUNTS: Tree = Tree(tree::COUNTS, COUNT_LEAF, CLUSTERS);
const NAMES: Tree = Tree(tree::NAMES, NAME_LEAF, CLUSTERS);

impl Tree {
    fn root(&self, disk: &Disk) -> Pointer {
        let checkpoint = newest(disk).checkpoint;
        match self.0 {
            tree::COUNTS => checkpoint.counts,
            tree::NAMES => checkpoint.names,
            _ => {
                let table = &disk.pages[&checkpoint.volumes.place.0];
                VolumeEntry::read(table, 0).unwrap().unwrap().root
            }
        }
    }

    fn root_level(&self) -> u8 {
        levels_for(self.2, self.1) - 1
    }

    /// The slot in the page of `level`, above the leaves, on the path to `entry`.
    fn slot(&self, entry: u64, level: u8) -> u64 {
        entry / self.1 / FANOUT.pow(u32::from(level) - 1) % FANOUT
    }

    /// The page of `level` on the path to `entry`.
    fn find(&self, disk: &Disk, entry: u64, level: u8) -> (PageId, Cluster) {
        let mut pointer = self.root(disk);
        for at in (level + 1..=self.root_level()).rev() {
            let page = &disk.pages[&pointer.place.0];
            pointer = Pointer::of_child(page, self.slot(entry, at));
        }
        let id = PageId {
            tree: self.0,
            level,
            index: entry / self.1 / FANOUT.pow(level.into()),
        };
        (id, pointer.place)
    }

    /// Changes the page of `level` on the path to `entry`, and all above it so that they fit.
    fn edit(&self, disk: &mut Disk, entry: u64, level: u8, change: impl FnOnce(&mut [u8])) {
        let mut superblock = newest(disk);
        let mut pointer = self.root(disk);
        let mut path = vec![pointer];
        for at in (level + 1..=self.root_level()).rev() {
            let page = &disk.pages[&pointer.place.0];
            pointer = Pointer::of_child(page, self.slot(entry, at));
            path.push(pointer);
        }
        let page = page_mut(disk, pointer.place);
        change(page);
        pointer.sum = reseal(page, &superblock.uuid);
        path.pop();
        for (above, at) in path.into_iter().rev().zip(level + 1..) {
            let page = page_mut(disk, above.place);
            pointer.set_child(page, self.slot(entry, at));
            let sum = reseal(page, &superblock.uuid);
            pointer = Pointer { sum, ..above };
        }
        match self.0 {
            tree::COUNTS => superblock.checkpoint.counts = pointer,
            tree::NAMES => superblock.checkpoint.names = pointer,
            _ => {
                let table = page_mut(disk, superblock.checkpoint.volumes.place);
                let mut volume = VolumeEntry::read(table, 0).unwrap().unwrap();
                volume.root = pointer;
                volume.write(table, 0);
                superblock.checkpoint.volumes.sum = reseal(table, &superblock.uuid);
            }
        }
        write_superblock(disk, &superblock);
    }
}

/// Where a page of the segment table counts.
fn table_place(disk: &Disk, index: u64) -> Cluster {
    let superblock = newest(disk);
    let select = &disk.pages[&superblock.select[0].place.0];
    let second = select[HEADER_BYTES + index as usize / 8] >> (index % 8) & 1 == 1;
    superblock.layout.table_place(index, second)
}

fn edit_table(disk: &mut Disk, index: u64, change: impl FnOnce(&mut [u8])) {
    let (place, uuid) = (table_place(disk, index), newest(disk).uuid);
    let page = page_mut(disk, place);
    change(page);
    reseal(page, &uuid);
}

fn map_entry(disk: &Disk, lbn: u64) -> MapEntry {
    let (_, place) = MAP.find(disk, lbn, 0);
    MapEntry::read(&disk.pages[&place.0], lbn % MAP_LEAF)
}

fn count_entry(disk: &Disk, cluster: Cluster) -> CountEntry {
    let (_, place) = COUNTS.find(disk, cluster.0, 0);
    CountEntry::read(&disk.pages[&place.0], cluster.0 % COUNT_LEAF)
}

/// The first cluster behind all that is in use in the first data segment.
fn available_cluster(disk: &Disk) -> Cluster {
    let used = map_entry(disk, 0).cluster.segment() as u64;
    let found = (used * SEGMENT_CLUSTERS..)
        .find(|&cluster| count_entry(disk, Cluster(cluster)) == CountEntry::Available);
    Cluster(found.unwrap())
}

fn findings(disk: &Disk) -> Vec<Finding> {
    findings_of(disk, CLUSTERS).0
}

fn bad_page((id, place): (PageId, Cluster), error: PageError) -> Finding {
    Finding::Page { id, place, error }
}

/// What a damaged page that attach does not read leads to: the store attaches and works until
/// the page is needed; then it is named.
fn assert_found_when_needed(disk: &Disk, (id, place): (PageId, Cluster)) {
    let mut shell = attach(disk);
    assert!(shell.started);
    // The rebuild of the index needs names; a checkpoint needs what it changes.
    let _ = shell.write(8, &[77_777]);
    for step in 0..2000 {
        if step == 1000 {
            shell.engine.detach(shell.now);
        }
        shell.now += 1;
        shell.turn();
    }
    assert_eq!(shell.failed, Some(FailReason::Page { id, place }));
}

#[test]
fn one_copy_of_the_superblock_is_named_and_does_no_harm() {
    let sound = sound_store();
    for place in all_copies(&newest(&sound)) {
        let mut disk = sound.clone();
        rot(&mut disk, place);
        let error = SuperblockError::Checksum;
        assert_eq!(findings(&disk), [Finding::Superblock { place, error }]);
        assert_eq!(attach(&disk).failed, None);
    }
}

/// A slot whose copies were torn by two power cuts looks like one that was damaged. So the first
/// torn one must be whole again before its twin is written over.
#[test]
fn two_power_cuts_do_not_cost_both_copies_of_a_superblock_slot() {
    let sound = sound_store();
    let superblock = newest(&sound);
    for torn in all_copies(&superblock) {
        let mut disk = sound.clone();
        rot(&mut disk, torn);
        let shell = attach(&disk);
        assert_eq!(shell.failed, None);
        for place in all_copies(&superblock) {
            let page = &shell.disk.pages[&place.0];
            assert_eq!(
                Superblock::read(page, hash).err(),
                None,
                "{place:?}, {torn:?} was torn"
            );
            // The second one strikes any of them.
            let mut disk = shell.disk.clone();
            rot(&mut disk, place);
            assert_eq!(attach(&disk).failed, None);
        }
    }
}

#[test]
fn a_copy_of_the_superblock_is_not_mended_outside_of_the_device() {
    let mut disk = sound_store();
    let mut older = newest(&disk);
    older.generation -= 1;
    let [first, distant] = older.places();
    // What it says of the store is sound, and of another one.
    older.layout = Layout::new(1 << 30, 0).unwrap();
    let mut block = vec![0; CLUSTER_SIZE];
    older.write(&mut block, hash);
    disk.pages.insert(first.0, block.into());
    rot(&mut disk, distant);
    let shell = attach(&disk);
    assert_eq!(shell.failed, None);
    assert!(shell.disk.pages.keys().all(|&place| place < CLUSTERS));
}

#[test]
fn both_copies_of_a_superblock_slot_leave_a_store_that_only_reads() {
    let sound = sound_store();
    let [a, b, c, d] = all_copies(&newest(&sound));
    for [first, second] in [[a, b], [c, d]] {
        let mut disk = sound.clone();
        rot(&mut disk, first);
        rot(&mut disk, second);
        let error = SuperblockError::Checksum;
        let reason = FailReason::SuperblockHalfDamaged;
        let found = findings(&disk);
        for place in [first, second] {
            assert!(found.contains(&Finding::Superblock { place, error }));
        }
        assert!(found.contains(&Finding::Attach { reason }));
        let mut shell = attach(&disk);
        assert!(shell.started);
        assert_eq!(shell.failed, Some(reason));
        assert_eq!(shell.read(8, 1), [9]);
        assert_eq!(shell.write(8, &[1]), Status::Io);
        assert_eq!(shell.disk.pages, disk.pages, "nothing was written");
    }
}

#[test]
fn without_any_superblock_nothing_is_attached() {
    let sound = sound_store();
    let places = all_copies(&newest(&sound));
    let mut rotten = sound.clone();
    let mut blank = sound;
    for place in places {
        rot(&mut rotten, place);
        page_mut(&mut blank, place).fill(0);
    }
    for (disk, error, reason) in [
        (
            rotten,
            SuperblockError::Checksum,
            FailReason::SuperblockDamaged,
        ),
        (blank, SuperblockError::Magic, FailReason::NotFormatted),
    ] {
        let shell = attach(&disk);
        assert!(!shell.started);
        assert_eq!(shell.failed, Some(reason));
        let found = findings(&disk);
        assert_eq!(found.len(), 5);
        for place in places {
            assert!(found.contains(&Finding::Superblock { place, error }));
        }
        assert!(found.contains(&Finding::Attach { reason }));
    }
}

#[test]
fn another_version_and_unknown_features_are_named() {
    let sound = sound_store();
    let places = all_copies(&newest(&sound));
    for (at, value, error, reason) in [
        (16, 2, SuperblockError::Version(2), FailReason::Version(2)),
        (
            40,
            32,
            SuperblockError::Features(32),
            FailReason::Features(32),
        ),
    ] {
        let mut disk = sound.clone();
        change_superblocks(&mut disk, |block| block[at] = value);
        let shell = attach(&disk);
        assert!(!shell.started);
        assert_eq!(shell.failed, Some(reason));
        let found = findings(&disk);
        assert_eq!(found.len(), 5, "{found:?}");
        for place in places {
            assert!(found.contains(&Finding::Superblock { place, error }));
        }
        assert!(found.contains(&Finding::Attach { reason }));
    }
    let mut disk = sound.clone();
    change_superblocks(&mut disk, |block| block[32] = 8);
    let reason = FailReason::ReadOnlyFeatures(8);
    assert_eq!(findings(&disk), [Finding::Attach { reason }]);
    let mut shell = attach(&disk);
    assert_eq!((shell.started, shell.failed), (true, Some(reason)));
    assert_eq!(shell.read(8, 1), [9]);
    let mut disk = sound;
    change_superblocks(&mut disk, |block| block[24] = 8);
    assert_eq!(findings(&disk), []);
    assert_eq!(attach(&disk).failed, None, "compatible features do no harm");
}

#[test]
fn superblocks_that_are_older_than_the_journal_are_named() {
    let old = sound_store();
    let mut shell = attach(&old);
    assert_eq!(shell.write(8, &[77_777]), Status::Ok);
    shell.flush();
    let mut disk = shell.disk;
    for place in all_copies(&newest(&old)) {
        disk.pages.insert(place.0, old.pages[&place.0].clone());
    }
    let reason = FailReason::SuperblockStale;
    assert_eq!(findings(&disk), [Finding::Attach { reason }]);
    assert_eq!(attach(&disk).failed, Some(reason));
}

#[test]
fn a_journal_that_would_leave_its_ring_is_refused() {
    let mut disk = sound_store();
    let mut superblock = newest(&disk);
    superblock.joins[0].offset = superblock.layout.journal_clusters - 1;
    for _ in 0..2 {
        superblock.generation += 1;
        write_superblock(&mut disk, &superblock);
    }
    let shell = attach(&disk);
    let reason = FailReason::SuperblockDamaged;
    assert_eq!((shell.started, shell.failed), (false, Some(reason)));
}

#[test]
fn a_device_that_became_smaller_is_named() {
    let disk = sound_store();
    let device = CLUSTERS - 1;
    let reason = FailReason::DeviceTooSmall {
        store: CLUSTERS,
        device,
    };
    let found = findings_of(&disk, device).0;
    assert_eq!(found, [Finding::Attach { reason }]);
    let shell = Shell::try_attach(disk, device, 256, 4096, content);
    assert_eq!((shell.started, shell.failed), (false, Some(reason)));
}

#[test]
fn a_rotten_map_leaf_is_named_and_costs_its_blocks_only() {
    let mut disk = sound_store();
    let leaf = MAP.find(&disk, 300, 0);
    rot(&mut disk, leaf.1);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Checksum)]);
    let mut shell = attach(&disk);
    assert_eq!(shell.try_read(300, 1), Err(Status::Medium));
    assert_eq!(shell.read(8, 1), [9]);
    assert_eq!(shell.read(BLOCKS - 1, 1), [9003]);
}

#[test]
fn a_rotten_interior_page_is_named_and_not_what_follows_from_it() {
    for tree in [MAP, COUNTS, NAMES] {
        let mut disk = sound_store();
        let page = tree.find(&disk, 0, 1);
        rot(&mut disk, page.1);
        assert_eq!(findings(&disk), [bad_page(page, PageError::Checksum)]);
    }
    let mut disk = sound_store();
    let page = COUNTS.find(&disk, 0, COUNTS.root_level());
    rot(&mut disk, page.1);
    assert_found_when_needed(&disk, page);
}

#[test]
fn a_rotten_count_leaf_is_named_and_not_what_follows_from_it() {
    let mut disk = sound_store();
    let leaf = COUNTS.find(&disk, map_entry(&disk, 8).cluster.0, 0);
    rot(&mut disk, leaf.1);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Checksum)]);
    assert_found_when_needed(&disk, leaf);
}

#[test]
fn a_rotten_name_leaf_is_named() {
    let mut disk = sound_store();
    let leaf = NAMES.find(&disk, map_entry(&disk, 8).cluster.0, 0);
    rot(&mut disk, leaf.1);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Checksum)]);
    assert_found_when_needed(&disk, leaf);
}

#[test]
fn a_page_that_was_written_elsewhere_is_named() {
    let mut disk = sound_store();
    let (leaf, other) = (MAP.find(&disk, 300, 0), MAP.find(&disk, 600, 0));
    // A lost write leaves what lay there before, a misdirected one puts something else there.
    let moved = disk.pages[&other.1 .0].clone();
    disk.pages.insert(leaf.1 .0, moved);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Checksum)]);
    disk.pages.remove(&leaf.1 .0);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Checksum)]);
}

#[test]
fn an_entry_that_no_writer_writes_is_named() {
    let mut disk = sound_store();
    let leaf = MAP.find(&disk, 300, 0);
    let at = HEADER_BYTES + (300 % MAP_LEAF) as usize * 16;
    MAP.edit(&mut disk, 300, 0, |page| page[at + 5] = 9);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Entry)]);
    let mut disk = sound_store();
    let cluster = map_entry(&disk, 300).cluster;
    let leaf = COUNTS.find(&disk, cluster.0, 0);
    let at = HEADER_BYTES + (cluster.0 % COUNT_LEAF) as usize * 8;
    COUNTS.edit(&mut disk, cluster.0, 0, |page| page[at + 7] = 77);
    assert_eq!(findings(&disk), [bad_page(leaf, PageError::Entry)]);
}

#[test]
fn a_count_that_is_off_by_one_is_named() {
    let sound = sound_store();
    let cluster = map_entry(&sound, 8).cluster;
    assert_eq!(count_entry(&sound, cluster), CountEntry::Live(2));
    for count in [1, 3] {
        let mut disk = sound.clone();
        let stored = CountEntry::Live(count);
        COUNTS.edit(&mut disk, cluster.0, 0, |page| {
            stored.write(page, cluster.0 % COUNT_LEAF)
        });
        assert_eq!(
            findings(&disk),
            [Finding::Count {
                cluster,
                stored,
                owners: 2
            }]
        );
    }
}

#[test]
fn a_cluster_in_use_that_counts_as_available_is_named() {
    let mut disk = sound_store();
    let cluster = map_entry(&disk, 8).cluster;
    let stored = CountEntry::Available;
    COUNTS.edit(&mut disk, cluster.0, 0, |page| {
        stored.write(page, cluster.0 % COUNT_LEAF)
    });
    assert_eq!(
        findings(&disk),
        [
            Finding::Count {
                cluster,
                stored,
                owners: 2
            },
            Finding::StaleName { cluster },
            Finding::Segment {
                segment: cluster.segment() as u64
            },
        ]
    );
}

#[test]
fn a_leaked_cluster_is_named() {
    let mut disk = sound_store();
    let cluster = available_cluster(&disk);
    let stored = CountEntry::Live(1);
    COUNTS.edit(&mut disk, cluster.0, 0, |page| {
        stored.write(page, cluster.0 % COUNT_LEAF)
    });
    edit_table(&mut disk, 0, |page| {
        let slot = cluster.segment() as u64;
        let mut entry = SegmentEntry::read(page, slot).unwrap();
        entry.available -= 1;
        entry.live += 1;
        entry.write(page, slot);
    });
    let owners = 0;
    assert_eq!(
        findings(&disk),
        [Finding::Count {
            cluster,
            stored,
            owners
        }]
    );
}

#[test]
fn two_blocks_in_a_cluster_that_counts_one_are_named() {
    let mut disk = sound_store();
    // Both have no twin.
    let (kept, lost) = (map_entry(&disk, 700), map_entry(&disk, 701));
    let stored = CountEntry::Live(1);
    MAP.edit(&mut disk, 701, 0, |page| kept.write(page, 701 % MAP_LEAF));
    let found = findings(&disk);
    let count = |cluster, owners| Finding::Count {
        cluster,
        stored,
        owners,
    };
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&count(kept.cluster, 2)));
    assert!(found.contains(&count(lost.cluster, 0)));
}

#[test]
fn a_block_in_a_metadata_segment_is_named() {
    let mut disk = sound_store();
    let (_, cluster) = MAP.find(&disk, 0, 0);
    let lost = map_entry(&disk, 701);
    let entry = MapEntry { cluster, ..lost };
    MAP.edit(&mut disk, 701, 0, |page| entry.write(page, 701 % MAP_LEAF));
    let found = findings(&disk);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&Finding::NotData { cluster }));
}

#[test]
fn a_page_that_two_parents_claim_is_named() {
    let mut disk = sound_store();
    let (page, other) = (MAP.find(&disk, 0, 0), MAP.find(&disk, 300, 0));
    MAP.edit(&mut disk, 0, 1, |parent| {
        Pointer::of_child(parent, 0).set_child(parent, 1)
    });
    assert_eq!(
        findings(&disk),
        [
            Finding::DoubleUse { cluster: page.1 },
            bad_page((other.0, page.1), PageError::Misplaced),
            Finding::Bitmap {
                cluster: other.1,
                reached: false
            },
        ]
    );
}

#[test]
fn a_metadata_cluster_that_leaked_or_counts_as_free_is_named() {
    let sound = sound_store();
    let layout = newest(&sound).layout;
    let (_, place) = NAMES.find(&sound, 0, NAMES.root_level());
    let segment = place.segment() as u64;
    let base = segment * SEGMENT_CLUSTERS;
    let bitmap = &sound.pages[&table_place(&sound, layout.entry_pages()).0];
    let used = |cluster: u64| {
        let at = (cluster - base) as usize;
        bitmap[HEADER_BYTES + at / 8] >> (at % 8) & 1 == 1
    };
    assert!(used(place.0));
    let unused = (base..).find(|&cluster| !used(cluster)).unwrap();
    for (cluster, change, reached) in [(Cluster(unused), 1, false), (place, -1, true)] {
        let mut disk = sound.clone();
        edit_table(&mut disk, layout.entry_pages(), |page| {
            let at = (cluster.0 - base) as usize;
            page[HEADER_BYTES + at / 8] ^= 1 << (at % 8);
        });
        let wrong_sum = Finding::Segment { segment };
        let wrong_bit = Finding::Bitmap { cluster, reached };
        assert_eq!(findings(&disk), [wrong_bit, wrong_sum]);
        edit_table(&mut disk, 0, |page| {
            let mut entry = SegmentEntry::read(page, segment).unwrap();
            assert_eq!(entry.kind, SegmentKind::Metadata);
            entry.live = entry.live.checked_add_signed(change).unwrap();
            entry.write(page, segment);
        });
        assert_eq!(findings(&disk), [wrong_bit]);
    }
}

#[test]
fn wrong_counts_of_a_segment_are_named() {
    let mut disk = sound_store();
    let segment = map_entry(&disk, 8).cluster.segment() as u64;
    edit_table(&mut disk, 0, |page| {
        let mut entry = SegmentEntry::read(page, segment).unwrap();
        entry.junk -= 1;
        entry.available += 1;
        entry.write(page, segment);
    });
    assert_eq!(findings(&disk), [Finding::Segment { segment }]);
}

#[test]
fn a_segment_table_page_whose_last_write_was_lost_is_named() {
    let old = sound_store();
    let place = table_place(&old, 0);
    let mut disk = old.clone();
    for id in 0..10 {
        let mut shell = attach(&disk);
        assert_eq!(shell.write(4000 + id, &[50_000 + id]), Status::Ok);
        disk = shell.detach();
        if table_place(&disk, 0) == place {
            break;
        }
    }
    assert_eq!(table_place(&disk, 0), place);
    assert_eq!(findings(&disk), []);
    // Intact, in the right place, and too old.
    disk.pages.insert(place.0, old.pages[&place.0].clone());
    let found = findings(&disk);
    assert!(!found.is_empty());
    for finding in found {
        assert!(matches!(finding, Finding::Segment { .. }), "{finding:?}");
    }
}

#[test]
fn rotten_pages_that_an_attach_needs_are_named_and_refused() {
    let sound = sound_store();
    let superblock = newest(&sound);
    let id = |tree, index| PageId {
        tree,
        level: 0,
        index,
    };
    for page in [
        (id(tree::SELECT, 0), superblock.select[0].place),
        (id(tree::SEGMENTS, 0), table_place(&sound, 0)),
        (id(tree::SEGMENTS, 1), table_place(&sound, 1)),
        (id(tree::VOLUMES, 0), superblock.checkpoint.volumes.place),
    ] {
        let mut disk = sound.clone();
        rot(&mut disk, page.1);
        assert_eq!(findings(&disk), [bad_page(page, PageError::Checksum)]);
        let shell = attach(&disk);
        let (id, place) = page;
        assert!(!shell.started);
        assert_eq!(shell.failed, Some(FailReason::Page { id, place }));
    }
}

#[test]
fn a_name_of_an_available_cluster_is_named() {
    let mut disk = sound_store();
    let cluster = available_cluster(&disk);
    NAMES.edit(&mut disk, cluster.0, 0, |page| {
        page::name_write(page, cluster.0 % NAME_LEAF, &Name([3; 24]))
    });
    assert_eq!(findings(&disk), [Finding::StaleName { cluster }]);
}

/// A store whose journal holds three blocks since the last checkpoint, and their places.
fn store_with_journal() -> (Disk, [(u64, u64); 3]) {
    let mut shell = attach(&sound_store());
    let join = *newest(&shell.disk).joins.last().unwrap();
    for step in 0..3 {
        assert_eq!(shell.write(8 + step, &[70_000 + step]), Status::Ok);
        shell.flush();
    }
    let disk = shell.disk;
    assert_eq!(findings(&disk), []);
    let block = |n| (join.sequence + n, JOURNAL_START + join.offset + n);
    (disk, [block(0), block(1), block(2)])
}

#[test]
fn a_journal_block_that_rots_is_named_and_nothing_is_written() {
    let (sound, blocks) = store_with_journal();
    for (sequence, place) in &blocks[..2] {
        for at in [20, 140] {
            let mut disk = sound.clone();
            page_mut(&mut disk, Cluster(*place))[at] ^= 1;
            let reason = FailReason::JournalGap {
                sequence: *sequence,
            };
            assert_eq!(findings(&disk), [Finding::Attach { reason }]);
            let mut shell = attach(&disk);
            assert_eq!((shell.started, shell.failed), (true, Some(reason)));
            assert_eq!(shell.write(8, &[1]), Status::Io);
            assert_eq!(shell.disk.pages, disk.pages);
        }
    }
}

#[test]
fn a_journal_record_that_does_not_fit_the_store_is_named() {
    let (mut disk, blocks) = store_with_journal();
    let superblock = newest(&disk);
    let (sequence, place) = blocks[0];
    let chain = superblock.joins.last().unwrap().chain;
    let block = page_mut(&mut disk, Cluster(place));
    let mut header: BlockHeader = journal::header(block, &superblock.uuid, hash).unwrap();
    assert_eq!(header.sequence, sequence);
    assert!(journal::follows(block, chain, hash).is_some());
    // A plain block, of which no data has to be there.
    header.durable_upto = sequence;
    // The volume of its first record.
    block[journal::HEADER_BYTES + 4] = 99;
    journal::seal(block, &header, chain, hash);
    let reason = FailReason::JournalRecord { sequence };
    assert_eq!(findings(&disk), [Finding::Attach { reason }]);
    assert_eq!(attach(&disk).failed, Some(reason));
}

#[test]
fn a_journal_with_more_changes_than_an_attach_may_leave_is_named() {
    let (mut disk, blocks) = store_with_journal();
    let superblock = newest(&disk);
    let (sequence, place) = blocks[0];
    let first = &disk.pages[&place];
    let mut header: BlockHeader = journal::header(first, &superblock.uuid, hash).unwrap();
    let mut block = vec![0; journal::BLOCK_BYTES_MAX];
    let mut end = journal::HEADER_BYTES;
    for leaf in 0..BLOCKS / MAP_LEAF {
        if end + journal::SMALL_RECORD_MAX > block.len() {
            break;
        }
        let record = Record::Unmap {
            volume: VOLUME,
            lbn: Lbn(leaf * MAP_LEAF),
            count: MAP_LEAF,
            more: false,
        };
        end = journal::write_small(&mut block, end, &record);
    }
    header.record_bytes = end - journal::HEADER_BYTES;
    header.clusters = (block.len() / CLUSTER_SIZE) as u64;
    let chain = superblock.joins.last().unwrap().chain;
    journal::seal(&mut block, &header, chain, hash);
    for (page, at) in block.chunks(CLUSTER_SIZE).zip(place..) {
        disk.pages.insert(at, page.into());
    }
    let reason = FailReason::JournalRecord { sequence };
    let shell = attach(&disk);
    assert_eq!((shell.started, shell.failed), (true, Some(reason)));
}

#[test]
fn findings_are_told_in_words() {
    let mut disk = sound_store();
    let leaf = MAP.find(&disk, 300, 0);
    rot(&mut disk, leaf.1);
    assert_eq!(
        findings(&disk)[0].to_string(),
        format!(
            "map 1, level 0, page 1, at cluster {}: checksum mismatch or read error",
            leaf.1 .0
        )
    );
}
