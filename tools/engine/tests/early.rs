// SPDX-License-Identifier: GPL-2.0

//! Writes that are acknowledged before their data is on disk: what follows them, and what becomes
//! of data that can't be written.

mod memory;

use ddup_engine::engine::{DataResult, Status, VolumeChange, EARLY_WRITES_MAX};
use memory::{check_disk, Shell};

const CLUSTERS: u64 = 16 * 4096;

/// Tries of a block's data before it is given up.
const TRIES: u32 = 3;

/// A store whose data writes end when they are let go.
fn attach() -> Shell {
    let mut shell = Shell::attach(Shell::format(CLUSTERS, 1 << 20), CLUSTERS, 256, 4096);
    shell.hold_writes = true;
    shell
}

fn is_done(shell: &Shell, tag: u32) -> bool {
    shell.done.contains_key(&tag)
}

/// The data of a write that was acknowledged is lost.
fn lose(shell: &mut Shell, lbn: u64, ids: &[u64]) {
    shell.begin_write(1, lbn, ids);
    assert_eq!(shell.done[&1], Status::Ok);
    for _ in 0..TRIES {
        assert!(!shell.held_writes.is_empty());
        shell.end_writes(DataResult::Failed);
    }
    assert!(shell.held_writes.is_empty());
    shell.hold_writes = false;
}

#[test]
fn a_write_is_acknowledged_before_its_data_is_on_disk() {
    let mut shell = attach();
    shell.begin_write(1, 7, &[5, 6]);
    assert_eq!(shell.done[&1], Status::Ok);
    assert_eq!(shell.held_writes.len(), 1);
    shell.end_writes(DataResult::Ok);
    assert_eq!(shell.read(7, 2), [5, 6]);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_flush_waits_for_the_data_of_what_was_acknowledged_before_it() {
    let mut shell = attach();
    shell.begin_write(1, 7, &[5]);
    shell.begin_flush(2);
    shell.pass(5000);
    assert!(!is_done(&shell, 2));
    shell.end_writes(DataResult::Ok);
    assert_eq!(shell.done[&2], Status::Ok);
    let mut shell = Shell::attach(shell.disk, CLUSTERS, 256, 4096);
    assert_eq!(shell.read(7, 1), [5]);
}

#[test]
fn what_comes_while_a_flush_waits_is_not_acknowledged_early() {
    let mut shell = attach();
    shell.begin_write(1, 7, &[5]);
    shell.begin_flush(2);
    shell.begin_write(3, 8, &[6]);
    assert!(!is_done(&shell, 3));
    shell.end_writes(DataResult::Ok);
    assert!(is_done(&shell, 2) && is_done(&shell, 3));
}

#[test]
fn requests_for_its_blocks_wait_and_others_do_not() {
    let mut shell = attach();
    shell.begin_write(1, 7, &[5, 6]);
    shell.begin_read(2, 8, 1);
    shell.begin_read(3, 9, 1);
    shell.begin_write(4, 6, &[1, 2]);
    assert!(!is_done(&shell, 2) && is_done(&shell, 3) && !is_done(&shell, 4));
    shell.end_writes(DataResult::Ok);
    assert_eq!(shell.reads[&2], [Some(6)]);
    shell.end_writes(DataResult::Ok);
    assert_eq!(shell.read(6, 3), [1, 2, 6]);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_write_that_is_to_be_durable_is_not_acknowledged_early() {
    let mut shell = attach();
    shell.begin_write_durable(1, 7, &[5]);
    assert!(!is_done(&shell, 1));
    shell.end_writes(DataResult::Ok);
    assert_eq!(shell.done[&1], Status::Ok);
}

#[test]
fn no_more_writes_are_acknowledged_early_than_the_shell_can_hold() {
    // In a small store there is room for fewer.
    let clusters = 1 << 20;
    let mut shell = Shell::attach(Shell::format(clusters, 1 << 20), clusters, 256, 4096);
    shell.hold_writes = true;
    let count = EARLY_WRITES_MAX as u32;
    for tag in 0..=count {
        shell.begin_write(tag, tag.into(), &[u64::from(tag) + 1]);
    }
    assert!((0..count).all(|tag| is_done(&shell, tag)));
    assert!(!is_done(&shell, count));
    shell.end_writes(DataResult::Ok);
    assert!(is_done(&shell, count));
}

#[test]
fn data_that_fails_is_written_elsewhere() {
    let mut shell = attach();
    shell.begin_write(1, 7, &[5]);
    let failed = shell.held_writes[0].3;
    shell.end_writes(DataResult::Failed);
    assert_ne!(shell.held_writes[0].3, failed);
    shell.end_writes(DataResult::Ok);
    shell.flush();
    assert_eq!(shell.read(7, 1), [5]);
    assert_eq!(shell.engine.counters().blocks_lost, 0);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn the_next_flush_tells_that_acknowledged_data_was_lost() {
    let mut shell = attach();
    lose(&mut shell, 7, &[5]);
    assert_eq!(shell.engine.counters().blocks_lost, 1);
    assert_eq!(shell.try_flush(), Status::Io);
    assert_eq!(shell.try_flush(), Status::Ok);
}

#[test]
fn a_block_whose_data_was_lost_can_be_written_and_not_read() {
    let mut shell = attach();
    shell.hold_writes = false;
    assert_eq!(shell.write(7, &[4]), Status::Ok);
    shell.hold_writes = true;
    lose(&mut shell, 7, &[5]);
    assert_eq!(shell.try_read(7, 1), Err(Status::Medium));
    // Nobody shares what is not there.
    assert_eq!(shell.write(9, &[5]), Status::Ok);
    assert_eq!(shell.read(9, 1), [5]);
    assert_eq!(shell.try_flush(), Status::Io);

    let mut shell = Shell::attach(shell.disk, CLUSTERS, 256, 4096);
    assert_eq!(shell.write(7, &[6]), Status::Ok);
    assert_eq!(shell.read(7, 1), [6]);
    shell.flush();
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_detach_after_a_loss_of_which_nobody_was_told_is_not_clean() {
    let mut shell = attach();
    lose(&mut shell, 7, &[5]);
    shell.engine.detach(shell.now);
    while !shell.detached {
        shell.pass(5);
    }
    assert!(!shell.clean);
}

#[test]
fn a_loss_is_told_to_the_volume_whose_data_it_was() {
    let mut shell = attach();
    shell.volume = shell.change(VolumeChange::Create {
        blocks: 100,
        uuid: [9; 16],
    });
    lose(&mut shell, 7, &[5]);
    let own = std::mem::replace(&mut shell.volume, 0);
    assert_eq!(shell.try_flush(), Status::Ok);
    shell.volume = own;
    assert_eq!(shell.try_flush(), Status::Io);
    assert_eq!(shell.try_flush(), Status::Ok);
}
