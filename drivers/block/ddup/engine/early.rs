// SPDX-License-Identifier: GPL-2.0

//! Writes that are acknowledged early: before their data is on disk, as by a disk with a volatile
//! cache (D4).
//!
//! A plain write of which only the data I/O is missing was promised all the room that its record
//! needs, so nothing but that I/O can fail, and what fails is tried elsewhere. Between the
//! acknowledgement and the record order is kept by waiting: a FLUSH, and a request for one of those
//! blocks, follow when no such write is left. While somebody follows no other write is
//! acknowledged early, so what they wait for is under way already.
//!
//! Data that no try got to the disk is lost. Its block is journaled all the same, with a cluster
//! that was not written, which is quarantined: reads of it fail, and so does the next FLUSH of its
//! volume.
//!
//! There is one [`Early`] per store, owned by it.

use super::mark::mark;
use super::mutant::mutant;
use super::op::{BlockState, OpKind, WaitList};
use super::overlay::key;
use super::sorted::SortedMap;
use super::state::{Mode, Store};
use super::types::{Cluster, Lbn, Status, Tag, VOLUMES_MAX};
use super::{Action, Request};
use kernel::prelude::*;

/// Writes that are acknowledged early at a time. Enough to keep a disk busy.
pub const EARLY_WRITES_MAX: usize = 128;

/// Blocks of all of them: the memory that holds their data.
const BLOCKS_MAX: u32 = 1024;

/// The writes that are acknowledged and not recorded.
pub struct Early {
    /// Their blocks: how many from this one on. No two of them overlap.
    ranges: SortedMap<u32>,
    /// Blocks of all of them.
    blocks: u32,
    /// Wait until there is none.
    followers: WaitList,
    /// Volumes, by slot, of which data was lost and no FLUSH has said so.
    lost: [u64; VOLUMES_MAX / 64],
}

impl Early {
    /// None yet. In a box: it would be large for the stack of who makes a store.
    #[inline(never)]
    pub fn new() -> Result<KBox<Early>> {
        let mut ranges = SortedMap::new();
        ranges.reserve(EARLY_WRITES_MAX)?;
        let early = Early {
            ranges,
            blocks: 0,
            followers: WaitList::new(),
            lost: [0; VOLUMES_MAX / 64],
        };
        Ok(KBox::new(early, GFP_KERNEL)?)
    }

    /// How many there are.
    pub fn writes(&self) -> usize {
        self.ranges.len()
    }

    /// Whether somebody waits for the data I/O of one of them.
    pub fn is_followed(&self) -> bool {
        !self.followers.is_empty()
    }

    /// Whether data was lost of which no FLUSH has told.
    pub fn has_lost(&self) -> bool {
        self.lost != [0; VOLUMES_MAX / 64]
    }

    fn overlaps(&self, slot: usize, lbn: Lbn, count: u64) -> bool {
        let (first, end) = (key(slot, lbn), key(slot, lbn) + count);
        self.ranges
            .last_before(end)
            .is_some_and(|(at, blocks)| at + u64::from(blocks) > first)
    }
}

impl Store {
    /// Acknowledges a write of which only the data I/O is missing. False: it ends with that.
    pub(super) fn acknowledge(&mut self, tag: Tag) -> bool {
        let Some(op) = self.ops.get(tag) else {
            return false;
        };
        let (slot, lbn) = (op.request.volume as usize, op.request.lbn);
        let blocks = op.blocks.len() as u32;
        let quiesces = self.is_quiescing();
        // In a small store what they were promised would keep others out.
        let crowds = self.reserved.pages > self.pages_max() / 4;
        let early = &mut self.early;
        if early.is_followed() && !mutant!(40)
            || early.ranges.len() >= EARLY_WRITES_MAX
            || early.blocks + blocks > BLOCKS_MAX
            || early.overlaps(slot, lbn, blocks.into())
            || self.mode != Mode::Attached
            || quiesces
            || crowds
            || early.ranges.insert(key(slot, lbn), blocks).is_err()
        {
            return false;
        }
        early.blocks += blocks;
        if let Some(op) = self.ops.get_mut(tag) {
            op.early = true;
        }
        mark!(write_acknowledged_early);
        self.act(Action::Acknowledge { tag });
        true
    }

    /// Whether a request that came has to wait for writes that were acknowledged early; it does then.
    pub(super) fn follow(&mut self, request: &Request) -> bool {
        let early = &mut self.early;
        let (slot, lbn) = (request.volume as usize, request.lbn);
        let follows = match request.kind {
            OpKind::Flush => !early.ranges.is_empty() && !mutant!(41),
            OpKind::Read => early.overlaps(slot, lbn, request.count) && !mutant!(42),
            _ => early.overlaps(slot, lbn, request.count) && !mutant!(43),
        };
        if follows {
            mark!(request_follows_early_writes);
            self.ops.park(&mut early.followers, request.tag);
        }
        follows
    }

    /// A write that was acknowledged early is recorded, or will not be.
    pub(super) fn end_early(&mut self, tag: Tag) {
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        if !core::mem::take(&mut op.early) {
            return;
        }
        let first = key(op.request.volume as usize, op.request.lbn);
        let early = &mut self.early;
        if let Some(blocks) = early.ranges.remove(first) {
            early.blocks -= blocks;
        }
        if early.ranges.is_empty() {
            let mut followers = core::mem::take(&mut early.followers);
            while let Some(tag) = self.ops.unpark(&mut followers) {
                self.let_in(tag);
            }
        }
    }

    /// Nothing is left to be tried for a block. What was acknowledged is recorded as lost, in the
    /// cluster of its last try; else the request fails.
    pub(super) fn give_up_block(&mut self, tag: Tag, block: u32, status: Status) {
        let early = self.ops.get(tag).is_some_and(|op| op.early);
        let Some(b) = self.ops.block_mut(tag, block).filter(|_| early) else {
            return self.fail_block(tag, block, status);
        };
        if b.cluster == Cluster::NONE {
            return self.fail_block(tag, block, status);
        }
        b.lost = true;
        b.state = BlockState::ReadyFresh;
        let volume = self.ops.get(tag).map_or(0, |op| op.request.volume);
        self.note_lost(volume);
    }

    /// Data of a volume that was acknowledged is lost: the next FLUSH of that volume fails.
    pub(super) fn note_lost(&mut self, volume: u32) {
        self.stats.blocks_lost += 1;
        if let Some(word) = self.early.lost.get_mut(volume as usize / 64) {
            *word |= u64::from(!mutant!(44)) << (volume % 64);
        }
        mark!(acknowledged_write_lost);
    }

    /// Whether a FLUSH of a volume has to tell that data was lost; it does so once.
    pub(super) fn tells_lost(&mut self, volume: u32) -> bool {
        let Some(word) = self.early.lost.get_mut(volume as usize / 64) else {
            return false;
        };
        let lost = *word >> (volume % 64) & 1 != 0;
        *word &= !(1 << (volume % 64));
        lost
    }
}
