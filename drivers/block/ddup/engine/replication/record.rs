// SPDX-License-Identifier: GPL-2.0

//! What a store keeps of a set outside of journal and checkpoint (clause 4): the configuration in
//! force and the promised term, in the configuration slots.
//!
//! Generation `g` lies in slot `g % 2`, in two distant copies. Both copies are written, one behind
//! the other with a flush after each, before anybody is answered; a copy that an attach found bad
//! comes first, so that there is always a good one beside it. So a power cut damages at most one
//! copy, of a generation that nobody was told of; a slot without a good copy was damaged otherwise,
//! and what it held may have been the newest.

use super::super::format::le;
use super::super::types::CLUSTER_SIZE;
use super::super::Hash;
use super::codec::{put, put_id, put_uint, Reader};
use super::config::{Config, CONFIG_BYTES_MAX};
use super::types::Id;
use kernel::prelude::*;

/// Seed of a slot's checksum.
pub const SEED: u64 = 0x6464_7570_636f_6e66;
const MAGIC: [u8; 8] = *b"ddup\x8b\xf7cf";
const VERSION: u64 = 1;
/// Bytes of a slot before the configuration.
pub const HEAD_BYTES: usize = 72;
const FLAG_KEEP: u64 = 1;

/// The durable state of a set's membership.
#[derive(Debug)]
pub struct Record {
    /// Lower terms are refused.
    pub promise: u64,
    /// This store's own epochs may hold what was acknowledged and a forced primary lacks: they are
    /// not given up before a person says so.
    pub keep: bool,
    /// In force.
    pub config: Config,
}

impl Record {
    /// A copy.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Record {
            config: self.config.try_clone()?,
            ..*self
        })
    }

    /// One slot, a cluster.
    pub fn write(&self, store: &Id, generation: u64, hash: Hash) -> Result<KVec<u8>> {
        let mut out = KVec::with_capacity(CLUSTER_SIZE, GFP_KERNEL)?;
        put(&mut out, &MAGIC)?;
        put_uint::<8>(&mut out, 0)?;
        put_uint::<8>(&mut out, VERSION)?;
        put_id(&mut out, store)?;
        put_uint::<8>(&mut out, generation)?;
        put_uint::<8>(&mut out, self.promise)?;
        put_uint::<8>(&mut out, if self.keep { FLAG_KEEP } else { 0 })?;
        put(&mut out, &[0; 8])?;
        self.config.write(&mut out)?;
        out.resize(CLUSTER_SIZE, 0, GFP_KERNEL)?;
        let sum = hash(out.get(16..).unwrap_or(&[]), SEED);
        le::put_uint::<8>(&mut out, 8, sum);
        Ok(out)
    }

    /// Reads a slot of `store`: its generation and record, if they are good.
    pub fn read(slot: &[u8], store: &Id, hash: Hash) -> Result<Option<(u64, Self)>> {
        if slot.len() != CLUSTER_SIZE
            || le::uint::<8>(slot, 8) != hash(slot.get(16..).unwrap_or(&[]), SEED)
        {
            return Ok(None);
        }
        let mut reader = Reader::new(slot);
        let Some((generation, promise, flags)) = Self::read_head(&mut reader, store) else {
            return Ok(None);
        };
        let Some(config) = Config::read(&mut reader)? else {
            return Ok(None);
        };
        let keep = flags & FLAG_KEEP != 0;
        let sound = promise >= config.term && flags & !FLAG_KEEP == 0 && promise < u64::MAX / 2;
        Ok(sound.then_some((
            generation,
            Record {
                promise,
                keep,
                config,
            },
        )))
    }

    fn read_head(reader: &mut Reader<'_>, store: &Id) -> Option<(u64, u64, u64)> {
        let magic = reader.array::<8>()?;
        reader.bytes(8)?;
        let version = reader.uint::<8>()?;
        let known = magic == MAGIC && version == VERSION && reader.array::<16>()? == *store;
        let (generation, promise) = (reader.uint::<8>()?, reader.uint::<8>()?);
        let flags = reader.uint::<8>()?;
        reader.zeroes::<8>()?;
        (known && generation < u64::MAX / 2).then_some((generation, promise, flags))
    }
}

/// What an attach found.
#[derive(Debug)]
pub struct Found {
    /// Generation of the newest record.
    pub generation: u64,
    /// The newest record.
    pub record: Record,
    /// Which copy of each slot is to be written first: the one that is not good.
    pub first: [usize; 2],
}

