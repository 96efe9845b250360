// SPDX-License-Identifier: GPL-2.0
//! The disk: a medium behind a volatile write cache.
//!
//! What a client writes is *pending* until a flush puts it on the medium. Each pending write keeps a
//! sequence number and its own copy of the data, so that after a power cut any subset of them may
//! be found on the medium, whole or torn at sectors:
//!
//! - `pending` holds the writes themselves, older versions of a sector too;
//! - `newest` says which pending write a read of a sector sees;
//! - `settled` says which write of a sector reached the medium since the last flush, by FUA or
//!   because the cache was full. Older writes of that sector can never come back.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;

use crate::extent::ExtentMap;
use crate::rng::Rng;

/// Bytes of a sector: what is written whole or not at all.
pub const SECTOR: u64 = 512;

/// What a pending write costs in memory beside its data, in bytes (an estimate).
const PENDING_OVERHEAD: u64 = 160;

/// A torn range of zeroes falls apart into at most this many pieces.
const ZERO_PIECES: u64 = 8;

/// Where durable data lives. All offsets and lengths are bytes and multiples of [`SECTOR`].
pub trait Medium: Send {
    /// Fills `out` from `offset`.
    fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes `data` at `offset`.
    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes `len` bytes at `offset` read as zeroes.
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

/// What TRIM does to the content of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// The range reads as zeroes.
    Zeroes,
    /// Each piece of the range reads as zeroes or keeps its old content, by seed.
    Mixed,
    /// The range keeps its old content.
    Keep,
}

/// What a disk is made with.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Size in bytes, a multiple of [`SECTOR`].
    pub size: u64,
    /// Decides what each power cut keeps.
    pub seed: u64,
    /// Pending writes above so many bytes are written out in part, as a real disk does.
    pub cache_bytes: u64,
    /// What TRIM does.
    pub trim: Trim,
    /// FLUSH and FUA are acknowledged and do nothing: a disk that lies.
    pub ignore_flush: bool,
}

impl DiskOptions {
    /// An honest disk of `size` bytes with 256 MiB of cache.
    pub fn new(size: u64, seed: u64) -> Self {
        Self {
            size,
            seed,
            cache_bytes: 256 << 20,
            trim: Trim::Zeroes,
            ignore_flush: false,
        }
    }
}

enum Data {
    Bytes(Box<[u8]>),
    Zeroes,
}

struct Pending {
    sectors: Range<u64>,
    data: Data,
}

impl Pending {
    /// The bytes of the sectors `part`, which lie in this write; `None` for zeroes.
    fn bytes(&self, part: &Range<u64>) -> Option<&[u8]> {
        let Data::Bytes(data) = &self.data else {
            return None;
        };
        let from = ((part.start - self.sectors.start) * SECTOR) as usize;
        let to = ((part.end - self.sectors.start) * SECTOR) as usize;
        Some(&data[from..to])
    }

    fn cost(&self) -> u64 {
        PENDING_OVERHEAD
            + match &self.data {
                Data::Bytes(data) => data.len() as u64,
                Data::Zeroes => 0,
            }
    }
}

/// How a power cut chooses. One is drawn for each cut, since even odds for every write would
/// hardly ever keep all but one, or lose all that is old and keep all that is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Kept, dropped and torn are equally likely.
    Even,
    /// Nine of ten are kept.
    KeepMost,
    /// Nine of ten are dropped.
    DropMost,
    /// All are dropped.
    DropAll,
    /// All are kept but one.
    DropOne,
    /// Up to a point most are kept, after it most are dropped: the disk wrote in order.
    OldKept,
    /// Up to a point most are dropped, after it most are kept: the disk wrote the newest first.
    NewKept,
}

const MOODS: [Mood; 7] = [
    Mood::Even,
    Mood::KeepMost,
    Mood::DropMost,
    Mood::DropAll,
    Mood::DropOne,
    Mood::OldKept,
    Mood::NewKept,
];

enum Fate {
    Kept,
    Dropped,
    Torn,
}

