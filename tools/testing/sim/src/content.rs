// SPDX-License-Identifier: GPL-2.0

//! What a cluster holds, without the 4096 bytes where nobody looks at them.
//!
//! A block of user data is a number, its *content*: equal numbers are equal bytes. Its eight
//! sectors are derived from it, so that a torn write shows. Metadata keeps its real bytes, since
//! the engine parses them.

use crate::rng::mix;
use std::rc::Rc;

/// Bytes of a cluster.
pub const CLUSTER: usize = 4096;
/// Bytes of a sector: what the disk keeps whole.
pub const SECTOR: usize = 512;
/// Sectors of a cluster.
pub const SECTORS: usize = CLUSTER / SECTOR;

/// The content of a block; [`ZERO`] is a block of zeroes.
pub type Content = u64;
/// A block of zeroes.
pub const ZERO: Content = 0;
/// Contents from here on were never written by the workload: torn, rotten, or metadata read as
/// data.
pub const FOREIGN: Content = 1 << 60;

/// One sector.
#[derive(Clone, Debug)]
enum Sector {
    /// Zeroes if 0, else the bytes that follow from the number.
    Id(u64),
    /// A part of a metadata cluster.
    Bytes(Rc<[u8]>, usize),
}

/// What one cluster holds.
#[derive(Clone, Debug)]
pub enum Image {
    /// A whole block of user data, or zeroes.
    Data(Content),
    /// A whole cluster of metadata: real bytes, [`CLUSTER`] long.
    Meta(Rc<[u8]>),
    /// Sectors of several of those.
    Mixed(Box<[SectorRef; SECTORS]>),
}

/// A sector inside a mixed cluster.
#[derive(Clone, Debug)]
pub struct SectorRef(Sector);

impl Image {
    /// A cluster of metadata.
    pub fn meta(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), CLUSTER);
        Image::Meta(bytes.into())
    }

    /// Something that nobody wrote, different for each `salt`.
    pub fn garbage(salt: u64) -> Self {
        Image::Data(FOREIGN | (mix(salt) & (FOREIGN - 1)))
    }

    fn sector(&self, i: usize) -> Sector {
        match self {
            Image::Data(ZERO) => Sector::Id(0),
            Image::Data(c) => Sector::Id(c * SECTORS as u64 + i as u64),
            Image::Meta(bytes) => Sector::Bytes(bytes.clone(), i),
            Image::Mixed(sectors) => sectors[i].0.clone(),
        }
    }

    /// This cluster with the sectors of `mask` (bit i: sector i) taken from `new`.
    pub fn with_sectors(&self, new: &Image, mask: u8) -> Image {
        match mask {
            0 => self.clone(),
            0xff => new.clone(),
            _ => Image::Mixed(Box::new(std::array::from_fn(|i| {
                SectorRef(if mask & (1 << i) != 0 {
                    new.sector(i)
                } else {
                    self.sector(i)
                })
            }))),
        }
    }

    /// The cluster as user data. What is no whole block of the workload gets a number of its own
    /// from [`FOREIGN`] on.
    pub fn content(&self) -> Content {
        match self {
            Image::Data(c) => *c,
            Image::Meta(bytes) => foreign(hash_bytes(bytes), bytes.iter().all(|b| *b == 0)),
            Image::Mixed(sectors) => {
                let mut whole = None;
                let mut hash = 0;
                for (i, s) in sectors.iter().enumerate() {
                    let (id, from) = match &s.0 {
                        Sector::Id(0) => (0, Some(ZERO)),
                        Sector::Id(id) => {
                            let place = id % SECTORS as u64 == i as u64;
                            (*id, place.then_some(id / SECTORS as u64))
                        }
                        Sector::Bytes(b, at) => {
                            let part = &b[at * SECTOR..(at + 1) * SECTOR];
                            let zero = part.iter().all(|b| *b == 0);
                            (
                                if zero { 0 } else { hash_bytes(part) },
                                zero.then_some(ZERO),
                            )
                        }
                    };
                    hash = mix(hash ^ id);
                    whole = match (i, whole, from) {
                        (0, _, from) => from,
                        (_, Some(a), Some(b)) if a == b => whole,
                        _ => None,
                    };
                }
                whole.unwrap_or_else(|| foreign(hash, false))
            }
        }
    }

    /// The cluster as bytes; data gives bytes that follow from its number.
    pub fn bytes(&self, out: &mut [u8]) {
        assert_eq!(out.len(), CLUSTER);
        if let Image::Meta(bytes) = self {
            out.copy_from_slice(bytes);
            return;
        }
        for (i, part) in out.chunks_mut(SECTOR).enumerate() {
            match self.sector(i) {
                Sector::Id(0) => part.fill(0),
                Sector::Id(id) => {
                    for (j, word) in part.chunks_mut(8).enumerate() {
                        word.copy_from_slice(&mix(id ^ ((j as u64) << 56)).to_le_bytes());
                    }
                }
                Sector::Bytes(b, at) => part.copy_from_slice(&b[at * SECTOR..(at + 1) * SECTOR]),
            }
        }
    }
}

