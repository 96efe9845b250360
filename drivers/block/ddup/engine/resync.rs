// SPDX-License-Identifier: GPL-2.0

//! Full compares: the primary shows a frozen state of its store, the replica builds that state in
//! shadows, beside its own volumes, and switches to it at once.
//!
//! There is a shadow for each volume that the primary has. They are volumes that nobody sees
//! (`shadow.rs`); blocks go there as local writes while the compare lasts. One checkpoint replaces all
//! volumes by their shadows and holds the new history, so a power cut finds one state or the other. In
//! it volumes that were not here come, and those that the primary lacks go. Shadows that an earlier
//! compare left are removed before the next one begins: what was in them is junk then, and found again
//! by its digest.

use super::births::Births;
use super::mark::mark;
use super::member::End;
use super::mutant::mutant;
use super::recover::FailReason;
use super::replication::history::History;
use super::replication::types::{Id, Volume};
use super::state::{Mode, Store};
use super::VolumeChange;
use kernel::prelude::*;

/// The shadows of a compare.
#[derive(Debug)]
struct Plan {
    /// What the primary has.
    volumes: KVec<Volume>,
    /// Slots of their shadows, as far as these are made.
    slots: KVec<u32>,
}

/// How far the replica's side of a compare is.
#[derive(Debug)]
enum Shadows {
    /// There are none that count.
    None,
    /// They are being made.
    Making(Plan),
    /// Blocks can be written to them.
    Made(Plan),
    /// They are taking the place of the volumes.
    Switching,
}

/// The compares of a member.
pub(super) struct Resync {
    shadows: Shadows,
    /// The change under way makes a shadow that counts.
    making: bool,
}

impl Resync {
    pub(super) fn new() -> Self {
        Resync {
            shadows: Shadows::None,
            making: false,
        }
    }

    fn slots(&self) -> &[u32] {
        match &self.shadows {
            Shadows::Making(plan) | Shadows::Made(plan) => &plan.slots,
            Shadows::None | Shadows::Switching => &[],
        }
    }
}

impl Store {
    fn resync(&mut self) -> Option<&mut Resync> {
        self.member.as_mut().map(|m| &mut m.resync)
    }

    /// A compare begins: shadows are to be made for these volumes. Gives them back while the last one
    /// still ends.
    pub(super) fn begin_compare(&mut self, volumes: KVec<Volume>) -> Result<(), KVec<Volume>> {
        if let Some(resync) = self.resync() {
            if let Shadows::Switching = resync.shadows {
                return Err(volumes);
            }
            resync.making = false;
            resync.shadows = Shadows::Making(Plan {
                volumes,
                slots: KVec::new(),
            });
        }
        Ok(())
    }

    /// One step: removes shadows that do not count, makes those that are wanted.
    pub(super) fn resync_step(&mut self) {
        if self.mode != Mode::Attached || self.change.is_some() {
            return;
        }
        let Some(member) = self.member.as_ref() else {
            return;
        };
        if matches!(member.resync.shadows, Shadows::Switching) {
            return;
        }
        let counts = |slot: &u32| member.resync.slots().contains(slot);
        let old = (0..self.volumes.len() as u32).find(|slot| {
            let shadow = self.present(*slot).is_some_and(|v| v.shadow);
            shadow && !counts(slot)
        });
        if let Some(slot) = old {
            // Busy as long as something is written to it.
            if self.change_volume(VolumeChange::Remove { slot }).is_ok() {
                mark!(member_removes_shadow);
            }
            return;
        }
        let Some(resync) = self.resync() else {
            return;
        };
        let Shadows::Making(plan) = &mut resync.shadows else {
            return;
        };
        let Some(&Volume { uuid, blocks }) = plan.volumes.get(plan.slots.len()) else {
            if let Shadows::Making(plan) = core::mem::replace(&mut resync.shadows, Shadows::None) {
                mark!(member_shadows_made);
                resync.shadows = Shadows::Made(plan);
            }
            return;
        };
        if plan.slots.reserve(1, GFP_KERNEL).is_err() {
            return;
        }
        let what = VolumeChange::Shadow { uuid, blocks };
        if self.change_volume(what).is_ok() {
            if let Some(resync) = self.resync() {
                resync.making = true;
            }
        }
    }

