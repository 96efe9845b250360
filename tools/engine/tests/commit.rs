// SPDX-License-Identifier: GPL-2.0

//! Quick and plain journal blocks: what counts after a crash, and who waits for which.

mod memory;

use ddup_engine::engine::Status;
use memory::{check_disk, Disk, Shell};

const CLUSTERS: u64 = 16 * 4096;

fn attach(disk: Disk) -> Shell {
    Shell::attach(disk, CLUSTERS, 256, 4096)
}

/// A store whose last journal block is a quick one that hands out a cluster for content 6, over 5.
fn with_a_quick_block() -> Shell {
    let mut shell = attach(Shell::format(CLUSTERS, 1 << 20));
    assert_eq!(shell.write(7, &[5]), Status::Ok);
    shell.flush();
    assert_eq!(shell.write(7, &[6]), Status::Ok);
    assert_eq!(shell.write(8, &[5]), Status::Ok);
    shell.flush();
    shell
}

fn cluster_of(disk: &Disk, id: u64) -> u64 {
    let of = |(cluster, content): (&u64, &u64)| (*content == id).then_some(*cluster);
    disk.data.iter().find_map(of).unwrap()
}

#[test]
fn a_flush_costs_one_write_of_the_journal() {
    let mut shell = with_a_quick_block();
    assert_eq!(shell.engine.counters().journal_blocks, 2);
    // And one more, to vouch for what the last one came with; then no others.
    shell.pass(1500);
    assert_eq!(shell.engine.counters().journal_blocks, 3);
    shell.pass(5000);
    assert_eq!(shell.engine.counters().journal_blocks, 3);
}

#[test]
fn a_quick_block_counts_if_its_data_is_there() {
    let mut shell = attach(with_a_quick_block().disk);
    assert_eq!(shell.read(7, 2), [6, 5]);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_quick_block_without_its_data_does_not_count() {
    let mut disk = with_a_quick_block().disk;
    let lost = cluster_of(&disk, 6);
    disk.data.remove(&lost);
    let mut shell = attach(disk);
    assert_eq!(shell.read(7, 2), [5, 0]);
    // Its place in the ring and its cluster are used again.
    assert_eq!(shell.write(9, &[6]), Status::Ok);
    shell.flush();
    let mut shell = attach(shell.disk);
    assert_eq!(shell.read(7, 3), [5, 0, 6]);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn what_a_later_block_vouches_for_counts_whatever_becomes_of_its_data() {
    let mut shell = with_a_quick_block();
    shell.pass(1500);
    let mut disk = shell.disk;
    let damaged = cluster_of(&disk, 6);
    disk.rotten.insert(damaged);
    let mut shell = attach(disk);
    assert_eq!(shell.try_read(7, 1), Err(Status::Medium));
    assert_eq!(shell.read(8, 1), [5]);
}

#[test]
fn what_an_attach_has_kept_counts_whatever_becomes_of_its_data() {
    let mut disk = attach(with_a_quick_block().disk).disk;
    let damaged = cluster_of(&disk, 6);
    disk.rotten.insert(damaged);
    let mut shell = attach(disk);
    assert_eq!(shell.try_read(7, 1), Err(Status::Medium));
    assert_eq!(shell.read(8, 1), [5]);
}

#[test]
fn retired_clusters_wait_until_their_record_is_vouched_for() {
    let mut shell = Shell::attach_with(Shell::format(CLUSTERS, 1 << 20), CLUSTERS, |config| {
        config.knobs.gc_delay = 0;
        config.knobs.checkpoint_interval = 300;
    });
    let ids: Vec<u64> = (1..=100).collect();
    assert_eq!(shell.write(0, &ids), Status::Ok);
    shell.discard(0, 100);
    while shell.engine.counters().clusters_retired < 100 {
        shell.pass(5);
    }
    let free = |shell: &Shell| shell.engine.counters().clusters_free;
    let before = free(&shell);
    shell.flush();
    // The record is durable, but the journal would end before it if data of its block were damaged.
    shell.pass(50);
    assert_eq!(free(&shell), before);
    shell.pass(1500);
    assert_eq!(free(&shell), before + 100);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_write_that_is_to_be_durable_does_not_wait_for_another_request() {
    let mut shell = attach(Shell::format(CLUSTERS, 1 << 20));
    let begun = shell.now;
    // New content, the same again, and both at once.
    assert_eq!(shell.write_durable(7, &[5]), Status::Ok);
    assert_eq!(shell.write_durable(8, &[5]), Status::Ok);
    assert_eq!(shell.write_durable(9, &[5, 6]), Status::Ok);
    assert!(shell.now - begun < 10);
    let mut shell = attach(shell.disk);
    assert_eq!(shell.read(7, 4), [5, 5, 5, 6]);
}
