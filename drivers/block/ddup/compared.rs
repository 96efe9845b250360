// SPDX-License-Identifier: GPL-2.0

//! Content of clusters that were compared lately: the next comparison with them needs no read.
//!
//! One per store, guarded by the engine's lock. What repeats, repeats often, and a fast fingerprint
//! is confirmed by comparing bytes; without this each duplicate would cost a read of the disk. Only
//! content that was read from the disk and found equal comes here, so nothing is copied for it, and
//! a workload without duplicates fills nothing.

use crate::engine::Cluster;
use kernel::prelude::*;
use kstage::page_pool::PageBuf;

/// Clusters that are kept at most: 32 MiB. A power of two.
const SLOTS: usize = 8192;

/// The content that is kept. A cluster has one possible place.
pub(crate) struct Compared {
    slots: KVVec<Option<(Cluster, PageBuf)>>,
    /// Where the search for a page to give up goes on.
    hand: usize,
}

impl Compared {
    /// Nothing yet. May sleep.
    pub(crate) fn new() -> Result<Compared> {
        let mut slots = KVVec::with_capacity(SLOTS, GFP_KERNEL)?;

        for _ in 0..SLOTS {
            slots.push(None, GFP_KERNEL)?;
        }
        Ok(Compared { slots, hand: 0 })
    }

    /// Clusters whose content is kept. Looks at every slot.
    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn place(cluster: Cluster) -> usize {
        cluster.0 as usize & (SLOTS - 1)
    }

    /// The content of a cluster, if it is known.
    pub(crate) fn get(&self, cluster: Cluster) -> Option<&PageBuf> {
        match self.slots.get(Self::place(cluster)) {
            Some(Some((known, page))) if *known == cluster => Some(page),
            _ => None,
        }
    }

    /// A cluster was read, and this is what it holds.
    pub(crate) fn insert(&mut self, cluster: Cluster, page: PageBuf) {
        if let Some(slot) = self.slots.get_mut(Self::place(cluster)) {
            *slot = Some((cluster, page));
        }
    }

    /// These clusters are about to be written.
    pub(crate) fn forget(&mut self, first: Cluster, count: u32) {
        for cluster in first.0..first.0 + u64::from(count) {
            if self.get(Cluster(cluster)).is_some() {
                if let Some(slot) = self.slots.get_mut(Self::place(Cluster(cluster))) {
                    *slot = None;
                }
            }
        }
    }

    /// Gives up a page, when memory is short.
    pub(crate) fn give_up(&mut self) -> Option<PageBuf> {
        for _ in 0..SLOTS {
            let at = self.hand;

            self.hand = (at + 1) & (SLOTS - 1);
            if let Some((_, page)) = self.slots.get_mut(at).and_then(Option::take) {
                return Some(page);
            }
        }
        None
    }
}
