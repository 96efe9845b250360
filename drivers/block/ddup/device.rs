// SPDX-License-Identifier: GPL-2.0

//! One attached device: `/dev/ddupN` with what is behind it.
//!
//! A [`Device`] is owned by the list in [`crate::control`]. Attach opens the backing device
//! exclusively and makes the disk last, when all behind it works; detach goes the other way: no
//! disk, so no requests; then the store, so no bios; then the backing device.

use crate::{
    attributes,
    content::{Fingerprinter, BLOCK_SIZE},
    control, debugfs,
    engine::{FailReason, VolumeInfo},
    error::{refuse, Refusal},
    passthrough::{self, Passthrough},
    queue::{Queue, Volume},
    store::{self, Store},
    uapi,
};
use core::fmt::Write;
use kernel::{
    prelude::*,
    str::{CStr, CString},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use kstage::{
    block::{
        bdev::BlockDevice,
        mq::{Disk, Limits, TagSet},
    },
    debugfs::{Directory, Root},
    genetlink::Message,
    mm,
    workqueue::OwnedQueue,
};

/// Smallest backing device of a pass-through device.
const PASSTHROUGH_BYTES_MIN: u64 = 1 << 20;

/// Requests in flight per hardware queue.
const QUEUE_DEPTH: u32 = 128;

/// Hardware queues at most: all of their requests together are what the engine takes at once.
const HW_QUEUES_MAX: u32 = store::SLOTS / QUEUE_DEPTH;

/// Largest read or write.
const MAX_BYTES: u32 = crate::engine::types::REQUEST_BLOCKS_MAX * BLOCK_SIZE;

/// Largest discard or write of zeroes: what the block layer can express.
const MAX_RANGE_BYTES: u32 = u32::MAX - (BLOCK_SIZE - 1);

/// Memory for pages of the trees, if an attach does not say.
const CACHE_BYTES: u64 = 64 << 20;

/// Memory for the index for each cluster of the store, if an attach does not say: room for twice the
/// fingerprints that there can be.
const INDEX_BYTES_PER_CLUSTER: u64 = 16;

/// The most that the index takes then.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Bounds of both.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// What an attach asks for.
pub(crate) struct Options<'a> {
    /// N of `/dev/ddupN`.
    pub(crate) index: u32,
    /// Of the backing device.
    pub(crate) path: &'a CStr,
    /// Write nothing to the backing device.
    pub(crate) read_only: bool,
    /// Map one to one.
    pub(crate) passthrough: bool,
    /// Memory for pages of the trees.
    pub(crate) cache_bytes: Option<u64>,
    /// Memory for the index.
    pub(crate) index_bytes: Option<u64>,
    /// Where stores work.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Where devices show their state.
    pub(crate) debugfs: Arc<Root>,
}

/// A volume of an attached store.
struct Attached {
    /// Goes before what it shows.
    state: Directory<Store>,
    disk: Disk<Queue>,
    store: Arc<Store>,
    /// Of the volume in the store.
    slot: u32,
    /// Number of the volume.
    volume: u32,
    volume_uuid: [u8; 16],
    /// Size of the disk.
    bytes: Atomic<u64>,
    cache_bytes: u64,
    index_bytes: u64,
}

/// What is behind a device.
enum Kind {
    Passthrough(Disk<Passthrough>),
    Store(Attached),
}

/// What a device is known by.
pub(crate) struct Identity {
    /// N of `/dev/ddupN`.
    pub(crate) index: u32,
    /// `ddupN`.
    pub(crate) name: CString,
    /// Of the backing device, as given.
    pub(crate) path: CString,
    /// Of the store, if there is one.
    pub(crate) uuid: Option<[u8; 16]>,
}

impl Identity {
    pub(crate) fn try_clone(&self) -> Result<Identity> {
        Ok(Identity {
            index: self.index,
            name: CString::try_from(&*self.name)?,
            path: CString::try_from(&*self.path)?,
            uuid: self.uuid,
        })
    }

    /// Adds it to a message.
    pub(crate) fn put(&self, message: &mut Message<'_>) -> Result {
        message.put_u32(uapi::DDUP_A_DEVICE_INDEX, self.index)?;
        message.put_string(uapi::DDUP_A_DEVICE_NAME, &self.name)?;
        message.put_string(uapi::DDUP_A_DEVICE_PATH, &self.path)?;
        if let Some(uuid) = &self.uuid {
            message.put_bytes(uapi::DDUP_A_DEVICE_STORE_UUID, uuid)?;
        }
        Ok(())
    }
}

