// SPDX-License-Identifier: GPL-2.0

//! Volumes come, go, and change their size while requests go on.
//!
//! A change is part of one checkpoint and of no record: it is prepared, applied at the next cut, and
//! told by [`Action::VolumeChanged`] when that checkpoint is durable. At most one is under way.
//!
//! What a volume loses, in a *shrink* or because it is removed, becomes one punch at that cut; its
//! entry keeps the old size and says how many blocks stay. The reaper turns the punch into released
//! clusters, leaf by leaf, as it does with any large discard, and the punches of each checkpoint are
//! its cursor. The first checkpoint that finds no such punch left ends the shrink: the map gets as
//! many levels as the size needs, or, if nothing stays, the volume has no entry any more.
//!
//! A volume is known by its *slot*, which it keeps while the store is attached. `shadow.rs` has how
//! its map is replaced by another one, `reshape.rs` what a change means to a replica set.

use super::cache::{SlotState, Tree};
use super::format::page::{levels_for, Pointer, VolumeEntry, MAP_LEAF};
use super::mark::mark;
use super::mutant::mutant;
use super::op::{Phase, Request, Reservation};
use super::overlay::key;
use super::recover::FailReason;
use super::reshape::Await;
use super::state::{Mode, Store};
use super::tree::Page;
use super::types::{Generation, Lbn, LBN_LIMIT, VOLUMES_MAX};
use super::{Action, VolumeChange};
use kernel::prelude::*;

/// Pages that a change may need beside those of requests: the levels of a map, and a longer table.
const CHANGE_PAGES: u64 = 16;

/// A change of a volume that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub(super) what: VolumeChange,
    pub(super) slot: usize,
    /// It is no entry of its set's history yet, and waits to become one.
    pub(super) waits: Option<Await>,
    /// It is part of the checkpoint that is being made.
    pub(super) cut: bool,
}

impl Store {
    /// Begins a change. Answers the slot of the volume.
    ///
    /// `EBUSY`: another change is under way, the volume is still being shrunk, or requests are in
    /// flight where blocks go. `ENOENT`: there is no such volume. `EINVAL`: not such a size, or it is
    /// the last volume. `ENOSPC`: as many as there may be, or no room for pages. `EROFS`.
    pub(super) fn change_volume(&mut self, what: VolumeChange) -> Result<u32> {
        self.may_change()?;
        let slot = match what {
            VolumeChange::Create { blocks, .. } | VolumeChange::Shadow { blocks, .. } => {
                check_size(blocks)?;
                self.vacant_slot()?
            }
            VolumeChange::Resize { slot, blocks } => {
                check_size(blocks)?;
                let volume = self.present(slot).ok_or(ENOENT)?;
                if volume.keeps.is_some() || self.is_used(slot, blocks) {
                    return Err(EBUSY);
                }
                slot as usize
            }
            VolumeChange::Remove { slot } => {
                let shown = self.present(slot).ok_or(ENOENT)?.is_shown();
                if shown && self.volumes.iter().filter(|v| v.is_shown()).count() == 1 {
                    return Err(EINVAL);
                }
                if self.is_used(slot, 0) {
                    return Err(EBUSY);
                }
                slot as usize
            }
            VolumeChange::Replace { slot, shadow } => {
                return self.replace_volumes(&[(slot, shadow)]);
            }
        };
        self.begin_change(what, slot)
    }

    /// Whether a change may begin.
    pub(super) fn may_change(&self) -> Result {
        match (self.mode, &self.change) {
            (Mode::Attached, None) => Ok(()),
            (Mode::Attached, Some(_)) => Err(EBUSY),
            _ => Err(EROFS),
        }
    }

    /// Begins a change that may be made.
    pub(super) fn begin_change(&mut self, what: VolumeChange, slot: usize) -> Result<u32> {
        let want = Reservation {
            pages: CHANGE_PAGES,
            ..Reservation::default()
        };
        if !self.fits_metadata(&want, true) {
            return Err(ENOSPC);
        }
        self.change = Some(Change {
            what,
            slot,
            waits: None,
            cut: false,
        });
        self.checkpointer.want();
        Ok(slot as u32)
    }

    /// The volume of a slot, unless it is being removed or is a shadow.
    pub(super) fn shown(&self, slot: usize) -> Option<&VolumeEntry> {
        self.volumes.get(slot).filter(|v| v.is_shown())
    }

