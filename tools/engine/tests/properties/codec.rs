// SPDX-License-Identifier: GPL-2.0

//! Pages and superblocks: what is written is read, what is damaged is refused.

use super::{hash, Random};
use ddup_engine::engine::births::{Births, Tick};
use ddup_engine::engine::format::index::{read_entries, write_buckets, ChunkHeader, SavedIndex};
use ddup_engine::engine::format::index::{CHUNK_BYTES, CHUNK_CLUSTERS, WAYS};
use ddup_engine::engine::format::layout::Layout;
use ddup_engine::engine::format::page::*;
use ddup_engine::engine::format::superblock::{Checkpoint, SuperblockError};
use ddup_engine::engine::format::superblock::{Join, Superblock};
use ddup_engine::engine::replication::types::{Position, REIGNS_MAX};
use ddup_engine::engine::types::*;
use kernel::prelude::{KVec, GFP_KERNEL};

const STORE: u64 = 1 << 20;

fn pointer(random: &mut Random) -> Pointer {
    Pointer {
        place: Cluster(random.below(STORE)),
        highest: random.below(STORE),
        sum: random.draw(),
        birth: Generation(random.draw() as u32),
        checkpoint: random.draw(),
    }
}

fn sealed(random: &mut Random) -> (Vec<u8>, [u8; 16], PageId, Cluster, u64) {
    let mut page = vec![0; CLUSTER_SIZE];
    for byte in &mut page[HEADER_BYTES..] {
        *byte = random.draw() as u8;
    }
    let uuid = random.bytes();
    let id = PageId {
        tree: random.draw() as u32,
        level: random.below(7) as u8,
        index: random.below(1 << 40),
    };
    let place = Cluster(random.below(STORE));
    let sum = seal(&mut page, hash, &uuid, id, place, Generation(4), 9);
    (page, uuid, id, place, sum)
}

#[test]
fn a_sealed_page_is_believed_and_any_damage_to_it_is_not() {
    let mut random = Random(1);
    for _ in 0..30 {
        let (mut page, uuid, id, place, sum) = sealed(&mut random);
        assert_eq!(verify(&page, hash, &uuid, id, place, Some(sum)), Ok(()));
        assert_eq!(verify(&page, hash, &uuid, id, place, None), Ok(()));
        assert_eq!(checkpoint_of(&page), 9);
        for _ in 0..200 {
            let at = random.below(CLUSTER_SIZE as u64) as usize;
            let bit = 1 << random.below(8);
            page[at] ^= bit;
            assert_eq!(
                verify(&page, hash, &uuid, id, place, None),
                Err(PageError::Checksum)
            );
            page[at] ^= bit;
        }
        assert!(verify(&page[..4000], hash, &uuid, id, place, None).is_err());
    }
}

#[test]
fn an_intact_page_from_elsewhere_is_not_believed() {
    let mut random = Random(2);
    for _ in 0..50 {
        let (page, uuid, id, place, sum) = sealed(&mut random);
        let moved = Cluster(place.0 ^ 1);
        let misplaced = Err(PageError::Misplaced);
        assert_eq!(verify(&page, hash, &uuid, id, moved, Some(sum)), misplaced);
        assert_eq!(
            verify(&page, hash, &[0; 16], id, place, Some(sum)),
            misplaced
        );
        for other in [
            PageId {
                tree: id.tree ^ 1,
                ..id
            },
            PageId {
                level: id.level ^ 1,
                ..id
            },
            PageId {
                index: id.index ^ 1,
                ..id
            },
        ] {
            assert_eq!(
                verify(&page, hash, &uuid, other, place, Some(sum)),
                misplaced
            );
        }
        // An older version of the same page: the parent's checksum tells.
        let stale = Err(PageError::Checksum);
        assert_eq!(verify(&page, hash, &uuid, id, place, Some(sum ^ 1)), stale);
    }
}

