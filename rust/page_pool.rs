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
        let page = unsafe { bindings::kstage_page_pool_alloc(self.0.raw.as_ptr(), wait.gfp()) };

        // INVARIANT: The page is ours until it goes back to the pool.
        Ok(PageBuf {
            page: NonNull::new(page).ok_or(ENOMEM)?,
            pool: self.0.clone(),
        })
    }
}

/// One page, owned.
///
/// # Invariants
///
/// `page` is a single page of the direct map from `pool`, owned by `self` alone.
pub struct PageBuf {
    page: NonNull<bindings::page>,
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

    fn deref(&self) -> &[u8; PAGE_SIZE] {
        // SAFETY: By the type invariant, the page is mapped and ours; kernel memory from the page
        // allocator is initialised as far as the hardware is concerned and `u8` has no invalid
        // values.
        unsafe { &*bindings::kstage_page_address(self.page.as_ptr()).cast() }
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: As in `deref`, and `&mut self` is exclusive.
        unsafe { &mut *bindings::kstage_page_address(self.page.as_ptr()).cast() }
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the page came from this pool and nobody else has it.
        unsafe { bindings::kstage_page_pool_free(self.pool.raw.as_ptr(), self.page.as_ptr()) };
    }
}
