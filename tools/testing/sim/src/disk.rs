// SPDX-License-Identifier: GPL-2.0

//! A disk with a volatile write cache.
//!
//! It promises what the design assumes of a disk and nothing more: a sector of 512 bytes is kept
//! whole; what was completed before a FLUSH was submitted is durable when the FLUSH completes; a
//! FUA write is durable when it completes. Everything else may be lost at a power cut, sector by
//! sector. After a discard a cluster holds its old bytes, zeroes or anything.

use crate::content::{Image, SECTORS, ZERO};
use crate::rng::{FixedMap, Rng};
use std::collections::BTreeSet;

/// One write that a power cut may still undo.
#[derive(Clone, Debug)]
struct Pending {
    /// When it completed, in the disk's own count.
    at: u64,
    image: Image,
    mask: u8,
}

#[derive(Clone, Debug)]
struct Cell {
    durable: Image,
    pending: Vec<Pending>,
}

/// How a power cut treats what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    All,
    /// All that had completed is kept.
    None,
    /// Each cluster is kept with this probability, in percent.
    Clusters(u8),
    /// Each sector is kept with this probability, in percent.
    Sectors(u8),
}

/// The disk: sparse, clusters of 4096 bytes.
#[derive(Clone, Debug)]
pub struct Disk {
    cells: FixedMap<u64, Cell>,
    dirty: BTreeSet<u64>,
    completed: u64,
    clusters: u64,
    /// What was never written holds zeroes; else garbage.
    blank: bool,
}

impl Disk {
    /// A disk of `clusters`; `blank`: full of zeroes, else of garbage.
    pub fn new(clusters: u64, blank: bool) -> Self {
        Self {
            cells: FixedMap::default(),
            dirty: BTreeSet::new(),
            completed: 0,
            clusters,
            blank,
        }
    }

    /// Its size in clusters.
    pub fn clusters(&self) -> u64 {
        self.clusters
    }

    fn untouched(&self, cluster: u64) -> Image {
        if self.blank {
            Image::Data(ZERO)
        } else {
            Image::garbage(cluster)
        }
    }

    fn cell(&mut self, cluster: u64) -> &mut Cell {
        let durable = self.untouched(cluster);
        self.cells.entry(cluster).or_insert(Cell {
            durable,
            pending: Vec::new(),
        })
    }

    /// What a read returns now.
    pub fn read(&self, cluster: u64) -> Image {
        let Some(cell) = self.cells.get(&cluster) else {
            return self.untouched(cluster);
        };
        let mut image = None;
        // From the newest whole write on.
        let from = cell
            .pending
            .iter()
            .rposition(|p| p.mask == 0xff)
            .unwrap_or(0);
        for p in &cell.pending[from.min(cell.pending.len())..] {
            let base = image.as_ref().unwrap_or(&cell.durable);
            image = Some(base.with_sectors(&p.image, p.mask));
        }
        image.unwrap_or_else(|| cell.durable.clone())
    }

    /// What is left if all is lost that may be.
    pub fn durable(&self, cluster: u64) -> Image {
        match self.cells.get(&cluster) {
            Some(cell) => cell.durable.clone(),
            None => self.untouched(cluster),
        }
    }

    /// A write completed. `mask`: the sectors that it wrote, all but for a write that failed.
    pub fn write(&mut self, cluster: u64, image: Image, mask: u8) {
        self.completed += 1;
        let at = self.completed;
        self.cell(cluster).pending.push(Pending { at, image, mask });
        self.dirty.insert(cluster);
    }

    /// A FUA write completed: this one is durable, and so nothing older of it can come back.
    pub fn write_durable(&mut self, cluster: u64, image: Image) {
        let cell = self.cell(cluster);
        cell.durable = image;
        cell.pending.clear();
        self.dirty.remove(&cluster);
    }

    /// The moment that a FLUSH remembers when it is submitted.
    pub fn now(&self) -> u64 {
        self.completed
    }

    /// A FLUSH that was submitted at `point` completed.
    pub fn flush(&mut self, point: u64) {
        let cells = &mut self.cells;
        self.dirty.retain(|cluster| {
            let Some(cell) = cells.get_mut(cluster) else {
                return false;
            };
            let durable = &mut cell.durable;
            cell.pending.retain(|p| {
                if p.at <= point {
                    *durable = durable.with_sectors(&p.image, p.mask);
                }
                p.at > point
            });
            !cell.pending.is_empty()
        });
    }

