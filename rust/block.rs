// SPDX-License-Identifier: GPL-2.0

//! Block layer: what its three sides share.
//!
//! - [`mq`]: to be a disk (requests come in).
//! - [`bio`]: to use a disk (bios go out).
//! - [`bdev`]: to open one.
//!
//! Upstream replacement: `kernel::block`.

pub mod bdev;
pub mod bio;
pub mod mq;

use crate::bindings;
use kernel::prelude::*;

/// Bytes of a sector, the unit of positions in the block layer whatever the device's block size.
pub const SECTOR_SIZE: u32 = 512;

/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;

/// Why a request or bio failed; C `blk_status_t` other than `BLK_STS_OK`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(u8);

impl Status {
    /// The operation is not supported by the device.
    pub const NOTSUPP: Status = Status(bindings::KSTAGE_STS_NOTSUPP);
    /// The device did not answer in time.
    pub const TIMEOUT: Status = Status(bindings::KSTAGE_STS_TIMEOUT);
    /// No space is left for what was to be written.
    pub const NOSPC: Status = Status(bindings::KSTAGE_STS_NOSPC);
    /// The target failed for good; another path would not help.
    pub const TARGET: Status = Status(bindings::KSTAGE_STS_TARGET);
    /// The medium lost the data.
    pub const MEDIUM: Status = Status(bindings::KSTAGE_STS_MEDIUM);
    /// The data does not match its checksum.
    pub const PROTECTION: Status = Status(bindings::KSTAGE_STS_PROTECTION);
    /// The system is short of a resource, such as memory.
    pub const RESOURCE: Status = Status(bindings::KSTAGE_STS_RESOURCE);
    /// Any other failure.
    pub const IOERR: Status = Status(bindings::KSTAGE_STS_IOERR);
    /// The device is gone or being taken away.
    pub const OFFLINE: Status = Status(bindings::KSTAGE_STS_OFFLINE);
    /// Size or alignment is not valid.
    pub const INVAL: Status = Status(bindings::KSTAGE_STS_INVAL);

    /// From a C status: `Ok` for `BLK_STS_OK`.
    #[inline]
    pub(crate) fn from_raw(status: u8) -> Result<(), Status> {
        match status {
            0 => Ok(()),
            status => Err(Status(status)),
        }
    }

    /// As a C status.
    #[inline]
    pub(crate) fn to_raw(result: Result<(), Status>) -> u8 {
        match result {
            Ok(()) => 0,
            Err(status) => status.0,
        }
    }

    /// The nearest errno. Any context.
    pub fn to_error(self) -> Error {
        // SAFETY: A pure table look-up for any value.
        Error::from_errno(unsafe { bindings::kstage_status_to_errno(self.0) })
    }
}

impl From<Error> for Status {
    fn from(err: Error) -> Self {
        // SAFETY: A pure table look-up for any value.
        match unsafe { bindings::kstage_errno_to_status(err.to_errno()) } {
            0 => Status::IOERR,
            status => Status(status),
        }
    }
}

/// The operation of a request or bio; C `enum req_op`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make durable all that was acknowledged before. Carries no data and no range.
    Flush,
    /// The range is not needed any more. Carries no data.
    Discard,
    /// The range shall read as zeroes. Carries no data.
    WriteZeroes,
    /// An operation that this crate has no name for, by its C number.
    Other(u32),
}

impl Op {
    /// The operation in C flags (`cmd_flags`, `bi_opf`).
    #[inline]
    pub(crate) fn from_raw(flags: u32) -> Op {
        match flags & ((1 << bindings::REQ_OP_BITS) - 1) {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_FLUSH => Op::Flush,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
            op => Op::Other(op),
        }
    }

    /// As C flags. A bio's flush is an empty write with `PREFLUSH`.
    #[inline]
    pub(crate) fn to_bio_raw(self) -> u32 {
        match self {
            Op::Read => bindings::req_op_REQ_OP_READ,
            Op::Write => bindings::req_op_REQ_OP_WRITE,
            Op::Flush => bindings::req_op_REQ_OP_WRITE | bindings::KSTAGE_REQ_PREFLUSH,
            Op::Discard => bindings::req_op_REQ_OP_DISCARD,
            Op::WriteZeroes => bindings::req_op_REQ_OP_WRITE_ZEROES,
            Op::Other(op) => op,
        }
    }
}

/// Modifiers of an operation; C `enum req_flag_bits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpFlags(u32);

impl OpFlags {
    /// None.
    pub const NONE: OpFlags = OpFlags(0);
    /// Somebody waits for it.
    pub const SYNC: OpFlags = OpFlags(bindings::KSTAGE_REQ_SYNC);
    /// Metadata.
    pub const META: OpFlags = OpFlags(bindings::KSTAGE_REQ_META);
    /// More urgent than others.
    pub const PRIO: OpFlags = OpFlags(bindings::KSTAGE_REQ_PRIO);
    /// More such I/O will follow soon.
    pub const IDLE: OpFlags = OpFlags(bindings::KSTAGE_REQ_IDLE);
    /// Durable when it completes.
    pub const FUA: OpFlags = OpFlags(bindings::KSTAGE_REQ_FUA);
    /// Before it, make durable all that completed before it was submitted.
    pub const PREFLUSH: OpFlags = OpFlags(bindings::KSTAGE_REQ_PREFLUSH);
    /// Zeroes must keep their space.
    pub const NOUNMAP: OpFlags = OpFlags(bindings::KSTAGE_REQ_NOUNMAP);

    /// What a stacked device hands on to the device below it.
    const INHERITED: u32 =
        Self::SYNC.0 | Self::META.0 | Self::PRIO.0 | Self::IDLE.0 | Self::FUA.0 | Self::NOUNMAP.0;

    #[inline]
    pub(crate) fn from_raw(flags: u32) -> OpFlags {
        OpFlags(flags & (Self::INHERITED | Self::PREFLUSH.0))
    }

    pub(crate) fn to_raw(self) -> u32 {
        self.0
    }

    /// What says how urgent it is, and nothing of what it does: for the I/O that another I/O causes.
    #[inline]
    pub fn hints(self) -> OpFlags {
        OpFlags(self.0 & (Self::SYNC.0 | Self::META.0 | Self::PRIO.0 | Self::IDLE.0))
    }

    /// Whether all of `flags` are set.
    #[inline]
    pub fn contains(self, flags: OpFlags) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl core::ops::BitOr for OpFlags {
    type Output = OpFlags;

    fn bitor(self, other: OpFlags) -> OpFlags {
        OpFlags(self.0 | other.0)
    }
}
