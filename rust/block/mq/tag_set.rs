// SPDX-License-Identifier: GPL-2.0

//! Hardware queues and their requests.
//!
//! Upstream replacement: `kernel::block::mq::TagSet`.

use super::{request::Pdu, Operations, Vtable};
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    prelude::*,
    sync::{Arc, LockClassKey},
    types::Opaque,
};

/// A set of tags: `hw_queues` times `depth` requests with private data.
///
/// Disks of one set must not be stacked on each other: they share the lock class of their flush
/// queues, which the C table explains.
///
/// # Invariants
///
/// `raw` was initialised by `blk_mq_alloc_tag_set()` with the table of `T`, and its driver data is
/// `_flush_lock_class`.
#[pin_data(PinnedDrop)]
pub struct TagSet<T: Operations> {
    #[pin]
    raw: Opaque<bindings::blk_mq_tag_set>,
    // Dropped, and so unregistered, after `drop` has freed the set and all flush queues with it.
    _flush_lock_class: Pin<KBox<LockClassKey>>,
    _ops: PhantomData<T>,
}

// SAFETY: Tag sets may be used from any thread.
unsafe impl<T: Operations> Send for TagSet<T> {}
// SAFETY: As above.
unsafe impl<T: Operations> Sync for TagSet<T> {}

impl<T: Operations> TagSet<T> {
    /// A set with `hw_queues` queues (at most one per CPU is used) of `depth` requests (1 to 10240)
    /// each. `timeout_ms` is the time after which [`Operations::timed_out`] is told, 0 for the
    /// default of 30 s. May sleep.
    pub fn new(hw_queues: u32, depth: u32, timeout_ms: u32) -> Result<Arc<TagSet<T>>> {
        // The private data lies behind `struct request`, whose size is a multiple of 8.
        const {
            assert!(align_of::<Pdu<T>>() <= 8);
            assert!(size_of::<bindings::request>() % 8 == 0);
        }

        let cmd_size = u32::try_from(size_of::<Pdu<T>>())?;
        let timeout = u32::try_from(kernel::time::msecs_to_jiffies(timeout_ms))?;
        let flush_lock_class = KBox::pin_init(LockClassKey::new_dynamic(), GFP_KERNEL)?;
        let key = flush_lock_class.as_ptr();

        Arc::pin_init(
            try_pin_init!(TagSet {
                raw <- Opaque::try_ffi_init(|set: *mut bindings::blk_mq_tag_set| {
                    // SAFETY: `set` is valid for writes; a zeroed set with these members is what
                    // `blk_mq_alloc_tag_set()` wants.
                    unsafe {
                        set.write_bytes(0, 1);
                        (*set).ops = &Vtable::<T>::TABLE;
                        (*set).nr_hw_queues = hw_queues;
                        (*set).queue_depth = depth;
                        (*set).numa_node = bindings::NUMA_NO_NODE;
                        (*set).cmd_size = cmd_size;
                        (*set).timeout = timeout;
                        (*set).driver_data = key.cast();
                        (*set).flags = bindings::KSTAGE_MQ_F_BLOCKING
                            | bindings::KSTAGE_MQ_F_NO_SCHED;
                        to_result(bindings::blk_mq_alloc_tag_set(set))
                    }
                }),
                _flush_lock_class: flush_lock_class,
                _ops: PhantomData,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The C tag set.
    pub(super) fn as_raw(&self) -> *mut bindings::blk_mq_tag_set {
        self.raw.get()
    }
}

#[pinned_drop]
impl<T: Operations> PinnedDrop for TagSet<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant; disks hold a reference, so none uses it any more. This waits
        // until their flush queues are freed.
        unsafe { bindings::blk_mq_free_tag_set(self.raw.get()) };
    }
}
