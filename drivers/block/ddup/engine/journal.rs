// SPDX-License-Identifier: GPL-2.0

//! The refcount journal: the ring of blocks, the block being filled, and who waits for durability.
//! One per store.
//!
//! Records go into the *open* block. It is *sealed* when it is full, when somebody waits for a
//! commit, when the commit interval ends, or by the cut of a checkpoint. A record is appended only
//! after its data was written. Sealed blocks are written one after the other; when a block's write
//! ends, everything up to it is durable, data included. There are two ways to that:
//!
//! - a *plain* block makes the data of its records durable before itself;
//! - a *quick* one and its data become durable in any order, by one flush instead of two. A crash
//!   may leave it without its data, so recovery looks at the data, unless the header of a later
//!   block *vouches* for it. Only short blocks are quick, that there is little to look at, and none
//!   with a record of what nobody had, whose cluster was not written.
//!
//! A block is quick if somebody waits for it and nobody needs to be vouched for. What was written
//! quickly is vouched for by the next block, which comes within the commit interval, even if it has
//! no records.

use super::buf::{extend_zeroed, zeroed};
use super::format::journal::{self as codec, BlockHeader, BLOCK_BYTES_MAX, HEADER_BYTES};
use super::format::page::Hash;
use super::format::superblock::Join;
use super::mutant::mutant;
use super::show::{lines, Maybe};
use super::types::{Cluster, CLUSTER_SIZE, JOURNAL_BLOCK_CLUSTERS_MAX};
use super::{Buf, Durability};
use core::fmt;
use kernel::prelude::*;

/// Blocks that may be open, sealed or being written at once.
const BUFFERS: usize = 12;
/// Ring clusters that only the cut of a checkpoint may use: a block, and what a wrap skips.
const CUT_RESERVE: u64 = 2 * JOURNAL_BLOCK_CLUSTERS_MAX;
/// Record bytes of a full block that a record may leave unused at its end.
const SLACK: usize = 4096;
/// Record bytes that a block takes at least before it is full.
const PER_BLOCK: usize = BLOCK_BYTES_MAX - HEADER_BYTES - SLACK;
/// Clusters of the longest quick block: it has room for some 80 blocks written one by one.
const QUICK_CLUSTERS: u64 = 1;

struct Sealed {
    block: Buf,
    written: Written,
}

/// What there is to know of a block on its way to the ring.
#[derive(Clone, Copy, Debug)]
struct Written {
    place: Cluster,
    sequence: u64,
    /// What its header says of earlier data, and of its own.
    durable_upto: u64,
    /// Records in it.
    records: u32,
}

impl Written {
    fn durability(&self) -> Durability {
        match self.durable_upto == self.sequence {
            true if mutant!(5) => Durability::Own,
            true if mutant!(6) => Durability::None,
            true if mutant!(37) => Durability::AllTogether,
            true => Durability::AllBefore,
            false if mutant!(7) => Durability::Own,
            false => Durability::AllTogether,
        }
    }
}

/// What identifies the blocks of this attach.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The store.
    pub uuid: [u8; 16],
    /// Generation of the newest superblock.
    pub superblock_generation: u64,
    /// Attached seconds of the store, now.
    pub attached_seconds: u64,
    /// XXH64.
    pub hash: Hash,
}

/// The refcount journal.
pub struct Journal {
    start: Cluster,
    ring: u64,
    incarnation: u64,
    /// Sequence of the open block.
    sequence: u64,
    /// Place of the open block.
    offset: u64,
    /// Chained checksum before the open block.
    chain: u64,
    /// Ring clusters passed since attach, skipped ones included; grows for ever.
    head: u64,
    /// `head` when the oldest block that is still needed began.
    tail: u64,
    open: Buf,
    open_bytes: usize,
    open_records: u32,
    /// Recovery would look in vain for data of the open block: it is not to be quick.
    is_plain: bool,
    sealed: KVec<Sealed>,
    /// The block in flight.
    writing: Option<Written>,
    spare: KVec<Buf>,
    /// Of one cluster, for a block that is closed early; absent while that is on its way.
    short: Option<Buf>,
    /// Bytes in front of `short` that may be other than zero.
    short_used: usize,
    reserved: usize,
    /// All blocks up to this sequence are durable.
    durable: u64,
    /// Recovery will not look at the data of blocks up to this sequence.
    vouched: u64,
    /// Somebody waits until this sequence is durable.
    wanted: u64,
    /// Somebody waits until this sequence is vouched for.
    vouch_wanted: u64,
    /// Bytes of all blocks written since attach.
    pub bytes_written: u64,
    /// Blocks written since attach.
    pub blocks_written: u64,
}

