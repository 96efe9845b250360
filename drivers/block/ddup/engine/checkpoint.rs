// SPDX-License-Identifier: GPL-2.0

//! The checkpoint: merges the frozen set into the trees, beside I/O, and makes that the durable
//! state of the store. At most one runs.
//!
//! 1. *Cut*: the journal's open block is sealed, the active set becomes the frozen one, the
//!    punches are copied. From here on new records belong to the next checkpoint.
//! 2. *Maps*: leaf by leaf, the frozen points replace entries; an owned entry that is replaced
//!    gives its cluster a delta of -1 in the frozen set.
//!    Then volumes get their new size (`volume.rs`).
//! 3. *Counts*, *names*: leaf by leaf, the frozen deltas. A count that becomes zero makes Junk.
//!    The merge goes in order, so a parent is written as soon as the merge leaves it: only one
//!    path of each tree is held at a time.
//! 4. *Table*: volume table, punches, and the pages of the segment table into their other places;
//!    at a detach also the index (`saved.rs`).
//! 5. When all of that is written: the superblock, first copy with PREFLUSH and FUA, then the
//!    distant one. Its end is the durable event that frees the journal's tail, the places of the
//!    old pages and the frozen set.
//!
//! Every page goes to a cluster that the last durable checkpoint does not use, so a crash before 5
//! finds that one whole.

use super::births::{Births, Tick};
use super::buf::zeroed;
use super::cache::{SlotId, SlotState, Tree};
use super::event::{Event, Life, LifeRun};
use super::format::page::{self, tree, CountEntry, MapEntry, PageId, Pointer, PunchEntry};
use super::format::page::{BITMAP_BYTES, BITMAP_PAGE, COUNT_LEAF, FANOUT, HEADER_BYTES, MAP_LEAF};
use super::format::page::{NAME_LEAF, PUNCH_LEAF, SEGMENT_PAGE, SELECT_PAGE, VOLUME_LEAF};
use super::format::superblock::{Join, Superblock};
use super::format::{le, page::VolumeEntry};
use super::mark::mark;
use super::mutant::mutant;
use super::op::Reservation;
use super::overlay::{key, key_parts, Delta, PUNCHES_MAX};
use super::recover::FailReason;
use super::replication::types::{Position, REIGNS_MAX};
use super::show::{lines, Maybe, Plain};
use super::state::{IoToken, Mode, Store};
use super::tree::Page;
use super::types::{Cluster, Generation, Lbn, Millis, Name, CLUSTER_SIZE, LEVELS_MAX};
use super::{Action, Buf, Durability};
use core::fmt;
use kernel::prelude::*;

/// Page writes in flight at once.
const WRITES_MAX: u32 = 64;
/// Leaves or pages that one step deals with.
const STEP_PAGES: usize = 16;
/// Leaves that are read ahead of the merge.
const READ_AHEAD: usize = 16;
/// Failed writes of one checkpoint that are tried again.
const RETRIES_MAX: u32 = 8;
/// A tick of the generation for checkpoints comes at most this often, in milliseconds.
const TICK_INTERVAL: Millis = 1000;

/// How far the checkpoint has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// None is running.
    Idle,
    /// Merging points.
    Maps,
    /// Changing the size of volumes.
    Volumes,
    /// Merging counts.
    Counts,
    /// Merging names.
    Names,
    /// Writing volume table and punches.
    Lists,
    /// Writing the segment table, from this page on.
    Table(u64),
    /// Saving the index, at a detach.
    Index,
    /// Waiting until all of that is written.
    Settle,
    /// Writing a copy of the superblock.
    Superblock(u8),
}

struct Cut {
    join: Join,
    head: u64,
    attached_seconds: u64,
    /// Births of the pages that this checkpoint makes.
    birth: Generation,
    clean: bool,
}

/// The running checkpoint, and what stays between two of them.
pub struct Checkpointer {
    stage: Stage,
    wanted: bool,
    /// The generation that new entries are born in.
    generation: Generation,
    ticked: Millis,
    cut: Option<Cut>,
    cursor: u64,
    done: u64,
    total: u64,
    /// Interior pages on the way to the leaf merged last, by level: changed, and not written yet.
    path: [Option<SlotId>; LEVELS_MAX],
    writes: u32,
    retries: u32,
    spare: KVec<Buf>,
    /// Places of the volume table's and the punches' pages.
    places: [KVec<Cluster>; 2],
    punches: KVec<(u64, u64)>,
    /// Where a member's history ends at the cut.
    history: KVec<Position>,
    /// Which generations had ended there at the cut.
    births: Births,
    next: Option<KBox<Superblock>>,
    /// The final checkpoint of a detach is durable.
    final_done: bool,
}

impl Checkpointer {
    /// Nothing is running.
    pub(super) fn new(
        generation: Generation,
        now: Millis,
        places: [KVec<Cluster>; 2],
    ) -> Result<KBox<Self>> {
        let checkpointer = try_init!(Checkpointer {
            stage: Stage::Idle,
            wanted: false,
            generation,
            ticked: now,
            cut: None,
            cursor: 0,
            done: 0,
            total: 0,
            path: [None; LEVELS_MAX],
            writes: 0,
            retries: 0,
            spare: KVec::with_capacity(2 * WRITES_MAX as usize, GFP_KERNEL)?,
            places,
            punches: KVec::new(),
            history: KVec::with_capacity(REIGNS_MAX + 1, GFP_KERNEL)?,
            births: Births::default(),
            next: None,
            final_done: false,
        });
        KBox::try_init(checkpointer, GFP_KERNEL)
    }

    /// Asks for a checkpoint.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether one is running or was asked for.
    pub(super) fn is_running(&self) -> bool {
        self.wanted || self.stage != Stage::Idle
    }

