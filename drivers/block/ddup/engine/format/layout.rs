// SPDX-License-Identifier: GPL-2.0

//! Where the fixed parts of a store lie. Everything is computed once at format time, kept in the
//! superblock and checked there against the same rules.
//!
//! ```text
//!  cluster 0      1      2     3     4..                                                 round up to segments
//!  +------+------+-----+-----+----------------+-----------+-----------+------+------+-----+-----+ - - +----
//!  | sb 0 | sb 1 | cf0 | cf1 | journal ring   | segment table, place 0 | 1 | sb 0'| sb 1'| cf0'| cf1'| data ...
//!  +------+------+-----+-----+----------------+-----------+-----------+------+------+-----+-----+ - - +----
//! ```
//!
//! `sb` is a superblock slot and `cf` a configuration slot; primed ones are the distant copies.

use super::super::types::{Cluster, CLUSTER_LIMIT, JOURNAL_BLOCK_CLUSTERS_MAX, SEGMENT_CLUSTERS};
use super::page::{BITMAP_PAGE, SEGMENT_PAGE, SELECT_PAGE};

/// The smallest store: 64 MiB.
pub const STORE_CLUSTERS_MIN: u64 = 4 * SEGMENT_CLUSTERS;
/// Bounds of the journal ring, in clusters (2 MiB to 256 MiB).
pub const JOURNAL_CLUSTERS_MIN: u64 = 32 * JOURNAL_BLOCK_CLUSTERS_MAX;
/// Bounds of the journal ring, in clusters (2 MiB to 256 MiB).
pub const JOURNAL_CLUSTERS_MAX: u64 = 1 << 16;
/// First cluster of the journal ring.
pub const JOURNAL_START: u64 = 4;
/// The most pages that say which place of a segment-table page counts (1 PiB of store).
pub const SELECT_PAGES_MAX: usize = 28;

/// Where the fixed parts of a store lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Clusters of the store, a multiple of a segment.
    pub clusters: u64,
    /// Clusters of the journal ring.
    pub journal_clusters: u64,
    /// Bitmaps of metadata segments that the segment table has room for.
    pub bitmaps: u64,
}

impl Layout {
    /// The layout of a store on a device of `clusters` clusters, or `None` if that is too small or
    /// too large. `journal_clusters` 0 chooses 1/256 of the store within bounds.
    pub fn new(clusters: u64, journal_clusters: u64) -> Option<Layout> {
        let clusters = clusters - clusters % SEGMENT_CLUSTERS;
        let journal = match journal_clusters {
            0 => clusters / 256,
            given => given,
        };
        let layout = Layout {
            clusters,
            journal_clusters: journal.clamp(JOURNAL_CLUSTERS_MIN, JOURNAL_CLUSTERS_MAX),
            bitmaps: (clusters / SEGMENT_CLUSTERS / 16).max(8),
        };
        layout.is_sound().then_some(layout)
    }

    /// Whether the numbers fit together; everything else here relies on it.
    pub fn is_sound(&self) -> bool {
        (STORE_CLUSTERS_MIN..=CLUSTER_LIMIT).contains(&self.clusters)
            && self.clusters % SEGMENT_CLUSTERS == 0
            && (JOURNAL_CLUSTERS_MIN..=JOURNAL_CLUSTERS_MAX).contains(&self.journal_clusters)
            && self.bitmaps <= (self.segments() / 8).max(8)
            && self.select_pages() <= SELECT_PAGES_MAX as u64
            && self.fixed_segments() * SEGMENT_CLUSTERS * 2 <= self.clusters
    }

    /// Segments of the store.
    pub fn segments(&self) -> u64 {
        self.clusters / SEGMENT_CLUSTERS
    }

    /// Pages of the segment table that hold entries; pages with bitmaps follow.
    pub fn entry_pages(&self) -> u64 {
        self.segments().div_ceil(SEGMENT_PAGE)
    }

    /// Pages of the segment table.
    pub fn table_pages(&self) -> u64 {
        self.entry_pages() + self.bitmaps.div_ceil(BITMAP_PAGE)
    }

    /// Pages that say which place of each page of the segment table counts.
    pub fn select_pages(&self) -> u64 {
        self.table_pages().div_ceil(SELECT_PAGE)
    }

    /// Place 0 or 1 of a page of the segment table.
    pub fn table_place(&self, page: u64, place: bool) -> Cluster {
        let base = JOURNAL_START + self.journal_clusters;
        Cluster(base + page + if place { self.table_pages() } else { 0 })
    }

    /// The first and the distant copy of superblock slot 0 or 1.
    pub fn superblock(slot: u64, distant: Option<&Layout>) -> Cluster {
        match distant {
            None => Cluster(slot),
            Some(layout) => {
                Cluster(JOURNAL_START + layout.journal_clusters + 2 * layout.table_pages() + slot)
            }
        }
    }

    /// Segments at the start of the store that hold fixed places.
    pub fn fixed_segments(&self) -> u64 {
        (JOURNAL_START + self.journal_clusters + 2 * self.table_pages() + 4)
            .div_ceil(SEGMENT_CLUSTERS)
    }
}
