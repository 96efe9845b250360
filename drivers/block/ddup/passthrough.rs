// SPDX-License-Identifier: GPL-2.0

//! A device that maps one to one to its backing device, without copies and without a format.
//!
//! It is not for use but for measuring: what it takes over the raw device is the cost of the block
//! layer under us, which a store cannot go below. Each request goes down as one bio with the pages
//! of the request, in the context that brought it.

use kernel::{
    prelude::*,
    str::CStr,
    sync::{Arc, ArcBorrow},
};
use kstage::{
    block::{
        bdev::BlockDevice,
        bio::{self, BioSet, Completed, EndIo},
        mq::{self, Disk, Limits, Request, TagSet},
        Op, Status,
    },
    mm::Wait,
};

/// Unit of I/O, as for stores.
const BLOCK_SIZE: u32 = 4096;

/// Largest read or write: what fits one bio if no two pages are neighbours.
const MAX_BYTES: u32 = bio::MAX_SEGMENTS as u32 * BLOCK_SIZE;

/// Largest discard or write of zeroes.
const MAX_RANGE_BYTES: u32 = 1 << 30;

/// Requests in flight per hardware queue.
const QUEUE_DEPTH: u32 = 128;

/// Bios that are there even when memory is not.
const BIO_RESERVE: u16 = 64;

/// What requests of one device share.
pub(crate) struct Shared {
    bios: BioSet<Io>,
}

/// Makes the disk `name` over `device`, which is not written to if `read_only`. May sleep.
pub(crate) fn add(
    name: &CStr,
    device: Arc<BlockDevice>,
    read_only: bool,
) -> Result<Disk<Passthrough>> {
    let below = device.limits();
    let limits = Limits {
        capacity_bytes: capacity_bytes(below.size_bytes),
        logical_block_size: BLOCK_SIZE,
        physical_block_size: BLOCK_SIZE.max(below.physical_block_size),
        io_min: BLOCK_SIZE.max(below.io_min),
        io_opt: below.io_opt,
        max_bytes: MAX_BYTES,
        max_segments: bio::MAX_SEGMENTS,
        max_discard_bytes: if below.max_discard_sectors > 0 {
            MAX_RANGE_BYTES
        } else {
            0
        },
        discard_granularity: BLOCK_SIZE.max(below.discard_granularity),
        max_write_zeroes_bytes: if below.max_write_zeroes_sectors > 0 {
            MAX_RANGE_BYTES
        } else {
            0
        },
        write_cache: below.write_cache,
        fua: below.fua,
        stable_writes: false,
        rotational: below.rotational,
        read_only,
    };
    let tags = TagSet::new(kernel::cpu::nr_cpu_ids(), QUEUE_DEPTH, 0)?;
    let shared = Arc::new(
        Shared {
            bios: BioSet::new(device, BIO_RESERVE, ())?,
        },
        GFP_KERNEL,
    )?;

    Disk::add(name, tags, &limits, shared, None)
}

/// Whole blocks of a device of `size` bytes.
pub(crate) fn capacity_bytes(size: u64) -> u64 {
    size & !u64::from(BLOCK_SIZE - 1)
}

/// The block driver.
pub(crate) struct Passthrough;

impl mq::Operations for Passthrough {
    type QueueData = Shared;
    type RequestData = ();

    fn new_request_data() -> Result {
        Ok(())
    }

    fn queue_rq(
        shared: ArcBorrow<'_, Shared>,
        request: Request<Self>,
        _last: bool,
    ) -> Result<(), Request<Self>> {
        let (op, flags, sector, bytes) = (
            request.op(),
            request.flags(),
            request.sector(),
            request.bytes(),
        );
        let (op, segments) = match op {
            Op::Read | Op::Write => (op, request.segment_count()),
            Op::Discard | Op::WriteZeroes => (op, 0),
            Op::Flush => (op, 0),
            Op::Other(_) => {
                request.end(Err(Status::NOTSUPP));
                return Ok(());
            }
        };

        // Memory may come back only with requests that wait behind this one, so don't wait for it.
        let mut bio = shared
            .bios
            .alloc(op, flags, sector, segments, Io(request), Wait::No)
            .map_err(|io| io.0)?;

        if segments > 0 {
            if bio.add_request(|io| Some(&*io.0), 0, bytes) != bytes {
                // More pieces than the limits allow: dropping the bio fails the request.
                return Ok(());
            }
        } else {
            bio.set_bytes(sector, bytes);
        }
        bio.submit();
        Ok(())
    }
}

/// Context of a bio: the request that it does.
pub(crate) struct Io(Request<Passthrough>);

impl EndIo for Io {
    type Shared = ();

    fn end_io(bio: Completed<Self>, _shared: &()) {
        let result = bio.result();

        bio.into_context().0.end(result);
    }
}
