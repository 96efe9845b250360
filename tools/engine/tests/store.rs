// SPDX-License-Identifier: GPL-2.0

//! Stories of one store on a disk that never fails.

mod memory;

use ddup_engine::engine::mkfs::Params;
use ddup_engine::engine::{BlockContent, FingerprintAlgorithm, Status};
use memory::{check_disk, content, params, Shell};

const CLUSTERS: u64 = 32 * 4096;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn an_empty_store_is_sound_and_reads_as_zeroes() {
    let disk = Shell::format(CLUSTERS, 0);
    check_disk(&disk, CLUSTERS);
    let mut shell = Shell::attach(disk, CLUSTERS, 1024, 4096);
    assert_eq!(shell.read(1000, 8), [0; 8]);
    let disk = shell.detach();
    check_disk(&disk, CLUSTERS);
}

#[test]
fn what_was_written_is_read_before_and_after_a_detach() {
    let mut shell = Shell::attach(Shell::format(CLUSTERS, 0), CLUSTERS, 1024, 4096);
    let (mut state, blocks) = (42, 20_000);
    let mut model = vec![0; blocks];
    for round in 0..6 {
        for step in 0..3000 {
            let lbn = random(&mut state) as usize % (blocks - 64);
            let count = 1 + random(&mut state) as usize % 16;
            match random(&mut state) % 20 {
                0 => {
                    shell.discard(lbn as u64, count as u64);
                    model[lbn..lbn + count].fill(0);
                }
                1 if step % 100 == 0 => {
                    let count = (blocks - lbn).min(5000);
                    shell.discard(lbn as u64, count as u64);
                    model[lbn..lbn + count].fill(0);
                }
                2 => shell.flush(),
                3..=8 => {
                    assert_eq!(
                        shell.read(lbn as u64, count as u64),
                        &model[lbn..lbn + count]
                    );
                }
                kind => {
                    let pool = if kind < 14 { u64::MAX / 2 } else { 100 };
                    let ids: Vec<_> = (0..count).map(|_| random(&mut state) % pool).collect();
                    assert_eq!(shell.write(lbn as u64, &ids), Status::Ok);
                    model[lbn..lbn + count].copy_from_slice(&ids);
                }
            }
            shell.now += 3;
            if step % 10 == 0 {
                shell.turn();
            }
        }
        let disk = shell.detach();
        let summary = check_disk(&disk, CLUSTERS);
        let mapped = model.iter().filter(|&&id| id != 0).count() as u64;
        assert!(summary.mapped >= mapped, "{summary:?}");
        shell = Shell::attach(disk, CLUSTERS, 1024, 4096);
        for lbn in (0..blocks).step_by(100) {
            assert_eq!(
                shell.read(lbn as u64, 100),
                &model[lbn..lbn + 100],
                "round {round}"
            );
        }
    }
    let disk = shell.detach();
    check_disk(&disk, CLUSTERS);
}

#[test]
fn equal_content_takes_one_cluster() {
    let mut shell = Shell::attach(Shell::format(CLUSTERS, 0), CLUSTERS, 1024, 4096);
    for lbn in 0..500 {
        assert_eq!(shell.write(lbn * 10, &[1, 2, 3, 0, 1, 2, 3]), Status::Ok);
    }
    let counters = shell.engine.counters();
    assert_eq!(counters.blocks_fresh, 3);
    assert_eq!(counters.blocks_zero, 500);
    let disk = shell.detach();
    assert_eq!(check_disk(&disk, CLUSTERS).live, 3);
}

#[test]
fn a_full_store_refuses_new_content_and_takes_it_again_after_a_discard() {
    let clusters = 4 * 4096;
    let mut shell = Shell::attach(Shell::format(clusters, 1 << 20), clusters, 256, 4096);
    let mut lbn = 0;
    while shell.write(lbn, &[lbn + 1]) == Status::Ok {
        lbn += 1;
        assert!(lbn < clusters);
    }
    assert!(lbn > 4000, "full after {lbn} blocks");
    assert_eq!(
        shell.write(lbn, &[1]),
        Status::Ok,
        "a duplicate needs no cluster"
    );
    assert_eq!(shell.write(lbn, &[lbn + 1]), Status::NoSpace);
    shell.discard(0, 2000);
    for i in 0..1500 {
        assert_eq!(shell.write(i, &[1_000_000 + i]), Status::Ok, "block {i}");
    }
    assert_eq!(shell.read(3000, 1), [3001]);
    let disk = shell.detach();
    check_disk(&disk, clusters);
}

