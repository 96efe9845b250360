// SPDX-License-Identifier: GPL-2.0

//! Requests that a driver owns, and the data they carry.
//!
//! Upstream replacement: `kernel::block::mq::Request`.

use super::Operations;
use crate::{
    bindings,
    block::{Op, OpFlags, Status},
    llist::Linked,
};
use core::{marker::PhantomData, mem::ManuallyDrop, ops::Deref, ptr::NonNull};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        ArcBorrow,
    },
    types::Opaque,
};

/// What lies behind each C request of a tag set of `T`.
#[repr(C)]
pub(super) struct Pdu<T: Operations> {
    /// Link for an inbox.
    link: Opaque<bindings::llist_node>,
    /// Number of [`Part`]s that are not finished.
    parts: Atomic<u32>,
    /// First failure of a part, as C status; 0 if none.
    status: Atomic<u32>,
    /// The driver's.
    data: T::RequestData,
}

impl<T: Operations> Pdu<T> {
    pub(super) fn new(data: T::RequestData) -> Self {
        Pdu {
            link: Opaque::uninit(),
            parts: Atomic::new(0),
            status: Atomic::new(0),
            data,
        }
    }

    /// Where the private data of `rq` is.
    ///
    /// # Safety
    ///
    /// `rq` is a request of a tag set of `T`.
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *mut Self {
        // SAFETY: The block layer allocates the private data right behind the request.
        unsafe { rq.add(1).cast() }
    }
}

/// A request in flight that somebody owns; what can be read of it.
///
/// # Invariants
///
/// It is a started request of a tag set of `T` that the driver owns.
#[repr(transparent)]
pub struct RequestRef<T: Operations> {
    raw: Opaque<bindings::request>,
    _ops: PhantomData<T>,
}

impl<T: Operations> RequestRef<T> {
    pub(crate) fn as_raw(&self) -> *mut bindings::request {
        self.raw.get()
    }

    /// What is to be done. Any context, as all of this type.
    pub fn op(&self) -> Op {
        // SAFETY: Valid by the type invariant.
        Op::from_raw(unsafe { (*self.as_raw()).cmd_flags })
    }

    /// How it is to be done.
    pub fn flags(&self) -> OpFlags {
        // SAFETY: Valid by the type invariant.
        OpFlags::from_raw(unsafe { (*self.as_raw()).cmd_flags })
    }

    /// First sector. Meaningless for [`Op::Flush`].
    pub fn sector(&self) -> u64 {
        // SAFETY: Valid by the type invariant.
        unsafe { (*self.as_raw()).__sector }
    }

    /// Length of the range in bytes, 0 for [`Op::Flush`].
    pub fn bytes(&self) -> u32 {
        // SAFETY: Valid by the type invariant.
        unsafe { (*self.as_raw()).__data_len }
    }

    /// C I/O priority.
    pub(crate) fn ioprio(&self) -> u16 {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::kstage_rq_ioprio(self.as_raw()) }
    }

    /// What names it as long as it is in flight: the device number of its disk in the upper half,
    /// the tag that is unique there in the lower.
    pub fn identity(&self) -> u64 {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::kstage_rq_identity(self.as_raw()) }
    }

    /// Number of physically contiguous pieces of the data.
    pub fn segment_count(&self) -> u32 {
        // SAFETY: Valid by the type invariant.
        unsafe { bindings::kstage_rq_nr_segments(self.as_raw()) }
    }

    /// The data from its first byte on. Empty for operations without data.
    pub fn cursor(&self) -> SegmentCursor<'_> {
        let has_data = matches!(self.op(), Op::Read | Op::Write);
        // SAFETY: Valid by the type invariant, as the first bio of a request with data is.
        let (bio, iter) = unsafe {
            match (*self.as_raw()).bio {
                bio if has_data && !bio.is_null() => (bio, (*bio).bi_iter),
                _ => (core::ptr::null_mut(), bindings::bvec_iter::default()),
            }
        };

        // INVARIANT: The bios of an owned request stay as they are, and it is borrowed.
        SegmentCursor {
            raw: bindings::kstage_rq_cursor { bio, iter },
            _request: PhantomData,
        }
    }

    /// The driver's private data.
    pub fn data(&self) -> &T::RequestData {
        // SAFETY: By the type invariant; it is only written through `Request::data_mut`.
        unsafe { &(*Pdu::<T>::of(self.as_raw())).data }
    }

    /// What all requests of the disk share.
    pub fn queue_data(&self) -> ArcBorrow<'_, T::QueueData> {
        // SAFETY: `Disk` stores an `Arc` there and keeps it until all requests have ended.
        unsafe { ArcBorrow::from_raw((*(*self.as_raw()).q).queuedata.cast()) }
    }
}