    /// The generation that new entries are born in.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// How much of the merge is done, of how much; `None` if none is running.
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        (self.stage != Stage::Idle).then_some((self.done, self.total))
    }

    /// Whether the final checkpoint of a detach is durable.
    pub(super) fn is_done(&self) -> bool {
        self.final_done && !self.is_running()
    }

    /// Whether the running checkpoint has a punch that touches `from..to`.
    pub(super) fn has_punch(&self, from: u64, to: u64) -> bool {
        self.punches
            .iter()
            .any(|&(start, end)| start < to && end > from)
    }

    /// Punches of the checkpoint that was made last, by key.
    pub(super) fn punches(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.punches.iter().copied()
    }

    /// Two volumes have exchanged their maps.
    pub(super) fn exchange_punches(&mut self, slots: (usize, usize)) {
        for (start, end) in self.punches.iter_mut() {
            let (slot, lbn) = key_parts(*start);
            let to = match slot {
                slot if slot == slots.0 => slots.1,
                slot if slot == slots.1 => slots.0,
                _ => continue,
            };
            let count = *end - *start;
            *start = key(to, lbn);
            *end = *start + count;
        }
    }

    /// What it shows of itself.
    pub(super) fn show(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        lines!(out,
            "generation": self.generation.0,
            "stage": Plain(self.stage),
            "wanted": u8::from(self.wanted),
            "cut_before_block": Maybe(self.cut.as_ref().map(|cut| cut.join.sequence)),
            "cursor": self.cursor,
            "merged": self.done,
            "to_merge": self.total,
            "writes": self.writes,
            "write_retries": self.retries,
            "spare_buffers": self.spare.len(),
            "punches": self.punches.len(),
        );
        Ok(())
    }

    /// Nothing will be written any more.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Idle;
        self.wanted = false;
    }
}

impl Store {
    /// One bounded step. True: more can be done now.
    pub(super) fn checkpoint_step(&mut self) -> bool {
        if !self.is_writable() {
            return false;
        }
        match self.checkpointer.stage {
            Stage::Idle => self.should_cut() && self.cut(),
            Stage::Maps => self.merge_step(Self::merge_map_leaf),
            Stage::Volumes => {
                self.reshape_volumes() && {
                    self.checkpointer.stage = Stage::Counts;
                    true
                }
            }
            Stage::Counts => self.merge_step(Self::merge_count_leaf),
            Stage::Names => self.merge_step(Self::merge_name_leaf),
            Stage::Lists => self.write_lists(),
            Stage::Table(from) => self.write_table(from),
            Stage::Index => self.save_index(),
            Stage::Settle => {
                (self.checkpointer.writes == 0 || mutant!(29)) && self.write_superblock(0)
            }
            Stage::Superblock(_) => false,
        }
    }

    fn should_cut(&mut self) -> bool {
        if self.pin_holds_cut() {
            mark!(cut_waits_for_pin);
            return false;
        }
        let dirty = self.dirty_since.is_some();
        let old = self
            .dirty_since
            .is_some_and(|at| self.now >= at + self.config.knobs.checkpoint_interval);
        let last = self.mode == Mode::Detaching
            && self.ops.in_flight == 0
            && !self.recycler.is_busy()
            && !self.checkpointer.final_done;
        last || self.change_waits()
            || (dirty && (self.checkpointer.wanted || old || self.is_half_full()))
            || {
                self.checkpointer.wanted = false;
                false
            }
    }

    /// Whether the active set, or the journal since the last cut, takes half of what it may.
    pub(super) fn is_half_full(&self) -> bool {
        let active = &self.overlay.active;
        let points_max = self.config.points_max as usize;
        active.points.len() >= points_max / 2
            || active.deltas.len() >= points_max
            || self.overlay.pages(active) >= self.pages_max() / 2
            || self.overlay.exposed() >= self.overlay.punches() + PUNCHES_MAX / 2
            || self.journal.used() >= self.journal.ring() / 2
    }

    /// Step 1.
    fn cut(&mut self) -> bool {
        self.end_pin_at_cut();
        let clean =
            self.mode == Mode::Detaching && self.ops.in_flight == 0 && !self.recycler.is_busy();
        // If it fails now, for want of memory or of a journal buffer, it is tried again soon.
        self.checkpointer.want();
        // A checkpoint never holds a part of an epoch.
        if !mutant!(87) && !self.seal_epoch() {
            mark!(member_cut_waits_for_seal);
            return false;
        }
        if !self.prepare_change() {
            return false;
        }
        let Some(punches) = self.punches_of_cut() else {
            return false;
        };
        let identity = self.identity();
        let Reservation { points, deltas, .. } = self.reserved;
        if !self.journal.can_cut() || self.overlay.freeze(points, deltas).is_err() {
            mark!(cut_waits);
            return false;
        }
        let Some((join, head)) = self.journal.cut(&identity) else {
            self.fail(FailReason::Promise);
            return false;
        };
        if mutant!(22) {
            self.journal.release(head, 0);
        }
        let mut history = core::mem::take(&mut self.checkpointer.history);
        history.clear();
        for end in self.history_at_cut().iter().flat_map(|h| h.ends()) {
            // There is room for as many as a history has.
            let _ = history.push_within_capacity(*end);
        }
        self.checkpointer.history = history;
        self.scans_at_cut();
        let now = self.now;
        let (before, mut births) = (self.superblock.position(), self.births_at_cut());
        let c = &mut self.checkpointer;
        let birth = c.generation;
        let end = c.history.last().copied().unwrap_or_default();
        // A reign begins or a member is detached: what follows is told apart.
        let apart = end.reign != before.reign || (clean && end.epoch > 0);
        let ticks = apart || now >= c.ticked + TICK_INTERVAL;
        if ticks {
            c.generation = Generation(birth.0 + 1);
            c.ticked = now;
            births.note(Tick {
                generation: birth,
                epoch: if mutant!(264) { before } else { end }.epoch,
            });
        }
        c.births = births;
        c.cut = Some(Cut {
            join,
            head,
            attached_seconds: identity.attached_seconds,
            birth,
            clean,
        });
        c.punches = punches;
        c.wanted = false;
        c.stage = Stage::Maps;
        c.cursor = 0;
        c.done = 0;
        c.retries = 0;
        let frozen = &self.overlay.frozen;
        c.total = (frozen.points.len() + 2 * frozen.deltas.len()) as u64 + 1;
        self.tell(Event::CheckpointBegun {
            number: self.superblock.checkpoint.number + 1,
            blocks: self.overlay.frozen.points.len() as u64,
            clusters: self.overlay.frozen.deltas.len() as u64,
        });
        self.dirty_since = None;
        self.open_since = None;
        self.apply_change(birth);
        true
    }

