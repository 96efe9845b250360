// SPDX-License-Identifier: GPL-2.0

//! What makes a store a member of a replica set: its superblock and configuration slots, when it is
//! formatted and when they are damaged.

mod memory;

use ddup_engine::engine::births::{Births, Tick, BIRTHS_MAX};
use ddup_engine::engine::check::Finding;
use ddup_engine::engine::format::layout::Layout;
use ddup_engine::engine::format::superblock::{Superblock, SuperblockError};
use ddup_engine::engine::mkfs::{self, MemberParams, MkfsError, Params, Volume};
use ddup_engine::engine::replication::config::{Config, Member, MemberState};
use ddup_engine::engine::replication::record::{self, Record, Slots};
use ddup_engine::engine::replication::types::{Position, NO_ID, REIGNS_MAX};
use ddup_engine::engine::types::Generation;
use ddup_engine::engine::{Cluster, FingerprintAlgorithm, Status};
use kernel::prelude::{KBox, KVec, GFP_KERNEL};
use memory::{hash, params, Disk, Shell, PAGE};

const CLUSTERS: u64 = 4 * 4096;
const STORE: [u8; 16] = [7; 16];

fn record() -> Record {
    let mut members = KVec::new();
    let member = Member {
        store: STORE,
        incarnation: 1,
        state: MemberState::InSync,
        floor: Position::ZERO,
        confirmed: NO_ID,
    };
    members.push(member, GFP_KERNEL).unwrap();
    Record {
        promise: 1,
        keep: false,
        config: Config {
            set: [9; 16],
            version: 1,
            id: [0x41; 16],
            term: 1,
            reign: [0x51; 16],
            primary: STORE,
            forced: 0,
            min_insync: 1,
            ancestors: KVec::new(),
            members,
        },
    }
}

fn volumes(count: u8) -> Vec<Volume> {
    let volume = |n: u8| Volume {
        uuid: [0x60 + n; 16],
        blocks: 1000 * u64::from(n),
    };
    (1..=count).map(volume).collect()
}

fn disk_with(volumes: &[Volume]) -> Disk {
    let record = record();
    Shell::format_with(&with(&record, volumes))
}

fn newest(disk: &Disk) -> KBox<Superblock> {
    let read = |slot| Superblock::read(&disk.pages[&slot], hash).unwrap();
    let (a, b) = (read(0), read(1));
    if a.generation > b.generation {
        a
    } else {
        b
    }
}

/// Places of both copies of both configuration slots.
fn slots(superblock: &Superblock) -> [[Cluster; 2]; 2] {
    [2, 3].map(|slot| {
        [
            Layout::superblock(slot, None),
            Layout::superblock(slot, Some(&superblock.layout)),
        ]
    })
}

fn findings(disk: &Disk) -> Vec<Finding> {
    memory::findings_of(disk, CLUSTERS).0
}

fn with<'a>(record: &'a Record, volumes: &'a [Volume]) -> Params<'a> {
    Params {
        member: Some(MemberParams { record, volumes }),
        ..params(CLUSTERS, 4096)
    }
}

fn refused(params: &Params<'_>) -> MkfsError<()> {
    mkfs::format(params, &mut |_| Ok(())).unwrap_err()
}

#[test]
fn a_member_is_made_with_a_record_in_each_copy_of_each_slot() {
    let disk = disk_with(&[]);
    let superblock = newest(&disk);
    assert!(superblock.member);
    assert_eq!(superblock.history().unwrap().position(), Position::ZERO);
    let copies = slots(&superblock).map(|slot| slot.map(|place| Some(&disk.pages[&place.0][..])));
    match record::choose(&copies, &STORE, hash).unwrap() {
        Slots::Record(found) => {
            assert_eq!((found.generation, found.first), (3, [0, 0]));
            assert_eq!(found.record.promise, 1);
            let config = found.record.config.bytes().unwrap();
            assert_eq!(config[..], record().config.bytes().unwrap()[..]);
        }
        other => panic!("{other:?}"),
    }
    for slot in copies {
        assert_eq!(slot[0], slot[1]);
    }
    assert_eq!(findings(&disk), []);
}

