// SPDX-License-Identifier: GPL-2.0

//! The supply of data clusters: preparing the next segment, and what is tried before a request is
//! told that there is no space.

use super::format::page::{CountEntry, COUNT_LEAF};
use super::mark::mark;
use super::mutant::mutant;
use super::op::Phase;
use super::space::{OpenStep, Space};
use super::state::Store;
use super::tree::Page;
use super::types::{Cluster, Millis};

/// Checkpoint, recycler, and both once more: a checkpoint may make junk of what the first round
/// released.
const ROUNDS: u32 = 4;
/// Those that wait for space however long it takes cause new rounds this often, in milliseconds.
const ROUNDS_INTERVAL: Millis = 1000;

impl Store {
    /// Prepares the next segment before the open one is used up.
    pub(super) fn space_step(&mut self) -> bool {
        if !self.is_writable() {
            return false;
        }
        while self.space.wants_next() {
            let OpenStep::Need(first) = self.space.open_next() else {
                break;
            };
            let page = match self.page(&self.counts.clone(), first.0, 0) {
                Page::Here(slot) => Some(slot),
                Page::Absent(_) => None,
                Page::Wait(slot) => {
                    self.background_page = Some(slot);
                    return false;
                }
                Page::Busy => return false,
            };
            let count = Space::clusters_of_leaf(first);
            let (overlay, cache, recycler) = (&self.overlay, &self.cache, &self.recycler);
            self.space
                .note_free((first.0..first.0 + count).map(|cluster| {
                    if recycler.is_pending(Cluster(cluster)) {
                        return mutant!(18);
                    }
                    match overlay.deltas(Cluster(cluster)) {
                        [Some(delta), _] | [None, Some(delta)] => {
                            delta.is_reusable() || mutant!(34)
                        }
                        [None, None] => page.is_none_or(|slot| {
                            let entry = CountEntry::read(cache.page(slot), cluster % COUNT_LEAF);
                            entry == CountEntry::Available
                        }),
                    }
                }));
        }
        if !self.space_wait.is_empty() && self.space.has_cluster() {
            self.space_rounds = 0;
            self.wake_starved();
            return true;
        }
        false
    }

    /// Somebody waits for a cluster and there is none: merge what was released, retire junk
    /// whatever its age, and only then give up.
    pub(super) fn space_round_step(&mut self) -> bool {
        if self.space_wait.is_empty() {
            self.space_rounds = 0;
            return false;
        }
        let waits = self.space.has_cluster()
            || self.checkpointer.is_running()
            || self.recycler.is_busy()
            || self.background_page.is_some();
        if waits || !self.is_writable() || self.now < self.space_retry {
            return false;
        }
        if self.space_rounds >= ROUNDS {
            self.space_rounds = 0;
            self.exhausted = true;
            mark!(no_space_after_all_rounds);
            match self.config.knobs.wait_for_space {
                true => self.rest_starved(),
                false => self.fail_starved(),
            }
            return true;
        }
        if self.space_rounds % 2 == 0 {
            if self.dirty_since.is_some() {
                self.checkpointer.want();
            }
        } else {
            self.recycler.press();
            mark!(recycler_pressed);
        }
        self.space_rounds += 1;
        true
    }

    /// All was tried for those that wait for a cluster. They give back what they were promised, so
    /// that what frees space is admitted, and wait for the next rounds.
    fn rest_starved(&mut self) {
        self.space_retry = self.now + ROUNDS_INTERVAL;
        let mut list = core::mem::take(&mut self.space_wait);
        while let Some(tag) = self.ops.unpark(&mut list) {
            self.release_starved(tag);
            self.ops.park(&mut self.space_wait, tag);
        }
        mark!(starved_rest);
    }

    /// Lets those that wait for a cluster go on: those that gave back their promise need a new one.
    pub(super) fn wake_starved(&mut self) {
        let mut list = core::mem::take(&mut self.space_wait);
        while let Some(tag) = self.ops.unpark(&mut list) {
            match self.ops.get(tag).map(|op| op.phase) {
                Some(Phase::Admission) => {
                    mark!(starved_goes_on);
                    self.ops.park(&mut self.admission, tag);
                }
                _ => self.wake(tag),
            }
        }
    }

    /// Lets those that wait for metadata clusters ask again.
    pub(super) fn wake_metadata_waiters(&mut self) {
        let list = core::mem::take(&mut self.metadata_wait);
        self.ops.append(&mut self.admission, list);
    }
}