/// A request, owned: whoever has it must end it. Dropping it ends it with [`Status::IOERR`].
///
/// # Invariants
///
/// `raw` is a started request of a tag set of `T`, owned by `self` alone.
pub struct Request<T: Operations> {
    raw: NonNull<RequestRef<T>>,
}

// SAFETY: Requests may be ended by any thread, and private data is `Send`.
unsafe impl<T: Operations> Send for Request<T> {}
// SAFETY: Shared references only read, and private data is `Sync`.
unsafe impl<T: Operations> Sync for Request<T> {}

impl<T: Operations> Request<T> {
    /// # Safety
    ///
    /// `rq` is a started request of a tag set of `T` that the caller owns and gives away.
    pub(super) unsafe fn from_raw(rq: *mut bindings::request) -> Self {
        Request {
            // SAFETY: Not NULL by the contract; `RequestRef` is transparent.
            raw: unsafe { NonNull::new_unchecked(rq.cast()) },
        }
    }

    /// The driver's private data.
    pub fn data_mut(&mut self) -> &mut T::RequestData {
        // SAFETY: By the type invariant, `self` is the only owner.
        unsafe { &mut (*Pdu::<T>::of(self.as_raw())).data }
    }

    /// Done. Any context.
    pub fn end(self, result: Result<(), Status>) {
        let rq = ManuallyDrop::new(self).as_raw();

        // SAFETY: By the type invariant the request is ours, and it is given back here.
        unsafe { bindings::blk_mq_end_request(rq, Status::to_raw(result)) };
    }

    /// Done: its first `ok_bytes` (a multiple of 512) succeeded, the rest failed with `status`. Any
    /// context.
    pub fn end_partial(self, ok_bytes: u32, status: Status) {
        let ok_bytes = ok_bytes.min(self.bytes()) & !(crate::block::SECTOR_SIZE - 1);

        if ok_bytes == self.bytes() {
            return self.end(Ok(()));
        }
        if ok_bytes > 0 {
            // SAFETY: The request is ours and some of it remains.
            unsafe { bindings::blk_update_request(self.as_raw(), 0, ok_bytes) };
        }
        self.end(Err(status));
    }

    /// Splits the ownership: see [`Part`].
    pub fn into_part(self) -> Part<T> {
        let raw = ManuallyDrop::new(self).raw;

        // SAFETY: By the type invariant the private data is valid and ours.
        let pdu = unsafe { &*Pdu::<T>::of(raw.as_ref().as_raw()) };
        pdu.parts.store(1, Relaxed);
        pdu.status.store(0, Relaxed);

        // INVARIANT: One part, which is this one.
        Part { raw }
    }
}

impl<T: Operations> Deref for Request<T> {
    type Target = RequestRef<T>;

    fn deref(&self) -> &RequestRef<T> {
        // SAFETY: By the type invariant.
        unsafe { self.raw.as_ref() }
    }
}

impl<T: Operations> Drop for Request<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the request is ours, and it is given back here.
        unsafe { bindings::blk_mq_end_request(self.as_raw(), Status::to_raw(Err(Status::IOERR))) };
    }
}

