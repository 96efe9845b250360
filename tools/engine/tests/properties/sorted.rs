// SPDX-License-Identifier: GPL-2.0

//! `SortedMap` when memory is short.

use super::Random;
use ddup_engine::engine::sorted::SortedMap;
use kernel::fail_alloc::{self, Policy};
use std::collections::BTreeMap;

fn same(map: &SortedMap<u64>, twin: &BTreeMap<u64, u64>) {
    let mut all = Vec::new();
    map.for_each(|k, v| all.push((k, *v)));
    assert!(all.into_iter().eq(twin.iter().map(|(k, v)| (*k, *v))));
    assert_eq!(map.len(), twin.len());
}

#[test]
fn a_failed_allocation_changes_nothing() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let (mut map, mut twin) = (SortedMap::new(), BTreeMap::new());
        let mut failed = 0;
        for step in 0..3000 {
            let key = random.below(4000);
            if random.below(4) == 0 {
                assert_eq!(map.remove(key), twin.remove(&key));
                continue;
            }
            let policy = Policy::Random {
                seed: random.draw(),
                per_million: 300_000,
            };
            match fail_alloc::with(policy, || map.insert(key, step)) {
                Ok(old) => assert_eq!(old, twin.insert(key, step)),
                Err(_) => {
                    failed += 1;
                    same(&map, &twin);
                }
            }
        }
        same(&map, &twin);
        assert!(failed > 0, "no allocation failed: the test tested nothing");
    }
}

#[test]
fn what_was_promised_needs_no_memory_whatever_the_order() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let mut map = SortedMap::new();
        let total = 1 + random.below(6000) as usize;
        map.reserve(total).unwrap();
        fail_alloc::with(Policy::From(0), || {
            for i in 0..total as u64 * 4 {
                let key = match seed % 3 {
                    0 => i,
                    1 => u64::MAX / 2 - i,
                    _ => random.below(1 << 30),
                };
                if map.len() == total {
                    let first = map.next_from(random.below(key + 1)).or(map.next_from(0));
                    map.remove(first.map_or(0, |e| e.0));
                }
                map.insert(key, i).unwrap();
            }
        });
    }
}