    /// The punches that the checkpoint begins with. `None`: no memory.
    fn punches_of_cut(&self) -> Option<KVec<(u64, u64)>> {
        let replaces = &self.replaces.pairs;
        let mut punches = KVec::new();
        let count = self.overlay.punches() + replaces.len();
        punches.reserve(count, GFP_KERNEL).ok()?;
        self.overlay.for_each_punch(|start, end| {
            let slot = key_parts(start).0;
            if mutant!(28) || replaces.iter().any(|&(volume, _)| volume == slot) {
                return;
            }
            let _ = punches.push_within_capacity((start, end));
        });
        // Of a map that another one replaces all goes.
        for &(slot, _) in replaces.iter().filter(|_| !mutant!(92)) {
            let blocks = self.volumes.get(slot).map_or(0, |v| v.blocks);
            let first = key(slot, Lbn(0));
            let _ = punches.push_within_capacity((first, first + blocks));
        }
        Some(punches)
    }

    /// Merges some leaves by `merge`, which answers the key to go on from, or `None` to wait.
    fn merge_step(&mut self, merge: fn(&mut Self, u64) -> Option<u64>) -> bool {
        for _ in 0..STEP_PAGES {
            if self.checkpointer.writes >= WRITES_MAX {
                return false;
            }
            let cursor = self.checkpointer.cursor;
            let stage = self.checkpointer.stage;
            let frozen = &self.overlay.frozen;
            let next = match stage {
                Stage::Maps => frozen.points.next_from(cursor).map(|e| e.0),
                _ => frozen.deltas.next_from(cursor).map(|e| e.0),
            };
            let Some(next) = next else {
                if !self.leave_path(None) {
                    return false;
                }
                self.checkpointer.cursor = 0;
                self.checkpointer.stage = match stage {
                    Stage::Maps => Stage::Volumes,
                    Stage::Counts => Stage::Names,
                    _ => Stage::Lists,
                };
                return true;
            };
            let Some(after) = merge(self, next) else {
                if self.is_writable() {
                    self.read_ahead(next);
                }
                return false;
            };
            self.checkpointer.cursor = after;
        }
        true
    }

    /// Starts to read the leaves that the merge will need after `from`.
    fn read_ahead(&mut self, from: u64) {
        let mut cursor = from;
        for _ in 0..READ_AHEAD {
            let frozen = &self.overlay.frozen;
            let (tree, entry, after) = match self.checkpointer.stage {
                Stage::Maps => {
                    let Some((at, _)) = frozen.points.next_from(cursor) else {
                        return;
                    };
                    let (slot, lbn) = key_parts(at);
                    let Some(tree) = self.map(slot) else {
                        return;
                    };
                    (
                        tree,
                        lbn.0,
                        key(slot, Lbn((lbn.0 / MAP_LEAF + 1) * MAP_LEAF)),
                    )
                }
                Stage::Counts | Stage::Names => {
                    let Some((at, _)) = frozen.deltas.next_from(cursor) else {
                        return;
                    };
                    let counts = self.checkpointer.stage == Stage::Counts;
                    let tree = if counts { self.counts } else { self.names };
                    (tree, at, tree.end_of(at, 0))
                }
                _ => return,
            };
            if self.page(&tree, entry, 0) == Page::Busy {
                return;
            }
            cursor = after;
        }
    }

    /// Makes sure that all ancestors of a leaf are here and stay, and writes those of the leaf
    /// before that are none of this one. False: wait.
    fn prepare_path(&mut self, tree: &Tree, entry: u64) -> bool {
        if !self.leave_path(Some((tree, entry))) {
            return false;
        }
        for level in (1..tree.levels).rev() {
            let at = usize::from(level);
            if self
                .checkpointer
                .path
                .get(at)
                .is_some_and(|slot| slot.is_some())
            {
                continue;
            }
            let Some(slot) = self.page_to_change(tree, entry, level) else {
                return false;
            };
            if let (Some(s), Some(held)) = (
                self.cache.slot_mut(slot),
                self.checkpointer.path.get_mut(at),
            ) {
                s.state = SlotState::Dirty;
                *held = Some(slot);
            }
        }
        true
    }

    /// Writes the pages of the path that are no ancestors of the entry `next`, from below. False:
    /// wait, or the store failed.
    fn leave_path(&mut self, next: Option<(&Tree, u64)>) -> bool {
        for level in 1..LEVELS_MAX {
            let Some(slot) = self.checkpointer.path.get(level).copied().flatten() else {
                continue;
            };
            let Some(id) = self.cache.slot(slot).map(|s| s.id) else {
                return false;
            };
            let stays = |(tree, entry): (&Tree, u64)| {
                id.tree == tree.id && id == tree.page_at(entry, id.level)
            };
            if next.is_some_and(stays) {
                return true;
            }
            let Some(tree) = self.tree_by_id(id.tree) else {
                return false;
            };
            let Some(buf) = self.take_buf() else {
                return false;
            };
            let page = self.cache.page(slot);
            let highest = (0..FANOUT)
                .map(|i| Pointer::of_child(page, i).highest)
                .max();
            if self
                .write_slot(&tree, slot, highest.unwrap_or(0), buf)
                .is_none()
            {
                return false;
            }
            if let Some(held) = self.checkpointer.path.get_mut(level) {
                *held = None;
            }
        }
        true
    }

