// SPDX-License-Identifier: GPL-2.0

//! Pages from a reserve, so that I/O makes progress when memory is short.
//!
//! C header: `include/linux/mempool.h`.
//! Upstream replacement: none yet (`kernel::page::Page` has neither pools nor plain slices).

use crate::{bindings, mm::Wait};
use core::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
};
use kernel::{prelude::*, sync::Arc};

#[cfg(CONFIG_HIGHMEM)]
compile_error!("kstage addresses pages directly: kernels with CONFIG_HIGHMEM are not supported");

/// Bytes of a page.
pub const PAGE_SIZE: usize = kernel::page::PAGE_SIZE;

/// The pool itself.
///
/// # Invariants
///
/// `raw` is a valid mempool of single pages.
struct Pool {
    raw: NonNull<bindings::mempool_t>,
}

// SAFETY: Mempools may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: As above.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; each page holds a reference, so all are back.
        unsafe { bindings::mempool_destroy(self.raw.as_ptr()) };
    }
}

/// A pool that always has some pages in reserve. Clones share it.
#[derive(Clone)]
pub struct PagePool(Arc<Pool>);

impl PagePool {
    /// A pool that keeps `reserve` pages at hand. May sleep.
    pub fn new(reserve: u16) -> Result<PagePool> {
        // SAFETY: No preconditions.
        let raw = unsafe { bindings::kstage_page_pool_create(i32::from(reserve)) };
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;

        // INVARIANT: `raw` was just created.
        Ok(PagePool(Arc::new(Pool { raw }, GFP_KERNEL)?))
    }

    /// Takes a page, whose content is arbitrary but initialised memory of the kernel.
    ///
    /// With [`Wait::Yes`] it may sleep and never fails; with [`Wait::No`] any context.
    pub fn alloc(&self, wait: Wait) -> Result<PageBuf> {
        // SAFETY: By the type invariant of `Pool`.
        self.buf(unsafe { bindings::kstage_page_pool_alloc(self.0.raw.as_ptr(), wait.gfp()) })
    }

    /// As [`alloc`](Self::alloc), but takes from the reserve before it asks the system for memory.
    /// For pages that soon come back: the same ones go round, which is cheap, and when memory is
    /// short one waits for the other's end.
    pub fn reuse(&self, wait: Wait) -> Result<PageBuf> {
        // SAFETY: By the type invariant of `Pool`.
        self.buf(unsafe { bindings::kstage_page_pool_reuse(self.0.raw.as_ptr(), wait.gfp()) })
    }

    fn buf(&self, page: *mut bindings::page) -> Result<PageBuf> {
        let page = NonNull::new(page).ok_or(ENOMEM)?;

        // SAFETY: The page is valid.
        let data = unsafe { bindings::kstage_page_address(page.as_ptr()) };

        // INVARIANT: The page is ours until it goes back to the pool.
        Ok(PageBuf {
            page,
            data: NonNull::new(data.cast()).ok_or(ENOMEM)?,
            pool: self.0.clone(),
        })
    }
}

/// One page, owned.
///
/// # Invariants
///
/// `page` is a single page of the direct map from `pool`, owned by `self` alone, and `data` is where
/// it is mapped.
pub struct PageBuf {
    page: NonNull<bindings::page>,
    data: NonNull<[u8; PAGE_SIZE]>,
    pool: Arc<Pool>,
}

// SAFETY: It owns plain memory.
unsafe impl Send for PageBuf {}
// SAFETY: As above; shared references only read.
unsafe impl Sync for PageBuf {}

impl PageBuf {
    /// The C page.
    pub(crate) fn as_raw(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }
}

impl Deref for PageBuf {
    type Target = [u8; PAGE_SIZE];

    #[inline]
    fn deref(&self) -> &[u8; PAGE_SIZE] {
        // SAFETY: By the type invariant, the page is mapped and ours; kernel memory from the page
        // allocator is initialised as far as the hardware is concerned and `u8` has no invalid
        // values.
        unsafe { self.data.as_ref() }
    }
}

impl DerefMut for PageBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: As in `deref`, and `&mut self` is exclusive.
        unsafe { self.data.as_mut() }
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the page came from this pool and nobody else has it.
        unsafe { bindings::kstage_page_pool_free(self.pool.raw.as_ptr(), self.page.as_ptr()) };
    }
}