    /// The volume or shadow of a slot, unless it is being removed.
    pub(super) fn present(&self, slot: u32) -> Option<&VolumeEntry> {
        self.volumes.get(slot as usize).filter(|v| v.is_present())
    }

    /// A slot for one more volume; there is memory for it.
    fn vacant_slot(&mut self) -> Result<usize> {
        let vacant = self.volumes.iter().position(|v| !v.is_there());
        if vacant.is_none() {
            if self.volumes.len() >= VOLUMES_MAX {
                return Err(ENOSPC);
            }
            self.volumes.reserve(1, GFP_KERNEL)?;
        }
        Ok(vacant.unwrap_or(self.volumes.len()))
    }

    /// Whether a request is in flight that touches the volume from block `from` on.
    pub(super) fn is_used(&self, slot: u32, from: u64) -> bool {
        self.is_used_by(slot, |r| r.lbn.0 + r.count > from)
    }

    /// Whether such a request is in flight on the volume.
    pub(super) fn is_used_by(&self, slot: u32, such: impl Fn(&Request) -> bool) -> bool {
        (0..self.ops.depth())
            .filter_map(|tag| self.ops.get(tag))
            // What is scrubbed may go meanwhile.
            .filter(|op| !self.is_scrub(op.request.tag))
            // What is staged waits for a switch, and so touches nothing before it.
            .filter(|op| op.stage.is_none_or(|stage| stage.is_local()))
            .any(|op| op.phase != Phase::Idle && op.request.volume == slot && such(&op.request))
    }

    /// Blocks of a volume that requests may touch.
    pub(super) fn blocks_of(&self, slot: usize) -> u64 {
        let size = self.volumes.get(slot).map_or(0, |v| v.size());
        match self.change {
            Some(change) if change.slot == slot => match change.what {
                // Nothing new comes where blocks go.
                VolumeChange::Resize { blocks, .. } => size.min(blocks),
                VolumeChange::Replace { .. } => self.blocks_replaced(slot, size),
                VolumeChange::Create { .. }
                | VolumeChange::Remove { .. }
                | VolumeChange::Shadow { .. } => 0,
            },
            _ => self.blocks_replaced(slot, size),
        }
    }

    /// Whether a change has begun that is in no checkpoint yet.
    pub(super) fn has_change(&self) -> bool {
        self.change.is_some_and(|change| !change.cut)
    }

    /// The change that is to be part of the next checkpoint.
    fn change_at_cut(&self) -> Option<Change> {
        self.change
            .filter(|change| !change.cut && change.waits.is_none())
    }

    /// Whether a change waits for the next cut.
    pub(super) fn change_waits(&self) -> bool {
        self.change_at_cut().is_some()
    }

    /// Before a cut: what goes is punched. False: no memory.
    pub(super) fn prepare_change(&mut self) -> bool {
        let Some(change) = self.change_at_cut() else {
            return true;
        };
        let blocks = self.volumes.get(change.slot).map_or(0, |v| v.blocks);
        let from = match change.what {
            VolumeChange::Resize { blocks: stay, .. } if stay < blocks => Some(stay),
            VolumeChange::Remove { .. } => Some(0),
            VolumeChange::Replace { .. } => None,
            _ => return true,
        };
        let Reservation {
            points,
            deltas,
            punches,
            ..
        } = self.reserved;
        let more = 2 + self.replaces.pairs.len() + self.replaces.goes.len();
        let room = self.overlay.reserve(points, deltas, punches + more);
        if room.is_err() {
            return false;
        }
        // A map that is replaced is punched when the other one is there.
        let Some(from) = from else {
            return self.punch_what_goes();
        };
        mutant!(64)
            || self
                .overlay
                .punch(change.slot, Lbn(from), blocks - from)
                .is_ok()
    }

