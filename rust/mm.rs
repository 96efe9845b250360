// SPDX-License-Identifier: GPL-2.0

//! Memory allocation in the I/O path.
//!
//! C header: `include/linux/sched/mm.h`.
//! Upstream replacement: none yet; `kernel::alloc::Flags` has no `GFP_NOIO`.

use crate::bindings;
use core::marker::PhantomData;
use kernel::types::NotThreadSafe;

/// Until it is dropped, allocations of this task never wait for I/O (`memalloc_noio_save`), so
/// that memory reclaim that writes to our device cannot wait for itself.
///
/// Scopes nest. May be entered in any context, but means something in task context only.
#[must_use = "the scope ends when this is dropped"]
pub struct NoIo {
    flags: u32,
    _task: PhantomData<NotThreadSafe>,
}

impl NoIo {
    /// Enters the scope.
    #[inline]
    pub fn enter() -> NoIo {
        NoIo {
            // SAFETY: Only changes flags of the current task; `Drop` undoes it in the same task,
            // since `NoIo` is not `Send`.
            flags: unsafe { bindings::kstage_noio_save() },
            _task: PhantomData,
        }
    }
}

impl Drop for NoIo {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `flags` came from the matching `kstage_noio_save()` in this task.
        unsafe { bindings::kstage_noio_restore(self.flags) };
    }
}

/// Until it is dropped, allocations of this task never reclaim memory, but may use the system's last
/// reserves (`memalloc_noreclaim_save`): they succeed or fail at once.
///
/// For work that memory reclaim itself waits for, such as writing out dirty or anonymous pages, if
/// it allocates little and can cope with failure; a small allocation would otherwise retry for ever.
#[must_use = "the scope ends when this is dropped"]
pub struct NoReclaim {
    flags: u32,
    _task: PhantomData<NotThreadSafe>,
}

impl NoReclaim {
    /// Enters the scope. Scopes nest.
    #[inline]
    pub fn enter() -> NoReclaim {
        NoReclaim {
            // SAFETY: As in `NoIo::enter`.
            flags: unsafe { bindings::kstage_noreclaim_save() },
            _task: PhantomData,
        }
    }
}

impl Drop for NoReclaim {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `flags` came from the matching `kstage_noreclaim_save()` in this task.
        unsafe { bindings::kstage_noreclaim_restore(self.flags) };
    }
}

/// Whether an allocation from a pool may wait for others to give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Never sleeps; fails if there is nothing at hand.
    No,
    /// Sleeps until the pool can serve, without starting I/O (`GFP_NOIO`). Never fails for pools.
    Yes,
}

impl Wait {
    #[inline]
    pub(crate) fn gfp(self) -> bindings::gfp_t {
        match self {
            Wait::No => bindings::KSTAGE_GFP_NOWAIT,
            Wait::Yes => bindings::KSTAGE_GFP_NOIO,
        }
    }
}

/// Memory of this machine that the kernel manages, in bytes. Any context.
pub fn ram_bytes() -> u64 {
    // SAFETY: Only reads a counter.
    unsafe { bindings::kstage_ram_bytes() }
}

/// Whether all bytes are zero. Any context.
#[inline]
pub fn is_zero(data: &[u8]) -> bool {
    // SAFETY: `data` is valid for its length.
    unsafe { bindings::memchr_inv(data.as_ptr().cast(), 0, data.len()).is_null() }
}