#[test]
fn a_store_in_no_set_has_neither_bit_nor_slots() {
    let disk = Shell::format(CLUSTERS, 4096);
    let superblock = newest(&disk);
    assert!(!superblock.member);
    assert_eq!(disk.pages[&0][40..48], [0; 8]);
    for place in slots(&superblock).concat() {
        assert!(disk.pages[&place.0].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_member_may_begin_with_all_volumes_of_its_set() {
    let volumes = volumes(mkfs::VOLUMES_AT_FORMAT_MAX as u8);
    let disk = disk_with(&volumes);
    assert_eq!(findings(&disk), []);
    let superblock = newest(&disk);
    assert_eq!(superblock.checkpoint.volume_count, 15);
    assert_eq!(superblock.checkpoint.next_volume, 16);
    let made = mkfs_volumes(&disk, &superblock);
    assert_eq!(made, volumes);
}

fn mkfs_volumes(disk: &Disk, superblock: &Superblock) -> Vec<Volume> {
    use ddup_engine::engine::format::page::VolumeEntry;
    let page = &disk.pages[&superblock.checkpoint.volumes.place.0];
    (0..superblock.checkpoint.volume_count)
        .map(|slot| VolumeEntry::read(page, slot).unwrap().unwrap())
        .map(|v| Volume {
            uuid: v.uuid,
            blocks: v.blocks,
        })
        .collect()
}

#[test]
fn what_cannot_be_a_member_is_refused() {
    let record = record();
    let fast = Params {
        fingerprint: FingerprintAlgorithm::Xxh64,
        ..with(&record, &[])
    };
    assert_eq!(refused(&fast), MkfsError::Fingerprint);
    assert_eq!(refused(&with(&record, &volumes(16))), MkfsError::Volumes);
    let mut twice = volumes(2);
    twice[1].uuid = twice[0].uuid;
    assert_eq!(refused(&with(&record, &twice)), MkfsError::Volumes);
    twice[1].uuid = NO_ID;
    assert_eq!(refused(&with(&record, &twice)), MkfsError::Volumes);
    twice[1].blocks = 0;
    assert_eq!(refused(&with(&record, &twice)), MkfsError::VolumeSize);
    let mut broken = self::record();
    broken.promise = 0;
    assert_eq!(refused(&with(&broken, &[])), MkfsError::Record);
    broken.promise = 1;
    broken.config.primary = [1; 16];
    assert_eq!(refused(&with(&broken, &[])), MkfsError::Record);
}

#[test]
fn damage_to_a_slot_is_a_finding_in_its_place() {
    let sound = disk_with(&[]);
    let places = slots(&newest(&sound));
    for (number, copies) in places.iter().enumerate() {
        for place in copies {
            let found = |change: &dyn Fn(&mut [u8])| {
                let mut disk = sound.clone();
                change(disk.pages.get_mut(&place.0).unwrap());
                findings(&disk)
            };
            let finding = |empty| Finding::ConfigSlot {
                place: *place,
                empty,
            };
            assert!(found(&|page| page[2000] ^= 1).contains(&finding(false)));
            assert!(found(&|page| page.fill(0)).contains(&finding(true)));
            // An intact record in the slot of the other generation.
            let other = sound.pages[&places[1 - number][0].0].clone();
            let swapped = found(&|page| page.copy_from_slice(&other));
            assert!(swapped.contains(&finding(false)), "{swapped:?}");
        }
    }
}

#[test]
fn a_history_of_a_term_that_nobody_promised_is_a_finding() {
    let mut disk = disk_with(&[]);
    let mut superblock = newest(&disk);
    let end = Position {
        term: 2,
        reign: [0x52; 16],
        epoch: 1,
        chain: 5,
    };
    superblock.set_history(&[end]).unwrap();
    for generation in [superblock.generation + 1, superblock.generation + 2] {
        superblock.generation = generation;
        let mut page = vec![0; PAGE];
        superblock.write(&mut page, hash);
        for place in superblock.places() {
            disk.pages.insert(place.0, page.clone().into());
        }
    }
    let finding = Finding::HistoryTerm {
        term: 2,
        promise: 1,
    };
    assert_eq!(findings(&disk), [finding]);
}

fn ends(count: u64) -> Vec<Position> {
    let end = |n| Position {
        term: n,
        reign: [n as u8; 16],
        epoch: 10 * n,
        chain: n,
    };
    (1..=count).map(end).collect()
}

/// A superblock as it is read again, once it was changed.
fn written(
    superblock: &Superblock,
    change: &dyn Fn(&mut [u8]),
) -> Result<KBox<Superblock>, SuperblockError> {
    let mut page = vec![0; PAGE];
    superblock.write(&mut page, hash);
    change(&mut page);
    let sum = hash(&page[16..], 0x6464_7570_7375_7065);
    page[8..16].copy_from_slice(&sum.to_le_bytes());
    Superblock::read(&page, hash)
}

#[test]
fn a_superblock_keeps_which_generations_ended_where_and_refuses_what_is_not_so() {
    let mut superblock = newest(&disk_with(&[]));
    assert_eq!(superblock.births, Births::default());
    superblock.set_history(&ends(24)).unwrap();
    superblock.checkpoint.generation = Generation(90);
    for n in 1..=BIRTHS_MAX as u32 {
        superblock.births.note(Tick {
            generation: Generation(4 * n),
            epoch: 12 * u64::from(n),
        });
    }
    let read = written(&superblock, &|_| ()).unwrap();
    assert_eq!(read.births.ticks(), superblock.births.ticks());
    assert_eq!(read.births.ticks().len(), BIRTHS_MAX);
    let last = 776 + 12 * (BIRTHS_MAX - 1);
    for change in [
        // More than there is room for; epochs and generations that do not ascend.
        &|page: &mut [u8]| page[768] = 21,
        &|page: &mut [u8]| page[769] = 1,
        &|page: &mut [u8]| page[776] = 0,
        &|page: &mut [u8]| page[776 + 12] = 12,
        &|page: &mut [u8]| page[776 + 8] = 8,
        // Behind the end of the history, or of a generation that has not ended.
        &|page: &mut [u8]| page[last] = 241,
        &|page: &mut [u8]| page[last + 8] = 90,
    ] as [&dyn Fn(&mut [u8]); 7]
    {
        let error = written(&superblock, change).unwrap_err();
        assert_eq!(error, SuperblockError::Field);
    }
    // A version that does not know them leaves zeroes.
    let read = written(&superblock, &|page| page[768..1024].fill(0)).unwrap();
    assert_eq!(read.births, Births::default());
    // In a store that is in no set nobody looks.
    let read = written(&superblock, &|page| {
        page[40] = 0;
        page[768] = 21;
    });
    assert!(!read.unwrap().member);
}

#[test]
fn a_superblock_keeps_the_newest_reigns_and_refuses_what_is_no_history() {
    let mut superblock = newest(&disk_with(&[]));
    superblock.set_history(&ends(30)).unwrap();
    assert_eq!(superblock.ends.len(), REIGNS_MAX);
    let read = written(&superblock, &|_| ()).unwrap();
    assert_eq!(read.history().unwrap().ends(), &ends(30)[6..]);
    for change in [
        // More than there is room for, epochs and terms that fall, a reign without a name or twice.
        &|page: &mut [u8]| page[3080] = 25,
        &|page: &mut [u8]| page[3088 + 40 + 24] = 1,
        &|page: &mut [u8]| page[3088 + 40] = 1,
        &|page: &mut [u8]| page[3088 + 48..3088 + 64].fill(0),
        &|page: &mut [u8]| page.copy_within(3088 + 8..3088 + 24, 3088 + 48),
        // Members have a cryptographic fingerprint.
        &|page: &mut [u8]| page[105] = 3,
    ] as [&dyn Fn(&mut [u8]); 6]
    {
        let error = written(&superblock, change).unwrap_err();
        assert_eq!(error, SuperblockError::Field);
    }
    // Without the bit nobody looks.
    let read = written(&superblock, &|page| {
        page[40] = 0;
        page[3080] = 25;
    });
    assert!(!read.unwrap().member);
}

#[test]
fn an_attach_keeps_the_bit_and_formatting_anew_takes_it() {
    let disk = disk_with(&[]);
    let mut again = disk.clone();
    mkfs::format::<()>(&params(CLUSTERS, 4096), &mut |step| {
        if let mkfs::Step::Write(cluster, bytes) = step {
            for (i, page) in bytes.chunks(PAGE).enumerate() {
                again.pages.insert(cluster.0 + i as u64, page.into());
            }
        }
        Ok(())
    })
    .unwrap();
    let superblock = newest(&again);
    assert!(!superblock.member);
    for place in slots(&superblock).concat() {
        assert!(again.pages[&place.0].iter().all(|byte| *byte == 0));
    }
    let generation = newest(&disk).generation;
    let mut shell = Shell::attach(disk, CLUSTERS, 64, 1024);
    assert_eq!(shell.write(1, &[5]), Status::Ok);
    assert!(newest(&shell.disk).generation > generation && newest(&shell.disk).member);
}