    /// The page, or a new empty one if there is none. `None`: wait. A new page of an interior
    /// level counts as clean until the caller marks it.
    fn page_to_change(&mut self, tree: &Tree, entry: u64, level: u8) -> Option<SlotId> {
        match self.page(tree, entry, level) {
            Page::Here(slot) => {
                let state = self.cache.slot(slot)?.state;
                (state != SlotState::Writing).then_some(slot)
            }
            Page::Absent(_) => {
                let id = tree.page_at(entry, level);
                let slot = self.cache.take_slot(id, SlotState::Clean, Pointer::NULL)?;
                self.cache.page_mut(slot).fill(0);
                Some(slot)
            }
            Page::Wait(slot) => {
                self.background_page = Some(slot);
                None
            }
            Page::Busy => None,
        }
    }

    /// Step 2, for the leaf of the point at `at`.
    fn merge_map_leaf(&mut self, at: u64) -> Option<u64> {
        let (volume_slot, lbn) = key_parts(at);
        let after = key(volume_slot, Lbn((lbn.0 / MAP_LEAF + 1) * MAP_LEAF));
        let Some(tree) = self.map(volume_slot) else {
            self.fail(FailReason::Inconsistent(
                "a change of a volume that does not exist",
            ));
            return None;
        };
        let buf = self.take_buf()?;
        let slot = self
            .prepare_path(&tree, lbn.0)
            .then(|| self.page_to_change(&tree, lbn.0, 0))
            .flatten();
        let Some(slot) = slot else {
            self.keep_buf(buf);
            return None;
        };
        let mut cursor = self.overlay.frozen.points.seek(at);
        while let Some((point, entry)) = self.overlay.frozen.points.next(&mut cursor) {
            if point >= after {
                break;
            }
            let index = key_parts(point).1 .0 % MAP_LEAF;
            let old = MapEntry::read(self.cache.page(slot), index);
            if old.is_mapped()
                && old.birth.0 > tree.parent_generation
                && self.overlay.release_in_merge(old.cluster).is_err()
            {
                self.fail(FailReason::Promise);
                return None;
            }
            entry.write(self.cache.page_mut(slot), index);
            self.checkpointer.done += 1;
        }
        let leaf = self.cache.page(slot);
        let highest = (0..MAP_LEAF)
            .map(|i| MapEntry::read(leaf, i).cluster.0)
            .max();
        self.write_slot(&tree, slot, highest.unwrap_or(0), buf)?;
        Some(after)
    }

    /// Step 3, for the leaf of the cluster `at`.
    fn merge_count_leaf(&mut self, at: u64) -> Option<u64> {
        let tree = self.counts;
        let after = (at / COUNT_LEAF + 1) * COUNT_LEAF;
        let buf = self.take_buf()?;
        let slot = self
            .prepare_path(&tree, at)
            .then(|| self.page_to_change(&tree, at, 0))
            .flatten();
        let Some(slot) = slot.filter(|&slot| self.withdraw_full(slot, at, after)) else {
            self.keep_buf(buf);
            return None;
        };
        let since = self
            .checkpointer
            .cut
            .as_ref()
            .map_or(0, |cut| cut.attached_seconds);
        let mut run = LifeRun::default();
        let mut cursor = self.overlay.frozen.deltas.seek(at);
        while let Some((cluster, delta)) = self.overlay.frozen.deltas.next(&mut cursor) {
            if cluster >= after {
                break;
            }
            let old = CountEntry::read(self.cache.page(slot), cluster % COUNT_LEAF);
            let Some((new, change)) = merge_count(old, &delta, since) else {
                self.fail(FailReason::Inconsistent(
                    "a count below zero, or above its limit",
                ));
                return None;
            };
            if self.observer.is_some() {
                if let Some((life, owners)) = life_of(old, new, &delta) {
                    run.add(self, life, cluster, owners);
                }
            }
            let [available, junk, live] = change;
            if change != [0; 3] && !self.space.change(Cluster(cluster), available, junk, live) {
                self.fail(FailReason::Inconsistent(
                    "a segment's counts and its clusters differ",
                ));
                return None;
            }
            new.write(self.cache.page_mut(slot), cluster % COUNT_LEAF);
            self.owner_count = self.owner_count.saturating_add_signed(delta.count.into());
            self.checkpointer.done += 1;
        }
        run.end(self);
        self.write_slot(&tree, slot, 0, buf)?;
        Some(after)
    }

    /// Takes the clusters of a count leaf whose counts are full after this merge out of the index,
    /// so that a second cluster takes the name. False: wait for a page.
    fn withdraw_full(&mut self, slot: SlotId, from: u64, to: u64) -> bool {
        let full = i64::from(self.config.knobs.count_full);
        let mut cursor = self.overlay.frozen.deltas.seek(from);
        while let Some((cluster, delta)) = self.overlay.frozen.deltas.next(&mut cursor) {
            if cluster >= to {
                break;
            }
            if delta.count <= 0 {
                continue;
            }
            let count = match CountEntry::read(self.cache.page(slot), cluster % COUNT_LEAF) {
                CountEntry::Live(count) => i64::from(count),
                _ => 0,
            };
            if count + i64::from(delta.count) < full {
                continue;
            }
            let name = if delta.fresh {
                delta.name
            } else {
                match self.page(&self.names.clone(), cluster, 0) {
                    Page::Here(names) => {
                        page::name_read(self.cache.page(names), cluster % NAME_LEAF)
                    }
                    Page::Absent(_) => Name::NONE,
                    Page::Wait(names) => {
                        self.background_page = Some(names);
                        return false;
                    }
                    Page::Busy => return false,
                }
            };
            self.index.remove(&name, Cluster(cluster));
            mark!(count_full_withdrawn);
        }
        true
    }

