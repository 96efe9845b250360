// SPDX-License-Identifier: GPL-2.0

//! The index that a clean detach saves and the next attach loads.

mod memory;

use ddup_engine::engine::check::Finding;
use ddup_engine::engine::format::index::{SavedIndex, CHUNK_CLUSTERS};
use ddup_engine::engine::format::superblock::Superblock;
use ddup_engine::engine::Status;
use memory::{check_disk, findings_of, hash, Disk, Shell, PAGE};

const CLUSTERS: u64 = 16 * 4096;
const BLOCKS: u64 = 30_000;

fn attach(disk: Disk) -> Shell {
    Shell::attach(disk, CLUSTERS, 256, 4096)
}

/// A store with a block of each content from 1 to [`BLOCKS`], detached.
fn used() -> Disk {
    let mut shell = attach(Shell::format(CLUSTERS, 1 << 20));
    for lbn in (0..BLOCKS).step_by(100) {
        let ids: Vec<u64> = (lbn + 1..=lbn + 100).collect();
        assert_eq!(shell.write(lbn, &ids), Status::Ok);
        shell.turn();
    }
    assert_eq!(shell.engine.counters().index_used, BLOCKS);
    shell.detach()
}

/// Background work goes on until the index is whole.
fn settle(shell: &mut Shell) {
    for _ in 0..2000 {
        shell.turn();
    }
}

fn saved(disk: &Disk) -> SavedIndex {
    let copy = |slot: u64| Superblock::read(&disk.pages[&slot], hash).ok();
    let copies = [copy(0), copy(1)].into_iter().flatten();
    copies.max_by_key(|s| s.generation).unwrap().index
}

/// Writes what is there already, and answers how many blocks found their twin.
fn duplicates(shell: &mut Shell) -> u64 {
    let before = shell.engine.counters().blocks_duplicate;
    for lbn in (0..BLOCKS).step_by(100) {
        let ids: Vec<u64> = (lbn + 1..=lbn + 100).collect();
        assert_eq!(shell.write(BLOCKS + lbn, &ids), Status::Ok);
    }
    shell.engine.counters().blocks_duplicate - before
}

#[test]
fn it_is_saved_at_a_clean_detach_and_loaded_by_the_next_attach() {
    let disk = used();
    check_disk(&disk, CLUSTERS);
    let index = saved(&disk);
    assert!(index.exists() && index.chunks > 1, "{index:?}");
    // About a byte a bucket, and seven an entry.
    let bytes = index.buckets + 7 * BLOCKS;
    assert!(index.chunks * (PAGE as u64 * CHUNK_CLUSTERS) < bytes + bytes / 8);
    let mut shell = attach(disk);
    settle(&mut shell);
    let counters = shell.engine.counters();
    assert_eq!(
        (counters.index_loaded, counters.index_used),
        (BLOCKS, BLOCKS)
    );
    // No tree was walked for it.
    assert_eq!(counters.pages_read, 0);
    assert_eq!(duplicates(&mut shell), BLOCKS);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn the_superblock_of_the_next_attach_knows_it_no_longer() {
    let disk = used();
    assert!(saved(&disk).exists());
    let shell = attach(disk);
    assert_eq!(saved(&shell.disk), SavedIndex::default());
    // Power fails: the next attach has to rebuild.
    let mut shell = attach(shell.disk);
    settle(&mut shell);
    let counters = shell.engine.counters();
    assert_eq!((counters.index_loaded, counters.index_used), (0, BLOCKS));
    assert!(counters.pages_read > 0);
    assert_eq!(duplicates(&mut shell), BLOCKS);
}

#[test]
fn what_is_damaged_is_named_and_made_anew() {
    for chunk in [0, saved(&used()).chunks - 1] {
        let mut disk = used();
        let place = saved(&disk).place.0 + chunk * CHUNK_CLUSTERS;
        disk.pages.get_mut(&(place + 3)).unwrap()[77] ^= 4;
        let (findings, _) = findings_of(&disk, CLUSTERS);
        let [Finding::IndexChunk { place: named }] = findings[..] else {
            panic!("{findings:?}");
        };
        assert_eq!(named.0, place);
        let mut shell = attach(disk);
        settle(&mut shell);
        let counters = shell.engine.counters();
        assert!(counters.index_loaded < BLOCKS, "{counters:?}");
        assert_eq!(counters.index_used, BLOCKS);
        assert_eq!(duplicates(&mut shell), BLOCKS);
        check_disk(&shell.detach(), CLUSTERS);
    }
}

#[test]
fn an_index_of_another_size_is_made_anew() {
    let (disk, small) = (used(), 1 << 20);
    let mut shell = Shell::attach_with(disk, CLUSTERS, |config| config.index_bytes = small);
    settle(&mut shell);
    let counters = shell.engine.counters();
    assert_eq!((counters.index_loaded, counters.index_used), (0, BLOCKS));
    let disk = shell.detach();
    assert_eq!(saved(&disk).buckets, small / 64);
    let mut shell = Shell::attach_with(disk, CLUSTERS, |config| config.index_bytes = small);
    settle(&mut shell);
    assert_eq!(shell.engine.counters().index_loaded, BLOCKS);
}

#[test]
fn what_was_not_rebuilt_yet_is_rebuilt_after_the_next_attach() {
    let shell = attach(attach(used()).disk);
    // Detached before the rebuild came far.
    let disk = shell.detach();
    assert!(saved(&disk).named < CLUSTERS, "{:?}", saved(&disk));
    let mut shell = attach(disk);
    settle(&mut shell);
    assert_eq!(duplicates(&mut shell), BLOCKS);
}

#[test]
fn without_room_it_is_not_saved() {
    let clusters = 4 * 4096;
    let mut shell = Shell::attach(Shell::format(clusters, 1 << 20), clusters, 256, 4096);
    let mut lbn = 0;
    while shell.write(lbn, &[lbn + 1]) == Status::Ok {
        lbn += 1;
    }
    let disk = shell.detach();
    check_disk(&disk, clusters);
    assert_eq!(saved(&disk), SavedIndex::default());
    let mut shell = Shell::attach(disk, clusters, 256, 4096);
    settle(&mut shell);
    let counters = shell.engine.counters();
    assert_eq!((counters.index_loaded, counters.index_used), (0, lbn));
}
