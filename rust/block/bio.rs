// SPDX-License-Identifier: GPL-2.0

//! To use a disk: bios from a reserve, with a context of the submitter's choice in front.
//!
//! A [`BioSet`] belongs to one device. A [`Bio`] comes from it, gets its data and is submitted; when
//! it is done, [`EndIo::end_io`] gets it back as [`Completed`], without any allocation on the way.
//!
//! C headers: `include/linux/bio.h`, `include/linux/blk_types.h`.
//! Upstream replacement: none yet (a `kernel::block::bio`).

use super::{
    bdev::BlockDevice,
    mq::{Operations, RequestRef},
    Op, OpFlags, Status,
};
use crate::{
    bindings,
    llist::Linked,
    mm::Wait,
    page_pool::{PageBuf, PAGE_SIZE},
};
use core::{marker::PhantomPinned, mem::ManuallyDrop, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc, types::Opaque};

/// Most contiguous pieces that a bio can have.
pub const MAX_SEGMENTS: u16 = 256;

/// The context of a bio: what its submitter wants to find when it is done.
pub trait EndIo: Sized + Send + 'static {
    /// What all bios of a set share.
    type Shared: Send + Sync + 'static;

    /// A bio is done. Any context, often hard irq: must not sleep or take sleeping locks. What is to
    /// be done in task context can be pushed, as the bio itself, to an inbox.
    fn end_io(bio: Completed<Self>, shared: &Self::Shared);
}

/// The set, pinned.
#[pin_data(PinnedDrop)]
struct Inner<C: EndIo> {
    #[pin]
    set: Opaque<bindings::bio_set>,
    /// Bios that exist, and calls of `end_io` that run.
    live: Opaque<bindings::atomic_t>,
    device: Arc<BlockDevice>,
    shared: C::Shared,
    #[pin]
    _pin: PhantomPinned,
}

/// Lies in front of each bio.
#[repr(C)]
struct Header<C: EndIo> {
    /// Link for an inbox.
    link: Opaque<bindings::llist_node>,
    inner: NonNull<Inner<C>>,
    context: ManuallyDrop<C>,
}

impl<C: EndIo> Header<C> {
    /// Room in front of a bio.
    const PAD: usize = {
        assert!(align_of::<Self>() <= 8);
        size_of::<Self>().next_multiple_of(8)
    };

    /// # Safety
    ///
    /// `bio` came from a set of `C`.
    unsafe fn of(bio: *mut bindings::bio) -> *mut Self {
        // SAFETY: The set allocates so many bytes in front of each bio.
        unsafe { bio.byte_sub(Self::PAD).cast() }
    }
}

/// Bios with context `C` for one device, with some in reserve.
///
/// Dropping it waits until the last of its bios is gone; so this must happen in task context, and
/// not where such a bio is held. May sleep.
pub struct BioSet<C: EndIo>(Pin<KBox<Inner<C>>>);

// SAFETY: Bio sets may be used from any thread.
unsafe impl<C: EndIo> Send for BioSet<C> {}
// SAFETY: As above.
unsafe impl<C: EndIo> Sync for BioSet<C> {}

