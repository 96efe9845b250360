// SPDX-License-Identifier: GPL-2.0

//! The data of writes: copied, named and checked, in memory that is there from the start.
//!
//! A write takes a [`WriteData`] when it comes, before it gets a slot, and has it until its last I/O
//! is done and the engine has heard of that, which may be after the request has ended (see
//! [`Action::Acknowledge`](crate::engine::Action::Acknowledge)). All of a store's come from one
//! [`WriteDataPool`] and go back there.

use crate::engine::{types::REQUEST_BLOCKS_MAX, BlockContent};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{Arc, SpinLock, UniqueArc},
};
use kstage::page_pool::PageBuf;

/// What a write writes. The arrays are as large as the largest request, from the start.
pub(crate) struct WriteData {
    /// The copy. The submitter may change his own pages at any time.
    pub(crate) pages: KVec<PageBuf>,
    /// What the engine wants to know of it.
    pub(crate) contents: KVec<BlockContent>,
}

impl WriteData {
    fn new() -> Result<WriteData> {
        let blocks = REQUEST_BLOCKS_MAX as usize;

        Ok(WriteData {
            pages: KVec::with_capacity(blocks, GFP_KERNEL)?,
            contents: KVec::with_capacity(blocks, GFP_KERNEL)?,
        })
    }
}

/// Those that no write has.
#[pin_data]
pub(crate) struct WriteDataPool {
    /// Taken and given back by tasks, never in a completion. There is room for all.
    #[pin]
    free: SpinLock<KVec<UniqueArc<WriteData>>>,
}

impl WriteDataPool {
    /// A pool of `count`. May sleep.
    pub(crate) fn new(count: usize) -> Result<Arc<WriteDataPool>> {
        let mut free = KVec::with_capacity(count, GFP_KERNEL)?;

        for _ in 0..count {
            free.push(UniqueArc::new(WriteData::new()?, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(WriteDataPool {
                free <- new_spinlock!(free, "ddup::WriteDataPool::free"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes one, empty. None: all are with writes, of which one ends before long. Task context.
    pub(crate) fn take(&self) -> Option<UniqueArc<WriteData>> {
        self.free.lock().pop()
    }

    /// Takes one back, and frees its pages. Task context.
    pub(crate) fn give_back(&self, mut data: UniqueArc<WriteData>) {
        data.pages.clear();
        data.contents.clear();
        // There is room for all.
        let _ = self.free.lock().push_within_capacity(data);
    }

    /// Takes one back whose bios are all gone. Task context.
    pub(crate) fn give_back_shared(&self, data: Arc<WriteData>) {
        // Nobody else has it, so it is not dropped.
        if let Some(data) = Arc::into_unique_or_drop(data) {
            self.give_back(Pin::into_inner(data));
        }
    }
}
