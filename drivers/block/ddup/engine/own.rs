// SPDX-License-Identifier: GPL-2.0

//! What a replica holds in a range of blocks, for full compares. A store looks at one range at a time.
//!
//! Nothing is applied meanwhile, so the newest state is one state; it is read through overlay and
//! cache. A range that can't be read in time counts as different: then its blocks are told, and the
//! compare heals what was lost here.

use super::format::page::{MapEntry, MAP_LEAF};
use super::mark::mark;
use super::overlay::Lookup;
use super::replication::types::{Entry, Id, Op};
use super::state::Store;
use super::tree::Page;
use super::types::{Lbn, Millis};
use kernel::prelude::*;

/// How long pages of a range are waited for.
pub(super) const PATIENCE: Millis = 10_000;

/// A range that is being looked at.
pub(super) struct OwnRange {
    /// What the set calls it.
    token: u64,
    volume: Id,
    slot: usize,
    /// The next block, and the one behind the last.
    lbn: u64,
    end: u64,
    /// Mapped blocks; more than this many are not looked for.
    entries: KVec<Entry>,
    max: usize,
    until: Millis,
}

/// What is known of a block.
pub(super) enum Known {
    Entry(MapEntry),
    /// Nothing is mapped before this block.
    Nothing(u64),
    /// It is not known yet.
    Wait,
}

impl Store {
    /// Begins to look at a range; what was looked at before is not wanted. False: not now.
    pub(super) fn begin_own(
        &mut self,
        token: u64,
        volume: Id,
        range: (u64, u64),
        max: u32,
    ) -> bool {
        let is_it = |slot: &usize| self.shown(*slot).is_some_and(|v| v.uuid == volume);
        let slot = (0..self.volumes.len()).find(is_it);
        let Some(slot) = slot else {
            self.tell_own(token, None);
            return true;
        };
        let max = max as usize;
        let Ok(entries) = KVec::with_capacity(max + 1, GFP_KERNEL) else {
            return false;
        };
        let own = OwnRange {
            token,
            volume,
            slot,
            lbn: range.0,
            // The primary's volume may be larger: nothing is mapped there.
            end: range.1.min(self.blocks_of(slot)),
            entries,
            max,
            until: self.now + PATIENCE,
        };
        if let Some(member) = self.member.as_mut() {
            member.own = Some(own);
        }
        true
    }

    fn tell_own(&mut self, token: u64, entries: Option<&[Entry]>) {
        if let Some(member) = self.member.as_mut() {
            member.set_mut().owned(token, entries);
        }
    }

    /// Goes on with the range, until a page has to be read. True: it is done.
    pub(super) fn own_step(&mut self) -> bool {
        let Some(mut own) = self.member.as_mut().and_then(|m| m.own.take()) else {
            return false;
        };
        let known = self.look_at_own(&mut own);
        if !known && self.now < own.until {
            if let Some(member) = self.member.as_mut() {
                member.own = Some(own);
            }
            return false;
        }
        if !known {
            mark!(member_own_range_unknown);
        }
        self.tell_own(own.token, known.then_some(&own.entries[..]));
        true
    }

    /// True: all of it is known.
    fn look_at_own(&mut self, own: &mut OwnRange) -> bool {
        while own.lbn < own.end && own.entries.len() <= own.max {
            let entry = match self.known_at(own.slot, own.lbn) {
                Known::Entry(entry) => entry,
                Known::Nothing(until) => {
                    own.lbn = until;
                    continue;
                }
                Known::Wait => return false,
            };
            if entry.is_mapped() {
                let Some(name) = self.name_now(entry.cluster) else {
                    return false;
                };
                let _ = own.entries.push_within_capacity(Entry {
                    op: Op::Write,
                    fresh: false,
                    volume: own.volume,
                    lbn: own.lbn,
                    count: 1,
                    check: entry.check.0,
                    digest: name.0,
                });
            }
            own.lbn += 1;
        }
        true
    }

    /// What the newest state says of a block.
    pub(super) fn known_at(&mut self, slot: usize, lbn: u64) -> Known {
        let behind = self.overlay.next_point(slot, Lbn(lbn));
        if let Some(end) = self.overlay.zeroes_at(slot, Lbn(lbn)) {
            return Known::Nothing(end.min(behind));
        }
        if let Lookup::Entry(entry) = self.overlay.lookup(slot, Lbn(lbn)) {
            return Known::Entry(entry);
        }
        let Some(tree) = self.map(slot) else {
            return Known::Wait;
        };
        match self.page(&tree, lbn, 0) {
            Page::Here(page) => Known::Entry(MapEntry::read(self.cache.page(page), lbn % MAP_LEAF)),
            Page::Absent(end) => Known::Nothing(end.min(behind)),
            Page::Wait(_) | Page::Busy => Known::Wait,
        }
    }
}