/// What a power cut did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutReport {
    /// Counts the cuts of this disk, from 1.
    pub number: u64,
    /// The disk's seed.
    pub seed: u64,
    /// How it chose.
    pub mood: Mood,
    /// Writes that were kept whole.
    pub kept: u64,
    /// Writes that were lost.
    pub dropped: u64,
    /// Writes of which a part was kept.
    pub torn: u64,
    /// Sectors of the writes that were kept, also of those that a later one covers.
    pub sectors_kept: u64,
    /// Sectors that were lost.
    pub sectors_lost: u64,
}

impl fmt::Display for CutReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "power cut {} seed {} mood {:?}: kept {} dropped {} torn {} writes, kept {} lost {} sectors",
            self.number,
            self.seed,
            self.mood,
            self.kept,
            self.dropped,
            self.torn,
            self.sectors_kept,
            self.sectors_lost
        )
    }
}

/// A disk with a volatile write cache.
pub struct Disk<M> {
    medium: M,
    options: DiskOptions,
    /// Draws what is written out early and what a mixed trim does.
    rng: Rng,
    cuts: u64,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    pending_bytes: u64,
    newest: ExtentMap,
    settled: ExtentMap,
}

impl<M: Medium> Disk<M> {
    /// Puts an empty cache before `medium`.
    pub fn new(medium: M, options: DiskOptions) -> Self {
        Self {
            rng: Rng::new(options.seed).fork(u64::MAX),
            medium,
            options,
            cuts: 0,
            next: 1,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            newest: ExtentMap::new(),
            settled: ExtentMap::new(),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.options.size
    }

    /// Bytes of memory that pending writes take.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Number of pending writes.
    pub fn pending_writes(&self) -> usize {
        self.pending.len()
    }

    /// Whether FLUSH and FUA are ignored from now on.
    pub fn set_ignore_flush(&mut self, ignore: bool) {
        self.options.ignore_flush = ignore;
    }

    /// The medium as it is without the cache.
    pub fn medium(&self) -> &M {
        &self.medium
    }

    /// The medium, for one that can do more.
    pub fn medium_mut(&mut self) -> &mut M {
        &mut self.medium
    }

    fn sectors(&self, offset: u64, len: u64) -> io::Result<Range<u64>> {
        let end = offset.checked_add(len);
        if offset % SECTOR != 0 || len % SECTOR != 0 {
            return Err(invalid(format!(
                "{len} bytes at {offset}: not a multiple of {SECTOR}"
            )));
        }
        match end {
            Some(end) if end <= self.options.size => Ok(offset / SECTOR..end / SECTOR),
            _ => Err(invalid(format!(
                "{len} bytes at {offset}: beyond the end at {}",
                self.options.size
            ))),
        }
    }

    /// Reads what was last written, pending or not.
    pub fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let range = self.sectors(offset, out.len() as u64)?;
        for (part, newest) in self.newest.pieces(range.clone()) {
            let from = ((part.start - range.start) * SECTOR) as usize;
            let to = ((part.end - range.start) * SECTOR) as usize;
            let out = &mut out[from..to];
            match newest.map(|seq| &self.pending[&seq]) {
                None => self.medium.read_at(out, part.start * SECTOR)?,
                Some(write) => match write.bytes(&part) {
                    Some(data) => out.copy_from_slice(data),
                    None => out.fill(0),
                },
            }
        }
        Ok(())
    }

