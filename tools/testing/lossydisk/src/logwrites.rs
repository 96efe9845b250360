// SPDX-License-Identifier: GPL-2.0
//! The log of the kernel's device-mapper target log-writes: reading and writing it.
//!
//! Sector 0 holds the head; then each entry takes one sector, followed by the data that it wrote. A
//! discard has a length and no data; a flush has neither or both (a write with PREFLUSH: the flush
//! comes first). The length of a sector is the log's own and stands in its head. All numbers are
//! little-endian.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const HEAD_BYTES: usize = 28;
const ENTRY_BYTES: usize = 32;

const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
const KNOWN: u64 = (1 << 5) - 1;

/// The longest single write that is believed, in bytes: what is longer is damage.
const WRITE_MAX: u64 = 1 << 30;

/// One entry. Offsets and lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Everything that completed before is durable before this entry's data is written.
    pub flush: bool,
    /// The entry's data is durable when the next entry begins.
    pub fua: bool,
    /// What it did.
    pub action: Action,
}

/// What an entry did to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote this at this offset; nothing, for a mere flush.
    Write(u64, Vec<u8>),
    /// Dropped (offset, length).
    Discard(u64, u64),
    /// A mark that userspace set.
    Mark(String),
}

/// Reads a log entry by entry.
pub struct Reader<R> {
    input: R,
    sector: u64,
    left: u64,
    read: u64,
}

impl Reader<BufReader<File>> {
    /// Opens a log in a file or on a device.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(BufReader::with_capacity(1 << 20, File::open(path)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        input.read_exact(&mut head)?;
        let (magic, version) = (number(&head, 0), number(&head, 8));
        if magic != MAGIC || version != VERSION {
            return Err(damage(format!(
                "not a log of dm-log-writes version {VERSION}: magic {magic:#x}, version {version}"
            )));
        }
        let sector = u64::from(u32::from_le_bytes([head[24], head[25], head[26], head[27]]));
        if !(512..=65536).contains(&sector) || !sector.is_power_of_two() {
            return Err(damage(format!("sectors of {sector} bytes")));
        }
        let mut reader = Self {
            input,
            sector,
            left: number(&head, 16),
            read: 0,
        };
        reader.skip(sector - HEAD_BYTES as u64)?;
        Ok(reader)
    }

    /// Entries that the head promises.
    pub fn entries(&self) -> u64 {
        self.left + self.read
    }

    /// The next entry; `None` after the last one that the head counts.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut head = [0; ENTRY_BYTES];
        self.input.read_exact(&mut head)?;
        let (at, count) = (number(&head, 0), number(&head, 8));
        let (flags, inline) = (number(&head, 16), number(&head, 24));
        let index = self.read;
        let bytes = |sectors: u64| {
            sectors
                .checked_mul(self.sector)
                .ok_or_else(|| damage(format!("entry {index}: {sectors} sectors")))
        };
        let (offset, len) = (bytes(at)?, bytes(count)?);
        if flags & !KNOWN != 0 {
            return Err(damage(format!("entry {index}: flags {flags:#x}")));
        }
        let room = self.sector - ENTRY_BYTES as u64;
        let action = if flags & MARK != 0 {
            if inline > room {
                return Err(damage(format!("entry {index}: a mark of {inline} bytes")));
            }
            let mut text = vec![0; inline as usize];
            self.input.read_exact(&mut text)?;
            self.skip(room - inline)?;
            Action::Mark(String::from_utf8_lossy(&text).into_owned())
        } else if flags & DISCARD != 0 {
            self.skip(room)?;
            Action::Discard(offset, len)
        } else {
            if len > WRITE_MAX {
                return Err(damage(format!("entry {index}: a write of {len} bytes")));
            }
            self.skip(room)?;
            let mut data = vec![0; len as usize];
            self.input.read_exact(&mut data)?;
            Action::Write(offset, data)
        };
        self.left -= 1;
        self.read += 1;
        Ok(Some(Entry {
            flush: flags & FLUSH != 0,
            fua: flags & FUA != 0,
            action,
        }))
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        let mut waste = [0; 4096];
        while bytes > 0 {
            let part = bytes.min(waste.len() as u64) as usize;
            self.input.read_exact(&mut waste[..part])?;
            bytes -= part as u64;
        }
        Ok(())
    }
}