#[test]
fn a_discard_that_writes_cut_to_pieces_survives_a_crash() {
    let (clusters, blocks) = (64 * 4096, 70_000);
    let mut shell = Shell::attach(Shell::format(clusters, blocks), clusters, 1024, 1 << 18);
    for lbn in (0..blocks).step_by(250) {
        let ids: Vec<_> = (lbn..lbn + 250).map(|i| 1 + i % 5000).collect();
        assert_eq!(shell.write(lbn, &ids), Status::Ok);
    }
    let mut shell = Shell::attach(shell.detach(), clusters, 1024, 1 << 18);
    shell.discard(0, blocks);
    for lbn in (0..blocks).step_by(2) {
        assert_eq!(shell.write(lbn, &[7]), Status::Ok, "block {lbn}");
    }
    shell.flush();
    let mut shell = Shell::attach(shell.disk, clusters, 1024, 1 << 18);
    assert_eq!(shell.write(3, &[9]), Status::Ok);
    assert_eq!(shell.read(0, 6), [7, 0, 7, 9, 7, 0]);
    for _ in 0..10_000 {
        shell.turn();
        shell.now += 10;
    }
    assert_eq!(shell.engine.counters().punches, 0);
    assert_eq!(check_disk(&shell.detach(), clusters).mapped, blocks / 2 + 1);
}

#[test]
fn a_journal_full_of_discards_of_nothing_is_freed_after_a_crash() {
    let (clusters, blocks) = (64 * 4096, 1 << 30);
    let mut shell = Shell::attach(Shell::format(clusters, blocks), clusters, 1024, 4096);
    let mut state = 7;
    while shell.engine.counters().journal_used < 400 {
        shell.discard(random(&mut state) % (blocks - 100), 100);
        shell.flush();
    }
    let mut shell = Shell::attach(shell.disk, clusters, 1024, 4096);
    assert_eq!(shell.engine.counters().punches, 0);
    for lbn in 0..500 {
        assert_eq!(shell.write(lbn, &[lbn]), Status::Ok);
        shell.flush();
    }
    check_disk(&shell.detach(), clusters);
}

/// A checkpoint of every small part of the work, so that the places of pages change often.
#[test]
fn metadata_takes_little_more_of_the_disk_than_is_in_use() {
    let disk = Shell::format(CLUSTERS, 0);
    let fixed = disk.pages.len();
    let mut shell = Shell::attach_with(disk, CLUSTERS, |config| {
        config.cache_pages = 4096;
        config.knobs.checkpoint_interval = 1000;
    });
    let mut state = 42;
    for part in 0..600 {
        let lbn = part * 128;
        let ids: Vec<_> = (0..128).map(|_| random(&mut state)).collect();
        for (at, ids) in ids.chunks(16).enumerate() {
            assert_eq!(shell.write(lbn + 16 * at as u64, ids), Status::Ok);
        }
        // Some that was written before changes beside it.
        for _ in 0..16 {
            let (lbn, id) = (random(&mut state) % (lbn + 128), random(&mut state));
            assert_eq!(shell.write(lbn, &[id]), Status::Ok);
        }
        shell.pass(1100);
    }
    let written = shell.disk.pages.len() - fixed;
    let used = check_disk(&shell.detach(), CLUSTERS).pages as usize;
    // A checkpoint here changes a fourth of all pages, and the one before it is kept meanwhile.
    assert!(
        2 * written < 5 * used,
        "{written} clusters were written, {used} are in use"
    );
}

/// Contents with names of their own that look the same in the index.
fn confusing(id: u64) -> BlockContent {
    let mut content = content(id);
    content.name.0[..8].copy_from_slice(&(0x5555 << 48 | id).to_le_bytes());
    content.name.0[8..10].copy_from_slice(&[7; 2]);
    content
}

#[test]
fn names_that_look_the_same_in_the_index_are_shared_all_the_same() {
    use FingerprintAlgorithm::{Blake2b, Xxh64};
    for fingerprint in [Blake2b, Xxh64] {
        let params = Params {
            fingerprint,
            ..params(CLUSTERS, 0)
        };
        let mut disk = Shell::format_with(&params);
        for round in 0..3 {
            let mut shell = Shell::try_attach(disk, CLUSTERS, 1024, 4096, confusing);
            assert_eq!(shell.failed, None);
            let first = 4 * round + 1;
            for (i, id) in [first, first + 1, first, first + 1, 1]
                .into_iter()
                .enumerate()
            {
                assert_eq!(shell.write(100 * round + i as u64, &[id]), Status::Ok);
                shell.turn();
            }
            let counters = shell.engine.counters();
            assert_eq!(counters.collisions, 0);
            assert_eq!(
                (counters.blocks_fresh, counters.blocks_duplicate),
                (2, 3),
                "{fingerprint:?}, round {round}"
            );
            assert_eq!(
                shell.read(100 * round, 5),
                [first, first + 1, first, first + 1, 1]
            );
            disk = shell.detach();
        }
        assert_eq!(check_disk(&disk, CLUSTERS).live, 6);
    }
}

