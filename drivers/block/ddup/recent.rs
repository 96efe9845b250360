// SPDX-License-Identifier: GPL-2.0

//! Content of clusters that were written lately: what goes to a peer soon after need not be read back.
//!
//! One per store, guarded by the engine's lock; empty as long as the store has no session with a peer.
//! Content is found by its cluster and check, so what lies here can't be taken for something else that
//! was written there since.

use crate::engine::{Check, Cluster};
use kernel::prelude::*;
use kstage::{
    mm::Wait,
    page_pool::{PageBuf, PagePool},
};

/// Clusters that are kept at most: 2 MiB. A power of two.
const SLOTS: usize = 512;

/// A copy of a cluster's content.
struct Copy {
    cluster: Cluster,
    check: Check,
    page: PageBuf,
}

/// The content that is kept. A cluster has one possible place: neighbours, which fresh clusters are,
/// have different ones.
pub(crate) struct Recent {
    slots: KVec<Option<Copy>>,
    /// Without a reserve to speak of: when memory is short nothing is kept.
    pool: PagePool,
}

impl Recent {
    /// Nothing yet. May sleep.
    pub(crate) fn new() -> Result<Recent> {
        let mut slots = KVec::with_capacity(SLOTS, GFP_KERNEL)?;

        for _ in 0..SLOTS {
            slots.push(None, GFP_KERNEL)?;
        }
        Ok(Recent {
            slots,
            pool: PagePool::new(1)?,
        })
    }

    fn place(cluster: Cluster) -> usize {
        cluster.0 as usize & (SLOTS - 1)
    }

    /// Clusters whose content is kept. Looks at every slot.
    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// A cluster is being written with this. Any context.
    pub(crate) fn insert(&mut self, cluster: Cluster, check: Check, content: &PageBuf) {
        let Some(slot) = self.slots.get_mut(Self::place(cluster)) else {
            return;
        };
        let page = match slot.take() {
            Some(old) => Ok(old.page),
            None => self.pool.alloc(Wait::No),
        };

        if let Ok(mut page) = page {
            page.copy_from_slice(&content[..]);
            *slot = Some(Copy {
                cluster,
                check,
                page,
            });
        }
    }

    /// Copies the content of a cluster, if it is known. Any context.
    pub(crate) fn copy_to(&self, cluster: Cluster, check: Check, page: &mut PageBuf) -> bool {
        match self.slots.get(Self::place(cluster)) {
            Some(Some(copy)) if (copy.cluster, copy.check) == (cluster, check) => {
                page.copy_from_slice(&copy.page[..]);
                true
            }
            _ => false,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        for slot in self.slots.iter_mut() {
            *slot = None;
        }
    }
}
