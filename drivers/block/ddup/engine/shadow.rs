// SPDX-License-Identifier: GPL-2.0

//! Shadows: a volume's new state is built beside the old one, and takes its place at once.
//!
//! A *shadow* is a volume that nobody is shown. It is written like others, by its slot. When it is
//! complete it *replaces* the volume with its UUID, or becomes a volume if there is none, and at the
//! same cut other volumes may go. One checkpoint writes both entries with their
//! maps exchanged, and the one that now has the old map as one that is being removed, with a punch
//! over all of it. So the checkpoint decides: before it is durable both are as they were, after it
//! the reaper releases the old map as that of any removed volume.
//!
//! Map and punches go from one entry to the other; id, UUID and slot stay. The pages of a map say
//! which tree they are of, and stay what they are, so an entry also says which tree its map is.
//!
//! In memory nothing is exchanged before the checkpoint is durable. The overlay names blocks by
//! slot, and until then the points of both slots belong to the maps that these have: those of the
//! frozen set are merged there, and there are none in the active set, since from the beginning of
//! the change neither takes a change of a block (an entry of the journal would otherwise name a
//! volume whose map depends on whether the checkpoint came to be), and the reaper rests from the cut
//! on. When the checkpoint is durable the frozen set is gone, so only punches have to change sides.

use super::format::page::VolumeEntry;
use super::mark::mark;
use super::mutant::mutant;
use super::op::OpKind;
use super::overlay::key;
use super::recover::FailReason;
use super::replication::types::Volume;
use super::state::{Store, VolumeInfo};
use super::types::Lbn;
use super::VolumeChange;
use kernel::prelude::*;

/// What changes at one cut, by slots.
#[derive(Default)]
pub struct Replaces {
    /// Volumes and the shadows that replace them.
    pub(super) pairs: KVec<(usize, usize)>,
    /// Shadows that replace none and become volumes themselves.
    pub(super) comes: KVec<usize>,
    /// Volumes that go.
    pub(super) goes: KVec<usize>,
}

impl Store {
    /// Begins to replace volumes by their shadows: pairs of slots. Answers the first volume's slot.
    pub(super) fn replace_volumes(&mut self, pairs: &[(u32, u32)]) -> Result<u32> {
        self.may_change()?;
        for (at, &(slot, shadow)) in pairs.iter().enumerate() {
            self.may_replace(slot, shadow)?;
            let others = pairs.iter().skip(at + 1);
            for &other in others {
                if other.0 == slot || other.1 == shadow {
                    return Err(EINVAL);
                }
            }
        }
        let mut replaces = Replaces::default();
        replaces.pairs.reserve(pairs.len(), GFP_KERNEL)?;
        for &(slot, shadow) in pairs {
            let pair = (slot as usize, shadow as usize);
            replaces.pairs.push_within_capacity(pair)?;
        }
        self.begin_replaces(replaces)
    }

    /// Begins to make all volumes those of `shadows`, whose slots are in `slots`: volumes with the same
    /// UUID are replaced, others go, and shadows that replace none become volumes.
    pub(super) fn switch_volumes(&mut self, shadows: &[Volume], slots: &[u32]) -> Result {
        self.may_change()?;
        let mut replaces = Replaces::default();
        let count = self.volumes.len();
        replaces.pairs.reserve(slots.len(), GFP_KERNEL)?;
        replaces.comes.reserve(slots.len(), GFP_KERNEL)?;
        replaces.goes.reserve(count, GFP_KERNEL)?;
        for (volume, &shadow) in shadows.iter().zip(slots) {
            let is_it = |slot: &usize| self.shown(*slot).is_some_and(|v| v.uuid == volume.uuid);
            match (0..count).find(is_it) {
                Some(slot) => {
                    self.may_replace(slot as u32, shadow)?;
                    let pair = (slot, shadow as usize);
                    replaces.pairs.push_within_capacity(pair)?;
                }
                None if self.is_used(shadow, 0) => return Err(EBUSY),
                None if mutant!(71) => {}
                None => {
                    mark!(member_volume_comes);
                    replaces.comes.push_within_capacity(shadow as usize)?;
                }
            }
        }
        for slot in (0..count).filter(|slot| self.shown(*slot).is_some()) {
            if replaces.pairs.iter().any(|pair| pair.0 == slot) || mutant!(70) {
                continue;
            }
            if self.is_used(slot as u32, 0) {
                return Err(EBUSY);
            }
            mark!(member_volume_goes);
            replaces.goes.push_within_capacity(slot)?;
        }
        self.begin_replaces(replaces).map(|_| ())
    }

    fn begin_replaces(&mut self, replaces: Replaces) -> Result<u32> {
        let pair = replaces.pairs.first().copied();
        let first = pair.or_else(|| replaces.comes.first().map(|shadow| (*shadow, *shadow)));
        let (slot, shadow) = first.ok_or(EINVAL)?;
        let what = VolumeChange::Replace {
            slot: slot as u32,
            shadow: shadow as u32,
        };
        let begun = self.begin_change(what, slot)?;
        self.replaces = replaces;
        Ok(begun)
    }

    fn may_replace(&self, slot: u32, shadow: u32) -> Result {
        let volume = self.shown(slot as usize).ok_or(ENOENT)?;
        let other = self.present(shadow).ok_or(ENOENT)?;
        if !other.shadow || other.uuid != volume.uuid {
            return Err(EINVAL);
        }
        let stays = other.blocks;
        let is_in_the_way = |r: &super::Request| {
            r.count > 0 && (r.kind != OpKind::Read || r.lbn.0 + r.count > stays)
        };
        let busy = volume.keeps.is_some()
            || other.keeps.is_some()
            || self.is_used(shadow, 0)
            || self.is_used_by(slot, is_in_the_way);
        match busy {
            true => Err(EBUSY),
            false => Ok(()),
        }
    }

