// SPDX-License-Identifier: GPL-2.0

//! System calls that `std` has no words for.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const BLKROGET: libc::c_ulong = 0x125E;
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// The loop device is not written to.
pub const LO_FLAGS_READ_ONLY: u32 = 1;
/// The loop device goes when its last opener closes it.
pub const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The loop device bypasses the page cache if the file allows it.
pub const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

const EMPTY_LOOP_INFO: LoopInfo = LoopInfo {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// `struct loop_config` of the kernel.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// The lowest number of a loop device that is free; one is made if none is.
pub fn loop_get_free(control: &File) -> io::Result<u32> {
    // SAFETY: The request takes no argument and touches no memory of ours.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts the loop device before `backing`, with LO_FLAGS_* and the name that `losetup` shows.
pub fn loop_configure(device: &File, backing: RawFd, flags: u32, name: &[u8]) -> io::Result<()> {
    let mut info = LoopInfo {
        flags,
        ..EMPTY_LOOP_INFO
    };
    // The last byte stays zero.
    for (to, from) in info.file_name[..63].iter_mut().zip(name) {
        *to = *from;
    }
    let config = LoopConfig {
        fd: u32::try_from(backing).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: The request reads a `struct loop_config`, which `config` is laid out as.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &config) };
    check(result)
}

/// Device and inode number of the file behind a loop device; `None` if it has none.
pub fn loop_backing(device: &File) -> io::Result<Option<(u64, u64)>> {
    let mut info = EMPTY_LOOP_INFO;
    // SAFETY: The request writes a `struct loop_info64`, which `info` is laid out as, and any
    // bytes are a valid one.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, &mut info) };
    match check(result) {
        Ok(()) => Ok(Some((info.device, info.inode))),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Size of a block device in bytes.
pub fn block_device_size(device: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: The request writes a 64-bit number.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64 as _, &mut bytes) })?;
    Ok(bytes)
}

/// Whether a block device is read-only.
pub fn block_device_read_only(device: &File) -> io::Result<bool> {
    let mut read_only: libc::c_int = 0;
    // SAFETY: The request writes an `int`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET as _, &mut read_only) })?;
    Ok(read_only != 0)
}

/// Lets a closed pipe end the process as it ends other tools, instead of a panic in `println!`.
pub fn die_of_closed_pipe() {
    // SAFETY: No handler is installed, and nothing runs beside this yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Ends a socket for all who wait in it.
pub fn shut(socket: BorrowedFd<'_>) {
    // SAFETY: The descriptor is open as long as it is borrowed; no memory is involved.
    unsafe {
        libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR);
    }
}

/// Keeps all memory of this process, as it comes to be used, from being written to swap.
pub fn lock_memory() -> io::Result<()> {
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: The call changes no memory and no mapping that a program could see.
    check(unsafe { libc::mlockall(flags) })
}

/// Lets memory that this thread and those that it starts ask for be made free without I/O.
pub fn be_io_flusher() -> io::Result<()> {
    // SAFETY: The request takes numbers alone.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) })
}

/// Milliseconds since boot, those in which the machine slept included.
pub fn boottime_ms() -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for a write.
    check(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) })?;
    let milliseconds = time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
    u64::try_from(milliseconds).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// An ioctl result as a [`Result`](io::Result).
fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
