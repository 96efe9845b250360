// SPDX-License-Identifier: GPL-2.0

//! Scrubs of one store: what they read, what they find, and what ends them.

mod memory;

use ddup_engine::engine::{ScrubReport, ScrubState, Status, VolumeChange};
use kernel::prelude::{EBUSY, EIO};
use memory::{check_disk, Shell};

const CLUSTERS: u64 = 32 * 4096;
const BLOCKS: u64 = 40_000;

fn attach() -> Shell {
    Shell::attach(Shell::format(CLUSTERS, BLOCKS), CLUSTERS, 1024, 4096)
}

/// `count` blocks from `lbn` on, each with content of its own.
fn fill(shell: &mut Shell, lbn: u64, count: u64) {
    for at in (lbn..lbn + count).step_by(64) {
        let ids: Vec<_> = (at..(at + 64).min(lbn + count)).map(|b| 1000 + b).collect();
        assert_eq!(shell.write(at, &ids), Status::Ok);
    }
}

fn report(shell: &Shell) -> ScrubReport {
    shell.engine.scrub_report().unwrap()
}

/// A whole scrub.
fn scrub(shell: &mut Shell) -> ScrubReport {
    let before = shell.scrubs;
    shell.begin_scrub().unwrap();
    for _ in 0..100_000 {
        shell.turn();
        if report(shell).state != ScrubState::Running {
            assert_eq!(shell.scrubs, before + 1);
            return report(shell);
        }
        shell.now += 1;
    }
    panic!("the scrub does not end: {:?}", report(shell));
}

/// The cluster of what was written with this number.
fn cluster_of(shell: &Shell, id: u64) -> u64 {
    let mut found = shell.disk.data.iter().filter(|(_, i)| **i == id);
    let cluster = *found.next().unwrap().0;
    assert!(found.next().is_none());
    cluster
}

#[test]
fn every_mapped_block_is_checked_whether_checkpointed_or_not() {
    let mut shell = attach();
    fill(&mut shell, 0, 3000);
    fill(&mut shell, 20_001, 777);
    let disk = shell.detach();
    let mut shell = Shell::attach(disk, CLUSTERS, 1024, 4096);
    fill(&mut shell, 39_990, 10);
    shell.discard(100, 50);
    let report = scrub(&mut shell);
    assert_eq!(report.state, ScrubState::Complete);
    assert_eq!((report.checked, report.clusters), (3737, 3737));
    assert_eq!((report.bad, report.healed), (0, 0));
    let mut all = shell.scrubbed.clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3737);
    assert!(shell.found.is_empty());
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_cluster_that_many_blocks_share_is_read_once() {
    let mut shell = attach();
    for lbn in (0..6400).step_by(64) {
        assert_eq!(shell.write(lbn, &[7; 64]), Status::Ok);
    }
    fill(&mut shell, 10_000, 100);
    let report = scrub(&mut shell);
    assert_eq!(report.checked, 6500);
    // Those that are read at the same time do not know of each other yet.
    assert!((101..=132).contains(&report.clusters), "{report:?}");
}

#[test]
fn each_block_of_a_bad_cluster_is_found_and_told() {
    let mut shell = attach();
    fill(&mut shell, 0, 5000);
    assert_eq!(shell.write(30_000, &[1000 + 4321, 77]), Status::Ok);
    let bad = cluster_of(&shell, 1000 + 4321);
    shell.disk.rotten.insert(bad);
    let report = scrub(&mut shell);
    assert_eq!((report.checked, report.bad), (5002, 2));
    assert_eq!(shell.found, [(0, 4321), (0, 30_000)]);
    assert_eq!(shell.engine.counters().clusters_quarantined, 1);
    // What else is there is read as before.
    assert_eq!(shell.read(4322, 1), [1000 + 4322]);
    assert_eq!(shell.try_read(4321, 1), Err(Status::Medium));

    // A block that is written anew is good again.
    assert_eq!(shell.write(4321, &[5]), Status::Ok);
    let report = scrub(&mut shell);
    assert_eq!((report.checked, report.bad), (5002, 1));
}