    /// Writes `data`; with `fua` it is on the medium before this returns.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let sectors = self.sectors(offset, data.len() as u64)?;
        self.admit(
            Pending {
                sectors,
                data: Data::Bytes(data.into()),
            },
            fua,
        )
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&mut self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        let sectors = self.sectors(offset, len)?;
        let data = Data::Zeroes;
        self.admit(Pending { sectors, data }, fua)
    }

    /// Drops the content of a range, as far as [`DiskOptions::trim`] says so.
    pub fn trim(&mut self, offset: u64, len: u64, fua: bool) -> io::Result<()> {
        let range = self.sectors(offset, len)?;
        let parts = match self.options.trim {
            Trim::Keep => Vec::new(),
            Trim::Zeroes => vec![range],
            Trim::Mixed => some_pieces(&mut self.rng, &range),
        };
        for sectors in parts {
            let data = Data::Zeroes;
            self.admit(Pending { sectors, data }, fua)?;
        }
        Ok(())
    }

    fn admit(&mut self, write: Pending, fua: bool) -> io::Result<()> {
        if write.sectors.is_empty() {
            return Ok(());
        }
        let seq = self.next;
        self.next += 1;
        if fua && !self.options.ignore_flush {
            put(&mut self.medium, &write, &write.sectors)?;
            self.settled.insert(write.sectors.clone(), seq);
            self.newest.remove(write.sectors);
            return Ok(());
        }
        self.pending_bytes += write.cost();
        self.newest.insert(write.sectors.clone(), seq);
        self.pending.insert(seq, write);
        if self.pending_bytes > self.options.cache_bytes {
            self.write_some_out()?;
        }
        Ok(())
    }

    /// Makes room: pending writes, chosen by chance, reach the medium.
    fn write_some_out(&mut self) -> io::Result<()> {
        let target = self.options.cache_bytes / 4 * 3;
        while self.pending_bytes > target {
            let (Some(first), Some(last)) = (
                self.pending.keys().next().copied(),
                self.pending.keys().next_back().copied(),
            ) else {
                return Ok(());
            };
            let at = first + self.rng.below(last - first + 1);
            let Some((&seq, write)) = self.pending.range(at..).next() else {
                return Ok(());
            };
            for (part, settled) in self.settled.pieces(write.sectors.clone()) {
                if settled.is_none_or(|settled| settled < seq) {
                    put(&mut self.medium, write, &part)?;
                    self.settled.insert(part, seq);
                }
            }
            for (part, newest) in self.newest.pieces(write.sectors.clone()) {
                if newest == Some(seq) {
                    self.newest.remove(part);
                }
            }
            self.pending_bytes -= write.cost();
            self.pending.remove(&seq);
        }
        Ok(())
    }

    /// Puts all that was written before on the medium. On an error everything stays pending.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.options.ignore_flush {
            return Ok(());
        }
        self.write_all_out()
    }

    /// As [`Disk::flush`], and also on a disk that ignores flushes: an orderly end.
    pub fn write_all_out(&mut self) -> io::Result<()> {
        for (part, seq) in self.newest.iter() {
            put(&mut self.medium, &self.pending[&seq], &part)?;
        }
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.newest.clear();
        self.settled.clear();
    }

    /// Cuts the power: of each pending write all, a part or nothing reaches the medium, and the
    /// cache is empty. What is kept follows from the seed, the cut's number and the writes.
    pub fn cut(&mut self) -> io::Result<CutReport> {
        self.cuts += 1;
        let report = self.rehearse_cut(self.cuts)?;
        self.forget();
        Ok(report)
    }

    /// Does to the medium what cut `number` would, and keeps the cache: for a caller who then puts the
    /// medium back, to try another cut at the same moment.
    pub fn rehearse_cut(&mut self, number: u64) -> io::Result<CutReport> {
        let mut rng = Rng::new(self.options.seed).fork(number);
        let mood = MOODS[rng.below(MOODS.len() as u64) as usize];
        let mut report = CutReport {
            number,
            seed: self.options.seed,
            mood,
            kept: 0,
            dropped: 0,
            torn: 0,
            sectors_kept: 0,
            sectors_lost: 0,
        };
        let count = self.pending.len() as u64;
        let point = rng.below(count + 1);
        for (index, (&seq, write)) in self.pending.iter().enumerate() {
            let fate = choose(mood, &mut rng, index as u64, point.min(count.max(1) - 1));
            let total = write.sectors.end - write.sectors.start;
            let parts = match fate {
                Fate::Kept => vec![write.sectors.clone()],
                Fate::Dropped => Vec::new(),
                Fate::Torn => torn(&mut rng, write),
            };
            let kept: u64 = parts.iter().map(|part| part.end - part.start).sum();
            match kept {
                0 => report.dropped += 1,
                kept if kept == total => report.kept += 1,
                _ => report.torn += 1,
            }
            report.sectors_kept += kept;
            report.sectors_lost += total - kept;
            for part in parts {
                for (part, settled) in self.settled.pieces(part) {
                    if settled.is_none_or(|settled| settled < seq) {
                        put(&mut self.medium, write, &part)?;
                    }
                }
            }
        }
        Ok(report)
    }
}

