// SPDX-License-Identifier: GPL-2.0
//! A medium that can be put back to what it was at a moment.

use std::io;

use crate::disk::Medium;

/// Bytes that are looked at as one.
const CHUNK: u64 = 1 << 20;

/// A medium that remembers what was overwritten since [`Undo::begin`].
pub struct Undo<M> {
    medium: M,
    recording: bool,
    /// Oldest first.
    overwritten: Vec<(u64, Old)>,
}

enum Old {
    Bytes(Vec<u8>),
    Zeroes(u64),
}

impl<M: Medium> Undo<M> {
    /// Nothing is remembered yet.
    pub fn new(medium: M) -> Self {
        Self {
            medium,
            recording: false,
            overwritten: Vec::new(),
        }
    }

    /// From now on what is overwritten is remembered.
    pub fn begin(&mut self) {
        self.recording = true;
    }

    /// Puts back what was there at [`Undo::begin`].
    pub fn undo(&mut self) -> io::Result<()> {
        self.recording = false;
        while let Some((offset, old)) = self.overwritten.pop() {
            match old {
                Old::Bytes(data) => self.medium.write_at(&data, offset)?,
                Old::Zeroes(len) => self.medium.zero_at(offset, len)?,
            }
        }
        Ok(())
    }

    fn remember(&mut self, mut offset: u64, mut len: u64) -> io::Result<()> {
        if !self.recording {
            return Ok(());
        }
        while len > 0 {
            let part = len.min(CHUNK);
            let mut data = vec![0; part as usize];
            self.medium.read_at(&mut data, offset)?;
            let zeroes = data.iter().all(|&byte| byte == 0);
            let old = if zeroes {
                Old::Zeroes(part)
            } else {
                Old::Bytes(data)
            };
            self.overwritten.push((offset, old));
            offset += part;
            len -= part;
        }
        Ok(())
    }
}

impl<M: Medium> Medium for Undo<M> {
    fn read_at(&mut self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.read_at(out, offset)
    }

    fn write_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.remember(offset, data.len() as u64)?;
        self.medium.write_at(data, offset)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.remember(offset, len)?;
        self.medium.zero_at(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, DiskOptions};
    use crate::rng::Rng;

    #[test]
    fn a_rehearsed_cut_leaves_no_trace_and_says_what_a_real_one_does() {
        const SIZE: u64 = 4 << 20;
        let mut changed = 0;
        for seed in 0..30 {
            let mut rng = Rng::new(seed);
            let mut disk = Disk::new(
                Undo::new(vec![0; SIZE as usize]),
                DiskOptions::new(SIZE, seed),
            );
            for step in 0..100 {
                let offset = rng.below(SIZE / 512 - 64) * 512;
                let data = vec![step as u8 + 1; (1 + rng.below(64) as usize) * 512];
                match rng.below(10) {
                    0 => disk.trim(offset, data.len() as u64, false).unwrap(),
                    1 if step < 50 => disk.flush().unwrap(),
                    _ => disk.write(offset, &data, rng.chance(5)).unwrap(),
                }
            }
            let before = disk.medium().medium.clone();
            let mut rehearsed = Vec::new();
            for number in 1..4 {
                disk.medium_mut().begin();
                let report = disk.rehearse_cut(number).unwrap();
                rehearsed.push((report, disk.medium().medium.clone()));
                disk.medium_mut().undo().unwrap();
                assert!(disk.medium().medium == before, "seed {seed}");
            }
            let report = disk.cut().unwrap();
            assert_eq!(report, rehearsed[0].0);
            assert!(disk.medium().medium == rehearsed[0].1, "seed {seed}");
            changed += usize::from(rehearsed[0].1 != rehearsed[1].1);
        }
        assert!(changed > 10);
    }
}