    /// A discard completed: each cluster holds now what `rng` says.
    pub fn discard(&mut self, cluster: u64, count: u64, rng: &mut Rng) {
        for c in cluster..cluster.saturating_add(count).min(self.clusters) {
            match rng.below(4) {
                0 => (),
                1 => self.write(c, Image::Data(ZERO), 0xff),
                _ => self.write(c, Image::garbage(rng.draw()), 0xff),
            }
        }
    }

    /// The power fails. What was in flight was given to [`Self::write`] before, as far as the disk
    /// had begun it.
    pub fn power_cut(&mut self, loss: Loss, rng: &mut Rng) {
        for cluster in std::mem::take(&mut self.dirty) {
            let Some(cell) = self.cells.get_mut(&cluster) else {
                continue;
            };
            for p in cell.pending.drain(..) {
                cell.durable = cell
                    .durable
                    .with_sectors(&p.image, p.mask & kept(loss, rng));
            }
        }
    }

    /// Flips bits of what is durable in a sector of `cluster`.
    pub fn rot(&mut self, cluster: u64, sector: usize, rng: &mut Rng) {
        let garbage = Image::garbage(rng.draw());
        let mask = 1 << (sector % SECTORS);
        let cell = self.cell(cluster);
        cell.durable = cell.durable.with_sectors(&garbage, mask);
        for p in &mut cell.pending {
            p.image = p.image.with_sectors(&garbage, mask);
        }
    }

    /// The clusters that were ever written, in order.
    pub fn touched(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.cells.keys().copied().collect();
        all.sort_unstable();
        all
    }
}

/// The sectors that a power cut leaves of one write.
pub fn kept(loss: Loss, rng: &mut Rng) -> u8 {
    match loss {
        Loss::All => 0,
        Loss::None => 0xff,
        Loss::Clusters(percent) => {
            if rng.chance(u64::from(percent), 100) {
                0xff
            } else {
                0
            }
        }
        Loss::Sectors(percent) => (0..SECTORS).fold(0, |mask, i| {
            mask | (u8::from(rng.chance(u64::from(percent), 100)) << i)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FOREIGN;

    fn disk() -> (Disk, Rng) {
        (Disk::new(64, true), Rng::new(4))
    }

    #[test]
    fn unflushed_writes_are_read_back_and_lost() {
        let (mut d, mut rng) = disk();
        d.write(3, Image::Data(7), 0xff);
        assert_eq!(d.read(3).content(), 7);
        d.power_cut(Loss::All, &mut rng);
        assert_eq!(d.read(3).content(), ZERO);
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_submitted() {
        let (mut d, mut rng) = disk();
        d.write(1, Image::Data(7), 0xff);
        let point = d.now();
        d.write(1, Image::Data(8), 0xff);
        d.write(2, Image::Data(9), 0xff);
        d.flush(point);
        assert_eq!(d.read(1).content(), 8);
        d.power_cut(Loss::All, &mut rng);
        assert_eq!(d.read(1).content(), 7);
        assert_eq!(d.read(2).content(), ZERO);
    }

    #[test]
    fn nothing_older_comes_back_over_a_fua_write() {
        let (mut d, mut rng) = disk();
        d.write(1, Image::Data(7), 0xff);
        d.write_durable(1, Image::Data(8));
        d.power_cut(Loss::None, &mut rng);
        assert_eq!(d.read(1).content(), 8);
    }

    #[test]
    fn sectors_tear_and_any_of_several_writes_may_survive() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let (mut d, _) = disk();
            let mut rng = Rng::new(seed);
            d.write(1, Image::Data(7), 0xff);
            d.write(1, Image::Data(8), 0xff);
            d.power_cut(Loss::Clusters(50), &mut rng);
            seen.insert(d.read(1).content());
            d.write(1, Image::Data(9), 0xff);
            d.power_cut(Loss::Sectors(50), &mut rng);
            seen.insert(d.read(1).content().min(FOREIGN));
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [ZERO, 7, 8, 9, FOREIGN]
        );
    }

    #[test]
    fn a_discarded_cluster_may_hold_anything() {
        let (mut d, mut rng) = disk();
        for c in 0..40 {
            d.write_durable(c, Image::Data(5));
        }
        d.discard(0, 1000, &mut rng);
        let kinds: std::collections::BTreeSet<_> =
            (0..40).map(|c| d.read(c).content().min(FOREIGN)).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [ZERO, 5, FOREIGN]);
    }

    #[test]
    fn rot_hits_one_sector_and_stays() {
        let (mut d, mut rng) = disk();
        d.write_durable(1, Image::Data(5));
        d.rot(1, 3, &mut rng);
        assert!(d.read(1).content() >= FOREIGN);
        d.power_cut(Loss::None, &mut rng);
        assert!(d.read(1).content() >= FOREIGN);
    }
}