/// An attached device.
pub(crate) struct Device {
    kind: Kind,
    backing: Arc<BlockDevice>,
    identity: Identity,
    read_only: bool,
}

/// What the devices of a store's volumes share.
pub(crate) struct Family {
    pub(crate) store: Arc<Store>,
    backing: Arc<BlockDevice>,
    path: CString,
    read_only: bool,
    cache_bytes: u64,
    index_bytes: u64,
    debugfs: Arc<Root>,
}

impl Family {
    /// Makes the device `index` of the volume in `slot`. May sleep.
    pub(crate) fn device(&self, index: u32, slot: u32) -> Result<KBox<Device>, Refusal> {
        let name = CString::try_from_fmt(fmt!("ddup{index}"))?;
        let path = CString::try_from(&*self.path)?;
        let (disk, volume) = add_disk(&name, &self.store, slot, self.read_only)?;
        let device = Device {
            kind: Kind::Store(Attached {
                state: show_state(&self.debugfs, &name, &self.store)?,
                disk,
                store: self.store.clone(),
                slot,
                volume: volume.id,
                volume_uuid: volume.uuid,
                bytes: Atomic::new(volume.blocks * u64::from(BLOCK_SIZE)),
                cache_bytes: self.cache_bytes,
                index_bytes: self.index_bytes,
            }),
            backing: self.backing.clone(),
            identity: Identity {
                index,
                name,
                path,
                uuid: self.store.uuid(),
            },
            read_only: self.read_only,
        };

        Ok(KBox::new(device, GFP_KERNEL)?)
    }
}

impl Device {
    /// Attaches a device. May sleep, for as long as recovery takes.
    pub(crate) fn attach(options: &Options<'_>) -> Result<Device, Refusal> {
        let name = CString::try_from_fmt(fmt!("ddup{}", options.index))?;
        let path = CString::try_from(options.path)?;
        let backing = Arc::new(open(options)?, GFP_KERNEL)?;
        let (kind, uuid) = if options.passthrough {
            (attach_passthrough(options, &name, &backing)?, None)
        } else {
            let attached = attach_store(options, &name, &backing)?;
            let uuid = attached.store.uuid();

            (Kind::Store(attached), uuid)
        };

        Ok(Device {
            kind,
            backing,
            identity: Identity {
                index: options.index,
                name,
                path,
                uuid,
            },
            read_only: options.read_only,
        })
    }

    /// What other volumes of its store are made devices with.
    pub(crate) fn family(&self) -> Result<Family, Refusal> {
        let Kind::Store(attached) = &self.kind else {
            return Err(EINVAL.into());
        };

        Ok(Family {
            store: attached.store.clone(),
            backing: self.backing.clone(),
            path: CString::try_from(&*self.identity.path)?,
            read_only: self.read_only,
            cache_bytes: attached.cache_bytes,
            index_bytes: attached.index_bytes,
            debugfs: attached.state.root().clone(),
        })
    }

    /// Removes the disk: fails its I/O if it is still open, and waits for what is under way. May
    /// sleep.
    pub(crate) fn remove_disk(self, force: bool) -> Identity {
        match self.kind {
            Kind::Passthrough(disk) => {
                if force {
                    disk.mark_dead();
                }
            }
            Kind::Store(attached) => {
                drop(attached.state);
                if force {
                    attached.disk.mark_dead();
                }
            }
        }
        self.identity
    }

    /// Whether both are volumes of one store.
    pub(crate) fn shares_store(&self, store: &Arc<Store>) -> bool {
        self.store().is_some_and(|own| Arc::ptr_eq(own, store))
    }

    /// Slot and size in bytes of the volume. May sleep.
    pub(crate) fn volume(&self) -> Option<(u32, u64)> {
        match &self.kind {
            Kind::Passthrough(_) => None,
            Kind::Store(attached) => {
                let info = attached.store.volume(attached.slot)?;

                Some((attached.slot, info.blocks * u64::from(BLOCK_SIZE)))
            }
        }
    }

    /// Slot and number of the volume that it was made for, and its own size in bytes.
    pub(crate) fn shows(&self) -> Option<(u32, u32, u64)> {
        match &self.kind {
            Kind::Passthrough(_) => None,
            Kind::Store(attached) => {
                Some((attached.slot, attached.volume, attached.bytes.load(Relaxed)))
            }
        }
    }

