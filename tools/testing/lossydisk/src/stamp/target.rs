// SPDX-License-Identifier: GPL-2.0
//! What a workload is run on: a block device, or the files of a folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fallocate, FallocateFlags, OFlags};
use rustix::io::{pwritev2, Errno, ReadWriteFlags};

use crate::rng::{mix, Rng};
use crate::stamp::BLOCK;

/// Something that holds numbered blocks of [`BLOCK`] bytes. Called from several threads at once, never
/// for the same block.
pub trait Target: Sync {
    /// Reads blocks from `block` on. What was never written or was dropped reads as zeroes.
    fn read(&self, block: u64, out: &mut Aligned) -> io::Result<()>;
    /// Writes blocks; with `sync` they are durable on return.
    fn write(&self, block: u64, data: &Aligned, sync: bool) -> io::Result<()>;
    /// Makes blocks read as zeroes, without giving up their space.
    fn zero(&self, block: u64, count: u64) -> io::Result<()>;
    /// Drops blocks, which then read as zeroes.
    fn discard(&self, block: u64, count: u64) -> io::Result<()>;
    /// Makes what `thread` did durable; see [`Target::flush_is_for_all`].
    fn flush(&self, thread: u64) -> io::Result<()>;
    /// Whether a flush makes durable what any thread did before it.
    fn flush_is_for_all(&self) -> bool;
}

/// Bytes whose first one lies at a multiple of [`BLOCK`] in memory, as direct I/O wants it.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeroes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + BLOCK];
        let from = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, from, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

/// A block device or file, past the page cache where that is possible.
pub struct Direct {
    file: File,
    size: u64,
    is_device: bool,
}

impl Direct {
    /// Opens `path`. A file, unlike a device, is made or grown to `at_least` bytes, if that is given.
    pub fn open(path: &Path, at_least: Option<u64>) -> io::Result<Self> {
        let is_device = fs::metadata(path).is_ok_and(|data| data.file_type().is_block_device());
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(false);
        options.create(at_least.is_some() && !is_device);
        let direct = options
            .clone()
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path);
        let mut file = match direct {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                options.open(path)?
            }
            other => other?,
        };
        let mut size = file.seek(SeekFrom::End(0))?;
        if let Some(wanted) = at_least.filter(|&wanted| wanted > size && !is_device) {
            file.set_len(wanted)?;
            size = wanted;
        }
        Ok(Self {
            file,
            size,
            is_device,
        })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads at a multiple of [`BLOCK`].
    pub fn read(&self, offset: u64, out: &mut Aligned) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// Writes at a multiple of [`BLOCK`].
    pub fn write(&self, offset: u64, data: &Aligned) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Makes what was written durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Target for Direct {
    fn read(&self, block: u64, out: &mut Aligned) -> io::Result<()> {
        Direct::read(self, block * BLOCK as u64, out)
    }

    fn write(&self, block: u64, data: &Aligned, sync: bool) -> io::Result<()> {
        let offset = block * BLOCK as u64;
        if !sync {
            return Direct::write(self, offset, data);
        }
        let slices = [io::IoSlice::new(data)];
        let count = pwritev2(&self.file, &slices, offset, ReadWriteFlags::DSYNC)?;
        if count < data.len() {
            return Err(io::Error::other(format!(
                "wrote {count} of {} bytes",
                data.len()
            )));
        }
        Ok(())
    }

    fn zero(&self, block: u64, count: u64) -> io::Result<()> {
        let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let (offset, len) = (block * BLOCK as u64, count * BLOCK as u64);
        Ok(fallocate(&self.file, mode, offset, len)?)
    }

    fn discard(&self, block: u64, count: u64) -> io::Result<()> {
        let (offset, len) = (block * BLOCK as u64, count * BLOCK as u64);
        if self.is_device {
            return discard_device(&self.file, offset, len);
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, mode, offset, len)?)
    }

    fn flush(&self, _: u64) -> io::Result<()> {
        self.sync()
    }

    fn flush_is_for_all(&self) -> bool {
        true
    }
}

/// BLKDISCARD.
fn discard_device(file: &File, offset: u64, len: u64) -> io::Result<()> {
    const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
    // SAFETY: BLKDISCARD reads a pair of u64 (offset and length in bytes) through its argument, which
    // is what `Setter` hands over; it keeps no pointer.
    unsafe {
        let discard = rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([offset, len]);
        Ok(rustix::ioctl::ioctl(file, discard)?)
    }
}

/// The longest file in blocks.
const FILE_BLOCKS: u64 = 32;

/// A folder in a file system: block n is a file of 1 to 32 blocks, whose rest follows from the first
/// one. A write replaces the file as careful programs do: a new file, fsync, rename. What reads
/// as zeroes is no file. A flush is the fsync of the thread's folder.
pub struct Files {
    folder: PathBuf,
    threads: Vec<Folder>,
    thread_of: Box<dyn Fn(u64) -> Option<u64> + Sync>,
}

struct Folder {
    path: PathBuf,
    handle: File,
}

