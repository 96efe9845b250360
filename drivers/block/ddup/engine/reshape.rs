// SPDX-License-Identifier: GPL-2.0

//! Changes of a member's volumes: each is an entry of the set's history, alone in its epoch.
//!
//! A change of volumes is part of one checkpoint and of no record (`volume.rs`), so its epoch has no
//! seal in the journal either: the checkpoint that holds the change holds the history that ends with
//! its epoch. A crash before that checkpoint is durable finds neither, one behind it both. Until it is
//! durable nothing of the set's history is appended, for that would come behind an epoch which the
//! journal does not know.
//!
//! A primary begins with a checkpoint, so that the next one, for which writes wait, is short. Then it
//! lets what was admitted end, seals the open epoch, and gives the set the entry. A replica *stages*
//! the entry, which says whether the change can be made, and applies it when its turn has come; the
//! set stages nothing that comes behind it before.

use super::mark::mark;
use super::member::{End, SEAL_ROOM};
use super::mutant::mutant;
use super::recover::FailReason;
use super::replication::action::StageResult;
use super::replication::history::History;
use super::replication::types::{Entry, Id, Op, Position, SET_VOLUMES_MAX};
use super::state::{Mode, Store};
use super::types::Millis;
use super::{Action, VolumeChange};
use kernel::prelude::*;

/// So long a change waits for the set, in milliseconds: its writes may wait for a member that is away.
const PATIENCE: Millis = 5000;

/// What a primary's change waits for before it becomes an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Await {
    /// A checkpoint later than this one.
    Checkpoint(u64),
    /// What was admitted, and the set, until then.
    Requests(Millis),
}

impl Store {
    // The primary's side.

    /// Begins a change of the volumes of a set, which ends as any change of a volume does. Errors are
    /// those of [`Store::change_volume`]; `EPERM`: this store does not lead; `EEXIST`: there is a
    /// volume with that UUID.
    pub(super) fn change_set_volume(&mut self, what: VolumeChange) -> Result<u32> {
        if self.is_refusing() {
            return Err(EPERM);
        }
        match what {
            VolumeChange::Create { uuid, .. } => self.may_come(&uuid)?,
            VolumeChange::Resize { slot, .. } | VolumeChange::Remove { slot } => {
                self.shown(slot as usize).ok_or(ENOENT)?;
            }
            // They are no changes that others would have to make.
            VolumeChange::Shadow { .. } | VolumeChange::Replace { .. } => return Err(EINVAL),
        }
        let slot = self.change_volume(what)?;
        let number = self.superblock.checkpoint.number;
        if let Some(change) = self.change.as_mut() {
            change.waits = Some(Await::Checkpoint(number));
        }
        Ok(slot)
    }

    /// Whether a set may have one more volume, with this UUID.
    fn may_come(&self, uuid: &Id) -> Result {
        let shown = || self.volumes.iter().filter(|v| v.is_shown());
        if shown().any(|v| v.uuid == *uuid) {
            return Err(EEXIST);
        }
        match shown().count() < SET_VOLUMES_MAX {
            true => Ok(()),
            false => Err(ENOSPC),
        }
    }

    /// Whether requests have to wait until those that were admitted have ended, since volumes are to
    /// change, or have begun to.
    pub(super) fn volumes_hold_requests(&self) -> bool {
        let waits = self.change.and_then(|change| change.waits);
        let drains = matches!(waits, Some(Await::Requests(_)));
        let changes = self.member.as_ref().is_some_and(|m| m.is_changing());
        if drains && !mutant!(72) {
            return true;
        }
        changes && !mutant!(99)
    }

    /// Whether a change waits to become an entry.
    pub(super) fn volumes_wait(&self) -> bool {
        self.change.is_some_and(|change| change.waits.is_some())
    }

    /// One step of a change that waits to become an entry.
    pub(super) fn reshape_step(&mut self) {
        let Some(waits) = self.change.and_then(|change| change.waits) else {
            return;
        };
        let late = matches!(waits, Await::Requests(until) if self.now >= until);
        if self.is_refusing() || self.mode != Mode::Attached || late {
            return self.drop_change();
        }
        if let Await::Checkpoint(number) = waits {
            let later = self.superblock.checkpoint.number > number;
            if self.checkpointer.is_running() && !later {
                return;
            }
            let until = self.now + PATIENCE;
            if let Some(change) = self.change.as_mut() {
                change.waits = Some(Await::Requests(until));
            }
        }
        let is_ready = self
            .member
            .as_ref()
            .is_some_and(|m| m.seals() >= SEAL_ROOM && !m.is_changing() && m.set().serves());
        if (self.reserved.entries > 0 && !mutant!(72)) || !is_ready || !self.seal_epoch() {
            return;
        }
        self.begin_entry();
    }