    /// Changes the size of the block device. May sleep.
    pub(crate) fn set_size(&self, bytes: u64) {
        if let Kind::Store(attached) = &self.kind {
            attached.bytes.store(bytes, Relaxed);
            attached.disk.set_capacity_bytes(bytes);
        }
    }

    /// Tells userspace that it can be read and written from now on, or not any more. May sleep.
    pub(crate) fn announce_change(&self) {
        if let Kind::Store(attached) = &self.kind {
            attached.disk.announce_change();
        }
    }

    /// Whether somebody has it open.
    pub(crate) fn is_open(&self) -> bool {
        match &self.kind {
            Kind::Passthrough(disk) => disk.openers() > 0,
            Kind::Store(attached) => attached.disk.openers() > 0,
        }
    }

    /// Whether writes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Takes opens again after [`close_if_idle`](Self::close_if_idle). May sleep.
    pub(crate) fn reopen(&self) {
        match &self.kind {
            Kind::Passthrough(disk) => disk.reopen(),
            Kind::Store(attached) => attached.disk.reopen(),
        }
    }

    /// If nobody has it open, refuses opens from here on and returns true. May sleep.
    pub(crate) fn close_if_idle(&self) -> bool {
        match &self.kind {
            Kind::Passthrough(disk) => disk.close_if_idle(),
            Kind::Store(attached) => attached.disk.close_if_idle(),
        }
    }

    /// The store behind it, if there is one.
    pub(crate) fn store(&self) -> Option<&Arc<Store>> {
        match &self.kind {
            Kind::Passthrough(_) => None,
            Kind::Store(attached) => Some(&attached.store),
        }
    }

    /// What it is known by.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Why the store failed, if it did. May sleep.
    pub(crate) fn failure(&self) -> Option<FailReason> {
        match &self.kind {
            Kind::Passthrough(_) => None,
            Kind::Store(attached) => attached.store.failure(),
        }
    }

    /// Adds why the device failed, if it did. May sleep.
    pub(crate) fn put_failure(&self, message: &mut Message<'_>) -> Result<bool> {
        if self.backing.is_dead() {
            message.put_u32(uapi::DDUP_A_DEVICE_FAILURE, uapi::DDUP_FAILURE_DEVICE_GONE)?;
            message.put_string(
                uapi::DDUP_A_DEVICE_MESSAGE,
                c"the backing device was removed",
            )?;
            return Ok(true);
        }
        let Some(reason) = self.failure() else {
            return Ok(false);
        };

        put_failure(reason, message)?;
        Ok(true)
    }

    /// Adds all that is known of it. May sleep.
    pub(crate) fn describe(&self, message: &mut Message<'_>) -> Result {
        let devt = self.backing.devt();

        self.identity.put(message)?;
        message.put_u32(uapi::DDUP_A_DEVICE_BACKING_MAJOR, devt >> 20)?;
        message.put_u32(uapi::DDUP_A_DEVICE_BACKING_MINOR, devt & 0xf_ffff)?;
        if self.read_only {
            message.put_flag(uapi::DDUP_A_DEVICE_READ_ONLY)?;
        }
        let failed = self.put_failure(message)?;
        message.put_u32(
            uapi::DDUP_A_DEVICE_STATE,
            match (failed, self.read_only) {
                (true, _) => uapi::DDUP_STATE_FAILED,
                (false, true) => uapi::DDUP_STATE_READ_ONLY,
                (false, false) if self.store().is_some_and(|s| !s.serves()) => {
                    uapi::DDUP_STATE_REPLICA
                }
                (false, false) => uapi::DDUP_STATE_ONLINE,
            },
        )?;
        match &self.kind {
            Kind::Passthrough(_) => message.put_uint(
                uapi::DDUP_A_DEVICE_SIZE,
                passthrough::capacity_bytes(self.backing.size_bytes()),
            ),
            Kind::Store(attached) => {
                message.put_uint(uapi::DDUP_A_DEVICE_CACHE_BYTES, attached.cache_bytes)?;
                message.put_uint(uapi::DDUP_A_DEVICE_INDEX_BYTES, attached.index_bytes)?;
                message.put_u32(uapi::DDUP_A_DEVICE_VOLUME, attached.volume)?;
                message.put_bytes(uapi::DDUP_A_DEVICE_VOLUME_UUID, &attached.volume_uuid)?;
                if let Some(volume) = attached.store.volume(attached.slot) {
                    let bytes = |blocks| blocks * u64::from(BLOCK_SIZE);

                    message.put_uint(uapi::DDUP_A_DEVICE_SIZE, bytes(volume.blocks))?;
                    if volume.releasing > 0 {
                        let left = bytes(volume.releasing);

                        message.put_uint(uapi::DDUP_A_DEVICE_RELEASING_BYTES, left)?;
                    }
                }
                if let Some(report) = attached.store.last_check() {
                    report.put(message)?;
                    if report.done {
                        message.put_flag(uapi::DDUP_A_DEVICE_CHECK_DONE)?;
                    }
                }
                if let Some(report) = attached.store.scrub_report() {
                    control::put_report(&report, message)?;
                }
                message.put_nested(uapi::DDUP_A_DEVICE_COUNTERS, |message| {
                    attributes::put_counters(&attached.store.counters(), message)
                })
            }
        }
    }
}

