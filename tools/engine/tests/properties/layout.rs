// SPDX-License-Identifier: GPL-2.0

//! The fixed places of a store lie inside it and apart.

use super::Random;
use ddup_engine::engine::format::layout::{Layout, JOURNAL_START, STORE_CLUSTERS_MIN};
use ddup_engine::engine::types::SEGMENT_CLUSTERS;

#[test]
fn fixed_places_are_disjoint_and_within_the_fixed_segments() {
    let mut random = Random(5);
    for round in 0..3000 {
        let clusters = STORE_CLUSTERS_MIN + random.below(1 << (round % 35));
        let journal = if round % 2 == 0 {
            0
        } else {
            random.below(1 << 18)
        };
        let Some(layout) = Layout::new(clusters, journal) else {
            continue;
        };
        assert!(layout.clusters <= clusters);
        let mut ends = vec![
            (0, 4),
            (JOURNAL_START, JOURNAL_START + layout.journal_clusters),
        ];
        for place in [false, true] {
            let first = layout.table_place(0, place).0;
            let last = layout.table_place(layout.table_pages() - 1, place).0;
            assert_eq!(last - first + 1, layout.table_pages());
            ends.push((first, last + 1));
        }
        let distant: Vec<u64> = (0..2)
            .map(|slot| Layout::superblock(slot, Some(&layout)).0)
            .collect();
        ends.push((distant[0], distant[0] + 1));
        ends.push((distant[1], distant[1] + 1));
        ends.sort_unstable();
        for pair in ends.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{layout:?}: {pair:?} overlap");
        }
        let last = ends.last().map_or(0, |e| e.1);
        assert!(
            last <= layout.fixed_segments() * SEGMENT_CLUSTERS,
            "{layout:?}"
        );
        assert!(layout.fixed_segments() * SEGMENT_CLUSTERS < layout.clusters);
    }
}

#[test]
fn a_store_that_is_too_small_has_no_layout() {
    assert!(Layout::new(STORE_CLUSTERS_MIN - 1, 0).is_none());
    assert!(Layout::new(0, 0).is_none());
    assert!(Layout::new(STORE_CLUSTERS_MIN, 0).is_some());
}