/// What the configuration slots say.
#[derive(Debug)]
pub enum Slots {
    /// Nothing was ever written: the store is in no set.
    Empty,
    /// The newest record.
    Record(Found),
    /// What was newest may be lost: the store is attached without a role.
    Damaged,
}

/// Reads both copies of both slots: `copies[slot][copy]`, `None` for one that cannot be read.
pub fn choose(copies: &[[Option<&[u8]>; 2]; 2], store: &Id, hash: Hash) -> Result<Slots> {
    let mut newest: Option<(u64, Record)> = None;
    let mut damaged = false;
    let mut first = [0; 2];
    for (number, (slot, first)) in copies.iter().zip(&mut first).enumerate() {
        let mut good = false;
        for (copy, bytes) in slot.iter().enumerate() {
            let Some(bytes) = bytes else {
                *first = copy;
                continue;
            };
            if bytes.iter().all(|b| *b == 0) {
                good = true;
                continue;
            }
            let read = Record::read(bytes, store, hash)?;
            let Some((generation, record)) = read.filter(|(g, _)| g % 2 == number as u64) else {
                *first = copy;
                continue;
            };
            good = true;
            if newest.as_ref().is_none_or(|(g, _)| *g < generation) {
                newest = Some((generation, record));
            }
        }
        damaged |= !good;
    }
    Ok(match newest {
        _ if damaged => Slots::Damaged,
        None => Slots::Empty,
        Some((generation, record)) => Slots::Record(Found {
            generation,
            record,
            first,
        }),
    })
}

const _: () = {
    assert!(HEAD_BYTES + CONFIG_BYTES_MAX <= CLUSTER_SIZE);
};

#[cfg(test)]
mod tests {
    use super::super::config::tests::{config, next};
    use super::*;

    fn sum(bytes: &[u8], seed: u64) -> u64 {
        let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, step)
    }

    const STORE: Id = [1; 16];

    fn slot(generation: u64, promise: u64) -> KVec<u8> {
        let config = next(&config(3));
        let keep = promise == 8;
        let record = Record {
            promise,
            keep,
            config,
        };
        record.write(&STORE, generation, sum).unwrap()
    }

    fn chosen(copies: &[[Option<&[u8]>; 2]; 2]) -> Option<(u64, u64, bool)> {
        match choose(copies, &STORE, sum).unwrap() {
            Slots::Record(f) => Some((f.generation, f.record.promise, f.record.keep)),
            Slots::Empty => Some((0, 0, false)),
            Slots::Damaged => None,
        }
    }

    #[test]
    fn the_newest_counts_and_what_may_have_been_newer_takes_the_role_away() {
        let (six, seven, eight) = (slot(6, 7), slot(7, 8), slot(8, 9));
        let zero = [0; CLUSTER_SIZE];
        let mut torn = slot(8, 9);
        torn[2000] ^= 1;
        let (six, seven, eight) = (&six[..], &seven[..], &eight[..]);
        let at = |a, b, c, d| chosen(&[[Some(a), Some(b)], [Some(c), Some(d)]]);
        assert_eq!(at(&zero, &zero, &zero, &zero), Some((0, 0, false)));
        assert_eq!(at(six, six, seven, seven), Some((7, 8, true)));
        // Cut while the first or the second copy of generation 8 was written.
        assert_eq!(at(&torn, six, seven, seven), Some((7, 8, true)));
        assert_eq!(at(eight, six, seven, seven), Some((8, 9, false)));
        assert_eq!(at(eight, &torn, seven, seven), Some((8, 9, false)));
        let slots = [[Some(eight), Some(&torn[..])], [Some(seven), Some(seven)]];
        match choose(&slots, &STORE, sum).unwrap() {
            Slots::Record(found) => assert_eq!(found.first, [1, 0]),
            other => panic!("{other:?}"),
        }
        assert_eq!(at(&torn, &torn, seven, seven), None);
        assert_eq!(chosen(&[[None, None], [Some(seven), Some(seven)]]), None);
        // A slot in the other's place is none.
        assert_eq!(at(seven, seven, seven, seven), None);
    }

    #[test]
    fn another_store_s_slot_is_damaged() {
        let bytes = slot(6, 7);
        assert!(Record::read(&bytes, &[2; 16], sum).unwrap().is_none());
        assert!(Record::read(&bytes, &STORE, sum).unwrap().is_some());
    }
}
