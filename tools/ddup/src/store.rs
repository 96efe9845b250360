// SPDX-License-Identifier: GPL-2.0

//! Stores that are not attached: opened so that nobody else uses them meanwhile.

use crate::{
    error::{describe, Error, Exit, Result},
    loopdev, sys,
    target::device_number,
};
use ddup_engine::engine::format::superblock::Superblock;
use kernel::prelude::KBox;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Bytes of a cluster.
pub const CLUSTER: u64 = 4096;

/// A block device or regular file that nobody else uses.
pub struct Device {
    file: File,
    /// Its size in bytes.
    pub size: u64,
}

impl Device {
    /// Opens it, for writing as well if `write`.
    pub fn open(path: &Path, write: bool) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| open_error(&error))?;
        let file_type = metadata.file_type();
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        if file_type.is_block_device() {
            if write {
                refuse_read_only(path)?;
            }
            // Of a block device this is a claim that excludes file systems and other drivers.
            options.custom_flags(libc::O_EXCL);
        } else if file_type.is_file() {
            if let Some(other) = loopdev::find(path)? {
                return Err(Error::new(
                    Exit::Busy,
                    format!(
                        "the file is behind {}: use that device, or free the file with \
                         `losetup -d {}`",
                        other.display(),
                        other.display()
                    ),
                ));
            }
        } else {
            let what = if file_type.is_dir() {
                "a directory"
            } else {
                "no block device"
            };
            return Err(Error::new(
                Exit::Failed,
                format!("it is {what}: give a block device or a regular file"),
            ));
        }
        let file = options.open(path).map_err(|error| {
            if error.raw_os_error() == Some(libc::EBUSY) {
                in_use(metadata.rdev())
            } else {
                open_error(&error)
            }
        })?;
        let size = if file_type.is_block_device() {
            sys::block_device_size(&file)
        } else {
            Ok(metadata.len())
        };
        let size = size.map_err(|error| open_error(&error))?;
        Ok(Self { file, size })
    }

    /// Whole clusters.
    pub fn clusters(&self) -> u64 {
        self.size / CLUSTER
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads a cluster, or several.
    pub fn read(&self, cluster: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset(cluster)?)
    }

    /// Writes clusters.
    pub fn write(&self, cluster: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset(cluster)?)
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn offset(cluster: u64) -> io::Result<u64> {
    cluster
        .checked_mul(CLUSTER)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn open_error(error: &io::Error) -> Error {
    Error::new(
        Exit::from_errno(error.raw_os_error().unwrap_or(0)),
        describe(error),
    )
}

fn refuse_read_only(path: &Path) -> Result {
    let read_only = File::open(path).and_then(|file| sys::block_device_read_only(&file));
    if read_only.unwrap_or(false) {
        return Err(Error::new(
            Exit::Failed,
            "the device is read-only: `blockdev --setrw`, or use another one",
        ));
    }
    Ok(())
}

/// Says who has the device, as far as that can be found out.
fn in_use(number: u64) -> Error {
    let (major, minor) = device_number(number);
    let text = match mount_point(major, minor) {
        Some(folder) => format!("the device is mounted on {folder}: unmount it first"),
        None => match holders(major, minor).as_slice() {
            [] => "the device is in use: it is attached, or another program has claimed it".into(),
            names => format!("the device is in use by {}", names.join(", ")),
        },
    };
    Error::new(Exit::Busy, text)
}

/// Where the device is mounted.
fn mount_point(major: u32, minor: u32) -> Option<String> {
    let number = format!("{major}:{minor}");
    fs::read_to_string("/proc/self/mountinfo")
        .ok()?
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&number.as_str()))
        .and_then(|fields| fields.get(4).map(|folder| (*folder).to_owned()))
}

/// The devices that are stacked on it.
fn holders(major: u32, minor: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect()
}

/// The UUID of the store at `path`, if one of the first superblocks is intact.
pub fn uuid_of(path: &Path) -> Option<[u8; 16]> {
    Some(superblock_of(path).ok()??.uuid)
}

/// One of the first superblocks of the store at `path`; `None` if none is intact. Whoever uses the
/// device is not disturbed.
pub fn superblock_of(path: &Path) -> io::Result<Option<Superblock>> {
    let file = File::open(path)?;
    let mut block = [0; CLUSTER as usize];
    for slot in 0..2 {
        match file.read_exact_at(&mut block, slot * CLUSTER) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        if let Ok(superblock) = Superblock::read(&block, hash) {
            return Ok(Some(KBox::into_inner(superblock)));
        }
    }
    Ok(None)
}

/// The hash of all metadata.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// Random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Error::io("read", path, &error))?;
    Ok(bytes)
}

/// A random UUID (version 4).
pub fn random_uuid() -> Result<[u8; 16]> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_xxh64() {
        assert_eq!(hash(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"abc", 0), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn uuids_are_random_and_say_so() {
        let (a, b) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a[6] >> 4, a[8] >> 6), (4, 2));
    }

    #[test]
    fn what_is_no_device_and_no_file_is_refused() {
        for (path, words) in [
            ("/", "a directory"),
            ("/dev/null", "no block device"),
            ("/nowhere/store", "No such file"),
        ] {
            let Err(error) = Device::open(Path::new(path), true) else {
                panic!("{path} was opened");
            };
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