/// Writes a log with sectors of 512 bytes.
pub struct Writer<W: Write + Seek> {
    output: W,
    entries: u64,
}

impl Writer<BufWriter<File>> {
    /// Makes the file `path` anew.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::with_capacity(1 << 20, File::create(path)?))
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Starts a log.
    pub fn new(output: W) -> io::Result<Self> {
        let entries = 0;
        let mut writer = Self { output, entries };
        writer.head()?;
        Ok(writer)
    }

    fn head(&mut self) -> io::Result<()> {
        let mut head = [0; 512];
        head[..8].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..16].copy_from_slice(&VERSION.to_le_bytes());
        head[16..24].copy_from_slice(&self.entries.to_le_bytes());
        head[24..28].copy_from_slice(&512u32.to_le_bytes());
        self.output.seek(SeekFrom::Start(0))?;
        self.output.write_all(&head)?;
        self.output.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Adds an entry. It counts for readers only after [`Writer::sync`].
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let mut flags = 0;
        if entry.flush {
            flags |= FLUSH;
        }
        if entry.fua {
            flags |= FUA;
        }
        let (offset, len, data, text): (u64, u64, &[u8], &[u8]) = match &entry.action {
            Action::Write(offset, data) => (*offset, data.len() as u64, data, &[]),
            Action::Discard(offset, len) => {
                flags |= DISCARD;
                (*offset, *len, &[], &[])
            }
            Action::Mark(text) => {
                flags |= MARK;
                (0, 0, &[], text.as_bytes())
            }
        };
        let text = &text[..text.len().min(512 - ENTRY_BYTES)];
        let mut head = [0; 512];
        let fields = [offset / 512, len / 512, flags, text.len() as u64];
        for (place, field) in head.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        head[ENTRY_BYTES..ENTRY_BYTES + text.len()].copy_from_slice(text);
        self.output.write_all(&head)?;
        self.output.write_all(data)?;
        self.entries += 1;
        Ok(())
    }

    /// Writes the head, so that readers see all entries so far.
    pub fn sync(&mut self) -> io::Result<()> {
        self.head()?;
        self.output.flush()
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

fn damage(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn entry(flush: bool, fua: bool, action: Action) -> Entry {
        Entry { flush, fua, action }
    }

    fn sample() -> Vec<Entry> {
        vec![
            entry(false, false, Action::Write(4096, vec![3; 1024])),
            entry(false, false, Action::Discard(0, 1 << 40)),
            entry(true, false, Action::Write(0, Vec::new())),
            entry(true, true, Action::Write(512, vec![4; 512])),
            entry(false, false, Action::Mark("half way".into())),
        ]
    }

    fn log(entries: &[Entry]) -> Vec<u8> {
        let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
        for entry in entries {
            writer.add(entry).unwrap();
        }
        writer.sync().unwrap();
        writer.output.into_inner()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = log(&sample());
        let mut reader = Reader::new(&bytes[..]).unwrap();
        assert_eq!(reader.entries(), 5);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            found.push(entry);
        }
        assert_eq!(found, sample());
    }

    /// Laid out by hand, so that reader and writer cannot agree on a wrong layout.
    #[test]
    fn a_log_with_sectors_of_4096_bytes() {
        let mut bytes = vec![0; 4096 * 3];
        bytes[..8].copy_from_slice(b"rhswfsj\0");
        bytes[8] = 1;
        bytes[16] = 1;
        bytes[25] = 0x10;
        bytes[4096] = 5;
        bytes[4096 + 8] = 1;
        bytes[4096 + 16] = 2;
        bytes[8192..].fill(9);
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let expected = entry(false, true, Action::Write(5 * 4096, vec![9; 4096]));
        assert_eq!(reader.next_entry().unwrap(), Some(expected));
        assert_eq!(reader.next_entry().unwrap(), None);
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = log(&sample());
        for (at, value) in [(0, 0), (8, 2), (24, 3), (512 + 16, 0xff), (512 + 13, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let result = Reader::new(&bytes[..]).and_then(|mut reader| {
                while reader.next_entry()?.is_some() {}
                Ok(())
            });
            assert!(result.is_err(), "byte {at}");
        }
        let mut reader = Reader::new(&bytes[..1000]).unwrap();
        assert!(reader.next_entry().is_err());
    }
}
