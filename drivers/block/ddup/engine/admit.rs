// SPDX-License-Identifier: GPL-2.0

//! Admission: a request that changes the store is let in when everything that it may need was
//! promised: journal bytes, memory of the overlay, pages that the next checkpoint may have to
//! rewrite, and clusters for those pages. After that nothing on its way can fail for want of room,
//! and an acknowledged write needs nothing more.
//!
//! Writers are slowed down smoothly: while a checkpoint runs, the active set may fill only as far
//! as the checkpoint has come.

use super::format::journal::{map_bytes_max, SMALL_RECORD_MAX};
use super::format::page::{PUNCH_LEAF, VOLUME_LEAF};
use super::mark::mark;
use super::member::entries_of;
use super::op::{OpKind, Phase, Reservation};
use super::overlay::PUNCHES_MAX;
use super::state::Store;
use super::types::{Status, Tag};

/// A discard of at most this many blocks becomes points at once; a larger one becomes a punch.
pub const DISCARD_POINTS_MAX: u64 = 64;

/// How an admission ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// All was promised; or the request is to fail, which it does by itself.
    Granted,
    /// The request waits, and what it waits for was set going.
    Later,
    /// There is no room for its metadata, and nothing under way that gives some back; it waits.
    NoSpace,
}

impl Store {
    /// What a request may add at most.
    fn worst_case(&self, tag: Tag) -> Option<Reservation> {
        let op = self.ops.get(tag)?;
        let levels = self.volumes.get(op.request.volume as usize)?.levels;
        let count = op.request.count;
        let points_max = self.discard_points_max(tag);
        let entries = match self.member.is_some() && op.stage.is_none() {
            true => entries_of(op.request.kind, count),
            false => 0,
        };
        Some(match op.request.kind {
            OpKind::Write => Reservation {
                bytes: map_bytes_max(count as usize),
                points: count as usize,
                deltas: count as usize,
                punches: count as usize,
                pages: self.overlay.worst_pages(count, levels),
                entries,
            },
            _ if count <= points_max => Reservation {
                bytes: 2 * SMALL_RECORD_MAX,
                points: count as usize,
                deltas: 0,
                punches: 2,
                pages: self.overlay.worst_pages(count, levels),
                entries,
            },
            _ => Reservation {
                bytes: SMALL_RECORD_MAX,
                points: 0,
                deltas: 0,
                punches: 2,
                pages: 2,
                entries,
            },
        })
    }

    /// Up to how many blocks a discard becomes points. Of a peer's stream it is one: an entry must
    /// not need more room than another.
    pub(super) fn discard_points_max(&self, tag: Tag) -> u64 {
        match self.ops.get(tag).is_some_and(|op| op.stage.is_some()) {
            true => 1,
            false => DISCARD_POINTS_MAX,
        }
    }

    /// The most pages that one checkpoint may have to rewrite.
    pub(super) fn pages_max(&self) -> u64 {
        pages_max(self.superblock.layout.clusters)
    }

    /// The part of `max` that may be in use now.
    fn paced(&self, max: u64) -> u64 {
        match self.checkpointer.progress() {
            None => max,
            Some((done, total)) => max / 2 + max / 2 * done.min(total) / total.max(1),
        }
    }

    /// Whether a set that merges at most this much more is within its bounds. An eighth of them is
    /// kept from requests, so that those that wait for space leave room to what frees it.
    pub(super) fn fits_overlay(&self, want: &Reservation, for_request: bool) -> bool {
        let active = &self.overlay.active;
        let points = active.points.len() + self.reserved.points + want.points;
        let deltas = active.deltas.len() + self.reserved.deltas + want.deltas;
        let pages = self.overlay.pages(active) + self.reserved.pages + want.pages;
        let punches = self.overlay.exposed() + self.reserved.punches + want.punches;
        let alone = active.is_empty() && self.reserved == Reservation::default();
        let bound = |max: u64| {
            let kept = if for_request { max / 8 } else { 0 };
            self.paced(max) - kept
        };
        let points_max = bound(self.config.points_max.into());
        let fits = points as u64 <= points_max
            && deltas as u64 <= 2 * points_max
            && pages <= bound(self.pages_max());
        // Only a large discard, which has no points, makes a punch where there is none.
        let no_punch = want.punches == 0 || (want.points > 0 && !self.overlay.is_exposed());
        (fits || alone) && (no_punch || punches as u64 <= bound(PUNCHES_MAX as u64))
    }