    /// Step 3, for the name leaf of the cluster `at`.
    fn merge_name_leaf(&mut self, at: u64) -> Option<u64> {
        let tree = self.names;
        let after = (at / NAME_LEAF + 1) * NAME_LEAF;
        let renames = |delta: &Delta| delta.fresh || delta.retired || delta.quarantined;
        // Deltas that only count leave the names alone.
        let mut first = at;
        loop {
            match self.overlay.frozen.deltas.next_from(first) {
                Some((cluster, delta)) if cluster < after => {
                    if renames(&delta) {
                        break;
                    }
                    first = cluster + 1;
                }
                _ => return Some(after),
            }
        }
        let buf = self.take_buf()?;
        let slot = self
            .prepare_path(&tree, at)
            .then(|| self.page_to_change(&tree, at, 0))
            .flatten();
        let Some(slot) = slot else {
            self.keep_buf(buf);
            return None;
        };
        let mut cursor = self.overlay.frozen.deltas.seek(first);
        while let Some((cluster, delta)) = self.overlay.frozen.deltas.next(&mut cursor) {
            if cluster >= after {
                break;
            }
            if renames(&delta) {
                let name = if delta.quarantined {
                    // Nobody may share it any more, whichever name it was found under.
                    let old = page::name_read(self.cache.page(slot), cluster % NAME_LEAF);
                    self.index.remove(&old, Cluster(cluster));
                    self.index.remove(&delta.name, Cluster(cluster));
                    Name::NONE
                } else {
                    delta.name
                };
                page::name_write(self.cache.page_mut(slot), cluster % NAME_LEAF, &name);
            }
            self.checkpointer.done += 1;
        }
        self.write_slot(&tree, slot, 0, buf)?;
        Some(after)
    }

    fn tree_by_id(&self, id: u32) -> Option<Tree> {
        match id {
            tree::NAMES => Some(self.names),
            tree::COUNTS => Some(self.counts),
            _ => self.map(self.volumes.iter().position(|v| v.map == id)?),
        }
    }

    /// Gives a changed page a new place, lets a copy of it be written there, and sets its parent's
    /// pointer. A page without entries goes instead. `None`: the store failed.
    pub(super) fn write_slot(
        &mut self,
        tree: &Tree,
        slot: SlotId,
        highest: u64,
        mut buf: Buf,
    ) -> Option<()> {
        let (id, old) = self.cache.slot(slot).map(|s| (s.id, s.pointer))?;
        let owned = old.birth.0 > tree.parent_generation;
        if !old.is_null() && owned && !mutant!(9) && !self.space.give_page(old.place) {
            self.fail(FailReason::Inconsistent("a page whose place is not in use"));
            return None;
        }
        let empty = self
            .cache
            .page(slot)
            .iter()
            .skip(HEADER_BYTES)
            .all(|&byte| byte == 0);
        let pointer = if empty {
            self.keep_buf(buf);
            self.cache.release(slot);
            mark!(page_became_empty);
            self.wake_page_waiters();
            Pointer::NULL
        } else {
            let pointer = self.seal_page(slot, id, highest)?;
            buf.as_mut_slice().copy_from_slice(self.cache.page(slot));
            if let Some(s) = self.cache.slot_mut(slot) {
                s.pointer = pointer;
                s.state = SlotState::Writing;
            }
            self.write_meta(IoToken::PageWrite(slot), pointer.place, buf);
            pointer
        };
        if id.level + 1 < tree.levels {
            let parent = PageId {
                level: id.level + 1,
                index: id.index / FANOUT,
                ..id
            };
            let parent = self.cache.find(parent)?;
            pointer.set_child(self.cache.page_mut(parent), id.index % FANOUT);
        } else {
            self.set_root(id.tree, pointer);
        }
        Some(())
    }

    fn seal_page(&mut self, slot: SlotId, id: PageId, highest: u64) -> Option<Pointer> {
        let Some(place) = self.space.take_page() else {
            self.fail(FailReason::Inconsistent(
                "no metadata cluster, although one was promised",
            ));
            return None;
        };
        let (hash, uuid) = (self.config.hash, self.superblock.uuid);
        let checkpoint = self.superblock.checkpoint.number + 1;
        let birth = self
            .checkpointer
            .cut
            .as_ref()
            .map_or(Generation(0), |cut| cut.birth);
        let page = self.cache.page_mut(slot);
        let sum = page::seal(page, hash, &uuid, id, place, birth, checkpoint);
        Some(Pointer {
            place,
            highest: highest.max(place.0),
            sum,
            birth,
            checkpoint,
        })
    }

    fn set_root(&mut self, id: u32, pointer: Pointer) {
        match id {
            tree::NAMES => self.names.root = pointer,
            tree::COUNTS => self.counts.root = pointer,
            _ => {
                if let Some(volume) = self.volumes.iter_mut().find(|v| v.map == id) {
                    volume.root = pointer;
                }
            }
        }
    }

    fn write_meta(&mut self, token: IoToken, cluster: Cluster, buf: Buf) {
        self.checkpointer.writes += 1;
        self.stats.pages_written += 1;
        self.act(Action::WriteMeta {
            token,
            cluster,
            buf,
            durability: Durability::None,
        });
    }