#[test]
fn entries_of_each_kind_come_back_and_leave_their_neighbours_alone() {
    let mut random = Random(3);
    let mut page = vec![0; CLUSTER_SIZE];
    let pointers: Vec<Pointer> = (0..FANOUT).map(|_| pointer(&mut random)).collect();
    for (slot, p) in pointers.iter().enumerate().rev() {
        p.set_child(&mut page, slot as u64);
    }
    for (slot, p) in pointers.iter().enumerate() {
        assert_eq!(Pointer::of_child(&page, slot as u64), *p);
    }
    page.fill(0);
    let entries: Vec<MapEntry> = (0..MAP_LEAF)
        .map(|i| MapEntry {
            cluster: Cluster(if i % 5 == 0 {
                0
            } else {
                1 + random.below(STORE - 1)
            }),
            birth: Generation(random.draw() as u32),
            check: Check(random.draw() & CHECK_MASK),
        })
        .collect();
    for (slot, e) in entries.iter().enumerate() {
        e.write(&mut page, slot as u64);
    }
    assert_eq!(MapEntry::validate(&page, STORE), Ok(()));
    for (slot, e) in entries.iter().enumerate() {
        assert_eq!(MapEntry::read(&page, slot as u64), *e);
    }
    let highest = entries.iter().map(|e| e.cluster.0).max().unwrap_or(0);
    assert_eq!(MapEntry::validate(&page, highest), Err(PageError::Entry));
    page.fill(0);
    let counts: Vec<CountEntry> = (0..COUNT_LEAF)
        .map(|_| match random.below(5) {
            0 => CountEntry::Available,
            1 => CountEntry::Live(1 + random.below(u32::MAX.into()) as u32),
            2 => CountEntry::Junk {
                since: random.below(1 << 40),
            },
            3 => CountEntry::Quarantined,
            _ => CountEntry::LiveQuarantined(1 + random.below(9) as u32),
        })
        .collect();
    for (slot, c) in counts.iter().enumerate() {
        c.write(&mut page, slot as u64);
    }
    assert_eq!(CountEntry::validate(&page), Ok(()));
    for (slot, c) in counts.iter().enumerate() {
        assert_eq!(CountEntry::read(&page, slot as u64), *c);
    }
    page.fill(0);
    let names: Vec<Name> = (0..NAME_LEAF).map(|_| Name(random.bytes())).collect();
    for (slot, n) in names.iter().enumerate() {
        name_write(&mut page, slot as u64, n);
    }
    for (slot, n) in names.iter().enumerate() {
        assert_eq!(name_read(&page, slot as u64), *n);
    }
    page.fill(0);
    for slot in 0..PUNCH_LEAF {
        let start = random.below(LBN_LIMIT);
        let count = 1 + random.below(LBN_LIMIT - start);
        let entry = PunchEntry {
            volume: random.draw() as u32,
            start: Lbn(start),
            count,
        };
        entry.write(&mut page, slot);
        assert_eq!(PunchEntry::read(&page, slot), Ok(Some(entry)));
    }
    page.fill(0);
    for slot in 0..VOLUME_LEAF {
        let blocks = 1 + random.below(LBN_LIMIT);
        let entry = VolumeEntry {
            id: 1 + random.below(1000) as u32,
            uuid: random.bytes(),
            blocks,
            generation: Generation(5),
            parent_generation: Generation(3),
            origin: 8,
            levels: levels_for(blocks, MAP_LEAF),
            root: pointer(&mut random),
            keeps: (slot % 2 == 1).then(|| random.below(blocks)),
            shadow: slot % 3 == 1,
            map: 1 + random.below(1000) as u32,
        };
        entry.write(&mut page, slot);
        assert_eq!(VolumeEntry::read(&page, slot), Ok(Some(entry)));
    }
    page.fill(0);
    for slot in 0..SEGMENT_PAGE {
        let available = random.below(SEGMENT_CLUSTERS + 1);
        let junk = random.below(SEGMENT_CLUSTERS + 1 - available);
        let entry = SegmentEntry {
            kind: SegmentKind::Data,
            available: available as u16,
            junk: junk as u16,
            live: (SEGMENT_CLUSTERS - available - junk) as u16,
            bitmap: random.draw() as u32,
        };
        entry.write(&mut page, slot);
        assert_eq!(SegmentEntry::read(&page, slot), Ok(entry));
    }
}