    /// At the cut: the change is part of the checkpoint that begins.
    pub(super) fn apply_change(&mut self, generation: Generation) {
        let next = self.next_volume();
        let Some(change) = self.change_at_cut() else {
            return;
        };
        self.change = Some(Change {
            cut: true,
            ..change
        });
        let (slot, what) = (change.slot, change.what);
        match what {
            VolumeChange::Create { uuid, blocks } => {
                let entry = new_volume(next, uuid, blocks, generation);
                self.put_volume(slot, entry);
            }
            VolumeChange::Shadow { uuid, blocks } => {
                let entry = VolumeEntry {
                    shadow: true,
                    ..new_volume(next, uuid, blocks, generation)
                };
                mark!(member_shadow_comes);
                self.put_volume(slot, entry);
            }
            VolumeChange::Replace { .. } => self.cut_replaces(),
            VolumeChange::Resize { blocks, .. } => {
                if let Some(v) = self.volumes.get_mut(slot).filter(|v| blocks < v.blocks) {
                    v.keeps = Some(blocks);
                }
            }
            VolumeChange::Remove { .. } => {
                if let Some(volume) = self.volumes.get_mut(slot) {
                    volume.keeps = Some(0);
                }
            }
        }
        if mutant!(65) {
            self.end_change(true);
        }
    }

    fn put_volume(&mut self, slot: usize, entry: VolumeEntry) {
        match self.volumes.get_mut(slot) {
            Some(vacant) => *vacant = entry,
            // There is room: it was made sure of.
            None => drop(self.volumes.push_within_capacity(entry)),
        }
    }

    /// The id of the next volume.
    pub(super) fn next_volume(&self) -> u32 {
        let known = self.volumes.iter().map(|v| v.id + 1).max().unwrap_or(0);
        known.max(self.superblock.checkpoint.next_volume)
    }

    /// The change is durable, or never will be.
    pub(super) fn end_change(&mut self, ok: bool) {
        if let Some(change) = self.change.filter(|change| change.cut || !ok) {
            self.change = None;
            self.end_replaces(change.cut);
            mark!(volume_changed);
            self.member_change_ended(change.slot as u32, ok);
            self.act(Action::VolumeChanged {
                slot: change.slot as u32,
                ok,
            });
        }
    }

    /// A step of the checkpoint, after the maps were merged: volumes that grow get their size, and
    /// those of which all was released that had to go. False: wait, or the store failed.
    pub(super) fn reshape_volumes(&mut self) -> bool {
        for slot in 0..self.volumes.len() {
            let Some(volume) = self.volumes.get(slot).copied() else {
                continue;
            };
            let grown = match self.change {
                Some(Change {
                    what: VolumeChange::Resize { blocks, .. },
                    slot: changed,
                    cut: true,
                    ..
                }) if changed == slot && blocks > volume.blocks => Some(blocks),
                _ => None,
            };
            let done = match (grown, volume.keeps) {
                (Some(blocks), _) => self.grow_map(slot, blocks),
                (None, Some(keeps)) if self.is_released(slot, keeps) => {
                    self.end_shrink(slot, keeps)
                }
                _ => true,
            };
            if !done {
                return false;
            }
        }
        true
    }

    /// Whether this checkpoint shows a volume without anything from block `keeps` on.
    fn is_released(&self, slot: usize, keeps: u64) -> bool {
        mutant!(66)
            || !self
                .checkpointer
                .has_punch(key(slot, Lbn(keeps)), key(slot + 1, Lbn(0)))
    }

    fn volume_map(&self, slot: usize, levels: u8) -> Option<Tree> {
        Some(Tree {
            levels,
            ..self.map(slot)?
        })
    }

    /// Puts pages above the root until `blocks` blocks fit, one in each call that finds memory.
    fn grow_map(&mut self, slot: usize, blocks: u64) -> bool {
        while let Some(volume) = self.volumes.get(slot).copied() {
            if volume.root.is_null() || volume.levels >= levels_for(blocks, MAP_LEAF) {
                break;
            }
            let Some(tree) = self.volume_map(slot, volume.levels + 1) else {
                return false;
            };
            let Some(buf) = self.take_buf() else {
                return false;
            };
            let id = tree.page_at(0, volume.levels);
            let Some(page) = self.cache.take_slot(id, SlotState::Clean, Pointer::NULL) else {
                self.keep_buf(buf);
                return false;
            };
            self.cache.page_mut(page).fill(0);
            volume.root.set_child(self.cache.page_mut(page), 0);
            mark!(map_gets_a_level);
            if self
                .write_slot(&tree, page, volume.root.highest, buf)
                .is_none()
            {
                return false;
            }
            if let Some(v) = self.volumes.get_mut(slot) {
                v.levels += 1;
            }
        }
        if let Some(v) = self.volumes.get_mut(slot) {
            v.blocks = blocks;
            v.levels = levels_for(blocks, MAP_LEAF);
        }
        true
    }