/// Makes a device that maps one to one.
fn attach_passthrough(
    options: &Options<'_>,
    name: &CStr,
    backing: &Arc<BlockDevice>,
) -> Result<Kind, Refusal> {
    let size = backing.size_bytes();

    if size < PASSTHROUGH_BYTES_MIN {
        return Err(refuse!(
            EINVAL,
            Some(uapi::DDUP_A_DEVICE_PATH),
            "the backing device has {size} bytes, and needs {PASSTHROUGH_BYTES_MIN}"
        ));
    }
    Ok(Kind::Passthrough(passthrough::add(
        name,
        backing.clone(),
        options.read_only,
    )?))
}

/// Memory that an attach asks for, or a default. More than half of the RAM is refused.
fn memory(wish: Option<u64>, default: u64, attr: u32) -> Result<u64, Refusal> {
    let max = mm::ram_bytes() / 2;

    match wish {
        None => Ok(default),
        Some(bytes) if bytes < MEMORY_BYTES_MIN => Err(refuse!(
            EINVAL,
            Some(attr),
            "{bytes} bytes are too few: give at least {MEMORY_BYTES_MIN}"
        )),
        Some(bytes) if bytes > max => Err(refuse!(
            EINVAL,
            Some(attr),
            "{bytes} bytes are too many: give {max} (half of the RAM) at most"
        )),
        Some(bytes) => Ok(bytes),
    }
}

/// Memory for the index of a store of so many bytes, if an attach does not say.
fn index_bytes_of(store_bytes: u64) -> u64 {
    let clusters = store_bytes / u64::from(BLOCK_SIZE);

    (clusters * INDEX_BYTES_PER_CLUSTER).clamp(MEMORY_BYTES_MIN, INDEX_BYTES_MAX)
}

/// Attaches a store and makes the disk of its first volume.
fn attach_store(
    options: &Options<'_>,
    name: &CStr,
    backing: &Arc<BlockDevice>,
) -> Result<Attached, Refusal> {
    let path = Some(uapi::DDUP_A_DEVICE_PATH);
    let cache_bytes = memory(
        options.cache_bytes,
        CACHE_BYTES,
        uapi::DDUP_A_DEVICE_CACHE_BYTES,
    )?;
    let index_bytes = memory(
        options.index_bytes,
        index_bytes_of(backing.size_bytes()),
        uapi::DDUP_A_DEVICE_INDEX_BYTES,
    )?;
    if backing.limits().logical_block_size > BLOCK_SIZE {
        return Err(refuse!(
            EINVAL,
            path,
            "blocks of {} bytes are too large: 4096 at most",
            backing.limits().logical_block_size
        ));
    }

    let store = Store::attach(
        backing.clone(),
        options.queue.clone(),
        &store::Options {
            read_only: options.read_only,
            cache_bytes,
            index_bytes,
        },
    )?
    .map_err(refuse_store)?;

    let uuid = store.uuid().unwrap_or_default();

    let first = (0..store.volume_slots()).find(|slot| store.volume(*slot).is_some());

    control::claim(options.index, uuid)
        .and_then(|()| first.ok_or_else(|| refuse!(ENOENT, None, "the store has no volume")))
        .and_then(|slot| {
            let (disk, volume) = add_disk(name, &store, slot, options.read_only)?;

            Ok(Attached {
                state: show_state(&options.debugfs, name, &store)?,
                disk,
                store: store.clone(),
                slot,
                volume: volume.id,
                volume_uuid: volume.uuid,
                bytes: Atomic::new(volume.blocks * u64::from(BLOCK_SIZE)),
                cache_bytes,
                index_bytes,
            })
        })
        .inspect_err(|_| {
            store.clone().detach();
        })
}