/// A full store in which writes wait for space, and how many blocks are written.
fn full_and_waiting(clusters: u64) -> (Shell, u64) {
    let mut shell = Shell::attach(Shell::format(clusters, 1 << 20), clusters, 256, 4096);
    let mut lbn = 0;
    while shell.write(lbn, &[lbn + 1]) == Status::Ok {
        lbn += 1;
    }
    set_wait(&mut shell, true);
    (shell, lbn)
}

fn set_wait(shell: &mut Shell, wait: bool) {
    let mut knobs = shell.engine.knobs();
    knobs.wait_for_space = wait;
    shell.engine.set_knobs(knobs);
    shell.turn();
}

#[test]
fn writes_that_find_no_space_wait_if_they_are_to_and_end_when_there_is_some() {
    let clusters = 4 * 4096;
    let (mut shell, used) = full_and_waiting(clusters);
    // More than the changes that may wait for one checkpoint: none may keep what it was promised.
    let each = 64;
    for tag in 1..100u64 {
        let ids: Vec<u64> = (0..each).map(|i| 1_000_000 + tag * each + i).collect();
        shell.begin_write(tag as u32, 500_000 + tag * each, &ids);
    }
    shell.pass(20_000);
    assert!(shell.done.keys().all(|&tag| tag == 0), "{:?}", shell.done);
    assert_eq!(shell.read(100, 1), [101]);
    assert_eq!(shell.write(used, &[7]), Status::Ok, "a duplicate");
    shell.flush();
    for lbn in (0..used).step_by(64) {
        shell.discard(lbn, 64);
    }
    shell.pass(20_000);
    for tag in 1..100u64 {
        assert_eq!(
            shell.done.get(&(tag as u32)),
            Some(&Status::Ok),
            "tag {tag}"
        );
        let lbn = 500_000 + tag * each;
        assert_eq!(shell.read(lbn, 1), [1_000_000 + tag * each]);
    }
    check_disk(&shell.detach(), clusters);
}

#[test]
fn those_that_wait_for_space_fail_when_they_are_no_longer_to_wait() {
    let clusters = 4 * 4096;
    let (mut shell, _) = full_and_waiting(clusters);
    // The second has the content of the first.
    shell.begin_write(1, 500_000, &[1_000_000, 5, 1_000_001]);
    shell.begin_write(2, 600_000, &[1_000_001]);
    shell.pass(5_000);
    assert!(!shell.done.contains_key(&1) && !shell.done.contains_key(&2));
    set_wait(&mut shell, false);
    shell.pass(5_000);
    assert_eq!(shell.done[&1], Status::NoSpace);
    assert_eq!(shell.done[&2], Status::NoSpace);
    assert_eq!(shell.read(500_001, 1), [5], "what found its twin was done");
    check_disk(&shell.detach(), clusters);
}

#[test]
fn the_recycler_rests_in_proportion_to_its_work() {
    let retired_after = |tranquility| {
        let clusters = 4 * 4096;
        let mut shell = Shell::attach(Shell::format(clusters, 1 << 20), clusters, 256, 4096);
        let mut knobs = shell.engine.knobs();
        knobs.tranquility = tranquility;
        knobs.gc_delay = 0;
        knobs.checkpoint_interval = 100;
        knobs.discard = true;
        shell.engine.set_knobs(knobs);
        for lbn in (0..4000).step_by(100) {
            let ids: Vec<u64> = (lbn + 1..=lbn + 100).collect();
            assert_eq!(shell.write(lbn, &ids), Status::Ok);
        }
        // Every other block: more runs of junk than a batch takes.
        for lbn in (0..4000).step_by(2) {
            shell.discard(lbn, 1);
        }
        shell.pass(4_000);
        let retired = shell.engine.counters().clusters_retired;
        check_disk(&shell.detach(), clusters);
        retired
    };
    assert_eq!(retired_after(0), 2000);
    // The discards of a batch take some milliseconds, and the rest behind it seconds.
    assert!((1..2000).contains(&retired_after(1000)));
}