    /// Step 4: volume table and punches, whole; and the places of the select pages. All that takes
    /// or gives places comes before the segment table that shows it.
    fn write_lists(&mut self) -> bool {
        let volumes = self.volumes.iter().filter(|v| v.is_there()).count() as u64;
        let punches = self.checkpointer.punches.len();
        let pages_of = |entries: u64, leaf: u64| {
            let leaves = entries.div_ceil(leaf.max(1));
            (leaves + u64::from(leaves > 1) + 1) as usize
        };
        let pages = [
            pages_of(volumes, VOLUME_LEAF),
            pages_of(punches as u64, PUNCH_LEAF),
        ];
        let mut entries = KVec::new();
        let mut punched = KVec::new();
        let [mut places_0, mut places_1] = [KVec::new(), KVec::new()];
        let room = punched
            .reserve(punches, GFP_KERNEL)
            .and_then(|()| entries.reserve(volumes as usize, GFP_KERNEL))
            .and_then(|()| places_0.reserve(pages[0], GFP_KERNEL))
            .and_then(|()| places_1.reserve(pages[1], GFP_KERNEL));
        if room.is_err() || !self.fill_spare(pages[0] + pages[1]) {
            return false;
        }
        let Some(mut next) = self.next_superblock() else {
            return false;
        };
        let old = core::mem::replace(&mut self.checkpointer.places, [places_0, places_1]);
        for place in old.into_iter().flatten() {
            self.space.give_page(place);
        }
        for &(start, end) in self.checkpointer.punches.iter() {
            let (slot, lbn) = key_parts(start);
            let entry = PunchEntry {
                volume: self.owner_to_be(slot),
                start: lbn,
                count: end - start,
            };
            let _ = punched.push_within_capacity(entry);
        }
        for slot in 0..self.volumes.len() {
            if let Some(entry) = self.entry_to_be(slot).filter(|v| v.is_there()) {
                let _ = entries.push_within_capacity(entry);
            }
        }
        let root = self.write_blob(tree::VOLUMES, 0, &entries, VOLUME_LEAF, |e, page, slot| {
            VolumeEntry::write(e, page, slot)
        });
        let punch_root = self.write_blob(tree::PUNCHES, 1, &punched, PUNCH_LEAF, |e, page, at| {
            PunchEntry::write(e, page, at)
        });
        let (Some(root), Some(punch_root)) = (root, punch_root) else {
            return false;
        };
        next.checkpoint.volumes = root;
        next.checkpoint.punches = punch_root;
        let select = self.space.layout().select_pages() as usize;
        for pointer in next.select.iter_mut().take(select) {
            if !pointer.is_null() {
                self.space.give_page(pointer.place);
            }
            pointer.place = self.space.take_page().unwrap_or(Cluster::NONE);
        }
        self.checkpointer.next = Some(next);
        self.checkpointer.stage = Stage::Table(0);
        true
    }

    /// Step 4: the changed pages of the segment table, from `from` on; then the select pages.
    fn write_table(&mut self, from: u64) -> bool {
        let pages = self.space.layout().table_pages();
        let mut page = from;
        for _ in 0..STEP_PAGES {
            let dirty = self.space.table_dirty.iter().skip(page as usize);
            page = match dirty.clone().position(|&dirty| dirty) {
                Some(ahead) => page + ahead as u64,
                None => pages,
            };
            self.checkpointer.stage = Stage::Table(page);
            if page >= pages {
                return self.write_select();
            }
            if self.checkpointer.writes >= WRITES_MAX {
                return false;
            }
            let Some(buf) = self.take_buf() else {
                return false;
            };
            self.write_table_page(page, buf);
        }
        true
    }

    fn write_select(&mut self) -> bool {
        let select = self.space.layout().select_pages() as usize;
        if !self.fill_spare(select) {
            return false;
        }
        let Some(mut next) = self.checkpointer.next.take() else {
            return false;
        };
        for (index, pointer) in (0..).zip(next.select.iter_mut().take(select)) {
            let Some(written) = self.write_select_page(index, pointer.place) else {
                return false;
            };
            *pointer = written;
        }
        self.checkpointer.next = Some(next);
        let clean = self.checkpointer.cut.as_ref().is_some_and(|cut| cut.clean);
        self.checkpointer.stage = match clean && self.begin_save() {
            true => Stage::Index,
            false => Stage::Settle,
        };
        true
    }

    /// Step 4, at a detach: the index.
    fn save_index(&mut self) -> bool {
        let Some(saved) = self.save_step() else {
            return false;
        };
        if let Some(next) = self.checkpointer.next.as_mut() {
            next.index = saved;
        }
        self.checkpointer.stage = Stage::Settle;
        true
    }

    // In a frame of its own: with its caller's it would be too large for the stack.
    #[inline(never)]
    fn next_superblock(&self) -> Option<KBox<Superblock>> {
        let cut = self.checkpointer.cut.as_ref()?;
        let mut next = KBox::new(self.superblock.try_clone().ok()?, GFP_KERNEL).ok()?;
        next.generation += 1;
        next.clean = cut.clean;
        if self.member.is_some() {
            next.set_history(&self.checkpointer.history).ok()?;
            next.births = self.checkpointer.births;
        }
        next.joins.clear();
        next.joins.push_within_capacity(cut.join).ok()?;
        let c = &mut next.checkpoint;
        c.number += 1;
        c.generation = self.checkpointer.generation;
        c.attached_seconds = cut.attached_seconds;
        c.punch_count = self.checkpointer.punches.len() as u64;
        c.volume_count = self.volumes.iter().filter(|v| v.is_there()).count() as u64;
        c.next_volume = self.next_volume();
        c.owner_count = self.owner_count;
        c.names = self.names.root;
        c.counts = self.counts.root;
        Some(next)
    }