impl<C: EndIo> BioSet<C> {
    /// A set for `device` that keeps `reserve` bios at hand. `segments` says whether bios may have
    /// more than 4 segments. May sleep.
    pub fn new(device: Arc<BlockDevice>, reserve: u16, shared: C::Shared) -> Result<BioSet<C>> {
        let pad = u32::try_from(Header::<C>::PAD)?;

        let inner = KBox::try_pin_init(
            try_pin_init!(Inner {
                set <- Opaque::try_ffi_init(|set: *mut bindings::bio_set| {
                    // SAFETY: `set` is valid for writes, and zeroed as `bioset_init()` wants it.
                    unsafe {
                        set.write_bytes(0, 1);
                        to_result(bindings::bioset_init(
                            set,
                            u32::from(reserve),
                            pad,
                            bindings::BIOSET_NEED_BVECS as i32,
                        ))
                    }
                }),
                live: Opaque::new(bindings::atomic_t { counter: 0 }),
                device,
                shared,
                _pin: PhantomPinned,
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(BioSet(inner))
    }

    /// The device that bios go to.
    pub fn device(&self) -> &BlockDevice {
        &self.0.device
    }

    /// What all bios of the set share.
    pub fn shared(&self) -> &C::Shared {
        &self.0.shared
    }

    /// A bio for `op` at `sector`, with room for `segments` (at most [`MAX_SEGMENTS`]) pieces of
    /// data. If there is no memory, and [`Wait::No`] was asked for, the context comes back.
    ///
    /// With [`Wait::Yes`] it may sleep until another bio of the set is done; so not inside
    /// `queue_rq`, where that may wait for requests behind this one.
    pub fn alloc(
        &self,
        op: Op,
        flags: OpFlags,
        sector: u64,
        segments: u32,
        context: C,
        wait: Wait,
    ) -> Result<Bio<C>, C> {
        let segments = u16::try_from(segments).map_or(MAX_SEGMENTS, |n| n.min(MAX_SEGMENTS));

        // SAFETY: Device and set are valid.
        let bio = unsafe {
            bindings::kstage_bio_alloc(
                self.0.device.as_raw(),
                segments,
                op.to_bio_raw() | flags.to_raw(),
                wait.gfp(),
                self.0.set.get(),
            )
        };
        let Some(raw) = NonNull::new(bio) else {
            return Err(context);
        };

        // SAFETY: The header is ours with the bio; the count says that the bio exists. The bio will
        // call a function of the right type.
        unsafe {
            Header::<C>::of(bio).write(Header {
                link: Opaque::uninit(),
                inner: NonNull::from(&*self.0),
                context: ManuallyDrop::new(context),
            });
            bindings::kstage_count_inc(self.0.live.get());
            (*bio).bi_iter.bi_sector = sector;
            (*bio).bi_end_io = Some(end_io::<C>);
        }

        // INVARIANT: All of it was just done.
        Ok(Bio(Owned {
            raw,
            _type: core::marker::PhantomData,
        }))
    }
}

#[pinned_drop]
impl<C: EndIo> PinnedDrop for Inner<C> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Both are valid; when the count is zero, no bio is left that uses the set.
        unsafe {
            bindings::kstage_count_wait_zero(self.live.get());
            bindings::bioset_exit(self.set.get());
        }
    }
}

/// A bio of a set of `C` that somebody owns.
///
/// # Invariants
///
/// `raw` came from a [`BioSet<C>`] that is alive, is not in flight and owned by `self`; its header
/// is initialised.
struct Owned<C: EndIo> {
    raw: NonNull<bindings::bio>,
    _type: core::marker::PhantomData<C>,
}

impl<C: EndIo> Owned<C> {
    fn as_raw(&self) -> *mut bindings::bio {
        self.raw.as_ptr()
    }

    fn header(&self) -> &Header<C> {
        // SAFETY: By the type invariant.
        unsafe { &*Header::<C>::of(self.as_raw()) }
    }

    fn header_mut(&mut self) -> &mut Header<C> {
        // SAFETY: By the type invariant.
        unsafe { &mut *Header::<C>::of(self.as_raw()) }
    }

    /// Frees the bio and returns its context.
    fn into_context(self) -> C {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: `self` is forgotten, so the context is taken once.
        let context = unsafe { ManuallyDrop::take(&mut this.header_mut().context) };

        // SAFETY: As above.
        unsafe { this.free() };
        context
    }

    /// # Safety
    ///
    /// Called once, the context having been taken or dropped, and nothing is used after.
    unsafe fn free(&mut self) {
        let inner = self.header().inner;

        // SAFETY: By the type invariant; the count of the set falls after the last use.
        unsafe {
            bindings::bio_put(self.as_raw());
            bindings::kstage_count_dec_wake(inner.as_ref().live.get());
        }
    }
}

impl<C: EndIo> Drop for Owned<C> {
    fn drop(&mut self) {
        // SAFETY: Dropped once; nothing is used after.
        unsafe {
            ManuallyDrop::drop(&mut self.header_mut().context);
            self.free();
        }
    }
}

/// A bio that is not yet submitted.
pub struct Bio<C: EndIo>(Owned<C>);

// SAFETY: Bios may go to other threads; the context is `Send`.
unsafe impl<C: EndIo> Send for Bio<C> {}

impl<C: EndIo> Bio<C> {
    /// The context.
    pub fn context(&self) -> &C {
        &self.0.header().context
    }

    /// Gives up: frees the bio and returns its context.
    pub fn into_context(self) -> C {
        self.0.into_context()
    }

    /// Bytes of the range so far.
    pub fn bytes(&self) -> u32 {
        // SAFETY: Valid by the invariants of `Owned`.
        unsafe { (*self.0.as_raw()).bi_iter.bi_size }
    }

    /// The range of an operation without data, in bytes (a multiple of 512).
    pub fn set_bytes(&mut self, sector: u64, bytes: u32) {
        // SAFETY: Valid by the invariants of `Owned`; a bio with data is left alone.
        unsafe {
            let bio = self.0.as_raw();

            if (*bio).bi_vcnt == 0 {
                (*bio).bi_iter.bi_sector = sector;
                (*bio).bi_iter.bi_size = bytes;
            }
        }
    }