#[test]
fn it_goes_through_all_volumes_while_they_come_and_go() {
    let mut shell = attach();
    fill(&mut shell, 0, 1000);
    let second = shell.change(VolumeChange::Create {
        uuid: [9; 16],
        blocks: 2000,
    });
    shell.volume = second;
    fill(&mut shell, 0, 1500);
    shell.volume = 0;
    assert_eq!(scrub(&mut shell).checked, 2500);

    // The second volume goes while the first one is read.
    shell.begin_scrub().unwrap();
    shell.turn();
    shell.change(VolumeChange::Remove { slot: second });
    let mut turns = 0;
    while report(&shell).state == ScrubState::Running {
        shell.pass(5);
        turns += 1;
        assert!(turns < 10_000);
    }
    let report = report(&shell);
    assert_eq!(report.state, ScrubState::Complete);
    assert!((1000..=2500).contains(&report.checked) && report.bad == 0);
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn there_is_one_at_a_time_and_it_can_be_stopped() {
    let mut shell = attach();
    fill(&mut shell, 0, 10_000);
    assert!(shell.engine.scrub_report().is_none());
    assert!(!shell.engine.stop_scrub(shell.now));
    // What is read does not take a millisecond here, but each run waits for a turn.
    shell.begin_scrub().unwrap();
    assert!(matches!(shell.begin_scrub(), Err(EBUSY)));
    assert!(shell.engine.stop_scrub(shell.now));
    assert!(!shell.engine.stop_scrub(shell.now));
    shell.turn();
    assert_eq!(report(&shell).state, ScrubState::Stopped);
    assert_eq!(shell.scrubs, 1);
    assert_eq!(scrub(&mut shell).checked, 10_000);
}

#[test]
fn a_detach_ends_it() {
    let mut shell = attach();
    fill(&mut shell, 0, 10_000);
    shell.begin_scrub().unwrap();
    check_disk(&shell.detach(), CLUSTERS);
}

#[test]
fn a_detach_waits_for_what_a_scrub_reads() {
    for read_only in [false, true] {
        let mut shell = attach();
        fill(&mut shell, 0, 100);
        let disk = shell.detach();
        let mut shell = Shell::attach_with(disk, CLUSTERS, |config| config.read_only = read_only);
        shell.hold_scrubs = true;
        shell.begin_scrub().unwrap();
        shell.pass(100);
        assert!(!shell.held.is_empty());
        shell.engine.detach(shell.now);
        shell.pass(10_000);
        assert!(!shell.detached, "read-only: {read_only}");
        shell.let_go();
        shell.pass(100);
        assert!(shell.detached);
    }
}

#[test]
fn what_a_scrub_reads_is_not_used_for_anything_else_meanwhile() {
    let mut shell = Shell::attach_with(Shell::format(CLUSTERS, BLOCKS), CLUSTERS, |config| {
        config.knobs.gc_delay = 0;
        config.knobs.keep_erased = u64::MAX;
        config.knobs.checkpoint_interval = 1000;
    });
    fill(&mut shell, 0, 100);
    shell.pass(5000);
    shell.hold_scrubs = true;
    shell.begin_scrub().unwrap();
    shell.turn();
    assert!(!shell.held.is_empty());
    let free = shell.engine.counters().clusters_free;
    shell.discard(0, 100);
    shell.pass(30_000);
    assert_eq!(shell.engine.counters().clusters_retired, 100);
    assert_eq!(shell.engine.counters().clusters_free, free);
    shell.let_go();
    shell.pass(30_000);
    assert_eq!(shell.engine.counters().clusters_free, free + 100);
    assert_eq!(report(&shell).bad, 0);
}

#[test]
fn a_store_that_is_attached_read_only_is_scrubbed() {
    let mut shell = attach();
    fill(&mut shell, 0, 500);
    let disk = shell.detach();
    let mut shell = Shell::attach_with(disk, CLUSTERS, |config| config.read_only = true);
    let bad = cluster_of(&shell, 1100);
    shell.disk.rotten.insert(bad);
    let report = scrub(&mut shell);
    assert_eq!((report.checked, report.bad), (500, 1));
    shell.engine.detach(shell.now);
    shell.turn();
    assert!(matches!(shell.begin_scrub(), Err(EIO)));
}

#[test]
fn requests_are_served_meanwhile_and_what_they_change_is_no_error() {
    let mut shell = attach();
    fill(&mut shell, 0, 10_000);
    shell.begin_scrub().unwrap();
    let mut round = 0;
    while report(&shell).state == ScrubState::Running {
        let lbn = (round * 7919) % 9_900;
        match round % 3 {
            0 => assert_eq!(shell.write(lbn, &[round + 1_000_000]), Status::Ok),
            1 => shell.discard(lbn, 100),
            _ => drop(shell.read(lbn, 8)),
        }
        shell.pass(5);
        round += 1;
        assert!(round < 100_000);
    }
    assert_eq!(report(&shell).state, ScrubState::Complete);
    assert_eq!(report(&shell).bad, 0);
    assert!(shell.found.is_empty());
    check_disk(&shell.detach(), CLUSTERS);
}