fn foreign(hash: u64, zero: bool) -> Content {
    if zero {
        ZERO
    } else {
        FOREIGN | (hash & (FOREIGN - 1))
    }
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(1, |h, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(h ^ u64::from_le_bytes(word)).wrapping_add(h)
    })
}

/// How contents are fingerprinted in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprints {
    /// Key of the name.
    pub key: u64,
    /// Bits of the name that differ between contents: few make collisions.
    pub name_bits: u32,
    /// Bits of the name's second half that differ.
    pub tail_bits: u32,
}

impl Fingerprints {
    /// The 24 bytes that name `content`: never all zeroes.
    pub fn name(&self, content: Content) -> [u8; 24] {
        let mut out = [0; 24];
        let hash = low(mix(mix(content ^ self.key)), self.name_bits);
        out[..8].copy_from_slice(&mix(hash ^ self.key ^ 1).to_le_bytes());
        let tail = low(mix(content ^ self.key ^ 0x7a11), self.tail_bits);
        out[8..16].copy_from_slice(&mix(tail ^ self.key).to_le_bytes());
        out[16] = 1;
        out
    }

    /// The check of `content`, 48 bits.
    pub fn check(&self, content: Content) -> u64 {
        mix(mix(content ^ self.key ^ 0xc4ec_c4ec)) & ((1 << 48) - 1)
    }
}

fn low(x: u64, bits: u32) -> u64 {
    if bits >= 64 {
        x
    } else {
        x & ((1 << bits) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_block_is_foreign_and_a_repaired_one_is_itself() {
        let (a, b) = (Image::Data(5), Image::Data(6));
        let torn = a.with_sectors(&b, 0b0000_1111);
        assert!(torn.content() >= FOREIGN);
        assert_ne!(torn.content(), a.with_sectors(&b, 0b0001_1111).content());
        assert_eq!(torn.with_sectors(&b, 0b1111_0000).content(), 6);
        assert_eq!(torn.with_sectors(&a, 0b0000_1111).content(), 5);
        let half = Image::Data(ZERO).with_sectors(&b, 1);
        assert!(half.content() >= FOREIGN);
        assert_eq!(half.with_sectors(&Image::Data(ZERO), 1).content(), ZERO);
    }

    #[test]
    fn metadata_keeps_its_bytes_through_tearing() {
        let old = Image::meta(&[1; CLUSTER]);
        let new = Image::meta(&[2; CLUSTER]);
        let mut bytes = [0; CLUSTER];
        old.with_sectors(&new, 0b1000_0000).bytes(&mut bytes);
        assert!(bytes[..7 * SECTOR].iter().all(|b| *b == 1));
        assert!(bytes[7 * SECTOR..].iter().all(|b| *b == 2));
        assert!(old.content() >= FOREIGN);
        assert_eq!(Image::meta(&[0; CLUSTER]).content(), ZERO);
    }

    #[test]
    fn weak_fingerprints_collide_and_strong_ones_do_not() {
        let weak = Fingerprints {
            key: 3,
            name_bits: 4,
            tail_bits: 2,
        };
        let strong = Fingerprints {
            key: 3,
            name_bits: 64,
            tail_bits: 48,
        };
        let count = |f: &Fingerprints| {
            let set: std::collections::BTreeSet<_> = (1..1000).map(|c| f.name(c)).collect();
            set.len()
        };
        assert!(count(&weak) <= 64);
        assert_eq!(count(&strong), 999);
        assert!(strong.check(77) < 1 << 48);
    }
}
