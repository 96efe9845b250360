// SPDX-License-Identifier: GPL-2.0

//! What a verify of a peer (`replication/verify.rs`) repairs: what a block holds is recorded once more.
//!
//! A repair is a write of one block with a tag of its own, which goes the way of a request: it is
//! admitted, and its record is an entry of the open epoch. But its content comes from no shell: the
//! block keeps its cluster, or stays without one. That is looked at in the same breath in which the
//! record is appended, so a write is never undone: if the block holds something else by then, that is
//! on its way to the peer anyway.

use super::heal::HEAL_TAGS;
use super::mark::mark;
use super::mutant::mutant;
use super::op::{BlockContent, BlockState, OpKind, Request};
use super::replication::types::{Entry, Id, Op};
use super::stage::STAGE_TAGS;
use super::state::Store;
use super::types::{Check, Cluster, Lbn, Name, Status, Tag};

/// Tags of repairs: as many as the set asks for at once, and as many that an earlier verify left.
pub(super) const REPAIR_TAGS: u32 = 16;

/// A block that is being repaired.
#[derive(Clone, Copy, Debug)]
struct Repair {
    /// What the set calls it.
    token: u64,
    volume: Id,
}

/// The repairs under way, by tag.
pub(super) struct Repairs {
    repairs: [Option<Repair>; REPAIR_TAGS as usize],
    first_tag: Tag,
}

impl Repairs {
    pub(super) fn new(queue_depth: u32) -> Self {
        Repairs {
            repairs: [None; REPAIR_TAGS as usize],
            first_tag: queue_depth + STAGE_TAGS + HEAL_TAGS,
        }
    }

    /// How many there are.
    pub(super) fn under_way(&self) -> usize {
        self.repairs.iter().flatten().count()
    }

    fn place(&mut self, tag: Tag) -> Option<&mut Option<Repair>> {
        let at = tag.checked_sub(self.first_tag)?;
        self.repairs.get_mut(at as usize)
    }
}

impl Store {
    fn repair_of(&mut self, tag: Tag) -> Option<Repair> {
        *self.member.as_mut()?.repairs.place(tag)?
    }

    /// Whether a volume has such a block, and where it is.
    fn slot_with(&self, volume: &Id, lbn: u64) -> Option<usize> {
        let is_it = |slot: &usize| self.shown(*slot).is_some_and(|v| v.uuid == *volume);
        let slot = (0..self.volumes.len()).find(is_it)?;
        (lbn < self.blocks_of(slot)).then_some(slot)
    }

    /// Begins to record what a block holds once more.
    pub(super) fn begin_repair(&mut self, token: u64, entry: &Entry) {
        let free = self.member.as_ref().and_then(|member| {
            let repairs = &member.repairs;
            // One that has just ended may still be in a list.
            let is_free = |(at, place): &(u32, &Option<Repair>)| {
                place.is_none() && !self.ops.is_queued(repairs.first_tag + at)
            };
            let (at, _) = (0..).zip(&repairs.repairs).find(is_free)?;
            Some(repairs.first_tag + at)
        });
        let slot = self.slot_with(&entry.volume, entry.lbn);
        let (Some(tag), Some(slot)) = (free, slot) else {
            return self.tell_repaired(token, None);
        };
        let request = Request {
            tag,
            kind: OpKind::Write,
            volume: slot as u32,
            lbn: Lbn(entry.lbn),
            count: 1,
            fua: false,
        };
        let content = BlockContent {
            name: Name(entry.digest),
            check: Check(entry.check),
            zero: entry.op == Op::Zero,
        };
        if !self.prepare_op(request, &[content]) {
            return self.tell_repaired(token, None);
        }
        if let Some(op) = self.ops.get_mut(tag) {
            // The shell has no request to complete.
            op.handed_over = true;
        }
        let place = self.member.as_mut().and_then(|m| m.repairs.place(tag));
        if let Some(place) = place {
            *place = Some(Repair {
                token,
                volume: entry.volume,
            });
        }
        self.ops.in_flight += 1;
        self.ops.park(&mut self.admission, tag);
    }

    fn tell_repaired(&mut self, token: u64, epoch: Option<u64>) {
        if let Some(member) = self.member.as_mut() {
            member.set_mut().repaired(token, epoch);
        }
    }

    /// Appends the record of a repair, or ends it without. False: the op is none.
    pub(super) fn run_repair(&mut self, tag: Tag) -> bool {
        let Some(repair) = self.repair_of(tag) else {
            return false;
        };
        let Some((request, status)) = self.ops.get(tag).map(|op| (op.request, op.status)) else {
            return true;
        };
        let slot = self.slot_with(&repair.volume, request.lbn.0);
        let goes_on = status == Status::Ok
            && self.failed.is_none()
            && !self.is_refusing()
            && slot == Some(request.volume as usize);
        if goes_on {
            let Some(kept) = self.kept_by(tag, &request) else {
                // It waits for a page.
                return true;
            };
            if let Some(cluster) = kept {
                if let Some(b) = self.ops.block_mut(tag, 0) {
                    b.state = BlockState::Ready;
                    b.cluster = cluster;
                }
                self.append_ready(tag);
            }
        }
        let done = self
            .ops
            .block(tag, 0)
            .is_some_and(|b| b.state == BlockState::Done);
        if done {
            mark!(member_block_repaired);
        } else {
            mark!(member_block_not_repaired);
        }
        let epoch = self.member.as_ref().map(|m| m.set().newest_epoch());
        let place = self.member.as_mut().and_then(|m| m.repairs.place(tag));
        if let Some(place) = place {
            *place = None;
        }
        self.finish(tag, Status::Ok);
        self.tell_repaired(repair.token, epoch.filter(|_| done));
        true
    }

    /// The cluster that a block has and is to keep, [`Cluster::NONE`] if it is to have none. `Some(None)`:
    /// it holds something else by now. `None`: the op waits for a page.
    fn kept_by(&mut self, tag: Tag, request: &Request) -> Option<Option<Cluster>> {
        let entry = self.look_up(tag, request.volume as usize, request.lbn)?;
        let Some(content) = self.ops.block(tag, 0).map(|b| b.content) else {
            return Some(None);
        };
        if mutant!(73) && !content.zero {
            let (candidates, count) = self.index.lookup(&content.name);
            return Some(candidates.iter().take(count).next().copied());
        }
        if content.zero || !entry.is_mapped() {
            let none = !entry.is_mapped() && content.zero || mutant!(73);
            return Some(none.then_some(Cluster::NONE));
        }
        let full = self.config.knobs.count_full;
        let name = self.name_of(tag, entry.cluster)?;
        let same = entry.check == content.check && name == content.name;
        let fits = self.overlay.has_headroom(entry.cluster, full);
        Some((same && fits).then_some(entry.cluster))
    }
}