// SAFETY: The link lies in the private data, which the owner of the request owns.
unsafe impl<T: Operations> Linked for Request<T> {
    fn into_node(self) -> NonNull<bindings::llist_node> {
        let rq = ManuallyDrop::new(self).as_raw();

        // SAFETY: `rq` is a request of a tag set of `T`, and the address is not NULL.
        unsafe { NonNull::new_unchecked((*Pdu::<T>::of(rq)).link.get()) }
    }

    unsafe fn from_node(node: NonNull<bindings::llist_node>) -> Self {
        // The link is the first member of the private data, which follows the request.
        // SAFETY: By the contract `node` came from `into_node`, which gave up a request.
        unsafe { Self::from_raw(node.as_ptr().cast::<bindings::request>().sub(1)) }
    }
}

/// One of several owners of a request. When the last one is finished,
/// [`Operations::parts_done`] gets the request and the first failure.
///
/// Dropping a part finishes it with [`Status::IOERR`].
///
/// # Invariants
///
/// `raw` is a started request of a tag set of `T` that is owned by parts, whose number is in its
/// private data.
pub struct Part<T: Operations> {
    raw: NonNull<RequestRef<T>>,
}

// SAFETY: As for `Request`.
unsafe impl<T: Operations> Send for Part<T> {}
// SAFETY: As for `Request`.
unsafe impl<T: Operations> Sync for Part<T> {}

impl<T: Operations> Part<T> {
    fn pdu(&self) -> &Pdu<T> {
        // SAFETY: By the type invariant; nobody has exclusive access while there are parts.
        unsafe { &*Pdu::<T>::of(self.as_raw()) }
    }

    /// One more owner. Any context.
    pub fn fork(&self) -> Part<T> {
        // INVARIANT: The count rises with the number of parts.
        self.pdu().parts.fetch_add(1, Relaxed);
        Part { raw: self.raw }
    }

    /// This part is done. Any context.
    pub fn finish(self, result: Result<(), Status>) {
        ManuallyDrop::new(self).finish_inner(result);
    }

    fn finish_inner(&self, result: Result<(), Status>) {
        let pdu = self.pdu();

        if result.is_err() {
            // Only the first failure counts.
            let _ = pdu
                .status
                .cmpxchg(0, u32::from(Status::to_raw(result)), Relaxed);
        }
        if pdu.parts.fetch_sub(1, Full) == 1 {
            // The status is a C status, which is a byte.
            let result = Status::from_raw(pdu.status.load(Relaxed) as u8);

            // SAFETY: That was the last part, so the request is ours alone.
            T::parts_done(unsafe { Request::from_raw(self.as_raw()) }, result);
        }
    }
}

impl<T: Operations> Deref for Part<T> {
    type Target = RequestRef<T>;

    fn deref(&self) -> &RequestRef<T> {
        // SAFETY: By the type invariant.
        unsafe { self.raw.as_ref() }
    }
}

impl<T: Operations> Drop for Part<T> {
    fn drop(&mut self) {
        self.finish_inner(Err(Status::IOERR));
    }
}

/// A position in the data of a request.
///
/// The memory belongs to the submitter, who may change it at any time; so it is copied, hashed and
/// mapped into bios, but never borrowed as a slice.
///
/// # Invariants
///
/// `raw` is a position in the bios of a request that lives for `'a`.
pub struct SegmentCursor<'a> {
    raw: bindings::kstage_rq_cursor,
    _request: PhantomData<&'a ()>,
}

impl Clone for SegmentCursor<'_> {
    fn clone(&self) -> Self {
        SegmentCursor {
            raw: bindings::kstage_rq_cursor {
                bio: self.raw.bio,
                iter: self.raw.iter,
            },
            _request: PhantomData,
        }
    }
}