    /// The change becomes an entry of the set, and part of the next checkpoint.
    fn begin_entry(&mut self) {
        let entry = self.change.and_then(|change| self.entry_of(change.what));
        let (Some(entry), Some(member)) = (entry, self.member.as_mut()) else {
            return self.drop_change();
        };
        let Ok(mut history) = member.appended.try_clone() else {
            return;
        };
        // Without memory it is tried again.
        let Ok(position) = member.set_mut().change(entry) else {
            return;
        };
        if member.set_mut().next_seal() != Some(position) || !history.is_next(&position) {
            return self.fail(FailReason::Promise);
        }
        history.append(position);
        mark!(member_volumes_change);
        self.begin_change_of_set(history, false);
        if let Some(change) = self.change.as_mut() {
            change.waits = None;
        }
        self.checkpointer.want();
        // Ends of epochs are told in order, and the one before has its seal in the journal.
        self.journal.want(self.journal.last_sequence());
    }

    /// A change that waits will not be made: the reign ends, the store is detached, or it waited for too
    /// long.
    pub(super) fn drop_change(&mut self) {
        if let Some(change) = self.change.take_if(|change| change.waits.is_some()) {
            mark!(member_change_dropped);
            self.act(Action::VolumeChanged {
                slot: change.slot as u32,
                ok: false,
            });
        }
    }

    /// The entry that tells of a change.
    fn entry_of(&self, what: VolumeChange) -> Option<Entry> {
        let uuid = |slot: u32| self.shown(slot as usize).map(|v| v.uuid);
        let (op, volume, count) = match what {
            VolumeChange::Create { uuid, blocks } => (Op::Create, uuid, blocks),
            VolumeChange::Resize { slot, blocks } => (Op::Resize, uuid(slot)?, blocks),
            VolumeChange::Remove { slot } => (Op::Remove, uuid(slot)?, 0),
            VolumeChange::Shadow { .. } | VolumeChange::Replace { .. } => return None,
        };
        Some(Entry {
            op,
            volume,
            count,
            ..Entry::default()
        })
    }

    // The replica's side.

    /// The change that an entry tells of, if it can be made here.
    fn change_of(&self, entry: &Entry) -> Option<VolumeChange> {
        let slot = || {
            let mut volumes = self.volumes.iter();
            let slot = volumes.position(|v| v.is_shown() && v.uuid == entry.volume);
            slot.map(|slot| slot as u32)
        };
        let shown = || self.volumes.iter().filter(|v| v.is_shown()).count();
        let (uuid, blocks) = (entry.volume, entry.count);
        match entry.op {
            Op::Create if self.may_come(&uuid).is_ok() => {
                Some(VolumeChange::Create { uuid, blocks })
            }
            Op::Resize => slot().map(|slot| VolumeChange::Resize { slot, blocks }),
            Op::Remove if shown() > 1 => slot().map(|slot| VolumeChange::Remove { slot }),
            _ => None,
        }
    }

    /// Stages a change of volumes.
    pub(super) fn stage_change(&mut self, token: u64, entry: &Entry) {
        let possible = self.change_of(entry).is_some();
        let result = match possible {
            true => StageResult::Held,
            false => {
                mark!(member_stage_of_no_change);
                StageResult::Failed
            }
        };
        if let Some(member) = self.member.as_mut().filter(|_| possible) {
            member.staging.change = Some((token, *entry));
        }
        self.report_stage(token, result);
    }

    /// Applies an epoch that is a change of volumes. False: not now.
    pub(super) fn apply_change_of_set(&mut self, position: Position, entry: &Entry) -> bool {
        let Some(what) = self.change_of(entry) else {
            // It was possible when it was staged, and nothing came between.
            self.fail(FailReason::Promise);
            return true;
        };
        let Some(member) = self.member.as_ref() else {
            return true;
        };
        let Ok(mut history) = member.appended.try_clone() else {
            return false;
        };
        if !history.is_next(&position) {
            self.fail(FailReason::Promise);
            return true;
        }
        // Another change, or a shrink of the volume, may be under way here.
        if self.change_volume(what).is_err() {
            mark!(member_change_waits);
            return false;
        }
        history.append(position);
        mark!(member_volumes_applied);
        self.begin_change_of_set(history, true);
        if let Some(member) = self.member.as_mut() {
            member.staging.change = None;
        }
        true
    }

    // Both.

    /// The next checkpoint holds a change and the history that ends with it. The room of a seal goes
    /// to its end, which is none in the journal.
    fn begin_change_of_set(&mut self, history: History, applied: bool) {
        if let Some(member) = self.member.as_mut() {
            member.changing = Some(history);
            member.push_end(End::Change {
                applied,
                durable: false,
            });
        }
        self.give_seal_back();
    }
}