/// What a running commit needs next.
#[derive(Debug)]
pub enum Commit {
    /// Write this block to this place.
    Write(Cluster, Buf, Durability),
    /// The ring is full: a checkpoint has to free its tail.
    RingFull,
    /// Nothing to do, or wait for the write in flight.
    Idle,
}

impl Journal {
    /// A journal that continues at `join`, where `used` clusters of the ring hold blocks that are
    /// still needed.
    pub fn new(start: Cluster, ring: u64, join: Join, used: u64) -> Result<Journal> {
        let mut spare = KVec::with_capacity(BUFFERS, GFP_KERNEL)?;
        for _ in 1..BUFFERS {
            let buffer = zeroed(BLOCK_BYTES_MAX)?;
            spare.push(buffer, GFP_KERNEL)?;
        }
        Ok(Journal {
            start,
            ring,
            incarnation: join.incarnation,
            sequence: join.sequence,
            offset: join.offset,
            chain: join.chain,
            head: used,
            tail: 0,
            open: zeroed(BLOCK_BYTES_MAX)?,
            open_bytes: HEADER_BYTES,
            open_records: 0,
            is_plain: false,
            sealed: KVec::with_capacity(BUFFERS, GFP_KERNEL)?,
            writing: None,
            spare,
            short: Some(zeroed(CLUSTER_SIZE)?),
            short_used: 0,
            reserved: 0,
            durable: join.sequence.saturating_sub(1),
            vouched: join.sequence.saturating_sub(1),
            wanted: 0,
            vouch_wanted: 0,
            bytes_written: 0,
            blocks_written: 0,
        })
    }

    /// Promises room for records of `bytes` bytes, or says no. Half a block is kept from requests,
    /// for the records that give space back, and two whole ones for closing a block early.
    pub fn reserve(&mut self, bytes: usize, for_request: bool) -> bool {
        let kept = if for_request { PER_BLOCK / 2 } else { 0 };
        let room = self.spare.len().saturating_sub(2) * PER_BLOCK;
        if self.reserved + bytes + kept > room
            || !self.has_room(self.promised(self.reserved + bytes))
        {
            return false;
        }
        self.reserved += bytes;
        true
    }

    /// Takes back a promise.
    pub fn unreserve(&mut self, bytes: usize) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// Appends a record of at most `bytes_max` (promised) bytes. Returns the sequence of its block.
    pub fn append(
        &mut self,
        identity: &Identity,
        bytes_max: usize,
        encode: impl FnOnce(&mut [u8], usize) -> usize,
    ) -> Result<u64> {
        if self.open_bytes + bytes_max > BLOCK_BYTES_MAX {
            self.seal(identity, self.sequence)?;
        }
        self.open_bytes = encode(&mut self.open, self.open_bytes);
        self.open_records = self.open_records.saturating_add(1);
        Ok(self.sequence)
    }

    /// The last record is of a block that nobody had: its cluster was not written.
    pub fn make_plain(&mut self) {
        self.is_plain = true;
    }

    /// Whether the open block has records.
    pub fn has_open_records(&self) -> bool {
        self.open_bytes > HEADER_BYTES
    }

    /// The sequence that has to be durable so that all records so far are.
    pub fn last_sequence(&self) -> u64 {
        if self.has_open_records() {
            self.sequence
        } else {
            self.sequence.saturating_sub(1)
        }
    }

