// SPDX-License-Identifier: GPL-2.0

//! A disk under `/dev`.
//!
//! Upstream replacement: `kernel::block::mq::gen_disk`.

use super::{Operations, TagSet};
use crate::{
    bindings,
    block::SECTOR_SHIFT,
    sysfs::{self, DiskGroup},
};
use core::ptr::NonNull;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    str::CStr,
    sync::{Arc, ArcBorrow},
    types::Opaque,
};

/// What a disk can do, in bytes unless named otherwise. All can be changed before a disk is made.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Capacity, a multiple of `logical_block_size`.
    pub capacity_bytes: u64,
    /// Smallest unit of I/O: a power of two, 512 to the page size.
    pub logical_block_size: u32,
    /// Smallest unit that is written without a read.
    pub physical_block_size: u32,
    /// Preferred smallest I/O.
    pub io_min: u32,
    /// Preferred I/O, 0 if there is none.
    pub io_opt: u32,
    /// Largest read or write.
    pub max_bytes: u32,
    /// Largest number of contiguous pieces in a request.
    pub max_segments: u16,
    /// Largest discard, 0 for none.
    pub max_discard_bytes: u32,
    /// Unit of discards.
    pub discard_granularity: u32,
    /// Largest write of zeroes, 0 for none.
    pub max_write_zeroes_bytes: u32,
    /// Writes may be volatile until a flush.
    pub write_cache: bool,
    /// Writes can be made durable one by one. Needs `write_cache`.
    pub fua: bool,
    /// Pages under write-back must not change.
    pub stable_writes: bool,
    /// Seeks are dear.
    pub rotational: bool,
    /// Writes are refused.
    pub read_only: bool,
}

impl Limits {
    fn to_raw(self) -> bindings::queue_limits {
        let mut raw: bindings::queue_limits = pin_init::zeroed();

        raw.logical_block_size = self.logical_block_size;
        raw.physical_block_size = self.physical_block_size;
        raw.io_min = self.io_min;
        raw.io_opt = self.io_opt;
        raw.max_hw_sectors = self.max_bytes >> SECTOR_SHIFT;
        raw.max_segments = self.max_segments;
        // Any piece that fits the whole: pages may be contiguous.
        raw.max_segment_size = self.max_bytes;
        raw.max_hw_discard_sectors = self.max_discard_bytes >> SECTOR_SHIFT;
        raw.discard_granularity = self.discard_granularity;
        raw.max_write_zeroes_sectors = self.max_write_zeroes_bytes >> SECTOR_SHIFT;
        for (set, feature) in [
            (self.write_cache, bindings::KSTAGE_FEAT_WRITE_CACHE),
            (self.fua, bindings::KSTAGE_FEAT_FUA),
            (self.stable_writes, bindings::KSTAGE_FEAT_STABLE_WRITES),
            (self.rotational, bindings::KSTAGE_FEAT_ROTATIONAL),
        ] {
            if set {
                raw.features |= feature;
            }
        }
        raw
    }
}

/// Reached from C by `private_data`.
#[repr(C)]
struct State {
    /// No more opens. Written under the disk's `open_mutex`, by C.
    closing: Opaque<bool>,
}