#[test]
fn hostile_pages_cause_errors_and_nothing_else() {
    let mut random = Random(4);
    for round in 0..2000 {
        let mut page = vec![0u8; CLUSTER_SIZE];
        let density = 1 << random.below(13);
        for _ in 0..density {
            let at = random.below(CLUSTER_SIZE as u64) as usize;
            page[at] = if round % 3 == 0 {
                0xff
            } else {
                random.draw() as u8
            };
        }
        for tree in [
            1,
            tree::NAMES,
            tree::COUNTS,
            tree::VOLUMES,
            tree::PUNCHES,
            tree::SEGMENTS,
        ] {
            for level in [0, 1, 6] {
                let _ = validate_entries(
                    &page,
                    PageId {
                        tree,
                        level,
                        index: 0,
                    },
                    STORE,
                );
            }
        }
        for slot in 0..COUNT_LEAF {
            let _ = CountEntry::read(&page, slot);
        }
        for slot in 0..PUNCH_LEAF {
            if let Ok(Some(p)) = PunchEntry::read(&page, slot) {
                assert!(p.start.0 + p.count <= LBN_LIMIT);
            }
        }
        for slot in 0..VOLUME_LEAF {
            if let Ok(Some(v)) = VolumeEntry::read(&page, slot) {
                assert!(v.blocks <= LBN_LIMIT && usize::from(v.levels) <= LEVELS_MAX);
            }
        }
        for slot in 0..SEGMENT_PAGE {
            let _ = SegmentEntry::read(&page, slot);
        }
    }
}

#[test]
fn any_bytes_of_a_saved_index_give_entries_or_an_error() {
    let mut random = Random(9);
    let mut sound = 0;
    for round in 0..2000 {
        let mut chunk = vec![0; CHUNK_BYTES];
        let entries: Vec<Vec<u8>> = (0..50)
            .map(|_| {
                let bytes = 7 * random.below(WAYS as u64 + 1);
                (0..bytes).map(|_| random.draw() as u8).collect()
            })
            .collect();
        let end = write_buckets(&mut chunk, 0, 50, |bucket| &entries[bucket as usize]);
        assert_eq!(end, 50);
        let mut buckets = 50;
        if round % 2 == 1 {
            for _ in 0..1 + random.below(4) {
                let at = random.below(2000) as usize;
                chunk[at] = random.draw() as u8;
            }
            buckets = random.draw() >> random.below(64);
        }
        let header = ChunkHeader {
            place: Cluster(1),
            checkpoint: 1,
            number: 0,
            next: Cluster::NONE,
            first: random.draw() >> random.below(64),
            buckets,
        };
        let mut found = vec![0; 50];
        let good = read_entries(&chunk, &header, &mut |bucket, _, _| {
            if let Some(count) = found.get_mut((bucket - header.first) as usize) {
                *count += 1;
            }
        });
        if round % 2 == 0 {
            assert!(good);
            let expected: Vec<usize> = entries.iter().map(|e| e.len() / 7).collect();
            assert_eq!(found, expected);
        }
        sound += u32::from(good);
    }
    assert!(sound < 2000);
}

