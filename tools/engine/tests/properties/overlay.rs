// SPDX-License-Identifier: GPL-2.0

//! The overlay over a naive tree: look-ups, counts and merges against a plain map.

use super::Random;
use ddup_engine::engine::format::page::{levels_for, MapEntry, MAP_LEAF};
use ddup_engine::engine::overlay::{key, key_parts, Lookup, Overlay};
use ddup_engine::engine::types::{Check, Cluster, Generation, Lbn};
use std::collections::BTreeMap;

const STORE: u64 = 1 << 16;
const SLOTS: u64 = 2;
const BLOCKS: u64 = 700;

fn entry(random: &mut Random) -> MapEntry {
    match random.below(6) {
        0 => MapEntry::NONE,
        _ => MapEntry {
            cluster: Cluster(1 + random.below(300)),
            birth: Generation(1),
            check: Check(random.below(1000)),
        },
    }
}

struct World {
    overlay: Overlay,
    /// What blocks hold.
    truth: BTreeMap<u64, MapEntry>,
    /// What the trees on disk hold.
    tree: BTreeMap<u64, MapEntry>,
    counts: BTreeMap<u64, i64>,
    frozen: bool,
}

impl World {
    fn look_up(&self, at: u64) -> MapEntry {
        let (slot, lbn) = key_parts(at);
        match self.overlay.lookup(slot, lbn) {
            Lookup::Entry(entry) => entry,
            Lookup::Tree => self.tree.get(&at).copied().unwrap_or(MapEntry::NONE),
        }
    }

    /// The reaper: turns all punches into points.
    fn reap(&mut self) {
        let mut punches = Vec::new();
        self.overlay
            .for_each_punch(|from, to| punches.push((from, to)));
        for (from, to) in punches {
            for at in from..to {
                let (slot, lbn) = key_parts(at);
                let below = self.overlay.frozen.points.get(at);
                let below = below.or(self.tree.get(&at).copied());
                if below.is_some_and(|e| e.is_mapped()) {
                    self.overlay.set(slot, lbn, MapEntry::NONE, 2).unwrap();
                }
            }
            self.overlay.cut_punches(from, to).unwrap();
        }
        assert_eq!(self.overlay.punches(), 0);
    }

    /// The second half of a checkpoint: the frozen set goes into the trees.
    fn merge(&mut self) {
        let mut points = Vec::new();
        self.overlay
            .frozen
            .points
            .for_each(|at, entry| points.push((at, *entry)));
        for (at, entry) in points {
            let old = self.tree.insert(at, entry).unwrap_or(MapEntry::NONE);
            if old.is_mapped() {
                self.overlay.release_in_merge(old.cluster).unwrap();
            }
        }
        let counts = &mut self.counts;
        self.overlay.frozen.deltas.for_each(|cluster, delta| {
            *counts.entry(cluster).or_default() += i64::from(delta.count);
        });
        self.overlay.thaw();
        self.frozen = false;
        let mut naive: BTreeMap<u64, i64> = BTreeMap::new();
        for e in self.tree.values().filter(|e| e.is_mapped()) {
            *naive.entry(e.cluster.0).or_default() += 1;
        }
        self.counts.retain(|_, n| *n != 0);
        assert_eq!(self.counts, naive, "counts are not what the trees own");
    }
}

#[test]
fn look_ups_and_counts_are_those_of_a_plain_map() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut w = World {
            overlay: Overlay::new(STORE),
            truth: BTreeMap::new(),
            tree: BTreeMap::new(),
            counts: BTreeMap::new(),
            frozen: false,
        };
        let punchy = random.below(3) * 4;
        for _ in 0..3000 {
            let slot = random.below(SLOTS) as usize;
            let lbn = random.below(BLOCKS);
            let at = key(slot, Lbn(lbn));
            match random.below(40) {
                0 if !w.frozen => {
                    w.overlay.freeze(0, 0).unwrap();
                    assert!(w.overlay.active.is_empty());
                    w.frozen = true;
                }
                1 if w.frozen => w.merge(),
                2 if !w.frozen => w.reap(),
                n if n < 3 + punchy => {
                    let count = 1 + random.below(BLOCKS - lbn);
                    w.overlay.punch(slot, Lbn(lbn), count).unwrap();
                    let gone: Vec<u64> = w.truth.range(at..at + count).map(|e| *e.0).collect();
                    for at in gone {
                        w.truth.remove(&at);
                    }
                }
                _ => {
                    let new = entry(&mut random);
                    w.overlay.set(slot, Lbn(lbn), new, 2).unwrap();
                    w.truth.insert(at, new);
                }
            }
            for _ in 0..4 {
                let at = key(random.below(SLOTS) as usize, Lbn(random.below(BLOCKS)));
                let truth = w.truth.get(&at).copied().unwrap_or(MapEntry::NONE);
                assert_eq!(
                    w.look_up(at).cluster,
                    truth.cluster,
                    "seed {seed}, block {at:#x}"
                );
            }
        }
        if w.frozen {
            w.merge();
        }
        w.reap();
        w.overlay.freeze(0, 0).unwrap();
        w.merge();
        for (at, e) in &w.truth {
            let tree = w.tree.get(at).copied().unwrap_or(MapEntry::NONE);
            assert_eq!(tree.cluster, e.cluster);
        }
    }
}

#[test]
fn the_estimate_of_pages_is_never_too_small() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut overlay = Overlay::new(STORE);
        let span = 1 << (4 + random.below(30));
        let levels = levels_for(span, MAP_LEAF);
        let mut leaves = std::collections::BTreeSet::new();
        let mut estimate = 0;
        for _ in 0..500 {
            let count = 1 + random.below(64);
            let lbn = random.below(span);
            estimate += overlay.worst_pages(count, levels);
            for i in 0..count {
                let mut e = entry(&mut random);
                e.cluster = Cluster(random.below(STORE));
                overlay.set(0, Lbn(lbn + i), e, levels).unwrap();
                let mut page = (lbn + i) / MAP_LEAF;
                for level in 0..levels {
                    leaves.insert((level, page));
                    page /= ddup_engine::engine::format::page::FANOUT;
                }
            }
            let pages = overlay.pages(&overlay.active);
            assert!(
                pages >= leaves.len() as u64,
                "seed {seed}: {pages} < {}",
                leaves.len()
            );
            assert!(
                pages <= estimate,
                "seed {seed}: admission promised {estimate}, not {pages}"
            );
        }
    }
}