/// # Safety
///
/// Called by the block layer only, under `open_mutex`, for a live disk of [`Disk<T>`].
unsafe extern "C" fn open<T: Operations>(
    disk: *mut bindings::gendisk,
    mode: bindings::blk_mode_t,
) -> c_int {
    // SAFETY: `private_data` points to a `State` until `del_gendisk()` has made the disk dead, for
    // which it takes `open_mutex`.
    let closing = unsafe {
        let state: *const State = bindings::kstage_disk_private(disk).cast();

        core::ptr::read_volatile((*state).closing.get())
    };
    if closing {
        return ENXIO.to_errno();
    }

    // SAFETY: For as long as the disk is alive its queue has data from `Arc::into_raw`.
    let data = unsafe { ArcBorrow::from_raw((*(*disk).queue).queuedata.cast()) };

    match T::open(data, mode & bindings::KSTAGE_OPEN_WRITE != 0) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// A disk. Dropping it removes it: waits for its requests, fails later ones. May sleep.
///
/// # Invariants
///
/// - `raw` was made with the tag set `tags`, has been added, and refers to `state`.
/// - The queue's data is a pointer from `Arc::into_raw` whose reference `self` owns.
pub struct Disk<T: Operations> {
    raw: NonNull<bindings::gendisk>,
    // Dropped after the disk is gone.
    _group: Option<DiskGroup<T::QueueData>>,
    state: Pin<KBox<State>>,
    _tags: Arc<TagSet<T>>,
}

// SAFETY: Disks may be removed by any thread; queue data is `Send` and `Sync`.
unsafe impl<T: Operations> Send for Disk<T> {}
// SAFETY: As above; the methods by shared reference are locked by the block layer.
unsafe impl<T: Operations> Sync for Disk<T> {}

/// A disk that is being made: `put_disk()` and give back its data unless it is taken out.
struct Unfinished<T: Operations> {
    raw: NonNull<bindings::gendisk>,
    data: *const T::QueueData,
}

impl<T: Operations> Drop for Unfinished<T> {
    fn drop(&mut self) {
        // SAFETY: The disk was allocated and not added, and `data` came from `Arc::into_raw`.
        unsafe {
            bindings::put_disk(self.raw.as_ptr());
            drop(Arc::from_raw(self.data));
        }
    }
}

impl<T: Operations> Disk<T> {
    /// The C table of all disks of this kind.
    const FOPS: bindings::block_device_operations = bindings::block_device_operations {
        open: Some(open::<T>),
        // Without an owner a module could be unloaded while its disks are open.
        owner: crate::this_module(),
        // SAFETY: All other members are optional pointers, for which zero is None.
        ..unsafe { core::mem::zeroed() }
    };

    /// Makes a disk and shows it to the world; requests come from here on. `name` is at most 31
    /// bytes. `attributes` appear in the directory `group` of the disk in sysfs. May sleep.
    pub fn add(
        name: &CStr,
        tags: Arc<TagSet<T>>,
        limits: &Limits,
        data: Arc<T::QueueData>,
        group: Option<(&'static CStr, sysfs::Lists<T::QueueData>)>,
    ) -> Result<Disk<T>> {
        let group = match group {
            Some((name, attributes)) => Some(DiskGroup::new(name, attributes)?),
            None => None,
        };
        let state = KBox::pin(
            State {
                closing: Opaque::new(false),
            },
            GFP_KERNEL,
        )?;
        let mut raw_limits = limits.to_raw();
        let data = data.into_raw();

        // SAFETY: The tag set is valid, and the limits are.
        let raw = from_err_ptr(unsafe {
            bindings::kstage_disk_alloc(tags.as_raw(), &mut raw_limits, data.cast_mut().cast())
        });
        let raw = match raw {
            // SAFETY: Not NULL, as it is no error.
            Ok(raw) => unsafe { NonNull::new_unchecked(raw) },
            Err(err) => {
                // SAFETY: `data` came from `Arc::into_raw`.
                drop(unsafe { Arc::from_raw(data) });
                return Err(err);
            }
        };
        let unfinished = Unfinished::<T> { raw, data };
        let disk = raw.as_ptr();

        // SAFETY: The disk is ours alone until it is added.
        let disk_name = unsafe { &mut (*disk).disk_name };
        let name = name.to_bytes_with_nul();
        disk_name
            .get_mut(..name.len())
            .ok_or(EINVAL)?
            .copy_from_slice(name);

        // SAFETY: The disk is ours alone; `state`, the table and the groups live until it is gone.
        unsafe {
            (*disk).fops = &Self::FOPS;
            (*disk).private_data = (&raw const *state).cast_mut().cast();
            bindings::set_capacity(disk, limits.capacity_bytes >> SECTOR_SHIFT);
            bindings::kstage_disk_set_ro(disk, limits.read_only);
            to_result(bindings::device_add_disk(
                core::ptr::null_mut(),
                disk,
                group
                    .as_ref()
                    .map_or(core::ptr::null_mut(), |group| group.as_raw()),
            ))?;
        }
        core::mem::forget(unfinished);

        // INVARIANT: All of it was just done.
        Ok(Disk {
            raw,
            _group: group,
            state,
            _tags: tags,
        })
    }

    /// What all requests of the disk share.
    pub fn data(&self) -> ArcBorrow<'_, T::QueueData> {
        // SAFETY: By the type invariant.
        unsafe { ArcBorrow::from_raw((*(*self.raw.as_ptr()).queue).queuedata.cast()) }
    }

    /// Number of times that the disk is open, mounted or used by another device.
    pub fn openers(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_disk_openers(self.raw.as_ptr()) }
    }

    /// If nobody has the disk open: refuses opens from here on (`ENXIO`) and returns true. May
    /// sleep.
    pub fn close_if_idle(&self) -> bool {
        // SAFETY: By the type invariant; `closing` is only used under the lock taken there.
        unsafe { bindings::kstage_disk_close_if_idle(self.raw.as_ptr(), self.state.closing.get()) }
    }

    /// Takes opens again after [`close_if_idle`](Self::close_if_idle). May sleep.
    pub fn reopen(&self) {
        // SAFETY: As above.
        unsafe { bindings::kstage_disk_reopen(self.raw.as_ptr(), self.state.closing.get()) };
    }

    /// Tells users that the disk is dead, and fails all I/O that is not yet with the driver. May
    /// sleep.
    pub fn mark_dead(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::blk_mark_disk_dead(self.raw.as_ptr()) };
    }

    /// Changes the capacity, and tells userspace. May sleep.
    pub fn set_capacity_bytes(&self, bytes: u64) {
        // SAFETY: By the type invariant.
        unsafe {
            bindings::kstage_disk_set_capacity(self.raw.as_ptr(), bytes >> SECTOR_SHIFT);
        }
    }

    /// Tells userspace to look at the disk again; partitions are looked for with the next open. May
    /// sleep.
    pub fn announce_change(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_disk_changed(self.raw.as_ptr()) };
    }

    /// Changes whether writes are refused. May sleep.
    pub fn set_read_only(&self, read_only: bool) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kstage_disk_set_ro(self.raw.as_ptr(), read_only) };
    }
}

impl<T: Operations> Drop for Disk<T> {
    fn drop(&mut self) {
        let disk = self.raw.as_ptr();

        // SAFETY: By the type invariant. After `del_gendisk()` no request is in flight or comes,
        // no attribute is shown or stored and no open succeeds, so nobody uses the queue's data.
        unsafe {
            let data: *const T::QueueData = (*(*disk).queue).queuedata.cast();

            bindings::del_gendisk(disk);
            bindings::put_disk(disk);
            drop(Arc::from_raw(data));
        }
    }
}