    /// Everything up to this sequence is durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Everything up to this sequence is durable, and stays so if a part of its data is damaged.
    pub fn vouched(&self) -> u64 {
        self.vouched
    }

    /// Asks for a commit of everything up to `sequence`.
    pub fn want(&mut self, sequence: u64) {
        self.wanted = self.wanted.max(sequence);
    }

    /// Asks for a commit of everything up to `sequence`, so that it is vouched for.
    pub fn want_vouched(&mut self, sequence: u64) {
        self.vouch_wanted = self.vouch_wanted.max(sequence);
    }

    /// Ring clusters in use.
    pub fn used(&self) -> u64 {
        self.head - self.tail
    }

    /// Ring clusters in all.
    pub fn ring(&self) -> u64 {
        self.ring
    }

    fn open_clusters(&self) -> u64 {
        self.open_bytes.div_ceil(CLUSTER_SIZE) as u64
    }

    /// Whether another block fits (and what a wrap skips) and leaves `reserve` clusters.
    fn has_room(&self, reserve: u64) -> bool {
        mutant!(23) || self.used() + 2 * JOURNAL_BLOCK_CLUSTERS_MAX + reserve <= self.ring
    }

    /// Ring clusters that `reserved` record bytes may still take, and what the cut may.
    fn promised(&self, reserved: usize) -> u64 {
        let blocks = reserved / PER_BLOCK + 2;
        blocks as u64 * JOURNAL_BLOCK_CLUSTERS_MAX + CUT_RESERVE
    }

    /// Whether the open block may be closed before it is full: without the buffer that this takes
    /// there are enough for what was promised. At the latest when no block waits or is written,
    /// since [`Journal::reserve`] keeps two.
    fn may_close_early(&self) -> bool {
        let taken = usize::from(!self.fits_short());
        self.reserved <= self.spare.len().saturating_sub(taken) * PER_BLOCK
    }

    /// Whether the open block can be written from the short buffer.
    fn fits_short(&self) -> bool {
        self.open_bytes <= CLUSTER_SIZE && self.short.is_some()
    }

    /// The open block, whose buffer stays, as one of one cluster: a FLUSH clears and moves what it
    /// needs and not what a full block would.
    fn copy_short(&mut self) -> Option<Buf> {
        if !self.fits_short() {
            return None;
        }
        let mut short = self.short.take()?;
        let used = 0..self.open_bytes;
        if let (Some(to), Some(from)) = (short.get_mut(used.clone()), self.open.get(used)) {
            to.copy_from_slice(from);
        }
        if let Some(tail) = short.get_mut(self.open_bytes..self.short_used) {
            tail.fill(0);
        }
        self.short_used = self.open_bytes;
        Some(short)
    }

    /// The open block with its buffer, which another one takes the place of.
    fn take_open(&mut self) -> Result<Buf> {
        let next = self.spare.pop().ok_or(ENOMEM)?;
        let mut block = core::mem::replace(&mut self.open, next);
        // The block is written from its first to its last cluster: clear what lies between.
        let end = self.open_clusters() as usize * CLUSTER_SIZE;
        if let Some(tail) = block.get_mut(self.open_bytes..end) {
            tail.fill(0);
        }
        block.truncate(end);
        Ok(block)
    }

