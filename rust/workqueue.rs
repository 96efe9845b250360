// SPDX-License-Identifier: GPL-2.0

//! Work queues of a module's own.
//!
//! Items are those of `kernel::workqueue`: `Arc`s and boxes with an embedded `Work` or
//! `DelayedWork`. What upstream lacks: queues that one makes and destroys, with
//! `WQ_MEM_RECLAIM`, flushing, and cancelling.
//!
//! C header: `include/linux/workqueue.h`.
//! Upstream replacement: `kernel::workqueue`.

use crate::bindings;
use core::{ops::Deref, ptr::NonNull};
use kernel::{
    prelude::*,
    str::CStr,
    sync::Arc,
    time::Jiffies,
    workqueue::{HasDelayedWork, HasWork, Queue, Work, WorkItem},
};

/// How a queue's items run; C `WQ_*`.
#[derive(Clone, Copy)]
pub struct Flags(u32);

impl Flags {
    /// On the CPU that queued them.
    pub const PERCPU: Flags = Flags(bindings::KSTAGE_WQ_PERCPU);
    /// On any CPU.
    pub const UNBOUND: Flags = Flags(bindings::KSTAGE_WQ_UNBOUND);
    /// Before others.
    pub const HIGHPRI: Flags = Flags(bindings::KSTAGE_WQ_HIGHPRI);
    /// Always makes progress: has a thread for when no other can be made. For all that I/O waits on.
    pub const MEM_RECLAIM: Flags = Flags(bindings::KSTAGE_WQ_MEM_RECLAIM);
    /// Shown under `/sys/devices/virtual/workqueue`.
    pub const SYSFS: Flags = Flags(bindings::KSTAGE_WQ_SYSFS);
}

impl core::ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// A work queue that we made. Dropping it waits for its items, those that they queue included;
/// delayed ones must have been cancelled. May sleep, so not from one of its own items.
///
/// # Invariants
///
/// `raw` is a valid work queue that nobody else destroys.
pub struct OwnedQueue {
    raw: NonNull<bindings::workqueue_struct>,
}

// SAFETY: Work queues may be used from any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: As above.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Makes a queue on which up to `max_active` items (0 for the default) run at once. May sleep.
    pub fn new(name: &CStr, flags: Flags, max_active: u16) -> Result<OwnedQueue> {
        // SAFETY: The name is NUL-terminated and copied.
        let raw = unsafe {
            bindings::kstage_alloc_workqueue(name.as_char_ptr(), flags.0, i32::from(max_active))
        };

        // INVARIANT: It was just made.
        Ok(OwnedQueue {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
        })
    }

    /// Waits for all items that are queued now. May sleep, so not from one of its own items.
    pub fn flush(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::__flush_workqueue(self.raw.as_ptr()) };
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the type invariant, it is valid as long as `self`.
        unsafe { Queue::from_raw(self.raw.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::destroy_workqueue(self.raw.as_ptr()) };
    }
}

/// Lets an item run after `delay`, whether its timer runs already or not. Any context.
pub fn enqueue_delayed<T, const ID: u64>(queue: &OwnedQueue, item: Arc<T>, delay: Jiffies)
where
    T: WorkItem<ID, Pointer = Arc<T>> + HasDelayedWork<T, ID> + Send + Sync + 'static,
{
    let ptr = Arc::into_raw(item).cast_mut();

    // SAFETY: The item is alive and was initialised with its `Work`, which lies in a `delayed_work`
    // by the contract of `HasDelayedWork`. The queue takes our reference, unless it was pending
    // already and has one.
    unsafe {
        let work = Work::raw_get(T::raw_get_work(ptr));
        let delayed = kernel::container_of!(work, bindings::delayed_work, work);

        if bindings::kstage_mod_delayed_work(queue.raw.as_ptr(), delayed, delay) {
            drop(Arc::from_raw(ptr.cast_const()));
        }
    }
}

/// Takes an item off its queue, and waits if it runs. May sleep, so not from the item itself.
/// Returns whether it was queued and did not run.
pub fn cancel_sync<T, const ID: u64>(item: &Arc<T>) -> bool
where
    T: WorkItem<ID, Pointer = Arc<T>> + HasWork<T, ID>,
{
    let ptr = Arc::as_ptr(item).cast_mut();

    // SAFETY: The item is alive and was initialised with its `Work`. If it was queued, the queue
    // had a reference, which is ours to drop now.
    unsafe {
        let work = Work::raw_get(T::raw_get_work(ptr));

        let pending = bindings::cancel_work_sync(work);
        if pending {
            drop(Arc::from_raw(ptr.cast_const()));
        }
        pending
    }
}

/// Like [`cancel_sync`], for an item with a timer.
pub fn cancel_delayed_sync<T, const ID: u64>(item: &Arc<T>) -> bool
where
    T: WorkItem<ID, Pointer = Arc<T>> + HasDelayedWork<T, ID>,
{
    let ptr = Arc::as_ptr(item).cast_mut();

    // SAFETY: As in `cancel_sync`; the work lies in a `delayed_work` by the contract of
    // `HasDelayedWork`.
    unsafe {
        let work = Work::raw_get(T::raw_get_work(ptr));
        let delayed = kernel::container_of!(work, bindings::delayed_work, work);

        let pending = bindings::cancel_delayed_work_sync(delayed);
        if pending {
            drop(Arc::from_raw(ptr.cast_const()));
        }
        pending
    }
}
