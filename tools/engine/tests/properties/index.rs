// SPDX-License-Identifier: GPL-2.0

//! The index is advice, but it may not make things up, nor keep what it was told to forget.

use super::Random;
use ddup_engine::engine::index::Index;
use ddup_engine::engine::types::{Cluster, Name};
use std::collections::BTreeSet;

fn name(n: u64) -> Name {
    let mut name = [7; 24];
    name[..8].copy_from_slice(&super::mix(n).to_le_bytes());
    // The index keeps 16 bits of this: names of this test differ in them.
    name[8..16].copy_from_slice(&n.to_le_bytes());
    Name(name)
}

#[test]
fn it_answers_only_with_what_was_inserted_and_not_removed() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let mut index = Index::new(64 << random.below(8)).unwrap();
        let mut twin: BTreeSet<(u64, u64)> = BTreeSet::new();
        let names = 1 + random.below(400);
        for _ in 0..5000 {
            let (n, c) = (random.below(names), 1 + random.below(50));
            match random.below(4) {
                0 | 1 => {
                    index.insert(&name(n), Cluster(c));
                    twin.insert((n, c));
                    let (found, count) = index.lookup(&name(n));
                    assert!(found[..count].contains(&Cluster(c)), "just inserted");
                }
                2 => {
                    index.remove(&name(n), Cluster(c));
                    twin.remove(&(n, c));
                }
                _ => index.hit(&name(n), Cluster(c)),
            }
            let (found, count) = index.lookup(&name(n));
            let unique: BTreeSet<u64> = found[..count].iter().map(|c| c.0).collect();
            assert_eq!(unique.len(), count, "an entry twice");
            for c in unique {
                assert!(twin.contains(&(n, c)), "seed {seed}: made up or kept");
            }
            assert!(index.used() <= index.capacity());
        }
        let found: usize = (0..names).map(|n| index.lookup(&name(n)).1).sum();
        assert_eq!(index.used(), found as u64);
    }
}