    /// Closes the open block and queues it; all data up to `durable_upto` will be durable before it.
    /// Fails only if the promises were broken.
    fn seal(&mut self, identity: &Identity, durable_upto: u64) -> Result {
        let clusters = self.open_clusters();
        let mut block = match self.copy_short() {
            Some(block) => block,
            None => self.take_open()?,
        };
        let header = BlockHeader {
            uuid: identity.uuid,
            clusters,
            sequence: self.sequence,
            incarnation: self.incarnation,
            durable_upto,
            superblock_generation: identity.superblock_generation,
            attached_seconds: identity.attached_seconds,
            record_bytes: self.open_bytes - HEADER_BYTES,
        };
        self.chain = codec::seal(&mut block, &header, self.chain, identity.hash);
        let offset = self.offset;
        let written = Written {
            place: Cluster(self.start.0 + offset),
            sequence: self.sequence,
            durable_upto,
            records: core::mem::take(&mut self.open_records),
        };
        let _ = self.sealed.push_within_capacity(Sealed { block, written });
        let next = codec::next_offset(offset, clusters, self.ring);
        self.head += if next == 0 {
            self.ring - offset
        } else {
            clusters
        };
        self.offset = next;
        self.sequence += 1;
        self.open_bytes = HEADER_BYTES;
        self.is_plain = false;
        Ok(())
    }

    /// Whether [`Journal::cut`] would succeed; if not, the block being written has to end first.
    pub fn can_cut(&self) -> bool {
        !self.has_open_records() || (self.has_room(0) && self.may_close_early())
    }

    /// The cut of a checkpoint: seals the open block, and says where the journal goes on.
    pub fn cut(&mut self, identity: &Identity) -> Option<(Join, u64)> {
        let plain = self.sequence;
        if !self.can_cut() || (self.has_open_records() && self.seal(identity, plain).is_err()) {
            return None;
        }
        let join = Join {
            incarnation: self.incarnation,
            sequence: self.sequence,
            offset: self.offset,
            chain: self.chain,
        };
        Some((join, self.head))
    }

    /// A checkpoint that was cut at `head`, before the block `next`, is durable: what is before it is
    /// not needed any more.
    pub fn release(&mut self, head: u64, next: u64) {
        self.tail = self.tail.max(head);
        self.vouched = self.vouched.max(next.saturating_sub(1));
    }

    /// What the commit needs next.
    pub fn commit(&mut self, identity: &Identity) -> Commit {
        if self.writing.is_some() {
            return Commit::Idle;
        }
        if self.sealed.is_empty() {
            let vouch = self.vouch_wanted > self.vouched;
            if !vouch && (self.wanted < self.sequence || !self.has_open_records()) {
                return Commit::Idle;
            }
            if !self.has_room(self.promised(self.reserved)) {
                return Commit::RingFull;
            }
            let quick = !vouch && !self.is_plain && self.open_clusters() <= QUICK_CLUSTERS;
            let durable_upto = match quick {
                true => self.durable,
                false => self.sequence,
            };
            if !self.may_close_early() || self.seal(identity, durable_upto).is_err() {
                return Commit::Idle;
            }
        }
        match self.sealed.remove(0) {
            Ok(Sealed { block, written }) => {
                self.writing = Some(written);
                self.blocks_written += 1;
                self.bytes_written += block.len() as u64;
                Commit::Write(written.place, block, written.durability())
            }
            Err(_) => Commit::Idle,
        }
    }

    /// The block in flight is durable. Gives its buffer back.
    pub fn written(&mut self, block: Buf) {
        if let Some(written) = self.writing.take() {
            self.durable = written.sequence;
            self.vouched = self.vouched.max(written.durable_upto);
        }
        self.keep(block);
    }

    /// The block in flight can't be written. Gives its buffer back.
    pub fn lost(&mut self, block: Buf) {
        self.writing = None;
        self.keep(block);
    }

    /// Where the block in flight goes, and how.
    pub fn in_flight(&self) -> Option<(Cluster, Durability)> {
        self.writing.map(|w| (w.place, w.durability()))
    }

    /// The sequence of the block in flight.
    pub fn sequence_in_flight(&self) -> Option<u64> {
        self.writing.map(|w| w.sequence)
    }

    /// Records of the block in flight.
    pub fn records_in_flight(&self) -> u32 {
        self.writing.map_or(0, |w| w.records)
    }