    /// Writes a list as leaves, below one interior page if there are several. `None`: the store
    /// failed.
    fn write_blob<T>(
        &mut self,
        id: u32,
        list: usize,
        entries: &[T],
        leaf: u64,
        encode: fn(&T, &mut [u8], u64),
    ) -> Option<Pointer> {
        let mut root = self.take_buf()?;
        root.as_mut_slice().fill(0);
        let leaves = entries.len().div_ceil(leaf.max(1) as usize);
        let mut only = Pointer::NULL;
        for (index, chunk) in entries.chunks(leaf.max(1) as usize).enumerate() {
            let mut buf = self.take_buf()?;
            buf.as_mut_slice().fill(0);
            for (slot, entry) in chunk.iter().enumerate() {
                encode(entry, &mut buf, slot as u64);
            }
            let id = PageId {
                tree: id,
                level: 0,
                index: index as u64,
            };
            only = self.write_loose(id, buf, list)?;
            only.set_child(&mut root, index as u64);
        }
        if leaves > 1 {
            return self.write_loose(
                PageId {
                    tree: id,
                    level: 1,
                    index: 0,
                },
                root,
                list,
            );
        }
        self.keep_buf(root);
        Some(only)
    }

    fn write_loose(&mut self, id: PageId, buf: Buf, list: usize) -> Option<Pointer> {
        let Some(place) = self.space.take_page() else {
            self.fail(FailReason::Inconsistent(
                "no metadata cluster, although one was promised",
            ));
            return None;
        };
        if let Some(places) = self.checkpointer.places.get_mut(list) {
            let _ = places.push_within_capacity(place);
        }
        Some(self.write_page_at(id, place, buf))
    }

    fn write_page_at(&mut self, id: PageId, place: Cluster, mut buf: Buf) -> Pointer {
        let (hash, uuid) = (self.config.hash, self.superblock.uuid);
        let checkpoint = self.superblock.checkpoint.number + 1;
        let birth = self
            .checkpointer
            .cut
            .as_ref()
            .map_or(Generation(0), |cut| cut.birth);
        let sum = page::seal(&mut buf, hash, &uuid, id, place, birth, checkpoint);
        self.write_meta(IoToken::LoosePage(place), place, buf);
        Pointer {
            place,
            highest: place.0,
            sum,
            birth,
            checkpoint,
        }
    }

    /// Writes a page of the segment table into the place that does not count.
    fn write_table_page(&mut self, page: u64, mut buf: Buf) {
        let layout = *self.space.layout();
        if let Some(dirty) = self.space.table_dirty.get_mut(page as usize) {
            *dirty = false;
        }
        buf.as_mut_slice().fill(0);
        if page < layout.entry_pages() {
            let first = (page * SEGMENT_PAGE) as usize;
            let segments = self
                .space
                .segments()
                .iter()
                .skip(first)
                .take(SEGMENT_PAGE as usize);
            for (slot, segment) in segments.enumerate() {
                segment.entry.write(&mut buf, slot as u64);
            }
        } else {
            let first = ((page - layout.entry_pages()) * BITMAP_PAGE) as usize;
            let bitmaps = self
                .space
                .metadata
                .iter()
                .skip(first)
                .take(BITMAP_PAGE as usize);
            for (slot, segment) in bitmaps.enumerate() {
                for (word, bits) in segment.iter().flat_map(|s| s.used.iter()).enumerate() {
                    let at = HEADER_BYTES + slot * BITMAP_BYTES + word * 8;
                    le::put_uint::<8>(&mut buf, at, *bits);
                }
            }
        }
        let mut place = false;
        if let Some(which) = self.space.table_place.get_mut(page as usize) {
            if !mutant!(10) {
                *which = !*which;
            }
            place = *which;
        }
        let id = PageId {
            tree: tree::SEGMENTS,
            level: 0,
            index: page,
        };
        self.write_page_at(id, layout.table_place(page, place), buf);
    }

    fn write_select_page(&mut self, index: u64, place: Cluster) -> Option<Pointer> {
        let Some(mut buf) = self.take_buf().filter(|_| place != Cluster::NONE) else {
            self.fail(FailReason::Promise);
            return None;
        };
        buf.as_mut_slice().fill(0);
        let first = (index * SELECT_PAGE) as usize;
        let places = self
            .space
            .table_place
            .iter()
            .skip(first)
            .take(SELECT_PAGE as usize);
        for (at, &second) in places.enumerate() {
            if let Some(byte) = buf.get_mut(HEADER_BYTES + at / 8) {
                *byte |= u8::from(second) << (at % 8);
            }
        }
        let id = PageId {
            tree: tree::SELECT,
            level: 0,
            index,
        };
        Some(self.write_page_at(id, place, buf))
    }

    /// Step 5, for one copy.
    fn write_superblock(&mut self, copy: u8) -> bool {
        let Some(mut buf) = self.take_buf() else {
            return false;
        };
        let Some(next) = self.checkpointer.next.as_ref() else {
            return false;
        };
        buf.as_mut_slice().fill(0);
        next.write(&mut buf, self.config.hash);
        let cluster = next.places()[usize::from(copy != 0)];
        self.checkpointer.stage = Stage::Superblock(copy);
        self.act(Action::WriteMeta {
            token: IoToken::Superblock(copy),
            cluster,
            buf,
            durability: match copy {
                0 if !mutant!(11) => Durability::AllBefore,
                _ => Durability::Own,
            },
        });
        true
    }