    /// A change of volumes has ended, which may be one of the set or of a compare.
    pub(super) fn member_change_ended(&mut self, slot: u32, ok: bool) {
        let Some(member) = self.member.as_mut() else {
            return;
        };
        if let Some(history) = member.changing.take() {
            let switches = matches!(member.resync.shadows, Shadows::Switching);
            if switches {
                member.resync.shadows = Shadows::None;
            }
            if ok {
                member.appended = history;
            }
            if ok && switches {
                mark!(member_switched);
                // They are of a history that this store does not have any more.
                self.release_pins(u64::MAX);
            }
            return self.change_of_set_ended(ok);
        }
        let resync = &mut member.resync;
        if let (true, Shadows::Making(plan)) =
            (core::mem::take(&mut resync.making), &mut resync.shadows)
        {
            if ok {
                // There is room: it was made before.
                let _ = plan.slots.push_within_capacity(slot);
            }
        }
    }

    /// The shadow that the blocks of a volume go to. `Err(true)`: it is not made yet; `Err(false)`:
    /// the primary did not say that it has such a volume.
    pub(super) fn shadow_of(&self, volume: &Id) -> Result<usize, bool> {
        match self.member.as_ref().map(|m| &m.resync.shadows) {
            Some(Shadows::Making(_)) => Err(true),
            Some(Shadows::Made(plan)) => {
                let at = plan.volumes.iter().position(|v| v.uuid == *volume);
                let slot = at.and_then(|at| plan.slots.get(at));
                slot.map(|slot| *slot as usize).ok_or(false)
            }
            _ => Err(false),
        }
    }

    /// The compare is given up: its shadows do not count any more.
    pub(super) fn void_resync(&mut self) {
        if let Some(resync) = self.resync() {
            if let Shadows::Making(_) | Shadows::Made(_) = resync.shadows {
                mark!(member_compare_given_up);
                resync.shadows = Shadows::None;
                resync.making = false;
            }
        }
    }

    /// All blocks are in the shadows: they take the place of the volumes, with this history. Gives it
    /// back if that can't begin now.
    pub(super) fn begin_switch(&mut self, history: History) -> Result<(), History> {
        if self.failed.is_some() {
            return Ok(());
        }
        let busy = self.change.is_some() || self.member.as_ref().is_none_or(|m| m.has_ends());
        let Some(resync) = self.resync() else {
            return Ok(());
        };
        match &resync.shadows {
            Shadows::Made(_) if !busy => {}
            Shadows::Made(_) | Shadows::Making(_) => return Err(history),
            Shadows::None | Shadows::Switching => {
                // No compare has begun.
                self.fail(FailReason::Promise);
                return Ok(());
            }
        }
        let shadows = core::mem::replace(&mut resync.shadows, Shadows::Switching);
        if let Shadows::Made(plan) = &shadows {
            if self.switch_volumes(&plan.volumes, &plan.slots).is_err() {
                if let Some(resync) = self.resync() {
                    resync.shadows = shadows;
                }
                return Err(history);
            }
        }
        if let Some(member) = self.member.as_mut() {
            member.changing = Some(history);
            member.push_end(End::Change {
                applied: true,
                durable: false,
            });
        }
        Ok(())
    }

    /// The history that the checkpoint which is being cut holds.
    pub(super) fn history_at_cut(&self) -> Option<&History> {
        let member = self.member.as_ref()?;
        match &member.changing {
            Some(history) if self.change_waits() && !mutant!(83) => Some(history),
            _ => Some(&member.appended),
        }
    }

    /// The ends of generations that go with it. What a compare has made was born in it, whenever it
    /// came into the history.
    pub(super) fn births_at_cut(&self) -> Births {
        let switches = self
            .member
            .as_ref()
            .is_some_and(|m| matches!(m.resync.shadows, Shadows::Switching));
        match switches && self.change_waits() && !mutant!(262) {
            true => Births::default(),
            false => self.superblock.births,
        }
    }
}