/// Makes the files that show the state of a store for the device `name`.
fn show_state(root: &Arc<Root>, name: &CStr, store: &Arc<Store>) -> Result<Directory<Store>> {
    Directory::new(root.clone(), name, store.clone(), debugfs::FILES)
}

/// Makes the disk of the volume in `slot`.
fn add_disk(
    name: &CStr,
    store: &Arc<Store>,
    slot: u32,
    read_only: bool,
) -> Result<(Disk<Queue>, VolumeInfo), Refusal> {
    let volume = store
        .volume(slot)
        .ok_or_else(|| refuse!(ENOENT, None, "there is no such volume"))?;
    let params = store.fingerprint().ok_or(EINVAL)?;
    let fingerprinter = Fingerprinter::new(params);
    let bytes = volume
        .blocks
        .checked_mul(u64::from(BLOCK_SIZE))
        .ok_or(EOVERFLOW)?;
    let limits = Limits {
        capacity_bytes: bytes,
        logical_block_size: BLOCK_SIZE,
        physical_block_size: BLOCK_SIZE,
        io_min: BLOCK_SIZE,
        io_opt: 0,
        max_bytes: MAX_BYTES,
        max_segments: kstage::block::bio::MAX_SEGMENTS,
        max_discard_bytes: MAX_RANGE_BYTES,
        discard_granularity: BLOCK_SIZE,
        max_write_zeroes_bytes: MAX_RANGE_BYTES,
        write_cache: true,
        fua: true,
        // Writes are copied.
        stable_writes: false,
        rotational: store.device().limits().rotational,
        read_only,
    };
    let tags = TagSet::new(kernel::cpu::nr_cpu_ids().min(HW_QUEUES_MAX), QUEUE_DEPTH, 0)?;
    let data = Arc::new(
        Volume {
            store: store.clone(),
            slot,
            number: volume.id,
            fingerprinter,
        },
        GFP_KERNEL,
    )?;
    let disk = Disk::add(
        name,
        tags,
        &limits,
        data,
        Some((c"ddup", attributes::FILES)),
    )?;

    Ok((disk, volume))
}

/// Says why a store cannot be attached.
fn refuse_store(reason: FailReason) -> Refusal {
    let error = match reason {
        FailReason::Memory => ENOMEM,
        FailReason::Read(_) | FailReason::Journal | FailReason::Flush => EIO,
        FailReason::ReadOnlyFeatures(_) => EROFS,
        _ => EINVAL,
    };
    let mut refusal = refuse!(error, Some(uapi::DDUP_A_DEVICE_PATH), "");

    // Cannot fail: too long a message is cut.
    let _ = write!(refusal, "{reason}");
    pr_err!("cannot attach: {}\n", format_args!("{reason}"));
    refusal
}

/// Adds why a store failed.
pub(crate) fn put_failure(reason: FailReason, message: &mut Message<'_>) -> Result {
    let text = CString::try_from_fmt(format_args!("{reason}"))?;

    message.put_u32(uapi::DDUP_A_DEVICE_FAILURE, failure_number(reason))?;
    message.put_string(uapi::DDUP_A_DEVICE_MESSAGE, &text)
}

/// The number of a failure in messages.
fn failure_number(reason: FailReason) -> u32 {
    match reason {
        FailReason::Read(_) | FailReason::Journal | FailReason::Checkpoint | FailReason::Flush => {
            uapi::DDUP_FAILURE_DEVICE_ERROR
        }
        FailReason::Memory | FailReason::Promise | FailReason::Overrun => {
            uapi::DDUP_FAILURE_INTERNAL
        }
        _ => uapi::DDUP_FAILURE_DAMAGED,
    }
}

/// Opens the backing device, and says why if it cannot.
fn open(options: &Options<'_>) -> Result<BlockDevice, Refusal> {
    let path = Some(uapi::DDUP_A_DEVICE_PATH);

    BlockDevice::open(options.path, !options.read_only).map_err(|error| match error {
        ENOENT => refuse!(error, path, "nothing is at that path"),
        ENOTBLK => refuse!(
            error,
            path,
            "not a block device: attach a regular file through a loop device"
        ),
        EBUSY => refuse!(
            error,
            path,
            "in use: it is mounted, attached or held by another driver"
        ),
        EACCES => refuse!(
            error,
            path,
            "no access: if the device is read-only, attach it read-only"
        ),
        ENXIO => refuse!(error, path, "there is no such device any more"),
        _ => refuse!(
            error,
            path,
            "the backing device cannot be opened: {error:?}"
        ),
    })
}
