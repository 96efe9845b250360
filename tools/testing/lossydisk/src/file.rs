// SPDX-License-Identifier: GPL-2.0
//! The medium in a file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{fallocate, FallocateFlags};

use crate::disk::{Medium, SECTOR};

/// Opens `path` as a medium of `size` bytes, makes it if it is not there, and gives its size. Without
/// `size` the file must exist and have one.
///
/// The host is trusted not to crash: nothing is ever synced to the host's own disk.
pub fn open(path: &Path, size: Option<u64>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(size.is_some())
        .truncate(false)
        .open(path)?;
    let length = file.metadata()?.len();
    let size = match size {
        Some(size) if length == 0 => {
            file.set_len(size)?;
            size
        }
        Some(size) if size != length => {
            return Err(io::Error::other(format!(
                "it holds {length} bytes and not {size}: leave out --size, or remove the file"
            )))
        }
        _ => length,
    };
    if size == 0 || size % SECTOR != 0 {
        return Err(io::Error::other(format!(
            "a disk of {size} bytes: the size must be a multiple of {SECTOR} above 0 (use --size)"
        )));
    }
    Ok((file, size))
}

impl Medium for File {
    fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&*self, punch, offset, len) {
            Err(error) if error == rustix::io::Errno::OPNOTSUPP => {
                zero_by_writing(self, offset, len)
            }
            result => Ok(result?),
        }
    }
}

fn zero_by_writing(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    let zeroes = vec![0; len.min(1 << 20) as usize];
    while len > 0 {
        let part = len.min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..part as usize], offset)?;
        offset += part;
        len -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn size_is_made_kept_and_checked() {
        let scratch = Scratch::new("file-size");
        let path = scratch.path("disk");
        assert!(open(&path, None).is_err());
        assert_eq!(open(&path, Some(1 << 20)).unwrap().1, 1 << 20);
        assert_eq!(open(&path, None).unwrap().1, 1 << 20);
        let error = open(&path, Some(2 << 20)).unwrap_err().to_string();
        assert!(error.contains("1048576"), "{error}");
        assert!(open(&scratch.path("odd"), Some(1000)).is_err());
    }

    #[test]
    fn zeroes_are_zeroes_both_ways() {
        let scratch = Scratch::new("file-zero");
        let (mut file, _) = open(&scratch.path("disk"), Some(1 << 20)).unwrap();
        for by_writing in [false, true] {
            Medium::write_at(&mut file, &[7; 8192], 4096).unwrap();
            if by_writing {
                zero_by_writing(&file, 4608, 512).unwrap();
            } else {
                file.zero_at(4608, 512).unwrap();
            }
            let mut out = [0; 1536];
            Medium::read_at(&mut file, &mut out, 4096).unwrap();
            assert!(out[..512].iter().all(|&b| b == 7));
            assert!(out[512..1024].iter().all(|&b| b == 0));
            assert!(out[1024..].iter().all(|&b| b == 7));
        }
    }
}