impl Files {
    /// Uses `folder`, with one folder below it for each of `threads`; `thread_of` says which thread
    /// has which block.
    pub fn open(
        folder: &Path,
        threads: u64,
        thread_of: Box<dyn Fn(u64) -> Option<u64> + Sync>,
    ) -> io::Result<Self> {
        let threads = (0..threads)
            .map(|thread| {
                let path = folder.join(format!("thread-{thread}"));
                fs::create_dir_all(&path)?;
                let handle = File::open(&path)?;
                Ok(Folder { path, handle })
            })
            .collect::<io::Result<Vec<_>>>()?;
        // The folders themselves must not be what is lost.
        File::open(folder)?.sync_all()?;
        Ok(Self {
            folder: folder.to_owned(),
            threads,
            thread_of,
        })
    }

    fn folder(&self, block: u64) -> &Path {
        match (self.thread_of)(block) {
            Some(thread) => &self.threads[thread as usize].path,
            None => &self.folder,
        }
    }

    fn remove(&self, block: u64, count: u64) -> io::Result<()> {
        for block in block..block + count {
            match fs::remove_file(self.folder(block).join(block.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a file holds whose first block is `first`.
fn expand(first: &[u8]) -> Vec<u8> {
    let mut sum = first.chunks_exact(8).fold(0u64, |sum, chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word))
    });
    sum = mix(sum);
    let mut out = first.to_vec();
    out.resize((1 + sum % FILE_BLOCKS) as usize * BLOCK, 0);
    Rng::new(sum).fill(&mut out[BLOCK..]);
    out
}

impl Target for Files {
    fn read(&self, block: u64, out: &mut Aligned) -> io::Result<()> {
        for (block, out) in (block..).zip(out.chunks_exact_mut(BLOCK)) {
            let path = self.folder(block).join(block.to_string());
            let data = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    out.fill(0);
                    continue;
                }
                other => other?,
            };
            let whole = data.get(..BLOCK).is_some_and(|first| expand(first) == data);
            if whole {
                out.copy_from_slice(&data[..BLOCK]);
            } else {
                // Nothing that was ever written.
                eprintln!(
                    "stamp: {}: {} bytes that don't follow from its head",
                    path.display(),
                    data.len()
                );
                out.fill(0xee);
            }
        }
        Ok(())
    }

    fn write(&self, block: u64, data: &Aligned, sync: bool) -> io::Result<()> {
        for (block, data) in (block..).zip(data.chunks_exact(BLOCK)) {
            if data.iter().all(|&byte| byte == 0) {
                self.remove(block, 1)?;
                continue;
            }
            let path = self.folder(block).join(block.to_string());
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(&expand(data))?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
        }
        match (self.thread_of)(block) {
            Some(thread) if sync => self.flush(thread),
            _ => Ok(()),
        }
    }

    fn zero(&self, block: u64, count: u64) -> io::Result<()> {
        self.remove(block, count)
    }

    fn discard(&self, block: u64, count: u64) -> io::Result<()> {
        self.remove(block, count)
    }

    fn flush(&self, thread: u64) -> io::Result<()> {
        self.threads[thread as usize].handle.sync_all()
    }

    fn flush_is_for_all(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn block(byte: u8) -> Aligned {
        let mut out = Aligned::new(BLOCK);
        out.fill(byte);
        out
    }

    fn exercise(target: &dyn Target) {
        let read = |number| {
            let mut out = block(1);
            target.read(number, &mut out).unwrap();
            assert!(out.iter().all(|&byte| byte == out[0]));
            out[0]
        };
        assert_eq!(read(3), 0);
        target.write(3, &block(7), false).unwrap();
        target.write(4, &block(8), true).unwrap();
        assert_eq!((read(3), read(4)), (7, 8));
        target.discard(3, 1).unwrap();
        target.zero(4, 1).unwrap();
        assert_eq!((read(3), read(4)), (0, 0));
        target.write(3, &block(9), true).unwrap();
        target.write(3, &block(0), false).unwrap();
        assert_eq!(read(3), 0);
        target.flush(0).unwrap();
    }

    #[test]
    fn a_file_holds_blocks() {
        let scratch = Scratch::new("target-file");
        let target = Direct::open(&scratch.path("disk"), Some(1 << 20)).unwrap();
        assert_eq!(target.size(), 1 << 20);
        exercise(&target);
        assert!(Direct::open(&scratch.path("none"), None).is_err());
    }

    #[test]
    fn a_folder_holds_blocks_and_a_cut_file_is_noticed() {
        let scratch = Scratch::new("target-files");
        let target = Files::open(scratch.folder(), 2, Box::new(|block| Some(block % 2))).unwrap();
        exercise(&target);
        let file = scratch.path("thread-1/5");
        let mut lengths = Vec::new();
        for byte in 1..9 {
            target.write(5, &block(byte), true).unwrap();
            lengths.push(fs::metadata(&file).unwrap().len());
        }
        lengths.dedup();
        assert!(lengths.len() > 4, "{lengths:?}");
        let length = fs::metadata(&file).unwrap().len();
        let cut = OpenOptions::new().write(true).open(&file).unwrap();
        cut.set_len(length - 1).unwrap();
        let mut out = Aligned::new(BLOCK);
        target.read(5, &mut out).unwrap();
        assert_eq!(out[0], 0xee);
    }
}
