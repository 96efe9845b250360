// SPDX-License-Identifier: GPL-2.0

//! The index is rebuilt in the background after an attach that found none saved: a walk over the
//! name tree, a leaf a step, which reads nothing that is not there. What was written meanwhile is in
//! the index anyway.

use super::format::page::{name_read, NAME_LEAF};
use super::state::{is_shareable, Mode, Store};
use super::tree::Page;
use super::types::Cluster;

impl Store {
    /// One leaf, or one stretch without names. True: more can be done now.
    pub(super) fn rebuild_step(&mut self) -> bool {
        let end = self.superblock.layout.clusters;
        let at = self.rebuild_cursor;
        if at >= end || self.mode != Mode::Attached || self.copier.is_loading() {
            return false;
        }
        let after = (at / NAME_LEAF + 1) * NAME_LEAF;
        match self.page(&self.names.clone(), at, 0) {
            Page::Here(slot) => {
                for cluster in at..after.min(end) {
                    let name = name_read(self.cache.page(slot), cluster % NAME_LEAF);
                    // What the overlay renames has its entry, or must have none.
                    let renamed = self.overlay.name(Cluster(cluster)).is_some();
                    if is_shareable(&name) && !renamed {
                        self.index.insert(&name, Cluster(cluster));
                    }
                }
                self.rebuild_cursor = after;
                true
            }
            Page::Absent(until) => {
                self.rebuild_cursor = until.min(end);
                true
            }
            Page::Wait(slot) => {
                self.background_page = Some(slot);
                false
            }
            Page::Busy => false,
        }
    }
}
