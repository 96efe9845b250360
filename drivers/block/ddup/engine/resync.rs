// SPDX-License-Identifier: GPL-2.0

//! Full compares: the primary shows a frozen state of its store, the replica builds that state in
//! shadows of its volumes, beside the old one, and switches to it at once.
//!
//! The shadows are volumes that nobody sees (`shadow.rs`); blocks go there as local writes while the
//! compare lasts. One checkpoint replaces all volumes by their shadows and holds the new history, so
//! a power cut finds one state or the other. Shadows that an earlier compare left are removed before
//! the next one begins: what was in them is junk then, and found again by its digest.

use super::mark::mark;
use super::replication::history::History;
use super::state::{Mode, Store};
use super::VolumeChange;
use kernel::prelude::*;

/// How far the replica's side of a compare is.
#[derive(Debug)]
enum Shadows {
    /// There are none that count.
    None,
    /// They are being made: these are there already, as slots of volume and shadow.
    Making(KVec<(u32, u32)>),
    /// Blocks can be written to them.
    Made(KVec<(u32, u32)>),
    /// They are taking the place of the volumes, and this becomes the history.
    Switching(History),
}

/// The compares of a member.
pub(super) struct Resync {
    shadows: Shadows,
    /// The slot of a shadow that the change under way makes.
    making: Option<u32>,
}

impl Resync {
    pub(super) fn new() -> Self {
        Resync {
            shadows: Shadows::None,
            making: None,
        }
    }

    fn pairs(&self) -> &[(u32, u32)] {
        match &self.shadows {
            Shadows::Making(pairs) | Shadows::Made(pairs) => pairs,
            Shadows::None | Shadows::Switching(_) => &[],
        }
    }
}

impl Store {
    fn resync(&mut self) -> Option<&mut Resync> {
        self.member.as_mut().map(|m| &mut m.resync)
    }

    /// One step: removes shadows that do not count, makes those that are wanted.
    pub(super) fn resync_step(&mut self) {
        if self.mode != Mode::Attached || self.change.is_some() {
            return;
        }
        let Some(member) = self.member.as_ref() else {
            return;
        };
        if matches!(member.resync.shadows, Shadows::Switching(_)) {
            return;
        }
        let (pairs, slots) = (member.resync.pairs(), self.volumes.len() as u32);
        let counts = |slot: u32| pairs.iter().any(|p| p.1 == slot);
        let old = (0..slots).find(|slot| {
            let shadow = self.present(*slot).is_some_and(|v| v.shadow);
            shadow && !counts(*slot)
        });
        if let Some(slot) = old {
            // Busy as long as something is written to it.
            if self.change_volume(VolumeChange::Remove { slot }).is_ok() {
                mark!(member_removes_shadow);
            }
            return;
        }
        if !matches!(member.resync.shadows, Shadows::Making(_)) {
            return;
        }
        let has = |slot: u32| pairs.iter().any(|p| p.0 == slot);
        let next = (0..slots).find(|slot| self.shown(*slot as usize).is_some() && !has(*slot));
        let Some(of) = next else {
            if let Some(resync) = self.resync() {
                if let Shadows::Making(pairs) =
                    core::mem::replace(&mut resync.shadows, Shadows::None)
                {
                    mark!(member_shadows_made);
                    resync.shadows = Shadows::Made(pairs);
                }
            }
            return;
        };
        let Some(resync) = self.resync() else {
            return;
        };
        if let Shadows::Making(pairs) = &mut resync.shadows {
            if pairs.reserve(1, GFP_KERNEL).is_err() {
                return;
            }
        }
        if self.change_volume(VolumeChange::Shadow { of }).is_ok() {
            if let Some(resync) = self.resync() {
                resync.making = Some(of);
            }
        }
    }

    /// A change of volumes has ended, which may be one of a compare.
    pub(super) fn resync_change_ended(&mut self, slot: u32, ok: bool) {
        let Some(resync) = self.resync() else {
            return;
        };
        if let (Some(of), Shadows::Making(pairs)) = (resync.making.take(), &mut resync.shadows) {
            if ok {
                // There is room: it was made before.
                let _ = pairs.push_within_capacity((of, slot));
            }
            return;
        }
        match core::mem::replace(&mut resync.shadows, Shadows::None) {
            Shadows::Switching(history) => {
                if ok {
                    mark!(member_switched);
                    if let Some(member) = self.member.as_mut() {
                        member.appended = history;
                    }
                    // They are of a history that this store does not have any more.
                    self.release_pins(u64::MAX);
                }
                self.switch_ended(ok);
            }
            other => resync.shadows = other,
        }
    }

    /// The shadow that the blocks of a volume go to; `None` if it is not made yet.
    pub(super) fn shadow_of(&mut self, slot: usize) -> Option<usize> {
        let resync = self.resync()?;
        if let Shadows::None = resync.shadows {
            resync.shadows = Shadows::Making(KVec::new());
        }
        let Shadows::Made(pairs) = &resync.shadows else {
            return None;
        };
        let pair = pairs.iter().find(|p| p.0 == slot as u32)?;
        Some(pair.1 as usize)
    }

    /// The compare is given up: its shadows do not count any more.
    pub(super) fn void_resync(&mut self) {
        if let Some(resync) = self.resync() {
            if let Shadows::Making(_) | Shadows::Made(_) = resync.shadows {
                mark!(member_compare_given_up);
                resync.shadows = Shadows::None;
                resync.making = None;
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
        // Of an empty state nothing was staged.
        if let Shadows::None = resync.shadows {
            resync.shadows = Shadows::Making(KVec::new());
        }
        let Shadows::Made(pairs) = &mut resync.shadows else {
            return Err(history);
        };
        if busy {
            return Err(history);
        }
        let pairs = core::mem::take(pairs);
        if self.replace_volumes(&pairs).is_err() {
            if let Some(resync) = self.resync() {
                resync.shadows = Shadows::Made(pairs);
            }
            return Err(history);
        }
        if let Some(member) = self.member.as_mut() {
            member.resync.shadows = Shadows::Switching(history);
            member.push_end(super::member::End::Switch);
        }
        Ok(())
    }

    /// The history that the checkpoint which is being cut holds.
    pub(super) fn history_at_cut(&self) -> Option<&History> {
        let member = self.member.as_ref()?;
        match &member.resync.shadows {
            Shadows::Switching(history) if self.replaces_at_cut() => Some(history),
            _ => Some(&member.appended),
        }
    }
}
