// SPDX-License-Identifier: GPL-2.0

//! Shadow volumes: built beside a volume, and put in its place at once.

mod memory;

use ddup_engine::engine::VolumeChange::{self, Create, Remove, Replace, Resize, Shadow};
use memory::{check_disk, Disk, Shell};

const CLUSTERS: u64 = 16 * 4096;
const BLOCKS: u64 = 20_000;

fn attach(disk: Disk) -> Shell {
    Shell::attach(disk, CLUSTERS, 256, 4096)
}

/// What makes a shadow of the volume in a slot.
fn shadow_of(shell: &Shell, slot: u32) -> VolumeChange {
    let volume = shell.engine.volume(slot).unwrap();
    Shadow {
        uuid: volume.uuid,
        blocks: volume.blocks,
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A store whose volume holds 1, 2, 3 and has a shadow, in slot 1.
fn with_a_shadow() -> Shell {
    let mut shell = attach(Shell::format(CLUSTERS, BLOCKS));
    shell.write(0, &[1, 2, 3]);
    let shadow = shadow_of(&shell, 0);
    assert_eq!(shell.change(shadow), 1);
    shell
}

/// Random changes of a volume, and of what is known of it.
fn scribble(shell: &mut Shell, slot: u32, model: &mut [u64], state: &mut u64, steps: u64) {
    shell.volume = slot;
    let blocks = model.len() as u64;
    for _ in 0..steps {
        let lbn = random(state) % (blocks - 300);
        let (kind, count) = (random(state) % 12, 1 + random(state) % 16);
        let range = |count: u64| lbn as usize..(lbn + count) as usize;
        match kind {
            0 => {
                // Large enough for a punch.
                let count = 100 + random(state) % 200;
                shell.discard(lbn, count);
                model[range(count)].fill(0);
            }
            1 => {
                shell.discard(lbn, count);
                model[range(count)].fill(0);
            }
            _ => {
                let ids: Vec<_> = (0..count).map(|_| random(state) % 3000).collect();
                shell.write(lbn, &ids);
                model[range(count)].copy_from_slice(&ids);
            }
        }
    }
}

fn compare(shell: &mut Shell, slot: u32, model: &[u64], when: &str) {
    shell.volume = slot;
    for lbn in (0..model.len()).step_by(100) {
        let count = 100.min(model.len() - lbn);
        let seen = shell.read(lbn as u64, count as u64);
        assert_eq!(seen, &model[lbn..lbn + count], "{when}, from block {lbn}");
    }
}

#[test]
fn a_shadow_is_no_volume_and_outlives_a_detach() {
    let mut shell = with_a_shadow();
    shell.volume = 1;
    shell.write(7, &[9]);
    let disk = shell.detach();
    check_disk(&disk, CLUSTERS);
    let mut shell = attach(disk);
    assert_eq!(shell.engine.volume(1), None);
    let (volume, shadow) = (shell.engine.volume(0), shell.engine.shadow(1));
    assert_eq!(shadow.unwrap().uuid, volume.unwrap().uuid);
    assert_eq!(shadow.unwrap().blocks, BLOCKS);
    assert_eq!(shell.engine.shadow(0), None);
    assert_eq!(shell.read(0, 8), [1, 2, 3, 0, 0, 0, 0, 0]);
    shell.volume = 1;
    assert_eq!(shell.read(0, 8), [0, 0, 0, 0, 0, 0, 0, 9]);
}

#[test]
fn a_shadow_that_is_removed_leaves_nothing() {
    let mut shell = with_a_shadow();
    shell.volume = 1;
    shell.write(7, &[9, 1]);
    shell.change(Remove { slot: 1 });
    assert_eq!(shell.engine.shadow(1), None);
    shell.pass(60_000);
    assert!(!shell.engine.is_releasing());
    assert_eq!(check_disk(&shell.detach(), CLUSTERS).mapped, 3);
}

#[test]
fn the_last_volume_stays_though_it_has_a_shadow() {
    let mut shell = with_a_shadow();
    let now = shell.now;
    let removed = shell.engine.change_volume(now, Remove { slot: 0 });
    assert_eq!(removed, Err(kernel::error::code::EINVAL));
}

#[test]
fn a_volume_that_is_replaced_keeps_slot_and_identity_and_has_the_shadows_content() {
    let mut shell = with_a_shadow();
    let before = shell.engine.volume(0).unwrap();
    shell.volume = 1;
    shell.write(1, &[8, 9]);
    shell.change(Replace { slot: 0, shadow: 1 });
    assert_eq!(shell.engine.volume(0).unwrap(), before);
    assert_eq!(shell.engine.shadow(1), None);
    shell.volume = 0;
    assert_eq!(shell.read(0, 4), [0, 8, 9, 0]);
    shell.write(3, &[7]);
    shell.pass(60_000);
    assert!(!shell.engine.is_releasing());
    let disk = shell.detach();
    assert_eq!(check_disk(&disk, CLUSTERS).mapped, 3);
    assert_eq!(attach(disk).read(0, 4), [0, 8, 9, 7]);
}

#[test]
fn what_is_not_a_shadow_of_a_volume_does_not_replace_it() {
    let mut shell = with_a_shadow();
    let (uuid, now) = ([5; 16], shell.now);
    assert_eq!(shell.change(Create { uuid, blocks: 9 }), 2);
    let invalid = Err(kernel::error::code::EINVAL);
    let absent = Err(kernel::error::code::ENOENT);
    let engine = &mut shell.engine;
    for (pairs, expected) in [
        (&[(0, 2)][..], invalid),
        (&[(2, 1)], invalid),
        (&[(0, 1), (0, 1)], invalid),
        (&[], invalid),
        (&[(1, 0)], absent),
        (&[(0, 3)], absent),
        (&[(3, 1)], absent),
    ] {
        assert_eq!(engine.replace_volumes(now, pairs), expected, "{pairs:?}");
    }
    assert_eq!(engine.replace_volumes(now, &[(0, 1)]), Ok(0));
}

#[test]
fn while_it_is_replaced_a_volume_takes_reads_only_and_they_see_the_old_state() {
    let mut shell = with_a_shadow();
    shell.volume = 1;
    shell.write(0, &[4]);
    let now = shell.now;
    shell.engine.replace_volumes(now, &[(0, 1)]).unwrap();
    shell.volume = 0;
    shell.begin_write(9, 0, &[5]);
    assert_eq!(shell.done[&9], ddup_engine::engine::Status::Range);
    shell.await_change();
    assert_eq!(shell.read(0, 3), [4, 0, 0]);
}

#[test]
fn a_crash_before_the_change_is_durable_leaves_both_as_they_were() {
    let mut shell = with_a_shadow();
    shell.volume = 1;
    shell.write(0, &[4]);
    shell.flush();
    let now = shell.now;
    shell.engine.replace_volumes(now, &[(0, 1)]).unwrap();
    // Nothing of it was written.
    let mut shell = attach(shell.disk);
    assert_eq!(shell.read(0, 3), [1, 2, 3]);
    shell.volume = 1;
    assert_eq!(shell.read(0, 3), [4, 0, 0]);
    shell.change(Replace { slot: 0, shadow: 1 });
    // And a crash after it was told leaves the new state.
    let mut shell = attach(shell.disk);
    assert_eq!(shell.read(0, 3), [4, 0, 0]);
    assert_eq!(shell.engine.shadow(1), None);
    shell.pass(60_000);
    assert_eq!(check_disk(&shell.detach(), CLUSTERS).mapped, 1);
}

#[test]
fn several_volumes_are_replaced_at_once() {
    let mut shell = with_a_shadow();
    let uuid = [5; 16];
    assert_eq!(shell.change(Create { uuid, blocks: 900 }), 2);
    let shadow = shadow_of(&shell, 2);
    assert_eq!(shell.change(shadow), 3);
    for slot in [1, 2, 3] {
        shell.volume = slot;
        shell.write(u64::from(slot), &[u64::from(slot) * 11]);
    }
    let now = shell.now;
    shell
        .engine
        .replace_volumes(now, &[(2, 3), (0, 1)])
        .unwrap();
    shell.await_change();
    let mut shell = attach(shell.disk);
    shell.volume = 0;
    assert_eq!(shell.read(0, 4), [0, 11, 0, 0]);
    // The slot of a shadow without content may be gone by now.
    let mut slots = 1..3;
    let second = slots.find(|slot| shell.engine.volume(*slot).is_some_and(|v| v.uuid == uuid));
    shell.volume = second.unwrap();
    assert_eq!(shell.read(0, 4), [0, 0, 0, 33]);
    shell.pass(60_000);
    assert_eq!(check_disk(&shell.detach(), CLUSTERS).mapped, 2);
}

#[test]
fn a_volume_gets_the_size_of_its_shadow() {
    let mut shell = with_a_shadow();
    for blocks in [1 << 30, 100] {
        let shadow = match shell.engine.shadow(1) {
            Some(_) => 1,
            None => {
                let shadow = shadow_of(&shell, 0);
                shell.change(shadow)
            }
        };
        shell.change(Resize {
            slot: shadow,
            blocks,
        });
        shell.pass(60_000);
        shell.volume = shadow;
        shell.write(blocks - 1, &[6]);
        shell.change(Replace { slot: 0, shadow });
        shell.volume = 0;
        assert_eq!(shell.engine.volume(0).unwrap().blocks, blocks);
        assert_eq!(shell.read(blocks - 1, 1), [6]);
        shell.pass(60_000);
    }
    assert_eq!(check_disk(&shell.detach(), CLUSTERS).mapped, 1);
}

#[test]
fn points_and_punches_of_both_go_with_their_maps() {
    let mut state = 77;
    let mut shell = attach(Shell::format(CLUSTERS, 4000));
    let mut volume = vec![0; 4000];
    scribble(&mut shell, 0, &mut volume, &mut state, 300);
    for round in 0..12 {
        let shadow = shadow_of(&shell, 0);
        let shadow = shell.change(shadow);
        let mut other = vec![0; 4000];
        for _ in 0..random(&mut state) % 4 {
            let steps = random(&mut state) % 120;
            scribble(&mut shell, shadow, &mut other, &mut state, steps);
            scribble(&mut shell, 0, &mut volume, &mut state, steps / 2);
            if random(&mut state) % 3 == 0 {
                shell.pass(40_000);
            }
        }
        shell.change(Replace { slot: 0, shadow });
        volume = other;
        if random(&mut state) % 2 == 0 {
            compare(&mut shell, 0, &volume, &format!("round {round}"));
        }
        let steps = random(&mut state) % 50;
        scribble(&mut shell, 0, &mut volume, &mut state, steps);
        match random(&mut state) % 4 {
            0 => {
                shell.flush();
                shell = attach(shell.disk);
            }
            1 => {
                let disk = shell.detach();
                check_disk(&disk, CLUSTERS);
                shell = attach(disk);
            }
            _ => {}
        }
        compare(&mut shell, 0, &volume, &format!("after round {round}"));
    }
    shell.pass(120_000);
    assert!(!shell.engine.is_releasing());
    check_disk(&shell.detach(), CLUSTERS);
}