    /// Appends up to `bytes` of the data of a request, from `offset` on, without copying. The
    /// request must be kept by the bio's context, in which `request` finds it. Also takes over its
    /// priority. Returns the number of bytes that fitted.
    pub fn add_request<T: Operations>(
        &mut self,
        request: impl FnOnce(&C) -> Option<&RequestRef<T>>,
        offset: u32,
        bytes: u32,
    ) -> u32 {
        let bio = self.0.as_raw();
        // The context owns the request, and nobody can change the context while the bio is used.
        let Some(request) = request(&self.0.header().context) else {
            return 0;
        };
        let mut cursor = request.cursor();
        let mut done = 0;

        cursor.advance(offset);
        while let Some(segment) = cursor.next_segment(bytes - done) {
            let raw = segment.as_raw();

            // SAFETY: The pages belong to a request that outlives the bio.
            let added = unsafe { bindings::bio_add_page(bio, raw.page, raw.len, raw.offset) };
            if added == 0 {
                break;
            }
            done += raw.len;
        }
        // SAFETY: Valid by the invariants of `Owned`.
        unsafe { (*bio).bi_ioprio = request.ioprio() };
        done
    }

    /// Appends pages of the context, to be written. Returns whether all fitted.
    pub fn add_pages(&mut self, pages: impl FnOnce(&C) -> Option<&[PageBuf]>) -> bool {
        let bio = self.0.as_raw();
        let Some(pages) = pages(&self.0.header().context) else {
            return false;
        };

        pages.iter().all(|page| {
            // SAFETY: The page belongs to the context, which outlives the I/O; it is not changed.
            unsafe { bindings::bio_add_page(bio, page.as_raw(), PAGE_SIZE as u32, 0) != 0 }
        })
    }

    /// Appends pages of the context, to be read into. Returns whether all fitted.
    pub fn add_pages_mut(&mut self, pages: impl FnOnce(&mut C) -> Option<&mut [PageBuf]>) -> bool {
        let bio = self.0.as_raw();
        let Some(pages) = pages(&mut self.0.header_mut().context) else {
            return false;
        };

        pages.iter().all(|page| {
            // SAFETY: The page belongs to the context, which outlives the I/O and is not reachable
            // before its end; the exclusive reference shows that nobody else has the page.
            unsafe { bindings::bio_add_page(bio, page.as_raw(), PAGE_SIZE as u32, 0) != 0 }
        })
    }

    /// Appends a buffer of the context, to be written: whole, with a length that is a multiple of
    /// 512. Returns whether it fitted.
    pub fn add_buffer(&mut self, buffer: impl FnOnce(&C) -> Option<&KVec<u8>>) -> bool {
        let bio = self.0.as_raw();

        // SAFETY: The context owns the buffer and outlives the I/O; it is not changed.
        buffer(&self.0.header().context).is_some_and(|buffer| unsafe { add_virt(bio, buffer) })
    }

    /// Appends a buffer of the context, to be read into: whole, with a length that is a multiple of
    /// 512. Returns whether it fitted.
    pub fn add_buffer_mut(&mut self, buffer: impl FnOnce(&mut C) -> Option<&mut KVec<u8>>) -> bool {
        let bio = self.0.as_raw();

        buffer(&mut self.0.header_mut().context)
            // SAFETY: As in `add_buffer`; the context is not reachable before the end of the I/O,
            // and the exclusive reference shows that nobody else has the buffer.
            .is_some_and(|buffer| unsafe { add_virt(bio, buffer) })
    }

    /// Sends it to the device, as [`BioList::submit`] does.
    pub fn submit(self) {
        let mut list = BioList::new();

        list.push(self);
        list.submit();
    }