    /// The slot that the map of a slot is to go to, or has just been cut to go to.
    fn other_of(&self, slot: usize) -> Option<usize> {
        self.replaces.pairs.iter().find_map(|&(volume, shadow)| {
            if volume == slot {
                Some(shadow)
            } else {
                (shadow == slot).then_some(volume)
            }
        })
    }

    /// Whether a slot comes or goes alone.
    fn is_alone(&self, slot: usize) -> bool {
        self.replaces.comes.contains(&slot) || self.replaces.goes.contains(&slot)
    }

    /// Whether a slot is part of a replacement, so that its blocks don't change.
    pub(super) fn is_being_replaced(&self, slot: usize) -> bool {
        self.other_of(slot).is_some() || self.is_alone(slot)
    }

    /// Of the `size` blocks of a slot those that requests may touch.
    pub(super) fn blocks_replaced(&self, slot: usize, size: u64) -> u64 {
        let mut pairs = self.replaces.pairs.iter();
        let pair = pairs.find(|p| p.0 == slot || p.1 == slot);
        match pair {
            Some(&(volume, shadow)) if volume == slot => {
                size.min(self.volumes.get(shadow).map_or(0, |v| v.blocks))
            }
            Some(_) => 0,
            None if self.is_alone(slot) => 0,
            None => size,
        }
    }

    /// Whether the running checkpoint lets maps exchange their places.
    pub(super) fn maps_change_places(&self) -> bool {
        !self.replaces.pairs.is_empty() && self.change.is_some_and(|change| change.cut)
    }

    /// Before the cut: volumes that go are punched. There is room; false: there is none.
    pub(super) fn punch_what_goes(&mut self) -> bool {
        for &slot in self.replaces.goes.iter() {
            let blocks = self.volumes.get(slot).map_or(0, |v| v.blocks);
            if self.overlay.punch(slot, Lbn(0), blocks).is_err() {
                return false;
            }
        }
        true
    }

    /// At the cut: what this set holds of both maps is part of it.
    pub(super) fn cut_replaces(&mut self) {
        self.reserved.punches += self.replaces.pairs.len();
        for &slot in self.replaces.comes.iter() {
            if let Some(volume) = self.volumes.get_mut(slot) {
                volume.shadow = false;
            }
        }
        for &slot in self.replaces.goes.iter() {
            if let Some(volume) = self.volumes.get_mut(slot) {
                volume.keeps = Some(0);
            }
        }
        if mutant!(91) {
            for &(_, shadow) in self.replaces.pairs.iter() {
                let points = &mut self.overlay.frozen.points;
                points.remove_range(key(shadow, Lbn(0)), key(shadow + 1, Lbn(0)), |_, _| {});
            }
        }
    }

    /// The change is over, whether it was made or not.
    pub(super) fn end_replaces(&mut self, was_cut: bool) {
        if was_cut {
            self.reserved.punches -= self.replaces.pairs.len();
        }
        self.replaces = Replaces::default();
    }

    /// The entry of a slot as the running checkpoint writes it.
    pub(super) fn entry_to_be(&self, slot: usize) -> Option<VolumeEntry> {
        let entry = self.volumes.get(slot)?;
        let other = self.other_of(slot).filter(|_| self.maps_change_places());
        Some(match other.and_then(|other| self.volumes.get(other)) {
            Some(other) => with_map_of(entry, other),
            None => *entry,
        })
    }

    /// The id of the volume that has the map of a slot when the running checkpoint is durable.
    pub(super) fn owner_to_be(&self, slot: usize) -> u32 {
        let changes = self.maps_change_places() && !mutant!(93);
        let other = self.other_of(slot).filter(|_| changes);
        let owner = other.unwrap_or(slot);
        self.volumes.get(owner).map_or(0, |v| v.id)
    }

    /// The checkpoint is durable: maps that exchange their places do so.
    pub(super) fn exchange_maps(&mut self) {
        if !self.maps_change_places() {
            return;
        }
        for at in 0..self.replaces.pairs.len() {
            let Some(&(slot, shadow)) = self.replaces.pairs.get(at) else {
                continue;
            };
            let entries = (self.entry_to_be(slot), self.entry_to_be(shadow));
            let (Some(new), Some(old)) = entries else {
                continue;
            };
            for (slot, entry) in [(slot, new), (shadow, old)] {
                if let Some(volume) = self.volumes.get_mut(slot) {
                    *volume = entry;
                }
            }
            self.checkpointer.exchange_punches((slot, shadow));
            if self.overlay.exchange(slot, shadow, old.blocks).is_err() {
                // There was room for it.
                self.fail(FailReason::Promise);
            }
            mark!(member_map_replaced);
        }
    }

    /// The shadow in a slot.
    pub(super) fn shadow_info(&self, slot: u32) -> Option<VolumeInfo> {
        self.present(slot).filter(|v| v.shadow)?;
        self.info_of(slot)
    }
}

/// A volume or shadow with the map of another one. A shadow's goes then: it is the old one.
fn with_map_of(entry: &VolumeEntry, other: &VolumeEntry) -> VolumeEntry {
    VolumeEntry {
        id: entry.id,
        uuid: entry.uuid,
        generation: entry.generation,
        shadow: entry.shadow,
        keeps: entry.shadow.then_some(0),
        ..*other
    }
}
