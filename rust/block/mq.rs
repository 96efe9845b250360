// SPDX-License-Identifier: GPL-2.0

//! To be a disk: a multi-queue block driver whose requests carry bios and private data.
//!
//! - [`Operations`]: what the driver does with requests.
//! - [`TagSet`]: hardware queues and the requests they can have in flight.
//! - [`Disk`]: one disk under `/dev`, made from [`Limits`].
//! - [`Request`]: an owned request; [`Part`]: one of several owners of a request that was split.
//!
//! All queues are blocking (`BLK_MQ_F_BLOCKING`): [`Operations::queue_rq`] may sleep. It may be called
//! in the middle of the submission of a bio, deep in somebody's stack.
//!
//! C header: `include/linux/blk-mq.h`.
//! Upstream replacement: `kernel::block::mq`, once it offers private data, bios, status and limits.

mod disk;
mod request;
mod tag_set;

pub use disk::{Disk, Limits};
pub use request::{Part, Request, RequestRef, Segment, SegmentCursor};
pub use tag_set::TagSet;

use crate::{
    bindings,
    block::{Op, Status},
};
use core::marker::PhantomData;
use kernel::{prelude::*, sync::ArcBorrow};
use request::Pdu;

/// What a request was when its time ran out.
#[derive(Clone, Copy, Debug)]
pub struct TimedOut {
    /// The operation.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Length.
    pub bytes: u32,
}

