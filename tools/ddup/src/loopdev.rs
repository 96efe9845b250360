// SPDX-License-Identifier: GPL-2.0

//! Loop devices before regular files.
//!
//! A loop device made here clears itself when its last opener closes it. While a store is attached
//! the driver has it open, so it goes with `detach`, and at once if attaching fails.

use crate::{
    error::{Error, Exit, Result},
    sys,
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

/// The major number of loop devices.
pub const MAJOR: u32 = 7;

/// Times that another process may take the free loop device before us.
const RETRIES: u32 = 100;

/// A loop device that is open. It clears itself once neither this nor the driver holds it.
pub struct LoopDevice {
    /// Path of the loop device.
    pub path: PathBuf,
    _open: File,
}

/// Puts a loop device before the regular file `file`, unless there is one.
pub fn attach(file: &Path, read_only: bool) -> Result<LoopDevice> {
    if let Some(other) = find(file)? {
        return Err(Error::new(
            Exit::Busy,
            format!(
                "the file is behind {} already: use that device, or free the file with \
                 `losetup -d {}`",
                other.display(),
                other.display()
            ),
        ));
    }
    let backing = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(file)
        .map_err(|error| Error::io("open", file, &error))?;
    let control_path = Path::new("/dev/loop-control");
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(control_path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                Exit::NotLoaded,
                "a regular file needs the loop driver, which is not loaded: `modprobe loop`",
            ),
            _ => Error::io("open", control_path, &error),
        })?;
    let read_only_flag = if read_only {
        sys::LO_FLAGS_READ_ONLY
    } else {
        0
    };
    let flags = sys::LO_FLAGS_AUTOCLEAR | sys::LO_FLAGS_DIRECT_IO | read_only_flag;
    for _ in 0..RETRIES {
        let number = sys::loop_get_free(&control)
            .map_err(|error| Error::io("get a free loop device from", control_path, &error))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = match OpenOptions::new().read(true).write(!read_only).open(&path) {
            Ok(device) => device,
            // Removed between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io("open", &path, &error)),
        };
        let name = file.as_os_str().as_bytes();
        match sys::loop_configure(&device, backing.as_raw_fd(), flags, name) {
            Ok(()) => {
                return Ok(LoopDevice {
                    path,
                    _open: device,
                })
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => {
                return Err(Error::io("put a loop device before", file, &error));
            }
        }
    }
    Err(Error::new(
        Exit::Busy,
        format!("no loop device stayed free for {}", file.display()),
    ))
}

/// The loop device before `file`, if any.
pub fn find(file: &Path) -> Result<Option<PathBuf>> {
    let wanted = fs::metadata(file).map_err(|error| Error::io("find", file, &error))?;
    let wanted = (wanted.dev(), wanted.ino());
    let Ok(entries) = fs::read_dir("/sys/block") else {
        return Ok(None);
    };
    for entry in entries.flatten() {
        let is_bound = entry.path().join("loop/backing_file").exists();
        if !is_bound {
            continue;
        }
        let path = Path::new("/dev").join(entry.file_name());
        if backing_file(&path) == Some(wanted) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Device and inode number of the file behind the loop device at `path`.
pub fn backing_file(path: &Path) -> Option<(u64, u64)> {
    sys::loop_backing(&File::open(path).ok()?).ok()?
}

/// Path of the file behind the loop device with this major and minor number, if it is one.
pub fn file_behind((major, minor): (u32, u32)) -> Option<String> {
    if major != MAJOR {
        return None;
    }
    let path = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
    let text = fs::read(path).ok()?;
    Some(
        String::from_utf8_lossy(&text)
            .trim_end_matches('\n')
            .to_owned(),
    )
}