    /// A write of the checkpoint ended.
    pub(super) fn checkpoint_io_done(&mut self, token: IoToken, buf: Buf, ok: bool) {
        if let IoToken::PageWrite(_) | IoToken::LoosePage(_) = token {
            self.checkpointer.writes = self.checkpointer.writes.saturating_sub(1);
        }
        if !ok && self.is_writable() && !mutant!(33) {
            return self.retry_write(token, buf);
        }
        self.keep_buf(buf);
        match token {
            IoToken::PageWrite(slot) => {
                if let Some(s) = self.cache.slot_mut(slot) {
                    if s.state == SlotState::Writing {
                        s.state = SlotState::Clean;
                    }
                }
                self.wake_page_waiters();
            }
            IoToken::Superblock(copy) if self.checkpointer.stage == Stage::Superblock(copy) => {
                if copy == 0 {
                    self.checkpointer.stage = Stage::Superblock(1);
                    if !self.write_superblock(1) {
                        // No memory for the distant copy: the next checkpoint writes both.
                        self.checkpoint_durable();
                    }
                } else {
                    self.checkpoint_durable();
                }
            }
            _ => {}
        }
    }

    fn retry_write(&mut self, token: IoToken, buf: Buf) {
        self.checkpointer.retries += 1;
        mark!(checkpoint_write_retried);
        if self.checkpointer.retries > RETRIES_MAX {
            self.keep_buf(buf);
            mark!(checkpoint_given_up);
            return self.fail(FailReason::Checkpoint);
        }
        match token {
            IoToken::PageWrite(slot) => {
                let place = self
                    .cache
                    .slot(slot)
                    .map_or(Cluster::NONE, |s| s.pointer.place);
                self.write_meta(token, place, buf);
            }
            IoToken::LoosePage(place) => self.write_meta(token, place, buf),
            IoToken::Superblock(copy) => {
                self.keep_buf(buf);
                if !self.write_superblock(copy) {
                    self.fail(FailReason::Checkpoint);
                }
            }
            _ => {}
        }
    }

    /// The checkpoint is the durable state: what only the one before needed is free.
    fn checkpoint_durable(&mut self) {
        let (Some(next), Some(cut)) = (self.checkpointer.next.take(), self.checkpointer.cut.take())
        else {
            return;
        };
        self.superblock = next;
        self.space.checkpoint_durable();
        self.journal.release(cut.head, cut.join.sequence);
        self.journal_blocked = false;
        self.overlay.thaw();
        self.exchange_maps();
        self.wake_metadata_waiters();
        self.checkpointer.stage = Stage::Idle;
        self.checkpointer.final_done = cut.clean;
        self.stats.checkpoints += 1;
        mark!(checkpoint_durable);
        self.tell(Event::CheckpointDurable {
            number: self.superblock.checkpoint.number,
            pages: self.stats.pages_written,
        });
        self.end_change(true);
        self.scans_at_durable();
        self.checkpointer.spare.truncate(WRITES_MAX as usize);
    }

    pub(super) fn take_buf(&mut self) -> Option<Buf> {
        match self.checkpointer.spare.pop() {
            Some(buf) => Some(buf),
            None => zeroed(CLUSTER_SIZE).ok(),
        }
    }

    pub(super) fn keep_buf(&mut self, buf: Buf) {
        if buf.len() == CLUSTER_SIZE {
            let _ = self.checkpointer.spare.push_within_capacity(buf);
        }
    }

    fn fill_spare(&mut self, count: usize) -> bool {
        let spare = &mut self.checkpointer.spare;
        if spare
            .reserve(count.saturating_sub(spare.len()), GFP_KERNEL)
            .is_err()
        {
            return false;
        }
        while spare.len() < count {
            match zeroed(CLUSTER_SIZE) {
                Ok(buf) => {
                    let _ = spare.push_within_capacity(buf);
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// What became of a cluster by a merge, and the owners that it has now; `None` if nothing that its
/// owners don't say.
fn life_of(old: CountEntry, new: CountEntry, delta: &Delta) -> Option<(Life, u32)> {
    match (old, new) {
        (CountEntry::Junk { .. }, CountEntry::Live(owners)) if !delta.retired => {
            Some((Life::Resurrected, owners))
        }
        (CountEntry::Available | CountEntry::Junk { .. }, CountEntry::Live(owners)) => {
            Some((Life::Live, owners))
        }
        (CountEntry::Available | CountEntry::Live(_), CountEntry::Junk { .. }) => {
            Some((Life::Junk, 0))
        }
        (CountEntry::Junk { .. }, CountEntry::Available) => Some((Life::Available, 0)),
        _ => None,
    }
}

/// A cluster's new state, and how the numbers of available, junk and live clusters change.
/// `None`: the changes do not fit the state.
fn merge_count(old: CountEntry, delta: &Delta, since: u64) -> Option<(CountEntry, [i32; 3])> {
    let mut base = old;
    if delta.retired {
        base = match old {
            CountEntry::Junk { .. } => CountEntry::Available,
            _ => return None,
        };
    }
    let owners = match base {
        CountEntry::Live(count) | CountEntry::LiveQuarantined(count) => i64::from(count),
        _ => 0,
    } + i64::from(delta.count);
    let owners = u32::try_from(owners).ok()?;
    let bad = delta.quarantined
        || matches!(
            base,
            CountEntry::Quarantined | CountEntry::LiveQuarantined(_)
        );
    let untouched = base == CountEntry::Available && !delta.fresh && !delta.quarantined;
    let new = match (owners, bad) {
        (0, _) if untouched => CountEntry::Available,
        (0, false) => CountEntry::Junk { since },
        (0, true) => CountEntry::Quarantined,
        // Only what was handed out in this set may become Live from Available.
        (_, _) if untouched => return None,
        (count, false) => CountEntry::Live(count),
        (count, true) => CountEntry::LiveQuarantined(count),
    };
    let class = |entry| match entry {
        CountEntry::Available => [1, 0, 0],
        CountEntry::Junk { .. } => [0, 1, 0],
        _ => [0, 0, 1],
    };
    let (before, after) = (class(old), class(new));
    Some((
        new,
        [
            after[0] - before[0],
            after[1] - before[1],
            after[2] - before[2],
        ],
    ))
}