fn choose(mood: Mood, rng: &mut Rng, index: u64, point: u64) -> Fate {
    let most_kept = match mood {
        Mood::Even => {
            return match rng.below(3) {
                0 => Fate::Kept,
                1 => Fate::Dropped,
                _ => Fate::Torn,
            }
        }
        Mood::DropAll => return Fate::Dropped,
        Mood::DropOne if index == point => return Fate::Dropped,
        Mood::DropOne => return Fate::Kept,
        Mood::KeepMost => true,
        Mood::DropMost => false,
        Mood::OldKept => index < point,
        Mood::NewKept => index >= point,
    };
    match (rng.below(20), most_kept) {
        (0, _) => Fate::Torn,
        (1, true) => Fate::Dropped,
        (1, false) => Fate::Kept,
        (_, true) => Fate::Kept,
        (_, false) => Fate::Dropped,
    }
}

/// The sectors of `write` that a tear keeps.
fn torn(rng: &mut Rng, write: &Pending) -> Vec<Range<u64>> {
    let range = write.sectors.clone();
    match write.data {
        Data::Zeroes => some_pieces(rng, &range),
        Data::Bytes(_) => {
            let middle = range.start + rng.below(range.end - range.start + 1);
            // A head, a tail, or any subset.
            let shape = rng.below(4);
            range
                .filter(|&sector| match shape {
                    0 => sector < middle,
                    1 => sector >= middle,
                    _ => rng.chance(50),
                })
                .map(|sector| sector..sector + 1)
                .collect()
        }
    }
}

/// Cuts `range` at up to [`ZERO_PIECES`] places and keeps about every other piece.
fn some_pieces(rng: &mut Rng, range: &Range<u64>) -> Vec<Range<u64>> {
    let len = range.end - range.start;
    let mut places: Vec<u64> = (0..rng.below(ZERO_PIECES))
        .map(|_| range.start + rng.below(len))
        .collect();
    places.push(range.start);
    places.push(range.end);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| pair[0]..pair[1])
        .filter(|part| !part.is_empty() && rng.chance(50))
        .collect()
}