    /// Sends it to the device and waits until it is done, without a call of [`EndIo::end_io`]. May
    /// sleep; not inside `queue_rq`.
    pub fn submit_wait(self) -> Completed<C> {
        let this = ManuallyDrop::new(self);

        // SAFETY: The bio is complete, and ours again after the call.
        unsafe { bindings::submit_bio_wait(this.0.as_raw()) };

        // INVARIANT: The bio is not in flight any more.
        Completed(Owned {
            raw: this.0.raw,
            _type: core::marker::PhantomData,
        })
    }
}

/// Appends a buffer to a bio.
///
/// # Safety
///
/// `buffer` stays valid until the bio is done.
unsafe fn add_virt(bio: *mut bindings::bio, buffer: &KVec<u8>) -> bool {
    match u32::try_from(buffer.len()) {
        Ok(len) if len > 0 => {
            // SAFETY: By the contract, and a `KVec` that is not empty is `kmalloc` memory.
            unsafe { bindings::kstage_bio_add_virt(bio, buffer.as_ptr().cast(), len) != 0 }
        }
        _ => false,
    }
}

/// Bios that are to be submitted, in order, without room of its own.
///
/// # Invariants
///
/// All bios in `raw` are ready to be submitted, and owned by the list.
pub struct BioList<C: EndIo> {
    raw: bindings::bio_list,
    _bios: core::marker::PhantomData<Bio<C>>,
}

impl<C: EndIo> BioList<C> {
    /// An empty one.
    pub const fn new() -> Self {
        BioList {
            raw: bindings::bio_list {
                head: core::ptr::null_mut(),
                tail: core::ptr::null_mut(),
            },
            _bios: core::marker::PhantomData,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw.head.is_null()
    }

    /// Appends a bio.
    pub fn push(&mut self, bio: Bio<C>) {
        let bio = ManuallyDrop::new(bio);

        // SAFETY: The list is valid, and the bio is ours to link.
        unsafe { bindings::kstage_bio_list_add(&mut self.raw, bio.0.as_raw()) };
    }

    /// Sends all to the device; neighbours are merged. When this returns, all have started, also
    /// inside `queue_rq`; so nothing that waits there waits for them. Task context; may sleep, for
    /// what the device below us needs. Needs 4 KiB of stack inside `queue_rq`: see [`stack_left`].
    pub fn submit(&mut self) {
        if !self.is_empty() {
            // SAFETY: By the type invariant; `end_io` takes the bios back.
            unsafe { bindings::kstage_submit_bios(&mut self.raw) };
        }
    }
}

/// Bytes of the stack that are left.
#[inline]
pub fn stack_left() -> usize {
    // SAFETY: No preconditions.
    unsafe { bindings::kstage_stack_left() as usize }
}

impl<C: EndIo> Default for BioList<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: EndIo> Drop for BioList<C> {
    fn drop(&mut self) {
        self.submit();
    }
}

/// A bio that is done.
pub struct Completed<C: EndIo>(Owned<C>);

// SAFETY: Bios may go to other threads; the context is `Send`.
unsafe impl<C: EndIo> Send for Completed<C> {}

impl<C: EndIo> Completed<C> {
    /// How it went.
    pub fn result(&self) -> Result<(), Status> {
        // SAFETY: Valid by the invariants of `Owned`.
        Status::from_raw(unsafe { (*self.0.as_raw()).bi_status })
    }

    /// The context.
    pub fn context(&self) -> &C {
        &self.0.header().context
    }

    /// The context.
    pub fn context_mut(&mut self) -> &mut C {
        &mut self.0.header_mut().context
    }

    /// Frees the bio and returns its context.
    pub fn into_context(self) -> C {
        self.0.into_context()
    }
}

// SAFETY: The link lies in the header, which belongs to the bio.
unsafe impl<C: EndIo> Linked for Completed<C> {
    fn into_node(self) -> NonNull<bindings::llist_node> {
        let this = ManuallyDrop::new(self);

        // SAFETY: The address of a field is not NULL.
        unsafe { NonNull::new_unchecked(this.0.header().link.get()) }
    }

    unsafe fn from_node(node: NonNull<bindings::llist_node>) -> Self {
        // The link is the first member of the header, which lies in front of the bio.
        // SAFETY: By the contract `node` came from `into_node`, which gave up a bio.
        let raw = unsafe {
            NonNull::new_unchecked(
                node.as_ptr()
                    .byte_add(Header::<C>::PAD)
                    .cast::<bindings::bio>(),
            )
        };

        // INVARIANT: As it was when it was given up.
        Completed(Owned {
            raw,
            _type: core::marker::PhantomData,
        })
    }
}

/// # Safety
///
/// Called by the block layer only, once for each submitted bio of a set of `C`.
unsafe extern "C" fn end_io<C: EndIo>(bio: *mut bindings::bio) {
    // SAFETY: The header was written before the bio was submitted, and the bio keeps the set.
    let inner = unsafe { (*Header::<C>::of(bio)).inner };

    // SAFETY: The set is alive, and with this count stays so until after the call below.
    let inner = unsafe { inner.as_ref() };

    // SAFETY: The counter is valid.
    unsafe { bindings::kstage_count_inc(inner.live.get()) };

    // INVARIANT: The block layer gives the bio back.
    let completed = Completed(Owned {
        // SAFETY: The block layer passes a bio.
        raw: unsafe { NonNull::new_unchecked(bio) },
        _type: core::marker::PhantomData,
    });

    C::end_io(completed, &inner.shared);

    // SAFETY: The counter is valid; nothing is used after this.
    unsafe { bindings::kstage_count_dec_wake(inner.live.get()) };
}