/// A driver for disks of one kind.
pub trait Operations: Sized + Send + Sync + 'static {
    /// Shared by all requests of a disk.
    type QueueData: Send + Sync + 'static;

    /// Lives as long as the tag, so over many requests: reset it when a request begins.
    type RequestData: Send + Sync + 'static;

    /// Makes the private data of one tag. May sleep; runs once per tag when a disk is made.
    fn new_request_data() -> Result<Self::RequestData>;

    /// Somebody opens the disk, `write` says whether to write too. An error refuses that. Called under
    /// the disk's `open_mutex`; must not wait for requests.
    fn open(_data: ArcBorrow<'_, Self::QueueData>, _write: bool) -> Result {
        Ok(())
    }

    /// Takes a request, which has been started. May sleep.
    ///
    /// The request is done when it is ended, here or at any time later; dropping it ends it with
    /// [`Status::IOERR`]. Giving the same request back as `Err` means "not now": the block layer
    /// offers it again within milliseconds. `last` is false if more requests follow at once, or
    /// [`commit_rqs`](Self::commit_rqs) instead.
    fn queue_rq(
        queue: ArcBorrow<'_, Self::QueueData>,
        request: Request<Self>,
        last: bool,
    ) -> Result<(), Request<Self>>;

    /// No more requests follow those given with `last == false`. May sleep.
    fn commit_rqs(_queue: ArcBorrow<'_, Self::QueueData>) {}

    /// All parts of a request are finished; `result` is the first failure. Any context.
    fn parts_done(request: Request<Self>, result: Result<(), Status>) {
        request.end(result);
    }

    /// A request took longer than the time-out of its tag set. It stays in flight and its timer
    /// starts again; the one who has it must end it. May sleep.
    fn timed_out(_queue: ArcBorrow<'_, Self::QueueData>, _request: TimedOut) {}
}

/// The C operations table of `T`.
struct Vtable<T: Operations>(PhantomData<T>);

impl<T: Operations> Vtable<T> {
    /// # Safety
    ///
    /// Called by the block layer only, with a live hardware context and a request that it hands
    /// over to the driver.
    unsafe extern "C" fn queue_rq(
        hctx: *mut bindings::blk_mq_hw_ctx,
        bd: *const bindings::blk_mq_queue_data,
    ) -> bindings::blk_status_t {
        // SAFETY: Both are valid by the contract of this function.
        let (rq, last, queue) = unsafe { ((*bd).rq, (*bd).last, (*hctx).queue) };

        // SAFETY: The request is ours by the contract.
        unsafe { bindings::blk_mq_start_request(rq) };

        // SAFETY: `Disk` stores an `Arc<QueueData>` there, and keeps it until the queue is drained.
        let data = unsafe { ArcBorrow::from_raw((*queue).queuedata.cast::<T::QueueData>()) };

        // SAFETY: The request was started, is ours, and its private data was made by
        // `init_request`.
        let request = unsafe { Request::<T>::from_raw(rq) };

        match T::queue_rq(data, request, last) {
            Ok(()) => 0,
            Err(request) if request.as_raw() == rq => {
                // The block layer keeps it.
                core::mem::forget(request);
                bindings::KSTAGE_STS_RESOURCE
            }
            // Not the request of this call: its drop fails it.
            Err(_) => 0,
        }
    }

    /// # Safety
    ///
    /// Called by the block layer only, with a live hardware context.
    unsafe extern "C" fn commit_rqs(hctx: *mut bindings::blk_mq_hw_ctx) {
        // SAFETY: As in `queue_rq`.
        let data =
            unsafe { ArcBorrow::from_raw((*(*hctx).queue).queuedata.cast::<T::QueueData>()) };

        T::commit_rqs(data);
    }

    /// # Safety
    ///
    /// Called by the block layer only, which holds a reference on the request.
    unsafe extern "C" fn timeout(rq: *mut bindings::request) -> bindings::blk_eh_timer_return {
        // SAFETY: The request's memory is valid; it may be ended meanwhile, which can only make
        // these numbers stale. The queue is live, so its data is.
        let (data, what) = unsafe {
            (
                ArcBorrow::from_raw((*(*rq).q).queuedata.cast::<T::QueueData>()),
                TimedOut {
                    op: Op::from_raw((*rq).cmd_flags),
                    sector: (*rq).__sector,
                    bytes: (*rq).__data_len,
                },
            )
        };

        T::timed_out(data, what);
        bindings::blk_eh_timer_return_BLK_EH_RESET_TIMER
    }

    /// Gives the lock of the flush queue a class that no other tag set has.
    ///
    /// The block layer ends requests of a flush sequence under `mq_flush_lock` of their queue: a
    /// FLUSH, and a write behind one. To end a request is to end the bios of those above. If the
    /// bio is one of a driver with requests of its own, such as ours, its completion may end a
    /// request of that driver, which takes the `mq_flush_lock` of that driver's disk. For lockdep
    /// this is recursion, since all these locks share a class by default.
    ///
    /// It cannot deadlock. The locks are different ones, and are nested upwards only: from a disk
    /// to what was built on it, however many disks are stacked. A disk is opened before one is made
    /// on top of it, so there is no circle of disks. Downwards would be to submit a bio under the
    /// lock. The block layer does not: with the lock held it puts requests into lists, which a
    /// work item dispatches. Completions do not, as they run in any context, and to submit may
    /// sleep. A driver that ends a FLUSH at once, in `queue_rq`, was called without the lock, and
    /// takes it only for what is above.
    ///
    /// One class for all disks of this module would not do, as they can be stacked. The queues of
    /// one disk can share theirs, since a completion leads to another disk.
    ///
    /// # Safety
    ///
    /// Called by the block layer only, with a hardware context that is being made and the driver
    /// data of a [`TagSet`].
    unsafe extern "C" fn init_hctx(
        hctx: *mut bindings::blk_mq_hw_ctx,
        driver_data: *mut c_void,
        _hctx_idx: u32,
    ) -> i32 {
        // SAFETY: The context has its flush queue, which nobody uses yet. The driver data is a
        // registered key, by the type invariant of `TagSet`, which unregisters it only after it
        // has freed the flush queues.
        unsafe { bindings::blk_mq_hctx_set_fq_lock_class(hctx, driver_data.cast()) };
        0
    }

    /// # Safety
    ///
    /// Called by the block layer only, with a request of a tag set of `T`.
    unsafe extern "C" fn init_request(
        _set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hctx_idx: u32,
        _numa_node: i32,
    ) -> i32 {
        match T::new_request_data() {
            Ok(data) => {
                // SAFETY: `TagSet` asked for room for a `Pdu<T>` behind each request.
                unsafe { Pdu::<T>::of(rq).write(Pdu::new(data)) };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the block layer only, with a request that `init_request` succeeded for.
    unsafe extern "C" fn exit_request(
        _set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hctx_idx: u32,
    ) {
        // SAFETY: It was written by `init_request`, and the request is not in flight.
        unsafe { core::ptr::drop_in_place(Pdu::<T>::of(rq)) };
    }

    const TABLE: bindings::blk_mq_ops = bindings::blk_mq_ops {
        queue_rq: Some(Self::queue_rq),
        commit_rqs: Some(Self::commit_rqs),
        timeout: Some(Self::timeout),
        init_hctx: Some(Self::init_hctx),
        init_request: Some(Self::init_request),
        exit_request: Some(Self::exit_request),
        // SAFETY: All other members are optional function pointers, for which zero is None.
        ..unsafe { core::mem::zeroed() }
    };
}