fn put<M: Medium>(medium: &mut M, write: &Pending, part: &Range<u64>) -> io::Result<()> {
    match write.bytes(part) {
        Some(data) => medium.write_at(data, part.start * SECTOR),
        None => medium.zero_at(part.start * SECTOR, (part.end - part.start) * SECTOR),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// A medium in memory.
impl Medium for Vec<u8> {
    fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<()> {
        out.copy_from_slice(&self[offset as usize..offset as usize + out.len()]);
        Ok(())
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SECTORS: u64 = 48;

    /// What is known of one sector: the versions that it may have after a cut. A version is the
    /// number of the write; 0 is a sector of zeroes.
    #[derive(Clone)]
    struct Naive {
        durable_or_later: Vec<Vec<u64>>,
    }

    impl Naive {
        fn new() -> Self {
            Self {
                durable_or_later: vec![vec![0]; SECTORS as usize],
            }
        }
        fn now(&self, sector: u64) -> u64 {
            *self.durable_or_later[sector as usize].last().unwrap()
        }
        fn write(&mut self, sectors: Range<u64>, version: u64, fua: bool) {
            for sector in sectors {
                let versions = &mut self.durable_or_later[sector as usize];
                if fua {
                    versions.clear();
                }
                versions.push(version);
            }
        }
        fn flush(&mut self) {
            for versions in &mut self.durable_or_later {
                versions.drain(..versions.len() - 1);
            }
        }
    }

    fn stamp(sector: u64, version: u64) -> [u8; SECTOR as usize] {
        let mut out = [0; SECTOR as usize];
        if version > 0 {
            Rng::new(version).fork(sector).fill(&mut out[16..]);
            out[..8].copy_from_slice(&sector.to_le_bytes());
            out[8..16].copy_from_slice(&version.to_le_bytes());
        }
        out
    }

    /// The version in `data`, if it is one that was written to `sector`.
    fn version(sector: u64, data: &[u8]) -> Option<u64> {
        let version = u64::from_le_bytes(data[8..16].try_into().unwrap());
        (data == stamp(sector, version)).then_some(version)
    }

    fn content(sectors: &Range<u64>, version: u64) -> Vec<u8> {
        sectors.clone().flat_map(|s| stamp(s, version)).collect()
    }

    fn some_range(rng: &mut Rng) -> Range<u64> {
        let start = rng.below(SECTORS);
        start..(start + 1 + rng.below(9)).min(SECTORS)
    }

    /// One history against the naive model; returns the versions found after each cut.
    fn history(seed: u64, options: &DiskOptions) -> Vec<(Vec<u64>, Naive)> {
        let mut rng = Rng::new(seed);
        let mut disk = Disk::new(vec![0; (SECTORS * SECTOR) as usize], options.clone());
        let mut naive = Naive::new();
        let mut outcomes = Vec::new();
        for number in 1..=150 {
            let range = some_range(&mut rng);
            let (offset, len) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
            let fua = rng.chance(15);
            match rng.below(20) {
                0..=9 => {
                    disk.write(offset, &content(&range, number), fua).unwrap();
                    naive.write(range, number, fua);
                }
                10..=11 => {
                    disk.write_zeroes(offset, len, fua).unwrap();
                    naive.write(range, 0, fua);
                }
                12 => {
                    disk.trim(offset, len, fua).unwrap();
                    naive.write(range, 0, fua);
                }
                13..=16 => {
                    let mut out = vec![0xff; len as usize];
                    disk.read(offset, &mut out).unwrap();
                    for (index, data) in out.chunks(SECTOR as usize).enumerate() {
                        let sector = range.start + index as u64;
                        let found = version(sector, data);
                        assert_eq!(found, Some(naive.now(sector)), "seed {seed} step {number}");
                    }
                }
                17..=18 => {
                    disk.flush().unwrap();
                    naive.flush();
                }
                _ => {
                    disk.cut().unwrap();
                    let mut found = Vec::new();
                    for sector in 0..SECTORS {
                        let mut out = [0; SECTOR as usize];
                        disk.read(sector * SECTOR, &mut out).unwrap();
                        found.push(version(sector, &out).unwrap_or_else(|| {
                            panic!("seed {seed} step {number}: sector {sector} is foreign")
                        }));
                    }
                    outcomes.push((found.clone(), naive.clone()));
                    for (versions, found) in naive.durable_or_later.iter_mut().zip(found) {
                        *versions = vec![found];
                    }
                }
            }
        }
        outcomes
    }

    fn foreign(outcomes: &[(Vec<u64>, Naive)]) -> usize {
        outcomes
            .iter()
            .flat_map(|(found, naive)| found.iter().zip(&naive.durable_or_later))
            .filter(|(found, allowed)| !allowed.contains(found))
            .count()
    }

    fn options(seed: u64) -> DiskOptions {
        DiskOptions::new(SECTORS * SECTOR, seed)
    }

    #[test]
    fn flushed_stays_and_the_rest_is_old_or_new() {
        for seed in 0..600 {
            let outcomes = history(seed, &options(seed));
            assert_eq!(foreign(&outcomes), 0, "seed {seed}");
        }
    }

    #[test]
    fn the_same_holds_when_the_cache_is_always_full() {
        for seed in 0..600 {
            let mut options = options(seed);
            options.cache_bytes = 12_000;
            assert_eq!(foreign(&history(seed, &options)), 0, "seed {seed}");
        }
    }

    #[test]
    fn a_disk_that_ignores_flushes_is_caught() {
        let mut caught = 0;
        for seed in 0..50 {
            let mut options = options(seed);
            options.ignore_flush = true;
            caught += foreign(&history(seed, &options));
        }
        assert!(caught > 100, "only {caught} sectors were lost");
    }

    #[test]
    fn every_version_since_the_flush_can_be_what_is_left() {
        let mut found = BTreeSet::new();
        for seed in 0..200 {
            let mut disk = Disk::new(vec![0; (SECTORS * SECTOR) as usize], options(seed));
            disk.write(0, &stamp(0, 1), false).unwrap();
            disk.flush().unwrap();
            for number in 2..=4 {
                disk.write(0, &stamp(0, number), false).unwrap();
            }
            disk.cut().unwrap();
            found.insert(version(0, &disk.medium()[..SECTOR as usize]).unwrap());
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_large_write_is_torn_and_a_terabyte_of_trim_costs_nothing() {
        let mut torn = 0;
        for seed in 0..100 {
            let mut disk = Disk::new(vec![0; (SECTORS * SECTOR) as usize], options(seed));
            disk.write(0, &content(&(0..16), 1), false).unwrap();
            let report = disk.cut().unwrap();
            torn += report.torn;
            assert_eq!(report.kept + report.dropped + report.torn, 1);
            assert_eq!(report.sectors_kept + report.sectors_lost, 16);
        }
        assert!(torn > 0);
        struct Void;
        impl Medium for Void {
            fn read_at(&mut self, _: &mut [u8], _: u64) -> io::Result<()> {
                Ok(())
            }
            fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
                Ok(())
            }
            fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
                Ok(())
            }
        }
        let mut disk = Disk::new(Void, DiskOptions::new(1 << 44, 1));
        disk.trim(0, 1 << 40, false).unwrap();
        disk.cut().unwrap();
        assert_eq!(disk.pending_bytes(), 0);
    }

    #[test]
    fn the_same_seed_and_writes_give_the_same_outcome() {
        let outcome = |seed| {
            let mut disk = Disk::new(vec![0; (SECTORS * SECTOR) as usize], options(seed));
            for number in 1..20 {
                let range = number..number + 8;
                disk.write(range.start * SECTOR, &content(&range, number), false)
                    .unwrap();
            }
            disk.cut().unwrap();
            disk.medium().clone()
        };
        assert!((0..20).all(|seed| outcome(seed) == outcome(seed)));
        assert!((1..20).any(|seed| outcome(seed) != outcome(0)));
    }

    #[test]
    fn a_failing_medium_keeps_the_writes_pending() {
        struct Failing(Vec<u8>, bool);
        impl Medium for Failing {
            fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<()> {
                self.0.read_at(out, offset)
            }
            fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
                if self.1 {
                    return Err(io::Error::other("no space"));
                }
                self.0.write_at(data, offset)
            }
            fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
                self.0.zero_at(offset, len)
            }
        }
        let medium = Failing(vec![0; (SECTORS * SECTOR) as usize], true);
        let mut disk = Disk::new(medium, options(1));
        disk.write(0, &stamp(0, 1), false).unwrap();
        assert!(disk.flush().is_err());
        disk.medium.1 = false;
        disk.flush().unwrap();
        assert_eq!(version(0, &disk.medium().0[..SECTOR as usize]), Some(1));
    }

    #[test]
    fn wrong_ranges_are_refused() {
        let mut disk = Disk::new(vec![0; (SECTORS * SECTOR) as usize], options(1));
        assert!(disk.write(1, &[0; 512], false).is_err());
        assert!(disk.write(0, &[0; 100], false).is_err());
        assert!(disk.write(SECTORS * SECTOR, &[0; 512], false).is_err());
        assert!(disk.trim(u64::MAX - 511, 512, false).is_err());
        assert!(disk.read(0, &mut [0; 511]).is_err());
    }
}
