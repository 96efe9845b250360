// SPDX-License-Identifier: GPL-2.0

//! DISCARD and WRITE ZEROES, and the reaper that finishes the large ones.
//!
//! A small range becomes points. A large one is one record and one punch, whatever it covers; the
//! reaper then walks what is mapped below it, leaf by leaf, and turns each mapped block into a
//! point, which releases its cluster at the next merge. The reaper journals nothing: a checkpoint
//! holds the punches that are left together with what came of the others, so after a crash it
//! starts again from there.

use super::format::journal::{self as codec, Record, SMALL_RECORD_MAX};
use super::format::page::{MapEntry, MAP_LEAF};
use super::mark::mark;
use super::op::Reservation;
use super::overlay::{key, key_parts};
use super::recover::FailReason;
use super::state::{Mode, Store};
use super::tree::Page;
use super::types::{Lbn, Status, Tag};

/// Blocks that the reaper takes at a time where room is short.
const REAPER_FEW: u64 = 8;

impl Store {
    /// Makes a range read as zeroes.
    pub(super) fn run_discard(&mut self, tag: Tag) {
        if self.stage_zeroes(tag) {
            return;
        }
        let Some((request, status)) = self.ops.get(tag).map(|op| (op.request, op.status)) else {
            return;
        };
        if status != Status::Ok {
            return self.finish(tag, status);
        }
        let slot = request.volume as usize;
        if !self.record_zeroes(slot, request.lbn, request.count) {
            return self.finish(tag, Status::Io);
        }
        self.append_zeroes(tag, slot, request.lbn, request.count);
        if self.ops.get(tag).is_some_and(|op| op.request.fua) {
            return self.wait_for_commit(tag);
        }
        self.finish(tag, Status::Ok);
    }

    /// Journals and applies that a range reads as zeroes.
    pub(super) fn append_zeroes(&mut self, tag: Tag, slot: usize, lbn: Lbn, count: u64) {
        let Some((volume, levels)) = self.volumes.get(slot).map(|v| (v.id, v.levels)) else {
            return;
        };
        self.stats.blocks_discarded += count;
        let mut applied = Ok(());
        if count > self.discard_points_max(tag) {
            mark!(discard_becomes_punch);
            self.append_small(tag, &Record::Discard { volume, lbn, count });
            applied = self.overlay.punch(slot, lbn, count);
        } else {
            let (mut lbn, end) = (lbn.0, lbn.0 + count);
            while lbn < end {
                let leaf_end = ((lbn / MAP_LEAF + 1) * MAP_LEAF).min(end);
                let record = Record::Unmap {
                    volume,
                    lbn: Lbn(lbn),
                    count: leaf_end - lbn,
                    more: leaf_end < end,
                };
                self.append_small(tag, &record);
                self.overlay.note_record();
                for lbn in lbn..leaf_end {
                    applied = applied.and(self.overlay.set(slot, Lbn(lbn), MapEntry::NONE, levels));
                }
                lbn = leaf_end;
            }
        }
        self.note_change();
        if applied.is_err() {
            self.fail(FailReason::Promise);
        }
    }

    fn append_small(&mut self, tag: Tag, record: &Record<'_>) {
        let identity = self.identity();
        let appended = self.journal.append(&identity, SMALL_RECORD_MAX, |buf, at| {
            codec::write_small(buf, at, record)
        });
        match appended {
            Ok(sequence) => {
                if let Some(op) = self.ops.get_mut(tag) {
                    op.sequence = sequence;
                }
            }
            Err(_) => self.fail(FailReason::Promise),
        }
    }

    /// One step of the reaper: at most one leaf, or one stretch in which nothing is mapped.
    pub(super) fn reaper_step(&mut self) -> bool {
        let none = self.overlay.punches() == 0 || self.maps_change_places();
        if self.mode != Mode::Attached || none {
            return false;
        }
        let Some((start, end)) = self
            .overlay
            .next_punch(self.reaper_cursor)
            .or_else(|| self.overlay.next_punch(0))
        else {
            return false;
        };
        self.reaper_cursor = start;
        let (slot, lbn) = key_parts(start);
        let Some(tree) = self.map(slot) else {
            return false;
        };
        let leaf = match self.page(&tree, lbn.0, 0) {
            Page::Here(page) => Ok(page),
            Page::Absent(until) => Err(until),
            Page::Wait(page) => {
                self.background_page = Some(page);
                return false;
            }
            Page::Busy => return false,
        };
        // The frozen set may map blocks that the tree does not show yet.
        let frozen = self
            .overlay
            .frozen
            .points
            .next_from(start)
            .map_or(u64::MAX, |e| e.0);
        let stretch = match leaf {
            Err(until) => end.min(key(slot, Lbn(0)).saturating_add(until)).min(frozen),
            Ok(_) => start,
        };
        if stretch > start {
            mark!(reaper_skips_unmapped);
            // The durable list of punches is out of date.
            self.dirty_since.get_or_insert(self.now);
            let done = self.overlay.cut_punches(start, stretch).is_ok();
            self.hurry_shrink(slot);
            return done;
        }
        let leaf_end = key(slot, Lbn((lbn.0 / MAP_LEAF + 1) * MAP_LEAF)).min(end);
        // Where room is short a few blocks at a time: they may be what frees it.
        let few = leaf_end.min(start + REAPER_FEW);
        mark!(reaper_at_a_leaf);
        let Some(stop) = [leaf_end, few].into_iter().find(|stop| {
            let want = Reservation {
                points: (stop - start) as usize,
                pages: self
                    .overlay
                    .worst_pages_of_release(stop - start, tree.levels),
                ..Reservation::default()
            };
            self.fits_overlay(&want, false)
        }) else {
            self.checkpointer.want();
            return false;
        };
        let points = self.reserved.points + (stop - start) as usize;
        let (deltas, punches) = (self.reserved.deltas, self.reserved.punches);
        if self.overlay.reserve(points, deltas, punches).is_err()
            || self.overlay.cut_punches(start, stop).is_err()
        {
            return false;
        }
        self.dirty_since.get_or_insert(self.now);
        for at in start..stop {
            let lbn = key_parts(at).1;
            let entry = self
                .overlay
                .frozen
                .points
                .get(at)
                .unwrap_or_else(|| match leaf {
                    Ok(page) => MapEntry::read(self.cache.page(page), lbn.0 % MAP_LEAF),
                    Err(_) => MapEntry::NONE,
                });
            // Also what older versions left of zeroes: else its leaf would keep its page.
            if entry != MapEntry::NONE
                && self
                    .overlay
                    .set(slot, lbn, MapEntry::NONE, tree.levels)
                    .is_err()
            {
                self.fail(FailReason::Promise);
                return false;
            }
        }
        self.hurry_shrink(slot);
        true
    }

    /// The next checkpoint ends the shrink of a volume if all was released that had to go.
    fn hurry_shrink(&mut self, slot: usize) {
        let shrinks = self.volumes.get(slot).is_some_and(|v| v.keeps.is_some());
        if shrinks && self.releasing(slot) == 0 {
            self.checkpointer.want();
        }
    }
}