    /// Whether the metadata segments have room for what two checkpoints may rewrite.
    pub(super) fn fits_metadata(&mut self, want: &Reservation, frees: bool) -> bool {
        let waiting = self.overlay.pages(&self.overlay.active)
            + self.overlay.pages(&self.overlay.frozen)
            + self.reserved.pages
            + want.pages;
        // What only takes space leaves a part of the reserve to what gives it back.
        let kept = if frees { 32 } else { self.pages_max() / 4 + 64 };
        // The lists are written anew by every checkpoint, while the last one's are still held.
        let lists = self.overlay.punches() as u64 / PUNCH_LEAF
            + self.volumes.len() as u64 / VOLUME_LEAF
            + self.superblock.layout.select_pages();
        let kept = kept + 2 * (lists + 4);
        while self.space.wants_metadata(waiting + kept) {
            if !self.space.grow_metadata() {
                return false;
            }
        }
        true
    }

    /// Promises a request what it needs, if there is room.
    pub(super) fn try_admit(&mut self, tag: Tag) -> Admission {
        let Some(want) = self.worst_case(tag) else {
            return Admission::Granted;
        };
        let frees = self
            .ops
            .get(tag)
            .is_some_and(|op| op.request.kind != OpKind::Write);
        if !self.fits_overlay(&want, true) {
            self.checkpointer.want();
            return Admission::Later;
        }
        // What a pin keeps is given up before anybody waits for it.
        let mut fits = self.fits_metadata(&want, frees);
        if !fits && self.pin.is_some() {
            mark!(pin_gives_way);
            self.end_pin();
            fits = self.fits_metadata(&want, frees);
        }
        if !fits {
            if self.overlay.active.is_empty()
                && self.reserved == Reservation::default()
                && !self.checkpointer.is_running()
            {
                mark!(no_metadata_at_all);
                if self.config.knobs.wait_for_space {
                    return Admission::NoSpace;
                }
                // Nothing will give pages back by itself: no space for this one.
                if let Some(op) = self.ops.get_mut(tag) {
                    op.phase = Phase::Running;
                    op.status = Status::NoSpace;
                    op.todo = 0;
                    for block in op.blocks.iter_mut() {
                        block.state = super::op::BlockState::Failed;
                    }
                }
                return Admission::Granted;
            }
            self.checkpointer.want();
            return Admission::Later;
        }
        let overlay_room = self.overlay.reserve(
            self.reserved.points + want.points,
            self.reserved.deltas + want.deltas,
            self.reserved.punches + want.punches,
        );
        let blocks = self.reserved.points + want.points;
        if overlay_room.is_err() || self.locks.reserve(blocks).is_err() {
            return Admission::Later;
        }
        if self.holds.reserve(self.holds.len() + blocks).is_err() {
            return Admission::Later;
        }
        if want.entries > 0 && !self.admit_entries(want.entries) {
            return Admission::Later;
        }
        if !self.journal.reserve(want.bytes, true) {
            // Full buffers empty by themselves; a full ring needs a checkpoint.
            self.journal.want(self.journal.last_sequence());
            if self.journal.used() > self.journal.ring() / 4 {
                self.checkpointer.want();
            }
            return Admission::Later;
        }
        self.reserved.bytes += want.bytes;
        self.reserved.points += want.points;
        self.reserved.deltas += want.deltas;
        self.reserved.punches += want.punches;
        self.reserved.pages += want.pages;
        self.reserved.entries += want.entries;
        if let Some(op) = self.ops.get_mut(tag) {
            op.reservation = want;
        }
        Admission::Granted
    }

    /// Takes back what a request was promised and did not use, and what it used.
    pub(super) fn release_reservation(&mut self, tag: Tag) {
        let Some(op) = self.ops.get_mut(tag) else {
            return;
        };
        let had = core::mem::take(&mut op.reservation);
        self.journal.unreserve(had.bytes);
        self.reserved.bytes -= had.bytes;
        self.reserved.points -= had.points;
        self.reserved.deltas -= had.deltas;
        self.reserved.punches -= had.punches;
        self.reserved.pages -= had.pages;
        self.reserved.entries -= had.entries;
    }
}

/// The most pages that one checkpoint of a store may have to rewrite: the dirty-page cap.
pub fn pages_max(store_clusters: u64) -> u64 {
    (store_clusters / 80).clamp(512, 1 << 16)
}