    /// Whether a block waits until the one in flight is durable.
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Whether a block is being written or waits for it.
    pub fn is_busy(&self) -> bool {
        self.writing.is_some() || !self.sealed.is_empty()
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "ring": self.ring,
            "used": self.used(),
            "start": self.start.0,
            "offset": self.offset,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "durable": self.durable,
            "vouched": self.vouched,
            "wanted": self.wanted,
            "vouch_wanted": self.vouch_wanted,
            "open_bytes": self.open_bytes,
            "open_records": self.open_records,
            "sealed_blocks": self.sealed.len(),
            "writing": Maybe(self.sequence_in_flight()),
            "spare_buffers": self.spare.len(),
            "promised_bytes": self.reserved,
            "blocks_written": self.blocks_written,
            "bytes_written": self.bytes_written,
        );
        Ok(())
    }

    fn keep(&mut self, mut block: Buf) {
        if block.capacity() >= BLOCK_BYTES_MAX {
            if extend_zeroed(&mut block, BLOCK_BYTES_MAX).is_err() {
                return;
            }
            let _ = self.spare.push_within_capacity(block);
        } else if block.len() == CLUSTER_SIZE {
            self.short = Some(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        uuid: [7; 16],
        superblock_generation: 1,
        attached_seconds: 1,
        hash: sum,
    };

    const JOIN: Join = Join {
        incarnation: 1,
        sequence: 1,
        offset: 0,
        chain: 1,
    };

    fn sum(bytes: &[u8], seed: u64) -> u64 {
        bytes.iter().fold(!seed, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
    }

    /// Appends records of `bytes` bytes that are not zero, and closes the block for somebody who waits.
    fn commit(journal: &mut Journal, bytes: usize) -> Buf {
        assert!(journal.reserve(bytes, false));
        let appended = journal.append(&IDENTITY, bytes, |buf, at| {
            buf[at..at + bytes].fill(0xff);
            at + bytes
        });
        journal.unreserve(bytes);
        journal.want(appended.unwrap());
        match journal.commit(&IDENTITY) {
            Commit::Write(_, block, _) => block,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_block_closed_early_is_clean_behind_its_records_and_takes_no_buffer_of_a_full_one() {
        let mut journal = Journal::new(Cluster(100), 1 << 20, JOIN, 0).unwrap();
        let mut chain = JOIN.chain;
        let mut is_short = |bytes: usize| {
            let block = commit(&mut journal, bytes);
            let end = HEADER_BYTES + bytes;
            assert_eq!(block.len(), end.next_multiple_of(CLUSTER_SIZE));
            assert!(block[HEADER_BYTES..end].iter().all(|b| *b == 0xff));
            assert!(block[end..].iter().all(|b| *b == 0), "{bytes} bytes");
            chain = codec::follows(&block, chain, sum).unwrap();
            let all = journal.spare.len() == BUFFERS - 1;
            journal.written(block);
            assert_eq!(journal.spare.len(), BUFFERS - 1);
            all
        };
        for bytes in [3000, 40, 900, CLUSTER_SIZE - HEADER_BYTES, 1, 2000] {
            assert!(is_short(bytes), "{bytes} bytes");
            assert!(!is_short(2 * CLUSTER_SIZE + bytes), "{bytes} bytes");
        }
    }

    #[test]
    fn a_cut_beside_a_short_block_takes_another_buffer() {
        let mut journal = Journal::new(Cluster(100), 1 << 20, JOIN, 0).unwrap();
        let first = commit(&mut journal, 500);
        assert!(journal.reserve(60, false));
        journal
            .append(&IDENTITY, 60, |buf, at| {
                buf[at..at + 60].fill(1);
                at + 60
            })
            .unwrap();
        assert!(journal.cut(&IDENTITY).is_some());
        assert_eq!(journal.spare.len(), BUFFERS - 2);
        journal.written(first);
        let Commit::Write(_, second, _) = journal.commit(&IDENTITY) else {
            panic!("the cut's block is written next");
        };
        assert!(second[HEADER_BYTES + 60..].iter().all(|b| *b == 0));
        journal.written(second);
        assert_eq!((journal.spare.len(), journal.durable()), (BUFFERS - 1, 2));
    }
}
