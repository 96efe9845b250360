// SPDX-License-Identifier: GPL-2.0

//! To open a block device for exclusive use.
//!
//! C header: `include/linux/blkdev.h`.
//! Upstream replacement: none yet (a `kernel::block::BlockDevice`).

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    str::CStr,
    types::Opaque,
};

/// What a block device says of itself. See `struct kstage_bdev_limits` for the units.
pub type DeviceLimits = bindings::kstage_bdev_limits;

/// Who has it; the address is the claim.
struct Holder {
    raw: Opaque<bindings::kstage_holder>,
}

/// A block device that we alone may use; closed when dropped. May sleep, unless noted.
///
/// # Invariants
///
/// `file` is an open file of the block device `bdev`, claimed by `holder`.
pub struct BlockDevice {
    file: NonNull<bindings::file>,
    bdev: NonNull<bindings::block_device>,
    holder: Pin<KBox<Holder>>,
}

// SAFETY: Block devices may be used from any thread.
unsafe impl Send for BlockDevice {}
// SAFETY: As above.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens the device at `path` exclusively, for reading and, if `writable`, for writing.
    ///
    /// Errors: `ENOENT` nothing there, `ENOTBLK` not a block device, `EBUSY` somebody else has it
    /// (mounted, held by another driver), `EACCES` it is read-only, `ENXIO` no such device any more.
    pub fn open(path: &CStr, writable: bool) -> Result<BlockDevice> {
        let holder = KBox::pin(
            Holder {
                raw: Opaque::new(bindings::kstage_holder { dead: false }),
            },
            GFP_KERNEL,
        )?;

        // SAFETY: The path is NUL-terminated, and the holder outlives the claim.
        let file = from_err_ptr(unsafe {
            bindings::kstage_bdev_open(path.as_char_ptr(), writable, holder.raw.get())
        })?;

        // INVARIANT: The file was just opened with this holder.
        Ok(BlockDevice {
            // SAFETY: An open succeeded, so neither is NULL.
            file: unsafe { NonNull::new_unchecked(file) },
            // SAFETY: As above.
            bdev: unsafe { NonNull::new_unchecked(bindings::file_bdev(file)) },
            holder,
        })
    }

    pub(super) fn as_raw(&self) -> *mut bindings::block_device {
        self.bdev.as_ptr()
    }

    /// Capacity in bytes now; devices may grow or shrink. Any context.
    pub fn size_bytes(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_bdev_size(self.as_raw()) }
    }

    /// What it can do. Any context.
    pub fn limits(&self) -> DeviceLimits {
        let mut limits = DeviceLimits::default();

        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_bdev_limits(self.as_raw(), &mut limits) };
        limits
    }

    /// Whether all earlier writes are durable when a write with FUA has completed. Any context.
    pub fn fua_flushes(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_bdev_fua_flushes(self.as_raw()) }
    }

    /// Device number, as in `stat()`'s `st_rdev` of the kernel. Any context.
    pub fn devt(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_bdev_devt(self.as_raw()) }
    }

    /// Name as under `/dev`, NUL-terminated. Any context.
    pub fn name(&self) -> [u8; 32] {
        let mut name = [0; 32];

        // SAFETY: By the type invariant, and `name` has that size.
        unsafe {
            bindings::kstage_bdev_name(self.as_raw(), name.as_mut_ptr().cast(), name.len());
        }
        name
    }

    /// The device was declared dead, such as by being unplugged: all I/O fails from here on. Any
    /// context.
    pub fn is_dead(&self) -> bool {
        // SAFETY: The holder is valid as long as `self`.
        unsafe { bindings::kstage_holder_dead(self.holder.raw.get()) }
    }

    /// Makes durable all that was written, and waits for it.
    pub fn flush(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::blkdev_issue_flush(self.as_raw()) })
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; the claim ends here, before the holder goes.
        unsafe { bindings::bdev_fput(self.file.as_ptr()) };
    }
}