    /// Takes the pages away that are above the root of a map of `keeps` blocks; a volume of which
    /// nothing stays goes.
    fn end_shrink(&mut self, slot: usize, keeps: u64) -> bool {
        let levels = levels_for(keeps.max(1), MAP_LEAF);
        while let Some(volume) = self.volumes.get(slot).copied() {
            if volume.root.is_null() || keeps > 0 && volume.levels <= levels {
                break;
            }
            if keeps == 0 {
                self.fail(FailReason::Inconsistent(
                    "a volume of which all was released still has a map",
                ));
                return false;
            }
            let Some(tree) = self.map(slot) else {
                return false;
            };
            let child = match self.page(&tree, 0, volume.levels - 1) {
                Page::Here(page) => {
                    let stays = self
                        .cache
                        .slot(page)
                        .is_none_or(|s| s.state != SlotState::Clean);
                    if stays {
                        // It is being written; this step comes again when it was.
                        return false;
                    }
                    let child = Pointer::of_child(self.cache.page(page), 0);
                    self.cache.release(page);
                    child
                }
                Page::Absent(_) => Pointer::NULL,
                Page::Wait(page) => {
                    self.background_page = Some(page);
                    return false;
                }
                Page::Busy => return false,
            };
            let owned = volume.root.birth > volume.parent_generation;
            if owned && !self.space.give_page(volume.root.place) {
                self.fail(FailReason::Inconsistent("a page whose place is not in use"));
                return false;
            }
            mark!(map_loses_a_level);
            if let Some(v) = self.volumes.get_mut(slot) {
                v.root = child;
                v.levels -= 1;
            }
        }
        if let Some(v) = self.volumes.get_mut(slot) {
            *v = match keeps {
                0 => VolumeEntry::VACANT,
                _ => VolumeEntry {
                    blocks: keeps,
                    levels,
                    keeps: None,
                    ..*v
                },
            };
        }
        mark!(shrink_ends);
        true
    }

    /// Blocks that the reaper has still to look at before a shrink of the volume, or its removal, ends.
    pub(super) fn releasing(&self, slot: usize) -> u64 {
        let Some(keeps) = self.volumes.get(slot).and_then(|v| v.keeps) else {
            return 0;
        };
        let (from, to) = (key(slot, Lbn(keeps)), key(slot + 1, Lbn(0)));
        let mut left = 0;
        self.overlay.for_each_punch(|start, end| {
            left += end.min(to).saturating_sub(start.max(from));
        });
        left
    }
}

/// A volume without content.
fn new_volume(id: u32, uuid: [u8; 16], blocks: u64, generation: Generation) -> VolumeEntry {
    VolumeEntry {
        id,
        uuid,
        blocks,
        generation,
        parent_generation: Generation(0),
        origin: 0,
        levels: levels_for(blocks, MAP_LEAF),
        root: Pointer::NULL,
        keeps: None,
        shadow: false,
        map: id,
    }
}

fn check_size(blocks: u64) -> Result {
    match (1..=LBN_LIMIT).contains(&blocks) {
        true => Ok(()),
        false => Err(EINVAL),
    }
}

impl VolumeEntry {
    /// A slot without a volume.
    pub(super) const VACANT: VolumeEntry = VolumeEntry {
        id: 0,
        uuid: [0; 16],
        blocks: 0,
        generation: Generation(0),
        parent_generation: Generation(0),
        origin: 0,
        levels: 1,
        root: Pointer::NULL,
        keeps: None,
        shadow: false,
        map: 0,
    };

    /// Whether the slot has a volume.
    pub(super) fn is_there(&self) -> bool {
        self.id != 0
    }

    /// Whether it is a volume or shadow that is not being removed.
    pub(super) fn is_present(&self) -> bool {
        self.is_there() && self.keeps != Some(0)
    }

    /// Whether it is a volume that is not being removed, and no shadow.
    pub(super) fn is_shown(&self) -> bool {
        self.is_present() && !self.shadow
    }
}
