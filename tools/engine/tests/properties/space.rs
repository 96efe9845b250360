// SPDX-License-Identifier: GPL-2.0

//! The allocator against a state for each cluster.

use super::Random;
use ddup_engine::engine::format::layout::Layout;
use ddup_engine::engine::format::page::{SegmentEntry, SegmentKind};
use ddup_engine::engine::space::{Bits, OpenStep, Space};
use ddup_engine::engine::types::{Cluster, SEGMENT_CLUSTERS};
use kernel::prelude::KBox;
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// Handed out, not in the journal yet.
    Taken,
    /// In the journal, or live before.
    Live,
    /// Of a fixed or a metadata segment.
    Other,
}

struct World {
    space: KBox<Space>,
    states: Vec<State>,
    pages: BTreeSet<u64>,
    durable: BTreeSet<u64>,
}

fn world(random: &mut Random) -> World {
    let layout = Layout::new(12 * SEGMENT_CLUSTERS, 0).unwrap();
    let mut space = Space::new(layout, 64).unwrap();
    let mut states = Vec::new();
    for segment in 0..12 {
        let fixed = segment < layout.fixed_segments();
        let metadata = segment == layout.fixed_segments();
        let live = if random.below(3) == 0 {
            random.below(SEGMENT_CLUSTERS + 1)
        } else {
            0
        };
        let entry = match (fixed, metadata) {
            (true, _) => SegmentEntry {
                kind: SegmentKind::Fixed,
                available: 0,
                junk: 0,
                live: 0,
                bitmap: 0,
            },
            (_, true) => SegmentEntry {
                kind: SegmentKind::Metadata,
                available: 0,
                junk: 0,
                live: 0,
                bitmap: 0,
            },
            _ => SegmentEntry {
                kind: SegmentKind::Data,
                available: (SEGMENT_CLUSTERS - live) as u16,
                junk: 0,
                live: live as u16,
                bitmap: 0,
            },
        };
        space.load(entry).unwrap();
        for i in 0..SEGMENT_CLUSTERS {
            states.push(match entry.kind {
                SegmentKind::Data if i < SEGMENT_CLUSTERS - live => State::Free,
                SegmentKind::Data => State::Live,
                _ => State::Other,
            });
        }
    }
    let none: Bits = [0; SEGMENT_CLUSTERS as usize / 64];
    space.load_bitmap(0, &none).unwrap();
    World {
        space,
        states,
        pages: BTreeSet::new(),
        durable: BTreeSet::new(),
    }
}

impl World {
    /// What the background does before clusters can be handed out.
    fn open(&mut self) {
        while let OpenStep::Need(cluster) = self.space.open_next() {
            let count = Space::clusters_of_leaf(cluster) as usize;
            let at = cluster.0 as usize;
            let states: Vec<bool> = self.states[at..at + count]
                .iter()
                .map(|s| *s == State::Free)
                .collect();
            self.space.note_free(states.into_iter());
        }
    }

    fn all(&self, state: State) -> Vec<u64> {
        (0..self.states.len() as u64)
            .filter(|c| self.states[*c as usize] == state)
            .collect()
    }
}

#[test]
fn it_hands_out_free_clusters_once_and_counts_them_right() {
    for seed in 0..15 {
        let mut random = Random(seed);
        let mut w = world(&mut random);
        for step in 0..3000 {
            match random.below(12) {
                0..=5 => {
                    if w.space.wants_next() {
                        w.open();
                    }
                    let wanted = 1 + random.below(200);
                    if let Some((first, count)) = w.space.take(wanted) {
                        assert!((1..=wanted).contains(&count));
                        for c in first.0..first.0 + count {
                            let state = &mut w.states[c as usize];
                            assert_eq!(*state, State::Free, "seed {seed} step {step}: {c:#x}");
                            *state = State::Taken;
                        }
                    }
                }
                6 | 7 => {
                    for c in w.all(State::Taken) {
                        if random.below(2) == 0 {
                            w.space.settled(Cluster(c));
                            w.states[c as usize] = State::Live;
                        }
                    }
                }
                8 => {
                    let live = w.all(State::Live);
                    for c in live {
                        if random.below(4) == 0 {
                            w.space.add_erased(Cluster(c));
                            w.states[c as usize] = State::Free;
                        }
                    }
                }
                9 => {
                    if let Some(place) = w.space.take_page() {
                        assert!(w.pages.insert(place.0), "a page twice");
                        assert!(!w.durable.contains(&place.0), "a page that is still needed");
                    }
                }
                10 => {
                    let some = w.pages.iter().next().copied();
                    if let Some(place) = some {
                        assert!(w.space.give_page(Cluster(place)));
                        assert!(!w.space.give_page(Cluster(place)), "given back twice");
                        w.pages.remove(&place);
                    }
                }
                _ if step % 5 == 0 => {
                    w.space.checkpoint_durable();
                    w.durable = w.pages.clone();
                }
                _ if step % 97 == 0 => {
                    let before = w.space.segments().to_vec();
                    if w.space.grow_metadata() {
                        let grown = w
                            .space
                            .segments()
                            .iter()
                            .zip(&before)
                            .position(|(a, b)| a.entry.kind != b.entry.kind);
                        let at = grown.unwrap_or(0) * SEGMENT_CLUSTERS as usize;
                        for state in &mut w.states[at..at + SEGMENT_CLUSTERS as usize] {
                            assert_eq!(*state, State::Free, "a segment in use became metadata");
                            *state = State::Other;
                        }
                    }
                }
                _ => (),
            }
            let used = w.pages.union(&w.durable).count() as u64;
            assert_eq!(w.space.metadata_free, w.space.metadata_capacity() - used);
        }
        assert_eq!(w.space.free, w.all(State::Free).len() as u64, "seed {seed}");
    }
}