fn superblock(random: &mut Random) -> Superblock {
    let mut joins = KVec::new();
    let layout = Layout::new(STORE, 0).unwrap();
    let join_count = 1 + random.below(JOINS_MAX as u64) as usize;
    let (mut incarnation, mut sequence) = (random.below(100), random.below(100));
    for _ in 0..join_count {
        incarnation += 1 + random.below(9);
        sequence += random.below(1000);
        let offset = random.below(layout.journal_clusters - 15);
        let join = Join {
            incarnation,
            sequence,
            offset,
            chain: random.draw(),
        };
        joins.push(join, GFP_KERNEL).unwrap();
    }
    let mut select = KVec::from_elem(Pointer::NULL, 28, GFP_KERNEL).unwrap();
    select[0] = pointer(random);
    let fingerprint = [
        FingerprintAlgorithm::Blake2b,
        FingerprintAlgorithm::Sha256,
        FingerprintAlgorithm::Xxh64,
    ][random.below(3) as usize];
    let member = fingerprint.is_cryptographic() && random.below(2) == 0;
    let mut ends = KVec::new();
    if member {
        let (mut term, mut epoch) = (0, 0);
        for _ in 0..random.below(REIGNS_MAX as u64 + 1) {
            term += random.below(9);
            epoch += 1 + random.below(1 << 40);
            let end = Position {
                term,
                reign: random.bytes(),
                epoch,
                chain: random.draw(),
            };
            ends.push(end, GFP_KERNEL).unwrap();
        }
    }
    let mut births = Births::default();
    let end = ends.last().map_or(0, |end| end.epoch);
    let generation = 100 + random.below(1 << 30) as u32;
    for n in 1..random.below(40).min(end) {
        let generation = Generation(n as u32);
        births.note(Tick {
            generation,
            epoch: n * (end / 40).max(1),
        });
    }
    Superblock {
        uuid: random.bytes(),
        label: random.bytes(),
        generation: random.below(1 << 50),
        incarnation,
        layout,
        fingerprint,
        name_key: random.draw(),
        check_key: random.draw(),
        clean: random.below(2) == 0,
        read_only_features: 0,
        checkpoint: Checkpoint {
            number: random.below(1 << 50),
            generation: Generation(generation),
            attached_seconds: random.below(1 << 38),
            next_volume: random.draw() as u32,
            punch_count: random.below(1 << 14),
            volume_count: 1,
            owner_count: 0,
            names: pointer(random),
            counts: pointer(random),
            volumes: pointer(random),
            punches: pointer(random),
        },
        index: SavedIndex {
            place: Cluster(random.below(STORE - CHUNK_CLUSTERS)),
            chunks: random.below(STORE / CHUNK_CLUSTERS),
            buckets: random.below(1 << 50),
            named: random.below(STORE),
        },
        select,
        joins,
        member,
        ends,
        births,
    }
}

#[test]
fn a_superblock_comes_back_and_any_damage_to_it_is_found() {
    let mut random = Random(6);
    for _ in 0..100 {
        let written = superblock(&mut random);
        let mut block = vec![0; CLUSTER_SIZE];
        written.write(&mut block, hash);
        let read = Superblock::read(&block, hash).unwrap();
        assert_eq!(format!("{read:?}"), format!("{written:?}"));
        assert!(Superblock::probe(&block));
        let [first, distant] = read.places();
        assert_eq!(first.0, read.generation % 2);
        assert!(distant.0 > first.0 && distant.0 < STORE);
        for _ in 0..100 {
            let at = random.below(CLUSTER_SIZE as u64) as usize;
            let bit = 1 << random.below(8);
            block[at] ^= bit;
            let expected = if at < 8 {
                SuperblockError::Magic
            } else {
                SuperblockError::Checksum
            };
            assert_eq!(
                Superblock::read(&block, hash).err(),
                Some(expected),
                "byte {at}"
            );
            block[at] ^= bit;
        }
    }
}

#[test]
fn a_superblock_with_a_right_checksum_and_wrong_values_is_refused() {
    let mut random = Random(7);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut block = vec![0; CLUSTER_SIZE];
        superblock(&mut random).write(&mut block, hash);
        for _ in 0..1 + random.below(4) {
            let at = 16 + random.below(4000) as usize;
            block[at] = if random.below(2) == 0 {
                0xff
            } else {
                random.draw() as u8
            };
        }
        let sum = hash(&block[16..], 0x6464_7570_7375_7065);
        block[8..16].copy_from_slice(&sum.to_le_bytes());
        match Superblock::read(&block, hash) {
            Ok(read) => {
                assert!(read.layout.is_sound());
                assert!((1..=JOINS_MAX).contains(&read.joins.len()));
                let newest = read.births.ticks().last().copied().unwrap_or_default();
                assert!(newest.epoch <= read.position().epoch);
                assert!(newest.generation <= read.checkpoint.generation);
                assert!(read.checkpoint.names.place.0 < read.layout.clusters);
                assert!(read
                    .joins
                    .iter()
                    .all(|j| j.offset < read.layout.journal_clusters));
            }
            Err(error) => {
                assert_ne!(
                    error,
                    SuperblockError::Checksum,
                    "the test's own seed is stale"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 300);
}