impl<'a> SegmentCursor<'a> {
    /// Moves forward by `bytes`, at most to the end.
    #[inline]
    pub fn advance(&mut self, bytes: u32) {
        if bytes > 0 {
            // SAFETY: By the type invariant.
            unsafe { bindings::kstage_rq_cursor_advance(&mut self.raw, bytes) };
        }
    }

    /// The contiguous bytes at the position, at most `limit`, and moves behind them. None at the
    /// end, and if `limit` is 0.
    #[inline]
    pub fn next_segment(&mut self, limit: u32) -> Option<Segment<'a>> {
        let mut raw = bindings::kstage_segment {
            page: core::ptr::null_mut(),
            offset: 0,
            len: 0,
        };

        // SAFETY: By the type invariant.
        if limit == 0 || !unsafe { bindings::kstage_rq_cursor_next(&mut self.raw, limit, &mut raw) }
        {
            return None;
        }

        // INVARIANT: The cursor says that these bytes are data of the request.
        Some(Segment {
            raw,
            _request: PhantomData,
        })
    }

    /// Number of contiguous pieces of the next `bytes`.
    #[inline]
    pub fn segment_count(&self, bytes: u32) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_rq_cursor_count(&self.raw, bytes) }
    }

    /// XXH64 of the next `bytes` as they are now, and moves behind them.
    #[inline]
    pub fn xxh64(&mut self, bytes: u32, seed: u64) -> u64 {
        // SAFETY: By the type invariant; C code may read memory that changes.
        unsafe { bindings::kstage_rq_cursor_xxh64(&mut self.raw, bytes, seed) }
    }

    /// Copies from the request to `buf` and moves behind it. Returns the number of bytes copied:
    /// less than `buf` has only at the end.
    pub fn copy_to(&mut self, buf: &mut [u8]) -> usize {
        let mut done = 0;

        while let Some(segment) = self.next_segment(remaining(buf.len(), done)) {
            let len = segment.len();

            // SAFETY: Both are valid for `len` bytes: `next_segment` was limited to what is left of
            // `buf`. They don't overlap, since `buf` is borrowed exclusively.
            unsafe {
                core::ptr::copy_nonoverlapping(segment.address(), buf.as_mut_ptr().add(done), len);
            }
            done += len;
        }
        done
    }

    /// Copies `buf` into the request, which must be a read, and moves behind it. Returns the number
    /// of bytes copied.
    pub fn copy_from(&mut self, buf: &[u8]) -> usize {
        let mut done = 0;

        while let Some(segment) = self.next_segment(remaining(buf.len(), done)) {
            let len = segment.len();

            // SAFETY: As in `copy_to`; the memory of a read's data is there to be written.
            unsafe {
                core::ptr::copy_nonoverlapping(buf.as_ptr().add(done), segment.address(), len);
            }
            done += len;
        }
        done
    }

    /// Fills the next `bytes` of the request, which must be a read, with zeroes.
    pub fn fill_zero(&mut self, bytes: u32) {
        let mut left = bytes;

        while let Some(segment) = self.next_segment(left) {
            // SAFETY: As in `copy_from`.
            unsafe { core::ptr::write_bytes(segment.address(), 0, segment.len()) };
            left -= segment.raw.len;
        }
    }
}

/// What is left of `len` after `done`, as a limit of a segment.
fn remaining(len: usize, done: usize) -> u32 {
    u32::try_from(len - done).unwrap_or(u32::MAX)
}

/// Contiguous bytes of a request's data.
///
/// # Invariants
///
/// `raw` is data of a request that lives for `'a`.
pub struct Segment<'a> {
    raw: bindings::kstage_segment,
    _request: PhantomData<&'a ()>,
}

impl Segment<'_> {
    /// Length in bytes, not 0.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.raw.len as usize
    }

    pub(crate) fn as_raw(&self) -> &bindings::kstage_segment {
        &self.raw
    }

    #[inline]
    fn address(&self) -> *mut u8 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_segment_address(&self.raw).cast() }
    }
}
